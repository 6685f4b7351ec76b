"""Runs `CallAttempts` through the rows of tests/spec/attempts.json, and what no row can say.

A group has a method config, perhaps `throttling` with the `tokens` left at the start, and a
`deadline`. A case is a list of [time, event, answer] or [time, event, answer, tokens after it].
Attempts are named by their serial. Jitter is 1.

    event   start | wake | cancel | commit 0 | success elsewhere | failure elsewhere
            0 UNAVAILABLE [pushback <text of the metadata>] [never_left] [refused] [dropped]
                          [attempt_timeout]
    answer  send 2 | send 2 as 1 (its number, where it differs) | resend 2 as 1 (transparent)
            ... within 0.25 (its timeout) | wake 1.5 | cancel 0 | finish 0
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from random import Random
from typing import Any

import pytest
from grpc import StatusCode

from grpclb.core.attempt import SUCCESS, Action, Attempt, Cancel, Finish, Outcome, Send, Wake
from grpclb.core.attempts import CallAttempts
from grpclb.core.pushback import PUSHBACK, STOP, parse_pushback
from grpclb.core.retry_config import HedgingPolicy, RetryPolicy, RetryThrottling
from grpclb.core.service_config import parse_service_config
from grpclb.core.throttle import Throttle

SPEC = Path(__file__).parent.parent / "spec" / "attempts.json"
UNAVAILABLE = Outcome(StatusCode.UNAVAILABLE)
RETRY = RetryPolicy(3, 1.0, 10.0, 2.0, frozenset({StatusCode.UNAVAILABLE}))
HEDGING = HedgingPolicy(3, 1.0, frozenset({StatusCode.UNAVAILABLE}))


class NoJitter(Random):
    def uniform(self, a: float, b: float) -> float:
        assert (a, b) == (0.8, 1.2)
        return 1.0


def cases() -> Iterator[Any]:
    for group in json.loads(SPEC.read_text()):
        for name, steps in group["cases"].items():
            yield pytest.param(group, steps, id=f"{group['group']}: {name}")


def build(group: dict[str, Any]) -> tuple[CallAttempts, Throttle | None]:
    raw: dict[str, Any] = {"methodConfig": [{"name": [{}], **group["config"]}]}
    if "throttling" in group:
        raw["retryThrottling"] = group["throttling"]
    config = parse_service_config(
        raw, find_policy=lambda _: None, max_retry_attempts=group.get("cap", 5)
    )
    assert config.ignored == ()
    throttle = None
    if config.retry_throttling is not None:
        throttle = Throttle(config.retry_throttling, nullcontext())
        while throttle.tokens > group.get("tokens", throttle.config.max_tokens):
            throttle.record_failure()
    method = config.method_config("/s/m")
    machine = CallAttempts(
        method.retry, method.hedging, throttle, group.get("deadline"), NoJitter()
    )
    return machine, throttle


def outcome(words: list[str]) -> Outcome:
    code, *flags = words
    metadata = []
    if "pushback" in flags:
        metadata = [("x", "y"), (PUSHBACK, flags[flags.index("pushback") + 1])]
    return Outcome(
        StatusCode[code],
        parse_pushback(metadata),
        never_left="never_left" in flags,
        server_refused="refused" in flags,
        dropped="dropped" in flags,
        by_attempt_timeout="attempt_timeout" in flags,
    )


def shown(action: Action) -> str:
    match action:
        case Wake(at):
            return f"wake {round(at, 6):g}"
        case Cancel(attempt):
            return f"cancel {attempt.serial}"
        case Finish(attempt):
            return f"finish {attempt.serial}"
        case Send(attempt):
            verb = "resend" if attempt.transparent else "send"
            number = "" if attempt.number == attempt.serial else f" as {attempt.number}"
            limit = "" if attempt.timeout is None else f" within {attempt.timeout:g}"
            return f"{verb} {attempt.serial}{number}{limit}"


def tell(
    machine: CallAttempts,
    throttle: Throttle | None,
    sent: dict[int, Attempt],
    event: str,
    now: float,
) -> tuple[Action, ...]:
    match event.split():
        case ["start"]:
            return machine.start(now)
        case ["wake"]:
            return machine.on_wake(now)
        case ["cancel"]:
            return machine.on_cancel()
        case ["commit", serial]:
            return machine.on_commit(sent[int(serial)])
        case ["success", "elsewhere"]:
            assert throttle is not None
            throttle.record_success()
            return ()
        case ["failure", "elsewhere"]:
            assert throttle is not None
            throttle.record_failure()
            return ()
        case [serial, *words]:
            return machine.on_outcome(sent[int(serial)], outcome(words), now)
    raise AssertionError(event)


@pytest.mark.parametrize(("group", "steps"), list(cases()))
def test_spec(group: dict[str, Any], steps: list[list[Any]]) -> None:
    machine, throttle = build(group)
    sent: dict[int, Attempt] = {}
    for now, event, expected, *tokens in steps:
        actions = tell(machine, throttle, sent, event, now)
        sent |= {a.attempt.serial: a.attempt for a in actions if isinstance(a, Send)}
        assert ", ".join(map(shown, actions)) == expected, f"at {now}: {event}"
        if tokens:
            assert throttle is not None
            assert [throttle.tokens] == tokens, f"at {now}: {event}"


def test_jitter_is_a_fifth_both_ways_even_beyond_the_cap() -> None:
    policy = RetryPolicy(2, 1.0, 1.0, 1.0, frozenset({StatusCode.UNAVAILABLE}))
    delays = []
    for seed in range(500):
        machine = CallAttempts(policy, None, None, None, Random(seed))
        machine.start(0.0)
        (wake,) = machine.on_outcome(Attempt(0, 0), UNAVAILABLE, 0.0)
        assert isinstance(wake, Wake)
        delays.append(wake.at)
    assert min(delays) == pytest.approx(0.8, abs=0.01)
    assert max(delays) == pytest.approx(1.2, abs=0.01)
    assert sum(delays) / 500 == pytest.approx(1.0, abs=0.02)


def test_pushback_has_no_jitter() -> None:
    for retry, hedging in ((RETRY, None), (None, HEDGING)):
        machine = CallAttempts(retry, hedging, None, None, Random(1))
        machine.start(0.0)
        answer = machine.on_outcome(Attempt(0, 0), Outcome(StatusCode.UNAVAILABLE, 0.75), 1.0)
        assert answer == (Wake(1.75),)


def test_retried_or_hedged_but_not_both() -> None:
    with pytest.raises(ValueError, match="retried or hedged"):
        CallAttempts(RETRY, HEDGING, None, None, Random(1))


def test_an_illegal_event_raises_and_changes_nothing() -> None:
    machine = CallAttempts(RETRY, None, None, None, NoJitter())
    with pytest.raises(ValueError, match="not under way"):
        machine.on_outcome(Attempt(0, 0), SUCCESS, 0.0)
    with pytest.raises(ValueError, match="not under way"):
        machine.on_commit(Attempt(0, 0))
    machine.start(0.0)
    with pytest.raises(ValueError, match="started already"):
        machine.start(0.0)
    assert machine.on_outcome(Attempt(0, 0), UNAVAILABLE, 0.0) == (Wake(1.0),)
    with pytest.raises(ValueError, match="not under way"):
        machine.on_outcome(Attempt(0, 0), UNAVAILABLE, 0.0)
    with pytest.raises(ValueError, match="not under way"):
        machine.on_commit(Attempt(0, 0))
    assert machine.on_wake(1.0) == (Send(Attempt(1, 1)),)
    assert machine.on_outcome(Attempt(1, 1), SUCCESS, 2.0) == (Finish(Attempt(1, 1)),)


def test_an_rpc_given_up_before_its_start_does_not_start() -> None:
    machine = CallAttempts(RETRY, None, None, None, NoJitter())
    assert machine.on_cancel() == ()
    with pytest.raises(ValueError, match="started already"):
        machine.start(0.0)


def test_it_says_where_it_stands() -> None:
    machine = CallAttempts(None, HEDGING, None, None, NoJitter())
    assert (machine.committed, machine.over) == (None, False)
    machine.start(0.0)
    machine.on_wake(1.0)
    assert repr(machine) == "<CallAttempts 2 live, 2 sent, 1 left>"
    assert machine.on_commit(Attempt(1, 1)) == (Cancel(Attempt(0, 0)),)
    assert (machine.committed, machine.over) == (Attempt(1, 1), False)
    machine.on_outcome(Attempt(1, 1), SUCCESS, 2.0)
    assert (machine.committed, machine.over) == (Attempt(1, 1), True)
    assert repr(machine) == "<CallAttempts over, 2 sent, 0 left>"


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        ([], None),
        (["0"], 0.0),
        (["1"], 0.001),
        (["1500"], 1.5),
        ([b"250"], 0.25),
        (["2147483647"], 2147483.647),
        (["2147483648"], STOP),
        (["99999999999999999999"], STOP),
        (["-1"], STOP),
        (["-0"], STOP),
        (["+5"], STOP),
        (["05"], STOP),
        (["00"], STOP),
        (["1.5"], STOP),
        (["1e3"], STOP),
        (["1_000"], STOP),
        ([" 5"], STOP),
        (["5\n"], STOP),
        (["٣"], STOP),
        ([b"\xff"], STOP),
        (["abc"], STOP),
        ([""], STOP),
        (["100", "10"], STOP),
        (["100", "100"], STOP),
    ],
)
def test_pushback(values: list[str | bytes], seconds: float | None) -> None:
    metadata = [("grpc-status-details-bin", b"x"), *((PUSHBACK, value) for value in values)]
    assert parse_pushback(metadata) == seconds


def call(
    retry: RetryPolicy, throttle: Throttle | None, serve: Iterator[StatusCode]
) -> tuple[StatusCode, int]:
    """One RPC against a server that answers what `serve` says: the outcome, and the attempts."""
    machine = CallAttempts(retry, None, throttle, None, Random(1))
    now, actions, code, attempts = 0.0, machine.start(0.0), StatusCode.UNKNOWN, 0
    while True:
        match actions[-1]:
            case Send(attempt):
                code = next(serve)
                attempts += 1
                actions = machine.on_outcome(attempt, Outcome(code), now)
            case Wake(at):
                now = at
                actions = machine.on_wake(now)
            case Finish():
                return code, attempts


def server(bad: StatusCode, **answers: set[int]) -> Iterator[StatusCode]:
    """Its n-th answer is the code that lists n, or else `bad`."""
    n = 0
    while True:
        yield next((StatusCode[code] for code, turns in answers.items() if n in turns), bad)
        n += 1


def test_the_retries_that_grpc_go_makes() -> None:
    policy = RetryPolicy(4, 0.01, 0.01, 1.0, frozenset({StatusCode.ALREADY_EXISTS}))
    answers = server(StatusCode.ALREADY_EXISTS, OK={0, 2, 5}, INTERNAL={6, 8, 11})
    seen, last = [], -1
    for _ in range(7):
        code, attempts = call(policy, None, answers)
        last += attempts
        seen.append((code.name, last))
    assert seen == [
        ("OK", 0),
        ("OK", 2),
        ("OK", 5),
        ("INTERNAL", 6),
        ("INTERNAL", 8),
        ("INTERNAL", 11),
        ("ALREADY_EXISTS", 15),
    ]


def test_the_throttling_that_grpc_go_does() -> None:
    policy = RetryPolicy(4, 0.01, 0.01, 1.0, frozenset({StatusCode.UNAVAILABLE}))
    throttle = Throttle(RetryThrottling(10, 0.5), nullcontext())
    answers = server(StatusCode.UNAVAILABLE, OK={0, 3, 6, 10, 11, 12, 13, 14, 16, 18})
    seen, last = [], -1
    for _ in range(12):
        code, attempts = call(policy, throttle, answers)
        last += attempts
        seen.append((code.name, last, throttle.tokens))
    assert seen == [
        ("OK", 0, 10),
        ("OK", 3, 8.5),
        ("OK", 6, 7),
        ("UNAVAILABLE", 8, 5),
        ("UNAVAILABLE", 9, 4),
        ("OK", 10, 4.5),
        ("OK", 11, 5),
        ("OK", 12, 5.5),
        ("OK", 13, 6),
        ("OK", 14, 6.5),
        ("OK", 16, 6),
        ("UNAVAILABLE", 17, 5),
    ]


def test_a_dead_server_is_not_called_much_more_often_than_without_retries() -> None:
    policy = RetryPolicy(4, 0.01, 0.01, 1.0, frozenset({StatusCode.UNAVAILABLE}))

    def attempts(throttle: Throttle | None) -> int:
        answers = server(StatusCode.UNAVAILABLE)
        return sum(call(policy, throttle, answers)[1] for _ in range(1000))

    assert attempts(None) == 4000
    assert attempts(Throttle(RetryThrottling(10, 0.1), nullcontext())) == 1003
