"""Single control-plane RPCs on grpcio's threads, as `grpclb.resolvers.rpc` makes them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import grpc
from grpc import StatusCode

from grpclb.resolvers.rpc_life import LIFE

Metadata = Sequence[tuple[str, str | bytes]]

_CLOSE_PATIENCE = 1.0  # seconds for a stream that is cancelled to say so
_MOST_UNSENT = 1_000  # messages: a server that reads nothing must not fill our memory
_FORKED = "interrupted by a fork of this process"


class RpcFailed(Exception):
    """An RPC ended with a status that is not OK.

    `interrupted` is True where the server has nothing to do with it (this process forked): begin
    again at once.
    """

    def __init__(self, code: StatusCode, details: str, *, interrupted: bool = False) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code = code
        self.details = details
        self.interrupted = interrupted


class Connection:
    """What a channel and its calls share."""

    def __init__(self, target: str, channel: Any) -> None:
        self.target = target
        self.channel = channel  # grpcio's
        self.calls: set[Call] = set()  # grpcio's threads remove from it: copy to iterate
        self.idle = asyncio.Event()  # set when the last call has ended
        self.closed = False
        self._generation = LIFE.generation

    @property
    def of_parent(self) -> bool:
        """Whether this process was forked from the one that made it, and must not touch it."""
        return self._generation != LIFE.generation

    def check(self) -> None:
        """Raises RpcFailed if no call can begin."""
        if self.closed:
            raise RpcFailed(StatusCode.CANCELLED, f"{self.target}: the channel is closed")
        if self.of_parent:
            raise RpcFailed(
                StatusCode.UNAVAILABLE,
                f"{self.target}: the connection belongs to the parent of this process",
                interrupted=True,
            )


class Call:
    """What unary calls and streams share: being counted, cut, cancelled and forgotten."""

    def __init__(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._loop = loop
        self._call: Any = None
        self._starter = 0
        self._cut = False

    def started(self, call: Any) -> None:
        """`call` is grpcio's. Called within `LIFE.begin`, so no fork comes in between."""
        self._call = call
        self._starter = threading.get_ident()
        self._connection.calls.add(self)
        LIFE.add(self)
        call.add_done_callback(self._done)

    def cut(self) -> None:
        self._cut = True
        self.close()

    def close(self) -> None:
        """Cancel. Any thread; never blocks."""
        self._call.cancel()

    def forget(self) -> None:
        self._cut = True
        self._connection.calls.discard(self)

    def _done(self, call: Any) -> None:
        """grpcio's thread (or the loop's, if it was over at once): the status is known."""
        if threading.get_ident() != self._starter:
            LIFE.saw(threading.current_thread())
        LIFE.remove(self)
        self._connection.calls.discard(self)
        if not self._connection.calls:
            self._post(self._connection.idle.set)

    def _failure(self, call: Any) -> RpcFailed | None:
        code = call.code()
        if code is StatusCode.OK:
            return None
        if self._cut:
            return self._over_error()
        return RpcFailed(code, call.details() or "")

    def _over_error(self) -> RpcFailed:
        if self._cut:
            return RpcFailed(StatusCode.UNAVAILABLE, _FORKED, interrupted=True)
        return RpcFailed(StatusCode.CANCELLED, f"{self._connection.target}: the call is over")

    def _post(self, function: Callable[..., object], *args: object) -> bool:
        """Have the loop call `function`; False when it was closed."""
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            return False
        return True


class Unary(Call):
    """One unary call: grpcio's future, bridged to the loop's."""

    def __init__(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(connection, loop)
        self._answer: asyncio.Future[bytes] = loop.create_future()

    async def result(self) -> bytes:
        try:
            return await self._answer
        finally:
            self.close()  # harmless when it is over

    def _done(self, call: Any) -> None:
        super()._done(call)
        failure = self._failure(call)
        self._post(self._settle, failure, None if failure else call.result())

    def _settle(self, failure: RpcFailed | None, response: bytes) -> None:
        if self._answer.done():
            return
        if failure is None:
            self._answer.set_result(response)
        else:
            self._answer.set_exception(failure)


class _Requests:
    """The iterator that grpcio's writing thread blocks on; no thread of ours does."""

    def __init__(self, on_sent: Callable[[], object] | None) -> None:
        self.items: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._on_sent = on_sent
        self._seen = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        if not self._seen:
            self._seen = True
            LIFE.saw(threading.current_thread())
        elif self._on_sent is not None:
            self._on_sent()  # grpcio asks for the next one when C-core has sent the one before
        item = self.items.get()
        if item is None:
            raise StopIteration
        return item


class BidiStream(Call):
    """A stream in both directions: ``async with channel.stream(method) as stream``.

    Iterating yields messages, and ends when the server ends the stream with OK; anything else
    raises RpcFailed. One task iterates at a time. At most `read_ahead` messages wait for it, so
    that a slow consumer holds up the server and not our memory. Leaving the block cancels.
    """

    def __init__(
        self,
        connection: Connection,
        method: str,
        metadata: Metadata,
        read_ahead: int,
        on_sent: Callable[[], object] | None = None,
    ) -> None:
        self._method = method
        self._metadata = metadata
        self._requests = _Requests(on_sent and functools.partial(self._post, on_sent))
        self._credits = threading.Semaphore(read_ahead)
        self._inbox: deque[bytes] = deque()
        self._arrived = asyncio.Event()
        self._finished = asyncio.Event()  # the reading thread has ended
        self._over = False
        self._stopped = False
        self._error: RpcFailed | None = None
        self._connection = connection
        self._call: Any = None
        self._starter = 0
        self._cut = False

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        await LIFE.begin(self._start)
        return self

    def _start(self) -> None:
        self._connection.check()
        stub = self._connection.channel.stream_stream(self._method)
        call = stub(self._requests, metadata=self._metadata)
        self.started(call)
        reader = threading.Thread(
            target=self._read, args=(call,), name="grpclb-rpc-reader", daemon=True
        )
        LIFE.saw(reader)
        reader.start()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._connection.of_parent:
            return
        self.close()
        if kind is GeneratorExit:
            return  # dropped with its loop: nobody could be waited for
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_PATIENCE):
                await self._finished.wait()

    def close(self) -> None:
        self._stopped = True
        super().close()
        self._credits.release()  # the reader may wait for one

    # -- writing ---------------------------------------------------------------------------------

    async def send(self, message: bytes) -> None:
        """Send after all that was sent before. Raises RpcFailed when the stream is over.

        Returning does not mean that the server has it.
        """
        self.send_nowait(message)

    def send_nowait(self, message: bytes) -> None:
        """As `send`, for callers that are no coroutines."""
        if self._over or self._stopped:
            raise self._error or self._over_error()
        if self._requests.items.qsize() >= _MOST_UNSENT:
            raise RpcFailed(
                StatusCode.RESOURCE_EXHAUSTED, f"{_MOST_UNSENT} messages wait to be sent"
            )
        self._requests.items.put(message)

    def half_close(self) -> None:
        """Nothing more is sent; the server's messages go on."""
        self._requests.items.put(None)

    # -- reading ---------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not self._inbox:
            if self._over:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        self._credits.release()
        return self._inbox.popleft()

    def _read(self, call: Any) -> None:
        """The reading thread, from the start of the stream to its end."""
        try:
            self._credits.acquire()
            for message in call:
                if not self._post(self._deliver, message):
                    break
                self._credits.acquire()
                if self._stopped:
                    break
        except grpc.RpcError as error:
            error.__traceback__ = None  # it is the call itself, and would hold this frame
        finally:
            call.cancel()
            self._post(self._end, self._failure(call))

    def _deliver(self, message: bytes) -> None:
        self._inbox.append(message)
        self._arrived.set()

    def _end(self, failure: RpcFailed | None) -> None:
        self._over = True
        self._error = failure
        self._arrived.set()
        self._finished.set()

    def _done(self, call: Any) -> None:
        self._requests.items.put(None)  # grpcio's writing thread may wait for the next request
        super()._done(call)

    def forget(self) -> None:
        super().forget()
        self._stopped = self._over = True
        self._error = self._over_error()
