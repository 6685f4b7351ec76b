"""How long after a put into etcd the first RPC is on the new backend (FIGURES C5).

Two server processes listen on all of 127.0.0.0/8, so that every change brings an address which
nobody has connected to before; their names tell which of them has answered.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc

import grpclb
import grpclb.aio
from integration.etcd.cluster import Cluster
from tests.support.backend import Backend, steer

ECHO = "/test.Echo/UnaryUnary"
_REPORT: dict[str, Any] = {"metadata": steer(report=True), "wait_for_ready": True, "timeout": 10}
_LIMIT = 20.0  # seconds for one change
_BETWEEN = 0.001  # seconds between two RPCs: the finest that is seen


def _field(number: int, data: bytes) -> bytes:
    """One field of a message; `data` is short."""
    return bytes([number << 3 | 2, len(data)]) + data


class _Writer:
    """Puts and deletes over one connection, without a line of grpclb."""

    def __init__(self, etcd: Cluster, service: str) -> None:
        self._channel: Any = grpc.insecure_channel(etcd.members[0].address)
        self._put: Any = self._channel.unary_unary("/etcdserverpb.KV/Put")
        self._delete: Any = self._channel.unary_unary("/etcdserverpb.KV/DeleteRange")
        self._service = service

    def put(self, address: str) -> float:
        """When it began."""
        began = time.monotonic()
        key = f"{self._service}/{address}".encode()
        self._put(_field(1, key) + _field(2, address.encode()), timeout=5)
        return began

    def delete(self, address: str) -> None:
        self._delete(_field(1, f"{self._service}/{address}".encode()), timeout=5)

    def close(self) -> None:
        self._channel.close()


def _addresses(backends: list[Backend]) -> Iterator[tuple[str, str]]:
    """Names and addresses, in turns, all new."""
    number = 256
    while True:
        for backend in backends:
            number += 1
            yield backend.name, f"127.1.{number >> 8}.{number & 255}:{backend.port}"


def _name(answer: bytes) -> str:
    name: str = json.loads(answer)["name"]
    return name


async def measure(
    etcd: Cluster, service: str, count: int, call: Callable[[], Awaitable[str]]
) -> list[float]:
    """Seconds from the beginning of a put to the end of the first RPC on what it names.

    `call` makes one RPC and says who has answered.
    """
    backends = Backend.start_many(["even", "odd"], host="0.0.0.0")
    writer, chance, found = _Writer(etcd, service), random.Random(1), []
    try:
        addresses = _addresses(backends)
        name, current = next(addresses)
        writer.put(current)
        await _until(call, name)
        for name, address in addresses:
            # Not in step with the coalescing of updates, which is 50 and 100 ms.
            await asyncio.sleep(chance.uniform(0.15, 0.25))
            began = writer.put(address)
            await _until(call, name)
            found.append(time.monotonic() - began)
            if len(found) == count:
                return found
            writer.delete(current)
            current = address
            await _until(call, name, row=4)  # the old one is gone
        raise AssertionError("addresses do not end")
    finally:
        writer.close()
        for backend in backends:
            backend.kill()


async def _until(call: Callable[[], Awaitable[str]], name: str, row: int = 1) -> None:
    """RPCs until `row` of them, one after the other, were answered by `name`."""
    end, seen = time.monotonic() + _LIMIT, 0
    while seen < row:
        seen = seen + 1 if await call() == name else 0
        if time.monotonic() > end:
            raise AssertionError(f"no {row} RPCs in a row on {name} within {_LIMIT:g} s")
        await asyncio.sleep(_BETWEEN)


def measure_sync(etcd: Cluster, service: str, count: int) -> list[float]:
    with grpclb.insecure_channel(etcd.target(service)) as channel:
        stub = channel.unary_unary(ECHO)

        async def call() -> str:
            return _name(stub(b"", **_REPORT))

        return asyncio.run(measure(etcd, service, count, call))


def measure_aio(etcd: Cluster, service: str, count: int) -> list[float]:
    async def main() -> list[float]:
        async with grpclb.aio.insecure_channel(etcd.target(service)) as channel:
            stub = channel.unary_unary(ECHO)

            async def call() -> str:
                return _name(await stub(b"", **_REPORT))

            return await measure(etcd, service, count, call)

    return asyncio.run(main())
