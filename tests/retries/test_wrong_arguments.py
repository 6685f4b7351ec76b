"""Wrong arguments: reported when and as grpcio does, wherever the RPC is by then."""

from __future__ import annotations

import functools
import math
import re
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest

import grpclb
from grpclb.testing import ManualResolver
from tests.retries.servers import Scripted
from tests.retries.stacks import AioRpc, AioStack, Stack, SyncRpc
from tests.retries.test_lifetimes import config


def _refuse(request: Any) -> bytes:
    raise ValueError("cannot be serialized")


# Arguments of the call, and a serializer.
WRONG: dict[str, tuple[dict[str, Any], Callable[[Any], Any] | None]] = {
    "credentials": ({"credentials": "bogus"}, None),
    "compression": ({"compression": "bogus"}, None),
    "an unknown compression": ({"compression": 9}, None),
    "a number in the metadata": ({"metadata": (("k", 5),)}, None),
    "text as binary metadata": ({"metadata": (("k-bin", "text"),)}, None),
    "metadata that is none": ({"metadata": 5}, None),
    "three for a pair": ({"metadata": (("a", "b", "c"),)}, None),
    "a timeout in letters": ({"timeout": "x"}, None),
    "no bytes": ({}, lambda request: "text"),
    "a serializer that raises": ({}, _refuse),
}
# grpc.aio sends an empty request in place of one that cannot be serialized.
RAISED = {"a serializer that raises": (ValueError, "cannot be serialized")}


def _raised(stack: Stack, channel: Any, wrong: str, then: Callable[[], object]) -> tuple[Any, str]:
    """What comes of one unary call, at once or at its end: the type of the error and its text."""
    arguments, serializer = WRONG[wrong]
    multi = channel.unary_unary("/s/unary_unary", request_serializer=serializer)

    async def begin() -> Any:
        return multi(b"x", **arguments)

    try:
        if isinstance(stack, AioStack):
            call = stack.loop.run(begin())
            then()
            return type(AioRpc(call, "unary_unary", stack.loop).end()), ""
        call = multi.future(b"x", **arguments)
    except grpc.RpcError as error:
        return grpc.RpcError, f"{error.code()} {error.details()}"
    except Exception as error:
        text = str(error).replace("'request'", "'message'")  # sync and aio differ
        return type(error), re.sub(r", got \d+\)", ")", text)  # Python 3.14 counts, Cython does not
    return SyncRpc(call, "unary_unary").end(), ""


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.grpcio_leaks("a connection for each refused metadata")
@pytest.mark.expect_log("Exception serializing message!")
def test_a_wrong_argument_is_reported_as_by_grpcio(
    wrong: str, stack: Stack, servers: Scripted
) -> None:
    expected = _raised(stack, stack.open(servers.target, plain=True), wrong, lambda: None)
    policies = ("none", "retry", "hedge")
    for policy in policies:
        for queued in (False, True):
            if stack.name == "aio" and wrong in RAISED and policy != "none":
                expected = RAISED[wrong]
            resolver = ManualResolver(() if queued else servers.addresses)
            channel = stack.open("x", resolver=resolver, service_config=config(policy))
            if not queued:
                assert stack.begin(channel, "unary_unary", b"").end().code is grpc.StatusCode.OK

            def resolve(resolver: ManualResolver = resolver) -> None:
                resolver.update(servers.addresses)

            assert _raised(stack, channel, wrong, resolve) == expected, (policy, queued)
            stack.close(channel)


def _no_bytes(request: Any) -> Any:
    return None if request == b"bad" else request


@pytest.mark.parametrize("serializer", [_refuse, _no_bytes])
@pytest.mark.parametrize("kind", ["stream_unary", "stream_stream"])
@pytest.mark.expect_log("Exception serializing message!")
def test_a_message_of_a_stream_that_cannot_be_serialized(
    kind: str, serializer: Callable[[Any], Any], servers: Scripted
) -> None:
    """In the sync stack as in grpcio, whose grpc.aio sends an empty message in its place."""
    factories: list[Callable[[], Any]] = [lambda: grpc.insecure_channel(servers.target)]
    for policy in ("none", "retry", "hedge"):
        keywords: dict[str, Any] = {"service_config": config(policy)}
        factories.append(functools.partial(grpclb.insecure_channel, servers.target, **keywords))
    for factory in factories:
        with factory() as channel:
            multi = getattr(channel, kind)(f"/s/{kind}", request_serializer=serializer)
            start = multi if kind == "stream_stream" else multi.future
            end = SyncRpc(start(iter([b"a", b"bad"])), kind).end()
            assert end.code is grpc.StatusCode.INTERNAL
            assert end.details == "Exception serializing request!"


@pytest.mark.parametrize("policy", ["retry", "hedge"])
@pytest.mark.parametrize("kind", ["stream_unary", "stream_stream"])
@pytest.mark.expect_log("Exception iterating requests!")
def test_a_message_of_a_stream_that_is_no_bytes(
    kind: str, policy: str, stack: Stack, servers: Scripted
) -> None:
    """It ends the RPC at once: by UNKNOWN, or in aio by its cancellation, as in grpc.aio.

    Plain grpcio's sync stack hangs until the deadline.
    """
    messages: Any = [b"a", "text"]
    channel = stack.open(servers.target, service_config=config(policy))
    end = stack.begin(channel, kind, stack.requests(messages)).end()
    expected = {"sync": grpc.StatusCode.UNKNOWN, "aio": grpc.StatusCode.CANCELLED}
    assert end.code is expected[stack.name]


@pytest.mark.parametrize("kind", ["unary_unary", "stream_stream"])
def test_illegal_metadata_end_the_rpc(kind: str, stack: Stack, servers: Scripted) -> None:
    """Here grpc.aio raises an internal exception of its own; we end it as the sync stack does."""
    request = b"x" if kind == "unary_unary" else stack.requests([b"x"])
    for policy in ("retry", "hedge"):
        channel = stack.open(servers.target, service_config=config(policy))
        rpc = stack.begin(channel, kind, request, metadata=(("k\x00", "v"),))
        end = rpc.end()
        assert (end.code, end.details) == (grpc.StatusCode.INTERNAL, "Invalid metadata")


def test_metadata_from_an_iterator_reach_every_attempt(stack: Stack, servers: Scripted) -> None:
    unavailable = {"code": grpc.StatusCode.UNAVAILABLE}
    metadata = servers.script(stack.name, unavailable, unavailable)
    channel = stack.open(servers.target, service_config=config("retry"))
    end = stack.begin(channel, "unary_unary", b"x", metadata=iter(metadata)).end()
    assert end.code is grpc.StatusCode.OK
    assert len(servers.attempts_of(stack.name)) == 3


TIMEOUTS = (-1, -math.inf, math.nan, 1e9, 1e10, 1e19, 1e300, math.inf, 2**63)


@pytest.mark.parametrize("policy", ["none", "retry"])
def test_timeouts_beyond_reason(policy: str, stack: Stack, servers: Scripted) -> None:
    """As in grpcio, where what overflows has passed; and nothing hangs or raises something else."""
    plain = stack.open(servers.target, plain=True)
    for timeout in TIMEOUTS:
        cold = stack.open(servers.target, service_config=config(policy))
        codes = [
            stack.begin(channel, "unary_unary", b"x", timeout=timeout).end().code
            for channel in (plain, cold, cold)
        ]
        assert len(set(codes)) == 1, (timeout, codes)
        stack.close(cold)


@pytest.mark.parametrize("timeout", [1e10, math.inf, math.nan, -1])
@pytest.mark.parametrize("policy", ["none", "retry"])
def test_a_blocking_rpc_that_waits_with_such_a_timeout(
    policy: str, timeout: float, servers: Scripted
) -> None:
    resolver = ManualResolver()
    with grpclb.insecure_channel("x", resolver=resolver, service_config=config(policy)) as channel:
        call: Any = channel.unary_unary("/s/unary_unary")
        if timeout > 0:  # it would wait until then
            threading.Timer(0.1, resolver.update, (servers.addresses,)).start()
        with pytest.raises(grpc.RpcError) as caught:
            call(b"x", timeout=timeout)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
