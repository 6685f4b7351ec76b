"""C10: how even round_robin is, in the steady state and when a burst meets a cold channel."""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

import grpclb
from benchmarks.report import heading, table
from benchmarks.servers import OWN_CONNECTIONS, ROUND_ROBIN
from tests.support.backend import Backend

_THREADS, _CALLS = 16, 4_000
_BURSTS, _BURST = 15, 30
_METHOD = "/test.Echo/UnaryUnary"


def _counts(backends: list[Backend]) -> list[int]:
    counts = [backend.stats()["total"] for backend in backends]
    for backend in backends:
        backend.reset()
    return counts


def _target(backends: list[Backend]) -> str:
    return "ipv4:" + ",".join(backend.address for backend in backends)


def _steady(backends: list[Backend], make: Callable[[str], Any]) -> str:
    with make(_target(backends)) as channel:
        call = channel.unary_unary(_METHOD)
        for _ in range(8 * len(backends)):
            call(b"", wait_for_ready=True)  # until all are connected
        _counts(backends)
        with ThreadPoolExecutor(_THREADS) as pool:
            for _ in pool.map(lambda _: call(b""), range(_CALLS)):
                pass
    counts = _counts(backends)
    assert sum(counts) == _CALLS
    return f"{max(counts) - min(counts)}"


def _worst_of_burst(backends: list[Backend], burst: Callable[[str], None]) -> str:
    worst = []
    for _ in range(_BURSTS):
        burst(_target(backends))
        counts = _counts(backends)
        assert sum(counts) == _BURST
        worst.append(max(counts))
    seen = ", ".join(f"{most} x{times}" for most, times in sorted(Counter(worst).items()))
    return f"median {statistics.median(worst):.0f} (of {_BURSTS} bursts: {seen})"


def _sync_burst(make: Callable[[str], Any]) -> Callable[[str], None]:
    def burst(target: str) -> None:
        with make(target) as channel:
            call = channel.unary_unary(_METHOD)
            for future in [call.future(b"") for _ in range(_BURST)]:
                future.result()

    return burst


def _aio_burst(make: Callable[[str], Any]) -> Callable[[str], None]:
    async def one(target: str) -> None:
        async with make(target) as channel:
            call = channel.unary_unary(_METHOD)
            await asyncio.gather(*(call(b"") for _ in range(_BURST)))

    return lambda target: asyncio.get_event_loop().run_until_complete(one(target))


def main() -> None:
    def plain(target: str) -> grpc.Channel:
        return grpc.insecure_channel(target, (ROUND_ROBIN, OWN_CONNECTIONS))

    asyncio.set_event_loop(asyncio.new_event_loop())
    heading("Fairness of round_robin (C10)")
    names = [str(number) for number in range(4)]
    backends = Backend.start_many(names, health=False)
    three = backends[:3]
    try:
        steady = f"{_THREADS} threads, {_CALLS} RPCs over 4 backends: max - min"
        burst = f"cold burst of {_BURST} over 3 backends: most on one"
        rows = [
            (steady, "<= 1", _steady(backends, grpclb.insecure_channel), _steady(backends, plain)),
            (
                f"{burst}, sync",
                "<= 15",
                _worst_of_burst(three, _sync_burst(grpclb.insecure_channel)),
                _worst_of_burst(three, _sync_burst(plain)),
            ),
            (
                f"{burst}, aio",
                "<= 15",
                _worst_of_burst(three, _aio_burst(grpclb.aio.insecure_channel)),
                "",
            ),
        ]
    finally:
        for backend in backends:
            backend.kill()
    table(("what", "goal", "grpclb", "plain grpcio"), rows)


if __name__ == "__main__":
    main()
