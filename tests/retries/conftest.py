"""Servers by script, and both stacks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.harness import AioLoop
from tests.retries.servers import Scripted
from tests.retries.stacks import AioStack, Stack, SyncStack


@pytest.fixture(scope="module")
def servers() -> Iterator[Scripted]:
    scripted = Scripted()
    yield scripted
    scripted.stop()


@pytest.fixture(scope="module")
def aio_loop() -> Iterator[AioLoop]:
    loop = AioLoop()
    yield loop
    loop.close()


@pytest.fixture(params=["sync", "aio"])
def stack(request: pytest.FixtureRequest, aio_loop: AioLoop) -> Iterator[Stack]:
    """Each of the two surfaces; its channels are closed at the end."""
    if request.param == "sync":
        sync = SyncStack()
        yield sync
        sync.end()
    else:
        aio = AioStack(aio_loop)
        yield aio
        aio.end()
