"""Exponential backoff with jitter (doc/connection-backoff.md), for look-ups that failed.

Reconnecting is not here: a subchannel's backoff belongs to C-core (one owner per timer).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

INITIAL = 1.0  # seconds
MULTIPLIER = 1.6
CAP = 120.0  # seconds, before jitter
JITTER = 0.2  # of the delay, both ways


class Backoff:
    """The delays of one row of failures: 1 s, 1.6 s, 2.56 s … 120 s, each ±20 %.

    Not safe for threads; the owner calls it on its own loop.
    """

    __slots__ = ("_cap", "_current", "_initial", "_random")

    def __init__(self, random: Random, *, initial: float = INITIAL, cap: float = CAP) -> None:
        """`random` is the source of jitter; `initial` and `cap` are seconds, 0 < initial <= cap."""
        if not 0 < initial <= cap:
            raise ValueError(f"backoff: initial {initial!r} s must be above 0 and not above {cap}")
        self._random = random
        self._initial = initial
        self._cap = cap
        self._current = initial

    def next_delay(self) -> float:
        """Seconds to wait after the failure just seen; the next one is longer."""
        delay = self._current
        self._current = min(delay * MULTIPLIER, self._cap)
        return delay * self._random.uniform(1 - JITTER, 1 + JITTER)

    def reset(self) -> None:
        """Something succeeded: the next failure starts from the initial delay again."""
        self._current = self._initial
