"""A unary-response RPC that is retried in the thread of its caller, who waits for it."""

from __future__ import annotations

import threading
from time import monotonic
from typing import Any, TypeAlias

import grpc

from grpclb.control.attempt_log import AttemptRecord, attach, describe
from grpclb.control.failures import never_left, tell
from grpclb.control.method import (
    MethodHandle,
)
from grpclb.core.address import Address
from grpclb.core.attempt import (
    Attempt,
    Finish,
    Outcome,
    Send,
    Wake,
)
from grpclb.core.attempts import CallAttempts
from grpclb.core.balancer import CallOutcome, Pick
from grpclb.core.pushback import parse_pushback
from grpclb.core.status import Status
from grpclb.sync.arguments import CallArguments
from grpclb.sync.engine import Engine
from grpclb.sync.errors import (
    CHANNEL_CLOSED,
    DroppedFailure,
    RpcFailure,
)
from grpclb.sync.pick import Seen, pick_now, transport_of, wait_for_pick
from grpclb.sync.replay import ReplayedRequests
from grpclb.sync.tries import attempt_timed_out, is_too_large, with_attempt_number

_STALE_WAIT = 0.02
_OK = CallOutcome(grpc.StatusCode.OK)
_DROPPED = CallOutcome(grpc.StatusCode.CANCELLED)
_CLOCKS_DIFFER = 0.005  # seconds, between C-core's and ours


# An attempt that failed: its pick, its error, and when it began on the monotonic clock.
Failed: TypeAlias = tuple[Pick, grpc.RpcError, float]


def send_first(
    engine: Engine,
    method: MethodHandle,
    arguments: CallArguments,
    deadline: float | None,
    with_call: bool,
) -> tuple[bool, Any]:
    """The first attempt, if a backend is ready.

    (True, what the RPC returns); or (False, how it `Failed`), or (False, what the picker said):
    it was not sent.
    Most RPCs end with their first attempt, and well, so it does without the machinery of retries.
    Raises for wrong arguments.
    """
    plain = not arguments.metadata and arguments.selection is None
    info = method.info if plain else arguments.info(method)
    started = monotonic()
    published = engine.slot.current
    pick = pick_now(engine, published, info)
    if type(pick) is not Pick:
        return False, (published, pick)
    transport = transport_of(pick)
    call = transport.callable(method)
    transport.calls.append(None)
    try:
        result = (call.with_call if with_call else call)(
            arguments.request,
            None if deadline is None else deadline - started,
            arguments.metadata,
            arguments.credentials,
            None,
            arguments.compression,
        )
    except grpc.RpcError as error:
        return False, (pick, error, started)
    except BaseException as error:
        tell(pick, _DROPPED)
        if isinstance(error, ValueError) and transport.closed and not engine.closed:
            return False, (published, None)  # its backend was let go since the pick
        raise
    finally:
        transport.calls.pop()
    if pick.on_done is not None:
        tell(pick, _OK)
    if with_call:
        seconds = monotonic() - started
        backend = str(transport.connection.address)
        attach(result[1], (AttemptRecord(backend, grpc.StatusCode.OK, seconds),))
    return True, result


def _wait_until(at: float) -> float:
    """Seconds from now, as `wait` takes them; an early wake does no harm."""
    return min(max(0.0, at - monotonic()), threading.TIMEOUT_MAX)


class BlockingRetries:
    """A unary-response RPC that is retried, in the thread of its caller."""

    def __init__(
        self,
        engine: Engine,
        method: MethodHandle,
        machine: CallAttempts,
        deadline: float | None,
        with_call: bool,
        began: float,
    ) -> None:
        self.arguments: CallArguments
        self._engine = engine
        self._method = method
        self._machine = machine
        self._deadline = deadline
        self._with_call = with_call
        self._began = began
        self._tried: frozenset[Address] = frozenset()
        self._records: list[AttemptRecord] = []
        self._ends: dict[int, Any] = {}  # by serial: the error
        self._current: Attempt | None = None
        self._seen: Seen | None = None
        # A request stream that overflows its buffer reports so on grpcio's thread.
        self._lock = threading.Lock()

    def run(self, first: Failed | Seen | None) -> Any:
        """The response, or (response, call); raises the error of the attempt that counts.

        `first` is what `send_first` came to, if it was called.
        """
        failed: Failed | None = None
        if first is not None:
            if len(first) == 3:
                failed = first
            else:
                self._seen = first
        try:
            return self._run(failed)
        finally:
            request = self.arguments.request
            if type(request) is ReplayedRequests:
                request.close()

    def _run(self, failed: Failed | None) -> Any:
        actions = self._machine.start(monotonic())
        if failed is not None and isinstance(actions[0], Send):
            attempt = actions[0].attempt
            outcome, self._ends[attempt.serial] = self._failed(attempt, *failed)
            actions = self._machine.on_outcome(attempt, outcome, monotonic())
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
                    if self._engine.closing.wait(_wait_until(at)):
                        closed = Status(grpc.StatusCode.CANCELLED, CHANNEL_CLOSED)
                        raise self._raised(RpcFailure(closed))
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
            by_timeout = self._took_too_long(attempt, failure, started)
            dropped = isinstance(failure, DroppedFailure)
            if by_timeout:
                failure = RpcFailure(self._engine.in_vain(attempt_timed_out(attempt)))
            self._record(None, failure.code(), failure.details(), started)
            return Outcome(failure.code(), dropped=dropped, by_attempt_timeout=by_timeout), failure
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
        except BaseException as error:
            tell(pick, _DROPPED)
            if isinstance(error, ValueError) and transport.closed:
                # Since the pick: it goes elsewhere, or nowhere if the channel is closed, too.
                gone = RpcFailure(Status(grpc.StatusCode.UNAVAILABLE, "the backend was removed"))
                return Outcome(grpc.StatusCode.UNAVAILABLE, never_left=True), gone
            raise  # a wrong argument, or Ctrl-C
        finally:
            transport.calls.pop()
        tell(pick, _OK)
        self._record(transport.connection.address.target, grpc.StatusCode.OK, "", started)
        return Outcome(grpc.StatusCode.OK), result

    def _pick(self, attempt: Attempt, started: float) -> Pick:
        engine, arguments = self._engine, self.arguments
        info = arguments.info(self._method, self._tried)
        left = self._time_left(attempt, started)
        deadline = None if left is None else monotonic() + left
        seen, self._seen = self._seen, None
        if attempt.transparent:
            engine.closing.wait(_STALE_WAIT)  # the backend that was lost is being looked at
        elif seen is None:
            published = engine.slot.current
            pick = pick_now(engine, published, info)
            if type(pick) is Pick:
                return pick
            seen = (published, pick)
        wait_for_ready, records = arguments.wait_for_ready, self._records
        return wait_for_pick(engine, info, deadline, wait_for_ready, self._began, records, seen)

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
        if error.initial_metadata() and self._machine.committed is None:
            # Headers with something in them are a response, whatever came after.
            with self._lock:
                self._machine.on_commit(attempt)
        by_timeout = self._took_too_long(attempt, error, started)
        if by_timeout:
            error = RpcFailure(attempt_timed_out(attempt))
        details = error.details() or ""
        self._record(transport.connection.address.target, error.code(), details, started)
        outcome = Outcome(
            code,
            pushback=parse_pushback(trailing),
            never_left=lost,
            by_attempt_timeout=by_timeout,
        )
        return outcome, error

    def _record(
        self, backend: str | None, code: grpc.StatusCode, details: str, started: float
    ) -> None:
        seconds, begun = monotonic() - started, started - self._began
        self._records.append(AttemptRecord(backend, code, seconds, details, begun))

    def _took_too_long(self, attempt: Attempt, error: Any, started: float) -> bool:
        """Whether it is its own timeout that ended an attempt, not the server or the deadline."""
        if attempt.timeout is None or error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
            return False
        now = monotonic()
        late = self._deadline is not None and now >= self._deadline
        return not late and now - started >= attempt.timeout - _CLOCKS_DIFFER

    def _time_left(self, attempt: Attempt, started: float) -> float | None:
        now = monotonic()
        left = None if self._deadline is None else self._deadline - now
        if attempt.timeout is None or self._machine.committed is not None:
            return left
        own = attempt.timeout - (now - started)
        return own if left is None else min(left, own)
