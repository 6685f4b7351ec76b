"""aio streams: iterating, reading, writing, and mixing the two styles."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

from tests.parity.harness import World, row, stub
from tests.parity.observe import attempt, attempting, show, viewing
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


@row("aio us: cancel in the middle of a stream")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        seen = []
        for kind in ("us", "ss"):
            call = _call(channel, kind, metadata=MANY)
            seen.append([await attempting(call.read()), call.cancel()])
            seen.append([await attempting(call.read()), await viewing(call)])
            call = _call(channel, kind, metadata=MANY)
            got = 0

            async def iterate(call: Any = call) -> None:
                nonlocal got
                async for _ in call:
                    got += 1
                    if got == 2:
                        call.cancel()

            seen.append([await attempting(iterate()), got, await viewing(call)])
        return seen


@row("aio us: mixing read and iteration")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        seen = []
        for kind in ("us", "ss"):
            call = _call(channel, kind, metadata=MANY)
            seen.append([await attempting(call.read()), attempt(call.__aiter__)])
            call.cancel()
            call = _call(channel, kind, metadata=MANY)
            async for response in call:
                seen.append([show(response), await attempting(call.read())])
                break
            call.cancel()
        return seen


@row("aio us: read at and after the end")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        seen = []
        for kind in ("us", "ss"):
            call = _call(channel, kind)
            seen.append([await attempting(call.read()) for _ in range(5)])
            empty = stub(channel, kind)(
                iter(()) if kind == "ss" else b"", metadata=steer(responses=0), timeout=10
            )
            seen.append([await attempting(empty.read()), await attempting(empty.read())])
        bad = _call(channel, "us", metadata=BROKEN)
        return [*seen, await attempting(bad.read()), await attempting(bad.read())]


@row("aio us: iterate twice, and after an error")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        good, bad = _call(channel, "us"), _call(channel, "us", metadata=BROKEN)
        same = good.__aiter__() is good.__aiter__()
        return [same, [await attempting(_whole(call)) for call in (good, good, bad, bad)]]


@row("aio us: iterate in two steps")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        call = _call(channel, "us", metadata=steer(responses=5))
        first = []
        async for response in call:
            first.append(show(response))
            if len(first) == 2:
                break
        return [first, await attempting(_whole(call)), show(await call.code())]


@row("aio us: a deadline in the middle")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        metadata = steer(responses=50, gap_ms=100)
        call = _call(channel, "us", metadata=metadata, timeout=0.6)
        first = await attempting(call.read())
        second = await attempting(_call(channel, "us", metadata=metadata, timeout=0.6).read())
        while "returned" in (last := await attempting(call.read())):
            pass
        return [first, second, last, call.time_remaining() <= 0]


@row("aio su: write, done_writing and await")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        call = stub(channel, "su")(timeout=10)
        seen = [await attempting(call.write(b"%d" % n)) for n in range(3)]
        seen += [await attempting(call.done_writing()), await attempting(call.done_writing())]
        seen += [await attempting(call.write(b"late")), await attempting(call)]
        seen += [await attempting(call.write(b"later")), await attempting(call.done_writing())]
        return [*seen, await viewing(call)]


@row("aio ss: write and read in turn")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        call = stub(channel, "ss")(timeout=10)
        seen = []
        for number in range(3):
            seen.append(await attempting(call.write(b"%d" % number)))
            seen.append(await attempting(call.read()))
        await call.done_writing()
        seen += [await attempting(call.read()), await attempting(call.write(b"late"))]
        return [*seen, await viewing(call)]


@row("aio ss: write, then iterate")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        call = stub(channel, "ss")(timeout=10)
        for number in range(3):
            await call.write(b"%d" % number)
        await call.done_writing()
        return [await attempting(_whole(call)), await viewing(call)]


@row("aio su: writing to a call that has an iterator")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        seen = []
        for kind in ("su", "ss"):
            call = _call(channel, kind)
            seen += [await attempting(call.write(b"x")), await attempting(call.done_writing())]
            seen.append(await attempting(_whole(call)))
        return seen


@row("aio su: writing to a cancelled call")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        seen = []
        for kind in ("su", "ss"):
            call = stub(channel, kind)(timeout=10)
            await call.write(b"x")
            call.cancel()
            seen += [await attempting(call.write(b"y")), await attempting(call.done_writing())]
            seen.append(await viewing(call))
        return seen


@row("aio su: writing after the server has ended the call")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        call = stub(channel, "ss")(metadata=steer(code="ABORTED", details="enough"), timeout=10)
        await call.code()
        seen = [await attempting(call.write(b"x")), await attempting(call.done_writing())]
        return [*seen, await attempting(call.read()), await viewing(call)]


@row("aio su: request iterators that raise")
async def _(world: World) -> Any:
    async def asynchronous() -> AsyncIterator[bytes]:
        yield b"1"
        raise ValueError("asked for by the test")

    def synchronous() -> Iterator[bytes]:
        yield b"1"
        raise ValueError("asked for by the test")

    async with world.aio() as channel:
        seen = []
        for kind in ("su", "ss"):
            for requests in (asynchronous, synchronous):
                call = stub(channel, kind)(requests(), timeout=10)
                seen.append([await attempting(_whole(call)), await viewing(call)])
        return seen


@row("aio su: requests that are no iterator")
async def _(world: World) -> Any:
    async with world.aio() as channel:
        seen: list[Any] = []
        for requests in ([b"1", b"2"], 5, b"bytes"):
            call = stub(channel, "su")(requests, timeout=2)
            seen.append([await attempting(call), await viewing(call)])
        return seen


@row("aio su: slow requests")
async def _(world: World) -> Any:
    async def requests() -> AsyncIterator[bytes]:
        for number in range(3):
            await asyncio.sleep(0.01)
            yield b"%d" % number

    async with world.aio() as channel:
        return [await attempting(_whole(stub(channel, kind)(requests(), timeout=10)))
                for kind in ("su", "ss")]  # fmt: skip


@row("aio su: a deadline while requests are awaited")
async def _(world: World) -> Any:
    async def requests() -> AsyncIterator[bytes]:
        yield b"1"
        await asyncio.sleep(1)

    async with world.aio() as channel:
        call = stub(channel, "su")(requests(), timeout=0.1)
        return [await attempting(call), await viewing(call)]


@row("aio ss: question and answer in turn")
async def _(world: World) -> Any:
    turn = asyncio.Semaphore(1)

    async def requests() -> AsyncIterator[bytes]:
        for number in range(5):
            await turn.acquire()
            yield b"%d" % number

    async with world.aio() as channel:
        got = []
        async for response in stub(channel, "ss")(requests(), timeout=10):
            got.append(show(response))
            turn.release()
        return got
