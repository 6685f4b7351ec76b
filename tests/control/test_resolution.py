"""What a channel makes of what its resolver says, however it says it; on virtual time."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from typing import Any

import pytest
from grpc import StatusCode

from grpclb.core.address import Address, Endpoint
from grpclb.core.connectivity import READY
from grpclb.core.resolver import ResolverState, Update
from grpclb.core.status import Status
from tests.control.harness import Channel, Script, ScriptedPolicy, address, turn, virtual

A, B, C = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"
SCRIPTED: dict[str, Any] = {"loadBalancingConfig": [{"scripted": {}}]}


def lists(policy: ScriptedPolicy) -> list[Any]:
    """What the policy was told, in order: addresses, or why there are none."""
    return [
        state.endpoints.details
        if isinstance(state.endpoints, Status)
        else [str(e) for e in state.endpoints]
        for state in policy.updates
    ]


def messages(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= level]


async def scripted_channel(resolver: Any = None, **options: int) -> Channel:
    knobs = [(f"grpclb.{name}", value) for name, value in options.items()]
    return await Channel(resolver, knobs, SCRIPTED).started()


# -- coalescing --------------------------------------------------------------------------------


@virtual
async def test_the_first_update_is_taken_at_once(scripted: ScriptedPolicy) -> None:
    channel = await scripted_channel()
    assert channel.update(A)
    assert lists(scripted) == [[A]]


@virtual
async def test_later_updates_are_joined_and_the_last_one_counts(scripted: ScriptedPolicy) -> None:
    channel = await scripted_channel()
    for addresses in ([A], [A, B], [B], [C]):
        assert channel.update(*addresses)
    await asyncio.sleep(0.099)
    assert lists(scripted) == [[A]]
    await asyncio.sleep(0.002)
    assert lists(scripted) == [[A], [C]]


@virtual
async def test_after_a_pause_an_update_is_taken_at_once_again(scripted: ScriptedPolicy) -> None:
    channel = await scripted_channel()
    channel.update(A)
    await asyncio.sleep(0.1)
    channel.update(B)
    assert lists(scripted) == [[A], [B]]


@virtual
async def test_a_storm_costs_sixty_updates_and_ends_exactly(scripted: ScriptedPolicy) -> None:
    """FIGURES F26: 5,000 puts on 500 keys in 5 s."""
    channel = await scripted_channel()
    for number in range(5_000):
        channel.update(address(number % 500))
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.2)
    assert len(scripted.updates) <= 60
    assert lists(scripted)[-1] == [address(4_999 % 500)]
    assert channel.core.resolution.snapshot(0)["updates"] == len(scripted.updates)


@virtual
async def test_the_pause_is_an_option(scripted: ScriptedPolicy) -> None:
    channel = await scripted_channel(update_coalescing_ms=0)
    for addresses in ([A], [B], [C]):
        channel.update(*addresses)
    assert lists(scripted) == [[A], [B], [C]]


@pytest.mark.expect_log("no endpoints|down")
@virtual
async def test_a_joined_update_that_is_rejected_asks_the_resolver_again(
    scripted: ScriptedPolicy,
) -> None:
    channel = await scripted_channel()
    channel.update(A)
    assert channel.update()  # an empty list: no answer yet, so "accepted"
    await asyncio.sleep(0.2)
    assert channel.resolver.hints == 1
    channel.update(A)
    channel.fail("down")  # the resolver knows that itself
    await asyncio.sleep(0.2)
    assert channel.resolver.hints == 1


# -- errors and empty lists ----------------------------------------------------------------------


@pytest.mark.expect_log("SERVFAIL")
@virtual
async def test_an_error_keeps_the_good_list() -> None:
    channel = await Channel().started()
    await channel.up(A, B)
    assert not channel.fail("dns: SERVFAIL from 10.0.0.53")
    await asyncio.sleep(1000)
    assert channel.picks() == {A, B}
    seen = channel.core.snapshot()["resolver"]
    assert seen["last_error"] == "UNAVAILABLE: dns: SERVFAIL from 10.0.0.53"
    assert [e["addresses"] for e in seen["endpoints"]] == [[A], [B]]


@pytest.mark.expect_log("SERVFAIL|NXDOMAIN")
@virtual
async def test_an_error_before_any_list_fails_rpcs_with_its_reason() -> None:
    channel = await Channel().started()
    assert not channel.fail("dns: SERVFAIL from 10.0.0.53")
    assert channel.state == "TRANSIENT_FAILURE"
    assert channel.failure() == "UNAVAILABLE: dns: SERVFAIL from 10.0.0.53"
    await asyncio.sleep(1)
    channel.fail("dns: NXDOMAIN")
    assert channel.failure() == "UNAVAILABLE: dns: NXDOMAIN"


@pytest.mark.expect_log("no such thing")
@virtual
async def test_an_error_with_a_code_of_the_application_s_becomes_internal() -> None:
    """gRFC A54."""
    channel = await Channel().started()
    channel.resolver.update(ResolverState(Status(StatusCode.NOT_FOUND, "no such thing")))
    assert channel.failure() == (
        "INTERNAL: Illegal status code from control plane: NOT_FOUND: no such thing"
    )


@virtual
async def test_an_empty_list_is_believed() -> None:
    channel = await Channel().started()
    assert not channel.update(note="kubernetes: 0 of 0 endpoints")
    assert channel.state == "TRANSIENT_FAILURE"
    assert channel.failure() == (
        "UNAVAILABLE: round_robin: the resolver found no endpoints; "
        "kubernetes: 0 of 0 endpoints 0.0 s ago"
    )


@pytest.mark.expect_log("no endpoints")
@virtual
async def test_an_empty_list_replaces_a_good_one(caplog: pytest.LogCaptureFixture) -> None:
    channel = await Channel().started()
    await channel.up(A)
    assert not channel.update()
    assert channel.state == "TRANSIENT_FAILURE"
    assert messages(caplog) == ["test:///api: the resolver says that there are no endpoints"]
    await asyncio.sleep(60)
    assert channel.transport(A).closes == 1


@pytest.mark.expect_log("SERVFAIL|NXDOMAIN")
@virtual
async def test_a_change_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "grpclb.resolver")
    channel = await Channel().started()
    await channel.up(A)
    for details in ("SERVFAIL", "SERVFAIL", "NXDOMAIN", "NXDOMAIN"):
        channel.fail(details)
        await asyncio.sleep(1)
    channel.update(A, note="1 address")
    assert messages(caplog, logging.INFO) == [
        "test:///api: SERVFAIL; the last good list stays in use",
        "test:///api: NXDOMAIN; the last good list stays in use",
        "test:///api: resolved again: 1 address",
    ]


@pytest.mark.expect_log("down")
@virtual
async def test_a_flapping_resolver_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    channel = await Channel().started()
    for number in range(3_000):  # 5 minutes
        channel.fail(f"down {number % 2}")
        await asyncio.sleep(0.1)
        channel.update(A)
        await asyncio.sleep(0.1)
    assert len(messages(caplog)) <= 2 * 11


@pytest.mark.expect_log("dns: NXDOMAIN")
@virtual
async def test_a_name_that_is_gone_for_five_minutes_is_let_go() -> None:
    """FIGURES S3: its addresses may by now be somebody else's."""
    channel = await Channel().started()
    await channel.up(A)
    for _ in range(29):
        channel.fail("dns: NXDOMAIN", **{"dns.negative": True})
        await asyncio.sleep(10)
    assert channel.picks() == {A}
    await asyncio.sleep(10)
    channel.fail("dns: NXDOMAIN", **{"dns.negative": True})
    await asyncio.sleep(6)
    assert channel.transport(A).closes == 1
    assert channel.failure() == "UNAVAILABLE: dns: NXDOMAIN"
    assert channel.core.snapshot()["resolver"]["endpoints"] == []


@pytest.mark.expect_log("dns: ")
@virtual
async def test_only_an_unbroken_row_of_negative_answers_counts() -> None:
    channel = await Channel().started()
    await channel.up(A)
    for _ in range(3):
        channel.fail("dns: NXDOMAIN", **{"dns.negative": True})
        await asyncio.sleep(299)
        channel.fail("dns: SERVFAIL")
        await asyncio.sleep(1)
    channel.fail("dns: NXDOMAIN", **{"dns.negative": True})
    await asyncio.sleep(299)
    channel.update(A)
    await asyncio.sleep(1)
    channel.fail("dns: NXDOMAIN", **{"dns.negative": True})
    await asyncio.sleep(10)
    assert channel.picks() == {A}


# -- service configs -------------------------------------------------------------------------------


def timeout_of(channel: Channel) -> float | None:
    config = channel.slot.current.config.method_config("/test.Service/Method")
    return config.applied(None, None)[0]


def config(seconds: float) -> dict[str, Any]:
    return {"methodConfig": [{"name": [{}], "timeout": f"{seconds}s"}]}


@virtual
async def test_the_resolver_s_config_replaces_the_default() -> None:
    """gRFC A21."""
    channel = await Channel(service_config=config(1)).started()
    assert timeout_of(channel) == 1
    await channel.up(A)
    assert timeout_of(channel) == 1
    assert channel.core.snapshot()["resolver"]["service_config_source"] == "default"
    channel.update(A, service_config=config(2))
    assert timeout_of(channel) == 2
    seen = channel.core.snapshot()["resolver"]
    assert (seen["service_config"], seen["service_config_source"]) == (config(2), "resolver")
    await asyncio.sleep(1)
    channel.update(A)  # none any more: the default again
    assert timeout_of(channel) == 1


@pytest.mark.expect_log(r"service config is not used")
@virtual
async def test_a_bad_config_keeps_the_good_one_and_takes_the_endpoints(
    caplog: pytest.LogCaptureFixture,
) -> None:
    channel = await Channel(service_config=config(1)).started()
    await channel.up(A, service_config=config(2))
    bad = {"methodConfig": [{"name": [{}], "timeout": "soon"}]}
    assert channel.update(A, B, service_config=bad)
    assert timeout_of(channel) == 2
    await asyncio.sleep(0)
    channel.ready(B)
    await asyncio.sleep(0.2)
    assert channel.picks() == {A, B}
    (text,) = messages(caplog)
    assert text.startswith(
        "test:///api: the resolver's service config is not used: "
        "service config: $.methodConfig[0].timeout: "
    )


@pytest.mark.expect_log("service config is not used")
@virtual
async def test_a_bad_config_at_first_gives_way_to_the_default() -> None:
    channel = await Channel(service_config=config(1)).started()
    await channel.up(A, service_config="{")
    assert timeout_of(channel) == 1
    assert channel.picks() == {A}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("{", "test:///api: service config: $: not JSON"),
        (7, "test:///api: service config: $: expected a dict or JSON text, got 7"),
        (Status.unavailable("_grpc_config: SERVFAIL"), "test:///api: _grpc_config: SERVFAIL"),
        (
            {"loadBalancingConfig": [{"nope": {}}]},
            'test:///api: service config: $.loadBalancingConfig: no known policy in "nope"',
        ),
    ],
)
@pytest.mark.expect_log("service config is not used")
def test_a_bad_config_without_a_good_one_fails_rpcs(given: Any, reason: str) -> None:
    @virtual
    async def run() -> None:
        channel = await Channel().started()
        assert not channel.update(A, service_config=given)
        assert channel.failure().startswith(f"UNAVAILABLE: {reason}")

    run()


@virtual
async def test_an_equal_config_is_no_change() -> None:
    channel = await Channel().started()
    await channel.up(A, service_config=config(2))
    before = channel.slot.current.config
    channel.update(A, service_config='{"methodConfig":[{"timeout":"2.0s","name":[{}]}]}')
    assert channel.slot.current.config is before


@virtual
async def test_another_policy_takes_over_without_a_gap(scripted: ScriptedPolicy) -> None:
    channel = await Channel().started()
    await channel.up(A)
    channel.update(A, service_config=SCRIPTED)
    assert channel.picks() == {A}
    assert len(channel.transports) == 1  # the new policy holds the same connection
    assert channel.core.policy_name == "scripted"
    await turn()
    assert [s.connectivity.name for s in scripted.states] == ["READY"]
    scripted.publish(READY)
    await asyncio.sleep(60)
    assert channel.picks() == {A}
    assert channel.transports[0].closes == 0


@virtual
async def test_a_health_check_that_comes_or_goes_makes_new_connections() -> None:
    checked = {"healthCheckConfig": {"serviceName": "s"}}
    channel = await Channel().started()
    await channel.up(A)
    old = channel.transport(A)
    assert old.connection.args is None
    channel.update(A, service_config=checked)
    await turn()
    new = channel.transport(A)
    assert new is not old
    assert '"healthCheckConfig": {"serviceName": "s"}' in str(new.connection.args)
    assert channel.picks() == {A}
    assert new.connection.state.connectivity.name == "CONNECTING"  # so it is the old one still
    new.connection.report(READY)
    await asyncio.sleep(6)
    assert [t.closes for t in channel.transports] == [1, 0]
    assert channel.picks() == {A}
    channel.update(A)
    await turn()
    assert channel.transport(A).connection.args is None


# -- lists that are too long -----------------------------------------------------------------------


@virtual
async def test_of_a_long_list_a_stable_subset_is_used(scripted: ScriptedPolicy) -> None:
    channel = await scripted_channel(subset_size=10)
    everyone = [address(n) for n in range(100)]
    channel.update(*everyone)
    first = set(lists(scripted)[-1])
    assert len(first) == 10
    await asyncio.sleep(1)
    channel.update(*reversed(everyone))
    assert set(lists(scripted)[-1]) == first
    await asyncio.sleep(1)
    gone = min(first)
    channel.update(*(a for a in everyone if a != gone))
    second = set(lists(scripted)[-1])
    assert len(second) == 10
    assert first - second == {gone}


@virtual
async def test_a_list_up_to_twice_the_subset_is_used_whole(scripted: ScriptedPolicy) -> None:
    channel = await scripted_channel(subset_size=10)
    channel.update(*(address(n) for n in range(20)))
    assert len(lists(scripted)[-1]) == 20


@virtual
async def test_channels_choose_different_subsets(scripted: ScriptedPolicy) -> None:
    for _ in range(3):
        channel = await scripted_channel(subset_size=10)
        channel.update(*(address(n) for n in range(100)))
    chosen = [frozenset(each) for each in lists(scripted)]
    assert len(set(chosen)) == 3


# -- resolvers that misbehave (FIGURES F43) --------------------------------------------------------


@pytest.mark.expect_log("the resolver raised")
@virtual
async def test_a_resolver_that_raises_is_run_again_with_backoff(
    caplog: pytest.LogCaptureFixture,
) -> None:
    starts: list[float] = []

    async def run(update: Update) -> None:
        starts.append(asyncio.get_running_loop().time())
        raise OSError(f"no route, {len(starts)} times")

    channel = await Channel(Script(run)).started()
    assert channel.failure() == (
        "UNAVAILABLE: test:///api: the resolver raised OSError: no route, 1 times"
    )
    await asyncio.sleep(600)
    pauses = [b - a for a, b in itertools.pairwise(starts)]
    for number, pause in enumerate(pauses):
        assert pause == pytest.approx(min(1.6**number, 120), rel=0.2001)
    assert 12 <= len(starts) <= 16
    assert len(messages(caplog)) <= 10, "one line a minute"
    assert caplog.records[0].exc_info is not None


@pytest.mark.expect_log("the resolver raised")
@virtual
async def test_a_resolver_that_raises_after_a_list_changes_nothing() -> None:
    async def run(update: Update) -> None:
        update(ResolverState.of([A]))
        await asyncio.sleep(5)
        raise OSError("gone")

    channel = await Channel(Script(run)).started()
    channel.ready(A)
    await asyncio.sleep(5.5)
    assert channel.picks() == {A}
    assert channel.core.resolution.describe(6).endswith(
        "since then: test:///api: the resolver raised OSError: gone"
    )
    await asyncio.sleep(1)
    assert channel.resolver.runs == 2


@pytest.mark.expect_log("the resolver raised")
@virtual
async def test_a_success_starts_the_backoff_anew() -> None:
    starts: list[float] = []

    async def run(update: Update) -> None:
        starts.append(asyncio.get_running_loop().time())
        if len(starts) == 4:
            update(ResolverState.of([A]))
        raise OSError("gone")

    await Channel(Script(run)).started()
    await asyncio.sleep(20)
    assert starts[4] - starts[3] == pytest.approx(1, rel=0.2001)


@pytest.mark.expect_log("the resolver raised CancelledError")
@virtual
async def test_a_resolver_whose_own_task_is_cancelled_is_run_again() -> None:
    """It raises CancelledError, though nobody cancelled it."""

    async def run(update: Update) -> None:
        waiting = asyncio.get_running_loop().create_future()
        waiting.cancel()
        await waiting

    channel = await Channel(Script(run)).started()
    await asyncio.sleep(2)
    assert channel.resolver.runs >= 2


@virtual
async def test_a_resolver_that_returns_leaves_its_list() -> None:
    async def run(update: Update) -> None:
        update(ResolverState.of([A]))

    channel = await Channel(Script(run)).started()
    channel.ready(A)
    await asyncio.sleep(1000)
    assert channel.resolver.runs == 1
    assert channel.picks() == {A}
    channel.core.resolve_now()
    assert channel.resolver.hints == 1


@pytest.mark.expect_log("the resolver raised TypeError")
@virtual
async def test_a_run_that_is_no_coroutine_is_named() -> None:
    script = Script()
    script.run = lambda update: 5  # type: ignore[assignment, method-assign, return-value]
    channel = await Channel(script).started()
    assert channel.failure() == (
        "UNAVAILABLE: test:///api: the resolver raised TypeError: "
        "object int can't be used in 'await' expression"
    )


JUNK: list[tuple[Any, str]] = [
    (None, "expected a ResolverState, got NoneType"),
    ([A], "expected a ResolverState, got list"),
    (ResolverState([]), "endpoints must be a tuple, got list"),  # type: ignore[arg-type]
    (ResolverState((A,)), f"endpoints[0] must be an Endpoint, got {A!r}"),  # type: ignore[arg-type]
    (ResolverState((), attributes=[]), "attributes must be a mapping, got list"),  # type: ignore[arg-type]
    (
        ResolverState((Endpoint((A,)),)),  # type: ignore[arg-type]
        f"endpoints[0]: expected an Address, got {A!r}",
    ),
    (
        ResolverState((Endpoint((Address(7),)),)),  # type: ignore[arg-type]
        "endpoints[0]: expected an Address, got Address(target=7, server_name=None)",
    ),
    (
        ResolverState((Endpoint((Address(A, 5),)),)),  # type: ignore[arg-type]
        "endpoints[0]: server_name must be str, got 5",
    ),
    (
        ResolverState((Endpoint((Address("dns:///evil:80"),)),)),
        "address 'dns:///evil:80': expected 'ip:port' or '[ipv6]:port'",
    ),
    (
        ResolverState((Endpoint((Address("backend.local:80"),)),)),
        (
            "address 'backend.local' port '80': not an IP address; "
            "resolvers hand over IP addresses, names belong into a dns: target"
        ),
    ),
    (
        ResolverState((Endpoint((Address("10.0.0.1:080"),)),)),
        "endpoints[0]: address '10.0.0.1:080' must be '10.0.0.1:80'",
    ),
    (
        ResolverState((Endpoint((Address("unix:a\nb"),)),)),
        "unix socket name 'a\\nb': must be text without NUL and newline",
    ),
]


@pytest.mark.parametrize(("junk", "reason"), JUNK, ids=[reason for _, reason in JUNK])
@pytest.mark.expect_log("unusable state")
def test_junk_is_named_and_changes_nothing(
    junk: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    @virtual
    async def run() -> None:
        channel = await Channel().started()
        assert not channel.resolver.update(junk)
        text = f"test:///api: the resolver returned an unusable state: {reason}"
        assert channel.failure() == f"UNAVAILABLE: {text}"
        await asyncio.sleep(1)
        await channel.up(A)
        for _ in range(50):
            channel.resolver.update(junk)
            await asyncio.sleep(0.2)
        assert channel.picks() == {A}
        assert messages(caplog) == [text], "one line a minute"

    run()


@virtual
async def test_unix_sockets_by_hand_are_no_junk() -> None:
    channel = await Channel().started()
    endpoints = (Endpoint((Address.unix("/run/a"),)), Endpoint((Address.unix_abstract("b"),)))
    assert channel.resolver.update(ResolverState(endpoints))


@virtual
async def test_updates_from_eight_threads() -> None:
    channel = await Channel().started()

    def storm(number: int) -> None:
        for _ in range(50):
            assert channel.update(address(number))

    threads = [threading.Thread(target=storm, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    channel.update(A)
    await asyncio.sleep(0.5)
    channel.ready(str(channel.transports[-1].connection.address))
    await asyncio.sleep(0.5)
    assert len(channel.picks()) == 1
    assert channel.core.snapshot()["resolver"]["updates"] <= 3


@virtual
async def test_an_update_after_close_is_refused() -> None:
    channel = await Channel().started()
    await channel.up(A)
    update = channel.resolver.update
    channel.core.close()
    await turn()
    assert channel.resolver.ended == 1
    assert not channel.update(B)
    from_thread: list[bool] = []
    thread = threading.Thread(target=lambda: from_thread.append(update(ResolverState.of([B]))))
    thread.start()
    thread.join()
    await asyncio.sleep(1)
    assert from_thread == [False]
    assert len(channel.transports) == 1


@virtual
async def test_a_pending_update_dies_with_the_channel(scripted: ScriptedPolicy) -> None:
    channel = await scripted_channel()
    channel.update(A)
    channel.update(B)
    channel.core.close()
    await asyncio.sleep(1)
    assert lists(scripted) == [[A]]


@pytest.mark.expect_log("the resolver raised")
@virtual
async def test_an_earlier_run_is_not_listened_to() -> None:
    updates: list[Update] = []

    async def run(update: Update) -> None:
        updates.append(update)
        if len(updates) == 1:
            raise OSError("gone")
        await asyncio.Event().wait()

    channel = await Channel(Script(run)).started()
    await asyncio.sleep(2)
    assert not updates[0](ResolverState.of([B]))
    assert updates[1](ResolverState.of([A]))
    assert [str(t.connection.address) for t in channel.transports] == [A]


@virtual
async def test_a_resolver_that_answers_a_hint_at_once_does_not_recurse(
    scripted: ScriptedPolicy,
) -> None:
    """resolve_now() is called from within the policy's update, and calls update in turn."""
    script = Script()
    depth = 0

    def resolve_now() -> None:
        nonlocal depth
        script.hints += 1
        depth += 1
        assert depth == 1
        if script.hints < 50:
            script.update(ResolverState.of([A, address(script.hints)]))
        depth -= 1

    script.resolve_now = resolve_now  # type: ignore[method-assign]
    take = scripted.update

    def update(state: ResolverState, config: object) -> bool:
        scripted.helpers[-1].request_resolution()
        return take(state, config)

    scripted.update = update  # type: ignore[method-assign]
    channel = await scripted_channel(script, update_coalescing_ms=0)
    channel.update(A)
    await asyncio.sleep(1)
    assert script.hints == 50
    assert lists(scripted)[-1] == [A, address(49)]


@pytest.mark.expect_log(r"resolve_now\(\) raised")
@virtual
async def test_a_resolve_now_that_raises_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    script = Script()
    script.resolve_now = lambda: 1 // 0  # type: ignore[assignment, method-assign]
    channel = await Channel(script).started()
    for _ in range(100):
        channel.core.resolve_now()
    assert messages(caplog) == ["test:///api: resolve_now() raised"]


@virtual
async def test_a_resolver_whose_cleaning_up_raises_is_not_run_again() -> None:
    async def run(update: Update) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("could not say goodbye")

    channel = await Channel(Script(run)).started()
    task = channel.core.resolution.task
    assert task is not None
    channel.core.close()
    await asyncio.sleep(300)
    assert task.done()
    assert channel.resolver.runs == 1


@pytest.mark.expect_log("no token file")
@virtual
async def test_a_factory_that_raises_later_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The factory was tried at construction; what it needs may be away when the channel wakes."""
    channel = Channel()
    made = type(channel.spec).make_resolver
    failures = 2

    def make(spec: Any, context: Any) -> Any:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise OSError("no token file")
        return made(spec, context)

    monkeypatch.setattr(type(channel.spec), "make_resolver", make)
    await channel.started()
    assert channel.failure().endswith("the resolver raised OSError: no token file")
    await asyncio.sleep(5)
    assert channel.resolver.runs == 1
