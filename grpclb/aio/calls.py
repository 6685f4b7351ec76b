"""The aio multicallables: an RPC goes to a picked backend, and to another if it never left."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio

from grpclb.aio.call import CallArguments, ClientCall, arguments_of
from grpclb.aio.call_kinds import (
    StreamStreamCall,
    StreamUnaryCall,
    UnaryStreamCall,
    UnaryUnaryCall,
)
from grpclb.aio.engine import Engine
from grpclb.aio.errors import INSECURE_CREDENTIALS, checked_metadata
from grpclb.aio.interceptors import INTERCEPTED, Details
from grpclb.aio.retry import start_retried
from grpclb.control.method import MethodHandle
from grpclb.control.selecting import select
from grpclb.core.service_config import EMPTY
from grpclb.core.status import Status

_CALLS: dict[str, type[ClientCall]] = {
    "unary_unary": UnaryUnaryCall,
    "unary_stream": UnaryStreamCall,
    "stream_unary": StreamUnaryCall,
    "stream_stream": StreamStreamCall,
}


class _MultiCallable:
    __slots__ = ("_call_type", "_engine", "_interceptors", "_method")

    def __init__(self, engine: Engine, method: MethodHandle, interceptors: list[Any]) -> None:
        self._engine = engine
        self._method = method
        self._interceptors = interceptors
        self._call_type = _CALLS[method.kind]

    def _start(
        self,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> Any:
        if credentials is not None and self._engine.credentials is None:
            raise grpc.aio.UsageError(INSECURE_CREDENTIALS)
        arguments = arguments_of(
            (request, timeout, metadata, credentials, wait_for_ready, compression, None)
        )
        if self._interceptors:
            return self._intercept(arguments)
        return self._send(self._method, arguments)

    def _send(self, method: MethodHandle, arguments: CallArguments) -> ClientCall:
        engine = self._engine
        if engine.closed:
            raise grpc.aio.UsageError("Channel is closed.")
        published = engine.slot.current
        if published.selector is not None:
            chosen = select(engine.slot, published, arguments.info(method))
            if isinstance(chosen, Status):
                failed = self._call_type(engine, method, arguments)
                failed.end_with(chosen)
                return failed
            arguments = arguments._replace(selection=chosen)
        config = published.config
        if config is not EMPTY:
            method_config = method.config(config, arguments.selection)
            timeout, wait_for_ready = method_config.applied(
                arguments.timeout, arguments.wait_for_ready
            )
            if timeout is not arguments.timeout or wait_for_ready is not arguments.wait_for_ready:
                arguments = arguments._replace(timeout=timeout, wait_for_ready=wait_for_ready)
            if engine.retries.wanted(config, method_config):
                return start_retried(engine, method, config, arguments)
        call = self._call_type(engine, method, arguments)
        if not published.resolved:
            call.retried = start_retried
        call.start()
        return call

    def _intercept(self, arguments: CallArguments) -> Any:
        metadata = checked_metadata(arguments.metadata)
        details = Details(
            self._method.path.encode(),  # type: ignore[arg-type]
            arguments.timeout,
            metadata,
            arguments.credentials,
            arguments.wait_for_ready,
        )

        def invoke(details: Details, request: Any) -> ClientCall:
            return self._send(
                self._method_of(details),
                CallArguments(
                    request,
                    details.timeout,
                    details.metadata,
                    details.credentials,
                    details.wait_for_ready,
                    arguments.compression,
                    None,
                ),
            )

        call = INTERCEPTED[self._method.kind](
            self._interceptors, details, arguments.request, invoke
        )
        self._engine.track(call)
        return call

    def _method_of(self, details: Details) -> MethodHandle:
        """An interceptor may send the RPC to another method."""
        method = self._method
        path = details.method.decode() if isinstance(details.method, bytes) else details.method
        if path == method.path:
            return method
        return self._engine.methods.handle(
            method.kind, path, method.serializer, method.deserializer, method.registered
        )


class UnaryUnaryMultiCallable(_MultiCallable, grpc.aio.UnaryUnaryMultiCallable):
    """grpc.aio.UnaryUnaryMultiCallable, balanced."""

    __slots__ = ()

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return self._start(request, timeout, metadata, credentials, wait_for_ready, compression)


class UnaryStreamMultiCallable(_MultiCallable, grpc.aio.UnaryStreamMultiCallable):
    """grpc.aio.UnaryStreamMultiCallable, balanced."""

    __slots__ = ()

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return self._start(request, timeout, metadata, credentials, wait_for_ready, compression)


class StreamUnaryMultiCallable(_MultiCallable, grpc.aio.StreamUnaryMultiCallable):
    """grpc.aio.StreamUnaryMultiCallable, balanced."""

    __slots__ = ()

    def __call__(
        self,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return self._start(
            request_iterator, timeout, metadata, credentials, wait_for_ready, compression
        )


class StreamStreamMultiCallable(_MultiCallable, grpc.aio.StreamStreamMultiCallable):
    """grpc.aio.StreamStreamMultiCallable, balanced."""

    __slots__ = ()

    def __call__(
        self,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return self._start(
            request_iterator, timeout, metadata, credentials, wait_for_ready, compression
        )
