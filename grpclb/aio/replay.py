"""Request streams that several attempts are sent from their first message on."""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

import grpc
import grpc.aio

from grpclb.aio.call import (
    CallArguments,
    known,
)
from grpclb.aio.engine import Engine
from grpclb.aio.errors import (
    ALREADY_FINISHED,
    HALF_CLOSED,
)
from grpclb.aio.retried_call import RetriedCall
from grpclb.aio.tries import Try, error_of
from grpclb.control.arguments import check_message
from grpclb.control.method import MethodHandle


class RetriedRequests(RetriedCall):
    """Requests are kept until the RPC is committed; a task per attempt sends them in order."""

    _poller: asyncio.Task[None] | None = None
    _size = 0

    def __init__(self, engine: Engine, method: MethodHandle, arguments: CallArguments) -> None:
        super().__init__(engine, method, arguments)
        self._kept: list[Any] = []
        self._dropped = 0  # messages before the first one kept
        self._overflowed = False
        self._closed_requests = False
        self._more: asyncio.Future[None] | None = None
        self._serializer = method.serializer

    def start(self) -> None:
        RetriedCall.start(self)
        if self._arguments.request is not None:
            consume = self._consume(self._arguments.request)  # type: ignore[attr-defined]
            self._poller = self._engine.works().spawn(consume)

    def _sent(self, one: Try) -> None:
        super()._sent(one)
        if self._overflowed:
            self._commit(one)
        one.writer = self._engine.works().spawn(_write(weakref.ref(self), one))

    def _finish(self) -> None:
        self._give_back()
        super()._finish()
        self._news()

    def __del__(self) -> None:
        self._give_back()
        super().__del__()

    def _commit(self, one: Try) -> None:
        super()._commit(one)
        if self._machine.committed is not None:
            self._give_back()

    def _give_back(self) -> None:
        self._engine.replay_budget.give(self._size)
        self._size = 0

    def _news(self) -> None:
        more, self._more = self._more, None
        if more is not None and not more.done():
            more.set_result(None)

    def next_news(self) -> asyncio.Future[None]:
        """Done when there is a message more, or one was sent, or the RPC ended."""
        if self._more is None:
            self._more = asyncio.get_running_loop().create_future()
        return self._more

    def message_for(self, one: Try) -> Any:
        """The next message for an attempt; None: not yet; EOF: there are no more."""
        index = one.position - self._dropped
        if index < len(self._kept):
            return self._kept[index]
        return grpc.aio.EOF if self._closed_requests else None

    def was_sent(self, one: Try) -> None:
        one.position += 1
        if self._machine.committed == one.attempt:
            sent = one.position - self._dropped
            del self._kept[:sent]
            self._dropped += sent
        self._news()

    async def _write(self, request: Any) -> None:
        if self._final:
            raise asyncio.InvalidStateError(ALREADY_FINISHED)
        if self._closed_requests:
            raise asyncio.InvalidStateError(HALF_CLOSED)
        message = request if self._serializer is None else self._serializer(request)
        check_message(message)
        place = self._dropped + len(self._kept)
        self._kept.append(message)
        if self._machine.committed is None and not self._reserve(len(message)):
            self._overflowed = True  # commits the next attempt if none is under way
            live = [t for t in self._tries.values() if t.inner and not t.ended and not t.cancelled]
            if live:
                self._commit(max(live, key=lambda t: t.position))
        self._news()
        try:
            while self._holds_up(place):
                await asyncio.shield(self.next_news())
        except asyncio.CancelledError:
            self.cancel()
            raise
        if self._final and all(t.position <= place for t in self._tries.values()):
            if self._inner is not None and known(self._inner.code()) is not grpc.StatusCode.OK:
                error = error_of(self._inner)
                self._is_error(self._inner, error)
                raise error
            raise asyncio.InvalidStateError(ALREADY_FINISHED)

    def _holds_up(self, place: int) -> bool:
        """Whether a message has to wait for an attempt to send it.

        Between two attempts none can: it is kept for the next one, unless that is too much to keep.
        """
        tries = self._tries.values()
        if self._final or any(t.position > place for t in tries):
            return False
        return self._overflowed or any(not t.ended and not t.cancelled for t in tries)

    def _try_is_over(self, one: Try) -> None:
        super()._try_is_over(one)
        self._news()

    def _reserve(self, size: int) -> bool:
        limit = self._engine.spec.options.replay_limit
        if self._size + size > limit or not self._engine.replay_budget.take(size):
            return False
        self._size += size
        return True

    async def _close_requests(self) -> None:
        self._closed_requests = True
        self._news()

    def cancel(self) -> bool:
        cancelled = super().cancel()
        if cancelled and self._poller is not None and self._poller is not asyncio.current_task():
            self._poller.cancel()
        return cancelled


async def _write(reference: weakref.ref[RetriedCall], one: Try) -> None:
    """Send an attempt its requests, from the first on."""
    while True:
        call = reference()
        if call is None or one.ended or one.cancelled:
            return
        assert isinstance(call, RetriedRequests)
        message = call.message_for(one)
        news = call.next_news() if message is None else None
        del call
        if news is not None:
            await asyncio.shield(news)
            continue
        try:
            if message is grpc.aio.EOF:
                await one.inner.done_writing()
                return
            await one.inner.write(message)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # its end is told by its status
        call = reference()
        if isinstance(call, RetriedRequests):
            call.was_sent(one)
        del call
