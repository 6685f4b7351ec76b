"""Where grpcio's own retries are wrong, and what grpclb does there (docs/retries.md lists them).

Each scenario runs on plain grpcio first and asserts the fault, so that we notice when it is mended.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from tests.faults.harness import eventually
from tests.retries.servers import Scripted, Step
from tests.retries.stacks import Stack

OK = grpc.StatusCode.OK
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
DEADLINE_EXCEEDED = grpc.StatusCode.DEADLINE_EXCEEDED
FAILS: Step = {"code": UNAVAILABLE}
_NAMES = itertools.count()


def retried(**changes: Any) -> dict[str, Any]:
    policy = {
        "maxAttempts": 4,
        "initialBackoff": "0.01s",
        "maxBackoff": "0.01s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return {"retryPolicy": {**policy, **changes}}


@dataclass(frozen=True)
class Fault:
    """What the servers do, and how the RPC ends: (code, attempts that reached a server)."""

    method: Mapping[str, Any]
    steps: tuple[Step, ...]
    grpcio: tuple[grpc.StatusCode, int]
    grpclb: tuple[grpc.StatusCode, int]
    timeout: float = 20.0
    options: tuple[tuple[str, int], ...] = field(default=())


FAULTS = {
    "five attempts are the end": Fault(
        retried(maxAttempts=8),
        (FAILS,) * 9,
        (UNAVAILABLE, 5),
        (UNAVAILABLE, 8),
        options=(("grpclb.max_retry_attempts", 8),),
    ),
    "a backoff beyond the deadline is waited out, and the server's error lost": Fault(
        retried(initialBackoff="60s", maxBackoff="60s"),
        (FAILS,),
        (DEADLINE_EXCEEDED, 1),
        (UNAVAILABLE, 1),
        timeout=0.3,
    ),
    "a pushback beyond the deadline is waited out, too": Fault(
        retried(),
        ({**FAILS, "push": 60_000},),
        (DEADLINE_EXCEEDED, 1),
        (UNAVAILABLE, 1),
        timeout=0.3,
    ),
    "a server that wants a retry at once gets none": Fault(
        retried(), ({**FAILS, "push": 0},), (DEADLINE_EXCEEDED, 1), (OK, 2), timeout=0.5
    ),
    "hedging is ignored": Fault(
        {"hedgingPolicy": {"maxAttempts": 2, "hedgingDelay": "0.02s"}},
        ({"delay": 0.4},),
        (OK, 1),
        (OK, 2),
    ),
    "the timeout of an attempt is ignored": Fault(
        retried(perAttemptRecvTimeout="0.1s", retryableStatusCodes=["DEADLINE_EXCEEDED"]),
        ({"delay": 0.5},),
        (OK, 1),
        (OK, 2),
    ),
    "a code in small letters breaks the channel": Fault(
        retried(retryableStatusCodes=["unavailable"]),
        (FAILS,),
        (grpc.StatusCode.INVALID_ARGUMENT, 0),
        (OK, 2),
    ),
    "a code by number breaks the channel": Fault(
        retried(retryableStatusCodes=[14]),
        (FAILS,),
        (grpc.StatusCode.INVALID_ARGUMENT, 0),
        (OK, 2),
    ),
}


def _channel(
    stack: Stack, servers: Scripted, config: Mapping[str, Any], plain: bool, options: Any = ()
) -> Any:
    if plain:
        text = ("grpc.service_config", json.dumps(config))
        return stack.open(servers.target, plain=True, options=[text])
    return stack.open(servers.target, service_config=dict(config), options=options)


@pytest.mark.parametrize("name", FAULTS)
def test_fault(name: str, stack: Stack, servers: Scripted) -> None:
    fault = FAULTS[name]
    config = {"methodConfig": [{"name": [{}], **fault.method}]}
    seen = []
    for plain in (True, False):
        key = f"fault {next(_NAMES)}"
        channel = _channel(stack, servers, config, plain, fault.options)
        metadata = servers.script(key, *fault.steps)
        rpc = stack.begin(channel, "unary_unary", b"x", metadata=metadata, timeout=fault.timeout)
        seen.append((rpc.end().code, len(servers.attempts_of(key))))
    assert seen == [fault.grpcio, fault.grpclb]


def test_a_config_timeout_fires_early(stack: Stack, servers: Scripted) -> None:
    """grpcio: by one to two seconds, the same for all RPCs of a process; so 1 s is over at once."""
    config = {"methodConfig": [{"name": [{}], "timeout": "1s"}]}
    codes = []
    for plain in (True, False):
        channel = _channel(stack, servers, config, plain)
        metadata = servers.script(f"fault {next(_NAMES)}", {"delay": 0.2})
        codes.append(stack.begin(channel, "unary_unary", b"x", metadata=metadata).end().code)
    assert codes == [DEADLINE_EXCEEDED, OK]


def test_a_retry_goes_to_the_backend_that_failed(stack: Stack, servers: Scripted) -> None:
    """grpcio: round_robin's turn decides, and others take turns, too."""
    waits = retried(initialBackoff="0.3s", maxBackoff="0.3s")
    config = {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [{"name": [{}], **waits}],
    }
    same = []
    for plain in (True, False):
        channel = _channel(stack, servers, config, plain)
        _warm(stack, channel, servers)
        key = f"fault {next(_NAMES)}"
        rpc = stack.begin(channel, "unary_unary", b"x", metadata=servers.script(key, FAILS))
        eventually(lambda key=key: servers.attempts_of(key))  # type: ignore[misc]
        for _ in range(2):  # the other two backends have their turn
            stack.begin(channel, "unary_unary", b"").end()
        assert rpc.end().code is OK
        first, second = servers.attempts_of(key)
        same.append(first == second)
    assert same == [True, False]


def _warm(stack: Stack, channel: Any, servers: Scripted) -> None:
    """Until all three backends take part."""

    def all_in_turn() -> bool:
        key = f"warm {next(_NAMES)}"
        metadata = servers.script(key)
        for _ in range(3):
            stack.begin(channel, "unary_unary", b"", metadata=metadata).end()
        return len(set(servers.attempts_of(key))) == 3

    eventually(all_in_turn)
    all_in_turn()


def test_a_message_is_lost_and_nobody_told(stack: Stack, servers: Scripted) -> None:
    """grpcio: a retried request stream ends OK, and the server has not had all of it."""
    if stack.name == "aio":
        return  # its writes wait for the server, which hides it
    config = {"methodConfig": [{"name": [{}], **retried()}]}
    early: Step = {**FAILS, "early": True}
    messages = [b"%d" % number * 10 for number in range(5)]

    def lost(channel: Any) -> bool:
        metadata = servers.script(f"fault {next(_NAMES)}", early, early)
        end = stack.begin(
            channel, "stream_unary", stack.requests(messages), metadata=metadata
        ).end()
        assert end.code is OK
        return end.messages != (b"".join(messages),)

    plain, ours = (_channel(stack, servers, config, plain) for plain in (True, False))
    assert any(lost(plain) for _ in range(1000)), "about one in ten"
    assert not any(lost(ours) for _ in range(30))
