"""A process that stands still with its sockets open: FIGURES F12, F13."""

from __future__ import annotations

import time
from time import monotonic
from typing import Any

import pytest

from tests.faults.fixtures import Launch
from tests.faults.harness import Connect, eventually, failures, states, wait_ready
from tests.support.backend import Backend, steer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

KEEPALIVE = [("grpc.keepalive_time_ms", 2_000), ("grpc.keepalive_timeout_ms", 1_500)]
BOUND = 4.5  # seconds: time, timeout, and one more


def test_keepalive_notices_a_frozen_backend(connect: Connect, launch: Launch) -> None:
    """The control beside it is plain grpcio with the same options and no ping timeout of ours."""
    (backend,) = launch("frozen")
    quiet: dict[str, Any] = {"metadata": steer(responses=1_000, gap_ms=60_000)}
    ours = connect(backend.address, options=KEEPALIVE).stream(**quiet)
    plain = connect(backend.address, options=KEEPALIVE, plain=True).stream(**quiet)
    assert ours.read() == plain.read() == b"x"
    backend.pause()
    frozen = monotonic()
    result = ours.result(8)
    assert result.code.name == "UNAVAILABLE"
    assert monotonic() - frozen < 1.7 * BOUND
    time.sleep(max(0.0, frozen + 8 - monotonic()))
    with pytest.raises((AssertionError, TimeoutError)):
        plain.result(0.1)
    plain.cancel()


def test_a_frozen_backend_is_left_by_those_that_come_later(
    connect: Connect, launch: Launch
) -> None:
    good, bad = launch("good", "bad")
    client = connect(f"ipv4:{good.address},{bad.address}", options=KEEPALIVE)
    wait_ready(client, 2)
    with client.load(4, metadata=steer(delay_ms=10), timeout=3) as load:
        load.wait(50)
        bad.pause()
        eventually(lambda: states(client).count("READY") == 1, 3 * BOUND, "that it is frozen")
        since = monotonic()
        load.wait(200)
    assert load.codes["DEADLINE_EXCEEDED"] + load.codes["UNAVAILABLE"] > 0, "the fault was real"
    assert failures(load.since(since)) == []


def test_keepalive_does_not_annoy_a_default_server(
    connect_sync: Connect, connect_aio: Connect, fleet: list[Backend]
) -> None:
    """25 s idle with a stream open, and 25 s of load: no GOAWAY, no reconnect, in both stacks."""
    idle, loaded = fleet[0], fleet[1]
    streams, loads = [], []
    quiet: dict[str, Any] = {"metadata": steer(responses=2, gap_ms=25_000), "timeout": 60}
    for connect in (connect_sync, connect_aio):
        stream = connect(idle.address, options=KEEPALIVE).stream(**quiet)
        assert stream.read() == b"x"
        streams.append(stream)
        client = connect(loaded.address, options=KEEPALIVE)
        loads.append(client.load(2, metadata=steer(delay_ms=20), timeout=10))
    with loads[0] as first, loads[1] as second:
        for stream in streams:
            assert stream.read() == b"x"
            assert stream.result().ok
    assert first.failures == second.failures == []
    eventually(lambda: len(loaded.stats()["peers"]) == 2, what="one connection for each channel")
    assert len(idle.stats()["peers"]) == 2
