"""aio call objects: awaiting, cancellation, callbacks, and what they say when."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
from typing import Any

import grpc

from tests.parity.harness import KINDS, World, row, stub
from tests.parity.observe import attempt, attempting, describe, kinds, report, show, viewing
from tests.support.backend import steer

SLOW = steer(delay_ms=300)
NAMED = steer(initial=[("i", "1")], trailing=[("t", "2")])
BROKEN = steer(code="NOT_FOUND", details="no such thing", trailing=[("t", "2")])
MANY = steer(responses=50, gap_ms=20)


def _call(channel: Any, kind: str, **arguments: Any) -> Any:
    given: dict[str, Any] = {"timeout": 10, **arguments}
    request = iter([b"1", b"2"]) if kind[0] == "s" else b"1"
    return stub(channel, kind)(request, **given)


async def _whole(call: Any) -> Any:
    """Everything that the call answers."""
    if hasattr(call, "__aiter__"):
        return [response async for response in call]
    return await call


@row("aio: call objects of every kind")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        calls = {kind: _call(channel, kind) for kind in KINDS}
        types = {kind: kinds(call) for kind, call in calls.items()}
        ends = {kind: await attempting(_whole(call)) for kind, call in calls.items()}
        return [types, ends, {kind: await viewing(call) for kind, call in calls.items()}]


@row("aio: multicallables are of grpc.aio's public types")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        types = (grpc.aio.UnaryUnaryMultiCallable, grpc.aio.UnaryStreamMultiCallable,
                 grpc.aio.StreamUnaryMultiCallable, grpc.aio.StreamStreamMultiCallable)  # fmt: skip
        public = isinstance(channel, grpc.aio.Channel)
        return [public, [kinds(stub(channel, kind), types) for kind in KINDS]]


@row("aio: arguments by position")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        metadata = grpc.aio.Metadata(*steer(report=True))
        one = stub(channel, "uu")(b"x")
        told = stub(channel, "us")(b"x", timeout=10, metadata=metadata, wait_for_ready=True)
        refused = attempt(stub(channel, "uu"), b"x", 10)
        return [await attempting(one), [report(r) async for r in told], "raised" in refused]


@row("aio uu: await twice, and from many tasks")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        good, bad = _call(channel, "uu"), _call(channel, "uu", metadata=BROKEN)
        seen = [await attempting(call) for call in (good, good, bad, bad)]
        shared = _call(channel, "uu", metadata=steer(delay_ms=30))

        async def wait() -> Any:
            return await shared

        return [seen, show(await asyncio.gather(*(wait() for _ in range(3))))]


@row("aio: done, cancelled and time_remaining along the way")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        seen = []
        for kind in KINDS:
            call = _call(channel, kind, metadata=steer(delay_ms=30))
            seen.append([call.done(), call.cancelled(), 9 < call.time_remaining() <= 10])
            await _whole(call)
            seen.append([call.done(), call.cancelled(), call.cancel(), call.cancelled()])
        endless = _call(channel, "uu", timeout=None)
        seen.append([endless.time_remaining(), show(await endless)])
        return seen


@row("aio: code, details and metadata wait for their time")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        seen = []
        for kind in KINDS:
            metadata = steer(initial=[("i", "1")], trailing=[("t", "2")], delay_ms=20)
            call = _call(channel, kind, metadata=metadata)
            seen.append([show(await call.initial_metadata()), call.done()])
            seen.append([show(await _whole(call)), show(await call.trailing_metadata())])
            seen.append([show(await call.code()), await call.details(), call.done()])
        return seen


@row("aio uu: code without awaiting the call")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        good, bad = _call(channel, "uu", metadata=NAMED), _call(channel, "uu", metadata=BROKEN)
        return [await viewing(good), show(await bad.code()), await viewing(bad)]


@row("aio uu: an error as an object")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        call = _call(channel, "uu", metadata=BROKEN)
        try:
            await call
        except grpc.aio.AioRpcError as error:
            text = isinstance(error.debug_error_string(), str)
            again = pickle.loads(pickle.dumps(error))
            copied = copy.copy(error)
            seen: list[Any] = [describe(error), describe(again), describe(copied), text]
            seen += ["no such thing" in str(error), "NOT_FOUND" in repr(error)]
            return [*seen, isinstance(await call.debug_error_string(), str)]
    return None


@row("aio: cancel before the call has begun")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        seen = []
        for kind in KINDS:
            call = _call(channel, kind)
            seen.append([call.cancel(), call.cancel(), call.done(), call.cancelled()])
            seen.append([await attempting(_whole(call)), await viewing(call)])
        return seen


@row("aio: cancel in flight")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        seen = []
        for kind in KINDS:
            call = _call(channel, kind, metadata=SLOW)
            await asyncio.sleep(0.03)
            seen.append([call.cancel(), await attempting(_whole(call)), call.cancel()])
            seen.append([await viewing(call), await attempting(call.wait_for_connection())])
        return seen


@row("aio: the awaiting task is cancelled")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        seen = []
        for kind in KINDS:
            call = _call(channel, kind, metadata=SLOW)
            task = asyncio.ensure_future(_whole(call))
            await asyncio.sleep(0.03)
            task.cancel()
            seen.append([await attempting(task), task.cancelled(), await viewing(call)])
        return seen


@row("aio: asyncio.wait_for gives up")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        seen = []
        for kind in KINDS:
            call = _call(channel, kind, metadata=SLOW)
            seen.append([await attempting(asyncio.wait_for(_whole(call), 0.03)), call.cancelled()])
        return seen


@row("aio: done callbacks before and after the end")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        seen: list[Any] = []
        for kind in KINDS:
            got: list[Any] = []
            call = _call(channel, kind, metadata=steer(delay_ms=20))
            seen.append(
                call.add_done_callback(lambda c, g=got, k=call: g.append([c is k, c.done()]))
            )
            await _whole(call)
            await asyncio.sleep(0)
            seen.append(list(got))
            call.add_done_callback(lambda c, g=got, k=call: g.append(c is k))
            await asyncio.sleep(0.01)
            seen.append(list(got))
        return seen


@row("aio: done callbacks of failed and cancelled calls")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        got: list[Any] = []
        bad = _call(channel, "uu", metadata=BROKEN)
        bad.add_done_callback(lambda call: got.append(["failed", call.cancelled()]))
        await attempting(bad)
        cut = _call(channel, "uu", metadata=SLOW)
        cut.add_done_callback(lambda call: got.append(["cut", call.cancelled()]))
        cut.cancel()
        await attempting(cut)
        await asyncio.sleep(0.01)
        return got


@row("aio: wait_for_connection")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        seen = []
        for kind in KINDS:
            call = _call(channel, kind)
            seen += [await attempting(call.wait_for_connection()), await attempting(_whole(call))]
        return seen


@row("aio: wait_for_connection to the unreachable", by_design={"details": "names the reason"})
async def _(world: World) -> Any:
    async with world.aio("unreachable") as channel:
        seen = []
        for kind in ("uu", "us"):
            call = _call(channel, kind)
            seen += [await attempting(call.wait_for_connection()), await viewing(call)]
        return seen


@row("aio: a call that nobody keeps is cancelled")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        for kind in KINDS:
            call = _call(channel, kind, metadata=steer("dropped", delay_ms=20))
            await asyncio.sleep(0.005)
            del call
        gc.collect()
        await asyncio.sleep(0.05)
        return await attempting(_call(channel, "uu"))


@row("aio: a failed call that nobody awaits makes no noise")
async def _(world: World) -> Any:
    noise: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: noise.append(context["message"]))
    async with world.aio() as channel:
        for kind in KINDS:
            call = _call(channel, kind, metadata=steer(code="ABORTED", drain=True))
            await call.code()
            del call
        gc.collect()
        await asyncio.sleep(0)
    loop.set_exception_handler(None)
    return noise


@row("aio: fifty calls at once")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        call = stub(channel, "uu")
        answers = await asyncio.gather(*(_whole(call(b"%d" % n, timeout=10)) for n in range(50)))
        return show(answers)


@row("aio: metadata as it arrives")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        call = _call(channel, "uu", metadata=steer(trailing=[("a", "1"), ("a", "2"), ("b", "3")]))
        await call
        metadata = await call.trailing_metadata()
        every = list(metadata.get_all("a"))
        return [type(metadata).__name__, every, metadata["b"], "c" in metadata, len(metadata)]
