"""A picker that shares RPCs among others by weight, evenly and without a lock."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

from grpclb.core.balancer import Picker, PickInfo, PickResult

T = TypeVar("T")

# 2**64 divided by the golden ratio, as an odd number. Its multiples, modulo 2**64, fall into the
# largest gap left by those before, so that any interval gets its share of every run of turns up
# to a few; draws at random would miss it by the square root of their number.
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def place(turn: int, total: int) -> int:
    """A number in ``range(total)`` for this turn: as often in each part as the part is large."""
    return ((turn * _GOLDEN & _MASK) * total) >> 64


class WeightedChoice(Generic[T]):
    """One of `things` per call of `next`, in proportion to its weight (> 0). Any thread.

    `turns` is shared with those before and after it, so that the order goes on.
    """

    __slots__ = ("_bounds", "_things", "_total", "_turns")

    def __init__(self, things: Sequence[tuple[int, T]], turns: Iterator[int]) -> None:
        self._things = tuple(thing for _, thing in things)
        self._bounds = list(accumulate(weight for weight, _ in things))
        self._total = self._bounds[-1]
        self._turns = turns

    def next(self) -> T:
        at = place(next(self._turns), self._total)
        return self._things[bisect_right(self._bounds, at)]


class WeightedPicker:
    """core.balancer.Picker over the pickers of children."""

    __slots__ = ("_choice",)

    def __init__(self, pickers: Sequence[tuple[int, Picker]], turns: Iterator[int]) -> None:
        self._choice = WeightedChoice(pickers, turns)

    def pick(self, info: PickInfo) -> PickResult:
        return self._choice.next().pick(info)
