"""Response streams that are retried or hedged: who reads a message commits the RPC to it."""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

import grpc
import grpc.aio

from grpclb.aio.errors import (
    EndedCall,
    rpc_error,
)
from grpclb.aio.retried_call import RetriedCall
from grpclb.aio.tries import Try, error_of, is_being_cancelled


class RetriedResponses(RetriedCall):
    """Messages are read through one iterator per attempt; the first one commits it."""

    _read_ahead: list[Any]

    def _sent(self, one: Try) -> None:
        super()._sent(one)
        one.responses = aiter(one.inner)
        if self._hedged:
            one.reading = True
            one.first_read = self._engine.works().spawn(_read_first(weakref.ref(self), one))

    async def _next(self) -> Any:
        """The next message, or EOF."""
        while True:
            inner = self._inner
            if inner is None or self._hedged:
                inner = await self._waited()
            if getattr(self, "_read_ahead", None):
                return self._read_ahead.pop()
            one = self._try_of(inner)
            if one is None or one.responses is None or isinstance(inner, EndedCall):
                await self._raise_end(inner)
            assert one is not None
            assert one.responses is not None
            uncommitted = not one.ended and self._machine.committed is None
            one.reading = uncommitted
            try:
                message = await anext(one.responses)
            except StopAsyncIteration:
                self._stop_reading(one)
                if await self._is_well(inner):
                    return grpc.aio.EOF
            except grpc.aio.AioRpcError as error:
                self._stop_reading(one)
                await self._raise_if_final(inner, error)
            except asyncio.CancelledError:
                self._stop_reading(one)
                if self._inner is inner or is_being_cancelled():
                    self.cancel()
                    raise
            else:
                if uncommitted:
                    self._commit(one)
                    self._stop_reading(one)
                return message

    async def _waited(self) -> Any:
        """What stands for the RPC, once nobody else reads its messages.

        A hedged attempt's first one is read beside us, and an iterator allows one reader at a
        time. It can win before that: a request that is too large to keep commits it at once.
        """
        try:
            inner = await self._arrived()
            one = self._try_of(inner)
            if one is not None and one.first_read is not None:
                await asyncio.wait([one.first_read])
                one.first_read = None
        except asyncio.CancelledError:
            self.cancel()
            raise
        return inner

    async def _is_well(self, inner: Any) -> bool:
        """Whether that was the end of the messages; raises the RPC's error.

        An iterator tells of an error once. It told `_read_first`, and then only that it is over.
        """
        if inner.cancelled():
            raise asyncio.CancelledError
        if await inner.code() is grpc.StatusCode.OK:
            return True
        await self._raise_if_final(inner, error_of(inner))
        return False

    async def _raise_if_final(self, inner: Any, error: BaseException) -> None:
        final = await self._final_error(inner, error)
        if final is error:
            raise error
        if final is not None:
            raise final from None

    async def _raise_end(self, inner: Any) -> None:
        if isinstance(inner, EndedCall):
            if inner.is_cancelled:
                raise asyncio.CancelledError
            error = rpc_error(inner.status)
            self._is_error(inner, error)
            raise error
        await inner.read()

    def _stop_reading(self, one: Try) -> None:
        one.reading = False
        pending, one.end_pending = one.end_pending, False
        if pending:
            self._try_is_over(one)


async def _read_first(reference: weakref.ref[RetriedCall], one: Try) -> None:
    """Whether a hedged stream has a message is known only by reading it."""
    assert one.responses is not None
    try:
        message = [await anext(one.responses)]
    except (StopAsyncIteration, grpc.aio.AioRpcError, asyncio.CancelledError):
        message = []
    call = reference()
    if call is None:
        return
    assert isinstance(call, RetriedResponses)
    if message and not one.cancelled and call._machine.committed in (None, one.attempt):
        call._read_ahead = message
        call._commit(one)
    call._stop_reading(one)
