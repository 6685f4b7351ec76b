"""Retry and hedging (gRFC A6) as a machine without I/O: it decides, two thin drivers obey.

A driver has one `CallAttempts` per RPC, tells it what happened, and carries out what it answers,
in order. In the sync stack, for a unary RPC that is retried and not hedged, that is:

    actions = machine.start(now())
    while True:
        match actions[-1]:
            case Send(attempt): actions = machine.on_outcome(attempt, run(attempt), now())
            case Wake(at): wait_until(at); actions = machine.on_wake(now())
            case Finish(attempt): return the_outcome_of(attempt)

The rules that the driver keeps:

- Each `Send` is a new pick. An attempt that failed before it left the client (`never_left`) is
  sent again without a wait and without an end but the deadline, so the driver must not use again
  the picker that led it there: it reports the backend as lost and waits for the next picker
  (`Attempt.transparent` says so). That wait is what keeps the loop from spinning.
- Every attempt runs with the RPC's own deadline, so the machine never ends a live one for it.
  `Attempt.timeout` is a second, shorter limit, until `on_commit` for that attempt.
- There is one timer. A `Wake` replaces the one before; an answer without a `Wake` leaves it, and a
  wake that has lost its reason is answered with ().
- Requests are kept for replay until `committed` is set or the machine is `over`.
- A request that the buffer cannot take commits the RPC: `on_commit` with the attempt furthest
  ahead. Between two attempts there is none; then the request waits for the next `Send`, and
  `on_commit` follows it at once.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from grpc import StatusCode

from grpclb.core.attempt import Action, Actions, Attempt, Cancel, Finish, Outcome, Send, Wake

if TYPE_CHECKING:
    from random import Random

    from grpclb.core.retry_config import HedgingPolicy, RetryPolicy
    from grpclb.core.throttle import Throttle

_NO_CODES: frozenset[StatusCode] = frozenset()
# Shared by all RPCs without a limit for the attempt: one that succeeds at once allocates nothing.
_FIRST = Attempt(0, 0)
_SEND_FIRST: Actions = (Send(_FIRST),)
_FINISH_FIRST: Actions = (Finish(_FIRST),)


class CallAttempts:
    """The attempts of one RPC. Every method answers with actions; the driver obeys them in order.

    Not safe for threads: where two attempts can report at once, the driver holds a lock around
    call and obedience. Times are seconds of one monotonic clock that `deadline` is on, too.
    Exactly one `Finish` is answered, unless `on_cancel` came before it. News of an attempt that
    was cancelled, and all news after the end, are answered with (); news of one that was never
    started, or that ended before, raise ValueError and change nothing.
    """

    __slots__ = (
        "_backoff",
        "_cancelled",
        "_codes",
        "_committed",
        "_deadline",
        "_hedging",
        "_last",
        "_left",
        "_live",
        "_next_at",
        "_number",
        "_over",
        "_random",
        "_refused",
        "_retry",
        "_serial",
        "_throttle",
    )

    def __init__(
        self,
        retry: RetryPolicy | None,
        hedging: HedgingPolicy | None,
        throttle: Throttle | None,
        deadline: float | None,
        random: Random,
    ) -> None:
        """At most one policy; without any, only transparent retries are left. Starts nothing."""
        self._retry = retry
        self._hedging = hedging
        self._throttle = throttle
        self._deadline = inf if deadline is None else deadline
        self._random = random
        self._live: list[Attempt] = []
        self._cancelled: tuple[Attempt, ...] = ()
        self._committed: Attempt | None = None
        self._last: Attempt | None = None  # the one that failed last
        self._next_at: float | None = None  # when the next attempt is due; None: not planned
        self._serial = 0  # attempts sent
        self._number = 0  # those of them that count
        self._refused = False  # the one transparent retry of what a server refused is used up
        self._over = False
        if retry is not None:
            if hedging is not None:
                raise ValueError("an RPC is retried or hedged, not both")
            self._left = retry.max_attempts - 1
            self._codes = retry.retryable_codes
            self._backoff = retry.initial_backoff
        elif hedging is not None:
            self._left = hedging.max_attempts - 1
            self._codes = hedging.non_fatal_codes
        else:
            self._left = 0
            self._codes = _NO_CODES

    @property
    def committed(self) -> Attempt | None:
        """The attempt that the RPC now stands or falls with; no other one is started."""
        return self._committed

    @property
    def over(self) -> bool:
        """Whether `Finish` was answered or `on_cancel` called."""
        return self._over

    def start(self, now: float) -> Actions:
        """Once. The first attempt is sent whatever the time: the RPC must have an outcome."""
        if self._serial or self._over:
            raise ValueError("the RPC was started already")
        if self._hedging is not None:
            first = self._send()
            self._next_at = now + self._hedging.hedging_delay
            return (first, *self._proceed(now))
        retry = self._retry
        if retry is not None and retry.per_attempt_recv_timeout is not None:
            return (self._send(),)
        self._serial = self._number = 1
        self._live.append(_FIRST)
        return _SEND_FIRST

    def on_outcome(self, attempt: Attempt, outcome: Outcome, now: float) -> Actions:
        """The attempt ended by itself, or by its deadline or timeout."""
        if not self._ended(attempt):
            return ()
        if outcome.code is StatusCode.OK:
            if self._throttle is not None:
                self._throttle.record_success()
            return self._finish(attempt)
        if self._is_transparent(outcome, now):
            return (self._send(attempt.number, transparent=True),)
        self._last = attempt
        if outcome.never_left:  # there was no time to send it again
            return self._proceed(now)
        allowed = self._count(outcome)
        if self._committed is not None:
            return self._finish(attempt)
        if outcome.dropped:
            # A copy that our hedging added and the policy refused must not end the others.
            self._left = 0
            return self._proceed(now)
        if outcome.code not in self._codes:
            return self._finish(attempt)
        self._plan(outcome.pushback, allowed, now)
        return self._proceed(now)

    def on_wake(self, now: float) -> Actions:
        """The time of the last `Wake` has come. Early, late and needless calls do no harm."""
        return () if self._over else self._proceed(now)

    def on_commit(self, attempt: Attempt) -> Actions:
        """Response headers came for it, or the request buffer overflowed: nothing is retried now.

        The first to commit wins, the others are cancelled. A Trailers-Only response is no headers.
        """
        if self._over or attempt in self._cancelled:
            return ()
        if attempt not in self._live:
            raise ValueError(f"{attempt} is not under way")
        self._committed = attempt
        return self._cancel_all_but(attempt)

    def on_cancel(self) -> Actions:
        """The application gave up, or the channel closed. No `Finish` follows."""
        self._over = True
        return self._cancel_all_but(None)

    def _ended(self, attempt: Attempt) -> bool:
        """Take it from the live ones; False if nobody waits for its outcome any more."""
        if attempt in self._live:
            self._live.remove(attempt)
            return True
        if self._over or attempt in self._cancelled:
            return False
        raise ValueError(f"{attempt} is not under way")

    def _is_transparent(self, outcome: Outcome, now: float) -> bool:
        """Whether it is sent again at once, uncounted, as no server has worked on it."""
        if self._committed is not None or now >= self._deadline:
            return False
        if outcome.never_left:
            return True
        if not outcome.server_refused or self._refused:
            return False
        self._refused = True
        return True

    def _count(self, outcome: Outcome) -> bool:
        """Tell the throttle of a failure that counts; False if it forbids a retry after it.

        What counts does so whether or not a retry was possible.
        """
        if self._throttle is None or outcome.dropped:
            return True
        pushback = outcome.pushback
        if outcome.code in self._codes or (pushback is not None and pushback < 0):
            return self._throttle.record_failure()
        return True

    def _plan(self, pushback: float | None, allowed: bool, now: float) -> None:
        """Set when the next attempt is due, after a failure that the policy tries to mend."""
        if pushback is not None and pushback < 0:
            self._left = 0
        elif self._retry is None:
            # Hedging asks the throttle when a copy is due, not here.
            self._next_at = now + (pushback or 0.0)
        elif not allowed:
            self._left = 0
        elif pushback is not None:
            self._next_at = now + pushback
            self._backoff = self._retry.initial_backoff
        else:
            delay = min(self._backoff, self._retry.max_backoff)
            self._next_at = now + delay * self._random.uniform(0.8, 1.2)
            # Not capped, as a multiplier below 1 must lead down from the initial delay and not
            # from the cap. Too much for a float is infinity, and the cap is less.
            self._backoff *= self._retry.backoff_multiplier

    def _proceed(self, now: float) -> Actions:
        """Send what is due, wait for what is not; with neither, and none live, that was it."""
        actions: list[Action] = []
        while self._is_due(now):
            self._left -= 1
            self._next_at = None
            if self._hedging is not None:
                self._next_at = now + self._hedging.hedging_delay
                if self._throttle is not None and not self._throttle.allows:
                    # The copy is cancelled, not put off: it has had its turn (gRFC A6).
                    if not self._live:
                        self._left = 0
                    continue
            actions.append(self._send())
        if self._left and self._next_at is not None and now < self._next_at < self._deadline:
            actions.append(Wake(self._next_at))
        elif not self._live and self._last is not None:
            return self._finish(self._last)
        return tuple(actions)

    def _is_due(self, now: float) -> bool:
        return (
            self._left > 0 and self._next_at is not None and self._next_at <= now < self._deadline
        )

    def _send(self, number: int | None = None, *, transparent: bool = False) -> Send:
        """A new live attempt; one that counts unless it is given the number of another."""
        if number is None:
            number = self._number
            self._number += 1
        timeout = None if self._retry is None else self._retry.per_attempt_recv_timeout
        attempt = Attempt(self._serial, number, timeout, transparent)
        self._serial += 1
        self._live.append(attempt)
        return Send(attempt)

    def _finish(self, attempt: Attempt) -> Actions:
        self._over = True
        if attempt is _FIRST:  # never a hedged one, so nothing is left to cancel
            return _FINISH_FIRST
        return (*self._cancel_all_but(None), Finish(attempt))

    def _cancel_all_but(self, attempt: Attempt | None) -> Actions:
        """Start no more, and cancel the live ones; newest last."""
        losers = tuple(other for other in self._live if other != attempt)
        self._live = [] if attempt is None else [attempt]
        self._cancelled += losers
        self._left = 0
        self._next_at = None
        return tuple(map(Cancel, losers))

    def __repr__(self) -> str:
        state = "over" if self._over else f"{len(self._live)} live"
        return f"<CallAttempts {state}, {self._serial} sent, {self._left} left>"
