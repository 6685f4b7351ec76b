"""Retried RPCs that are dropped, cancelled, or left behind by their channel; both stacks."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from tests.faults.harness import AioLoop, eventually
from tests.retries.servers import Scripted, Step
from tests.retries.stacks import LIMIT, AioStack, Rpc, Stack

UNAVAILABLE: Step = {"code": grpc.StatusCode.UNAVAILABLE}
CANCELLED: Step = {"code": grpc.StatusCode.CANCELLED}
SLOW: Step = {"delay": 10}
_KEYS = itertools.count()


def config(kind: str = "retry", **changes: Any) -> dict[str, Any] | None:
    retry = {
        "maxAttempts": 4,
        "initialBackoff": "0.02s",
        "maxBackoff": "0.02s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
    }
    hedging = {
        "maxAttempts": 3,
        "hedgingDelay": "0.02s",
        "nonFatalStatusCodes": ["UNAVAILABLE", "CANCELLED"],
    }
    policies: dict[str, Any] = {
        "none": None,
        "retry": {"retryPolicy": {**retry, **changes}},
        "hedge": {"hedgingPolicy": {**hedging, **changes}},
    }
    policy = policies[kind]
    return policy and {"methodConfig": [{"name": [{}], **policy}]}


def key() -> str:
    return f"life{next(_KEYS)}"


# -- the budget of kept requests ---------------------------------------------------------------


def _end(rpc: Rpc, stack: Stack, channel: Any) -> None:
    rpc.end()


def _cancel(rpc: Rpc, stack: Stack, channel: Any) -> None:
    rpc.cancel()


def _drop(rpc: Rpc, stack: Stack, channel: Any) -> None:
    rpc.drop()


def _close(rpc: Rpc, stack: Stack, channel: Any) -> None:
    stack.close(channel)


_SERVER: dict[str, tuple[Step, ...]] = {
    "OK": (),
    "failures, then OK": (UNAVAILABLE, UNAVAILABLE),
    "an error": ({"code": grpc.StatusCode.INTERNAL},),
    "an error before the requests": ({"code": grpc.StatusCode.INTERNAL, "early": True},),
    "silence": (SLOW, SLOW, SLOW),
}


_STREAMS = [
    *((_end, "retry", "stream_stream", server) for server in _SERVER if server != "silence"),
    *((_drop, "retry", "stream_stream", server) for server in _SERVER),
    *(
        (act, policy, kind, server)
        for act in (_cancel, _drop, _close)
        for policy, kind in (("retry", "stream_unary"), ("hedge", "stream_stream"))
        for server in ("failures, then OK", "silence")
    ),
    (_end, "hedge", "stream_stream", "failures, then OK"),
]


@pytest.mark.parametrize(("act", "policy", "kind", "server"), _STREAMS)
def test_the_replay_budget_is_given_back(
    act: Callable[..., None],
    policy: str,
    kind: str,
    server: str,
    stack: Stack,
    servers: Scripted,
) -> None:
    name = key()
    channel = stack.open(servers.target, service_config=config(policy))
    budget = channel._engine.replay_budget
    gate = threading.Event()
    if act is _end:
        gate.set()
    requests = stack.requests([b"x" * 1000] * 5, gate)
    metadata = servers.script(name, *_SERVER[server])
    rpc = stack.begin(channel, kind, requests, metadata=metadata)
    eventually(lambda: servers.attempts_of(name))
    act(rpc, stack, channel)
    gate.set()
    eventually(lambda: budget.used == 0, what=f"budget given back: {budget.used}")
    if act is not _close:
        # And nothing is given back twice: the next one finds the whole budget again.
        assert stack.begin(channel, kind, stack.requests([b"a"])).end().messages == (b"a",)
        # A thread that was at work for a dropped call may hold it, and so its requests, till now.
        eventually(lambda: budget.used == 0, what="budget given back")


@pytest.mark.parametrize("kind", ["unary_stream", "stream_stream"])
def test_a_hedged_stream_with_a_request_too_large_to_keep(
    kind: str, stack: Stack, servers: Scripted
) -> None:
    """It is committed before its first message is read: that one is neither lost nor fought for."""
    channel = stack.open(servers.target, service_config=config("hedge", hedgingDelay="5s"))
    large = b"x" * 300_000
    messages = (large,) * 3 if kind == "unary_stream" else (large, b"a", b"b")
    for _ in range(4):
        request = large if kind == "unary_stream" else stack.requests(messages)
        end = stack.begin(channel, kind, request, timeout=10).end()
        assert (end.code, end.messages) == (grpc.StatusCode.OK, messages)


# -- dropped by the user -----------------------------------------------------------------------


@pytest.mark.parametrize("plain", [True, False], ids=["grpcio", "grpclb"])
@pytest.mark.parametrize("policy", ["none", "retry", "hedge"])
@pytest.mark.parametrize("kind", ["unary_unary", "stream_unary"])
def test_a_dropped_call_with_a_callback_goes_on(
    kind: str, policy: str, plain: bool, stack: Stack, servers: Scripted
) -> None:
    """As in grpcio: an RPC that has somebody to tell of its end gets there by itself."""
    if plain and policy != "none":
        return
    name, told = key(), threading.Event()
    arguments = {} if plain or policy == "none" else {"service_config": config(policy)}
    channel = stack.open(servers.target, plain=plain, **arguments)
    metadata = servers.script(name, {"delay": 0.2}, {"delay": 0.2}, {"delay": 0.2})
    request = b"x" if kind == "unary_unary" else stack.requests([b"x"])
    rpc = stack.begin(channel, kind, request, metadata=metadata)
    rpc.when_done(told.set)
    rpc.drop()
    assert told.wait(10), "the callback was lost"
    if policy != "hedge":  # its losers are cancelled
        assert name not in servers.cancelled
    if not plain:
        assert not channel._engine.held


def test_a_unary_call_that_nobody_waits_for_is_retried(stack: Stack, servers: Scripted) -> None:
    """Fire and forget is for aio; a sync future that nobody holds is cancelled, as in grpcio."""
    name = key()
    channel = stack.open(servers.target, service_config=config())
    warm = stack.begin(channel, "unary_unary", b"")
    assert warm.end().code is grpc.StatusCode.OK
    metadata = servers.script(name, {**UNAVAILABLE, "delay": 0.05}, UNAVAILABLE)
    rpc = stack.begin(channel, "unary_unary", b"x", metadata=metadata)
    eventually(lambda: servers.attempts_of(name))
    rpc.drop()
    if stack.name == "aio":
        eventually(lambda: len(servers.attempts_of(name)) == 3)
    else:
        eventually(lambda: name in servers.cancelled)
    eventually(lambda: not channel._engine.held)


@pytest.mark.parametrize("policy", ["none", "retry", "hedge"])
def test_a_dropped_stream_is_cancelled(policy: str, stack: Stack, servers: Scripted) -> None:
    name = key()
    channel = stack.open(servers.target, service_config=config(policy))
    metadata = servers.script(name, SLOW, SLOW, SLOW)
    rpc = stack.begin(channel, "unary_stream", b"x", metadata=metadata)
    eventually(lambda: servers.attempts_of(name))
    rpc.drop()
    eventually(lambda: name in servers.cancelled, what="the server sees the cancellation")


# -- cancelled, closed ---------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["retry", "hedge"])
@pytest.mark.parametrize("kind", ["unary_unary", "stream_stream"])
@pytest.mark.parametrize("act", [_cancel, _close])
def test_our_own_end_is_not_retried(
    act: Callable[..., None], kind: str, policy: str, stack: Stack, servers: Scripted
) -> None:
    """CANCELLED is a code to retry here: from a server, not from the user."""
    name = key()
    changes = {"hedgingDelay": "30s"} if policy == "hedge" else {}
    channel = stack.open(servers.target, service_config=config(policy, **changes))
    request = b"x" if kind == "unary_unary" else stack.requests([b"x"])
    rpc = stack.begin(channel, kind, request, metadata=servers.script(name, CANCELLED, SLOW))
    eventually(lambda: len(servers.attempts_of(name)) == 2, what="the server's own was retried")
    ended = threading.Event()
    rpc.when_done(ended.set)
    act(rpc, stack, channel)
    assert ended.wait(10)
    assert rpc.end().code is grpc.StatusCode.CANCELLED
    assert rpc.done()
    assert len(servers.attempts_of(name)) == 2


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
@pytest.mark.parametrize("act", [_cancel, _drop, _close])
def test_the_end_in_a_backoff(
    act: Callable[..., None], kind: str, stack: Stack, servers: Scripted
) -> None:
    """At once, and no attempt follows."""
    name = key()
    wait = {"initialBackoff": "30s", "maxBackoff": "30s"}
    channel = stack.open(servers.target, service_config=config(**wait))
    request = b"x" if kind.startswith("unary") else stack.requests([b"x"])
    metadata = servers.script(name, UNAVAILABLE)
    rpc = stack.begin(channel, kind, request, metadata=metadata)
    eventually(lambda: rpc.attempts() == [grpc.StatusCode.UNAVAILABLE])
    assert not rpc.done()
    ended = threading.Event()
    if act is not _drop:
        rpc.when_done(ended.set)
    act(rpc, stack, channel)
    if act is not _drop:
        assert ended.wait(10)
        assert rpc.end().code is grpc.StatusCode.CANCELLED
    assert servers.attempts_of(name) == servers.attempts_of(name)[:1]
    # A thread or task that is just at work for the dropped call may hold it a moment longer.
    eventually(lambda: channel._engine.replay_budget.used == 0)


# -- an attempt that took too long ----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
def test_who_asks_an_aio_call_is_not_cancelled_with_an_attempt(
    kind: str, aio_loop: AioLoop, servers: Scripted
) -> None:
    """`perAttemptRecvTimeout` cancels grpcio's call, and with it who waits for that: not here."""
    stack = AioStack(aio_loop)
    policy = config(perAttemptRecvTimeout="0.1s", retryableStatusCodes=["DEADLINE_EXCEEDED"])
    channel = stack.open(servers.target, service_config=policy)
    metadata = servers.script(key(), SLOW)

    async def read(call: Any) -> list[bytes]:
        return [message async for message in call]

    async def ask() -> list[Any]:
        call = getattr(channel, kind)(f"/s/{kind}")(b"x", metadata=metadata, timeout=LIMIT)
        reading = [read(call)] if kind == "unary_stream" else []
        return await asyncio.gather(call.wait_for_connection(), call.code(), *reading)

    messages = [[b"x"] * 3] if kind == "unary_stream" else []
    assert aio_loop.run(ask()) == [None, grpc.StatusCode.OK, *messages]
    stack.end()
