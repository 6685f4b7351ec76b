"""Backends in one process of its own, each a server on a port that can be closed and opened.

    with Backends("a", "b") as backends:
        backends.port("a")
        backends.close("a")          # its port refuses, its connections break
        backends.open("a")           # again, on the same port

``/test.Echo/<anything>`` answers with the backend's name. Metadata: ``x-delay`` (seconds);
``x-failures`` (so many attempts with this ``x-id`` end with UNAVAILABLE); ``x-report`` (the answer
is JSON: name, method, how many attempts failed, seconds left).
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

_ROOT = Path(__file__).resolve().parents[2]


class Backends:
    """The handle on that process."""

    def __init__(self, *names: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "integration.xds.backends", *names],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT, start_new_session=True,
        )  # fmt: skip
        self._ports: dict[str, int] = self._read()

    def port(self, name: str) -> int:
        return self._ports[name]

    def close(self, *names: str) -> None:
        self._ask("close", names)

    def open(self, *names: str) -> None:
        self._ask("open", names)

    def _ask(self, op: str, names: Sequence[str]) -> None:
        assert self._process.stdin is not None
        for name in names:
            self._process.stdin.write(f"{op} {name}\n".encode())
            self._process.stdin.flush()
            self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()


class _Echo(grpc.GenericRpcHandler):
    def __init__(self, name: str) -> None:
        self._name = name
        # The metadata that counts attempts cannot be relied on: C-core takes it out of an RPC
        # whose retries are grpclb's.
        self._attempts: Counter[tuple[str, str]] = Counter()

    def service(self, details: Any) -> grpc.RpcMethodHandler:
        method = details.method

        async def answer(request: bytes, context: Any) -> bytes:
            metadata = dict(context.invocation_metadata())
            if "x-delay" in metadata:
                await asyncio.sleep(float(metadata["x-delay"]))
            key = (metadata.get("x-id", ""), context.peer())
            failed = self._attempts[key]
            if failed < int(metadata.get("x-failures", 0)):
                self._attempts[key] += 1
                await context.abort(grpc.StatusCode.UNAVAILABLE, "as asked")
            if "x-report" in metadata:
                left = context.time_remaining()
                report = {"name": self._name, "method": method, "failed": failed, "left": left}
                return json.dumps(report).encode()
            return self._name.encode()

        return grpc.unary_unary_rpc_method_handler(answer)


async def _open(name: str, port: int = 0) -> tuple[Any, int]:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((_Echo(name),))
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    return server, port


async def main(names: Sequence[str]) -> None:
    running = {name: await _open(name) for name in names}
    print(json.dumps({name: port for name, (_, port) in running.items()}), flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        op, name = line.split()
        server, port = running[name]
        if op == "close":
            await server.stop(0)
        else:
            running[name] = await _open(name, port)
        print("{}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
