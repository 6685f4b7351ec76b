"""C6: what many READY backends cost while nothing happens, beside bare grpcio channels.

Each measurement runs in a process of its own (``python -m benchmarks.idle KIND PORT COUNT``), so
that its memory, threads and CPU are its own. Linux: every 127.x.y.z is an address of this machine,
so one server stands for all backends.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
import psutil

import grpclb
from benchmarks.report import heading, table
from benchmarks.servers import OWN_CONNECTIONS, UNARY, Servers
from grpclb.testing import ManualResolver

_SECONDS = 10.0
_COUNTS = (200, 1_000)
_GOALS = {200: "0.5 %", 1_000: "2 %"}
# Not ipv4:a,b,c,...: the authority of such a target is the whole list, too long for a header.
_TARGET = "manual:///idle"
_NO_SUBSET = ("grpclb.subset_size", 0)


def _addresses(port: int, count: int) -> list[str]:
    return [f"127.1.{number // 250}.{number % 250 + 1}:{port}" for number in range(count)]


def _report(memory_before: int, count: int, cpu: float) -> None:
    memory = psutil.Process().memory_info().rss - memory_before
    ours = sum(thread.name.startswith("grpclb") for thread in threading.enumerate())
    threads = len(os.listdir("/proc/self/task"))
    print(memory / count / 1024, cpu / _SECONDS * 100, ours, threads)


def _idle() -> float:
    """Seconds of CPU used while nothing is asked for."""
    time.sleep(2.0)  # what has to settle settles
    before = time.process_time()
    time.sleep(_SECONDS)
    return time.process_time() - before


async def _idle_aio() -> float:
    await asyncio.sleep(2.0)
    before = time.process_time()
    await asyncio.sleep(_SECONDS)
    return time.process_time() - before


def _bare_sync(addresses: Sequence[str]) -> None:
    before = psutil.Process().memory_info().rss
    channels: list[Any] = [
        grpc.insecure_channel(f"ipv4:{a}", (OWN_CONNECTIONS,)) for a in addresses
    ]
    for channel in channels:
        channel.unary_unary(UNARY)(b"x")
    _report(before, len(addresses), _idle())


def _balanced_sync(addresses: Sequence[str]) -> None:
    open_channel = grpclb.insecure_channel  # imports what it needs; that is no backend's memory
    before = psutil.Process().memory_info().rss
    resolver = ManualResolver(addresses)
    with open_channel(_TARGET, (_NO_SUBSET,), resolver=resolver) as channel:
        call = channel.unary_unary(UNARY)
        call(b"x")
        while not _all_ready(channel):
            time.sleep(0.1)
        for _ in addresses:
            call(b"x")
        _report(before, len(addresses), _idle())


def _all_ready(channel: grpclb.Channel | grpclb.aio.Channel) -> bool:
    return all(s["state"] == "READY" for s in channel.debug_snapshot()["subchannels"])


async def _bare_aio(addresses: Sequence[str]) -> None:
    before = psutil.Process().memory_info().rss
    channels: list[Any] = [
        grpc.aio.insecure_channel(f"ipv4:{a}", (OWN_CONNECTIONS,)) for a in addresses
    ]
    for channel in channels:
        await channel.unary_unary(UNARY)(b"x")
    _report(before, len(addresses), await _idle_aio())


async def _balanced_aio(addresses: Sequence[str]) -> None:
    open_channel = grpclb.aio.insecure_channel  # imports what it needs; that is no backend's memory
    before = psutil.Process().memory_info().rss
    resolver = ManualResolver(addresses)
    async with open_channel(_TARGET, (_NO_SUBSET,), resolver=resolver) as channel:
        call = channel.unary_unary(UNARY)
        await call(b"x")
        while not _all_ready(channel):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        for _ in addresses:
            await call(b"x")
        _report(before, len(addresses), await _idle_aio())


def _measure(kind: str, port: int, count: int) -> list[float]:
    """KiB per backend, CPU in % of a core, threads of ours, threads."""
    command = [sys.executable, "-m", "benchmarks.idle", kind, str(port), str(count)]
    return [float(number) for number in subprocess.check_output(command, text=True).split()]


def _row(stack: str, port: int, count: int) -> tuple[str, ...]:
    bare, ours = (_measure(f"{kind}-{stack}", port, count) for kind in ("bare", "balanced"))
    return (
        f"{stack}, {count} READY",
        f"**{ours[1]:.2f} %** (bare: {bare[1]:.2f} %), <= {_GOALS[count]}",
        f"**{ours[2]:.0f}** (all: {ours[3]:.0f}, bare: {bare[3]:.0f}), <= 2",
        f"**{ours[0] / bare[0]:.2f}** ({ours[0]:.0f} / {bare[0]:.0f} KiB), <= 1.3",
    )


def main(arguments: Sequence[str]) -> None:
    if arguments:
        kind, port, count = arguments
        addresses = _addresses(int(port), int(count))
        match kind:
            case "bare-sync":
                _bare_sync(addresses)
            case "balanced-sync":
                _balanced_sync(addresses)
            case "bare-aio":
                asyncio.run(_bare_aio(addresses))
            case "balanced-aio":
                asyncio.run(_balanced_aio(addresses))
        return
    heading(
        "Idle backends (C6)",
        f"CPU over {_SECONDS:.0f} s, each in a process of its own; no subset.",
    )
    with Servers(1, wildcard=True) as servers:
        rows = [_row(stack, servers.ports[0], n) for n in _COUNTS for stack in ("sync", "aio")]
    table(("what", "CPU of a core, goal", "threads of ours, goal", "memory / bare, goal"), rows)


if __name__ == "__main__":
    main(sys.argv[1:])
