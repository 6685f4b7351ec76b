"""The backends that all rows share."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from tests.parity.harness import Place
from tests.support.backend import Backend
from tests.support.tls import Authority


@pytest.fixture(scope="session")
def place() -> Iterator[Place]:
    authority = Authority()
    # Bound and not listening: every connection is refused, and nobody else can get the port.
    with (
        asyncio.Runner() as runner,
        socket.socket() as deaf,
        Backend.start(name="parity") as backend,
        Backend.start(name="tls", tls=authority.server("localhost", "127.0.0.1")) as tls,
    ):
        deaf.bind(("127.0.0.1", 0))
        yield Place(backend, tls, authority, f"127.0.0.1:{deaf.getsockname()[1]}", runner)
