"""RPCs that begin before it is known which service config counts: its policy is theirs, too."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

import grpc
import pytest

import grpclb
from grpclb.core.address import Endpoint
from grpclb.core.resolver import ResolverState
from grpclb.testing import ManualResolver
from tests.faults.harness import AioLoop, eventually
from tests.retries.servers import Scripted, Step
from tests.retries.stacks import Rpc, Stack
from tests.retries.test_lifetimes import config

KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
OK = grpc.StatusCode.OK
UNAVAILABLE: Step = {"code": grpc.StatusCode.UNAVAILABLE}
HANGS: Step = {"delay": 10, "early": True}
_KEYS = itertools.count()


def state(addresses: list[str], service_config: Any) -> ResolverState:
    return ResolverState(tuple(Endpoint.of(address) for address in addresses), service_config)


class Cold:
    """A channel that knows nothing yet."""

    def __init__(self, stack: Stack, **options: Any) -> None:
        self._resolver = ManualResolver()
        self.channel = stack.open("x", resolver=self._resolver, **options)
        self._stack = stack

    def begin(self, kind: str, **arguments: Any) -> Rpc:
        request = b"x" if kind.startswith("unary") else self._stack.requests([b"x", b"y"])
        rpc = self._stack.begin(self.channel, kind, request, **arguments)
        assert not rpc.done()
        return rpc

    def resolve(self, addresses: list[str], service_config: Any) -> None:
        self._resolver.update(state(addresses, service_config))


@pytest.fixture
def cold(stack: Stack) -> Cold:
    return Cold(stack)


def key() -> str:
    return f"cold{next(_KEYS)}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", ["retry", "hedge"])
def test_it_succeeds_at_last(cold: Cold, policy: str, kind: str, servers: Scripted) -> None:
    name = key()
    metadata = servers.script(name, UNAVAILABLE, UNAVAILABLE)
    rpc = cold.begin(kind, metadata=metadata, timeout=10)
    calls = []
    rpc.when_done(lambda: calls.append(1))
    assert rpc.attempts() == []
    cold.resolve(servers.addresses, config(policy))
    end = rpc.end()
    assert end.code is OK
    codes = [attempt.code for attempt in end.attempts]
    assert codes.count(grpc.StatusCode.UNAVAILABLE) == 2
    assert codes.count(OK) == 1
    assert len(servers.attempts_of(name)) == 3
    eventually(lambda: calls == [1])
    assert rpc.done()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", ["retry", "hedge"])
def test_it_fails_like_its_last_attempt(
    cold: Cold, policy: str, kind: str, servers: Scripted
) -> None:
    name = key()
    metadata = servers.script(name, *[UNAVAILABLE] * 9)
    rpc = cold.begin(kind, metadata=metadata)
    cold.resolve(servers.addresses, config(policy))
    end = rpc.end()
    assert end.code is grpc.StatusCode.UNAVAILABLE
    assert end.details.startswith("scripted by")
    assert len(end.attempts) == len(servers.attempts_of(name)) == (4 if policy == "retry" else 3)
    assert "grpclb: attempts" in end.notes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", ["retry", "hedge", "none"])
def test_it_is_cancelled(
    cold: Cold, policy: str, kind: str, stack: Stack, servers: Scripted
) -> None:
    """While the name is looked up, while it waits for a backend, and while an attempt runs."""
    name = key()
    first, second, third = (
        cold.begin(kind, metadata=servers.script(f"{name}-{n}", *[HANGS] * 3)) for n in range(3)
    )
    assert first.cancel()
    assert first.end().code is grpc.StatusCode.CANCELLED
    cold.resolve(servers.addresses, config(policy))
    assert second.cancel()
    assert second.end().code is grpc.StatusCode.CANCELLED
    eventually(lambda: servers.attempts_of(f"{name}-2"))
    assert third.cancel()
    assert third.end().code is grpc.StatusCode.CANCELLED
    began = len(servers.attempts_of(f"{name}-2"))
    eventually(lambda: servers.cancelled.count(f"{name}-2") >= began)
    assert servers.attempts_of(f"{name}-0") == []


@pytest.mark.parametrize("when", ["cold", "waiting", "running"])
@pytest.mark.parametrize("policy", ["retry", "hedge"])
def test_its_channel_is_closed(
    cold: Cold, policy: str, when: str, stack: Stack, servers: Scripted
) -> None:
    name = key()
    kinds = [k for k in KINDS for _ in range(2)]
    metadata = servers.script(name, *[HANGS] * 99)
    rpcs = [cold.begin(kind, metadata=metadata, wait_for_ready=True) for kind in kinds]
    if when == "waiting":
        cold.resolve(["127.0.0.1:1"], config(policy))
    elif when == "running":
        cold.resolve(servers.addresses, config(policy))
        eventually(lambda: len(servers.attempts_of(name)) >= len(kinds))
    stack.close(cold.channel)
    assert {rpc.end().code for rpc in rpcs} == {grpc.StatusCode.CANCELLED}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", ["retry", "none"])
def test_the_configs_timeout_counts_while_it_waits(cold: Cold, policy: str, kind: str) -> None:
    """From when it began (gRFC A21), though no backend is ever ready."""
    rpc = cold.begin(kind, wait_for_ready=True, timeout=30)
    given = config(policy) or {"methodConfig": [{"name": [{}]}]}
    given["methodConfig"][0]["timeout"] = "0.15s"
    began = monotonic()
    cold.resolve(["127.0.0.1:1"], given)
    end = rpc.end()
    assert end.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert monotonic() - began < 10
    assert "waiting for a backend of x" in end.details


def test_the_configs_wait_for_ready_counts(cold: Cold, servers: Scripted) -> None:
    given = {"methodConfig": [{"name": [{}], "waitForReady": True}]}
    rpc = cold.begin("unary_unary")
    cold.resolve(["127.0.0.1:1"], given)
    cold.resolve(servers.addresses, given)
    assert rpc.end().code is OK


@pytest.mark.parametrize("kind", KINDS)
def test_a_default_config_gives_way(kind: str, stack: Stack, servers: Scripted) -> None:
    """Of another method, so that it gives this one no policy."""
    other = {"methodConfig": [{"name": [{"service": "other"}], "timeout": "9s"}]}
    cold, name = Cold(stack, service_config=other), key()
    rpc = cold.begin(kind, metadata=servers.script(name, UNAVAILABLE))
    cold.resolve(servers.addresses, config("retry"))
    assert rpc.end().code is OK
    assert len(servers.attempts_of(name)) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_holds_it(cold: Cold, kind: str, servers: Scripted, stack: Stack) -> None:
    """A stream ends on its server, then; a unary aio RPC goes on, as in grpc.aio."""
    name = key()
    rpc = cold.begin(kind, metadata=servers.script(name, UNAVAILABLE, HANGS))
    cold.resolve(servers.addresses, config("retry"))
    eventually(lambda: len(servers.attempts_of(name)) == 2)
    rpc.drop()
    if stack.name == "aio" and kind.endswith("unary"):
        assert name not in servers.cancelled
    else:
        eventually(lambda: name in servers.cancelled)


def test_a_config_without_a_policy(cold: Cold, servers: Scripted) -> None:
    """It has no attempts to tell of."""
    rpc = cold.begin("unary_unary")
    cold.resolve(servers.addresses, None)
    end = rpc.end()
    assert (end.code, end.attempts) == (OK, ())
    assert grpclb.attempts(rpc.call) == ()  # type: ignore[attr-defined]


def test_many_threads_ask_one_call(servers: Scripted) -> None:
    resolver = ManualResolver()
    with grpclb.insecure_channel("x", resolver=resolver) as channel:
        for _ in range(20):
            metadata = servers.script(key(), UNAVAILABLE, UNAVAILABLE)
            call = channel.unary_unary("/s/unary_unary").future(b"x", metadata=metadata)
            ask: list[Callable[[], Any]] = [call.result, call.code, call.exception, call.done]
            ask += [call.initial_metadata, call.trailing_metadata, call.traceback]
            answers: list[Any] = []

            def answer(ask: Callable[[], Any], answers: list[Any] = answers) -> None:
                answers.append(ask())

            threads = [threading.Thread(target=answer, args=(one,)) for one in ask]
            for thread in threads:
                thread.start()
            resolver.update(state(servers.addresses, config("retry")))
            for thread in threads:
                thread.join(10)
            assert call.result(5) == b"x"
            assert len(answers) == len(ask)


@pytest.mark.parametrize("policy", ["retry", "hedge"])
def test_messages_are_written_and_read_one_by_one(
    policy: str, aio_loop: AioLoop, servers: Scripted
) -> None:
    resolver, name = ManualResolver(), key()

    async def converse() -> None:
        async with grpclb.aio.insecure_channel("x", resolver=resolver) as channel:
            metadata = servers.script(name, UNAVAILABLE, UNAVAILABLE)
            call = channel.stream_stream("/s/stream_stream")(metadata=metadata)
            writes = asyncio.ensure_future(call.write(b"a"))
            await asyncio.sleep(0)
            resolver.update(state(servers.addresses, config(policy)))
            await writes
            await call.write(b"b")
            await call.done_writing()
            assert [await call.read() for _ in range(3)] == [b"a", b"b", grpc.aio.EOF]
            assert await call.code() is OK

    aio_loop.run(converse())
    assert len(servers.attempts_of(name)) == 3
