"""The background loop of all sync channels: one asyncio loop on one daemon thread.

It starts with the first channel that needs it, ends with the last, is parked around fork so that
no thread of ours is inside gRPC at that moment, and is forgotten in the child, where the channels
begin anew. It never runs grpc.aio: that engine cannot be forked (DESIGN section 5).
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Callable
from typing import Protocol

_LOG = logging.getLogger("grpclb.fork")
_LOOP_LOG = logging.getLogger("grpclb.loop")
_PARK_PATIENCE = 2.0  # seconds that a fork waits for the loop to reach a safe point
_STOP_PATIENCE = 2.0
_EXIT_PATIENCE = 0.8  # the interpreter ends, and a resolver that blocks must not hold it up


class ForkAware(Protocol):
    """Something that lives on the loop and must begin anew in a forked child."""

    def forget_after_fork(self) -> None:
        """Called in the child, by its only thread. Touch no lock and no loop of the parent."""
        ...


class Lease:
    """One member's hold on the loop."""

    __slots__ = ("_control", "loop")

    def __init__(self, control: ControlLoop, loop: asyncio.AbstractEventLoop) -> None:
        self._control: ControlLoop | None = control
        self.loop = loop

    def release(self, *, wait: bool = True) -> None:
        """The member is done; the last one out stops the loop, and waits for its thread.

        Harmless when repeated. A finalizer passes `wait=False`: it may run anywhere.
        """
        control, self._control = self._control, None
        if control is not None:
            control._release(self.loop, wait)


class ControlLoop:
    """A counted background loop. Every method may be called on any thread."""

    def __init__(self) -> None:
        # Re-entrant: a finalizer that releases a lease may run while the lock is held.
        self._lock = threading.RLock()
        self._users = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._members: weakref.WeakSet[ForkAware] = weakref.WeakSet()
        self._unpark: threading.Event | None = None
        self._graveyard: list[object] = []

    def watch_forks(self, member: ForkAware) -> None:
        """Have `member.forget_after_fork` called in forked children, as long as it lives."""
        with self._lock:
            self._members.add(member)

    def acquire(self) -> Lease:
        """A lease on the running loop, which starts if this is the first.

        Raises RuntimeError or OSError where no thread or no descriptor is to be had; nothing has
        happened then, and the next one may have more luck.
        """
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(
                    target=_run, args=(loop,), name="grpclb-control", daemon=True
                )
                try:
                    thread.start()
                except BaseException:
                    loop.close()
                    raise
                self._loop, self._thread = loop, thread
            self._users += 1
            return Lease(self, self._loop)

    def _release(self, loop: asyncio.AbstractEventLoop, wait: bool) -> None:
        with self._lock:
            if loop is not self._loop:
                return  # a lease from before a fork or a shutdown
            self._users -= 1
            if self._users > 0:
                return
            thread = self._thread
            self._loop = self._thread = None
        _stop(loop, thread if wait else None)

    @property
    def thread(self) -> threading.Thread | None:
        return self._thread

    def shut_down(self) -> None:
        """At interpreter exit: end the thread while threads can still be ended."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
            self._users = 0
        _stop(loop, thread, _EXIT_PATIENCE)

    def before_fork(self) -> None:
        """Bring the loop's thread to a standstill in Python code, holding nothing."""
        self._lock.acquire()
        loop, thread = self._loop, self._thread
        if loop is None or thread is None or thread is threading.current_thread():
            return
        parked, self._unpark = threading.Event(), threading.Event()
        unpark = self._unpark

        def park() -> None:
            parked.set()
            unpark.wait()

        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(park)
            parked.wait(_PARK_PATIENCE)

    def after_fork_in_parent(self) -> None:
        unpark, self._unpark = self._unpark, None
        if unpark is not None:
            unpark.set()
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Begin anew. The parent's loop is kept, unclosed: its selector is shared with it."""
        _warn_of_fork(used=self._loop is not None)
        self._graveyard.append((self._loop, self._thread, self._lock))
        self._lock = threading.RLock()
        self._loop = self._thread = self._unpark = None
        self._users = 0
        for member in list(self._members):
            member.forget_after_fork()


def _warn_of_fork(*, used: bool) -> None:
    """In the child of a process whose channels were in use: what grpcio makes of that."""
    support = os.environ.get("GRPC_ENABLE_FORK_SUPPORT", "").lower()
    if not used or support in ("1", "true", "yes"):
        return
    if support in ("0", "false", "no"):
        _LOG.error(
            "forked with GRPC_ENABLE_FORK_SUPPORT=0 after a channel was used: RPCs in this child "
            "are likely to hang; set it to 1, or make the first RPC after the fork"
        )
    else:
        _LOG.warning(
            "forked after a channel was used: set GRPC_ENABLE_FORK_SUPPORT=1 in the environment "
            "for reliable RPCs in the child, or make the first RPC after the fork"
        )


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        while True:
            try:
                loop.run_forever()
                break
            except SystemExit:  # asyncio lets it through; the channels of others live here, too
                _LOOP_LOG.exception("sys.exit() was called on the control loop, and ignored")
    finally:
        _cancel_all(loop)
        loop.close()


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=_STOP_PATIENCE / 2))
    loop.run_until_complete(loop.shutdown_asyncgens())


def _stop(
    loop: asyncio.AbstractEventLoop | None,
    thread: threading.Thread | None,
    patience: float = _STOP_PATIENCE,
) -> None:
    if loop is None:
        return
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(loop.stop)
    if thread is not None and thread is not threading.current_thread():
        thread.join(patience)


def run_on(
    loop: asyncio.AbstractEventLoop, function: Callable[[], object], timeout: float
) -> object:
    """Run `function` on the loop's thread and return its result; TimeoutError if it is stuck."""
    done = threading.Event()
    box: list[object] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            box.append(function())
        except BaseException as error:
            errors.append(error)
        done.set()

    loop.call_soon_threadsafe(call)
    if not done.wait(timeout):
        raise TimeoutError(f"the control loop did not answer in {timeout} s")
    if errors:
        raise errors[0]
    return box[0]


CONTROL = ControlLoop()

atexit.register(CONTROL.shut_down)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=CONTROL.before_fork,
        after_in_parent=CONTROL.after_fork_in_parent,
        after_in_child=CONTROL.after_fork_in_child,
    )
