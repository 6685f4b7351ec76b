"""Restarts, connection age and flapping over seconds of load: FIGURES F1, F7, F8, F36.

The controls of F1 and F36 are in tests/faults/test_churn.py.
"""

from __future__ import annotations

import re
import statistics
import time
from time import monotonic

import pytest

from grpclb.testing import ManualResolver
from tests.faults.fixtures import Launch
from tests.faults.harness import (
    PLAIN_ROUND_ROBIN,
    Connect,
    Result,
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

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

HANDLER_50_MS = {"metadata": steer(delay_ms=50), "timeout": 10}


def p99(results: list[Result]) -> float:
    return statistics.quantiles([r.seconds for r in results], n=100)[98]


def test_five_servers_restart_one_by_one(connect: Connect, launch: Launch) -> None:
    serving = launch(*"abcde", grace=5.0)
    resolver = ManualResolver([b.address for b in serving])
    client = connect("manual:///api", resolver=resolver)
    wait_ready(client, 5)
    with client.load(16, **HANDLER_50_MS) as load:
        load.wait(400)
        before, began = list(load.results), monotonic()
        for old in list(serving):
            (new,) = launch(f"{old.name}2", grace=5.0)
            serving = [new if b is old else b for b in serving]
            resolver.update([b.address for b in serving])
            eventually(lambda: old.address not in held(client))  # noqa: B023
            # What preStop is for: a server that is told to stop in the moment in which an RPC
            # arrives may answer CANCELLED, whoever the client is.
            time.sleep(0.6)
            old.stop(5)
        load.wait(700)
        during = load.since(began)
    assert load.failures == []
    assert len(load.results) >= 1_500
    assert min(calls_on(serving)) >= 50, "each new server has its part"
    if p99(before) < 0.1:  # else the machine is busy elsewhere, and times say nothing
        assert p99(during) <= p99(before) + 0.3  # 100 ms, with slack


def test_servers_that_limit_the_age_of_connections(connect: Connect, launch: Launch) -> None:
    options = {"max_connection_age_ms": 1_000, "max_connection_age_grace_ms": 5_000}
    backends = launch("a", "b", "c", **options)
    client = connect(target_of(backends))
    wait_ready(client, 3)
    for backend in backends:
        backend.reset()
    with client.load(8, metadata=steer(delay_ms=10), timeout=10) as load:
        time.sleep(10)  # ten lives of a connection: the fault takes its time
    assert load.failures == []
    counts = calls_on(backends)
    fair = sum(counts) / 3
    assert all(abs(count - fair) <= 0.1 * fair for count in counts), counts
    peers = [len(backend.stats()["peers"]) for backend in backends]
    assert min(peers) >= 4, f"connections that each backend saw: {peers}"


def test_control_plain_round_robin_with_aging_connections(
    connect_sync: Connect, launch: Launch
) -> None:
    """Not a fault of grpcio's: what it does is the measure of the test above."""
    backends = launch("a", "b", "c", max_connection_age_ms=1_000)
    client = connect_sync(target_of(backends), plain=True, options=PLAIN_ROUND_ROBIN)
    with client.load(8, metadata=steer(delay_ms=10), timeout=10) as load:
        time.sleep(4)
    assert min(len(b.stats()["peers"]) for b in backends) >= 2
    assert load.codes["OK"] > 100


def test_ten_seconds_without_any_backend(connect: Connect, launch: Launch) -> None:
    backends = launch("a", "b")
    options = [
        ("grpc.initial_reconnect_backoff_ms", 1_000),
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    ]
    client = connect(target_of(backends), options=options)
    wait_ready(client, 2)
    for backend in backends:
        backend.kill()
    killed = monotonic()
    down = {"TRANSIENT_FAILURE"}
    eventually(lambda: set(states(client)) == down, 20, "both known to be down")
    waiting = [client.start(wait_for_ready=True, timeout=40) for _ in range(20)]
    quick: list[Result] = []
    while monotonic() < killed + 10:
        quick += client.calls(5, workers=5)
        time.sleep(0.2)
    assert {r.code.name for r in quick} == {"UNAVAILABLE"}
    assert statistics.median(r.seconds for r in quick) <= 0.05
    assert all(re.search(r"0 of 2 backends ready; last: 127\.0\.0\.1:", r.details) for r in quick)
    again = [backend.restart() for backend in backends]
    up = monotonic()
    try:
        assert failures(call.result(40) for call in waiting) == []
        assert monotonic() - up <= 3 * 3  # backoff of 2 s and 1 s more, with slack
    finally:
        for backend in again:
            backend.kill()


def test_two_sets_of_endpoints_that_alternate(connect: Connect, fleet: list[Backend]) -> None:
    one, other = [b.address for b in fleet[:2]], [b.address for b in fleet[2:]]
    resolver = ManualResolver(one)
    # Without coalescing, which could pass on every second update and so see no change at all.
    options = [("grpclb.update_coalescing_ms", 0)]
    client = connect("manual:///api", resolver=resolver, options=options)
    with client.load(4, metadata=steer(delay_ms=2), timeout=10) as load:
        end = monotonic() + 10
        while monotonic() < end:
            one, other = other, one
            resolver.update(one)
            time.sleep(0.05)
    assert load.failures == []
    assert len(load.results) > 500
    assert max(len(backend.stats()["peers"]) for backend in fleet) <= 8
    eventually(lambda: established(fleet) == 2, 20, "the set that is out of use closed")
