"""C4: what a retry policy costs that never fires; and what it buys where one RPC in 100 fails."""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

import grpclb
from benchmarks.report import heading, table
from benchmarks.rounds import Contestant, Result, race
from benchmarks.servers import FLAKY, ROUND_ROBIN, UNARY, Servers

_ROUNDS, _CALLS = 150, 100
_FLAKY_ROUNDS, _FLAKY_CALLS = 60, 200
_POLICY = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}
_WITHOUT, _WITH, _AGAIN = "without", "with", "without, again"
_COLUMNS = (
    "what",
    "goal",
    "time, with / without (quartiles)",
    "CPU, with / without (quartiles)",
    "noise: without / without, time and CPU",
    "us each: without, with",
)


def _row(what: str, results: dict[str, Result]) -> tuple[str, ...]:
    policy, none, again = results[_WITH], results[_WITHOUT], results[_AGAIN]
    return (
        what,
        "<= 1.03",
        f"**{policy.wall}**",
        str(policy.cpu),
        f"{again.wall}; {again.cpu}",
        f"{none.wall_us:.0f}, {policy.wall_us:.0f}",
    )


def _sync_rows(target: str) -> list[tuple[str, ...]]:
    with contextlib.ExitStack() as stack:

        def runner(policy: dict[str, Any] | None) -> Callable[[int], None]:
            channel = stack.enter_context(grpclb.insecure_channel(target, service_config=policy))
            call = channel.unary_unary(UNARY)

            def run(units: int) -> None:
                for _ in range(units):
                    call(b"x")

            return run

        contestants = [
            Contestant(_WITHOUT, runner(None)),
            Contestant(_WITH, runner(_POLICY)),
            Contestant(_AGAIN, runner(None)),
        ]
        results = race(contestants, rounds=_ROUNDS, units=_CALLS)
    return [_row("C4 sync", results)]


def _aio_rows(target: str) -> list[tuple[str, ...]]:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    channels = {
        _WITHOUT: grpclb.aio.insecure_channel(target),
        _WITH: grpclb.aio.insecure_channel(target, service_config=_POLICY),
        _AGAIN: grpclb.aio.insecure_channel(target),
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
        rows.append(_row(f"C4 aio, concurrency {concurrency}", results))
    for channel in channels.values():
        loop.run_until_complete(channel.close())
    loop.close()
    return rows


class _Tally:
    """One contestant's calls: how many failed, and how long each took."""

    def __init__(self, name: str, channel: Any) -> None:
        self.name = name
        self.calls = self.failed = 0
        self.p50s: list[float] = []
        self.p99s: list[float] = []
        self.tails: list[float] = []
        self._call = channel.unary_unary(FLAKY)

    def run(self, units: int) -> None:
        taken = []
        for _ in range(units):
            began = time.perf_counter()
            try:
                self._call(b"x")
            except grpc.RpcError:
                self.failed += 1
            taken.append(time.perf_counter() - began)
        self.calls += units
        cuts = statistics.quantiles(taken, n=100, method="inclusive")
        self.p50s.append(cuts[49])
        self.p99s.append(cuts[98])
        self.tails += sorted(taken)[-units // 100 :]


def _flaky_rows(target: str) -> list[tuple[str, ...]]:
    plain_policy = (("grpc.service_config", json.dumps(_POLICY)),)
    with (
        grpc.insecure_channel(target, (ROUND_ROBIN,)) as plain,
        grpc.insecure_channel(target, plain_policy) as plain_retries,
        grpclb.insecure_channel(target) as ours,
        grpclb.insecure_channel(target, service_config=_POLICY) as ours_retries,
    ):
        tallies = [
            _Tally("plain grpcio", plain),
            _Tally("plain grpcio, retryPolicy", plain_retries),
            _Tally("grpclb", ours),
            _Tally("grpclb, retryPolicy", ours_retries),
        ]
        race([Contestant(t.name, t.run) for t in tallies], rounds=_FLAKY_ROUNDS, units=_FLAKY_CALLS)
    base = tallies[0]
    return [
        (
            tally.name,
            f"**{100 * (1 - tally.failed / tally.calls):.3f} %** of {tally.calls}",
            _ratio(tally.p50s, base.p50s),
            _ratio(tally.p99s, base.p99s),
            f"{1e3 * statistics.mean(tally.tails):.1f} ms",
        )
        for tally in tallies
    ]


def _ratio(mine: list[float], base: list[float]) -> str:
    return f"{statistics.median(a / b for a, b in zip(mine, base, strict=True)):.2f}"


def main() -> None:
    heading(
        "A retry policy that never fires (C4)",
        f"{_ROUNDS} interleaved rounds; grpclb beside grpclb, four servers.",
    )
    with Servers(4) as servers:
        table(_COLUMNS, [*_sync_rows(servers.target), *_aio_rows(servers.target)])
        heading(
            "Backends that fail one RPC in 100 (sync unary)",
            f"{_FLAKY_ROUNDS} interleaved rounds of {_FLAKY_CALLS} RPCs; UNAVAILABLE at random; "
            "backoff 10 ms (jittered). p99 is the edge between the RPCs that waited and the rest.",
        )
        table(
            (
                "client",
                "succeeded",
                "p50 / plain",
                "p99 / plain (median of rounds)",
                "slowest hundredth of a round, mean",
            ),
            _flaky_rows(servers.target),
        )


if __name__ == "__main__":
    main()
