"""RPCs with a retry or hedging policy: the entry point."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from grpclb.aio.call import CallArguments, arguments_of
from grpclb.aio.call_kinds import (
    StreamStreamCall,
    StreamUnaryCall,
    UnaryStreamCall,
)
from grpclb.aio.engine import Engine
from grpclb.aio.errors import EndedCall, checked_metadata
from grpclb.aio.first_attempt import RetriedUnaryUnaryCall
from grpclb.aio.replay import RetriedRequests
from grpclb.aio.retried_call import RetriedCall, RetriedUnaryResponse
from grpclb.aio.retried_streams import RetriedResponses
from grpclb.control.arguments import (
    INVALID_METADATA,
    check_message,
    check_metadata,
    check_options,
    legal_metadata,
)
from grpclb.control.method import MethodHandle
from grpclb.core.service_config import ServiceConfig
from grpclb.core.status import Status


class RetriedUnaryStreamCall(RetriedResponses, UnaryStreamCall):
    """A unary-stream call with a retry or hedging policy."""

    async def _iterate(self) -> AsyncIterator[Any]:
        while (message := await self._next()) is not grpc.aio.EOF:
            yield message

    async def read(self) -> Any:
        self._use_style("read")
        return await self._next()


class RetriedStreamUnaryCall(RetriedRequests, RetriedUnaryResponse, StreamUnaryCall):
    """A stream-unary call with a retry or hedging policy."""


class RetriedStreamStreamCall(RetriedRequests, RetriedResponses, StreamStreamCall):
    """A stream-stream call with a retry or hedging policy."""

    async def _iterate(self) -> AsyncIterator[Any]:
        while (message := await self._next()) is not grpc.aio.EOF:
            yield message

    async def read(self) -> Any:
        self._use_style("read")
        return await self._next()


_CALLS: dict[str, type[RetriedCall]] = {
    "unary_unary": RetriedUnaryUnaryCall,
    "unary_stream": RetriedUnaryStreamCall,
    "stream_unary": RetriedStreamUnaryCall,
    "stream_stream": RetriedStreamStreamCall,
}


def start_retried(
    engine: Engine,
    method: MethodHandle,
    config: ServiceConfig,
    arguments: CallArguments,
    began: float | None = None,
) -> RetriedCall:
    """Begin an RPC that has a policy (or is counted by a throttle); it began at `began`."""
    method_config = method.config(config, arguments.selection)
    call_type = _CALLS[method.kind]
    request, timeout, metadata, credentials, wait_for_ready, compression, selected = arguments
    # Now: an attempt that finds the mistake later has nobody to tell (and grpc.aio, no status).
    if credentials is not None or compression:
        check_options(credentials, compression)
    if not call_type._streams_requests:
        if method.serializer is not None:
            request = method.serializer(request)
        check_message(request)
    legal = True
    if metadata is not None:
        metadata = checked_metadata(metadata)
        check_metadata(metadata)
        legal = legal_metadata(metadata)
    arguments = arguments_of(
        (request, timeout, metadata, credentials, wait_for_ready, compression, selected)
    )
    call = call_type(engine, method, arguments)
    call._method = method.with_bytes()
    call.began = began
    if not legal:
        call._end_locally(EndedCall(Status(grpc.StatusCode.INTERNAL, INVALID_METADATA)))
        return call
    try:
        if isinstance(call, RetriedUnaryUnaryCall):
            call.begin(config, method_config, arguments)
        else:
            machine = engine.retries.machine(config, method_config, call.deadline)
            call.use(machine, arguments, hedged=method_config.hedging is not None)
            call.start()
    except BaseException:  # a traceback may keep the call for long, and it is none
        engine.calls.pop(id(call), None)
        raise
    return call
