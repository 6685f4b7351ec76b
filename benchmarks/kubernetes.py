"""C5: from a change of an EndpointSlice to the first RPC on the new backend.

The API server is the tests' own, behind TLS, in a process of its own. Two backends listen on all of
127.0.0.0/8, so that every change brings an address to which nobody was connected before.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpclb
import grpclb.aio
import grpclb.kubernetes
from benchmarks.report import heading, table
from tests.support.backend import Backend, steer
from tests.support.kubernetes_objects import endpoint_object, slice_object

_CHANGES = 200
_TARGET = "kubernetes:///api.shop:grpc"
_ECHO = "/test.Echo/UnaryUnary"
_REPORT: dict[str, Any] = {"metadata": steer(report=True), "wait_for_ready": True, "timeout": 10}
_LIMIT = 20.0  # seconds for one change
_BETWEEN = 0.001  # seconds between two RPCs: the finest that is seen


class _Server:
    """The API server; `put` returns when it has the slice."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.kubernetes_tls"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        where = json.loads(self._read())
        self._folder = tempfile.TemporaryDirectory()
        ca_file, token_file = (Path(self._folder.name, name) for name in ("ca.crt", "token"))
        ca_file.write_text(where["ca"])
        token_file.write_text("token")
        self.resolver = grpclb.kubernetes.resolver(
            _TARGET, api_server=where["url"], ca_file=str(ca_file), token_file=str(token_file)
        )

    def put(self, name: str, port: int, *ips: str) -> None:
        endpoints = [endpoint_object(ip, pod=f"pod-{ip}") for ip in ips]
        raw = slice_object(name, "api", endpoints, ports=[("grpc", port)])
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(raw) + "\n")
        self._process.stdin.flush()
        self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate(timeout=10)
        self._folder.cleanup()


async def _measure(server: _Server, call: Callable[[], Awaitable[str]]) -> list[float]:
    """Seconds from the beginning of a put to the end of the first RPC on what it names."""
    backends = Backend.start_many(["even", "odd"], host="0.0.0.0")
    chance, found = random.Random(1), []
    try:
        # A slice for each, as their ports differ.
        for number in range(_CHANGES + 1):
            backend, other = backends[number % 2], backends[1 - number % 2]
            # Not in step with the coalescing of updates.
            await asyncio.sleep(chance.uniform(0.15, 0.25))
            began = time.monotonic()
            server.put(backend.name, backend.port, f"127.1.{number >> 8}.{number & 255}")
            await _until(call, backend.name)
            found.append(time.monotonic() - began)
            server.put(other.name, other.port)
            await _until(call, backend.name, row=4)  # the old one is gone
    finally:
        for backend in backends:
            backend.kill()
    return found[1:]  # the first is the start of the channel


async def _until(call: Callable[[], Awaitable[str]], name: str, row: int = 1) -> None:
    """RPCs until `row` of them, one after the other, were answered by `name`."""
    end, seen = time.monotonic() + _LIMIT, 0
    while seen < row:
        seen = seen + 1 if await call() == name else 0
        if time.monotonic() > end:
            raise AssertionError(f"no {row} RPCs in a row on {name} within {_LIMIT:g} s")
        await asyncio.sleep(_BETWEEN)


def _name(answer: bytes) -> str:
    name: str = json.loads(answer)["name"]
    return name


def _sync(server: _Server) -> list[float]:
    with grpclb.insecure_channel(_TARGET, resolver=server.resolver) as channel:
        stub = channel.unary_unary(_ECHO)

        async def call() -> str:
            return _name(stub(b"", **_REPORT))

        return asyncio.run(_measure(server, call))


def _aio(server: _Server) -> list[float]:
    async def run() -> list[float]:
        async with grpclb.aio.insecure_channel(_TARGET, resolver=server.resolver) as channel:
            stub = channel.unary_unary(_ECHO)

            async def call() -> str:
                return _name(await stub(b"", **_REPORT))

            return await _measure(server, call)

    return asyncio.run(run())


def _row(what: str, seconds: list[float]) -> tuple[str, ...]:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return (
        f"C5 {what}",
        "p50 <= 20 ms, p99 <= 100 ms",
        f"**{cuts[49] * 1e3:.1f} ms**",
        f"**{cuts[98] * 1e3:.1f} ms**",
        f"{max(seconds) * 1e3:.1f} ms",
    )


def main() -> None:
    if sys.platform != "linux":
        reason = "not all of 127.0.0.0/8 is this machine here"
        heading("Changes of EndpointSlices (C5)", f"Not measured: {reason}.")
        return
    heading(
        "Changes of EndpointSlices (C5)",
        f"{_CHANGES} pods put into a Service one by one, at the tests' own API server behind TLS, "
        "under one RPC after the other; each at an address to which nobody was connected before.",
    )
    rows = []
    for what, measure in (("sync", _sync), ("aio", _aio)):
        with _Server() as server:
            rows.append(_row(what, measure(server)))
    table(("put -> first RPC on the new backend", "goal", "p50", "p99", "most"), rows)


if __name__ == "__main__":
    main()
