"""Whatever servers do, in whatever order: a simulated driver obeys `CallAttempts` and checks it.

The driver is honest but not punctual: timers fire late, attempts end after they were cancelled,
and it is woken for nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any

from grpc import StatusCode
from hypothesis import given, settings
from hypothesis import strategies as st

from grpclb.core.attempt import SUCCESS, Action, Attempt, Cancel, Finish, Outcome, Send, Wake
from grpclb.core.attempts import CallAttempts
from grpclb.core.retry_config import HedgingPolicy, RetryPolicy, RetryThrottling
from grpclb.core.throttle import Throttle

LISTED = frozenset({StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED})
OVERDUE = Outcome(StatusCode.DEADLINE_EXCEEDED)


TOO_SLOW = Outcome(StatusCode.DEADLINE_EXCEEDED, by_attempt_timeout=True)


def resent(actions: tuple[Action, ...]) -> bool:
    return any(isinstance(a, Send) and a.attempt.transparent for a in actions)


@dataclass
class Play:
    """What a backend does with one attempt: perhaps headers, then an outcome."""

    outcome: Outcome
    takes: float
    headers_after: float | None


@dataclass
class World:
    """A driver, its backends and the application, on a simulated clock."""

    retry: RetryPolicy | None
    hedging: HedgingPolicy | None
    throttling: RetryThrottling | None
    deadline: float | None
    plays: list[Play]
    lateness: float
    gives_up_at: float | None
    needless_wakes: list[float]
    seed: int
    log: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.throttle = None
        if self.throttling is not None:
            self.throttle = Throttle(self.throttling, nullcontext())
            self.tokens = float(self.throttling.max_tokens)
        self.machine = CallAttempts(
            self.retry, self.hedging, self.throttle, self.deadline, Random(self.seed)
        )
        self.events: list[tuple[float, int, str, Any]] = []
        self.live: dict[int, Attempt] = {}
        self.sent: list[Attempt] = []
        self.cancelled: set[int] = set()
        self.committed: Attempt | None = None
        self.finished: Attempt | None = None
        self.order = count()
        self.gave_up = False
        self.series = 0  # backoffs since the start, or since pushback

    def run(self) -> list[Any]:
        if self.gives_up_at is not None:
            self.at(self.gives_up_at, "give up")
        for time in self.needless_wakes:
            self.at(time, "wake")
        self.obey(self.machine.start(0.0), 0.0, first=True)
        for _ in range(500):
            if not self.events:
                break
            now, _, kind, subject = heapq.heappop(self.events)
            self.step(kind, subject, now)
        assert not self.events, "it does not come to an end"
        assert (self.finished is None) == self.gave_up
        assert not self.live
        assert self.machine.over
        return self.log

    def at(self, time: float, kind: str, subject: Any = None) -> None:
        heapq.heappush(self.events, (time, next(self.order), kind, subject))

    def step(self, kind: str, subject: Any, now: float) -> None:
        self.log.append((now, kind, subject))
        ended = self.finished is not None or self.gave_up
        match kind:
            case "wake":
                actions = self.machine.on_wake(now)
            case "give up":
                actions = self.machine.on_cancel()
                self.gave_up = self.finished is None
                assert {a.attempt.serial for a in actions if isinstance(a, Cancel)} == {*self.live}
            case "headers":
                if subject.serial not in self.live and not ended:
                    if subject.serial in self.cancelled:
                        assert self.machine.on_commit(subject) == ()
                    return
                actions = self.machine.on_commit(subject)
                if not ended:
                    self.committed = subject
            case _:
                actions = self.outcome(subject, now)
        assert not (ended and actions), "nothing follows the end"
        self.obey(actions, now)

    def outcome(self, subject: tuple[Attempt, Outcome], now: float) -> tuple[Action, ...]:
        attempt, outcome = subject
        if outcome is TOO_SLOW and attempt == self.committed:
            return ()  # the limit holds until the commit
        was_live = self.live.pop(attempt.serial, None) is not None
        if not was_live and attempt.serial not in self.cancelled and not self.machine.over:
            return ()  # it had ended before
        actions = self.machine.on_outcome(attempt, outcome, now)
        if not was_live:
            assert actions == ()
            return actions
        self.check_tokens(outcome, actions)
        fatal = outcome.code not in self.codes and not outcome.never_left and not outcome.dropped
        if outcome.code is StatusCode.OK or (fatal and not resent(actions)) or self.committed:
            assert actions[-1] == Finish(attempt)
        if self.retry is not None and isinstance(actions[-1], Wake):
            self.check_backoff(outcome, actions[-1].at - now)
        return actions

    @property
    def codes(self) -> frozenset[StatusCode]:
        return frozenset() if self.retry is None and self.hedging is None else LISTED

    def check_tokens(self, outcome: Outcome, actions: tuple[Action, ...]) -> None:
        """The bucket must be as gRFC A6's words make it."""
        if self.throttling is None or self.throttle is None:
            return
        stop = outcome.pushback is not None and outcome.pushback < 0
        if outcome.code is StatusCode.OK:
            self.tokens += self.throttling.token_ratio
        elif outcome.never_left or outcome.dropped or resent(actions):
            pass
        elif outcome.code in self.codes or stop:
            self.tokens -= 1
        self.tokens = min(max(self.tokens, 0.0), self.throttling.max_tokens)
        assert abs(self.tokens - self.throttle.tokens) < 1e-6
        assert 0 <= self.throttle.tokens <= self.throttling.max_tokens

    def check_backoff(self, outcome: Outcome, delay: float) -> None:
        assert self.retry is not None
        if outcome.pushback is not None:
            self.series = 0
            assert abs(delay - outcome.pushback) < 1e-6
            return
        plain = self.retry.initial_backoff * self.retry.backoff_multiplier**self.series
        nominal = min(plain, self.retry.max_backoff)
        self.series += 1
        assert nominal * 0.8 - 1e-6 <= delay <= nominal * 1.2 + 1e-6

    def obey(self, actions: tuple[Action, ...], now: float, first: bool = False) -> None:
        self.log.append(actions)
        for index, action in enumerate(actions):
            match action:
                case Send(attempt):
                    alone = first and index == 0
                    assert alone or self.deadline is None or now < self.deadline
                    assert self.committed is None
                    self.send(attempt, now)
                case Wake(at):
                    assert at > now
                    assert self.deadline is None or at < self.deadline
                    self.at(at + self.lateness, "wake")
                case Cancel(attempt):
                    assert self.live.pop(attempt.serial) == attempt, "cancelled once, and live"
                    self.cancelled.add(attempt.serial)
                case Finish(attempt):
                    assert index == len(actions) - 1
                    assert self.finished is None
                    assert not self.live
                    assert attempt in self.sent
                    assert self.committed in (None, attempt)
                    self.finished = attempt

    def send(self, attempt: Attempt, now: float) -> None:
        counted = [a for a in self.sent if not a.transparent]
        assert attempt.serial == len(self.sent)
        if attempt.transparent:
            assert attempt.number < len(counted)
        else:
            assert attempt.number == len(counted)
            policy = self.retry or self.hedging
            assert attempt.number < (1 if policy is None else policy.max_attempts)
            assert attempt.number == 0 or self.throttle is None or self.throttle.allows
        self.sent.append(attempt)
        self.live[attempt.serial] = attempt
        if self.retry is not None:
            assert len(self.live) == 1
            assert attempt.timeout == self.retry.per_attempt_recv_timeout
        play = self.plays.pop(0) if self.plays else Play(SUCCESS, 0.1, None)
        if play.headers_after is not None and not play.outcome.never_left:
            self.at(now + play.headers_after * play.takes, "headers", attempt)
        self.at(now + play.takes, "outcome", (attempt, play.outcome))
        if attempt.timeout is not None:
            self.at(now + attempt.timeout, "outcome", (attempt, TOO_SLOW))
        if self.deadline is not None:
            self.at(max(self.deadline, now) + self.lateness, "outcome", (attempt, OVERDUE))


CODES = [StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED]
# Mostly such as let the story go on.
OUTCOMES = [
    *[Outcome(code) for code in CODES] * 4,
    *[Outcome(code, pushback) for code in CODES for pushback in (-1.0, 0.0, 0.3, 2.0, 99.0)],
    *[Outcome(StatusCode.UNAVAILABLE, never_left=True)] * 2,
    *[Outcome(StatusCode.UNAVAILABLE, server_refused=True)] * 2,
    Outcome(StatusCode.INTERNAL, never_left=True),
    Outcome(StatusCode.INTERNAL, server_refused=True),
    *[Outcome(StatusCode.INTERNAL, pushback) for pushback in (None, -1.0, 0.3)],
    Outcome(StatusCode.UNAVAILABLE, dropped=True),
    *[SUCCESS] * 2,
]


def world(choose: Callable[[list[Any]], Any]) -> World:
    retry = hedging = throttling = None
    match choose(["retry"] * 4 + ["hedging"] * 4 + ["none"]):
        case "retry":
            retry = RetryPolicy(
                max_attempts=choose([5, 4, 4, 3, 3, 2, 1]),
                initial_backoff=choose([0.05, 0.5, 1.0, 3.0]),
                max_backoff=choose([1.0, 0.5, 4.0]),
                backoff_multiplier=choose([2.0, 1.0, 0.3, 1e30]),
                retryable_codes=LISTED,
                per_attempt_recv_timeout=choose([None, None, 0.2, 1.0]),
            )
        case "hedging":
            hedging = HedgingPolicy(
                choose([5, 4, 4, 3, 3, 2, 1]), choose([0.2, 0.5, 1.0, 0.0]), LISTED
            )
    if choose([True, False]):
        throttling = RetryThrottling(choose([12, 9, 7, 4, 3, 1]), choose([0.5, 0.1, 0.001, 3.0]))
    return World(
        retry,
        hedging,
        throttling,
        deadline=choose([None, None, 20.0, 20.0, 4.0, 4.0, 1.0, 0.3, 0.0]),
        plays=[
            Play(
                choose(OUTCOMES),
                takes=choose([0.1, 0.3, 0.7, 2.5, 0.0]),
                headers_after=choose([None] * 8 + [0.0, 0.5]),
            )
            for _ in range(10)
        ],
        lateness=choose([0.0, 0.01, 0.6]),
        gives_up_at=choose([None] * 8 + [1.0, 0.3, 0.0]),
        needless_wakes=[choose([0.0, 0.2, 1.0])] if choose([False, True]) else [],
        seed=choose(list(range(50))),
    )


@settings(deadline=None)  # the machine may be busy
@given(data=st.data())
def test_whatever_servers_do(data: st.DataObject) -> None:
    world(lambda options: data.draw(st.sampled_from(options))).run()


def test_many_stories_and_each_twice() -> None:
    kinds = set()
    for seed in range(1500):
        one, two = world(Random(seed).choice), world(Random(seed).choice)
        assert one.run() == two.run(), f"story {seed}: the same seed gives the same run"
        kinds.add((len(one.sent), one.committed is not None, bool(one.cancelled), one.gave_up))
    assert len(kinds) > 20, "these stories are all alike"


@settings(deadline=None)  # the machine may be busy
@given(
    multiplier=st.floats(1e-30, 3.4e38, exclude_min=True),
    initial=st.floats(1e-9, 1e12),
    longest=st.floats(1e-9, 1e12),
    seed=st.integers(0, 99),
)
def test_no_backoff_overflows(multiplier: float, initial: float, longest: float, seed: int) -> None:
    policy = RetryPolicy(40, initial, longest, multiplier, LISTED)
    machine = CallAttempts(policy, None, None, None, Random(seed))
    actions, now = machine.start(0.0), 0.0
    for _ in range(39):
        (send,) = actions
        assert isinstance(send, Send)
        actions = machine.on_outcome(send.attempt, Outcome(StatusCode.UNAVAILABLE), now)
        if isinstance(actions[0], Wake):  # else the delay is nothing beside `now`
            assert actions[0].at - now <= longest * 1.2 + 1e-3
            now = actions[0].at
            actions = machine.on_wake(now)
    assert isinstance(actions[0], Send)
    assert isinstance(machine.on_outcome(actions[0].attempt, OVERDUE, now)[0], Finish)
