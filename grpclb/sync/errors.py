"""RPC errors that were born in the client: no backend, deadline while waiting, cancelled."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

import grpc

from grpclb.core.status import Status

CLOSED = "Cannot invoke RPC on closed channel!"  # grpcio's two texts: from an RPC in this thread,
CLOSED_BESIDE = "Cannot invoke RPC: Channel closed!"  # and from one that goes on beside it
CHANNEL_CLOSED = "Channel closed!"
LOCALLY_CANCELLED = "Locally cancelled by application!"


class RpcFailure(grpc.RpcError, grpc.Call, grpc.Future):
    """A finished RPC that never reached a backend; what grpcio raises has the same methods."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.code, status.details)
        self._status = status

    def code(self) -> grpc.StatusCode:
        return self._status.code

    def details(self) -> str:
        return self._status.details

    def initial_metadata(self) -> tuple[()]:
        return ()

    def trailing_metadata(self) -> tuple[()]:
        return ()

    def debug_error_string(self) -> str:
        return f"grpclb: {self._status}"

    def is_active(self) -> bool:
        return False

    def time_remaining(self) -> float | None:  # type: ignore[override]
        return None

    def add_callback(self, callback: Callable[[], None]) -> bool:
        return False

    def cancel(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False

    def running(self) -> bool:
        return False

    def done(self) -> bool:
        return True

    def result(self, timeout: float | None = None) -> NoReturn:
        raise self

    def exception(self, timeout: float | None = None) -> RpcFailure:
        return self

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        try:
            raise self
        except grpc.RpcError:
            return sys.exc_info()[2]

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        fn(self)

    def __iter__(self) -> RpcFailure:
        return self

    def __next__(self) -> NoReturn:
        raise self

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} of RPC that terminated with:\n"
            f"\tstatus = {self._status.code}\n"
            f'\tdetails = "{self._status.details}"\n'
            ">"
        )

    __str__ = __repr__


class DroppedFailure(RpcFailure):
    """A policy's Drop: never retried."""


class CancelledWhileWaiting(RpcFailure):
    """Cancelled by the application before a backend was found."""

    def cancelled(self) -> bool:
        return True

    def result(self, timeout: float | None = None) -> NoReturn:
        raise grpc.FutureCancelledError

    def exception(self, timeout: float | None = None) -> NoReturn:
        raise grpc.FutureCancelledError

    def traceback(self, timeout: float | None = None) -> NoReturn:
        raise grpc.FutureCancelledError
