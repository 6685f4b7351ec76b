"""The clock of a running asyncio loop, as core and the policies know it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from grpclb.core.clock import Timer


class LoopClock:
    """core.clock.Clock over an asyncio loop. Call it on that loop only."""

    __slots__ = ("_loop",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def now(self) -> float:
        return self._loop.time()

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        return (
            self._loop.call_soon(callback) if delay <= 0 else self._loop.call_later(delay, callback)
        )


class GuardedClock(LoopClock):
    """The clock that a policy is given: what its timers raise goes to `on_error`."""

    __slots__ = ("_on_error",)

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_error: Callable[[Exception], None]
    ) -> None:
        super().__init__(loop)
        self._on_error = on_error

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        def guarded() -> None:
            try:
                callback()
            except Exception as error:
                self._on_error(error)

        return super().call_later(delay, guarded)
