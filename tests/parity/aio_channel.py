"""The aio channel itself: its end, connectivity, and how it is made."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.parity.harness import KINDS, WRONG_TYPE, World, row, stub
from tests.parity.observe import attempt, attempting, report, show, viewing
from tests.support.backend import steer

REPORT = steer(report=True)
READY = grpc.ChannelConnectivity.READY
IDLE = grpc.ChannelConnectivity.IDLE


def _requests(kind: str) -> Any:
    return iter([b"x"]) if kind[0] == "s" else b"x"


async def _whole(call: Any) -> Any:
    if hasattr(call, "__aiter__"):
        return [response async for response in call]
    return await call


async def _told(channel: grpc.aio.Channel, **arguments: Any) -> Any:
    """The backend's report on one call, or the error."""
    try:
        return report(await stub(channel, "uu")(b"x", metadata=REPORT, timeout=10, **arguments))
    except grpc.RpcError:
        return await attempting(stub(channel, "uu")(b"x", timeout=10, **arguments))


async def _echo(channel: grpc.aio.Channel) -> Any:
    return await attempting(stub(channel, "uu")(b"x", timeout=5))


@row("aio: every kind of call on a closed channel")
async def _(world: World) -> Any:
    channel = world.aio()
    callables = {kind: stub(channel, kind) for kind in KINDS}
    await channel.close()
    early = {k: attempt(callables[k], _requests(k), timeout=5) for k in KINDS}
    late = {k: attempt(lambda k=k: stub(channel, k)(_requests(k))) for k in KINDS}
    return [early, late]


@row("aio: closing twice, and leaving a context after closing")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        return [await attempting(channel.close()), await attempting(channel.close())]


@row("aio: a channel is its own context")
async def _(world: World) -> Any:
    channel = world.aio()
    async with channel as entered:
        seen = [entered is channel, await _echo(channel)]
    return [*seen, attempt(stub(channel, "uu"), b"x", timeout=10)]


@row("aio: close cancels what is in flight")
async def _(world: World) -> Any:
    seen = []
    for kind in KINDS:
        channel = world.aio()
        call = stub(channel, kind)(_requests(kind), metadata=steer(delay_ms=300), timeout=10)
        await asyncio.sleep(0.03)
        await channel.close()
        seen += [call.done(), await attempting(_whole(call)), await viewing(call)]
    return seen


@row("aio: close cancels streams that are being written")
async def _(world: World) -> Any:
    channel = world.aio()
    calls = [stub(channel, kind)(timeout=10) for kind in ("su", "ss")]
    for call in calls:
        await call.write(b"x")
    await channel.close()
    return [[await attempting(c.write(b"y")), await viewing(c)] for c in calls]


@row("aio: close with a grace that suffices")
async def _(world: World) -> Any:
    channel = world.aio()
    calls = [stub(channel, k)(_requests(k), metadata=steer(delay_ms=60), timeout=10) for k in KINDS]
    await asyncio.sleep(0.01)
    closing = asyncio.ensure_future(channel.close(5))
    await asyncio.sleep(0.01)
    refused = attempt(stub(channel, "uu"), b"late", timeout=5)
    seen = [await attempting(_whole(call)) for call in calls]
    begun = time.monotonic()
    await closing
    return [refused, seen, time.monotonic() - begun < 1, await viewing(calls[0])]


@row("aio: close with a grace right after the call")
async def _(world: World) -> Any:
    seen = []
    for kind in KINDS:
        channel = world.aio()
        call = stub(channel, kind)(_requests(kind), metadata=steer(delay_ms=30), timeout=10)
        # A stream is read along, as its end is not seen before its messages are.
        reading = asyncio.ensure_future(_whole(call))
        await channel.close(5)
        seen.append([await attempting(reading), await viewing(call)])
    return seen


@row("aio: close with a grace that does not suffice")
async def _(world: World) -> Any:
    channel = world.aio()
    call = stub(channel, "uu")(b"x", metadata=steer(delay_ms=300), timeout=10)
    await asyncio.sleep(0.02)
    await channel.close(0.05)
    return [await attempting(call), await viewing(call)]


@row("aio: close with a negative grace")
async def _(world: World) -> Any:
    channel = world.aio()
    seen = [await attempting(channel.close(-1)), await _echo(channel)]
    await channel.close()
    return seen


@row("aio: close while a call waits for a connection")
async def _(world: World) -> Any:
    channel = world.aio("unreachable")
    call = stub(channel, "uu")(b"x", wait_for_ready=True, timeout=10)
    await asyncio.sleep(0.05)
    await channel.close()
    return [await attempting(call), await viewing(call)]


@row("aio: state of a closed channel")
async def _(world: World) -> Any:
    channel = world.aio()
    await channel.close()
    late = await attempting(asyncio.wait_for(channel.channel_ready(), 0.2))
    change = await attempting(asyncio.wait_for(channel.wait_for_state_change(IDLE), 0.2))
    return [attempt(channel.get_state), attempt(channel.get_state, True), late, change]


@row("aio: get_state and channel_ready")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        seen = [show(channel.get_state()), show(channel.get_state())]
        seen.append(await attempting(asyncio.wait_for(channel.channel_ready(), 5)))
        return [*seen, show(channel.get_state()), await attempting(channel.channel_ready())]


@row("aio: get_state tells the state from before it connects")
async def _(world: World) -> Any:
    async with world.aio() as channel, world.aio("unreachable") as deaf:
        return [show(channel.get_state(try_to_connect=True)), show(deaf.get_state(True))]


@row("aio: wait_for_state_change")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        still = await attempting(asyncio.wait_for(channel.wait_for_state_change(IDLE), 0.05))
        other = await attempting(asyncio.wait_for(channel.wait_for_state_change(READY), 1))
        channel.get_state(try_to_connect=True)
        moved = await attempting(asyncio.wait_for(channel.wait_for_state_change(IDLE), 5))
        state = channel.get_state()
        while state is not READY:
            await asyncio.wait_for(channel.wait_for_state_change(state), 5)
            state = channel.get_state()
        return [still, other, moved, show(state)]


@row("aio: the first call connects")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        return [show(channel.get_state()), await _echo(channel), show(channel.get_state())]


@row("aio: channel_ready of the unreachable")
async def _(world: World) -> Any:
    async with world.aio("unreachable") as channel:
        waited = await attempting(asyncio.wait_for(channel.channel_ready(), 0.1))
        return [waited, channel.get_state() is READY]


@row("aio: close wakes those who wait for a state")
async def _(world: World) -> Any:
    channel = world.aio()
    change = asyncio.ensure_future(channel.wait_for_state_change(IDLE))
    await asyncio.sleep(0.02)
    await channel.close()
    return await attempting(asyncio.wait_for(change, 10))


@row("aio: arguments of the factories")
async def _(world: World) -> Any:
    make, target = world.flavour.aio_insecure, world.target()
    async with make(target, None, None, None) as one, make(target=target, options=()) as two:
        good = [await _echo(one), await _echo(two)]
    return [good, attempt(make)["raised"]["is"], attempt(make, target, colour=1)["raised"]["is"]]


@row("aio: targets and credentials of a wrong type", by_design=WRONG_TYPE)
async def _(world: World) -> Any:
    wrong = [attempt(world.flavour.aio_insecure, target) for target in (None, 5, ["a"])]
    return [wrong, attempt(world.aio_secure, credentials=None)]


@row(
    "aio: method names of all sorts", by_design={"text": "what None lacks is a detail of the code"}
)
async def _(world: World) -> Any:
    async def use(method: Any) -> Any:
        call: Any = channel.unary_unary(method)
        return await call(b"x", timeout=5)

    async with world.aio() as channel:
        names = ("/", "/é/é", b"/test.Echo/UnaryUnary", None)
        return {str(name): await attempting(use(name)) for name in names}


@row("aio: a generated stub")
async def _(world: World) -> Any:
    request = health_pb2.HealthCheckRequest(service="")
    async with world.aio() as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(request, timeout=5)
        seen = [(await health.Check(request, timeout=5)).status, (await watch.read()).status]
        watch.cancel()
        unknown = health_pb2.HealthCheckRequest(service="unknown")
        return [*seen, await attempting(health.Check(unknown, timeout=5))]


@row("aio: a channel made outside of a running loop's task")
async def _(world: World) -> Any:
    made: list[Any] = []
    asyncio.get_running_loop().call_soon(lambda: made.append(world.aio()))
    await asyncio.sleep(0.01)
    async with made[0] as channel:
        return await _echo(channel)


@row("aio: two channels to one target do not disturb each other")
async def _(world: World) -> Any:
    first, second = world.aio(), world.aio()
    async with second:
        seen = [await _echo(first), await _echo(second)]
        await first.close()
        return [*seen, await _echo(second)]
