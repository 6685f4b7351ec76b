"""A sync RPC that runs beside its caller: future or stream, queued or under way."""

from __future__ import annotations

import functools
import logging
import threading
import weakref
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Any, Protocol

import grpc

from grpclb.control.arguments import (
    INVALID_METADATA,
    check_metadata,
    check_options,
    kept,
    legal_metadata,
)
from grpclb.control.attempt_log import AttemptRecord
from grpclb.control.channel_core import call_threadsafe
from grpclb.control.failures import never_left, tell
from grpclb.control.method import STREAM_UNARY, UNARY_UNARY, MethodHandle
from grpclb.control.picker_slot import Published
from grpclb.control.selecting import select
from grpclb.core.balancer import CallOutcome, Pick
from grpclb.core.service_config import ServiceConfig
from grpclb.core.status import Status
from grpclb.sync.arguments import CallArguments, serialized
from grpclb.sync.engine import Engine
from grpclb.sync.errors import (
    CHANNEL_CLOSED,
    LOCALLY_CANCELLED,
    CancelledWhileWaiting,
    RpcFailure,
)
from grpclb.sync.pick import Seen, failure_of, pick_now, transport_of
from grpclb.sync.requests import Requests
from grpclb.sync.subchannel import SyncTransport

_LOG = logging.getLogger("grpclb.call")
_STALE_WAIT = 0.02
_DROPPED = CallOutcome(grpc.StatusCode.CANCELLED)


class Beside(Protocol):
    """Begin an RPC that has a policy (`sync.retry.beside`); it began at `began`."""

    def __call__(
        self,
        engine: Engine,
        method: MethodHandle,
        config: ServiceConfig,
        arguments: CallArguments,
        began: float,
    ) -> ClientCall: ...


class ClientCall(grpc.RpcError, grpc.Call, grpc.Future):
    """The call object of `.future()` and of streams; raised itself as the error, as in grpcio.

    `_inner` is what stands for the RPC now: grpcio's call object, or an RpcFailure. It is None
    while a backend is looked for, and replaced when an attempt turns out never to have left.

    An RPC that begins before it is known which config counts has `beside`. Should the config have a
    policy for it, the call that this begins stands for the RPC.
    """

    beside: Beside | None = None

    def __init__(self, engine: Engine, method: MethodHandle, arguments: CallArguments) -> None:
        super().__init__()
        self._engine = engine
        self._method = method
        self._arguments = arguments
        timeout = arguments.timeout
        self._deadline = None if timeout is None else monotonic() + timeout
        self._info = arguments.info(method)
        self._arrival = threading.Condition(threading.RLock())
        self._inner: Any = None
        self._pick: Pick | None = None
        self._final = False
        self._callbacks: list[Callable[[], None]] = []
        self._token: int | None = None
        self._queued_at: float | None = None

    # -- finding a backend -------------------------------------------------------------------

    def start(self) -> None:
        """In the caller's thread: send it at once if there is a backend."""
        self._engine.slot.used = True
        published = self._engine.slot.current
        seen: Seen | None = None
        if published.selector is None or self._arguments.selection is not None:
            result = pick_now(self._engine, published, self._info)
            if type(result) is Pick:
                self._send(result)
                return
            seen = (published, result)
        self._queued_at = monotonic()
        self._arguments = self._arguments._replace(metadata=kept(self._arguments.metadata))
        check_metadata(self._arguments.metadata)
        check_options(self._arguments.credentials, self._arguments.compression)
        self._serialize_now()
        if not legal_metadata(self._arguments.metadata):
            status = Status(grpc.StatusCode.INTERNAL, INVALID_METADATA)
            self._settle_locally(RpcFailure(status))
            return
        self._engine.wake()
        if self._deadline is not None:
            self._arm_deadline()
        self._look(seen)

    def _look(self, seen: Seen | None = None) -> None:
        """Pick until there is an answer; where there is none yet, come back with the next picker.

        Runs in the caller's thread, on the control loop, or where grpcio reports an end.
        """
        engine = self._engine
        while self._inner is None:
            published = engine.slot.current
            if published.selector is not None and self._arguments.selection is None:
                self._select(published)
                continue
            if self.beside is not None and published.resolved:
                beside, self.beside = self.beside, None
                self._configure(published.config, beside)
                continue
            if seen is None:
                result = pick_now(engine, published, self._info)
            else:
                (published, result), seen = seen, None
            if type(result) is Pick:
                self._take_timeout(published.config)
                self._send(result)
                return
            failure = failure_of(engine, published, result, self._arguments.wait_for_ready)
            if failure is not None:
                self._settle_locally(failure)
                return
            self._wait(published.generation, stale=result is None)
            return

    def _select(self, published: Published) -> None:
        """It is queued since before there was a config selector: ask it now."""
        chosen = select(self._engine.slot, published, self._info)
        if isinstance(chosen, Status):
            self.end_with(chosen)
        elif chosen is not None:
            wait_for_ready = chosen.config.applied(None, self._arguments.wait_for_ready)[1]
            with self._arrival:
                self._arguments = self._arguments._replace(
                    selection=chosen, wait_for_ready=wait_for_ready
                )
                self._info = self._arguments.info(self._method)
                if self._final:
                    chosen.release()
            self._take_timeout(published.config)
            if chosen.config.timeout is not None:
                self._arm_deadline()

    def _configure(self, config: ServiceConfig, beside: Beside) -> None:
        """It is queued since before it was known which config counts."""
        method_config = self._method.config(config, self._arguments.selection)
        wait_for_ready = method_config.applied(None, self._arguments.wait_for_ready)[1]
        with self._arrival:
            self._arguments = self._arguments._replace(wait_for_ready=wait_for_ready)
        self._take_timeout(config)
        if self._engine.retries.wanted(config, method_config):
            self._hand_over(config, beside)
        elif method_config.timeout is not None:
            self._arm_deadline()

    def _hand_over(self, config: ServiceConfig, beside: Beside) -> None:
        """Let a call that obeys the policy stand for the RPC."""
        if self._final:
            return
        timeout = None if self._deadline is None else self._deadline - monotonic()
        arguments = self._arguments._replace(timeout=timeout)
        began = self._queued_at or monotonic()
        try:
            inner = beside(self._engine, self._method, config, arguments, began)
        except ValueError:
            if not self._engine.closed:
                raise
            self._settle_locally(RpcFailure(Status(grpc.StatusCode.CANCELLED, CHANNEL_CLOSED)))
            return
        with self._arrival:
            lost = self._inner is not None  # cancelled or expired meanwhile
            if not lost:
                self._inner = inner
                self._arrival.notify_all()
        over = functools.partial(_policy_over, weakref.ref(self))
        if lost:
            inner.cancel()
        elif not inner.add_callback(over):
            over()

    def end_with(self, status: Status) -> None:
        """It fails without having been sent."""
        self._settle_locally(RpcFailure(Status(status.code, self._engine.explain(status))))

    def _wait(self, generation: int, *, stale: bool) -> None:
        """Have `_look` called on the control loop when there is something new to see."""
        loop = self._engine.works().lease.loop
        again = functools.partial(_look_again, weakref.ref(self))
        if stale:
            call_threadsafe(loop, lambda: loop.call_later(_STALE_WAIT, again))
            return
        self._engine.wake()
        wake = functools.partial(call_threadsafe, loop, again)
        self._token = self._engine.slot.wait(generation, wake)

    def _take_timeout(self, config: ServiceConfig) -> None:
        """The resolver's config may have come while the RPC waited for it (gRFC A21)."""
        timeout = self._method.config(config, self._arguments.selection).timeout
        if timeout is not None and self._queued_at is not None:
            deadline = self._queued_at + timeout
            known = self._deadline
            self._deadline = deadline if known is None else min(known, deadline)

    def _serialize_now(self) -> None:
        """A queued RPC is sent from the control loop, where the user's serializer must not run."""
        if type(self._arguments.request) is not Requests:
            request = serialized(self._method, self._arguments.request)
            self._arguments = self._arguments._replace(request=request)
            self._method = self._method.with_bytes()

    def _began(self) -> float:
        """When the RPC did, on the monotonic clock; of one that has a deadline."""
        if self._queued_at is not None:
            return self._queued_at
        return (self._deadline or monotonic()) - (self._arguments.timeout or 0.0)

    def _arm_deadline(self) -> None:
        loop = self._engine.works().lease.loop
        expire = functools.partial(_expire, weakref.ref(self))
        remaining = max(0.0, (self._deadline or 0.0) - monotonic())
        call_threadsafe(loop, lambda: loop.call_later(remaining, expire))

    def _send(self, pick: Pick) -> None:
        transport = transport_of(pick)
        arguments = self._arguments
        timeout = arguments.timeout
        if self._deadline is not None:
            timeout = self._deadline - monotonic()
        request = arguments.request
        callable_ = transport.callable(self._method)
        if self._method.kind in (UNARY_UNARY, STREAM_UNARY):
            callable_ = callable_.future
        transport.calls.append(None)
        try:
            inner = callable_(
                request.attempt() if type(request) is Requests else request,
                timeout,
                arguments.metadata,
                arguments.credentials,
                None,
                arguments.compression,
            )
        except BaseException as error:
            transport.calls.pop()
            tell(pick, _DROPPED)
            if isinstance(error, ValueError) and transport.closed and not self._engine.closed:
                self._look()
                return
            raise
        with self._arrival:
            lost = self._inner is not None  # cancelled or expired meanwhile
            if not lost:
                self._inner, self._pick = inner, pick
                self._arrival.notify_all()
        ended = functools.partial(_ended, weakref.ref(self), pick, transport)
        if not inner.add_callback(ended):
            ended()
        if lost:
            inner.cancel()

    # -- how it ends ---------------------------------------------------------------------------

    def _settle(self, inner: Any) -> bool:
        """Decide once whether a finished attempt ends the RPC. False: another one follows."""
        with self._arrival:
            if self._inner is not inner:
                return False
            if self._final or not inner.done():
                return True
            again = False
            if isinstance(inner, ClientCall):
                for note in getattr(inner, "__notes__", ()):
                    self.add_note(note)
            else:
                again = (
                    never_left(inner.code(), inner.details())
                    and not self._engine.closed
                    and (self._deadline is None or monotonic() < self._deadline)
                )
            if not again:
                self._finish()
            else:
                self._inner = self._pick = None
        if again:
            self._look_elsewhere()
        else:
            self._run_callbacks()
        return not again

    def _look_elsewhere(self) -> None:
        """On the control loop, as this may be a thread that grpcio needs."""
        if self._deadline is not None:
            self._arm_deadline()
        self._serialize_now()
        again = functools.partial(_look_again, weakref.ref(self))
        call_threadsafe(self._engine.works().lease.loop, again)

    def _settle_locally(self, failure: RpcFailure) -> bool:
        with self._arrival:
            if self._inner is not None:
                return False
            self._inner = failure
            self._finish()
        self._run_callbacks()
        return True

    def _finish(self) -> None:
        self._final = True
        if self._arguments.selection is not None:
            self._arguments.selection.release()
        self._arrival.notify_all()
        if self._token is not None:
            self._engine.slot.forget(self._token)
            self._token = None

    def _run_callbacks(self) -> None:
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            try:
                callback()
            except Exception:
                _LOG.exception("Exception in a callback of an RPC")

    def _arrived(self, timeout: float | None = None) -> Any:
        """What stands for the RPC, waiting for it. Raises FutureTimeoutError."""
        inner = self._inner
        if inner is not None:
            return inner
        if timeout is not None:
            timeout = min(timeout, threading.TIMEOUT_MAX)
        with self._arrival:
            if not self._arrival.wait_for(lambda: self._inner is not None, timeout):
                raise grpc.FutureTimeoutError
            return self._inner

    def _ask(self, question: Callable[[Any], Any]) -> Any:
        """An answer of the attempt that counts."""
        while True:
            inner = self._arrived()
            answer = question(inner)
            if self._settle(inner):
                return answer

    # -- grpc.Future ---------------------------------------------------------------------------

    def result(self, timeout: float | None = None) -> Any:
        return self._outcome(lambda inner, left: inner.result(left), timeout)

    def exception(self, timeout: float | None = None) -> Any:
        error = self._outcome(lambda inner, left: inner.exception(left), timeout)
        return None if error is None else self

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        found: TracebackType | None = self._outcome(
            lambda inner, left: inner.traceback(left), timeout
        )
        return found

    def _outcome(self, question: Callable[[Any, float | None], Any], timeout: float | None) -> Any:
        give_up = None if timeout is None else monotonic() + timeout
        while True:
            left = None if give_up is None else max(0.0, give_up - monotonic())
            inner = self._arrived(left)
            left = None if give_up is None else max(0.0, give_up - monotonic())
            try:
                answer = question(inner, left)
            except grpc.RpcError:
                if self._settle(inner):
                    raise self from None
                continue
            except grpc.FutureCancelledError:
                if self._settle(inner):
                    raise
                continue
            if self._settle(inner):
                return answer

    def done(self) -> bool:
        inner = self._inner
        return self._final or (inner is not None and inner.done() and self._settle(inner))

    def running(self) -> bool:
        return not self.done()

    def cancelled(self) -> bool:
        inner = self._inner
        return inner is not None and bool(inner.cancelled())

    def cancel(self) -> bool:
        with self._arrival:
            inner = self._inner
        if inner is None:
            status = Status(grpc.StatusCode.CANCELLED, LOCALLY_CANCELLED)
            if self._settle_locally(CancelledWhileWaiting(status)):
                return True
            inner = self._inner
        return bool(inner.cancel())

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        with self._arrival:
            running = self.add_callback(functools.partial(fn, self))
            if running and self not in self._engine.held:
                # As in grpcio, an RPC that has somebody to tell of its end gets there by itself.
                self._engine.held.add(self)
                self.add_callback(functools.partial(self._engine.held.discard, self))
        if not running:
            fn(self)

    # -- grpc.RpcContext, grpc.Call ----------------------------------------------------------------

    def add_callback(self, callback: Callable[[], None]) -> bool:
        with self._arrival:
            if self._final:
                return False
            self._callbacks.append(callback)
            return True

    def is_active(self) -> bool:
        return not self.done()

    def time_remaining(self) -> float | None:  # type: ignore[override]
        if self._deadline is None:
            return None
        return max(self._deadline - monotonic(), 0)

    def initial_metadata(self) -> Any:
        return self._ask(lambda inner: inner.initial_metadata())

    def trailing_metadata(self) -> Any:
        return self._ask(lambda inner: inner.trailing_metadata())

    def code(self) -> grpc.StatusCode:
        code: grpc.StatusCode = self._ask(lambda inner: inner.code())
        return code

    def details(self) -> Any:
        return self._ask(lambda inner: inner.details())

    def debug_error_string(self) -> Any:
        return self._ask(lambda inner: inner.debug_error_string())

    @property
    def _grpclb_attempts(self) -> tuple[AttemptRecord, ...]:
        """For `attempts`."""
        inner = self._inner
        return inner._grpclb_attempts if isinstance(inner, ClientCall) else ()

    # -- responses ------------------------------------------------------------------------------

    def __iter__(self) -> ClientCall:
        return self

    def __next__(self) -> Any:
        while True:
            inner = self._inner
            if inner is None:
                inner = self._arrived()
            try:
                return next(inner)
            except grpc.RpcError:
                if self._settle(inner):
                    raise self from None

    def next(self) -> Any:
        return next(self)

    def __del__(self) -> None:
        # A stream that nobody wants is cancelled by grpcio when its call object goes; one that
        # still waits for a backend only has to leave the queue.
        token = getattr(self, "_token", None)
        if token is not None:
            self._engine.slot.forget(token)

    def __repr__(self) -> str:
        inner = self._inner
        if inner is None:
            return f"<{type(self).__name__} {self._method.path} waiting for a backend>"
        return str(repr(inner)).replace(type(inner).__name__, type(self).__name__, 1)

    __str__ = __repr__


def _look_again(reference: weakref.ref[ClientCall]) -> None:
    call = reference()
    if call is not None:
        try:
            call._look()
        except Exception as error:  # a mistake in the arguments that grpcio finds only now
            status = Status(grpc.StatusCode.INTERNAL, f"the RPC could not be started: {error!r}")
            call._settle_locally(error if isinstance(error, RpcFailure) else RpcFailure(status))


def _expire(reference: weakref.ref[ClientCall]) -> None:
    call = reference()
    if call is not None and call._inner is None:
        call._settle_locally(RpcFailure(call._engine.out_of_time(call._began())))


def _policy_over(reference: weakref.ref[ClientCall]) -> None:
    """The call to which the RPC was handed over is over."""
    call = reference()
    if call is not None:
        call._settle(call._inner)


def _ended(reference: weakref.ref[ClientCall], pick: Pick, transport: SyncTransport) -> None:
    """An attempt is over; grpcio calls this once, on a thread of its own."""
    transport.calls.pop()
    call = reference()
    inner = None if call is None or call._pick is not pick else call._inner
    if call is None or inner is None:
        tell(pick, _DROPPED)
        return
    code = inner.code()
    if pick.on_done is not None:
        tell(pick, CallOutcome(code, inner.trailing_metadata() or ()))
    if code is grpc.StatusCode.UNAVAILABLE:
        call._engine.suspect(transport)
    if call._settle(inner) and code is not grpc.StatusCode.OK:
        call.add_note(f"grpclb: backend {transport.connection.address}")
