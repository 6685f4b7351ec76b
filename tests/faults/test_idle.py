"""A channel that nobody uses goes to sleep, and the next RPC wakes it."""

from __future__ import annotations

import pytest

from tests.faults.harness import (
    Connect,
    established,
    eventually,
    failures,
    snapshot,
    target_of,
    wait_ready,
)
from tests.support.backend import Backend, steer

pytestmark = pytest.mark.slow

SLEEPY = [("grpc.client_idle_timeout_ms", 1_000)]


def test_an_idle_channel_closes_its_connections(connect: Connect, fleet: list[Backend]) -> None:
    client = connect(target_of(fleet), options=[*SLEEPY, ("grpclb.subchannel_linger_ms", 0)])
    awake = connect(target_of(fleet))  # the control: without the option it stays
    wait_ready(client, 4)
    wait_ready(awake, 4)
    assert established(fleet) == 8
    eventually(lambda: established(fleet) == 4, 6, "the idle channel's connections closed")
    assert snapshot(client)["state"] == "IDLE"
    assert failures(client.calls(8, timeout=10)) == []
    assert snapshot(awake)["state"] == "READY"


def test_a_running_stream_keeps_a_channel_awake(connect: Connect, fleet: list[Backend]) -> None:
    client = connect(target_of(fleet[:1]), options=SLEEPY)
    stream = client.stream(metadata=steer(responses=4, gap_ms=450))
    while stream.read() is not None:
        assert snapshot(client)["state"] == "READY"
    assert stream.result().ok
