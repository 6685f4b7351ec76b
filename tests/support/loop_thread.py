"""An asyncio server on a thread of its own, over bare sockets.

asyncio's own servers and transports can leak a connection that comes in while they close, and a
leaked socket is an error in our test run; here every socket is closed by the one who knows it.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Protocol


class Main(Protocol):
    """The coroutine of a server: call `ready` once it can be used, end when `stopping` is set."""

    def __call__(self, ready: Callable[[], None], stopping: asyncio.Event) -> Awaitable[None]: ...


class LoopThread:
    """Runs one `Main` at a time on a daemon thread; `start` and `stop` block for a moment."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None

    def start(self, main: Main) -> None:
        """Return once `main` has called `ready`; RuntimeError if it runs or does not get there."""
        if self._thread is not None:
            raise RuntimeError(f"{self._name} is already running")
        ready = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run(main, ready)), name=self._name, daemon=True
        )
        self._thread.start()
        if not ready.wait(10):
            raise RuntimeError(f"{self._name} did not start within 10 s")

    def stop(self) -> None:
        """End `main` and the thread; without effect if nothing runs."""
        if self._thread is None or self._loop is None or self._stopping is None:
            return
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)
        self._thread = None

    def call(self, action: Callable[[], object]) -> None:
        """Have the loop call `action` soon; without effect if nothing runs."""
        if self._thread is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(action)

    async def _run(self, main: Main, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        await main(ready.set, self._stopping)


class Connections:
    """Accepts on a listening, non-blocking socket, one task for each connection (loop thread)."""

    def __init__(
        self, listener: socket.socket, handle: Callable[[socket.socket], Awaitable[None]]
    ) -> None:
        self._listener = listener
        self._handle = handle
        self._tasks: dict[socket.socket, asyncio.Task[None]] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(listener, self._accept)

    async def close(self) -> None:
        """Accept no more, cancel every handler and close every connection."""
        self._loop.remove_reader(self._listener)
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the peer has gone again
            connection, _ = self._listener.accept()
            connection.setblocking(False)
            task = self._loop.create_task(self._serve(connection))
            self._tasks[connection] = task
            task.add_done_callback(lambda _: self._forget(connection))

    async def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(ConnectionError, EOFError):  # the peer has what it wanted
            await self._handle(connection)

    def _forget(self, connection: socket.socket) -> None:
        # Not in `_serve`: a task that is cancelled before its first step never gets there.
        connection.close()
        self._tasks.pop(connection, None)
