"""What control-plane RPCs do when the process forks or ends: nothing of theirs is inside gRPC then.

A thread inside C-core at the moment of a fork breaks the child, and grpcio runs a thread for every
channel with a call that is not blocking. So before a fork all calls are cut and the threads are
waited for; their owners are told, begin new calls at once, and wait here until the fork is over.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
_FORK_PATIENCE = 0.8  # seconds, for all calls and threads together
_EXIT_PATIENCE = 0.8


class Cuttable(Protocol):
    """A call that is under way."""

    def cut(self) -> None:
        """End it, with a failure that says it was interrupted. Any thread; never blocks."""
        ...

    def forget(self) -> None:
        """In a forked child: it belongs to the parent. Touch neither gRPC nor a loop."""
        ...


class Life:
    """All calls of the process, and the gate that new ones pass. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._fewer = threading.Condition(self._lock)  # a call has ended
        self._shut = False
        self._calls: set[Cuttable] = set()
        self._threads: set[threading.Thread] = set()
        self._channels: weakref.WeakSet[Any] = weakref.WeakSet()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._graveyard: list[object] = []
        self.generation = 0  # forks between the first process and this one

    def keep(self, channel: object) -> None:
        """A grpcio channel was made. A child will keep it from being closed by its finalizer."""
        _watch_forks()
        with self._lock:
            self._channels.add(channel)

    async def begin(self, start: Callable[[], T]) -> T:
        """Call `start`, which begins a call and adds it, when no fork is under way."""
        while True:
            with self._lock:
                if not self._shut:
                    return start()
                loop = asyncio.get_running_loop()
                opened = loop.create_future()
                self._waiting.append((loop, opened))
            await opened

    def add(self, call: Cuttable) -> None:
        with self._lock:
            self._calls.add(call)

    def remove(self, call: Cuttable) -> None:
        with self._fewer:
            self._calls.discard(call)
            self._fewer.notify_all()

    def saw(self, thread: threading.Thread) -> None:
        """A thread that serves a call, to be waited for before a fork."""
        with self._lock:
            self._threads = {t for t in self._threads if t.is_alive()} | {thread}

    def cut_all(self, patience: float) -> None:
        """End every call, let none begin, and wait for the threads that served them."""
        end = time.monotonic() + patience
        with self._lock:
            self._shut = True
            calls = tuple(self._calls)
        for call in calls:
            call.cut()
        # The thread that serves a call is known once the call has ended.
        with self._fewer:
            self._fewer.wait_for(lambda: not self._calls, patience)
        for thread in self._alive():
            thread.join(max(0.0, end - time.monotonic()))

    def _alive(self) -> list[threading.Thread]:
        with self._lock:
            me = threading.current_thread()
            return [t for t in self._threads if t.is_alive() and t is not me]

    def open_again(self) -> None:
        with self._lock:
            self._shut = False
            waiting, self._waiting = self._waiting, []
        for loop, opened in waiting:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(_open, opened)

    def begin_anew(self) -> None:
        """In the child: nothing of the parent's is touched, and nothing of it is closed."""
        self._graveyard.append(
            (self._fewer, self._threads, self._waiting, self._calls, list(self._channels))
        )
        self._lock = threading.RLock()
        self._fewer = threading.Condition(self._lock)
        self.generation += 1
        calls, self._calls = self._calls, set()
        for call in calls:
            call.forget()
        self._channels = weakref.WeakSet()
        self._threads, self._waiting = set(), []
        self._shut = False


def _open(opened: asyncio.Future[None]) -> None:
    if not opened.done():
        opened.set_result(None)


LIFE = Life()

atexit.register(LIFE.cut_all, _EXIT_PATIENCE)  # before the control loop ends: registered after it


@functools.cache
def _watch_forks() -> None:
    """Have forks announced, once. The hook registered last runs first.

    grpcio registers its own when the first channel is made; from then on its threads stand still,
    and no call ends any more. So ours must come after the first channel.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=lambda: LIFE.cut_all(_FORK_PATIENCE),
            after_in_parent=LIFE.open_again,
            after_in_child=LIFE.begin_anew,
        )
