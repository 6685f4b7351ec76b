"""RPCs that ended in the client, behind the methods of grpcio's aio call objects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator
from typing import Any, NoReturn

import grpc
import grpc.aio

from grpclb.core.status import Status

LOCALLY_CANCELLED = "Locally cancelled by application!"
CHANNEL_CLOSED = "Channel closed!"
ALREADY_FINISHED = "RPC already finished."
HALF_CLOSED = 'RPC is half closed after calling "done_writing".'
INSECURE_CREDENTIALS = "Call credentials are only valid on secure channels"
MIXED_STYLES = "The iterator and read/write APIs may not be mixed on a single RPC."


def rpc_error(status: Status) -> grpc.aio.AioRpcError:
    """The exception for an RPC that never reached a backend."""
    return grpc.aio.AioRpcError(
        status.code,
        grpc.aio.Metadata(),
        grpc.aio.Metadata(),
        details=status.details,
        debug_error_string=f"grpclb: {status}",
    )


def checked_metadata(metadata: Any) -> grpc.aio.Metadata:
    """Metadata as grpcio takes it; raises what grpcio raises for anything else."""
    if metadata is None:
        return grpc.aio.Metadata()
    if isinstance(metadata, grpc.aio.Metadata):
        return metadata
    return grpc.aio.Metadata.from_tuple(tuple(metadata))


class EndedCall:
    """Stands for an RPC that ended before a backend was found."""

    def __init__(self, status: Status, *, cancelled: bool = False) -> None:
        self._status = status
        self._cancelled = cancelled

    @property
    def is_cancelled(self) -> bool:
        """Cancelled by the application, not ended by a status."""
        return self._cancelled

    @property
    def status(self) -> Status:
        return self._status

    def _raise(self) -> NoReturn:
        if self._cancelled:
            raise asyncio.CancelledError
        raise rpc_error(self._status)

    def __await__(self) -> Generator[Any, None, NoReturn]:
        self._raise()
        yield

    def __aiter__(self) -> AsyncIterator[NoReturn]:
        return self._responses()

    async def _responses(self) -> AsyncIterator[NoReturn]:
        self._raise()
        yield

    async def read(self) -> NoReturn:
        self._raise()

    async def write(self, request: object) -> NoReturn:
        raise asyncio.InvalidStateError(ALREADY_FINISHED)

    async def done_writing(self) -> None:
        return None

    async def wait_for_connection(self) -> NoReturn:
        self._raise()

    async def initial_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata()

    async def code(self) -> grpc.StatusCode:
        return self._status.code

    async def details(self) -> str:
        return self._status.details

    async def debug_error_string(self) -> str:
        return f"grpclb: {self._status}"

    def cancel(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return self._status.code is grpc.StatusCode.CANCELLED

    def done(self) -> bool:
        return True

    def time_remaining(self) -> float | None:
        return None

    def __repr__(self) -> str:
        return f"<RPC that terminated with: {self._status}>"
