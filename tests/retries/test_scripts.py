"""One table of server outcomes; every row on the sync and on the aio stack."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

import grpclb
from tests.faults.harness import eventually
from tests.retries.servers import Scripted, Step

UNAVAILABLE: Step = {"code": grpc.StatusCode.UNAVAILABLE}
INTERNAL: Step = {"code": grpc.StatusCode.INTERNAL}
RETRY = {
    "maxAttempts": 4,
    "initialBackoff": "0.01s",
    "maxBackoff": "0.02s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE", 8, "deadline_exceeded"],
}
HEDGE = {"maxAttempts": 3, "hedgingDelay": "0.05s", "nonFatalStatusCodes": ["UNAVAILABLE"]}
REQUESTS = {
    "unary_unary": b"one",
    "unary_stream": b"one",
    "stream_unary": [b"a", b"b", b"c"],
    "stream_stream": [b"a", b"b", b"c"],
}
ECHOES = {
    "unary_unary": [b"one"],
    "unary_stream": [b"one"] * 3,
    "stream_unary": [b"abc"],
    "stream_stream": [b"a", b"b", b"c"],
}
KINDS = tuple(REQUESTS)


@dataclass(frozen=True)
class Row:
    name: str
    steps: tuple[Step, ...]
    attempts: int
    code: grpc.StatusCode = grpc.StatusCode.OK
    policy: dict[str, Any] = field(default_factory=lambda: {"retryPolicy": RETRY})
    kinds: tuple[str, ...] = KINDS
    timeout: float | None = 10
    before: tuple[bytes, ...] = ()  # messages that come before the error
    options: tuple[tuple[str, int], ...] = ()
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def hurried(self) -> bool:
        """Whether an attempt has no time for a connection to be made on a loaded machine."""
        return "perAttemptRecvTimeout" in self.policy.get("retryPolicy", ())

    @property
    def warm(self) -> bool:
        """Whether all backends must be ready before: there have to be others to go to."""
        return self.hurried or self.attempts > 1

    @property
    def most(self) -> int:
        """Attempts on a machine that is slow: what another one is given may not be enough."""
        hedging = self.policy.get("hedgingPolicy", {})
        short = self.hurried or hedging.get("hedgingDelay") == HEDGE["hedgingDelay"]
        return 4 if short and self.attempts > 1 else self.attempts


def _answers(channel: Any) -> bool:
    try:
        channel.unary_unary("/s/unary_unary")(b"", timeout=5)
    except grpc.RpcError:
        return False
    return True


async def _answers_aio(channel: Any) -> bool:
    try:
        await channel.unary_unary("/s/unary_unary")(b"", timeout=5)
    except grpc.RpcError:
        return False
    return True


def hedged(**changes: Any) -> dict[str, Any]:
    return {"hedgingPolicy": {**HEDGE, **changes}}


def retried(**changes: Any) -> dict[str, Any]:
    return {"retryPolicy": {**RETRY, **changes}}


_U = grpc.StatusCode.UNAVAILABLE
_STREAMS = ("unary_stream", "stream_stream")
ROWS = [
    Row("no failure", (), 1),
    Row("one failure", (UNAVAILABLE,), 2),
    Row("three failures", (UNAVAILABLE,) * 3, 4),
    Row("one failure too many", (UNAVAILABLE,) * 4, 4, _U),
    Row("a code by number", ({"code": grpc.StatusCode.RESOURCE_EXHAUSTED},), 2),
    Row("a code in small letters", ({"code": grpc.StatusCode.DEADLINE_EXCEEDED},), 2),
    Row("a code that is not listed", (INTERNAL,), 1, grpc.StatusCode.INTERNAL),
    Row("another code later", (UNAVAILABLE, INTERNAL), 2, grpc.StatusCode.INTERNAL),
    Row("maxAttempts is capped at 5", (UNAVAILABLE,) * 9, 5, _U, retried(maxAttempts=9)),
    Row(
        "a higher cap",
        (UNAVAILABLE,) * 9,
        8,
        _U,
        retried(maxAttempts=8),
        options=(("grpclb.max_retry_attempts", 8),),
    ),
    Row("pushback", ({**UNAVAILABLE, "push": 20},), 2),
    Row("pushback: never", ({**UNAVAILABLE, "push": -1},), 1, _U),
    Row("pushback: no number", ({**UNAVAILABLE, "push": "abc"},), 1, _U),
    Row("pushback past the deadline", ({**UNAVAILABLE, "push": 60_000},), 1, _U, timeout=5),
    Row(
        "backoff past the deadline",
        (UNAVAILABLE,),
        1,
        _U,
        retried(initialBackoff="60s", maxBackoff="60s"),
        timeout=5,
    ),
    Row("turned off", (UNAVAILABLE,), 1, _U, options=(("grpc.enable_retries", 0),)),
    Row(
        "a message commits",
        ({**UNAVAILABLE, "messages": 2},),
        1,
        _U,
        kinds=_STREAMS,
        before=(b"early 0", b"early 1"),
    ),
    Row(
        "a server that does not wait for the requests",
        ({**UNAVAILABLE, "early": True},),
        2,
        kinds=("stream_unary",),
    ),
    Row(
        "too much to keep",
        (UNAVAILABLE,),
        1,
        _U,
        options=(("grpc.per_rpc_retry_buffer_size", 2),),
        kinds=("unary_unary", "unary_stream", "stream_unary"),
    ),
    Row(
        "an attempt that takes too long",
        ({"delay": 3},),
        2,
        policy=retried(perAttemptRecvTimeout="0.6s"),
    ),
    Row(
        "an attempt that takes too long, not listed",
        ({"delay": 3},),
        1,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        retried(perAttemptRecvTimeout="0.3s", retryableStatusCodes=["UNAVAILABLE"]),
    ),
    Row("hedging: the first is quick", (), 1, policy=hedged(hedgingDelay="5s")),
    Row("hedging: the second wins", ({"delay": 3},), 2, policy=hedged()),
    Row("hedging: the third wins", ({"delay": 3}, {"delay": 3}), 3, policy=hedged()),
    Row("hedging: a failure starts the next", (UNAVAILABLE,), 2, policy=hedged(hedgingDelay="5s")),
    Row(
        "hedging: a fatal code", (INTERNAL,), 1, grpc.StatusCode.INTERNAL, hedged(hedgingDelay="5s")
    ),
    Row("hedging: all fail", (UNAVAILABLE,) * 3, 3, _U, hedged(hedgingDelay="5s")),
    Row(
        "hedging: pushback never", ({**UNAVAILABLE, "push": -1},), 1, _U, hedged(hedgingDelay="5s")
    ),
]
CASES = [(row, kind) for row in ROWS for kind in row.kinds]
_KEYS = itertools.count()


def _config(row: Row) -> dict[str, Any]:
    return {"methodConfig": [{"name": [{}], **row.policy}], **row.config}


def _are_ready(channel: Any) -> bool:
    return all(s["state"] == "READY" for s in channel.debug_snapshot()["subchannels"])


def _check(row: Row, kind: str, servers: Scripted, key: str, seen: tuple[Any, Any, Any]) -> None:
    code, messages, attempts = seen
    assert code is row.code
    if code is grpc.StatusCode.OK:
        assert messages == ECHOES[kind]
    else:
        assert tuple(messages) == row.before
    places = servers.attempts_of(key)
    assert row.attempts <= len(places) <= row.most
    assert len(set(places)) == min(3, len(places)), "a backend that was not tried comes first"
    if "retryPolicy" in row.policy and row.options != (("grpc.enable_retries", 0),):
        assert row.attempts <= len(attempts) <= row.most
        assert attempts[-1].code is row.code
        assert all(record.backend for record in attempts)


def _sync(channel: Any, kind: str, row: Row, metadata: Any, *, future: bool) -> tuple[Any, ...]:
    multi = getattr(channel, kind)(f"/s/{kind}")
    request: Any = REQUESTS[kind]
    request = iter(request) if isinstance(request, list) else request
    messages: list[bytes] = []
    try:
        if kind.endswith("stream"):
            call = multi(request, timeout=row.timeout, metadata=metadata)
            messages.extend(call)  # those before an error stay
        elif future:
            call = multi.future(request, timeout=row.timeout, metadata=metadata)
            messages.append(call.result())
        else:
            response, call = multi.with_call(request, timeout=row.timeout, metadata=metadata)
            messages.append(response)
    except grpc.RpcError as error:
        return error.code(), messages, grpclb.attempts(error)
    return call.code(), messages, grpclb.attempts(call)


@pytest.mark.parametrize("future", [False, True], ids=["call", "future"])
@pytest.mark.parametrize(("row", "kind"), CASES, ids=lambda x: x if isinstance(x, str) else x.name)
def test_sync(row: Row, kind: str, future: bool, servers: Scripted) -> None:
    if future and kind.endswith("stream"):
        return
    key = f"sync{next(_KEYS)}"
    metadata = servers.script(key, *row.steps)
    channel = grpclb.insecure_channel(
        servers.target, options=row.options, service_config=_config(row)
    )
    with channel:
        if row.warm:
            eventually(lambda: _answers(channel) and _are_ready(channel), timeout=30)
        seen = _sync(channel, kind, row, metadata, future=future)
    _check(row, kind, servers, key, seen)


async def _aio(channel: Any, kind: str, row: Row, metadata: Any, write: bool) -> tuple[Any, ...]:
    multi = getattr(channel, kind)(f"/s/{kind}")
    request = REQUESTS[kind]
    messages: list[bytes] = []
    options = {"timeout": row.timeout, "metadata": metadata}
    call: Any = None
    try:
        if write and isinstance(request, list):
            call = multi(**options)
            with contextlib.suppress(asyncio.InvalidStateError):  # it has ended; see how
                for message in request:
                    await call.write(message)
                await call.done_writing()
        else:
            call = multi(request, **options)
        if kind.endswith("stream"):
            async for message in call:
                messages.append(message)  # noqa: PERF401 (those before an error stay)
        else:
            messages.append(await call)
    except grpc.aio.AioRpcError as error:
        return error.code(), messages, grpclb.attempts(error)
    return await call.code(), messages, grpclb.attempts(call)


@pytest.mark.parametrize("write", [False, True], ids=["whole", "write"])
@pytest.mark.parametrize(("row", "kind"), CASES, ids=lambda x: x if isinstance(x, str) else x.name)
def test_aio(row: Row, kind: str, write: bool, servers: Scripted) -> None:
    if write and not kind.startswith("stream"):
        return
    key = f"aio{next(_KEYS)}"
    metadata = servers.script(key, *row.steps)

    async def main() -> tuple[Any, ...]:
        channel = grpclb.aio.insecure_channel(
            servers.target, options=row.options, service_config=_config(row)
        )
        async with channel:
            while row.warm and not (await _answers_aio(channel) and _are_ready(channel)):
                pass
            return await _aio(channel, kind, row, metadata, write)

    seen = asyncio.run(main())
    if write and kind == "stream_stream" and seen[0] is grpc.StatusCode.INTERNAL:
        # grpc.aio loses the status of a stream that the server ends while it is written to.
        assert row.code is not grpc.StatusCode.OK
        return
    _check(row, kind, servers, key, seen)


def test_throttling_bounds_the_attempts(servers: Scripted) -> None:
    """FIGURES F16: at most 1.5 attempts a call, of a server that always fails."""
    config = {
        "methodConfig": [{"name": [{}], "retryPolicy": RETRY}],
        "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
    }
    calls = 300
    metadata = servers.script("throttled", *(UNAVAILABLE,) * (4 * calls))
    with grpclb.insecure_channel(servers.target, service_config=config) as channel:
        stub: Any = channel.unary_unary("/s/unary_unary")
        for _ in range(calls):
            with pytest.raises(grpc.RpcError):
                stub(b"", metadata=metadata)
    assert calls < len(servers.attempts_of("throttled")) <= 1.5 * calls


def test_control_without_a_throttle(servers: Scripted) -> None:
    config = {"methodConfig": [{"name": [{}], "retryPolicy": RETRY}]}
    metadata = servers.script("free", *(UNAVAILABLE,) * 40)
    with grpclb.insecure_channel(servers.target, service_config=config) as channel:
        stub: Any = channel.unary_unary("/s/unary_unary")
        for _ in range(10):
            with pytest.raises(grpc.RpcError):
                stub(b"", metadata=metadata)
    assert len(servers.attempts_of("free")) == 40
