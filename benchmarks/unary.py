"""C1 and C2: a unary RPC over four backends, beside plain grpcio's round_robin on the same four."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

import grpclb
from benchmarks.report import BALANCED, PLAIN, PLAIN_AGAIN, RATIO_COLUMNS, heading, ratio_row, table
from benchmarks.rounds import Contestant, race
from benchmarks.servers import ROUND_ROBIN, UNARY, Servers

_ROUNDS, _CALLS = 150, 100


def _sync_row(target: str) -> tuple[str, ...]:
    channels = {
        PLAIN: grpc.insecure_channel(target, (ROUND_ROBIN,)),
        BALANCED: grpclb.insecure_channel(target),
        PLAIN_AGAIN: grpc.insecure_channel(target, (ROUND_ROBIN, ("bench.again", 1))),
    }

    def runner(channel: Any) -> Callable[[int], None]:
        call = channel.unary_unary(UNARY)

        def run(units: int) -> None:
            for _ in range(units):
                call(b"x")

        return run

    contestants = [Contestant(name, runner(channel)) for name, channel in channels.items()]
    results = race(contestants, rounds=_ROUNDS, units=_CALLS)
    for channel in channels.values():
        channel.close()
    return ratio_row("C1 sync", "<= 1.02", results)


def _aio_rows(target: str) -> list[tuple[str, ...]]:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    channels = {
        PLAIN: grpc.aio.insecure_channel(target, (ROUND_ROBIN,)),
        BALANCED: grpclb.aio.insecure_channel(target),
        PLAIN_AGAIN: grpc.aio.insecure_channel(target, (ROUND_ROBIN, ("bench.again", 1))),
    }

    def runner(channel: Any, concurrency: int) -> Callable[[int], None]:
        call = channel.unary_unary(UNARY)

        async def worker(units: int) -> None:
            for _ in range(units):
                await call(b"x")

        async def all_workers(units: int) -> None:
            await asyncio.gather(*(worker(units // concurrency) for _ in range(concurrency)))

        return lambda units: loop.run_until_complete(all_workers(units))

    rows = []
    for concurrency, calls in ((1, _CALLS), (64, 4 * 64)):
        contestants = [Contestant(n, runner(c, concurrency)) for n, c in channels.items()]
        results = race(contestants, rounds=_ROUNDS, units=calls)
        rows.append(ratio_row(f"C2 aio, concurrency {concurrency}", "<= 1.05", results))
    for channel in channels.values():
        loop.run_until_complete(channel.close())
    loop.close()
    return rows


def main() -> None:
    heading(
        "Unary RPCs (C1, C2)",
        f"{_ROUNDS} interleaved rounds; four servers in processes of their own.",
    )
    with Servers(4) as servers:
        table(RATIO_COLUMNS, [_sync_row(servers.target), *_aio_rows(servers.target)])


if __name__ == "__main__":
    main()
