"""An RPC whose deadline passes while it waits says where its time went."""

from __future__ import annotations

import itertools
import re
import threading
from typing import Any

import grpc
import pytest

from grpclb.control.attempt_log import AttemptRecord, out_of_time
from grpclb.testing import ManualResolver
from tests.retries.servers import Scripted
from tests.retries.stacks import Stack, SyncStack
from tests.retries.test_lifetimes import config

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
_FIRST = AttemptRecord("a:1", UNAVAILABLE, 0.25, begun=0.5)
_SECOND = AttemptRecord("b:1", UNAVAILABLE, 0.25, begun=1.0)

TEXTS = {
    "never resolved": ((10.0, None, 12.0), (), "2.0 s: resolution of dns:///x 2.0 s (CONNECTING)"),
    "resolved long ago": (
        (10.0, 3.0, 12.0),
        (),
        "2.0 s: waiting for a backend of dns:///x 2.0 s (CONNECTING)",
    ),
    "resolved meanwhile": (
        (10.0, 10.4, 12.0),
        (),
        "2.0 s: resolution 0.40 s, waiting for a backend of dns:///x 1.6 s (CONNECTING)",
    ),
    "attempts": (
        (10.0, 10.5, 12.0),
        (_FIRST, _SECOND),
        (
            "2.0 s: resolution 0.50 s, attempts: a:1 UNAVAILABLE (0.25 s), 0.25 s of backoff, "
            "b:1 UNAVAILABLE (0.25 s), waiting for a backend of dns:///x 0.75 s (CONNECTING)"
        ),
    ),
    "a timeout that had passed": (
        (10.0, 3.0, 10.0),
        (),
        "0.00 s: waiting for a backend of dns:///x 0.00 s (CONNECTING)",
    ),
}


@pytest.mark.parametrize("row", TEXTS)
def test_the_text(row: str) -> None:
    times, records, expected = TEXTS[row]
    text = out_of_time("dns:///x", "CONNECTING", times, records)
    assert text == f"Deadline Exceeded after {expected}"


_NAMES = itertools.count()
_SECONDS = r"\d\.\d+ s"
WAYS = ["call", "future", "stream"]
TRIES = 5  # for what a loaded machine may be too slow for, once


def _details(stack: Stack, channel: Any, way: str, **arguments: Any) -> tuple[Any, str]:
    if way == "call" and isinstance(stack, SyncStack):
        try:
            channel.unary_unary("/s/unary_unary")(b"x", **arguments)
        except grpc.RpcError as error:
            ended: Any = error
            return ended.code(), ended.details()
        return grpc.StatusCode.OK, ""
    kind = "stream_stream" if way == "stream" else "unary_unary"
    request = stack.requests([b"x"]) if way == "stream" else b"x"
    end = stack.begin(channel, kind, request, **arguments).end()
    return end.code, end.details


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("policy", ["none", "retry"])
def test_resolution(policy: str, way: str, stack: Stack) -> None:
    channel = stack.open("x", resolver=ManualResolver(), service_config=config(policy))
    code, details = _details(stack, channel, way, timeout=0.1)
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    expected = (
        rf"Deadline Exceeded after {_SECONDS}: resolution of x\S* {_SECONDS} \((CONNECTING|IDLE)\)"
    )
    assert re.match(expected, details), details


@pytest.mark.parametrize(
    ("policy", "way"),
    [("none", "call"), ("retry", "call"), ("retry", "future"), ("none", "stream")],
)
def test_resolution_and_a_backend(policy: str, way: str, stack: Stack) -> None:
    """The RPC's time is one, whatever it is spent on."""
    expected = (
        rf"Deadline Exceeded after ({_SECONDS}): resolution {_SECONDS}, "
        rf"waiting for a backend of x\S* {_SECONDS} \("
    )

    def attempt() -> float:
        resolver = ManualResolver()
        channel = stack.open("x", resolver=resolver, service_config=config(policy))
        timer = threading.Timer(0.3, resolver.update, (["127.0.0.1:1"],))
        timer.start()
        code, details = _details(stack, channel, way, timeout=0.33, wait_for_ready=True)
        timer.join()
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        found = re.match(expected, details)
        return float(found[1].split()[0]) if found else 0.0

    # Not the time of the resolution on top. A machine may be too slow for that, not each time.
    assert any(0.3 <= attempt() < 0.6 for _ in range(TRIES))


@pytest.mark.parametrize("way", WAYS)
def test_attempts(way: str, stack: Stack, servers: Scripted) -> None:
    """A backend fails and leaves, and no other one comes."""
    expected = (
        rf"Deadline Exceeded after {_SECONDS}: "
        rf"attempts: {servers.addresses[0]} UNAVAILABLE \({_SECONDS}\), "
        rf"waiting for a backend of x\S* {_SECONDS} \("
    )
    waits = {"initialBackoff": "0.1s", "maxBackoff": "0.1s"}

    def attempt() -> tuple[Any, str]:
        name = f"out of time {next(_NAMES)}"
        resolver = ManualResolver(servers.addresses[:1])
        channel = stack.open("x", resolver=resolver, service_config=config("retry", **waits))
        warm = stack.begin(channel, "unary_unary", b"", metadata=servers.script("warm"))
        assert warm.end().code is grpc.StatusCode.OK
        metadata = servers.script(name, {"code": UNAVAILABLE, "delay": 0.05})
        timer = threading.Timer(0.03, resolver.update, (["127.0.0.1:1"],))
        timer.start()
        arguments = {"metadata": metadata, "timeout": 0.6, "wait_for_ready": True}
        ended = _details(stack, channel, way, **arguments)
        timer.join()
        return ended

    for _ in range(TRIES):  # the backend has to leave in the backoff: the machine may be too slow
        code, details = attempt()
        if re.match(expected, details):
            break
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert re.match(expected, details), details


def test_the_note_tells_the_pauses(stack: Stack, servers: Scripted) -> None:
    name = f"out of time {next(_NAMES)}"
    waits = {"initialBackoff": "0.05s", "maxBackoff": "0.05s", "maxAttempts": 2}
    channel = stack.open(servers.target, service_config=config("retry", **waits))
    metadata = servers.script(name, {"code": UNAVAILABLE}, {"code": UNAVAILABLE})
    end = stack.begin(channel, "unary_unary", b"", metadata=metadata).end()
    assert re.search(rf"\), {_SECONDS} of backoff, \S+ UNAVAILABLE \({_SECONDS}\)$", end.notes)
    first, second = end.attempts
    assert 0.03 < second.begun - (first.begun + first.seconds) < 3


@pytest.mark.parametrize("way", WAYS)
def test_an_attempt_that_waits_in_vain(way: str, stack: Stack) -> None:
    retry = config("retry", perAttemptRecvTimeout="0.2s")
    channel = stack.open("ipv4:127.0.0.1:1", service_config=retry)
    code, details = _details(stack, channel, way, timeout=10, wait_for_ready=True)
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    expected = (
        r"the attempt took longer than perAttemptRecvTimeout \(0\.2 s\) "
        r"waiting for a backend of ipv4:127\.0\.0\.1:1 \([A-Z_]+\); \S"
    )
    assert re.match(expected, details), details
