"""RPCs with a retry or hedging policy: the aio driver of core.attempts (gRFC A6).

A retried call obeys the machine wherever news arrive on the loop. `_inner` is the attempt that the
RPC stands or falls with as far as is known: while it is retried the current one, while it is
hedged none, until one wins.
"""

from __future__ import annotations

import asyncio
import functools
import weakref
from collections.abc import Callable, Coroutine, Generator
from time import monotonic
from typing import Any

import grpc
import grpc.aio

from grpclb.aio.call import (
    DROPPED,
    CallArguments,
    ClientCall,
    known,
)
from grpclb.aio.engine import Engine
from grpclb.aio.errors import (
    LOCALLY_CANCELLED,
    EndedCall,
)
from grpclb.aio.pick import DroppedStatus, Seen, Unselected, pick_now, transport_of, wait_for_pick
from grpclb.aio.subchannel import AioTransport
from grpclb.aio.tries import Try, attempt_timed_out, error_of, headers_of, is_being_cancelled
from grpclb.control.attempt_log import AttemptRecord, HedgedRecords, attach, describe, in_order
from grpclb.control.failures import never_left, tell
from grpclb.control.method import MethodHandle
from grpclb.core.address import Address
from grpclb.core.attempt import (
    PREVIOUS_ATTEMPTS,
    SUCCESS,
    Actions,
    Cancel,
    Finish,
    Outcome,
    Send,
    Wake,
)
from grpclb.core.attempts import CallAttempts
from grpclb.core.balancer import CallOutcome, Pick, PickInfo
from grpclb.core.pushback import parse_pushback
from grpclb.core.status import Status

_STALE_WAIT = 0.02
_OK = CallOutcome(grpc.StatusCode.OK)
_NOT_STARTED = "the RPC could not be started: %r"
# What grpc.aio calls a write that failed, until it knows the status that the server gave.
_INTERNAL_ERROR = "Internal error from Core"
_STATUS_LOOKS, _STATUS_LOOK_EVERY = 50, 0.002
_HEADERS_LOOK_EVERY = 0.01


class RetriedCall(ClientCall):
    """What the four kinds of retried or hedged calls have in common."""

    began: float | None = None  # if that was before it was made
    _hedged = False
    _tried: frozenset[Address] = frozenset()
    _seen: Seen | None = None  # what the picker said to the first attempt
    _handed_over = False  # and so the caller is out of reach of exceptions

    def __init__(self, engine: Engine, method: MethodHandle, arguments: CallArguments) -> None:
        super().__init__(engine, method, arguments)
        self._machine: CallAttempts
        self._tries: dict[int, Try] = {}
        self._records: list[AttemptRecord] = []
        self._timers: list[asyncio.TimerHandle] = []

    @property
    def deadline(self) -> float | None:
        """On the monotonic clock."""
        return self._deadline

    def use(self, machine: CallAttempts, arguments: CallArguments, *, hedged: bool) -> None:
        """Before `start`."""
        self._machine = machine
        self._arguments = arguments
        self._hedged = hedged
        if hedged:
            self._records = HedgedRecords()

    # -- obeying the machine -------------------------------------------------------------------

    def start(self) -> None:
        self._engine.slot.used = True
        self._engine.works()
        self._obey(self._machine.start(monotonic()))
        request = self._arguments.request
        limit = self._engine.spec.options.replay_limit
        if isinstance(request, bytes) and len(request) > limit:
            self._commit(self._tries[0])
        self._handed_over = True

    def _obey(self, actions: Actions) -> None:
        for action in actions:
            match action:
                case Send(attempt):
                    self._tries[attempt.serial] = Try(attempt)
                    self._begin(self._tries[attempt.serial])
                case Wake(at):
                    self._later(at - monotonic(), RetriedCall._woken)
                case Cancel(attempt):
                    self._call_off(self._tries[attempt.serial])
                case Finish(attempt):
                    self._end_with(self._tries[attempt.serial])

    def _later(self, delay: float, method: Callable[..., None], *arguments: Any) -> None:
        """Call a method of this object in `delay` seconds, if it still exists then."""
        call = functools.partial(_on_existing, weakref.ref(self), method, *arguments)
        loop = asyncio.get_running_loop()
        self._timers.append(loop.call_later(max(0.0, delay), call))

    def _woken(self) -> None:
        self._obey(self._machine.on_wake(monotonic()))

    # -- one attempt ---------------------------------------------------------------------------

    def _begin(self, one: Try) -> None:
        if one.attempt.timeout is not None:
            self._later(one.attempt.timeout, RetriedCall._attempt_timeout, one)
        seen, self._seen = self._seen, None
        if not one.attempt.transparent and seen is None:
            published = self._engine.slot.current
            result = pick_now(published, self._pick_info())
            if type(result) is Pick:
                self._dispatch(one, result)
                return
            seen = (published, result)
        one.search = self._engine.works().spawn(_search(weakref.ref(self), one, seen))

    def _pick_info(self) -> PickInfo:
        if len(self._tries) == 1 and not self._arguments.metadata:
            return self._arguments.info(self._method)
        live = frozenset(
            t.transport.connection.address
            for t in self._tries.values()
            if t.transport is not None and not t.ended
        )
        avoid = self._tried | live
        return self._arguments.info(self._method, avoid)

    def _dispatch(self, one: Try, pick: Pick) -> None:
        transport = transport_of(pick)
        arguments = self._arguments
        metadata = arguments.metadata
        if one.attempt.number:
            metadata = grpc.aio.Metadata(*(metadata or ()))
            metadata.add(PREVIOUS_ATTEMPTS, str(one.attempt.number))
        multicallable = transport.callable(self._method)
        requests = () if self._streams_requests else (arguments.request,)
        try:
            inner = multicallable(
                *requests,
                timeout=None if self._deadline is None else self._deadline - monotonic(),
                metadata=metadata,
                credentials=arguments.credentials,
                compression=arguments.compression,
            )
        except BaseException as error:
            tell(pick, DROPPED)
            if not self._handed_over or not isinstance(error, Exception):
                raise
            # A mistake in the arguments that grpcio finds only now.
            self._end_all(Status(grpc.StatusCode.INTERNAL, _NOT_STARTED % error))
            return
        transport.inflight += 1
        one.inner, one.transport = inner, transport
        # A request too large to keep commits a hedged RPC even while it waits for a backend.
        if not self._hedged or self._machine.committed == one.attempt:
            self._pick = pick
            self._arrive(inner)
        self._sent(one)
        inner.add_done_callback(
            functools.partial(try_ended, weakref.ref(self), one, pick, transport)
        )

    def _sent(self, one: Try) -> None:
        """An attempt is under way: streams have more to do."""

    def _call_off(self, one: Try) -> None:
        one.cancelled = True
        one.stop_tasks()
        if one.inner is not None and not one.inner.cancel() and not one.timed_out:
            inner = one.inner  # it had ended before
            self._note(one, known(inner.code()), known(inner.details()) or "")
        else:
            self._note(one, grpc.StatusCode.CANCELLED, LOCALLY_CANCELLED)

    def _has_no_backend(self, one: Try, status: Status, *, dropped: bool = False) -> None:
        """The pick itself was the end of an attempt."""
        one.inner = EndedCall(status)
        one.mark_ended()
        self._note(one, status.code, status.details)
        if status.code is grpc.StatusCode.CANCELLED:  # the channel is closed
            self._end_all(status)
            return
        outcome = Outcome(status.code, dropped=dropped, by_attempt_timeout=one.timed_out)
        self._obey(self._machine.on_outcome(one.attempt, outcome, monotonic()))

    def _attempt_timeout(self, one: Try) -> None:
        if one.ended or one.cancelled or self._machine.committed == one.attempt or self._final:
            return
        if one.inner is None:
            one.timed_out = True
            if one.search is not None:
                one.search.cancel()
            self._has_no_backend(one, self._engine.in_vain(attempt_timed_out(one.attempt)))
        elif headers_of(one.inner) is not None and not one.inner.done():
            self._commit(one)  # the server answered in time; nobody read it
        else:
            one.timed_out = True
            if not one.inner.cancel():  # it has just ended by itself
                one.timed_out = False

    def _try_is_over(self, one: Try) -> None:
        """An attempt that was sent has ended. Any number of times."""
        if one.ended:
            return
        if one.reading:
            one.end_pending = True  # its reader may hold a message that commits it
            return
        one.mark_ended()
        one.stop_tasks()
        inner = one.inner
        code, details, _ = one.end
        if code is grpc.StatusCode.OK and not one.timed_out:
            self._note(one, code, details)
            if not self._final:
                self._obey(self._machine.on_outcome(one.attempt, SUCCESS, monotonic()))
            return
        if one.timed_out:
            status = attempt_timed_out(one.attempt)
            one.inner, one.end = EndedCall(status), (status.code, status.details, ())
        elif headers_of(inner) and not self._final and self._machine.committed is None:
            # Headers with something in them are a response, whatever came after.
            self._obey(self._machine.on_commit(one.attempt))
        outcome = self._outcome_of(one)
        if self._final or one.cancelled:  # a loser's end, however late, is not the RPC's
            return
        if self._engine.ended or (not one.timed_out and one.end[1] == LOCALLY_CANCELLED):
            self._obey(self._machine.on_cancel())
            self._end_with(one)
            return
        if self._inner is inner:
            self._inner = None  # another one follows, or Finish shows it again
        self._obey(self._machine.on_outcome(one.attempt, outcome, monotonic()))

    def _note(self, one: Try, code: grpc.StatusCode, details: str) -> None:
        if not one.noted:
            one.noted = True
            self._records.append(one.record(self._tries[0].started, code, details))

    def _outcome_of(self, one: Try) -> Outcome:
        """What the machine and the caller are to know of an attempt that has ended."""
        code, details, trailing = one.end
        self._note(one, code, details)
        lost = never_left(code, details)
        if not lost and one.transport is not None:
            self._tried |= {one.transport.connection.address}
        return Outcome(
            code,
            pushback=parse_pushback(trailing),
            never_left=lost,
            by_attempt_timeout=one.timed_out,
        )

    def _end_all(self, status: Status) -> None:
        """No attempt, but this, is how the RPC ends."""
        self._obey(self._machine.on_cancel())
        if not self._final:
            closed = status.code is grpc.StatusCode.CANCELLED
            self._inner = None
            self._end_locally(EndedCall(status, cancelled=closed))

    def _arrive(self, inner: Any) -> None:
        self._inner = inner
        if self._arrival is not None:
            self._announce(self._arrival)

    def _end_with(self, one: Try) -> None:
        if not self._final:
            self._arrive(one.inner)
            self._finish()

    def _finish(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        super()._finish()

    def _commit(self, one: Try) -> None:
        """Headers or a message came for this attempt, or the request buffer overflowed."""
        if one.ended or one.cancelled or self._machine.over or self._machine.committed is not None:
            return
        self._obey(self._machine.on_commit(one.attempt))
        self._arrive(one.inner)

    def _try_of(self, inner: Any) -> Try | None:
        return next((t for t in self._tries.values() if t.inner is inner), None)

    # -- what ClientCall does otherwise ------------------------------------------------------------

    def _is_error(self, inner: Any, error: BaseException) -> bool:
        if self._inner is not inner:
            return False
        records = in_order(self._records)
        attach(error, records)
        if not getattr(error, "__notes__", None) and records:
            one = self._try_of(inner)
            backend = records[-1].backend if one is None else one.backend
            if backend:
                error.add_note(f"grpclb: backend {backend}")
            if len(self._records) > 1:
                error.add_note(f"grpclb: attempts {describe(self._records)}")
        return True

    async def _final_error(self, inner: Any, error: BaseException) -> BaseException | None:
        """The RPC's error, if that of this attempt is it; None: another attempt follows.

        The status of a stream that the server ended may come after the error (`_await_status`).
        """
        one = self._try_of(inner)
        if one is not None and one.inner is inner:
            await one.until_ended()
        if isinstance(error, grpc.aio.AioRpcError) and error.details() == _INTERNAL_ERROR:
            error = error_of(inner)
        return error if self._is_error(inner, error) else None

    async def _ask(self, question: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
        """As for any call; but the status of a stream may come after the first one told."""
        while True:
            inner = await self._arrived()
            try:
                answer = await question(inner)
            except grpc.aio.AioRpcError as error:
                if self._is_error(inner, error):
                    raise
                continue
            except asyncio.CancelledError:
                one = self._try_of(inner)
                if one is not None and one.timed_out and not is_being_cancelled():
                    await one.until_ended()  # who reads its messages may have yet to say so
                if self._inner is inner or is_being_cancelled():
                    raise
                continue  # our own doing: the attempt took too long
            one = self._try_of(inner)
            if one is not None and not one.ended and inner.done():
                await one.until_ended()
            elif self._inner is inner:
                return answer

    async def initial_metadata(self) -> Any:
        while True:
            await self._headers_of_a_copy()
            inner = await self._arrived()
            found = await inner.initial_metadata()
            if self._inner is not inner:
                continue
            one = self._try_of(inner)
            if one is not None and not inner.done():
                self._commit(one)
            return found

    async def _headers_of_a_copy(self) -> None:
        """Of hedged copies the first one with headers is the RPC. grpcio does not tell of them."""
        while self._hedged and self._inner is None:
            for one in tuple(self._tries.values()):
                inner = one.inner
                if inner is not None and not inner.done() and headers_of(inner) is not None:
                    self._commit(one)
            if self._inner is None:
                if self._arrival is None or self._arrival.done():
                    self._arrival = asyncio.get_running_loop().create_future()
                await asyncio.wait((self._arrival,), timeout=_HEADERS_LOOK_EVERY)

    def cancel(self) -> bool:
        if self._final:
            return False
        self._end_all(Status(grpc.StatusCode.CANCELLED, LOCALLY_CANCELLED))
        return True

    @property
    def _grpclb_attempts(self) -> tuple[AttemptRecord, ...]:
        """For `attempts`."""
        running = [t for t in self._tries.values() if not t.ended and not t.cancelled]
        began = self._tries[0].started if self._tries else 0.0
        return in_order([*self._records, *(t.record(began, None) for t in running)])

    def __del__(self) -> None:
        for one in getattr(self, "_tries", {}).values():
            one.stop_tasks()
            if one.inner is not None and not one.ended:
                one.inner.cancel()
        super().__del__()


class RetriedUnaryResponse(RetriedCall):
    def start(self) -> None:
        super().start()
        if not self._final:
            self._engine.held.add(self)  # fire and forget, as in grpcio

    def _finish(self) -> None:
        self._engine.held.discard(self)
        super()._finish()

    def __await__(self) -> Generator[Any, None, Any]:
        while True:
            inner = self._inner
            if inner is None:
                try:
                    inner = yield from self._arrived().__await__()
                except asyncio.CancelledError:
                    self.cancel()
                    raise
            try:
                return (yield from inner.__await__())
            except grpc.aio.AioRpcError as error:
                final = yield from self._final_error(inner, error).__await__()
                if final is error:
                    raise
                if final is not None:
                    raise final from None
            except asyncio.CancelledError:
                if self._inner is inner or is_being_cancelled():
                    self.cancel()
                    raise
                # Our own doing: the attempt took too long.


def _on_existing(
    reference: weakref.ref[RetriedCall], method: Callable[..., None], *arguments: Any
) -> None:
    call = reference()
    if call is not None:
        method(call, *arguments)


async def _search(reference: weakref.ref[RetriedCall], one: Try, seen: Seen | None) -> None:
    """Wait for a backend without keeping the call object alive."""
    if one.attempt.transparent:
        await asyncio.sleep(_STALE_WAIT)  # the backend that was lost is being looked at
    result: Pick | Status | Unselected
    while True:
        call = reference()
        if call is None:
            return
        engine, info, deadline = call._engine, call._pick_info(), call._deadline
        wait_for_ready = call._arguments.wait_for_ready
        began, records = call.began or call._tries[0].started, call._records
        del call
        result = await wait_for_pick(engine, info, deadline, wait_for_ready, began, records, seen)
        seen = None
        call = reference()
        if call is None or one.cancelled or one.ended or call._final:
            return
        if not isinstance(result, Unselected):
            break
        if not call.select():
            return
    if isinstance(result, Status):
        call._has_no_backend(one, result, dropped=isinstance(result, DroppedStatus))
    else:
        call._dispatch(one, result)


def try_ended(
    reference: weakref.ref[Any], one: Try, pick: Pick, transport: AioTransport, inner: Any
) -> None:
    """An attempt is over; grpcio calls this once, on the loop."""
    if one.writer is not None:
        one.writer.cancel()  # a write that fails now would replace the status
    if known(inner.code()) is not grpc.StatusCode.OK and known(inner.details()) == _INTERNAL_ERROR:
        call = reference()
        if call is not None:
            works = call._engine.works_if_open()
            if works is not None:
                works.spawn(_await_status(reference, one, pick, transport, inner))
                return
    _attempt_ended(reference, one, pick, transport, inner)


async def _await_status(
    reference: weakref.ref[RetriedCall], one: Try, pick: Pick, transport: AioTransport, inner: Any
) -> None:
    """A write that failed because the server ended the stream: its status comes a moment later."""
    for _ in range(_STATUS_LOOKS):
        if known(inner.details()) != _INTERNAL_ERROR:
            break
        await asyncio.sleep(_STATUS_LOOK_EVERY)
    _attempt_ended(reference, one, pick, transport, inner)


def _attempt_ended(
    reference: weakref.ref[RetriedCall], one: Try, pick: Pick, transport: AioTransport, inner: Any
) -> None:
    outcome = count_end(pick, transport, inner)
    one.end = (outcome.code, known(inner.details()) or "", tuple(outcome.trailing_metadata))
    call = reference()
    if call is not None:
        call._try_is_over(one)


def count_end(pick: Pick, transport: AioTransport, inner: Any) -> CallOutcome:
    """Tell those who count of a call that is over; once."""
    transport.inflight -= 1
    code = known(inner.code())
    if code is grpc.StatusCode.OK and pick.on_done is None:
        return _OK
    outcome = CallOutcome(code, tuple(known(inner.trailing_metadata()) or ()))
    tell(pick, outcome)
    if code is grpc.StatusCode.UNAVAILABLE:
        transport.check()
    return outcome
