"""A service in a process of its own that registers itself in etcd, as a user would write it.

    service = Service.launch(stack="aio", target="etcd://127.0.0.1:2379/api", ttl=5)
    service.wait_registered()

By hand: ``python -m integration.etcd.service '{"target": "etcd://127.0.0.1:2379/api"}'``. RPCs are
those of `benchmarks.servers`' Unary: the answer is the process' own address.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import grpc
import grpc.aio

import grpclb.etcd

_ROOT = Path(__file__).resolve().parents[2]
ECHO = "/test.Echo/UnaryUnary"


class Service:
    """Handle on such a process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid
        self.address = ""

    @classmethod
    def launch(cls, **options: Any) -> Self:
        """`options`: target, stack ("sync" or "aio"), and arguments of the registration, of
        `serve` (drain, grace), and `work` (seconds that an RPC takes).
        """
        process = subprocess.Popen(
            [sys.executable, "-m", "integration.etcd.service", json.dumps(options)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT, start_new_session=True,
        )  # fmt: skip
        return cls(process)

    def wait_serving(self, timeout: float = 30.0) -> str:
        """The address, from the line that the process prints first."""
        assert self._process.stdout is not None
        if not self.address:
            ready, _, _ = select.select([self._process.stdout], [], [], timeout)
            line = self._process.stdout.readline() if ready else b""
            if not line:
                raise RuntimeError("the service did not start")
            self.address = line.decode().strip()
        return self.address

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: int) -> None:
        if self.alive:
            os.kill(self.pid, number)

    def wait(self, timeout: float = 30.0) -> int:
        """The exit code."""
        return self._process.wait(timeout)

    def kill(self) -> None:
        """SIGKILL, and reap. Harmless when repeated."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGKILL)
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()


def _echo(address: str, work: float) -> Any:
    def answer(request: bytes, context: Any) -> bytes:
        time.sleep(work)
        return address.encode()

    return answer


def _aio_echo(address: str, work: float) -> Any:
    async def answer(request: bytes, context: Any) -> bytes:
        await asyncio.sleep(work)
        return address.encode()

    return answer


def _prepare(server: Any, echo: Any, work: float) -> str:
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    handler: Any = grpc.unary_unary_rpc_method_handler(echo(address, work))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test.Echo", {"UnaryUnary": handler}),)
    )
    print(address, flush=True)
    return address


def _run(stack: str, target: str, serve: dict[str, Any], work: float, options: Any) -> None:
    if stack == "sync":
        server = grpc.server(ThreadPoolExecutor(16))
        address = _prepare(server, _echo, work)
        grpclb.etcd.SyncRegistration(target, address, **options).serve(server, **serve)
        return

    async def main() -> None:
        server = grpc.aio.server()
        address = _prepare(server, _aio_echo, work)
        await grpclb.etcd.Registration(target, address, **options).serve(server, **serve)

    asyncio.run(main())


def main(argv: Sequence[str]) -> None:
    options = json.loads(argv[0])
    serve = {name: options.pop(name) for name in ("drain", "grace") if name in options}
    stack, target = options.pop("stack", "sync"), options.pop("target")
    _run(stack, target, serve, options.pop("work", 0.0), options)


if __name__ == "__main__":
    main(sys.argv[1:])
