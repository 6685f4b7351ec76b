"""RPCs that are retried beside their caller, or hedged: the sync driver of core.attempts."""

from __future__ import annotations

import asyncio
import functools
import weakref
from collections.abc import Callable
from time import monotonic
from typing import Any

import grpc

from grpclb.control.arguments import INVALID_METADATA, legal_metadata
from grpclb.control.attempt_log import AttemptRecord, HedgedRecords, describe, in_order
from grpclb.control.channel_core import call_threadsafe
from grpclb.control.failures import never_left, tell
from grpclb.control.method import (
    STREAM_UNARY,
    UNARY_UNARY,
    MethodHandle,
)
from grpclb.core.address import Address
from grpclb.core.attempt import (
    Actions,
    Cancel,
    Finish,
    Outcome,
    Send,
    Wake,
)
from grpclb.core.attempts import CallAttempts
from grpclb.core.balancer import CallOutcome, Pick, PickInfo
from grpclb.core.connectivity import IDLE
from grpclb.core.pushback import parse_pushback
from grpclb.core.status import Status
from grpclb.sync._grpcio import headers_of
from grpclb.sync.arguments import CallArguments
from grpclb.sync.call import ClientCall
from grpclb.sync.engine import Engine
from grpclb.sync.errors import (
    CHANNEL_CLOSED,
    LOCALLY_CANCELLED,
    CancelledWhileWaiting,
    DroppedFailure,
    RpcFailure,
)
from grpclb.sync.pick import failure_of, pick_now, transport_of
from grpclb.sync.replay import ReplayedRequests
from grpclb.sync.subchannel import SyncTransport
from grpclb.sync.tries import Try, attempt_timed_out, is_too_large, with_attempt_number

_STALE_WAIT = 0.02
_DROPPED = CallOutcome(grpc.StatusCode.CANCELLED)
_HEADERS_LOOK_EVERY = 0.01
_NOT_STARTED = "the RPC could not be started: %r"


class RetriedCall(ClientCall):
    """A future or a stream that is retried, or any RPC that is hedged.

    `_inner` is the attempt that the RPC stands or falls with as far as is known: while it is
    retried the current one, while it is hedged none, until one wins.
    """

    began: float | None = None  # if that was before it was made

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
        self._tries: dict[int, Try] = {}
        self._tried: frozenset[Address] = frozenset()
        self._records: list[AttemptRecord] = HedgedRecords() if hedged else []
        self._handed_over = False  # and so the caller is out of reach of exceptions

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
        self._engine.retried[id(self)] = weakref.ref(self)
        with self._arrival:
            self._obey(self._machine.start(monotonic()))
            if is_too_large(self._engine, self._arguments.request):
                self.commit_to(0)
            self._handed_over = True
        self._tell()

    def _obey(self, actions: Actions) -> None:
        """Under the lock."""
        # All of them first: one that ends while it begins may have the next ones cancelled.
        for action in actions:
            if isinstance(action, Send):
                self._tries[action.attempt.serial] = Try(action.attempt)
        for action in actions:
            match action:
                case Send(attempt):
                    self._begin(self._tries[attempt.serial])
                case Wake(at):
                    self._later(at - monotonic(), RetriedCall._woken)
                case Cancel(attempt):
                    self._call_off(self._tries[attempt.serial])
                case Finish(attempt):
                    self._end_with(self._tries[attempt.serial])

    def _later(self, delay: float, method: Callable[..., None], *arguments: Any) -> None:
        """Call a method of this object on the control loop, if it still exists then."""
        loop = self._loop()
        call = functools.partial(on_existing, weakref.ref(self), method, *arguments)
        if loop is not None:
            call_threadsafe(loop, lambda: loop.call_later(max(0.0, delay), call))

    def _loop(self) -> asyncio.AbstractEventLoop | None:
        """The control loop; None where the channel closes, which ends this RPC."""
        try:
            return self._engine.works().lease.loop
        except ValueError:
            return None

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

    def _begin(self, one: Try) -> None:
        if one.cancelled or self._final:
            return
        one.begun = True
        if one.attempt.timeout is not None:
            self._later(one.attempt.timeout, RetriedCall._attempt_timeout, one)
        if one.attempt.transparent:
            self._later(_STALE_WAIT, RetriedCall._seek_again, one)
        else:
            self._seek(one)

    def _seek_again(self, one: Try) -> None:
        """On the control loop: there may be a backend now."""
        with self._arrival:
            self._seek(one)
        self._tell()

    def _seek(self, one: Try) -> None:
        """Find a backend for an attempt, now or with the next picker. Under the lock."""
        if one.inner is not None or one.cancelled or one.ended or self._final:
            return
        engine = self._engine
        published = engine.slot.current
        if published.selector is not None and self._arguments.selection is None:
            self._select(published)
            self._later(0.0, RetriedCall._seek_again, one)
            return
        result = pick_now(engine, published, self._pick_info())
        if type(result) is Pick:
            self._dispatch(one, result)
            return
        wait_for_ready = self._arguments.wait_for_ready
        failure = failure_of(engine, published, result, wait_for_ready)
        if failure is None and not legal_metadata(self._arguments.metadata):
            failure = RpcFailure(Status(grpc.StatusCode.INTERNAL, INVALID_METADATA))
        if failure is None:
            self._wait_for_news(one, published.generation, stale=result is None)
        else:
            self._has_no_backend(one, failure)

    def _wait_for_news(self, one: Try, generation: int, *, stale: bool) -> None:
        """Have `_seek` called on the control loop when there may be a backend."""
        if self._deadline is not None and not one.armed:
            one.armed = True
            self._later(self._deadline - monotonic(), RetriedCall._out_of_time, one)
        if stale:
            self._later(_STALE_WAIT, RetriedCall._seek_again, one)
            return
        loop = self._loop()
        if loop is None:
            return
        if self._engine.slot.current.state is IDLE:
            self._engine.wake()
        seek = functools.partial(on_existing, weakref.ref(self), RetriedCall._seek_again, one)
        wake = functools.partial(call_threadsafe, loop, seek)
        one.token = self._engine.slot.wait(generation, wake)

    def _pick_info(self) -> PickInfo:
        live = frozenset(
            t.transport.connection.address
            for t in self._tries.values()
            if t.transport is not None and not t.ended
        )
        return self._arguments.info(self._method, self._tried | live)

    def _dispatch(self, one: Try, pick: Pick) -> None:
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
        except BaseException as error:
            transport.calls.pop()
            tell(pick, _DROPPED)
            if isinstance(error, ValueError) and transport.closed:
                self._later(_STALE_WAIT, RetriedCall._seek_again, one)
                return
            if not self._handed_over or not isinstance(error, Exception):
                raise
            # A mistake in the arguments that grpcio finds only now.
            self._end_all(RpcFailure(Status(grpc.StatusCode.INTERNAL, _NOT_STARTED % error)))
            return
        one.inner, one.transport = inner, transport
        # A request too large to keep commits a hedged RPC even while it waits for a backend.
        if not self._hedged or self._machine.committed == one.attempt:
            self._inner = inner
            self._arrival.notify_all()
        self._sent(one)
        ended = functools.partial(_try_ended, weakref.ref(self), one, pick, transport)
        if not inner.add_callback(ended):
            ended()

    def _sent(self, one: Try) -> None:
        """An attempt is under way: streams have more to do. Under the lock."""

    def _call_off(self, one: Try) -> None:
        one.cancelled = True
        if one.token is not None:
            self._engine.slot.forget(one.token)
        if one.inner is not None and not one.inner.cancel() and not one.timed_out:
            self._note(one, one.inner.code(), one.inner.details() or "")  # it had ended before
        elif one.begun:
            self._note(one, grpc.StatusCode.CANCELLED, LOCALLY_CANCELLED)

    def _has_no_backend(self, one: Try, failure: RpcFailure) -> None:
        """Under the lock: the pick itself was the end of an attempt."""
        one.inner, one.ended = failure, True
        self._note(one, failure.code(), failure.details())
        dropped = isinstance(failure, DroppedFailure)
        outcome = Outcome(failure.code(), dropped=dropped, by_attempt_timeout=one.timed_out)
        if failure.code() is grpc.StatusCode.CANCELLED:  # the channel is closed
            self._end_all(failure)
            return
        self._obey(self._machine.on_outcome(one.attempt, outcome, monotonic()))

    def _attempt_timeout(self, one: Try) -> None:
        with self._arrival:
            if one.ended or one.cancelled or self._machine.committed == one.attempt or self._final:
                return
            if one.inner is None:
                one.timed_out = True
                status = self._engine.in_vain(attempt_timed_out(one.attempt))
                self._has_no_backend(one, RpcFailure(status))
            elif headers_of(one.inner) is not None and not one.inner.done():
                self.commit_to(one.attempt.serial)  # the server answered in time; nobody read it
            else:
                one.timed_out = True
                if not one.inner.cancel():  # it has just ended by itself
                    one.timed_out = False
        self._tell()

    def _out_of_time(self, one: Try) -> None:
        with self._arrival:
            if one.inner is not None or one.cancelled or one.ended or self._final:
                return
            status = self._engine.out_of_time(self.began or self._tries[0].started, self._records)
            self._has_no_backend(one, RpcFailure(status))
        self._tell()

    def _try_is_over(self, one: Try) -> None:
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
            if one.timed_out:
                one.inner = RpcFailure(attempt_timed_out(one.attempt))
            elif headers_of(inner) and self._machine.committed is None:
                # Headers with something in them are a response, whatever came after.
                self._obey(self._machine.on_commit(one.attempt))
            outcome = self._outcome_of(one)
            if one.cancelled:  # a loser's end, however late, is not the RPC's
                return
            if self._engine.closed:
                self._obey(self._machine.on_cancel())
                self._end_with(one)
            else:
                actions = self._machine.on_outcome(one.attempt, outcome, monotonic())
                if self._inner is inner:
                    self._inner = None  # another one follows, or Finish shows it again
                self._obey(actions)
        self._tell()

    def _note(self, one: Try, code: grpc.StatusCode, details: str) -> None:
        if not one.noted:
            one.noted = True
            self._records.append(one.record(self._tries[0].started, code, details))

    def _outcome_of(self, one: Try) -> Outcome:
        """What the machine and the caller are to know of an attempt that has ended."""
        inner = one.inner
        code, details = inner.code(), inner.details() or ""
        self._note(one, code, details)
        lost = never_left(code, details)
        if not lost and one.transport is not None:
            self._tried |= {one.transport.connection.address}
        return Outcome(
            code,
            pushback=parse_pushback(inner.trailing_metadata() or ()),
            never_left=lost,
            by_attempt_timeout=one.timed_out,
        )

    def _end_all(self, failure: RpcFailure) -> None:
        """Under the lock: no attempt, but this, is how the RPC ends."""
        self._obey(self._machine.on_cancel())
        self._inner = failure
        self._note_attempts()
        self._finish()

    def _end_with(self, one: Try) -> None:
        if self._final:
            return
        self._inner = one.inner
        if one.inner.code() is not grpc.StatusCode.OK:
            if one.backend is not None:
                self.add_note(f"grpclb: backend {one.backend}")
            self._note_attempts()
        self._finish()

    def _note_attempts(self) -> None:
        if len(self._records) > 1:
            self.add_note(f"grpclb: attempts {describe(self._records)}")

    def _finish(self) -> None:
        self._engine.retried.pop(id(self), None)
        super()._finish()

    def channel_closed(self) -> None:
        """By the thread that closes the channel: end, unless an attempt is under way and will."""
        with self._arrival:
            if self._final or self._inner is not None:
                return
            self._end_all(RpcFailure(Status(grpc.StatusCode.CANCELLED, CHANNEL_CLOSED)))
        self._tell()

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

    def initial_metadata(self) -> Any:
        while self._hedged and self._inner is None:
            self._look_for_headers()
        return super().initial_metadata()

    def _look_for_headers(self) -> None:
        """Of hedged copies the first one with headers is the RPC. grpcio does not tell of them."""
        with self._arrival:
            serial = next((s for s, t in self._tries.items() if _has_headers(t)), None)
            if serial is None:
                self._arrival.wait_for(lambda: self._inner is not None, _HEADERS_LOOK_EVERY)
                return
        self.commit_to(serial)

    def cancel(self) -> bool:
        inner = self._inner
        if inner is not None and inner.done():
            self._settle(inner)  # it has ended, and nobody has asked yet
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

    @property
    def _grpclb_attempts(self) -> tuple[AttemptRecord, ...]:
        """For `attempts`."""
        with self._arrival:
            running = [t for t in self._tries.values() if not t.ended and not t.cancelled]
            began = self._tries[0].started
            return in_order([*self._records, *(t.record(began, None) for t in running)])

    def __del__(self) -> None:
        self._engine.retried.pop(id(self), None)
        if type(self._arguments.request) is ReplayedRequests:
            self._arguments.request.close()
        for one in getattr(self, "_tries", {}).values():
            if one.token is not None:
                self._engine.slot.forget(one.token)
            if one.inner is not None and not one.ended:
                one.inner.cancel()


def on_existing(
    reference: weakref.ref[RetriedCall], method: Callable[..., None], *arguments: Any
) -> None:
    call = reference()
    if call is not None:
        method(call, *arguments)


def _has_headers(one: Try) -> bool:
    running = one.inner is not None and not (one.ended or one.cancelled or one.inner.done())
    return running and headers_of(one.inner) is not None


def _try_ended(
    reference: weakref.ref[RetriedCall], one: Try, pick: Pick, transport: SyncTransport
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
