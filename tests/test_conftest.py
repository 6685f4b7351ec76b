"""The guards of `tests/conftest.py` guard."""

from __future__ import annotations

import pytest

pytest_plugins = "pytester"

_CONFTEST = """
from tests import conftest
from tests.conftest import *
conftest._GRACE = 0.05
"""

_INI = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
"""

_TESTS = """
import asyncio, logging, socket, threading
import pytest

kept = []
stop = threading.Event()

async def test_task():
    kept.append(asyncio.create_task(asyncio.sleep(100)))

def test_thread():
    kept.append(threading.Thread(target=stop.wait, name="grpclb-leaked"))
    kept[-1].start()

def test_descriptor():
    kept.append(socket.socket())

@pytest.mark.grpcio_leaks("no, but let us say so")
def test_announced_descriptor():
    kept.append(socket.socket())

def test_log():
    logging.getLogger("grpclb.anything").warning("unheard of")

def test_callback():
    loop = asyncio.new_event_loop()
    loop.call_soon(lambda: 1 // 0)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

@pytest.mark.expect_log("un.eard")
def test_announced_log():
    logging.getLogger("grpclb.anything").warning("unheard of")

def test_quiet_log(expect_log):
    expect_log("unheard")
    logging.getLogger("grpclb.anything").warning("unheard of")
    logging.getLogger("grpclb.anything").info("whatever")
    logging.getLogger("somebody.else").error("whatever")

async def test_nothing():
    await asyncio.create_task(asyncio.sleep(0))
    with socket.socket():
        pass

def test_end():  # of this file; gives all back
    stop.set()
    for thing in kept:
        if isinstance(thing, socket.socket):
            thing.close()
        elif isinstance(thing, threading.Thread):
            thing.join()
"""


@pytest.mark.slow
@pytest.mark.expect_log("unheard of", "Exception in callback")
def test_what_is_left_behind_is_found(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(_CONFTEST)
    pytester.makepyfile(_TESTS)
    pytester.makeini(_INI)
    result = pytester.runpytest_inprocess("-q", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=10, errors=5)
    result.stdout.fnmatch_lines_random(
        [
            "ERROR *::test_task *",
            "ERROR *::test_thread *",
            "ERROR *::test_descriptor *",
            "ERROR *::test_log *",
            "ERROR *::test_callback *",
            "  thread grpclb-leaked",
            "  descriptor socket:*",
            "  WARNING grpclb.anything: unheard of",
            "  ERROR asyncio: Exception in callback *",
        ]
    )
