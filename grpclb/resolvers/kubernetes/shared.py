"""One watch for all channels of a loop that want the same Service by the same credentials."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Hashable
from typing import Protocol
from weakref import WeakKeyDictionary

from grpclb.resolvers.kubernetes.reflector import View


class Source(Protocol):
    """A reflector: `view` is the last thing that it told."""

    view: View

    async def run(self) -> None: ...


class Watch:
    """A running source and those who listen to it. Loop only."""

    def __init__(self, make: Callable[[Callable[[View], None]], Source]) -> None:
        self._source = make(self._tell)
        self._listeners: set[Callable[[], None]] = set()
        self._task = asyncio.get_running_loop().create_task(
            self._source.run(), name="grpclb kubernetes watch"
        )
        # A user's loop may end before the channel is closed: no noise about it at exit.
        self._task._log_destroy_pending = False  # type: ignore[attr-defined]
        self._task.add_done_callback(lambda task: self._tell(self._source.view))

    @property
    def view(self) -> View:
        """What is known by now. Raises what ended the watch, if something did."""
        if self._task.done():
            self._task.result()
            raise RuntimeError("the watch has ended")
        return self._source.view

    @property
    def used(self) -> bool:
        return bool(self._listeners)

    @property
    def ended(self) -> bool:
        return self._task.done()

    def add(self, listener: Callable[[], None]) -> None:
        self._listeners.add(listener)

    def remove(self, listener: Callable[[], None]) -> None:
        self._listeners.discard(listener)

    async def stop(self) -> None:
        """Cancel, and wait until the connection is closed."""
        self._task.cancel()
        await asyncio.wait([self._task])

    def _tell(self, view: View) -> None:
        for listener in list(self._listeners):
            listener()


_WATCHES: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, Watch]] = WeakKeyDictionary()


@contextlib.asynccontextmanager
async def subscribed(
    key: Hashable,
    make: Callable[[Callable[[View], None]], Source],
    listener: Callable[[], None],
) -> AsyncIterator[Watch]:
    """The watch of `key` on this loop, made if there is none; the last to leave stops it.

    `listener` is called on the loop whenever `Watch.view` is another one.
    """
    watches = _WATCHES.setdefault(asyncio.get_running_loop(), {})
    watch = watches.get(key)
    if watch is None or watch.ended:
        watch = watches[key] = Watch(make)
    watch.add(listener)
    try:
        yield watch
    finally:
        watch.remove(listener)
        if not watch.used:
            if watches.get(key) is watch:
                del watches[key]
            await watch.stop()
