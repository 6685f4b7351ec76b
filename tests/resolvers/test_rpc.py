"""Control-plane RPCs over grpcio's sync stack, from an asyncio loop.

Forks and exits are in integration/test_control_rpcs.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from grpclb.resolvers.rpc import ControlChannel, RpcFailed

pytestmark = pytest.mark.slow


class Echo(grpc.GenericRpcHandler):
    """A server of bytes; what it does is in the method's name."""

    def __init__(self) -> None:
        self.sent = 0
        self.release = threading.Event()
        self.entered = threading.Event()
        self.cancelled = threading.Event()
        self.metadata: list[tuple[str, str]] = []

    def service(self, details: Any) -> grpc.RpcMethodHandler | None:
        name = details.method.rpartition("/")[2]
        self.metadata = list(details.invocation_metadata)
        if name.startswith("unary"):
            return grpc.unary_unary_rpc_method_handler(getattr(self, name))
        return grpc.stream_stream_rpc_method_handler(getattr(self, name))

    def unary_echo(self, request: bytes, context: Any) -> bytes:
        return request

    def unary_fail(self, request: bytes, context: Any) -> None:
        context.abort(StatusCode.PERMISSION_DENIED, "etcdserver: permission denied")

    def unary_wait(self, request: bytes, context: Any) -> bytes:
        context.add_callback(self.cancelled.set)
        self.entered.set()
        self.release.wait(20)
        return b""

    def stream_echo(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        context.add_callback(self.cancelled.set)
        self.entered.set()
        yield from requests

    def stream_count(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """As many messages of 64 KB as the first request says."""
        for _ in range(int(next(requests))):
            self.sent += 1
            yield b"x" * 65_536

    def stream_fail(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        yield next(requests)
        context.abort(StatusCode.OUT_OF_RANGE, "compacted")

    def stream_silent(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        context.add_callback(self.cancelled.set)
        self.entered.set()
        self.release.wait(20)
        yield b""


@contextlib.contextmanager
def serving(echo: Echo, port: int = 0) -> Iterator[tuple[grpc.Server, str]]:
    server = grpc.server(
        futures.ThreadPoolExecutor(32), handlers=[echo], options=[("grpc.so_reuseport", 0)]
    )
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield server, f"127.0.0.1:{port}"
    finally:
        echo.release.set()
        server.stop(0).wait(5)


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def target(echo: Echo) -> Iterator[str]:
    with serving(echo) as (_, target):
        yield target


@pytest.fixture
async def channel(target: str) -> AsyncIterator[ControlChannel]:
    async with ControlChannel(target) as channel:
        yield channel


async def until(condition: Callable[[], bool], what: str, patience: float = 10.0) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, f"not within {patience} s: {what}"
        await asyncio.sleep(0.005)


# ---- unary calls


async def test_a_call_answers(channel: ControlChannel, echo: Echo) -> None:
    assert (
        await channel.unary("/s/unary_echo", b"abc", timeout=5, metadata=[("token", "t")]) == b"abc"
    )
    assert ("token", "t") in echo.metadata
    answers = await asyncio.gather(
        *(channel.unary("/s/unary_echo", b"%d" % n, timeout=10) for n in range(50))
    )
    assert answers == [b"%d" % n for n in range(50)]


async def test_a_call_fails_with_the_servers_status(channel: ControlChannel) -> None:
    with pytest.raises(RpcFailed) as caught:
        await channel.unary("/s/unary_fail", b"", timeout=5)
    assert caught.value.code is StatusCode.PERMISSION_DENIED
    assert caught.value.details == "etcdserver: permission denied"
    assert not caught.value.interrupted


async def test_a_call_ends_at_its_timeout(channel: ControlChannel) -> None:
    with pytest.raises(RpcFailed) as caught:
        await channel.unary("/s/unary_wait", b"", timeout=0.05)
    assert caught.value.code is StatusCode.DEADLINE_EXCEEDED


async def test_a_cancelled_call_is_cancelled_at_the_server(
    channel: ControlChannel, echo: Echo
) -> None:
    task = asyncio.create_task(channel.unary("/s/unary_wait", b"", timeout=20))
    await until(echo.entered.is_set, "the call arrives")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(echo.cancelled.is_set, "the server sees the cancellation")


async def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        target = f"127.0.0.1:{taken.getsockname()[1]}"
        async with ControlChannel(target) as channel:
            with pytest.raises(RpcFailed) as caught:
                await channel.unary("/s/unary_echo", b"", timeout=10)
            assert caught.value.code is StatusCode.UNAVAILABLE
            assert "refused" in caught.value.details
            with pytest.raises(RpcFailed):
                async with channel.stream("/s/stream_echo") as stream:
                    await anext(stream)


async def test_a_proxy_in_the_environment_is_passed_by(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    async with ControlChannel(target) as channel:
        assert await channel.unary("/s/unary_echo", b"a", timeout=5) == b"a"


async def test_tracing_does_not_see_it(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import functools

    @functools.wraps(grpc.insecure_channel)
    def traced(*args: Any) -> None:
        raise AssertionError("made through the wrapper")

    monkeypatch.setattr(grpc, "insecure_channel", traced)
    async with ControlChannel(target) as channel:
        assert await channel.unary("/s/unary_echo", b"a", timeout=5) == b"a"


# ---- streams


async def test_messages_go_both_ways_in_order(channel: ControlChannel) -> None:
    async with channel.stream("/s/stream_echo") as stream:
        for number in range(100):
            await stream.send(b"%d" % number)
        stream.half_close()
        assert [m async for m in stream] == [b"%d" % number for number in range(100)]
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        with pytest.raises(RpcFailed):
            await stream.send(b"late")


async def test_a_stream_ends_with_the_servers_status(channel: ControlChannel) -> None:
    async with channel.stream("/s/stream_fail") as stream:
        await stream.send(b"one")
        assert await anext(stream) == b"one"
        for _ in range(2):
            with pytest.raises(RpcFailed) as caught:
                await anext(stream)
            assert caught.value.code is StatusCode.OUT_OF_RANGE
            assert caught.value.details == "compacted"
        with pytest.raises(RpcFailed):
            await stream.send(b"late")


async def test_a_message_is_sent_when_a_connection_has_taken_it(
    channel: ControlChannel, echo: Echo
) -> None:
    sent: list[int] = []
    async with channel.stream("/s/stream_silent", on_sent=lambda: sent.append(1)) as stream:
        for _ in range(3):
            await stream.send(b"x")
        await until(lambda: len(sent) == 3, "all messages are sent")
    # A peer that accepts, and then says nothing: TCP is there, but no connection of HTTP/2.
    with socket.create_server(("127.0.0.1", 0)) as mute:
        options = [("grpc.min_reconnect_backoff_ms", 300)]
        target = f"127.0.0.1:{mute.getsockname()[1]}"
        async with ControlChannel(target, options=options) as lost:
            never: list[int] = []
            async with lost.stream("/s/m", on_sent=lambda: never.append(1)) as stream:
                await stream.send(b"x")
                with pytest.raises(RpcFailed):
                    await anext(stream)
            assert not never


async def test_leaving_a_stream_cancels_it(channel: ControlChannel, echo: Echo) -> None:
    async with channel.stream("/s/stream_silent"):
        await until(echo.entered.is_set, "the stream arrives")
    await until(echo.cancelled.is_set, "the server sees the cancellation")


async def test_a_cancelled_reader_leaves_nothing(channel: ControlChannel, echo: Echo) -> None:
    async def read() -> None:
        async with channel.stream("/s/stream_silent") as stream:
            await anext(stream)

    task = asyncio.create_task(read())
    await until(echo.entered.is_set, "the stream arrives")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(echo.cancelled.is_set, "the server sees the cancellation")


async def test_a_slow_consumer_holds_up_the_server(channel: ControlChannel, echo: Echo) -> None:
    async with channel.stream("/s/stream_count", read_ahead=4) as stream:
        await stream.send(b"1000")
        await anext(stream)
        seen = -1
        while echo.sent != seen:  # until the server stands still
            seen = echo.sent
            await asyncio.sleep(0.3)
        assert seen < 800  # 4 here, the rest in the buffers of HTTP/2 and the kernel
        assert len(stream._inbox) <= 4
        count = 1
        async for _ in stream:
            count += 1
        assert count == 1000


async def test_a_server_that_reads_nothing_does_not_fill_our_memory(
    channel: ControlChannel,
) -> None:
    async with channel.stream("/s/stream_silent") as stream:

        async def flood() -> None:
            for _ in range(2_000):
                await stream.send(b"x" * 10_000)

        with pytest.raises(RpcFailed) as caught:
            await flood()
        assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED


async def test_a_server_dies_and_another_one_comes(echo: Echo) -> None:
    with serving(echo) as (server, target):
        port = int(target.rpartition(":")[2])
        async with ControlChannel(target) as channel:
            async with channel.stream("/s/stream_echo") as stream:
                await stream.send(b"a")
                assert await anext(stream) == b"a"
                server.stop(0).wait(5)
                with pytest.raises(RpcFailed) as caught:
                    await anext(stream)
                assert caught.value.code in (StatusCode.UNAVAILABLE, StatusCode.CANCELLED)
            with serving(Echo(), port):
                end = time.monotonic() + 15
                while True:
                    try:
                        assert await channel.unary("/s/unary_echo", b"b", timeout=5) == b"b"
                        break
                    except RpcFailed:
                        assert time.monotonic() < end
                        await asyncio.sleep(0.1)


# ---- close


async def test_close_ends_what_is_under_way(channel: ControlChannel, echo: Echo) -> None:
    unary = asyncio.create_task(channel.unary("/s/unary_wait", b"", timeout=20))
    async with channel.stream("/s/stream_echo") as stream:
        await stream.send(b"a")
        assert await anext(stream) == b"a"
        await channel.close()
        for pending in (unary, anext(stream)):
            with pytest.raises(RpcFailed) as caught:
                await pending
            assert caught.value.code is StatusCode.CANCELLED
    await channel.close()
    with pytest.raises(RpcFailed, match="the channel is closed"):
        await channel.unary("/s/unary_echo", b"", timeout=1)


async def test_close_while_it_connects() -> None:
    with socket.socket() as listener:  # accepts into its backlog, and never speaks
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        target = f"127.0.0.1:{listener.getsockname()[1]}"
        channel = ControlChannel(target)
        task = asyncio.create_task(channel.unary("/s/unary_echo", b"", timeout=30))
        await asyncio.sleep(0.05)
        await channel.close()
        with pytest.raises(RpcFailed):
            await task


async def test_everything_is_given_back(target: str) -> None:
    def resources() -> tuple[int, int]:
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    async def round_trip() -> None:
        async with ControlChannel(target) as channel, channel.stream("/s/stream_echo") as stream:
            await stream.send(b"a")
            assert await anext(stream) == b"a"
            assert await channel.unary("/s/unary_echo", b"b", timeout=5) == b"b"

    await asyncio.gather(*(round_trip() for _ in range(8)))  # the server's threads are there
    await asyncio.sleep(0.2)
    before = resources()
    for _ in range(5):
        await asyncio.gather(*(round_trip() for _ in range(4)))
    await until(lambda: resources() <= before, f"{resources()} comes down to {before}")
