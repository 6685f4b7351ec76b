"""C3 and C7: the import, and a new channel's way to its first RPC."""

from __future__ import annotations

import asyncio
import os
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
print(after_grpc - start, time.process_time() - start,
      *(name for name in {_HEAVY!r} if name in sys.modules))
"""


def _import_rows() -> list[tuple[str, ...]]:
    """Fresh processes with their bytecode at hand; CPU time, of which an import is made."""
    ratios, plain, whole, heavy = [], [], [], set[str]()
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for number in range(_IMPORTS + 1):
            said = subprocess.run(
                [sys.executable, "-c", _IMPORT],
                capture_output=True, check=True, text=True, env=environment,
            ).stdout.split()  # fmt: skip
            heavy.update(said[2:])
            if number:  # the first one compiled
                plain.append(float(said[0]) * 1e3)
                whole.append(float(said[1]) * 1e3)
                ratios.append(whole[-1] / plain[-1])
    times = f"{Spread.of(plain).median:.0f} and {Spread.of(whole).median:.0f} ms of CPU"
    return [
        ("C3 `import grpclb` / `import grpc`", "<= 1.2", f"**{Spread.of(ratios)}**; {times}"),
        (f"C3 loaded of {', '.join(_HEAVY)}", "none", ", ".join(sorted(heavy)) or "none"),
    ]


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
    makers: dict[str, dict[str, Any]] = {
        "C7 sync": {
            PLAIN: sync_run(lambda: grpc.insecure_channel(target, options)),
            BALANCED: sync_run(lambda: grpclb.insecure_channel(target)),
            PLAIN_AGAIN: sync_run(lambda: grpc.insecure_channel(target, options)),
        },
        "C7 aio": {
            PLAIN: aio_run(lambda: grpc.aio.insecure_channel(target, options)),
            BALANCED: aio_run(lambda: grpclb.aio.insecure_channel(target)),
            PLAIN_AGAIN: aio_run(lambda: grpc.aio.insecure_channel(target, options)),
        },
    }
    rows = []
    for name, runs in makers.items():
        contestants = [Contestant(who, run) for who, run in runs.items()]
        results = race(contestants, rounds=_CHANNELS, units=1)
        rows.append(ratio_row(f"{name}, new channel to first RPC done", "<= 1.3", results))
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
