"""Rules of retries that need more than one RPC, or a look from the server's side; both stacks."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
import grpc.aio
import pytest

import grpclb
from grpclb.control.attempt_log import AttemptRecord, HedgedRecords, describe
from grpclb.control.registries import POLICIES
from grpclb.core.balancer import Drop, Helper, LoadBalancer, PickInfo, PickResult
from grpclb.core.connectivity import READY
from grpclb.core.status import Status
from grpclb.testing import ManualResolver
from tests.faults.harness import eventually
from tests.retries.servers import Scripted, Step
from tests.retries.stacks import AioStack, Stack
from tests.retries.test_lifetimes import config

UNAVAILABLE: Step = {"code": grpc.StatusCode.UNAVAILABLE}
EARLY: Step = {**UNAVAILABLE, "early": True}
OK = grpc.StatusCode.OK
KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
_NAMES = itertools.count()


def key() -> str:
    return f"rule{next(_NAMES)}"


def _request(stack: Stack, kind: str) -> Any:
    return b"x" if kind.startswith("unary") else stack.requests([b"x", b"y"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_losers_of_hedging_are_cancelled_on_their_servers(
    kind: str, stack: Stack, servers: Scripted
) -> None:
    name = key()
    channel = stack.open(servers.target, service_config=config("hedge"))
    metadata = servers.script(name, {"delay": 10}, {"delay": 10}, {})
    end = stack.begin(channel, kind, _request(stack, kind), metadata=metadata).end()
    assert end.code is OK
    eventually(lambda: servers.cancelled.count(name) == 2)
    assert len(servers.attempts_of(name)) == 3


def test_headers_alone_decide_for_a_hedged_copy(stack: Stack, servers: Scripted) -> None:
    """The client has nothing to send before it has them."""
    name, gate = key(), threading.Event()
    channel = stack.open(servers.target, service_config=config("hedge"))
    metadata = servers.script(name, {"delay": 10}, {"headers": [("by", "second")]}, {"delay": 10})
    rpc = stack.begin(channel, "stream_stream", stack.requests([], gate), metadata=metadata)
    assert ("by", "second") in rpc.headers()
    eventually(lambda: servers.cancelled.count(name) == len(servers.attempts_of(name)) - 1)
    gate.set()
    assert rpc.end().code is OK


def test_servers_are_not_told_of_previous_attempts(stack: Stack, servers: Scripted) -> None:
    """We send `grpc-previous-rpc-attempts`; C-core takes it out while its own retries are on."""
    name = key()
    channel = stack.open(servers.target, service_config=config())
    metadata = servers.script(name, UNAVAILABLE, UNAVAILABLE)
    assert stack.begin(channel, "unary_unary", b"x", metadata=metadata).end().code is OK
    assert [previous for seen, _, previous in servers.seen if seen == name] == [None] * 3


class _Counts(grpc.UnaryUnaryClientInterceptor):
    def __init__(self) -> None:
        self.calls = 0

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self.calls += 1
        return continuation(details, request)


class _CountsAio(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self) -> None:
        self.calls = 0

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self.calls += 1
        return await continuation(details, request)


def test_an_interceptor_runs_once_per_call(stack: Stack, servers: Scripted) -> None:
    name = key()
    arguments: dict[str, Any] = {"service_config": config()}
    counts: Any = _CountsAio() if isinstance(stack, AioStack) else _Counts()
    if isinstance(stack, AioStack):
        arguments["interceptors"] = [counts]
    channel = stack.open(servers.target, **arguments)
    if not isinstance(stack, AioStack):
        channel = grpc.intercept_channel(channel, counts)
    metadata = servers.script(name, UNAVAILABLE, UNAVAILABLE)
    assert stack.begin(channel, "unary_unary", b"x", metadata=metadata).end().code is OK
    assert (counts.calls, len(servers.attempts_of(name))) == (1, 3)


class _Drops:
    """Refuses every RPC, and counts them."""

    name = "drops"

    def __init__(self) -> None:
        self.picks = 0

    def parse_config(self, raw: Mapping[str, Any]) -> object:
        return None

    def build(self, helper: Helper) -> LoadBalancer:
        self._helper = helper
        return self

    def update(self, state: object, config: object) -> bool:
        self._helper.update_picker(READY, self)
        return True

    def pick(self, info: PickInfo) -> PickResult:
        self.picks += 1
        return Drop(Status.unavailable("dropped"))

    def exit_idle(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def drops(monkeypatch: pytest.MonkeyPatch) -> _Drops:
    monkeypatch.setattr(POLICIES, "_table", POLICIES._table)
    policy = _Drops()
    grpclb.register_policy(policy)
    return policy


@pytest.mark.parametrize("policy", ["none", "retry", "hedge"])
@pytest.mark.parametrize("kind", ["unary_unary", "stream_stream", "blocking"])
def test_a_drop_is_not_retried(kind: str, policy: str, stack: Stack, drops: _Drops) -> None:
    """Nor is the picker asked a second time: it may drop by chance."""
    dropping = {**(config(policy) or {}), "loadBalancingConfig": [{"drops": {}}]}
    channel = stack.open("ipv4:127.0.0.1:1", service_config=dropping)

    def code() -> grpc.StatusCode:
        if kind == "blocking" and not isinstance(stack, AioStack):
            with pytest.raises(grpc.RpcError, match="dropped") as caught:
                channel.unary_unary("/s/unary_unary")(b"x", wait_for_ready=True, timeout=10)
            error: Any = caught.value
            found: grpc.StatusCode = error.code()
            return found
        of = "unary_unary" if kind == "blocking" else kind
        rpc = stack.begin(channel, of, _request(stack, of), wait_for_ready=True, timeout=10)
        return rpc.end().code

    assert code() is grpc.StatusCode.UNAVAILABLE  # it may have waited for the policy
    drops.picks = 0
    assert [code() for _ in range(3)] == [grpc.StatusCode.UNAVAILABLE] * 3
    assert drops.picks == 3


def test_the_throttle_fills_again_and_survives_a_config_with_equal_values(
    stack: Stack, servers: Scripted
) -> None:
    resolver = ManualResolver()
    throttled = {"maxTokens": 4, "tokenRatio": 1}

    def resolve(**changes: Any) -> None:
        found = {**(config() or {}), "retryThrottling": throttled, **changes}
        state = grpclb.ResolverState.of(servers.addresses)
        resolver.update(grpclb.ResolverState(state.endpoints, service_config=found))

    resolve()
    channel = stack.open("x", resolver=resolver)

    def attempts(*steps: Step) -> int:
        name = key()
        metadata = servers.script(name, *steps)
        stack.begin(channel, "unary_unary", b"x", metadata=metadata).end()
        return len(servers.attempts_of(name))

    eventually(lambda: channel._engine.slot.current.resolved or attempts() == 0)
    assert attempts(*[UNAVAILABLE] * 4) == 2, "4 tokens, 3, 2: half of them is no more"
    generation = channel._engine.slot.current.generation
    resolve(loadBalancingConfig=[{"round_robin": {}}])
    eventually(lambda: channel._engine.slot.current.generation != generation)
    assert attempts(*[UNAVAILABLE] * 4) == 1, "as empty as before"
    assert [attempts() for _ in range(3)] == [1, 1, 1]
    assert attempts(*[UNAVAILABLE] * 4) == 2, "full again"


@pytest.mark.parametrize("kind", ["stream_unary", "stream_stream"])
@pytest.mark.parametrize("fails", [0, 1])
def test_a_long_stream_overflows_and_loses_nothing(
    fails: int, kind: str, stack: Stack, servers: Scripted
) -> None:
    """It is committed then: what failed before is made good, what fails later is not."""
    name = key()
    options = (("grpc.per_rpc_retry_buffer_size", 2000),)
    channel = stack.open(servers.target, service_config=config(), options=options)
    small = [b"%03d" % number for number in range(5)]
    large = [b"%03d" % number * 100 for number in range(100)]
    gate = threading.Event()
    requests = stack.requests(small, gate), stack.requests(large)
    metadata = servers.script(name, *[EARLY if kind == "stream_unary" else UNAVAILABLE] * fails)
    rpc = stack.begin(channel, kind, _joined(stack, *requests), metadata=metadata)
    eventually(lambda: len(servers.attempts_of(name)) == fails + 1)
    gate.set()
    end = rpc.end()
    assert end.code is OK
    assert b"".join(end.messages) == b"".join(small + large)
    assert channel._engine.replay_budget.used == 0


def test_a_stream_that_has_overflowed_is_not_retried(stack: Stack, servers: Scripted) -> None:
    name = key()
    options = (("grpc.per_rpc_retry_buffer_size", 2000),)
    channel = stack.open(servers.target, service_config=config(), options=options)
    metadata = servers.script(name, UNAVAILABLE)
    requests = stack.requests([b"x" * 300] * 10)
    end = stack.begin(channel, "stream_unary", requests, metadata=metadata).end()
    assert end.code is grpc.StatusCode.UNAVAILABLE
    assert len(servers.attempts_of(name)) == 1


def _joined(stack: Stack, first: Any, second: Any) -> Any:
    if not isinstance(stack, AioStack):
        return itertools.chain(first, second)

    async def chain() -> Any:
        async for message in first:
            yield message
        async for message in second:
            yield message

    return chain()


def test_what_is_written_slowly_is_replayed(servers: Scripted, aio_stack: AioStack) -> None:
    """`write()` and `done_writing()` return for what was sent, and all of it reaches the last."""
    name = key()
    channel = aio_stack.open(servers.target, service_config=config())
    metadata = servers.script(name, EARLY, {**UNAVAILABLE, "delay": 0.02}, {})

    async def main() -> Any:
        call = channel.stream_unary("/s/stream_unary")(metadata=metadata)
        for number in range(6):
            await call.write(b"%d" % number)
            await asyncio.sleep(0.01)
        await call.done_writing()
        return await call

    assert aio_stack.loop.run(main()) == b"012345"
    assert len(servers.attempts_of(name)) == 3


@pytest.fixture
def aio_stack(aio_loop: Any) -> Iterator[AioStack]:
    stack = AioStack(aio_loop)
    yield stack
    stack.end()


@pytest.mark.parametrize("kind", KINDS)
def test_hedged_attempts_are_listed_oldest_first(
    kind: str, stack: Stack, servers: Scripted
) -> None:
    name = key()
    channel = stack.open(servers.target, service_config=config("hedge"))
    metadata = servers.script(name, {"delay": 10}, {"delay": 10}, {})
    rpc = stack.begin(channel, kind, _request(stack, kind), metadata=metadata)
    records = rpc.end().attempts
    cancelled = grpc.StatusCode.CANCELLED
    codes = [record.code for record in records]
    # The third one to reach a server wins, which need not be the third one that was sent.
    assert sorted(codes, key=codes.count) == [OK, cancelled, cancelled]
    begun = [record.begun for record in records]
    assert begun == sorted(begun)
    eventually(lambda: servers.cancelled.count(name) == 2)
    assert rpc.attempts() == codes, "the losers' ends add nothing"


def test_the_error_of_a_hedged_rpc_shows_all_attempts(stack: Stack, servers: Scripted) -> None:
    name = key()
    hedge = config("hedge", maxAttempts=2)
    channel = stack.open(servers.target, service_config=hedge)
    failure: Step = {"code": grpc.StatusCode.INTERNAL, "delay": 0.3}
    metadata = servers.script(name, {"delay": 10}, failure)
    end = stack.begin(channel, "unary_unary", b"x", metadata=metadata).end()
    codes = [record.code for record in end.attempts]
    assert codes == [grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL]
    assert f"grpclb: backend {end.attempts[1].backend}" in end.notes, "the one that answered"
    order = [
        end.notes.index(f"{record.backend} {code.name}")
        for record in end.attempts
        if (code := record.code)
    ]
    assert order == sorted(order)
    assert "backoff" not in end.notes


def test_pauses_between_hedged_attempts_are_no_backoff() -> None:
    gone = [AttemptRecord("a:1", UNAVAILABLE["code"], 0.1, begun=float(i)) for i in (1, 0)]
    assert describe(gone) == (
        "a:1 UNAVAILABLE (0.10 s), 0.90 s of backoff, a:1 UNAVAILABLE (0.10 s)"
    )
    assert describe(HedgedRecords(gone)) == "a:1 UNAVAILABLE (0.10 s), a:1 UNAVAILABLE (0.10 s)"


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_without_a_policy_there_are_no_records(
    kind: str, plain: bool, stack: Stack, servers: Scripted
) -> None:
    name = key()
    channel = stack.open(servers.target, plain=plain)
    metadata = servers.script(name, UNAVAILABLE, {})
    for code in (grpc.StatusCode.UNAVAILABLE, OK):  # the error, then the call
        end = stack.begin(channel, kind, _request(stack, kind), metadata=metadata).end()
        # (grpc.aio has INTERNAL for a stream that a server ends while it is written to.)
        assert (end.code is OK, end.attempts) == (code is OK, ())


@pytest.mark.parametrize("wrong", [3, b"response", None])
def test_only_calls_and_errors_have_attempts(wrong: object) -> None:
    with pytest.raises(TypeError, match=r"takes the call .* or the error .*, got \w+$"):
        grpclb.attempts(wrong)
