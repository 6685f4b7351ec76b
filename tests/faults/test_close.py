"""close() in every state gives everything back: FIGURES F46, F47; promises P6 and P7.

Threads, descriptors and memory over a hundred channels: integration/test_process_life.py.

That no thread, descriptor or task is left, autouse fixtures check after every test.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections import Counter
from typing import Any

import grpc
import pytest

import grpclb
from grpclb.testing import ManualResolver
from tests.faults.harness import (
    ECHO,
    AioClient,
    Connect,
    established,
    eventually,
    failures,
    target_of,
    wait_ready,
)
from tests.faults.test_outage import silent_listener
from tests.support.backend import Backend, steer

pytestmark = pytest.mark.slow

BOUND = 2.0  # seconds, P6


def test_close_before_the_first_rpc(connect: Connect, fleet: list[Backend]) -> None:
    client = connect(target_of(fleet))
    assert client.close() < BOUND
    assert client.close() < BOUND


def test_close_while_resolving(connect: Connect) -> None:
    client = connect("manual:///api", resolver=ManualResolver())
    waiting = [client.start(wait_for_ready=True) for _ in range(5)]
    assert client.close() < BOUND
    assert {call.result().code.name for call in waiting} == {"CANCELLED"}


def test_close_while_connecting(connect: Connect) -> None:
    with silent_listener() as (silent, _):
        client = connect(f"ipv4:{silent}")
        waiting = [client.start() for _ in range(5)]
        eventually(lambda: established([int(silent.rpartition(":")[2])]) == 1, what="connecting")
        assert client.close() < BOUND
        assert {call.result().code.name for call in waiting} == {"CANCELLED"}


def test_close_in_mid_call(connect: Connect, fleet: list[Backend]) -> None:
    client = connect(target_of(fleet))
    wait_ready(client, 4)
    calls = [client.start(metadata=steer(delay_ms=3_000)) for _ in range(5)]
    stream = client.stream(metadata=steer(responses=100, gap_ms=100))
    assert stream.read() == b"x"
    assert client.close() < BOUND
    assert {call.result().code.name for call in [*calls, stream]} == {"CANCELLED"}


def test_close_in_the_middle_of_a_load(connect: Connect, fleet: list[Backend]) -> None:
    client = connect(target_of(fleet))
    workers = 8
    calls = [client.start(metadata=steer(delay_ms=50)) for _ in range(workers)]
    assert client.close() < BOUND
    assert {c.result().code.name for c in calls} <= {"OK", "CANCELLED"}


def test_rpcs_after_close_are_refused(connect: Connect, fleet: list[Backend]) -> None:
    client = connect(target_of(fleet))
    assert client.call().ok
    client.close()
    error = ValueError if connect.stack == "sync" else grpc.aio.UsageError
    with pytest.raises(error, match="closed"):
        client.call()


def test_close_from_many_threads_at_once(connect_sync: Connect, fleet: list[Backend]) -> None:
    client = connect_sync(target_of(fleet))
    wait_ready(client, 4)
    waiting = client.start(metadata=steer(delay_ms=3_000))
    threads = [threading.Thread(target=client.close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    assert not any(thread.is_alive() for thread in threads)
    assert waiting.result().code.name == "CANCELLED"


def test_close_from_many_tasks_at_once(connect_aio: Connect, fleet: list[Backend]) -> None:
    client = connect_aio(target_of(fleet))
    wait_ready(client, 4)

    async def close_four_times() -> None:
        await asyncio.gather(*(client.channel.close() for _ in range(4)))

    connect_aio.loop.run(close_four_times(), BOUND)


@pytest.mark.parametrize("delay_ms", [0, 50])
def test_close_from_the_callback_of_an_rpc(
    connect: Connect, fleet: list[Backend], delay_ms: int
) -> None:
    client = connect(target_of(fleet))
    assert client.call().ok
    closed = threading.Event()

    def close_it(channel: Any) -> Any:
        if connect.stack == "sync":
            call = channel.unary_unary(ECHO).future(b"x", metadata=steer(delay_ms=delay_ms))

            def close(_: Any) -> None:
                channel.close()
                closed.set()
        else:
            call = channel.unary_unary(ECHO)(b"x", metadata=steer(delay_ms=delay_ms))
            tasks: list[Any] = []

            def close(_: Any) -> None:
                tasks.append(asyncio.get_running_loop().create_task(channel.close()))
                tasks[0].add_done_callback(lambda _: closed.set())

        call.add_done_callback(close)
        return call

    call = client.on_channel(close_it)  # held: an aio call that nobody holds is cancelled
    assert closed.wait(BOUND)
    del call


def test_close_from_a_connectivity_callback(connect_sync: Connect, fleet: list[Backend]) -> None:
    channel = connect_sync(target_of(fleet)).channel
    closed = threading.Event()

    def on_state(state: grpc.ChannelConnectivity) -> None:
        if state is grpc.ChannelConnectivity.READY:
            channel.close()
            closed.set()

    channel.subscribe(on_state, try_to_connect=True)
    assert closed.wait(5)


def test_close_from_a_resolver(connect_sync: Connect, fleet: list[Backend]) -> None:
    """The control loop's own thread closes the channel."""
    closed = threading.Event()
    address = fleet[0].address

    class Closing(ManualResolver):
        async def run(self, update: Any) -> None:
            update(grpclb.ResolverState.of([address]))
            channel.close()
            closed.set()

    channel = connect_sync("manual:///api", resolver=Closing()).channel
    channel.subscribe(lambda state: None, try_to_connect=True)
    assert closed.wait(5)


def test_a_dropped_channel_gives_everything_back(connect: Connect, fleet: list[Backend]) -> None:
    client = connect(target_of(fleet))
    wait_ready(client, 4)
    assert established(fleet) == 4
    connect.forget(client)
    del client
    gc.collect()
    eventually(lambda: established(fleet) == 0, 3, "connections of a dropped channel closed")


def test_a_dropped_channel_in_a_cycle_gives_everything_back(
    connect: Connect, fleet: list[Backend]
) -> None:
    class Owner:
        def __init__(self, client: Any) -> None:
            self.client = client
            self.me = self

        def __del__(self) -> None:
            if connect.stack == "sync":
                self.client.channel.close()

    for _ in range(20):  # the finalizer and close() race for the control loop's last turn
        client = connect(target_of(fleet[:1]))
        connect.forget(client)
        assert client.call().ok
        owner = Owner(client)
        del client, owner
        gc.collect()
    eventually(lambda: established(fleet) == 0, 3, "collected")


def test_aio_close_gives_running_rpcs_their_grace(
    connect_aio: Connect, fleet: list[Backend]
) -> None:
    client = connect_aio(target_of(fleet))
    assert isinstance(client, AioClient)
    wait_ready(client, 4)
    short = client.start(metadata=steer(delay_ms=200))
    long = client.start(metadata=steer(delay_ms=10_000))
    connect_aio.loop.run(client.channel.close(1.0), 1.0 + BOUND)
    assert (short.result().ok, long.result().code.name) == (True, "CANCELLED")


# -- F46 -----------------------------------------------------------------------------------------


def ours() -> Counter[str]:
    gc.collect()
    kinds = (type(x) for x in gc.get_objects())
    return Counter(
        k.__qualname__ for k in kinds if str(k.__module__).startswith(("grpclb.", "grpc."))
    )


def test_channels_come_and_go_without_a_trace(connect: Connect, fleet: list[Backend]) -> None:
    """The same number of every object of ours and of grpcio's before and after."""

    def once() -> None:
        client = connect(target_of(fleet))
        assert failures(client.calls(8, workers=4)) == []
        assert all(client.stream().read() == b"x" for _ in range(2))
        client.close()
        connect.forget(client)

    for _ in range(2):
        once()
    eventually(lambda: established(fleet) == 0, what="warm-up closed")
    before = ours()
    for _ in range(10):
        once()
    eventually(lambda: ours() - before == Counter(), 3, "no object of ours is left")
    eventually(lambda: established(fleet) == 0, what="all connections closed")
