"""The user's aio interceptors: they run above the balancing, once per call.

grpcio's own intercepted calls create their RPC on a grpcio channel, so the chain is ours; what an
interceptor sees (`ClientCallDetails`, continuation, call objects) is what grpcio shows it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from typing import Any

import grpc
import grpc.aio

from grpclb.aio.errors import ALREADY_FINISHED, HALF_CLOSED, LOCALLY_CANCELLED, MIXED_STYLES

_LOG = logging.getLogger("grpclb.call")
_KINDS = {
    grpc.aio.UnaryUnaryClientInterceptor: "unary_unary",
    grpc.aio.UnaryStreamClientInterceptor: "unary_stream",
    grpc.aio.StreamUnaryClientInterceptor: "stream_unary",
    grpc.aio.StreamStreamClientInterceptor: "stream_stream",
}

Details = grpc.aio.ClientCallDetails
Invoke = Callable[[Details, Any], Any]  # makes the RPC itself


def sort_interceptors(interceptors: Sequence[Any] | None) -> dict[str, list[Any]]:
    """Interceptors by the kind of RPC that they are for. Raises ValueError for a stranger."""
    table: dict[str, list[Any]] = {kind: [] for kind in _KINDS.values()}
    for interceptor in interceptors or ():
        for base, kind in _KINDS.items():
            if isinstance(interceptor, base):
                table[kind].append(interceptor)
                break
        else:
            names = " or ".join(base.__name__ for base in _KINDS)
            raise ValueError(f"Interceptor {interceptor} must be {names}.")
    return table


class InterceptedCall(grpc.aio.Call):
    """An RPC in the hands of interceptors, and then the call that they gave back."""

    _kind: str
    _call_type: type

    def __init__(
        self, interceptors: Sequence[Any], details: Details, request: Any, invoke: Invoke
    ) -> None:
        self._invoke = invoke
        self._last_call: Any = None
        self._callbacks: list[Callable[[Any], None]] = []
        chain = self._chain(tuple(interceptors), details, self._prepare(request))
        self._task: asyncio.Task[Any] = asyncio.get_event_loop().create_task(chain)
        self._task.add_done_callback(self._chain_done)

    def _prepare(self, request: Any) -> Any:
        return request

    async def _chain(self, interceptors: tuple[Any, ...], details: Details, request: Any) -> Any:
        if not interceptors:
            self._last_call = self._invoke(details, request)
            return self._last_call
        continuation = functools.partial(self._chain, interceptors[1:])
        intercept: Callable[..., Awaitable[Any]] = getattr(
            interceptors[0], f"intercept_{self._kind}"
        )
        result = await intercept(continuation, details, request)
        if not isinstance(result, self._call_type):
            result = self._wrap(result)
        self._last_call = result
        return result

    def _wrap(self, result: Any) -> Any:
        """What an interceptor returned in place of a call."""
        return result

    def _chain_done(self, task: asyncio.Task[Any]) -> None:
        callbacks, self._callbacks = self._callbacks, []
        call = None if task.cancelled() or task.exception() is not None else task.result()
        for callback in callbacks:
            if call is None or call.done():
                callback(self)
            else:
                call.add_done_callback(functools.partial(_call_with, callback, self))

    @property
    def _call(self) -> Any:
        """The call, if the interceptors gave one; None if they are at work or failed."""
        task = self._task
        if not task.done() or task.cancelled() or task.exception() is not None:
            return None
        return task.result()

    def cancel(self) -> bool:
        if not self._task.done():
            return self._task.cancel()
        return False if self._call is None else bool(self._call.cancel())

    def cancelled(self) -> bool:
        if self._call is not None:
            return bool(self._call.cancelled())
        if not self._task.done():
            return False
        if self._task.cancelled():
            return True
        error = self._task.exception()
        is_rpc_error = isinstance(error, grpc.aio.AioRpcError)
        return is_rpc_error and error.code() is grpc.StatusCode.CANCELLED  # type: ignore[union-attr]

    def done(self) -> bool:
        return self._task.done() if self._call is None else bool(self._call.done())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        if not self._task.done():
            self._callbacks.append(callback)
        elif self._call is None or self._call.done():
            callback(self)
        else:
            self._call.add_done_callback(functools.partial(_call_with, callback, self))

    def time_remaining(self) -> float | None:
        raise NotImplementedError

    async def _ask(self, question: str, cancelled: Any) -> Any:
        """A call's answer; the error's own, if the interceptors raised one."""
        try:
            call = await asyncio.shield(self._task)
        except grpc.aio.AioRpcError as error:
            return getattr(error, question)()
        except asyncio.CancelledError:
            if not self._task.cancelled():
                raise
            return cancelled
        return await getattr(call, question)()

    async def initial_metadata(self) -> Any:
        return await self._ask("initial_metadata", None)

    async def trailing_metadata(self) -> Any:
        return await self._ask("trailing_metadata", None)

    async def code(self) -> Any:
        return await self._ask("code", grpc.StatusCode.CANCELLED)

    async def details(self) -> Any:
        return await self._ask("details", LOCALLY_CANCELLED)

    async def debug_error_string(self) -> Any:
        return await self._ask("debug_error_string", "")

    async def wait_for_connection(self) -> None:
        call = await self._task
        await call.wait_for_connection()

    def __del__(self) -> None:
        if hasattr(self, "_task"):
            self.cancel()


class _UnaryResponse(InterceptedCall):
    def __await__(self) -> Generator[Any, None, Any]:
        call = yield from self._task.__await__()
        return (yield from call.__await__())


class _StreamResponse(InterceptedCall):
    _responses: AsyncIterator[Any] | None = None

    async def _iterate(self) -> AsyncIterator[Any]:
        call = await self._task
        async for response in call:
            yield response

    def __aiter__(self) -> AsyncIterator[Any]:
        if self._responses is None:
            self._responses = self._iterate()
        return self._responses

    async def read(self) -> Any:
        try:
            return await anext(aiter(self))
        except StopAsyncIteration:
            return grpc.aio.EOF


class _StreamRequest(InterceptedCall):
    """Where the caller writes, the interceptors see an iterator of what is written."""

    _queue: asyncio.Queue[Any] | None = None
    _writing_done = False
    _END = object()

    def _prepare(self, request: Any) -> Any:
        if request is not None:
            return request
        self._queue = asyncio.Queue(maxsize=1)
        return self._written(self._queue)

    async def _written(self, queue: asyncio.Queue[Any]) -> AsyncIterator[Any]:
        while (message := await queue.get()) is not self._END:
            yield message

    async def _put(self, message: Any) -> None:
        """Into the queue, unless the RPC ends first."""
        if self._queue is None:
            raise grpc.aio.UsageError(MIXED_STYLES)
        try:
            call = await asyncio.shield(self._task)
        except (asyncio.CancelledError, grpc.aio.AioRpcError):
            if not self._task.done():
                raise
            if message is self._END:
                return
            raise asyncio.InvalidStateError(ALREADY_FINISHED) from None
        if message is not self._END:
            if call.done():
                raise asyncio.InvalidStateError(ALREADY_FINISHED)
            if self._writing_done:
                raise asyncio.InvalidStateError(HALF_CLOSED)
        put = asyncio.ensure_future(self._queue.put(message))
        end = asyncio.ensure_future(call.code())
        try:
            await asyncio.wait((put, end), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in (put, end):
                waiter.cancel()
        if call.done() and message is not self._END:
            raise asyncio.InvalidStateError(ALREADY_FINISHED)

    async def write(self, request: Any) -> None:
        await self._put(request)

    async def done_writing(self) -> None:
        if self._queue is None:
            raise grpc.aio.UsageError(MIXED_STYLES)
        if not self._writing_done:
            await self._put(self._END)
            self._writing_done = True


class InterceptedUnaryUnaryCall(_UnaryResponse, grpc.aio.UnaryUnaryCall):
    """An intercepted unary-unary call."""

    _kind, _call_type = "unary_unary", grpc.aio.UnaryUnaryCall

    def _wrap(self, result: Any) -> Any:
        return FinishedUnaryCall(result)


class InterceptedUnaryStreamCall(_StreamResponse, grpc.aio.UnaryStreamCall):
    """An intercepted unary-stream call."""

    _kind, _call_type = "unary_stream", grpc.aio.UnaryStreamCall

    def _wrap(self, result: Any) -> Any:
        return ResponsesOf(self._last_call, result)


class InterceptedStreamUnaryCall(
    _StreamRequest,
    _UnaryResponse,
    grpc.aio.StreamUnaryCall,
):
    """An intercepted stream-unary call."""

    _kind, _call_type = "stream_unary", grpc.aio.StreamUnaryCall


class InterceptedStreamStreamCall(
    _StreamRequest,
    _StreamResponse,
    grpc.aio.StreamStreamCall,
):
    """An intercepted stream-stream call."""

    _kind, _call_type = "stream_stream", grpc.aio.StreamStreamCall

    def _wrap(self, result: Any) -> Any:
        return ResponsesOf(self._last_call, result)


class FinishedUnaryCall(grpc.aio.UnaryUnaryCall):
    """A response that an interceptor gave in place of an RPC."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def __await__(self) -> Generator[Any, None, Any]:
        return self._response
        yield

    def cancel(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False

    def done(self) -> bool:
        return True

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        raise NotImplementedError

    def time_remaining(self) -> float | None:
        raise NotImplementedError

    async def initial_metadata(self) -> None:  # type: ignore[override]
        return None

    async def trailing_metadata(self) -> None:  # type: ignore[override]
        return None

    async def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK

    async def details(self) -> str:
        return ""

    async def debug_error_string(self) -> None:
        return None

    async def wait_for_connection(self) -> None:
        return None


class ResponsesOf(grpc.aio.StreamStreamCall, grpc.aio.UnaryStreamCall):
    """A call whose responses an interceptor replaced by an iterator of its own."""

    def __init__(self, call: Any, responses: Any) -> None:
        self._call = call
        self._responses = responses

    def __aiter__(self) -> AsyncIterator[Any]:
        iterator: AsyncIterator[Any] = self._responses.__aiter__()
        return iterator

    def cancel(self) -> bool:
        return bool(self._call.cancel())

    def cancelled(self) -> bool:
        return bool(self._call.cancelled())

    def done(self) -> bool:
        return bool(self._call.done())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._call.add_done_callback(callback)

    def time_remaining(self) -> Any:
        return self._call.time_remaining()

    async def initial_metadata(self) -> Any:
        return await self._call.initial_metadata()

    async def trailing_metadata(self) -> Any:
        return await self._call.trailing_metadata()

    async def code(self) -> Any:
        return await self._call.code()

    async def details(self) -> Any:
        return await self._call.details()

    async def debug_error_string(self) -> Any:
        return await self._call.debug_error_string()

    async def wait_for_connection(self) -> None:
        await self._call.wait_for_connection()

    async def read(self) -> Any:
        return await self._call.read()

    async def write(self, request: Any) -> None:
        await self._call.write(request)

    async def done_writing(self) -> None:
        await self._call.done_writing()


INTERCEPTED: dict[str, type[InterceptedCall]] = {
    "unary_unary": InterceptedUnaryUnaryCall,
    "unary_stream": InterceptedUnaryStreamCall,
    "stream_unary": InterceptedStreamUnaryCall,
    "stream_stream": InterceptedStreamStreamCall,
}


def _call_with(callback: Callable[[Any], None], call: Any, inner: Any) -> None:
    callback(call)
