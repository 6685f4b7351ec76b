"""Fixtures of the fault tests: both stacks, shared backends, and guards against leaks and noise."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import re
import threading
from collections.abc import Callable, Iterator

import psutil
import pytest

from tests.faults.harness import AioLoop, Connect, eventually
from tests.support.backend import Backend


@pytest.fixture(scope="session")
def aio_loop() -> Iterator[AioLoop]:
    loop = AioLoop()
    yield loop
    loop.close()


@pytest.fixture(params=["sync", "aio"])
def connect(request: pytest.FixtureRequest, aio_loop: AioLoop) -> Iterator[Connect]:
    """Opens channels of one stack after the other."""
    opener = Connect(request.param, aio_loop)
    yield opener
    opener.close()


@pytest.fixture
def connect_sync(aio_loop: AioLoop) -> Iterator[Connect]:
    opener = Connect("sync", aio_loop)
    yield opener
    opener.close()


@pytest.fixture
def connect_aio(aio_loop: AioLoop) -> Iterator[Connect]:
    opener = Connect("aio", aio_loop)
    yield opener
    opener.close()


@pytest.fixture(scope="session")
def all_backends() -> Iterator[list[Backend]]:
    backends = Backend.start_many(["a", "b", "c", "d"])
    yield backends
    for backend in backends:
        backend.kill()


@pytest.fixture
def fleet(all_backends: list[Backend]) -> list[Backend]:
    """Four backends for tests that do them no harm; their counts begin at nought."""
    for backend in all_backends:
        backend.reset()
    return all_backends


Launch = Callable[..., list[Backend]]


@pytest.fixture
def launch() -> Iterator[Launch]:
    """Starts backends of this test's own, to be killed, frozen or restarted."""
    with contextlib.ExitStack() as stack:

        def start(*names: str, **options: object) -> list[Backend]:
            backends = Backend.start_many(names, **options)
            for backend in backends:
                stack.callback(backend.kill)
            return backends

        yield start


class LogGuard(logging.Handler):
    """Collects what grpclb logs at WARNING and above."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self._expected: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.name} {record.levelname} {record.getMessage()}")

    def expect(self, pattern: str) -> None:
        """Lines that match this are part of the test."""
        self._expected.append(pattern)

    def matching(self, pattern: str) -> list[str]:
        return [line for line in self.lines if re.search(pattern, line)]

    @property
    def unexpected(self) -> list[str]:
        return [x for x in self.lines if not any(re.search(p, x) for p in self._expected)]


@pytest.fixture(autouse=True)
def logs() -> Iterator[LogGuard]:
    """Fails the test for a warning of grpclb's that it does not `expect`."""
    guard, logger = LogGuard(), logging.getLogger("grpclb")
    logger.addHandler(guard)
    yield guard
    logger.removeHandler(guard)
    assert guard.unexpected == []


def _threads() -> set[threading.Thread]:
    return set(threading.enumerate())


def _connections() -> set[tuple[int, int]]:
    found = psutil.Process().net_connections("inet")
    return {(c.fd, c.raddr.port) for c in found if c.raddr}


@pytest.fixture(autouse=True)
def nothing_left(aio_loop: AioLoop, logs: LogGuard) -> Iterator[None]:
    """Fails the test if it leaves a thread, a connection or a task behind."""
    threads, connections, tasks = _threads(), _connections(), aio_loop.tasks()
    yield
    gc.collect()
    eventually(lambda: _threads() <= threads, 3, "threads ended")
    eventually(lambda: _connections() <= connections, 3, "connections closed")
    eventually(lambda: aio_loop.tasks() <= tasks, 3, f"tasks: {asyncio.all_tasks(aio_loop.loop)}")
