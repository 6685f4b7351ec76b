"""One attempt of an aio RPC with a retry or hedging policy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any

import grpc
import grpc.aio

from grpclb.aio.call import (
    known,
)
from grpclb.aio.subchannel import AioTransport
from grpclb.control.attempt_log import AttemptRecord
from grpclb.core.attempt import (
    Attempt,
)
from grpclb.core.status import Status


class Try:
    """One attempt under way."""

    __slots__ = (
        "_over",
        "attempt",
        "cancelled",
        "end",
        "end_pending",
        "ended",
        "first_read",
        "inner",
        "noted",
        "position",
        "reading",
        "responses",
        "search",
        "started",
        "timed_out",
        "transport",
        "writer",
    )

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.inner: Any = None  # grpcio's call, or an EndedCall
        self.transport: AioTransport | None = None
        self.started = monotonic()
        self.search: asyncio.Task[None] | None = None
        self.writer: asyncio.Task[None] | None = None
        self.position = 0  # requests that were sent
        self.responses: AsyncIterator[Any] | None = None
        self.first_read: asyncio.Task[None] | None = None  # of a hedged stream
        self.cancelled = False
        self.noted = False  # its record is written
        self.timed_out = False
        self.end: tuple[grpc.StatusCode, str, tuple[Any, ...]]  # the status, once it has ended
        self.reading = False  # somebody reads a message, and will learn how it ended
        self.end_pending = False
        self.ended = False
        self._over: asyncio.Future[None] | None = None  # made by those who wait

    async def until_ended(self) -> None:
        """Wait for `mark_ended`."""
        if not self.ended:
            if self._over is None:
                self._over = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._over)

    def mark_ended(self) -> None:
        self.ended = True
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    def stop_tasks(self) -> None:
        """It seeks and sends no more. The tasks are let go: a cancelled one refers to the call."""
        for task in (self.search, self.writer):
            if task is not None:
                task.cancel()
        self.search = self.writer = None

    @property
    def backend(self) -> str | None:
        """Where it was sent."""
        return None if self.transport is None else self.transport.connection.address.target

    def record(
        self, began: float, code: grpc.StatusCode | None, details: str = ""
    ) -> AttemptRecord:
        """What the caller may know of it. `code` is None while it runs, `began` the RPC's start."""
        seconds, begun = monotonic() - self.started, self.started - began
        return AttemptRecord(self.backend, code, seconds, details, begun)


def is_being_cancelled() -> bool:
    """Whether it is this task that somebody cancels, and not an attempt."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def attempt_timed_out(attempt: Attempt) -> Status:
    details = f"the attempt took longer than perAttemptRecvTimeout ({attempt.timeout:g} s)"
    return Status(grpc.StatusCode.DEADLINE_EXCEEDED, details)


def error_of(inner: Any) -> BaseException:
    return grpc.aio.AioRpcError(
        known(inner.code()),
        grpc.aio.Metadata(),
        known(inner.trailing_metadata()),
        details=known(inner.details()),
    )


def headers_of(inner: Any) -> tuple[Any, ...] | None:
    """The response headers' metadata, () if it is empty; None: no headers came so far."""
    try:
        return tuple(known(inner.initial_metadata()) or ())
    except RuntimeError:
        return None
