"""One attempt of a sync RPC with a retry or hedging policy."""

from __future__ import annotations

from time import monotonic
from typing import Any

import grpc

from grpclb.control.attempt_log import AttemptRecord
from grpclb.core.attempt import (
    PREVIOUS_ATTEMPTS,
    Attempt,
)
from grpclb.core.status import Status
from grpclb.sync.engine import Engine
from grpclb.sync.subchannel import SyncTransport


def with_attempt_number(metadata: Any, attempt: Attempt) -> Any:
    """The caller's metadata with `grpc-previous-rpc-attempts`, for all but the first attempt."""
    if not attempt.number:
        return metadata
    return (*(metadata or ()), (PREVIOUS_ATTEMPTS, str(attempt.number)))


def is_too_large(engine: Engine, request: Any) -> bool:
    """Whether a unary request does not fit into the replay buffer, so that it is sent once."""
    return isinstance(request, bytes) and len(request) > engine.spec.options.replay_limit


def attempt_timed_out(attempt: Attempt) -> Status:
    details = f"the attempt took longer than perAttemptRecvTimeout ({attempt.timeout:g} s)"
    return Status(grpc.StatusCode.DEADLINE_EXCEEDED, details)


class Try:
    """One attempt under way."""

    __slots__ = (
        "armed",
        "attempt",
        "begun",
        "cancelled",
        "end_pending",
        "ended",
        "inner",
        "noted",
        "reading",
        "started",
        "timed_out",
        "token",
        "transport",
    )

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.inner: Any = None  # grpcio's call, or an RpcFailure
        self.transport: SyncTransport | None = None
        self.started = monotonic()
        self.token: int | None = None
        self.begun = False  # it has sought a backend
        self.armed = False  # for the RPC's deadline
        self.cancelled = False
        self.noted = False  # its record is written
        self.timed_out = False
        self.reading = False  # somebody is inside next(inner), and will learn how it ended
        self.end_pending = False
        self.ended = False

    @property
    def backend(self) -> str | None:
        """Where it was sent."""
        return None if self.transport is None else str(self.transport.connection.address)

    def record(
        self, began: float, code: grpc.StatusCode | None, details: str = ""
    ) -> AttemptRecord:
        """What the caller may know of it. `code` is None while it runs, `began` the RPC's start."""
        seconds, begun = monotonic() - self.started, self.started - began
        return AttemptRecord(self.backend, code, seconds, details, begun)
