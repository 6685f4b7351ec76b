"""C3 and C7: the import, and a new channel's way to its first RPC."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
from typing import Any

import grpc
import grpc.aio

import grpclb
from benchmarks.report import BALANCED, PLAIN, PLAIN_AGAIN, RATIO_COLUMNS, heading, ratio_row, table
from benchmarks.rounds import Contestant, Spread, race
from benchmarks.servers import OWN_CONNECTIONS, ROUND_ROBIN, UNARY, Servers

_IMPORTS, _CHANNELS = 25, 80
_HEAVY = ("dns", "kubernetes", "google.protobuf", "yaml", "opentelemetry")
_IMPORT = f"""
import sys, time
start = time.process_time()
import grpc
after_grpc = time.process_time()
import grpclb
after_grpclb = time.process_time()
grpclb.insecure_channel
after_sync = time.process_time()
grpclb.aio.insecure_channel
print(after_grpc - start, after_grpclb - start, after_sync - start, time.process_time() - start,
      *(name for name in {_HEAVY!r} if name in sys.modules))
"""


def _import_rows() -> list[tuple[str, ...]]:
    """Fresh processes with their bytecode at hand; CPU time, of which an import is made."""
    samples, heavy = [], set[str]()
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for _ in range(_IMPORTS + 1):
            said = subprocess.run(
                [sys.executable, "-c", _IMPORT],
                capture_output=True, check=True, text=True, env=environment,
            ).stdout.split()  # fmt: skip
            samples.append([float(seconds) * 1e3 for seconds in said[:4]])
            heavy.update(said[4:])
    del samples[0]  # it compiled
    whats = (
        ("C3 `import grpclb` / `import grpc`", "<= 1.2"),
        ("the same, and what a first sync channel imports", ""),
        ("the same, and what a first aio channel imports", ""),
    )
    plain = statistics.median(sample[0] for sample in samples)
    rows = []
    for index, (what, goal) in enumerate(whats, 1):
        ratios = Spread.of([sample[index] / sample[0] for sample in samples])
        ours = statistics.median(sample[index] for sample in samples)
        rows.append((what, goal, f"**{ratios}**; {ours:.0f} / {plain:.0f} ms of CPU"))
    found = ", ".join(sorted(heavy)) or "none"
    return [*rows, (f"C3 loaded of {', '.join(_HEAVY)}", "none", found)]


def _first_rpc_rows(target: str) -> list[tuple[str, ...]]:
    """Unit of work: a channel is made and does one RPC."""

    def sync_run(make: Any) -> Any:
        def run(units: int) -> Any:
            channel = make()
            channel.unary_unary(UNARY)(b"x")
            return channel.close

        return run

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)

    def aio_run(make: Any) -> Any:
        async def one() -> Any:
            channel = make()
            await channel.unary_unary(UNARY)(b"x")
            return channel

        def run(units: int) -> Any:
            channel = loop.run_until_complete(one())
            return lambda: loop.run_until_complete(channel.close())

        return run

    options = (ROUND_ROBIN, OWN_CONNECTIONS)

    def row(name: str, runs: dict[str, Any]) -> tuple[str, ...]:
        contestants = [Contestant(who, run) for who, run in runs.items()]
        results = race(contestants, rounds=_CHANNELS, units=1)
        return ratio_row(f"{name}, new channel to first RPC done", "<= 1.3", results)

    sync = {
        PLAIN: sync_run(lambda: grpc.insecure_channel(target, options)),
        BALANCED: sync_run(lambda: grpclb.insecure_channel(target)),
        PLAIN_AGAIN: sync_run(lambda: grpc.insecure_channel(target, options)),
    }
    aio = {
        PLAIN: aio_run(lambda: grpc.aio.insecure_channel(target, options)),
        BALANCED: aio_run(lambda: grpclb.aio.insecure_channel(target)),
        PLAIN_AGAIN: aio_run(lambda: grpc.aio.insecure_channel(target, options)),
    }
    rows = [row("C7 sync", sync)]
    with grpclb.insecure_channel(target) as other:  # so the control loop is running already
        other.unary_unary(UNARY)(b"x")
        rows.append(row("C7 sync, beside another channel", sync))
    rows.append(row("C7 aio", aio))
    loop.close()
    return rows


def main() -> None:
    heading("Import (C3)", f"{_IMPORTS} fresh processes, bytecode cached.")
    table(("what", "goal", "ratio (quartiles)"), _import_rows())
    heading(
        "First RPC (C7)", f"{_CHANNELS} new channels each, four backends, no shared connections."
    )
    with Servers(4) as servers:
        table(RATIO_COLUMNS, _first_rpc_rows(servers.target))


if __name__ == "__main__":
    main()
