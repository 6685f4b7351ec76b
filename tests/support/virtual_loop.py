"""An asyncio loop on virtual time: hours of timers pass in milliseconds, and exactly.

    assert run_virtual(main()) == ...

Whenever nothing is ready to run, the loop's clock jumps to the next timer. For code that keeps
time by `loop.time()`, `asyncio.sleep` and `asyncio.timeout`, and does no I/O and starts no threads.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class DeadlockError(RuntimeError):
    """No task can run, and no timer is set."""


class _JumpingSelector(selectors.DefaultSelector):
    """Instead of waiting for a timer, tells the loop that the time has passed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise DeadlockError("every task waits for something that will never happen")
        if not ready and timeout:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Starts at second 0. `time()` moves only when every task waits."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._jumping.now


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` on a loop of its own; what it leaves running is cancelled, as by asyncio.run."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
