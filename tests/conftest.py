"""What every test must leave behind: nothing.

A test fails that leaves a thread of grpclb's, a task of its own loop, a socket, pipe or file, or
that has grpclb log a warning which it did not announce:

    @pytest.mark.expect_log("the resolver raised")     # regular expressions, found anywhere
    def test_...(): ...

    def test_...(expect_log): expect_log("no answer"); ...

Announcing a record allows it; where it is the point of the test, assert it with `caplog`. A test
that makes grpcio itself keep connections is marked `grpcio_leaks`, with the reason. Warnings and
exceptions that nobody could catch are errors by pytest's own settings.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import os
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings

T = TypeVar("T")
_GRACE = 2.0  # seconds for what ends a moment after the test; without a leak nothing waits
_FDS = "/proc/self/fd"
_HAS_FDS = os.path.isdir(_FDS)
# asyncio's complaint where grpc.aio's one poller is read by two loops, one of them in vain.
_GRPC_S_POLLER = "Exception in callback PollerCompletionQueue._handle_events"
# Descriptors that gRPC's and Python's own machinery opens once, at first use, and keeps.
_PROCESS_WIDE = ("anon_inode:", "/dev/", "/proc/", "/sys/")


class _Records(logging.Handler):
    """Collects what a test may have to answer for."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


_RECORDS = _Records()


# No property is about time, and a loaded machine takes any time for it.
settings.register_profile("any time", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any time")


def pytest_configure(config: pytest.Config) -> None:
    for marker in (
        "expect_log(*patterns): warnings of grpclb's that the test is allowed to cause",
        "grpcio_leaks(reason): grpcio itself keeps descriptors after what the test does",
    ):
        config.addinivalue_line("markers", marker)
    logging.getLogger("grpclb").addHandler(_RECORDS)
    logging.getLogger("asyncio").addHandler(_RECORDS)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was imported lives to the end: keep it out of every search for garbage."""
    gc.collect()
    gc.freeze()


_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[_FAILED] = report.failed
    return report


@pytest.fixture
def expect_log(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Announce a warning from within a test."""

    def announce(pattern: str) -> None:
        request.node.add_marker(pytest.mark.expect_log(pattern))

    return announce


@pytest.fixture(autouse=True)
def nothing_left_behind(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    threads, descriptors = _threads(), _descriptors()
    _RECORDS.records.clear()
    yield
    for record in (*_RECORDS.records, *caplog.get_records("call")):
        record.exc_info = None  # its frames hold channels; the text is kept
    leaks = _leaked_threads(threads)
    # The traceback of a test that failed holds whatever it had open.
    failed = request.node.stash.get(_FAILED, False)
    if not failed and request.node.get_closest_marker("grpcio_leaks") is None:
        leaks += _leaked_descriptors(descriptors)
    leaks += _unannounced(request.node)
    if leaks:
        pytest.fail("left behind:\n  " + "\n  ".join(leaks), pytrace=False)


@pytest.fixture(autouse=True)
def look_at_tasks(request: pytest.FixtureRequest, nothing_left_behind: None) -> None:
    """An async test's loop comes after `nothing_left_behind`, and is closed before it looks."""
    if inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        request.getfixturevalue("no_task_left_behind")


@pytest.fixture
async def no_task_left_behind() -> AsyncIterator[None]:
    """The tasks of an async test's loop."""
    before = asyncio.all_tasks()
    yield
    mine = asyncio.current_task()
    end = time.monotonic() + _GRACE
    while left := [t for t in asyncio.all_tasks() - before if t is not mine]:
        if time.monotonic() > end:
            pytest.fail("tasks left behind:\n  " + "\n  ".join(map(repr, left)), pytrace=False)
        await asyncio.sleep(0.002)


def _threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name.startswith("grpclb")}


def _leaked_threads(before: set[threading.Thread]) -> list[str]:
    left = _after_grace(lambda: _threads() - before)
    return [f"thread {t.name}" for t in left]


def _descriptors() -> set[str]:
    """Open sockets, pipes and files by their identity, as a number is soon taken again."""
    found = set()
    for number in os.listdir(_FDS) if _HAS_FDS else ():
        try:
            name = os.readlink(f"{_FDS}/{number}")
        except OSError:  # the one of the listing itself
            continue
        if not name.startswith(_PROCESS_WIDE):
            found.add(name)
    return found


def _leaked_descriptors(before: set[str]) -> list[str]:
    left = _after_grace(lambda: _descriptors() - before)
    if not left:
        return []
    sockets = {f"socket:[{os.fstat(c.fd).st_ino}]": c for c in _connections()}
    return [f"descriptor {name}: {sockets.get(name, '')}" for name in left]


def _connections() -> list[Any]:
    import psutil  # only to say more about a failure

    return list(psutil.Process().net_connections("all"))


def _after_grace(look: Callable[[], set[T]]) -> list[T]:
    left = look()
    if left:
        gc.collect()  # what was dropped without close() is given back by its finalizer
    end = time.monotonic() + _GRACE
    while left and time.monotonic() < end:
        time.sleep(0.01)
        left = look()
    return sorted(left, key=str)


def _unannounced(test: pytest.Item) -> list[str]:
    announced = [p for mark in test.iter_markers("expect_log") for p in mark.args]
    lines = []
    for record in _RECORDS.records:
        text = record.getMessage()
        of_asyncio = record.name.startswith("asyncio")
        if of_asyncio and (record.levelno < logging.ERROR or text.startswith(_GRPC_S_POLLER)):
            continue
        if not any(re.search(pattern, text) for pattern in announced):
            lines.append(f"{record.levelname} {record.name}: {text}")
    return lines
