"""What grpclb relies on in grpcio beyond its documentation. A new grpcio that fails here needs a
change in `grpclb/sync/_grpcio.py`, `grpclb/control/failures.py` or where the test says.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

import grpclb
from grpclb.aio.call import known
from grpclb.aio.subchannel import AioTransport
from grpclb.control.failures import connection_error, never_left
from grpclb.control.subchannel import Connection
from grpclb.core.address import Address
from grpclb.core.connectivity import IDLE, READY, TRANSIENT_FAILURE, ConnectivityState
from grpclb.sync import _grpcio
from grpclb.sync._grpcio import READY_NUMBER, STATES, open_channel, state_reader
from grpclb.testing import FakeClock, ManualResolver

UNARY = "/test.Contract/Unary"
STREAM = "/test.Contract/Stream"
ABORT = "/test.Contract/Abort"
KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


class _Handler(grpc.GenericRpcHandler):
    def service(self, details: Any) -> Any:
        def abort(request: bytes, context: grpc.ServicerContext) -> bytes:
            context.abort(grpc.StatusCode.UNAVAILABLE, request.decode())
            raise AssertionError

        if details.method == UNARY:
            return grpc.unary_unary_rpc_method_handler(lambda request, _: request)
        if details.method == STREAM:
            return grpc.unary_stream_rpc_method_handler(lambda request, _: iter([request] * 2))
        return grpc.unary_unary_rpc_method_handler(abort)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server."""
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, handlers=[_Handler()])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


@pytest.fixture
def refusing() -> Iterator[str]:
    """An address where nobody listens, and nobody else can."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{deaf.getsockname()[1]}"


def method(channel: Any, path: str, kind: str = "unary_unary") -> Any:
    """A multicallable for bytes."""
    return getattr(channel, kind)(path)


def eventually(look: Callable[[], object], what: str) -> None:
    end = time.monotonic() + 10
    while not look():
        assert time.monotonic() < end, what
        time.sleep(0.002)


def reads(read: Callable[[bool], int], state: ConnectivityState) -> None:
    eventually(lambda: STATES[read(False)] is state, f"{state.name} was not seen")


# -- the state of a sync channel -------------------------------------------------------------------


def test_the_numbers_of_the_states() -> None:
    assert {number: state.name for number, state in STATES.items()} == {
        0: "IDLE",
        1: "CONNECTING",
        2: "READY",
        3: "TRANSIENT_FAILURE",
        4: "SHUTDOWN",
    }
    assert STATES[READY_NUMBER] is READY


def test_the_private_read_of_a_state_is_there() -> None:
    """Without it each sync subchannel costs a thread: say so in the release notes."""
    with grpc.insecure_channel("127.0.0.1:1") as channel:
        read = state_reader(channel)
        assert not isinstance(read, _grpcio._SubscribedState)
        assert type(read(False)) is int


def readers() -> Any:
    kinds = [state_reader, _grpcio._SubscribedState]
    return pytest.mark.parametrize("reader", kinds, ids=["private", "subscribed"])


@readers()
def test_a_reader_follows_the_state(reader: Any, server: str) -> None:
    with open_channel(f"ipv4:{server}", None, (), None) as channel:
        read = reader(channel)
        assert STATES[read(False)] is IDLE
        time.sleep(0.02)
        assert STATES[read(False)] is IDLE  # looking does not connect
        read(True)
        reads(read, READY)


@readers()
def test_a_reader_sees_a_failure(reader: Any, refusing: str) -> None:
    with open_channel(f"ipv4:{refusing}", None, (), None) as channel:
        read = reader(channel)
        read(True)
        reads(read, TRANSIENT_FAILURE)


def test_reading_a_closed_channel_raises_value_error() -> None:
    """`SyncTransport.ready` takes it for "not ready"."""
    channel = open_channel("ipv4:127.0.0.1:1", None, (), None)
    read = state_reader(channel)
    channel.close()
    with pytest.raises(ValueError, match="closed"):
        read(False)


def test_without_the_private_call_subscribe_is_used() -> None:
    class Future:
        """The channel of a grpcio that has no `_channel`."""

        def __init__(self) -> None:
            self.subscribed: list[Any] = []

        def subscribe(self, callback: Any, try_to_connect: Any = False) -> None:
            self.subscribed.append((callback, try_to_connect))

        def unsubscribe(self, callback: Any) -> None:
            self.subscribed = [s for s in self.subscribed if s[0] != callback]

    channel = Future()
    read = state_reader(channel)  # type: ignore[arg-type]
    assert STATES[read(False)] is IDLE
    assert [connects for _, connects in channel.subscribed] == [False]
    read(True)
    assert [connects for _, connects in channel.subscribed] == [True]
    channel.subscribed[0][0](READY)
    assert STATES[read(False)] is READY


def test_a_channel_works_by_subscription_alone(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grpclb.sync.subchannel.state_reader", _grpcio._SubscribedState)
    with grpclb.insecure_channel("x:///y", resolver=ManualResolver([server])) as channel:
        call = method(channel, UNARY)
        assert [call(b"x", timeout=10) for _ in range(3)] == [b"x"] * 3
        assert channel.debug_snapshot()["subchannels"][0]["state"] == "READY"


# -- factories that tracing libraries have wrapped -------------------------------------------------


def wrapped(factory: Any, seen: list[str]) -> Any:
    @functools.wraps(factory)
    def traced(*args: Any, **kwargs: Any) -> Any:
        seen.append(factory.__name__)
        return factory(*args, **kwargs)

    return traced


@pytest.mark.parametrize("credentials", [None, grpc.ssl_channel_credentials()])
def test_wrapped_factories_are_unwrapped(credentials: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    for name in ("insecure_channel", "secure_channel"):
        monkeypatch.setattr(grpc, name, wrapped(wrapped(getattr(grpc, name), seen), seen))
    open_channel("ipv4:127.0.0.1:1", credentials, (), None).close()
    assert seen == []


@pytest.mark.parametrize("credentials", [None, grpc.ssl_channel_credentials()])
async def test_wrapped_aio_factories_are_unwrapped(
    credentials: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    for name in ("insecure_channel", "secure_channel"):
        monkeypatch.setattr(grpc.aio, name, wrapped(getattr(grpc.aio, name), seen))
    connection = Connection(Address.ip("127.0.0.1", 1), None, FakeClock())
    transport = AioTransport(connection, credentials, (), None, asyncio.ensure_future)
    await transport._open().close()
    assert seen == []


# -- what an RPC on a failed channel says ----------------------------------------------------------

ROUND_ROBIN = ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}')


@pytest.mark.parametrize("options", [(), (ROUND_ROBIN,)], ids=["pick_first", "round_robin"])
def test_an_rpc_that_never_left_says_so_and_why(options: Any, refusing: str) -> None:
    uri = f"ipv4:{refusing}"
    with open_channel(uri, None, options, None) as channel:
        state_reader(channel)(True)
        reads(state_reader(channel), TRANSIENT_FAILURE)
        with pytest.raises(grpc.RpcError) as raised:
            method(channel, UNARY)(b"", timeout=5)
        code, details = raised.value.code(), raised.value.details()
        assert never_left(code, details), details
        reason = connection_error(code, details, uri)
        assert reason is not None
        assert reason.endswith("Connection refused")
        assert "ipv4:" not in reason


@pytest.mark.parametrize("options", [(), (ROUND_ROBIN,)], ids=["pick_first", "round_robin"])
async def test_an_aio_rpc_that_never_left_says_so_and_why(options: Any, refusing: str) -> None:
    uri = f"ipv4:{refusing}"
    async with grpc.aio.insecure_channel(uri, options) as channel:
        state = channel.get_state(try_to_connect=True)
        while state is not TRANSIENT_FAILURE:
            await channel.wait_for_state_change(state)
            state = channel.get_state()
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await method(channel, UNARY)(b"", timeout=5)
        code, details = raised.value.code(), raised.value.details()
        assert never_left(code, details), details
        reason = connection_error(code, details, uri)
        assert reason is not None
        assert reason.endswith("Connection refused")


def test_an_rpc_that_a_server_refused_did_leave(server: str) -> None:
    with open_channel(f"ipv4:{server}", None, (), None) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            method(channel, ABORT)(b"no room", timeout=5)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert not never_left(raised.value.code(), raised.value.details())


# -- calls -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_private_keyword_of_generated_stubs(kind: str) -> None:
    with grpc.insecure_channel("127.0.0.1:1") as channel:
        made = getattr(channel, kind)("/a.B/C", None, None, _registered_method=True)
        names = list(inspect.signature(made).parameters)
    # `_blocking` and `ClientCall` pass them by place.
    assert names[0] in ("request", "request_iterator")
    assert names[1:6] == ["timeout", "metadata", "credentials", "wait_for_ready", "compression"]


@pytest.mark.parametrize("kind", KINDS)
async def test_the_private_keyword_of_generated_stubs_in_aio(kind: str) -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        made = getattr(channel, kind)("/a.B/C", None, None, _registered_method=True)
        names = list(inspect.signature(made).parameters)
    assert names[0] in ("request", "request_iterator")
    assert {"timeout", "metadata", "credentials", "compression"} <= set(names)


def test_a_callback_on_an_ended_sync_call_is_refused(server: str) -> None:
    """`ClientCall._send` counts the end itself when `add_callback` returns False."""
    with grpc.insecure_channel(server) as channel:
        future = method(channel, UNARY).future(b"x", timeout=5)
        assert future.result() == b"x"
        eventually(lambda: not future.add_callback(lambda: None), "the callback was accepted")
        stream = method(channel, STREAM, "unary_stream")(b"x", timeout=5)
        assert list(stream) == [b"x", b"x"]
        eventually(lambda: not stream.add_callback(lambda: None), "the callback was accepted")


def test_a_callback_of_a_sync_call_runs_once_and_knows_the_end(server: str) -> None:
    ended = threading.Event()
    seen: list[object] = []
    with grpc.insecure_channel(server) as channel:
        call = method(channel, ABORT).future(b"no room", timeout=5)

        def end() -> None:
            seen.append((call.done(), call.code(), call.details()))
            ended.set()

        if not call.add_callback(end):
            end()
        assert ended.wait(5)
        assert call.exception() is call
    assert seen == [(True, grpc.StatusCode.UNAVAILABLE, "no room")]


@pytest.mark.parametrize(("path", "code"), [(UNARY, "OK"), (ABORT, "UNAVAILABLE")])
@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
async def test_a_finished_aio_call_answers_without_a_turn_of_the_loop(
    path: str, code: str, kind: str, server: str
) -> None:
    """`aio.call._ended` asks in a done callback, which cannot await."""
    seen: list[object] = []
    done = asyncio.Event()

    def ended(call: Any) -> None:
        seen.append((known(call.code()).name, known(call.details())))
        seen.append(list(known(call.trailing_metadata())))
        done.set()

    async with grpc.aio.insecure_channel(server) as channel:
        path = STREAM if (kind, path) == ("unary_stream", UNARY) else path
        call = method(channel, path, kind)(b"why", timeout=5)
        call.add_done_callback(ended)
        try:
            if kind == "unary_unary":
                await call
            else:
                async for _ in call:
                    pass
        except grpc.aio.AioRpcError:
            pass
        await asyncio.wait_for(done.wait(), 5)
    assert seen == [(code, "" if code == "OK" else "why"), []]


async def test_an_aio_call_that_runs_does_not_answer_yet(refusing: str) -> None:
    async with grpc.aio.insecure_channel(refusing) as channel:
        call = method(channel, UNARY)(b"", timeout=5, wait_for_ready=True)
        with pytest.raises(RuntimeError, match="was not at hand"):
            known(call.code())
        call.cancel()
        assert known(call.code()) is grpc.StatusCode.CANCELLED


async def test_a_cancelled_aio_call_tells_its_done_callbacks(refusing: str) -> None:
    """`transport.inflight` must go down again."""
    seen: list[str] = []
    async with grpc.aio.insecure_channel(refusing) as channel:
        call = method(channel, UNARY)(b"", timeout=5, wait_for_ready=True)
        call.add_done_callback(lambda call: seen.append(known(call.code()).name))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.sleep(0)
    assert seen == ["CANCELLED"]


async def test_a_new_aio_channel_is_idle_and_its_state_can_be_waited_for(server: str) -> None:
    async with grpc.aio.insecure_channel(server) as channel:
        assert channel.get_state() is IDLE
        channel.get_state(try_to_connect=True)
        async with asyncio.timeout(10):
            state = IDLE
            while state is not READY:
                await channel.wait_for_state_change(state)
                state = channel.get_state()


def test_a_channel_to_nonsense_fails_and_does_not_raise() -> None:
    """Should an address slip through that C-core cannot dial."""
    with open_channel("ipv4:nonsense", None, (), None) as channel:
        state_reader(channel)(True)
        with pytest.raises(grpc.RpcError):
            method(channel, UNARY)(b"", timeout=5)
