"""The sync multicallables: an RPC goes to a picked backend, and to another if it never left.

A blocking unary RPC is one loop in the caller's thread. Futures and streams return at once, as
grpcio's do: `ClientCall` stands for the RPC while a backend is looked for, and for grpcio's own
call object from then on.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from typing import Any

import grpc

from grpclb.control.arguments import check_metadata
from grpclb.control.failures import never_left, tell
from grpclb.control.method import MethodHandle
from grpclb.control.picker_slot import Published
from grpclb.control.selecting import select
from grpclb.core.balancer import CallOutcome, Pick
from grpclb.core.config_selector import Selected, Selection
from grpclb.core.service_config import EMPTY
from grpclb.core.status import Status
from grpclb.sync.arguments import CallArguments, arguments_of, info_of
from grpclb.sync.call import ClientCall
from grpclb.sync.engine import Engine
from grpclb.sync.errors import CLOSED, CLOSED_BESIDE, RpcFailure
from grpclb.sync.pick import (
    pick_now,
    transport_of,
    wait_for_config,
    wait_for_pick,
)
from grpclb.sync.requests import Requests
from grpclb.sync.retry import beside, blocking

_OK = CallOutcome(grpc.StatusCode.OK)
_DROPPED = CallOutcome(grpc.StatusCode.CANCELLED)


def _resolved(
    engine: Engine, timeout: float | None, wait_for_ready: bool | None, began: float | None
) -> tuple[Published, float | None, float]:
    """The state once it is known which config counts, what is left of the time, and its start."""
    now = monotonic()
    published = wait_for_config(engine, timeout, wait_for_ready)
    if timeout is not None:
        timeout -= monotonic() - now
    return published, timeout, now if began is None else began


def _beginning(began: float | None, deadline: float | None, allowed: float | None) -> float:
    """When an RPC began, for an error that tells."""
    if began is not None:
        return began
    return monotonic() if deadline is None else deadline - (allowed or 0.0)


class _MultiCallable:
    __slots__ = ("_engine", "_method")

    def __init__(self, engine: Engine, method: MethodHandle) -> None:
        self._engine = engine
        self._method = method

    def _blocking(
        self,
        with_call: bool,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
        selection: Selection | None = None,
        began: float | None = None,
    ) -> Any:
        """One unary-response RPC in this thread. `request` may be `Requests`.

        `began` is when the RPC did, if that was not just now; `timeout` is what is left of its.
        """
        engine, method = self._engine, self._method
        slot = engine.slot
        slot.used = True
        published = slot.current
        if not published.resolved:
            published, timeout, began = _resolved(engine, timeout, wait_for_ready, began)
        if published.selector is not None and selection is None:
            return self._routed(
                with_call, request, timeout, metadata, credentials, wait_for_ready, compression
            )
        if published.config is not EMPTY:
            config = method.config(published.config, selection)
            timeout, wait_for_ready = config.applied(timeout, wait_for_ready)
            if engine.retries.wanted(published.config, config):
                options = credentials, wait_for_ready, compression
                arguments = arguments_of((request, timeout, metadata, *options, selection))
                return blocking(engine, method, published.config, arguments, with_call, began)
        if engine.closed:
            raise ValueError(CLOSED)
        deadline = None if timeout is None else monotonic() + timeout
        allowed = timeout
        plain = not metadata and selection is None
        info = method.info if plain else info_of(method, metadata, selection)
        pick = pick_now(engine, published, info)
        fresh = True
        while True:
            if type(pick) is not Pick:
                since = _beginning(began, deadline, allowed)
                seen = (published, pick) if fresh else None
                pick = wait_for_pick(engine, info, deadline, wait_for_ready, since, seen=seen)
                timeout = None if deadline is None else deadline - monotonic()
            transport = transport_of(pick)
            call = transport.callable(method)
            attempt = request.attempt() if type(request) is Requests else request
            transport.calls.append(None)
            try:
                result = (call.with_call if with_call else call)(
                    attempt, timeout, metadata, credentials, None, compression
                )
            except BaseException as error:
                if not self._went_nowhere(pick, error):
                    raise
                if deadline is not None and deadline <= monotonic():
                    since = _beginning(began, deadline, allowed)
                    raise RpcFailure(engine.out_of_time(since)) from None
                pick, fresh = None, False
                continue
            finally:
                transport.calls.pop()
            if pick.on_done is not None:
                tell(pick, _OK)
            return result

    def _routed(
        self,
        with_call: bool,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> Any:
        """`_blocking` with what the config selector says (gRFC A31)."""
        engine, began = self._engine, monotonic()
        deadline = None if timeout is None else began + timeout
        check_metadata(metadata)
        info = info_of(self._method, metadata, None)
        chosen: Selection | Status | None = None
        while chosen is None and not engine.closed:
            left = None if deadline is None else deadline - monotonic()
            published = wait_for_config(engine, left, wait_for_ready)
            if published.selector is None:
                break
            chosen = select(engine.slot, published, info)
        if isinstance(chosen, Status):
            raise RpcFailure(Status(chosen.code, engine.explain(chosen)))
        if chosen is None:
            chosen = Selection(Selected())
        left = None if deadline is None else deadline - monotonic()
        try:
            options = credentials, wait_for_ready, compression
            return self._blocking(with_call, request, left, metadata, *options, chosen, began)
        finally:
            chosen.release()

    def _went_nowhere(self, pick: Pick, error: BaseException) -> bool:
        """Count a failed attempt; True if it never left the client and goes to another backend."""
        if not isinstance(error, grpc.RpcError):
            return self._was_closed(pick, error)
        failed: Any = error
        code = failed.code()
        transport = transport_of(pick)
        if pick.on_done is not None:
            tell(pick, CallOutcome(code, failed.trailing_metadata() or ()))
        if code is grpc.StatusCode.UNAVAILABLE:
            self._engine.suspect(transport)
            if never_left(code, failed.details()):
                return not self._engine.closed
        error.add_note(f"grpclb: backend {transport.connection.address}")
        return False

    def _was_closed(self, pick: Pick, error: BaseException) -> bool:
        """Count a call that grpcio refused; True if its channel was closed since the pick.

        Else it is a wrong argument, or Ctrl-C.
        """
        tell(pick, _DROPPED)
        closed = transport_of(pick).closed and not self._engine.closed
        return isinstance(error, ValueError) and closed

    def _start(
        self,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> ClientCall:
        """An RPC that goes on beside this thread."""
        engine = self._engine
        if engine.closed:
            raise ValueError(CLOSED_BESIDE)
        published = engine.slot.current
        service_config = published.config
        arguments = CallArguments(
            request, timeout, metadata, credentials, wait_for_ready, compression
        )
        if published.selector is not None:
            check_metadata(metadata)
            chosen = select(engine.slot, published, arguments.info(self._method))
            if isinstance(chosen, Status):
                failed = ClientCall(engine, self._method, arguments)
                failed.end_with(chosen)
                return failed
            arguments = arguments._replace(selection=chosen)
        if service_config is not EMPTY:
            config = self._method.config(service_config, arguments.selection)
            timeout, wait_for_ready = config.applied(timeout, wait_for_ready)
            arguments = arguments._replace(timeout=timeout, wait_for_ready=wait_for_ready)
            if engine.retries.wanted(service_config, config):
                return beside(engine, self._method, service_config, arguments)
        call = ClientCall(engine, self._method, arguments)
        if not published.resolved:
            call.beside = beside
        call.start()
        return call


class UnaryUnaryMultiCallable(_MultiCallable, grpc.UnaryUnaryMultiCallable):
    """grpc.UnaryUnaryMultiCallable, balanced."""

    __slots__ = ()

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return self._blocking(
            False, request, timeout, metadata, credentials, wait_for_ready, compression
        )

    def with_call(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return self._blocking(
            True, request, timeout, metadata, credentials, wait_for_ready, compression
        )

    def future(  # type: ignore[override]
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> ClientCall:
        return self._start(request, timeout, metadata, credentials, wait_for_ready, compression)


class UnaryStreamMultiCallable(_MultiCallable, grpc.UnaryStreamMultiCallable):
    """grpc.UnaryStreamMultiCallable, balanced."""

    __slots__ = ()

    def __call__(  # type: ignore[override]
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> ClientCall:
        return self._start(request, timeout, metadata, credentials, wait_for_ready, compression)


class StreamUnaryMultiCallable(_MultiCallable, grpc.StreamUnaryMultiCallable):
    """grpc.StreamUnaryMultiCallable, balanced."""

    __slots__ = ()

    def __call__(
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        requests = Requests(request_iterator)
        return self._blocking(
            False, requests, timeout, metadata, credentials, wait_for_ready, compression
        )

    def with_call(
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        requests = Requests(request_iterator)
        return self._blocking(
            True, requests, timeout, metadata, credentials, wait_for_ready, compression
        )

    def future(  # type: ignore[override]
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> ClientCall:
        requests = Requests(request_iterator)
        return self._start(requests, timeout, metadata, credentials, wait_for_ready, compression)


class StreamStreamMultiCallable(_MultiCallable, grpc.StreamStreamMultiCallable):
    """grpc.StreamStreamMultiCallable, balanced."""

    __slots__ = ()

    def __call__(  # type: ignore[override]
        self,
        request_iterator: Iterator[Any],
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> ClientCall:
        requests = Requests(request_iterator)
        return self._start(requests, timeout, metadata, credentials, wait_for_ready, compression)
