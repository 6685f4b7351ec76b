"""Registration of a service in etcd, for programs without asyncio.

The work is done on the loop that all sync channels share; the caller's thread only waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from signal import SIGINT, SIGTERM
from types import TracebackType
from typing import Any, Protocol, Self, Unpack

from grpclb.control.loop import CONTROL, Lease
from grpclb.resolvers.etcd.plan import DEFAULT_TTL, EtcdOptions, Plan
from grpclb.resolvers.etcd.registrant import Registrant
from grpclb.resolvers.etcd.registrar import RegistrationState
from grpclb.resolvers.etcd.registration import DRAIN, GRACE, PATIENCE

_LOOK_AGAIN = 0.5  # seconds
_CLOSE_PATIENCE = 5.0  # seconds; the registrant itself takes 3 at most


class Server(Protocol):
    """What is needed of a grpc.Server."""

    def start(self) -> None: ...
    def stop(self, grace: float | None) -> threading.Event: ...
    def wait_for_termination(self, timeout: float | None = None) -> bool: ...


class SyncRegistration:
    """A service in etcd for as long as the block lasts; `Registration` without asyncio.

        with SyncRegistration("etcd:///shop/api", "10.0.0.7:50051", {"weight": 2}):
            server.wait_for_termination()

    Arguments, errors and promises are those of `Registration`. Any thread may call any method. A
    process that forks keeps its registration; the child has no part in it.
    """

    def __init__(
        self,
        target: str,
        address: str,
        metadata: Mapping[str, Any] | None = None,
        *,
        ttl: int = DEFAULT_TTL,
        patience: float = PATIENCE,
        keep_trying: bool = False,
        **etcd: Unpack[EtcdOptions],
    ) -> None:
        self._registrant = Registrant(Plan.of(target, address, ttl, etcd), metadata)
        self._patience = patience
        self._keep_trying = keep_trying
        self._hold: Lease | None = None
        self._pid = os.getpid()

    def __enter__(self) -> Self:
        if self._hold is not None or self.state is not RegistrationState.NEW:
            raise RuntimeError(f"{self!r}: a registration is entered once; make a new one")
        self._hold = CONTROL.acquire()
        start = self._registrant.start(self._patience, keep_trying=self._keep_trying)
        try:
            self._wait(start, self._patience + _CLOSE_PATIENCE)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """What leaving the block does. Repeating it is harmless."""
        hold, self._hold = self._hold, None
        if hold is None or self._pid != os.getpid():
            return
        try:
            with contextlib.suppress(TimeoutError, asyncio.CancelledError):
                self._wait(self._registrant.close(), _CLOSE_PATIENCE, hold)
        finally:
            hold.release()

    def update(self, metadata: Mapping[str, Any] | None) -> None:
        """Replace the metadata. Returns at once; `settled` waits until etcd has it.

        Raises TypeError or ValueError for metadata that no client would read.
        """
        value = self._registrant.plan.value(metadata)
        hold = self._hold
        if hold is None and self.state is RegistrationState.NEW:
            self._registrant.replace(value)
        elif hold is not None and self._pid == os.getpid():
            with contextlib.suppress(RuntimeError):  # the interpreter is about to end
                hold.loop.call_soon_threadsafe(self._registrant.update, value)

    def settled(self, timeout: float | None = None) -> bool:
        """Wait until etcd has what was last asked for; False if not within `timeout` seconds."""
        if self._hold is None or self._pid != os.getpid():
            return False
        return bool(self._wait(self._registrant.settled(timeout), None))

    def serve(
        self,
        server: Server,
        *,
        drain: float = DRAIN,
        grace: float | None = GRACE,
        signals: Sequence[int] = (SIGTERM, SIGINT),
    ) -> None:
        """Start `server` (a grpc.Server), register, and serve until one of `signals` comes.

        Then, or when the server was stopped: deregister, go on serving for `drain` seconds while
        clients hear of it, and stop the server, which gives RPCs under way `grace` seconds. A
        second signal does what it would do without us. Signals are seen only when this is called
        on the main thread. Raises RegistrationError as entering does, with the server stopped.
        """
        # Of all queues only this one may be put into by a signal handler that interrupts its get.
        ended: queue.SimpleQueue[None] = queue.SimpleQueue()
        with _until_the_first_of(signals, lambda: ended.put(None)):
            try:
                server.start()
                watcher = threading.Thread(
                    target=_watch, args=(server, ended), name="grpclb-etcd-serve", daemon=True
                )
                watcher.start()
                with self:
                    _wait_for(ended)
            except BaseException:
                server.stop(0).wait()
                raise
            still_serving = server.wait_for_termination(drain)  # "whether the time ran out"
            if still_serving:
                server.stop(grace).wait()
            watcher.join()

    @property
    def state(self) -> RegistrationState:
        """Where it is now."""
        return self._registrant.state

    @property
    def error(self) -> str | None:
        """Why it is not registered now; None if it is."""
        return self._registrant.error

    @property
    def key(self) -> str:
        """The key in etcd."""
        return self._registrant.plan.key.decode()

    @property
    def lease(self) -> int | None:
        """The id of the lease that etcd has given last."""
        return self._registrant.lease

    def __repr__(self) -> str:
        return f"<SyncRegistration {self._registrant} {self.state.value}>"

    def _wait(
        self, work: Coroutine[Any, Any, Any], timeout: float | None, hold: Lease | None = None
    ) -> Any:
        """Have the loop do `work`, and wait. Interrupted by a signal, the work is cancelled."""
        hold = hold or self._hold
        assert hold is not None, "entered"
        try:
            future: Future[Any] = asyncio.run_coroutine_threadsafe(work, hold.loop)
        except RuntimeError:  # the loop has ended with the interpreter
            work.close()
            return None
        try:
            return future.result(timeout)
        except BaseException:
            future.cancel()
            raise


def _wait_for(ended: queue.SimpleQueue[None]) -> None:
    # Looked after again and again: a signal that comes in the moment before this thread falls
    # asleep, or on another thread, does not wake it.
    while True:
        with contextlib.suppress(queue.Empty):
            return ended.get(timeout=_LOOK_AGAIN)


def _watch(server: Server, ended: queue.SimpleQueue[None]) -> None:
    server.wait_for_termination()
    ended.put(None)


@contextlib.contextmanager
def _until_the_first_of(signals: Sequence[int], received: Callable[[], None]) -> Iterator[None]:
    """Have the first of these signals call `received`; then they do again what they did before."""
    before: dict[int, Any] = {}

    def restore() -> None:
        while before:
            number, handler = before.popitem()
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def handle(number: int, frame: object) -> None:
        restore()
        received()

    if threading.current_thread() is threading.main_thread():
        for number in signals:
            before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        restore()
