"""Each backend gets its share: FIGURES F6 and C10."""

from __future__ import annotations

import pytest

from tests.faults.fixtures import Launch
from tests.faults.harness import (
    PLAIN_ROUND_ROBIN,
    Connect,
    calls_on,
    failures,
    target_of,
    wait_ready,
)
from tests.support.backend import Backend

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("workers", [1, 16, 64])
def test_round_robin_is_exactly_even(connect: Connect, fleet: list[Backend], workers: int) -> None:
    client = connect(target_of(fleet))
    wait_ready(client, 4)
    for backend in fleet:
        backend.reset()
    assert failures(client.calls(400, workers=workers)) == []
    counts = calls_on(fleet)
    assert sum(counts) == 400
    assert max(counts) - min(counts) <= (0 if workers == 1 else 1)


def test_control_pick_first_sends_all_to_one(connect: Connect, fleet: list[Backend]) -> None:
    client = connect(target_of(fleet), options=[("grpc.lb_policy_name", "pick_first")])
    assert failures(client.calls(40)) == []
    assert sorted(calls_on(fleet)) == [0, 0, 0, 40]


def most_on_one(connect: Connect, backends: list[Backend], *, plain: bool) -> int:
    """30 RPCs wait when the backends of a new channel appear: the most that land on one.

    The backends stand still until all 30 are waiting, so that the burst is cold on any machine.
    """
    for backend in backends:
        backend.reset()
        backend.pause()
    try:
        client = connect(target_of(backends), plain=plain, options=PLAIN_ROUND_ROBIN)
        waiting = [client.start(timeout=20) for _ in range(30)]
    finally:
        for backend in backends:
            backend.resume()
    assert failures(call.result() for call in waiting) == []
    client.close()
    return max(calls_on(backends))


def test_a_cold_burst_is_shared(connect: Connect, fleet: list[Backend]) -> None:
    # The median of some bursts, as one may meet a machine that is busy elsewhere.
    ours = sorted(most_on_one(connect, fleet[:3], plain=False) for _ in range(5))
    assert ours[2] <= 15, ours


def test_control_a_cold_burst_of_grpcio_lands_on_one(
    connect: Connect, fleet: list[Backend]
) -> None:
    plain = sorted(most_on_one(connect, fleet[:3], plain=True) for _ in range(5))
    assert plain[2] > 20, plain


def test_a_dead_address_in_the_list_takes_no_share(connect: Connect, launch: Launch) -> None:
    a, b, dead = launch("a", "b", "dead")
    target = target_of([a, dead, b])
    dead.kill()
    client = connect(target)
    wait_ready(client, 2)
    a.reset()
    b.reset()
    assert failures(client.calls(100)) == []
    assert calls_on([a, b]) == [50, 50]
