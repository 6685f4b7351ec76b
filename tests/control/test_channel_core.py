"""The engine of a channel: waking, sleeping, closing, and policies that make mistakes."""

from __future__ import annotations

import asyncio
import json

import pytest
from grpc import StatusCode

from grpclb.core.balancer import Fail, FixedPicker, Pick
from grpclb.core.connectivity import READY, TRANSIENT_FAILURE
from grpclb.core.status import Status
from tests.control.harness import (
    A,
    B,
    C,
    Channel,
    Script,
    turn,
    virtual,
)

# -- waking up, going to sleep, closing ------------------------------------------------------------


@virtual
async def test_nothing_runs_before_the_first_rpc() -> None:
    channel = Channel()
    await asyncio.sleep(3600)
    assert (channel.state, channel.resolver.runs) == ("IDLE", 0)


@virtual
async def test_waking_starts_the_resolver_once_and_queues() -> None:
    channel = Channel()
    channel.core.exit_idle()
    channel.core.exit_idle()
    await turn()
    assert (channel.state, channel.resolver.runs) == ("CONNECTING", 1)


@virtual
async def test_resolve_to_ready() -> None:
    channel = await Channel().started()
    channel.update(A, B)
    await turn()
    assert channel.state == "CONNECTING"
    channel.ready(A, B)
    await asyncio.sleep(0.2)
    assert channel.state == "READY"
    assert channel.picks() == {A, B}


@virtual
async def test_without_an_answer_fail_fast_rpcs_fail_after_five_seconds() -> None:
    channel = await Channel().started()
    await asyncio.sleep(4.9)
    assert channel.state == "CONNECTING"
    await asyncio.sleep(0.2)
    assert channel.state == "TRANSIENT_FAILURE"
    assert channel.failure() == "UNAVAILABLE: test:///api: no answer from the resolver in 5 s"
    await channel.up(A)  # better late than never
    assert channel.picks() == {A}


@virtual
async def test_a_resolver_may_say_what_it_waits_for() -> None:
    resolver = Script()
    resolver.waiting_for = lambda: "CDS orders"  # type: ignore[attr-defined]
    channel = await Channel(resolver).started()
    await asyncio.sleep(5.1)
    assert channel.failure().endswith("no answer from the resolver in 5 s; it waits for CDS orders")


@virtual
async def test_the_first_answer_s_time_is_an_option() -> None:
    channel = await Channel(options=[("grpclb.resolve_timeout_ms", 250)]).started()
    await asyncio.sleep(0.3)
    assert channel.failure().endswith("no answer from the resolver in 0.25 s")


@virtual
async def test_an_answer_in_time_stops_the_clock() -> None:
    channel = await Channel().started()
    channel.update(A)
    await asyncio.sleep(60)
    assert channel.state == "CONNECTING"


@virtual
async def test_an_idle_channel_goes_to_sleep_and_wakes_for_an_rpc() -> None:
    channel = await Channel(options=[("grpc.client_idle_timeout_ms", 60_000)]).started()
    await channel.up(A)
    await asyncio.sleep(59)
    assert channel.state == "READY"
    await asyncio.sleep(17)  # a quarter of the timeout, at most, is what it takes to notice
    assert channel.state == "IDLE"
    assert channel.resolver.ended == 1
    await asyncio.sleep(6)
    assert channel.transport(A).closes == 1
    channel.core.exit_idle()
    await turn()
    assert (channel.state, channel.resolver.runs) == ("CONNECTING", 2)
    await channel.up(B)
    assert channel.picks() == {B}


@pytest.mark.parametrize("busy", ["used", "inflight", "waiting"])
def test_a_channel_at_work_does_not_sleep(busy: str) -> None:
    @virtual
    async def run() -> None:
        channel = await Channel(options=[("grpc.client_idle_timeout_ms", 60_000)]).started()
        await channel.up(A)
        for _ in range(100):
            if busy == "used":
                channel.slot.used = True
            elif busy == "inflight":
                channel.transport(A).inflight = 1
            elif not channel.slot.waiting:
                channel.slot.wait(channel.slot.current.generation, lambda: None)
            await asyncio.sleep(10)
        assert channel.state == "READY"
        assert channel.resolver.runs == 1

    run()


@virtual
async def test_an_address_that_a_nap_interrupted_keeps_its_connection() -> None:
    channel = await Channel(options=[("grpc.client_idle_timeout_ms", 4_000)]).started()
    await channel.up(A)
    await asyncio.sleep(5)
    assert channel.state == "IDLE"
    channel.core.exit_idle()
    await turn()
    channel.update(A)
    await asyncio.sleep(0.2)
    assert channel.picks() == {A}
    assert len(channel.transports) == 1


@virtual
async def test_the_longest_idle_timeout_is_none_at_all() -> None:
    channel = await Channel(options=[("grpc.client_idle_timeout_ms", 2**31 - 1)]).started()
    await channel.up(A)
    await asyncio.sleep(1e7)
    assert channel.state == "READY"


@virtual
async def test_close_gives_everything_back() -> None:
    channel = await Channel().started()
    await channel.up(A, B)
    woken: list[int] = []
    channel.slot.wait(channel.slot.current.generation, lambda: woken.append(1))
    channel.core.close()
    channel.core.close()
    assert (channel.state, woken) == ("SHUTDOWN", [1])
    assert [t.closes for t in channel.transports] == [1, 1]
    await turn()
    assert channel.resolver.ended == 1
    mine = asyncio.current_task()
    assert asyncio.all_tasks() == {mine}
    assert asyncio.get_running_loop()._scheduled == [] or all(  # type: ignore[attr-defined]
        handle.cancelled()
        for handle in asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    )


@pytest.mark.parametrize("when", ["idle", "resolving", "connecting", "failed", "asleep"])
@pytest.mark.expect_log("told to fail")
def test_close_in_every_state(when: str) -> None:
    @virtual
    async def run() -> None:
        channel = Channel(options=[("grpc.client_idle_timeout_ms", 1_000)])
        if when != "idle":
            await channel.started()
        if when in ("connecting", "asleep"):
            channel.update(A)
            await turn()
        if when == "failed":
            channel.fail("told to fail")
        if when == "asleep":
            await asyncio.sleep(2)
            assert channel.state == "IDLE"
        channel.core.close()
        channel.core.exit_idle()
        channel.core.resolve_now()
        channel.core.publish(READY, FixedPicker(Fail(Status.unavailable("late"))))
        await asyncio.sleep(60)
        assert channel.state == "SHUTDOWN"
        assert channel.resolver.runs == (0 if when == "idle" else 1)
        assert all(t.closes == 1 for t in channel.transports)

    run()


# -- what people see -------------------------------------------------------------------------------


@virtual
async def test_the_snapshot_is_complete_and_json_ready() -> None:
    config = {
        "healthCheckConfig": {"serviceName": "s"},
        "methodConfig": [{"name": [{"service": "a.B"}], "timeout": "1.5s"}],
    }
    channel = await Channel(service_config=config).started()
    channel.update(A, B, note="test:///api resolved 2 addresses")
    await turn()
    channel.ready(A)
    refused = Status.unavailable(f"{B}: connection refused")
    channel.transport(B).connection.report(TRANSIENT_FAILURE, refused)
    channel.transport(A).inflight = 2
    channel.slot.wait(channel.slot.current.generation, lambda: None)
    await asyncio.sleep(0.5)
    channel.slot.wait(channel.slot.current.generation, lambda: None)
    seen = json.loads(json.dumps(channel.core.snapshot(), allow_nan=False))
    assert seen == {
        "target": "test:///api",
        "state": "READY",
        "policy": "round_robin",
        "pending_calls": 1,
        "inflight": 2,
        "health_check": "s",
        "connect_backoff": {"initial_ms": 1000, "max_ms": 30000, "connect_timeout_ms": 5000},
        "resolver": {
            "endpoints": [
                {"addresses": [A], "attributes": {}},
                {"addresses": [B], "attributes": {}},
            ],
            "note": "test:///api resolved 2 addresses",
            "skipped": {},
            "last_good_seconds_ago": 0.5,
            "last_error": None,
            "updates": 1,
            "service_config": config,
            "service_config_source": "default",
            "service_config_ignored": [],
            "details": {},
        },
        "subchannels": [
            {
                "address": A,
                "state": "READY",
                "for_seconds": 0.5,
                "inflight": 2,
                "last_error": None,
                "failures": 0,
                "removed": False,
            },
            {
                "address": B,
                "state": "TRANSIENT_FAILURE",
                "for_seconds": 0.5,
                "inflight": 0,
                "last_error": f"{B}: connection refused",
                "failures": 1,
                "removed": False,
            },
        ],
    }


@pytest.mark.expect_log("told to fail")
@pytest.mark.parametrize("when", ["new", "resolving", "failed", "odd attributes", "closed"])
def test_a_snapshot_at_any_time_is_json_ready(when: str) -> None:
    @virtual
    async def run() -> None:
        from grpclb.core.address import Endpoint
        from grpclb.core.resolver import ResolverState

        channel = Channel()
        if when != "new":
            await channel.started()
        if when == "failed":
            channel.fail("told to fail")
        if when == "odd attributes":
            odd = {"set": {1}, "nested": {5: (b"x", object())}, "nan": float("nan")}
            endpoint = Endpoint.of(A, **odd)
            channel.resolver.update(ResolverState((endpoint,), attributes={"x": object()}))
        if when == "closed":
            channel.core.close()
        json.dumps(channel.core.snapshot(), allow_nan=False)

    run()


@pytest.mark.expect_log("SERVFAIL")
@virtual
async def test_an_rpc_s_error_says_what_the_resolver_last_said() -> None:
    channel = await Channel().started()
    channel.update(A, note="dns:///api resolved 1 address")
    await turn()
    channel.transport(A).connection.report(
        TRANSIENT_FAILURE, Status.unavailable(f"{A}: connection refused")
    )
    await asyncio.sleep(4.1)
    channel.fail("dns: SERVFAIL")
    assert channel.failure() == (
        f"UNAVAILABLE: round_robin: 0 of 1 backends ready; last: {A}: connection refused; "
        "dns:///api resolved 1 address 4.1 s ago; since then: dns: SERVFAIL"
    )


@virtual
async def test_a_note_is_made_where_the_resolver_wrote_none() -> None:
    channel = await Channel().started()
    channel.update(A, B)
    assert channel.core.resolution.describe(3) == "test:///api resolved 2 endpoints 3.0 s ago"


@virtual
async def test_ready_count_counts_what_a_policy_holds() -> None:
    channel = await Channel().started()
    assert channel.core.ready_count == (0, 0)
    await channel.up(A, B)
    assert channel.core.ready_count == (2, 2)
    await asyncio.sleep(1)
    channel.update(A)
    await turn()
    assert channel.core.ready_count == (1, 1)  # the other one lingers


# -- two channels, one resolver --------------------------------------------------------------------


@virtual
async def test_a_hint_reaches_a_running_resolver_only() -> None:
    resolver = Script()
    channel = Channel(resolver)
    channel.core.resolve_now()
    await channel.started()
    channel.core.resolve_now()
    channel.core.close()
    channel.core.resolve_now()
    assert resolver.hints == 1


@virtual
async def test_a_connection_that_fails_takes_its_share_away() -> None:
    channel = await Channel().started()
    await channel.up(A, B, C)
    channel.transport(B).connection.report(TRANSIENT_FAILURE, Status.unavailable("reset"))
    await asyncio.sleep(0.1)
    assert channel.picks() == {A, C}
    assert channel.resolver.hints >= 1


def test_a_pick_is_a_pick() -> None:
    """The harness' own `picks` must not take a failure for a backend."""
    fail = FixedPicker(Fail(Status(StatusCode.UNAVAILABLE, "x")))
    assert not isinstance(fail.result, Pick)
