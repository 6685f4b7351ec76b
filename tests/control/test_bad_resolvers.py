"""Resolvers that raise, return junk, or call back when and whence they should not (F43)."""

from __future__ import annotations

import asyncio
import itertools
import threading
from typing import Any

import pytest

from grpclb.core.address import Address, Endpoint
from grpclb.core.resolver import ResolverState, Update
from tests.control.harness import (
    A,
    B,
    Channel,
    Script,
    ScriptedPolicy,
    address,
    lists,
    messages,
    scripted_channel,
    turn,
    virtual,
)


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


@pytest.mark.expect_log("the resolver raised SystemExit")
@virtual
async def test_a_resolver_cannot_end_the_process() -> None:
    async def run(update: Update) -> None:
        raise SystemExit(3)

    channel = await Channel(Script(run)).started()
    assert channel.failure() == "UNAVAILABLE: test:///api: the resolver raised SystemExit: 3"
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
    named = "UNAVAILABLE: test:///api: the resolver raised TypeError: "
    assert channel.failure().startswith(named)


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
            "resolvers hand over IP addresses, names belong in a dns: target"
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
