"""Backoff as doc/connection-backoff.md defines it."""

from __future__ import annotations

from random import Random

import pytest

from grpclb.core.backoff import Backoff


class Middle(Random):
    """Chance that always falls on the middle of what it is asked for."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def test_delays_grow_by_1_6_from_1_s_to_120_s() -> None:
    backoff = Backoff(Middle())
    delays = [backoff.next_delay() for _ in range(15)]
    expected = [min(1.6**n, 120.0) for n in range(15)]
    assert delays == pytest.approx(expected)
    assert delays[-1] == 120.0


def test_every_delay_is_jittered_by_20_percent_both_ways() -> None:
    first = [Backoff(Random(seed)).next_delay() for seed in range(500)]
    assert 0.8 <= min(first) < 0.82
    assert 1.18 < max(first) <= 1.2
    assert sum(first) / len(first) == pytest.approx(1.0, abs=0.02)


def test_the_jitter_does_not_change_what_follows() -> None:
    backoff = Backoff(Random(1))
    for step in range(20):
        nominal = min(1.6**step, 120.0)
        assert 0.8 * nominal <= backoff.next_delay() <= 1.2 * nominal


def test_a_success_starts_over() -> None:
    backoff = Backoff(Middle())
    for _ in range(4):
        backoff.next_delay()
    backoff.reset()
    assert backoff.next_delay() == 1.0


def test_other_bounds() -> None:
    backoff = Backoff(Middle(), initial=10, cap=12)
    assert [backoff.next_delay() for _ in range(3)] == [10, 12, 12]


@pytest.mark.parametrize(("initial", "cap"), [(0, 1), (-1, 1), (2, 1), (float("nan"), 1)])
def test_bounds_that_make_no_sense_are_refused(initial: float, cap: float) -> None:
    with pytest.raises(ValueError, match="initial"):
        Backoff(Random(), initial=initial, cap=cap)
