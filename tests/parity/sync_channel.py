"""The sync channel itself: its end, connectivity, and how it is made."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.parity.harness import KINDS, WRONG_TYPE, World, row, stub
from tests.parity.observe import attempt, report, show, view
from tests.support.backend import steer

SLOW = steer(delay_ms=300)
REPORT = steer(report=True)
STATES = "how many states a subscriber is shown on the way depends on polling"


def _told(channel: grpc.Channel, **arguments: Any) -> Any:
    """The backend's report on one call, or the error."""
    outcome = attempt(stub(channel, "uu"), b"x", metadata=REPORT, timeout=10, **arguments)
    if "raised" in outcome:
        return outcome
    return report(stub(channel, "uu")(b"x", metadata=REPORT, timeout=10, **arguments))


def _requests(kind: str) -> Any:
    return iter([b"x"]) if kind[0] == "s" else b"x"


@row("sync: every kind of call on a closed channel")
def _(world: World) -> Any:
    channel = world.channel()
    callables = {kind: stub(channel, kind) for kind in KINDS}
    channel.close()
    late = {k: attempt(lambda k=k: stub(channel, k)(_requests(k))) for k in KINDS}
    futures = {k: attempt(callables[k].future, _requests(k)) for k in ("uu", "su")}
    with_call = {k: attempt(callables[k].with_call, _requests(k)) for k in ("uu", "su")}
    early = {k: attempt(callables[k], _requests(k), timeout=5) for k in KINDS}
    return [early, late, futures, with_call]


@row("sync: closing twice, and leaving a context after closing")
def _(world: World) -> Any:
    with world.channel() as channel:
        return [attempt(channel.close), attempt(channel.close)]


@row("sync: a channel is its own context")
def _(world: World) -> Any:
    channel = world.channel()
    with channel as entered:
        same = entered is channel
        alive = attempt(stub(channel, "uu"), b"x", timeout=10)
    return [same, alive, attempt(stub(channel, "uu"), b"x", timeout=10)]


@row("sync: an exception in the context passes, and the channel is closed")
def _(world: World) -> Any:
    channel = world.channel()

    def fail() -> None:
        with channel:
            raise KeyError("asked for by the test")

    return [attempt(fail), attempt(stub(channel, "uu"), b"x", timeout=10)]


@row("sync uu: close with a future in flight")
def _(world: World) -> Any:
    channel = world.channel()
    call = stub(channel, "uu").future(b"x", metadata=steer(delay_ms=500), timeout=10)
    time.sleep(0.05)
    channel.close()
    return [attempt(call.result, 5), view(call)]


@row("sync uu: close while a thread is in a call")
def _(world: World) -> Any:
    channel = world.channel()
    got: list[Any] = []
    call = stub(channel, "uu")
    thread = threading.Thread(
        target=lambda: got.append(attempt(call, b"x", metadata=steer(delay_ms=500), timeout=10))
    )
    thread.start()
    time.sleep(0.1)
    channel.close()
    thread.join(5)
    return got


@row("sync us: close in the middle of a stream")
def _(world: World) -> Any:
    channel = world.channel()
    call = stub(channel, "us")(b"x", metadata=steer(responses=50, gap_ms=100), timeout=10)
    first = attempt(next, call)
    channel.close()
    return [first, attempt(lambda: [*call] and None), view(call)]


@row("sync su: close while requests are awaited")
def _(world: World) -> Any:
    release = threading.Event()

    def requests() -> Iterator[bytes]:
        yield b"1"
        release.wait(5)

    channel = world.channel()
    call = stub(channel, "su").future(requests(), timeout=10)
    both = stub(channel, "ss")(requests(), timeout=10)
    first = attempt(next, both)
    channel.close()
    seen = [attempt(call.result, 5), first, attempt(next, both), view(call), view(both)]
    release.set()
    return seen


@row("sync uu: close while a call waits for a connection")
def _(world: World) -> Any:
    channel = world.channel("unreachable")
    call = stub(channel, "uu").future(b"x", wait_for_ready=True, timeout=10)
    time.sleep(0.05)
    channel.close()
    return [attempt(call.result, 5), view(call)]


@row("sync: subscribe and connect")
def _(world: World) -> Any:
    states: list[Any] = []
    ready = threading.Event()

    def on_state(state: grpc.ChannelConnectivity) -> None:
        states.append(state.name)
        if state is grpc.ChannelConnectivity.READY:
            ready.set()

    with world.channel() as channel:
        channel.subscribe(on_state, try_to_connect=True)
        arrived = ready.wait(5)
        channel.unsubscribe(on_state)
    return [arrived, states[0], states[-1]]


@row("sync: subscribe and stay idle")
def _(world: World) -> Any:
    states: list[str] = []
    with world.channel() as channel:
        channel.subscribe(lambda state: states.append(state.name))
        time.sleep(0.1)
        return states


@row("sync: subscribe to the unreachable")
def _(world: World) -> Any:
    failed = threading.Event()

    def on_state(state: grpc.ChannelConnectivity) -> None:
        if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            failed.set()

    with world.channel("unreachable") as channel:
        channel.subscribe(on_state, try_to_connect=True)
        return failed.wait(5)


@row("sync: a subscriber that raises, and one that comes late")
def _(world: World) -> Any:
    late: list[str] = []

    def fail(_: object) -> None:
        raise ValueError("asked for by the test")

    def on_state(state: grpc.ChannelConnectivity) -> None:
        late.append(state.name)
        arrived.set()

    with world.channel() as channel:
        channel.subscribe(fail, try_to_connect=True)
        grpc.channel_ready_future(channel).result(5)
        arrived = threading.Event()
        channel.subscribe(on_state)
        return [arrived.wait(5), late[0]]


@row("sync: unsubscribe what was never subscribed")
def _(world: World) -> Any:
    with world.channel() as channel:
        return attempt(channel.unsubscribe, print)


@row("sync: nothing is delivered after unsubscribe")
def _(world: World) -> Any:
    states: list[str] = []

    def on_state(state: grpc.ChannelConnectivity) -> None:
        states.append(state.name)

    with world.channel() as channel:
        channel.subscribe(on_state)
        time.sleep(0.05)
        channel.unsubscribe(on_state)
        before = len(states)
        grpc.channel_ready_future(channel).result(5)
        return [len(states) - before]


@row("sync: channel_ready_future")
def _(world: World) -> Any:
    called = threading.Event()
    with world.channel() as channel:
        future = grpc.channel_ready_future(channel)
        future.add_done_callback(lambda _: called.set())
        seen = [attempt(future.result, 5), future.done(), future.cancelled(), future.running()]
        return [*seen, called.wait(5), future.cancel(), show(stub(channel, "uu")(b"x", timeout=5))]


@row("sync: channel_ready_future of the unreachable")
def _(world: World) -> Any:
    with world.channel("unreachable") as channel:
        future = grpc.channel_ready_future(channel)
        seen = [attempt(future.result, 0.1), future.done(), future.running()]
        return [*seen, future.cancel(), future.cancelled(), attempt(future.result, 1)]


@row("sync: arguments of the factories")
def _(world: World) -> Any:
    target = world.target()
    make = world.flavour.insecure
    with make(target, None, None) as positional, make(target=target, options=()) as named:
        good = [attempt(stub(c, "uu"), b"x", timeout=5) for c in (positional, named)]
    return [good, isinstance(positional, grpc.Channel), attempt(make)["raised"]["is"],
            attempt(make, target, colour="red")["raised"]["is"]]  # fmt: skip


@row("sync: targets of a wrong type", by_design=WRONG_TYPE)
def _(world: World) -> Any:
    return [attempt(lambda t=t: world.flavour.insecure(t).close()) for t in (None, 5, ["a"])]


@row(
    "sync: method names of all sorts", by_design={"text": "what None lacks is a detail of the code"}
)
def _(world: World) -> Any:
    def use(method: Any) -> Any:
        return attempt(channel.unary_unary(method), b"x", timeout=5)

    with world.channel() as channel:
        return {str(m): attempt(use, m) for m in ("", "/", "/é/é", b"/test.Echo/UnaryUnary", None)}


@row("sync: a generated stub")
def _(world: World) -> Any:
    request = health_pb2.HealthCheckRequest(service="")
    with world.channel() as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(request, timeout=5)
        seen = [health.Check(request, timeout=5).status, next(watch).status]
        watch.cancel()
        unknown = health_pb2.HealthCheckRequest(service="unknown")
        return [*seen, attempt(health.Check, unknown, timeout=5)]


@row("sync: two channels to one target do not disturb each other")
def _(world: World) -> Any:
    first, second = world.channel(), world.channel()
    with second:
        seen = [attempt(stub(c, "uu"), b"x", timeout=5) for c in (first, second)]
        first.close()
        return [*seen, attempt(stub(second, "uu"), b"y", timeout=5)]
