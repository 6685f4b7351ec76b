"""Lean echo servers in processes of their own: less time in the server, more of it in the client.

    with Servers(4) as servers:
        grpc.insecure_channel(servers.target)       # ipv4:127.0.0.1:p,127.0.0.1:q,...

Methods, bytes in and out: ``/bench.Echo/Unary``, ``/bench.Echo/Down`` (as many empty responses as
the decimal number in the request), ``/bench.Echo/Up`` and ``/bench.Echo/Both``;
``/bench.Echo/Flaky`` is Unary, but ends one RPC in a hundred with UNAVAILABLE.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

_ROOT = Path(__file__).resolve().parents[1]

UNARY, DOWN, UP, BOTH, FLAKY = (
    f"/bench.Echo/{name}" for name in ("Unary", "Down", "Up", "Both", "Flaky")
)
ROUND_ROBIN = ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}')
OWN_CONNECTIONS = ("grpc.use_local_subchannel_pool", 1)  # no connection is another channel's


class Servers:
    """`processes` servers; each listens on `ports` ports, or on one port of all loopback addresses.

    With `wildcard` (Linux) ``127.x.y.z:port`` is an address of the server for any x, y, z.
    """

    def __init__(self, processes: int, *, ports: int = 1, wildcard: bool = False) -> None:
        host = "0.0.0.0" if wildcard else "127.0.0.1"
        command = [sys.executable, "-m", "benchmarks.servers", host, str(ports)]
        self._processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT)
            for _ in range(processes)
        ]
        self.ports: list[int] = []
        for process in self._processes:
            assert process.stdout is not None
            self.ports += map(int, process.stdout.readline().split())

    @property
    def addresses(self) -> list[str]:
        return [f"127.0.0.1:{port}" for port in self.ports]

    @property
    def target(self) -> str:
        return "ipv4:" + ",".join(self.addresses)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()


async def _unary(request: bytes, context: Any) -> bytes:
    return request


async def _flaky(request: bytes, context: Any) -> bytes:
    if random.random() < 0.01:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "one in a hundred")
    return request


async def _down(request: bytes, context: Any) -> AsyncIterator[bytes]:
    for _ in range(int(request)):
        yield b""


async def _up(requests: AsyncIterator[bytes], context: Any) -> bytes:
    async for _ in requests:
        pass
    return b""


async def _both(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


async def _serve(host: str, ports: int) -> None:
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    handlers: dict[str, Any] = {
        "Unary": grpc.unary_unary_rpc_method_handler(_unary),
        "Flaky": grpc.unary_unary_rpc_method_handler(_flaky),
        "Down": grpc.unary_stream_rpc_method_handler(_down),
        "Up": grpc.stream_unary_rpc_method_handler(_up),
        "Both": grpc.stream_stream_rpc_method_handler(_both),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", handlers),))
    bound = [server.add_insecure_port(f"{host}:0") for _ in range(ports)]
    await server.start()
    print(*bound, flush=True)
    # The end of standard input is the end of whoever started this.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2])))
