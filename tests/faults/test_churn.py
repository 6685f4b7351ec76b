"""Endpoints come and go while RPCs run: FIGURES F1, F4, F5, F36, and promise P4."""

from __future__ import annotations

from time import monotonic

import pytest

from grpclb.testing import ManualResolver
from tests.faults.fixtures import Launch, LogGuard
from tests.faults.harness import (
    PLAIN_ROUND_ROBIN,
    Client,
    Connect,
    calls_on,
    established,
    eventually,
    failures,
    held,
    states,
    target_of,
    wait_ready,
)
from tests.support.backend import Backend, steer

pytestmark = pytest.mark.slow

SOME_WORK = {"metadata": steer(delay_ms=20), "timeout": 10}


def roll(
    client: Client, old: list[Backend], launch: Launch, resolver: ManualResolver | None
) -> list[Backend]:
    """Replace every backend by one on a new port, each stopped gracefully.

    As an orchestrator does: the endpoint leaves the list, then the server is told to stop. A
    grpcio server cancels those RPCs that arrive while it begins to stop, whoever the client is.
    """
    serving = list(old)
    for backend in old:
        (new,) = launch("new")
        serving = [new if b is backend else b for b in serving]
        if resolver is not None:
            resolver.update([b.address for b in serving])
            eventually(lambda: backend.address not in held(client))  # noqa: B023
        backend.stop(5)
    return serving


def test_a_rolling_restart_loses_no_rpc(connect: Connect, launch: Launch) -> None:
    old = launch("one", "two")
    resolver = ManualResolver([b.address for b in old])
    client = connect("manual:///api", resolver=resolver)
    with client.load(8, **SOME_WORK) as load:
        load.wait(50)
        new = roll(client, old, launch, resolver)
        load.wait(50)
    assert load.failures == []
    assert min(calls_on(new)) > 10


def test_control_a_list_that_nobody_updates_does_not_survive(
    connect: Connect, launch: Launch
) -> None:
    old = launch("one", "two")
    client = connect(target_of(old), plain=True, options=PLAIN_ROUND_ROBIN)
    with client.load(8, **SOME_WORK) as load:
        load.wait(50)
        roll(client, old, launch, None)
        load.wait(50)
    assert load.codes["UNAVAILABLE"] > 10


def test_a_new_endpoint_gets_its_share(connect: Connect, fleet: list[Backend]) -> None:
    resolver = ManualResolver([b.address for b in fleet[:3]])
    client = connect("manual:///api", resolver=resolver)
    wait_ready(client, 3)
    assert calls_on(fleet[3:]) == [0]
    with client.load(8, **SOME_WORK) as load:
        updated = monotonic()
        resolver.update([b.address for b in fleet])
        eventually(lambda: calls_on(fleet[3:]) > [0], what="first RPC on the new backend")
        assert monotonic() - updated < 3  # 1 s, with slack
        for backend in fleet:
            backend.reset()
        load.wait(200)
    assert load.failures == []
    counts = calls_on(fleet)
    assert max(counts) - min(counts) <= 8 + 1  # what runs at this moment may be missing


def test_a_removed_endpoint_finishes_its_stream_and_its_socket_closes(
    connect: Connect, fleet: list[Backend]
) -> None:
    resolver = ManualResolver([fleet[0].address])
    options = [("grpclb.subchannel_linger_ms", 200)]
    client = connect("manual:///api", resolver=resolver, options=options)
    stream = client.stream(metadata=steer(responses=8, gap_ms=100))
    assert stream.read() == b"x"
    resolver.update([b.address for b in fleet[1:3]])
    eventually(lambda: states(client) == ["READY"] * 2, what="the new backends READY")
    fleet[0].reset()
    assert failures(client.calls(100)) == []
    assert calls_on(fleet[:1]) == [0]
    assert established(fleet[:1]) == 1
    while stream.read() is not None:
        pass
    assert stream.result().ok
    # A call object of grpc.aio keeps its connection as long as it lives, ended or not.
    del stream
    eventually(lambda: established(fleet[:1]) == 0, 3, "the removed backend's socket closed")


def test_a_removed_endpoint_gets_no_new_rpc_under_load(
    connect: Connect, fleet: list[Backend]
) -> None:
    resolver = ManualResolver([b.address for b in fleet[:2]])
    options = [("grpclb.update_coalescing_ms", 0)]
    client = connect("manual:///api", resolver=resolver, options=options)
    wait_ready(client, 2)
    with client.load(8, **SOME_WORK) as load:
        load.wait(20)
        resolver.update([fleet[0].address])
        eventually(lambda: len(states(client)) == 1, what="one backend left")
        load.wait(40)  # those that were on their way have arrived
        fleet[1].reset()
        load.wait(100)
    assert load.failures == []
    assert calls_on(fleet[1:2]) == [0]


def test_a_running_stream_is_cut_when_the_drain_limit_is_over(
    connect: Connect, fleet: list[Backend]
) -> None:
    resolver = ManualResolver([fleet[0].address])
    options = [("grpclb.subchannel_linger_ms", 0), ("grpclb.drain_timeout_ms", 300)]
    client = connect("manual:///api", resolver=resolver, options=options)
    stream = client.stream(metadata=steer(responses=1000, gap_ms=50))
    assert stream.read() == b"x"
    resolver.update([fleet[1].address])
    assert stream.result(10).code.name == "CANCELLED"


def flap(connect: Connect, fleet: list[Backend], linger_ms: int) -> list[int]:
    """Two sets of backends in turn, under load: how many connections each backend saw."""
    first = [b.address for b in fleet[:2]]
    second = [b.address for b in fleet[2:]]
    resolver = ManualResolver(first)
    options = [("grpclb.update_coalescing_ms", 0), ("grpclb.subchannel_linger_ms", linger_ms)]
    client = connect("manual:///api", resolver=resolver, options=options)
    with client.load(4, timeout=10) as load:
        load.wait(50)
        for turn in range(12):
            resolver.update(first if turn % 2 else second)
            load.wait(30)
    assert load.failures == []
    return [len(backend.stats()["peers"]) for backend in fleet]


def test_a_flapping_resolver_costs_no_reconnects(connect: Connect, fleet: list[Backend]) -> None:
    # One that was still connecting when its address went away is not kept, so 2 can happen.
    assert max(flap(connect, fleet, linger_ms=5_000)) <= 2


def test_control_without_linger_it_does(connect: Connect, fleet: list[Backend]) -> None:
    assert max(flap(connect, fleet, linger_ms=0)) > 4


def test_an_empty_list_is_believed_and_a_failed_look_up_is_not(
    connect: Connect, fleet: list[Backend], logs: LogGuard
) -> None:
    logs.expect("told to fail|no endpoints")
    resolver = ManualResolver([fleet[0].address])
    options = [("grpclb.update_coalescing_ms", 0)]
    client = connect("manual:///api", resolver=resolver, options=options)
    assert client.call().ok
    resolver.fail(details="told to fail")
    assert failures(client.calls(20)) == []
    resolver.update([])
    failed = eventually(lambda: failures(client.calls(1)), what="an RPC without endpoints")
    assert failed[0].code.name == "UNAVAILABLE"
    assert "no endpoints" in failed[0].details
    resolver.update([fleet[1].address])
    assert client.call(wait_for_ready=True, timeout=10).ok


def test_a_resolver_outage_is_not_seen_by_rpcs(
    connect: Connect, fleet: list[Backend], logs: LogGuard
) -> None:
    logs.expect("SERVFAIL")
    resolver = ManualResolver([b.address for b in fleet[:2]])
    client = connect("manual:///api", resolver=resolver)
    with client.load(4, timeout=10) as load:
        load.wait(20)
        for _ in range(20):
            resolver.fail(details="manual:///api: SERVFAIL")
            load.wait(10)
    assert load.failures == []
    assert len(logs.matching("SERVFAIL")) == 1, "one line for each change of the answer"
    assert min(calls_on(fleet[:2])) > 50


def test_without_any_answer_rpcs_fail_with_the_resolver_s_reason(
    connect: Connect, fleet: list[Backend], logs: LogGuard
) -> None:
    logs.expect("SERVFAIL")
    resolver = ManualResolver()
    client = connect("manual:///api", resolver=resolver)
    resolver.fail(details="manual:///api: SERVFAIL from 10.0.0.10")
    result = client.call(timeout=10)
    assert result.code.name == "UNAVAILABLE"
    assert "SERVFAIL from 10.0.0.10" in result.details
    waiting = client.start(wait_for_ready=True, timeout=20)
    resolver.update([fleet[0].address])
    assert waiting.result().ok
