"""Fixtures of the fault tests: both stacks, shared backends, and guards against leaks and noise."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import re
from collections.abc import Callable, Iterator

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
    """What grpclb logs at WARNING and above; `tests.conftest` fails a test that expects none."""

    def __init__(self, announce: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self.expect = announce

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.name} {record.levelname} {record.getMessage()}")

    def matching(self, pattern: str) -> list[str]:
        return [line for line in self.lines if re.search(pattern, line)]


@pytest.fixture
def logs(expect_log: Callable[[str], None]) -> Iterator[LogGuard]:
    """Collects grpclb's warnings; `expect` announces those that belong to the test."""
    guard, logger = LogGuard(expect_log), logging.getLogger("grpclb")
    logger.addHandler(guard)
    yield guard
    logger.removeHandler(guard)


@pytest.fixture(autouse=True)
def no_task_on_the_aio_loop(aio_loop: AioLoop) -> Iterator[None]:
    """As `nothing_left_behind`, for the loop of the aio clients, which outlives the test."""
    tasks = aio_loop.tasks()
    yield
    gc.collect()
    eventually(lambda: aio_loop.tasks() <= tasks, 3, f"tasks: {asyncio.all_tasks(aio_loop.loop)}")
