"""The four kinds of aio call objects: how requests are written and responses read."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterable, AsyncIterator, Generator, Iterable
from typing import Any

import grpc
import grpc.aio

from grpclb.aio.call import ClientCall, find_backend
from grpclb.aio.errors import (
    ALREADY_FINISHED,
    HALF_CLOSED,
    MIXED_STYLES,
    EndedCall,
    rpc_error,
)
from grpclb.aio.pick import Seen

_LOG = logging.getLogger("grpclb.call")


class _UnaryResponse(ClientCall):
    def _find(self, seen: Seen | None = None) -> None:
        # Fire and forget, as in grpcio: it is sent and runs to its end though nobody holds it.
        self._search = self._engine.works().spawn(find_backend(lambda: self, seen))

    def __await__(self) -> Generator[Any, None, Any]:
        while True:
            inner = self._inner
            if inner is None:
                try:
                    inner = yield from self._arrived().__await__()
                except asyncio.CancelledError:
                    self.cancel()
                    raise
            try:
                return (yield from inner.__await__())
            except grpc.aio.AioRpcError as error:
                if self._is_error(inner, error):
                    raise


class _StreamResponse(ClientCall):
    _response_style: str | None = None
    _responses: AsyncIterator[Any] | None = None

    def _use_style(self, style: str) -> None:
        if self._response_style is None:
            self._response_style = style
        elif self._response_style != style:
            raise grpc.aio.UsageError(MIXED_STYLES)

    def __aiter__(self) -> AsyncIterator[Any]:
        self._use_style("iterator")
        if self._responses is None:
            self._responses = self._iterate()
        return self._responses

    async def _iterate(self) -> AsyncIterator[Any]:
        while True:
            inner = self._inner if self._inner is not None else await self._await_arrival()
            try:
                async for response in inner:
                    yield response
                return
            except grpc.aio.AioRpcError as error:
                if self._is_error(inner, error):
                    raise

    async def read(self) -> Any:
        if not self._final:
            self._use_style("read")
        while True:
            inner = self._inner if self._inner is not None else await self._await_arrival()
            try:
                return await inner.read()
            except grpc.aio.AioRpcError as error:
                if self._is_error(inner, error):
                    raise

    def __del__(self) -> None:
        # As in grpcio, a stream that nobody holds is cancelled. Ours must see to it: `_ended`
        # keeps grpcio's object alive until it ends.
        super().__del__()
        if not self._final and self._inner is not None:
            with contextlib.suppress(Exception):  # its loop may be closed
                self._inner.cancel()

    async def _await_arrival(self) -> Any:
        try:
            return await self._arrived()
        except asyncio.CancelledError:
            self.cancel()
            raise


class _StreamRequest(ClientCall):
    _streams_requests = True
    _done_writing = False
    _poller: asyncio.Task[None] | None = None
    _poller_writes = False

    def _finish(self) -> None:
        # A write that fails after the server ended the stream would replace the status that the
        # server gave by INTERNAL: grpcio loses the status of many streams so.
        if self._poller is not None and self._poller_writes:
            self._poller.cancel()
        super()._finish()

    def start(self) -> None:
        super().start()
        if self._arguments.request is not None:
            self._poller = self._engine.works().spawn(self._consume(self._arguments.request))

    async def _consume(self, requests: AsyncIterable[Any] | Iterable[Any]) -> None:
        """Send the user's messages; whatever the iterator raises cancels the RPC, as in grpcio."""
        try:
            if isinstance(requests, AsyncIterable):
                async for request in requests:
                    if not await self._send_on(request):
                        return
            else:
                for request in requests:
                    if not await self._send_on(request):
                        return
            await self._close_requests()
        except BaseException:
            _LOG.debug("the request iterator raised", exc_info=True)
            self.cancel()

    async def _send_on(self, request: Any) -> bool:
        self._poller_writes = True
        try:
            await self._write(request)
        except grpc.aio.AioRpcError as error:
            _LOG.debug("the RPC ended while its requests were sent: %s", error.code())
            return False
        finally:
            self._poller_writes = False
        return True

    async def _write(self, request: Any) -> None:
        while True:
            if self._final:
                raise asyncio.InvalidStateError(ALREADY_FINISHED)
            if self._done_writing:
                raise asyncio.InvalidStateError(HALF_CLOSED)
            inner = self._inner if self._inner is not None else await self._await_write()
            try:
                await inner.write(request)
                return
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
                # The attempt never left: the message goes to the next one.
                if self._is_error(inner, error):
                    raise

    async def _await_write(self) -> Any:
        try:
            inner = await self._arrived()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if isinstance(inner, EndedCall):
            raise rpc_error(inner.status)
        return inner

    async def _close_requests(self) -> None:
        while not self._done_writing and not self._final:
            inner = self._inner if self._inner is not None else await self._arrived()
            await inner.done_writing()
            if self._inner is inner:
                self._done_writing = True

    async def write(self, request: Any) -> None:
        if self._arguments.request is not None:
            raise grpc.aio.UsageError(MIXED_STYLES)
        await self._write(request)

    async def done_writing(self) -> None:
        if self._arguments.request is not None:
            raise grpc.aio.UsageError(MIXED_STYLES)
        await self._close_requests()

    def cancel(self) -> bool:
        cancelled = super().cancel()
        if cancelled and self._poller is not None and self._poller is not asyncio.current_task():
            self._poller.cancel()
        return cancelled


class UnaryUnaryCall(_UnaryResponse, grpc.aio.UnaryUnaryCall):
    """grpc.aio.UnaryUnaryCall, balanced."""


class UnaryStreamCall(_StreamResponse, grpc.aio.UnaryStreamCall):
    """grpc.aio.UnaryStreamCall, balanced."""


class StreamUnaryCall(_StreamRequest, _UnaryResponse, grpc.aio.StreamUnaryCall):
    """grpc.aio.StreamUnaryCall, balanced."""


class StreamStreamCall(_StreamRequest, _StreamResponse, grpc.aio.StreamStreamCall):
    """grpc.aio.StreamStreamCall, balanced."""
