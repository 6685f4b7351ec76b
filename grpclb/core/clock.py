"""Time as an argument: the only clock that policies and state machines may look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A callback that waits for its time."""

    def cancel(self) -> None:
        """Make sure that the callback does not run any more; harmless after it ran."""
        ...


class Clock(Protocol):
    """Monotonic seconds and timers. Called on the control loop; callbacks run there too."""

    def now(self) -> float:
        """Monotonic seconds since some fixed moment."""
        ...

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` once, `delay` seconds (>= 0) from now, never before this returns."""
        ...
