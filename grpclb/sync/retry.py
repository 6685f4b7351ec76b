"""RPCs with a retry or hedging policy: the sync driver of core.attempts (gRFC A6).

A blocking RPC that is retried, not hedged, is a loop in the caller's thread. Everything else is a
`RetriedCall`: it obeys the machine under its lock, wherever news arrive.
"""

from __future__ import annotations

import functools
import logging
import threading
import weakref
from collections.abc import Callable
from time import monotonic
from typing import Any

import grpc

from grpclb.control.arguments import check_metadata
from grpclb.control.attempt_log import AttemptRecord, attach, describe
from grpclb.control.channel_core import call_threadsafe
from grpclb.control.failures import never_left, tell
from grpclb.control.method import (
    STREAM_STREAM,
    STREAM_UNARY,
    UNARY_STREAM,
    UNARY_UNARY,
    MethodHandle,
)
from grpclb.core.address import Address
from grpclb.core.attempt import (
    PREVIOUS_ATTEMPTS,
    Actions,
    Attempt,
    Cancel,
    Finish,
    Outcome,
    Send,
    Wake,
)
from grpclb.core.attempts import CallAttempts
from grpclb.core.balancer import CallOutcome, Pick, PickInfo
from grpclb.core.pushback import parse_pushback
from grpclb.core.service_config import ServiceConfig
from grpclb.core.status import Status
from grpclb.sync.call import CallArguments, ClientCall, serialized
from grpclb.sync.engine import Engine
from grpclb.sync.errors import (
    CHANNEL_CLOSED,
    CLOSED,
    LOCALLY_CANCELLED,
    CancelledWhileWaiting,
    DroppedFailure,
    RpcFailure,
)
from grpclb.sync.pick import deadline_exceeded, failure_of, pick_now, transport_of, wait_for_pick
from grpclb.sync.replay import ReplayedRequests
from grpclb.sync.requests import Requests
from grpclb.sync.subchannel import SyncTransport

_LOG = logging.getLogger("grpclb.call")
_STALE_WAIT = 0.02
_DROPPED = CallOutcome(grpc.StatusCode.CANCELLED)
_OK = CallOutcome(grpc.StatusCode.OK)


def with_attempt_number(metadata: Any, attempt: Attempt) -> Any:
    """The caller's metadata with `grpc-previous-rpc-attempts`, for all but the first attempt."""
    if not attempt.number:
        return metadata
    return (*(metadata or ()), (PREVIOUS_ATTEMPTS, str(attempt.number)))


def is_too_large(engine: Engine, request: Any) -> bool:
    """Whether a unary request does not fit into the replay buffer, so that it is sent once."""
    return isinstance(request, bytes) and len(request) > engine.spec.options.replay_limit


def attempt_timed_out(attempt: Attempt) -> RpcFailure:
    details = f"the attempt took longer than perAttemptRecvTimeout ({attempt.timeout:g} s)"
    return RpcFailure(Status(grpc.StatusCode.DEADLINE_EXCEEDED, details))


def blocking(
    engine: Engine,
    method: MethodHandle,
    config: ServiceConfig,
    arguments: CallArguments,
    with_call: bool,
) -> Any:
    """A unary-response RPC for a caller who waits for it."""
    if engine.closed:
        raise ValueError(CLOSED)
    method_config = method.config(config)
    if method_config.hedging is not None:
        call = beside(engine, method, config, arguments)
        response = call.result()
        return (response, call) if with_call else response
    engine.works()
    timeout = arguments.timeout
    deadline = None if timeout is None else monotonic() + timeout
    machine = engine.retries.machine(config, method_config, deadline)
    retries = BlockingRetries(engine, method.with_bytes(), machine, deadline, with_call)
    retries.arguments = _replayable(engine, method, arguments, retries.commit_to)
    return retries.run()


def beside(
    engine: Engine, method: MethodHandle, config: ServiceConfig, arguments: CallArguments
) -> RetriedCall:
    """An RPC that goes on beside its caller."""
    method_config = method.config(config)
    call = RetriedCall(engine, method.with_bytes(), arguments, method_config.hedging is not None)
    commit = functools.partial(_on_existing, weakref.ref(call), RetriedCall.commit_to)
    call.use(
        engine.retries.machine(config, method_config, call.deadline),
        _replayable(engine, method, arguments, commit),
    )
    call.start()
    return call


def _replayable(
    engine: Engine,
    method: MethodHandle,
    arguments: CallArguments,
    on_overflow: Callable[[int], None],
) -> CallArguments:
    """The arguments with requests that can be sent several times, byte-equal."""
    check_metadata(arguments.metadata)
    request = arguments.request
    if type(request) is Requests:
        limit = engine.spec.options.replay_limit
        replayed = ReplayedRequests(
            request.source, method.serializer, limit, engine.replay_budget, on_overflow
        )
        return arguments._replace(request=replayed)
    return arguments._replace(request=serialized(method, request))


class BlockingRetries:
    """A unary-response RPC that is retried, in the thread of its caller."""

    def __init__(
        self,
        engine: Engine,
        method: MethodHandle,
        machine: CallAttempts,
        deadline: float | None,
        with_call: bool,
    ) -> None:
        self.arguments: CallArguments
        self._engine = engine
        self._method = method
        self._machine = machine
        self._deadline = deadline
        self._with_call = with_call
        self._tried: frozenset[Address] = frozenset()
        self._records: list[AttemptRecord] = []
        self._ends: dict[int, Any] = {}  # by serial: the error
        self._current: Attempt | None = None
        # A request stream that overflows its buffer reports so on grpcio's thread.
        self._lock = threading.Lock()

    def run(self) -> Any:
        """The response, or (response, call); raises the error of the attempt that counts."""
        try:
            return self._run()
        finally:
            request = self.arguments.request
            if type(request) is ReplayedRequests:
                request.close()

    def _run(self) -> Any:
        actions = self._machine.start(monotonic())
        while True:
            match actions[-1]:
                case Send(attempt):
                    self._current = attempt
                    if is_too_large(self._engine, self.arguments.request):
                        self._machine.on_commit(attempt)
                    outcome, result = self._attempt(attempt)
                    with self._lock:
                        self._current = None
                        actions = self._machine.on_outcome(attempt, outcome, monotonic())
                    if outcome.code is grpc.StatusCode.OK:
                        return self._returned(result)
                    self._ends[attempt.serial] = result
                case Wake(at):
                    if self._engine.closing.wait(max(0.0, at - monotonic())):
                        raise RpcFailure(Status(grpc.StatusCode.CANCELLED, CHANNEL_CLOSED))
                    actions = self._machine.on_wake(monotonic())
                case Finish(attempt):
                    raise self._raised(self._ends[attempt.serial])
                case _:
                    raise AssertionError(actions)

    def commit_to(self, serial: int) -> None:
        """The request buffer overflowed: no retry after this attempt. Any thread."""
        with self._lock:
            current = self._current
            if current is None or current.serial != serial:
                return
            self._machine.on_commit(current)
        request = self.arguments.request
        if type(request) is ReplayedRequests:
            request.commit(serial)

    def _returned(self, result: Any) -> Any:
        if self._with_call:
            attach(result[1], tuple(self._records))
        return result

    def _raised(self, error: Any) -> Any:
        attach(error, tuple(self._records))
        if self._records and self._records[-1].backend:
            error.add_note(f"grpclb: backend {self._records[-1].backend}")
        if len(self._records) > 1:
            error.add_note(f"grpclb: attempts {describe(self._records)}")
        return error

    def _attempt(self, attempt: Attempt) -> tuple[Outcome, Any]:
        started = monotonic()
        try:
            pick = self._pick(attempt, started)
        except RpcFailure as failure:
            code = failure.code()
            self._record(None, failure, started)
            dropped = isinstance(failure, DroppedFailure)
            by_timeout = code is grpc.StatusCode.DEADLINE_EXCEEDED and not self._is_late()
            if by_timeout:
                failure = attempt_timed_out(attempt)
            return Outcome(code, dropped=dropped, by_attempt_timeout=by_timeout), failure
        transport = transport_of(pick)
        arguments = self.arguments
        request = arguments.request
        if type(request) is ReplayedRequests:
            request = request.attempt(attempt.serial)
        call = transport.callable(self._method)
        transport.calls.append(None)
        try:
            result = (call.with_call if self._with_call else call)(
                request,
                self._time_left(attempt, started),
                with_attempt_number(arguments.metadata, attempt),
                arguments.credentials,
                None,
                arguments.compression,
            )
        except grpc.RpcError as error:
            return self._failed(attempt, pick, error, started)
        finally:
            transport.calls.pop()
        tell(pick, _OK)
        address = transport.connection.address
        seconds = monotonic() - started
        self._records.append(AttemptRecord(str(address), grpc.StatusCode.OK, seconds))
        return Outcome(grpc.StatusCode.OK), result

    def _pick(self, attempt: Attempt, started: float) -> Pick:
        engine, arguments = self._engine, self.arguments
        info = self._method.info
        if arguments.metadata or self._tried:
            info = PickInfo(self._method.path, arguments.metadata or (), self._tried)
        left = self._time_left(attempt, started)
        deadline = None if left is None else monotonic() + left
        if attempt.transparent:
            engine.closing.wait(_STALE_WAIT)  # the backend that was lost is being looked at
        elif type(pick := pick_now(engine, engine.slot.current, info)) is Pick:
            return pick
        return wait_for_pick(engine, info, deadline, arguments.wait_for_ready)

    def _failed(
        self, attempt: Attempt, pick: Pick, error: Any, started: float
    ) -> tuple[Outcome, Any]:
        code, details = error.code(), error.details()
        trailing = error.trailing_metadata() or ()
        transport = transport_of(pick)
        tell(pick, CallOutcome(code, trailing))
        if code is grpc.StatusCode.UNAVAILABLE:
            self._engine.suspect(transport)
        lost = never_left(code, details) and not self._engine.closed
        if not lost:
            self._tried |= {transport.connection.address}
        by_timeout = (
            code is grpc.StatusCode.DEADLINE_EXCEEDED
            and attempt.timeout is not None
            and not self._is_late()
        )
        if by_timeout:
            error = attempt_timed_out(attempt)
        self._record(str(transport.connection.address), error, started)
        outcome = Outcome(
            code,
            pushback=parse_pushback(trailing),
            never_left=lost,
            by_attempt_timeout=by_timeout,
        )
        return outcome, error

    def _record(self, backend: str | None, error: Any, started: float) -> None:
        self._records.append(
            AttemptRecord(backend, error.code(), monotonic() - started, error.details() or "")
        )

    def _is_late(self) -> bool:
        return self._deadline is not None and monotonic() >= self._deadline

    def _time_left(self, attempt: Attempt, started: float) -> float | None:
        now = monotonic()
        left = None if self._deadline is None else self._deadline - now
        if attempt.timeout is None:
            return left
        own = attempt.timeout - (now - started)
        return own if left is None else min(left, own)


class _Try:
    """One attempt under way."""

    __slots__ = (
        "armed",
        "attempt",
        "cancelled",
        "end_pending",
        "ended",
        "inner",
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
        self.armed = False  # for the RPC's deadline
        self.cancelled = False
        self.timed_out = False
        self.reading = False  # somebody is inside next(inner), and will learn how it ended
        self.end_pending = False
        self.ended = False


class RetriedCall(ClientCall):
    """A future or a stream that is retried, or any RPC that is hedged.

    `_inner` is the attempt that the RPC stands or falls with as far as is known: while it is
    retried the current one, while it is hedged none, until one wins.
    """

    def __init__(
        self,
        engine: Engine,
        method: MethodHandle,
        arguments: CallArguments,
        hedged: bool,
    ) -> None:
        super().__init__(engine, method, arguments)
        self._machine: CallAttempts
        self._hedged = hedged
        self._streams = method.kind in (UNARY_STREAM, STREAM_STREAM)
        self._tries: dict[int, _Try] = {}
        self._tried: frozenset[Address] = frozenset()
        self._records: list[AttemptRecord] = []
        self._read_ahead: list[Any] = []  # the first message of the hedged stream that won

    @property
    def deadline(self) -> float | None:
        """On the monotonic clock."""
        return self._deadline

    def use(self, machine: CallAttempts, arguments: CallArguments) -> None:
        """Before `start`."""
        self._machine = machine
        self._arguments = arguments

    # -- obeying the machine -------------------------------------------------------------------

    def start(self) -> None:
        self._engine.slot.used = True
        self._engine.works()
        with self._arrival:
            self._obey(self._machine.start(monotonic()))
            if is_too_large(self._engine, self._arguments.request):
                self.commit_to(0)
        self._tell()

    def _obey(self, actions: Actions) -> None:
        """Under the lock."""
        for action in actions:
            match action:
                case Send(attempt):
                    self._tries[attempt.serial] = _Try(attempt)
                    self._begin(self._tries[attempt.serial])
                case Wake(at):
                    self._later(at - monotonic(), RetriedCall._woken)
                case Cancel(attempt):
                    self._call_off(self._tries[attempt.serial])
                case Finish(attempt):
                    self._end_with(self._tries[attempt.serial])

    def _later(self, delay: float, method: Callable[..., None], *arguments: Any) -> None:
        """Call a method of this object on the control loop, if it still exists then."""
        loop = self._engine.works().lease.loop
        call = functools.partial(_on_existing, weakref.ref(self), method, *arguments)
        call_threadsafe(loop, lambda: loop.call_later(max(0.0, delay), call))

    def _tell(self) -> None:
        """Outside of the lock."""
        if self._final:
            request = self._arguments.request
            if type(request) is ReplayedRequests:
                request.commit(self._serial_of(self._inner))
            self._run_callbacks()

    def _woken(self) -> None:
        with self._arrival:
            self._obey(self._machine.on_wake(monotonic()))
        self._tell()

    # -- one attempt ---------------------------------------------------------------------------

    def _begin(self, one: _Try) -> None:
        if one.attempt.timeout is not None:
            self._later(one.attempt.timeout, RetriedCall._attempt_timeout, one)
        if one.attempt.transparent:
            self._later(_STALE_WAIT, RetriedCall._seek, one)
        else:
            self._seek(one)

    def _seek(self, one: _Try) -> None:
        """Find a backend for an attempt, now or with the next picker."""
        with self._arrival:
            if one.inner is not None or one.cancelled or one.ended or self._final:
                return
            engine = self._engine
            published = engine.slot.current
            result = pick_now(engine, published, self._pick_info())
            if type(result) is Pick:
                self._dispatch(one, result)
                return
            wait_for_ready = self._arguments.wait_for_ready
            failure = failure_of(engine, published, result, wait_for_ready)
            if failure is None:
                self._wait_for_news(one, published.generation, stale=result is None)
                return
            self._has_no_backend(one, failure)
        self._tell()

    def _wait_for_news(self, one: _Try, generation: int, *, stale: bool) -> None:
        """Have `_seek` called on the control loop when there may be a backend."""
        if self._deadline is not None and not one.armed:
            one.armed = True
            self._later(self._deadline - monotonic(), RetriedCall._out_of_time, one)
        if stale:
            self._later(_STALE_WAIT, RetriedCall._seek, one)
            return
        self._engine.wake()
        loop = self._engine.works().lease.loop
        seek = functools.partial(_on_existing, weakref.ref(self), RetriedCall._seek, one)
        wake = functools.partial(call_threadsafe, loop, seek)
        one.token = self._engine.slot.wait(generation, wake)

    def _pick_info(self) -> PickInfo:
        live = frozenset(
            t.transport.connection.address
            for t in self._tries.values()
            if t.transport is not None and not t.ended
        )
        avoid = self._tried | live
        metadata = self._arguments.metadata
        if not metadata and not avoid:
            return self._method.info
        return PickInfo(self._method.path, metadata or (), avoid)

    def _dispatch(self, one: _Try, pick: Pick) -> None:
        transport = transport_of(pick)
        arguments = self._arguments
        request = arguments.request
        if type(request) is ReplayedRequests:
            request = request.attempt(one.attempt.serial)
        callable_ = transport.callable(self._method)
        if self._method.kind in (UNARY_UNARY, STREAM_UNARY):
            callable_ = callable_.future
        timeout = None if self._deadline is None else self._deadline - monotonic()
        transport.calls.append(None)
        try:
            inner = callable_(
                request,
                timeout,
                with_attempt_number(arguments.metadata, one.attempt),
                arguments.credentials,
                None,
                arguments.compression,
            )
        except ValueError:
            transport.calls.pop()
            tell(pick, _DROPPED)
            if transport.closed and not self._engine.closed:
                self._later(_STALE_WAIT, RetriedCall._seek, one)
                return
            raise
        one.inner, one.transport = inner, transport
        if not self._hedged:
            self._inner = inner
            self._arrival.notify_all()
        elif self._streams:
            one.reading = True
            threading.Thread(
                target=_read_first, args=(weakref.ref(self), one), name="grpclb-hedge", daemon=True
            ).start()
        ended = functools.partial(_try_ended, weakref.ref(self), one, pick, transport)
        if not inner.add_callback(ended):
            ended()

    def _call_off(self, one: _Try) -> None:
        one.cancelled = True
        if one.token is not None:
            self._engine.slot.forget(one.token)
        if one.inner is not None:
            one.inner.cancel()

    def _has_no_backend(self, one: _Try, failure: RpcFailure) -> None:
        """Under the lock: the pick itself was the end of an attempt."""
        one.inner, one.ended = failure, True
        self._note_record(one, failure.code(), failure.details())
        dropped = isinstance(failure, DroppedFailure)
        outcome = Outcome(failure.code(), dropped=dropped, by_attempt_timeout=one.timed_out)
        if failure.code() is grpc.StatusCode.CANCELLED:  # the channel is closed
            self._obey(self._machine.on_cancel())
            self._end_with(one)
            return
        self._obey(self._machine.on_outcome(one.attempt, outcome, monotonic()))

    def _attempt_timeout(self, one: _Try) -> None:
        with self._arrival:
            if one.ended or one.cancelled or self._machine.committed == one.attempt or self._final:
                return
            one.timed_out = True
            if one.inner is None:
                self._has_no_backend(one, attempt_timed_out(one.attempt))
            else:
                one.inner.cancel()
        self._tell()

    def _out_of_time(self, one: _Try) -> None:
        with self._arrival:
            if one.inner is not None or one.cancelled or one.ended or self._final:
                return
            self._has_no_backend(one, deadline_exceeded(self._engine))
        self._tell()

    def _try_is_over(self, one: _Try) -> None:
        """An attempt that was sent has ended. Any thread, any number of times."""
        with self._arrival:
            if one.ended:
                return
            if one.reading:
                one.end_pending = True  # its reader may hold a message that commits it
                return
            one.ended = True
            if self._final:
                return
            inner = one.inner
            code, details = inner.code(), inner.details() or ""
            trailing = inner.trailing_metadata() or ()
            if one.timed_out:
                failure = attempt_timed_out(one.attempt)
                one.inner, code, details = failure, failure.code(), failure.details()
                trailing = ()
            self._note_record(one, code, details)
            lost = never_left(code, details) and not self._engine.closed
            if not lost and one.transport is not None:
                self._tried |= {one.transport.connection.address}
            outcome = Outcome(
                code,
                pushback=parse_pushback(trailing),
                never_left=lost,
                by_attempt_timeout=one.timed_out,
            )
            actions = self._machine.on_outcome(one.attempt, outcome, monotonic())
            if self._inner is inner:
                self._inner = None  # another one follows, or Finish shows it again
            self._obey(actions)
        self._tell()

    def _note_record(self, one: _Try, code: grpc.StatusCode, details: str) -> None:
        backend = None if one.transport is None else str(one.transport.connection.address)
        self._records.append(AttemptRecord(backend, code, monotonic() - one.started, details))

    def _end_with(self, one: _Try) -> None:
        if self._final:
            return
        self._inner = one.inner
        if one.inner.code() is not grpc.StatusCode.OK:
            if one.transport is not None:
                self.add_note(f"grpclb: backend {one.transport.connection.address}")
            if len(self._records) > 1:
                self.add_note(f"grpclb: attempts {describe(self._records)}")
        self._finish()

    # -- commitment ------------------------------------------------------------------------------

    def commit_to(self, serial: int) -> None:
        """Headers or a message came for this attempt, or the request buffer overflowed."""
        with self._arrival:
            one = self._tries.get(serial)
            if one is None or self._machine.over or self._machine.committed is not None:
                return
            if one.ended or one.cancelled:
                return
            self._obey(self._machine.on_commit(one.attempt))
            self._inner = one.inner
            self._arrival.notify_all()
            request = self._arguments.request
        if type(request) is ReplayedRequests:
            request.commit(serial)

    def _serial_of(self, inner: Any) -> int:
        return next((s for s, t in self._tries.items() if t.inner is inner), -1)

    def _settle(self, inner: Any) -> bool:
        """After something was learnt of an attempt. False: another one follows."""
        if self._final:
            return self._inner is inner
        one = self._tries.get(self._serial_of(inner))
        if one is None or self._inner is not inner:
            return False
        if not inner.done():
            self.commit_to(one.attempt.serial)
            return self._inner is inner
        self._try_is_over(one)
        return self._final and self._inner is inner

    # -- what ClientCall does otherwise ------------------------------------------------------------

    def cancel(self) -> bool:
        with self._arrival:
            if self._final:
                return False
            self._obey(self._machine.on_cancel())
            if self._inner is None:
                status = Status(grpc.StatusCode.CANCELLED, LOCALLY_CANCELLED)
                self._inner = CancelledWhileWaiting(status)
            self._finish()
        self._tell()
        return True

    def __next__(self) -> Any:
        while True:
            inner = self._arrived()
            if self._read_ahead:
                return self._read_ahead.pop()
            one = None if self._machine.committed is not None else self._start_reading(inner)
            try:
                message = next(inner)
            except StopIteration:
                self._stop_reading(one)
                self._settle(inner)
                raise
            except grpc.RpcError:
                self._stop_reading(one)
                if self._settle(inner):
                    raise self from None
            else:
                if one is not None:
                    self.commit_to(one.attempt.serial)
                    self._stop_reading(one)
                return message

    def _start_reading(self, inner: Any) -> _Try | None:
        """Until it is known whether there is a message, nobody else says how the attempt ended."""
        with self._arrival:
            one = self._tries.get(self._serial_of(inner))
            if one is None or one.ended:
                return None
            one.reading = True
            return one

    def _stop_reading(self, one: _Try | None) -> None:
        if one is None:
            return
        with self._arrival:
            one.reading = False
            pending, one.end_pending = one.end_pending, False
        if pending:
            self._try_is_over(one)

    @property
    def _grpclb_attempts(self) -> tuple[AttemptRecord, ...]:
        """For `attempts`."""
        with self._arrival:
            running = tuple(
                AttemptRecord(
                    None if t.transport is None else str(t.transport.connection.address),
                    None,
                    monotonic() - t.started,
                )
                for t in self._tries.values()
                if not t.ended and not t.cancelled
            )
            return (*self._records, *running)

    def __del__(self) -> None:
        for one in getattr(self, "_tries", {}).values():
            if one.token is not None:
                self._engine.slot.forget(one.token)
            if one.inner is not None and not one.ended:
                one.inner.cancel()


def _on_existing(
    reference: weakref.ref[RetriedCall], method: Callable[..., None], *arguments: Any
) -> None:
    call = reference()
    if call is not None:
        method(call, *arguments)


def _try_ended(
    reference: weakref.ref[RetriedCall], one: _Try, pick: Pick, transport: SyncTransport
) -> None:
    """An attempt is over; grpcio calls this once, on a thread of its own."""
    transport.calls.pop()
    call = reference()
    if call is None or one.inner is None:
        tell(pick, _DROPPED)
        return
    code = one.inner.code()
    tell(pick, CallOutcome(code, one.inner.trailing_metadata() or ()))
    if code is grpc.StatusCode.UNAVAILABLE:
        call._engine.suspect(transport)
    call._try_is_over(one)


def _read_first(reference: weakref.ref[RetriedCall], one: _Try) -> None:
    """Whether a hedged stream has a message is known only by reading it."""
    inner = one.inner
    try:
        message = [next(inner)]
    except (StopIteration, grpc.RpcError):
        message = []
    call = reference()
    if call is None:
        return
    with call._arrival:
        if message and not one.cancelled and call._machine.committed is None:
            call._read_ahead = message
            call.commit_to(one.attempt.serial)
    call._stop_reading(one)
