"""C9: streams, per message, all kinds, in both stacks, over one picked backend of four."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

import grpclb
from benchmarks.report import BALANCED, PLAIN, PLAIN_AGAIN, RATIO_COLUMNS, heading, ratio_row, table
from benchmarks.rounds import Contestant, race
from benchmarks.servers import BOTH, DOWN, ROUND_ROBIN, UP, Servers

_ROUNDS, _MESSAGES = 60, 400
_GOAL = "<= 1.02"
_AGAIN = ("bench.again", 1)


def _sync_down(channel: Any) -> Callable[[int], None]:
    call = channel.unary_stream(DOWN)

    def run(units: int) -> None:
        for _ in call(b"%d" % units):
            pass

    return run


def _sync_up(channel: Any) -> Callable[[int], None]:
    call = channel.stream_unary(UP)
    return lambda units: call(b"x" for _ in range(units))


def _sync_both(channel: Any) -> Callable[[int], None]:
    call = channel.stream_stream(BOTH)

    def run(units: int) -> None:
        for _ in call(b"x" for _ in range(units)):
            pass

    return run


async def _aio_down(channel: Any, units: int) -> None:
    async for _ in channel.unary_stream(DOWN)(b"%d" % units):
        pass


async def _aio_down_read(channel: Any, units: int) -> None:
    call = channel.unary_stream(DOWN)(b"%d" % units)
    while await call.read() is not grpc.aio.EOF:
        pass


async def _aio_up(channel: Any, units: int) -> None:
    await channel.stream_unary(UP)(b"x" for _ in range(units))


async def _aio_both(channel: Any, units: int) -> None:
    async for _ in channel.stream_stream(BOTH)(b"x" for _ in range(units)):
        pass


async def _aio_both_read_write(channel: Any, units: int) -> None:
    call = channel.stream_stream(BOTH)()
    for _ in range(units):
        await call.write(b"x")
        await call.read()
    await call.done_writing()


_SYNC = {
    "sync unary-stream": _sync_down,
    "sync stream-unary": _sync_up,
    "sync stream-stream": _sync_both,
}
_AIO = {
    "aio unary-stream, async for": _aio_down,
    "aio unary-stream, read()": _aio_down_read,
    "aio stream-unary, iterator": _aio_up,
    "aio stream-stream, iterators": _aio_both,
    "aio stream-stream, write() and read() in turn": _aio_both_read_write,
}


def _sync_rows(target: str) -> list[tuple[str, ...]]:
    channels = {
        PLAIN: grpc.insecure_channel(target, (ROUND_ROBIN,)),
        BALANCED: grpclb.insecure_channel(target),
        PLAIN_AGAIN: grpc.insecure_channel(target, (ROUND_ROBIN, _AGAIN)),
    }
    rows = []
    for name, make in _SYNC.items():
        contestants = [Contestant(n, make(channel)) for n, channel in channels.items()]
        results = race(contestants, rounds=_ROUNDS, units=_MESSAGES)
        rows.append(ratio_row(name, _GOAL, results))
    for channel in channels.values():
        channel.close()
    return rows


def _aio_rows(target: str) -> list[tuple[str, ...]]:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    channels = {
        PLAIN: grpc.aio.insecure_channel(target, (ROUND_ROBIN,)),
        BALANCED: grpclb.aio.insecure_channel(target),
        PLAIN_AGAIN: grpc.aio.insecure_channel(target, (ROUND_ROBIN, _AGAIN)),
    }

    def runner(make: Callable[..., Any], channel: Any) -> Callable[[int], None]:
        return lambda units: loop.run_until_complete(make(channel, units))

    rows = []
    for name, make in _AIO.items():
        contestants = [Contestant(n, runner(make, channel)) for n, channel in channels.items()]
        results = race(contestants, rounds=_ROUNDS, units=_MESSAGES)
        rows.append(ratio_row(name, _GOAL, results))
    for channel in channels.values():
        loop.run_until_complete(channel.close())
    loop.close()
    return rows


def main() -> None:
    heading(
        "Streams, per message (C9)", f"{_ROUNDS} rounds of one stream with {_MESSAGES} messages."
    )
    with Servers(4) as servers:
        table(RATIO_COLUMNS, [*_sync_rows(servers.target), *_aio_rows(servers.target)])


if __name__ == "__main__":
    main()
