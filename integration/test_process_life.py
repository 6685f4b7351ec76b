"""Fork and leaks at full length: FIGURES F46, F49, F50. The short ones are in tests/faults."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.faults.harness import target_of
from tests.faults.processes import run_forks
from tests.support.backend import Backend

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork"),
]


@pytest.mark.parametrize("how", ["os.fork", "multiprocessing"])
@pytest.mark.parametrize("fork_support", [None, "1"])
@pytest.mark.parametrize("mode", ["unused", "used"])
def test_twenty_children(
    fleet: list[Backend], mode: str, fork_support: str | None, how: str
) -> None:
    found, stderr = run_forks(mode, how, target_of(fleet), 20, fork_support)
    promised = 18 if (mode, fork_support) == ("used", None) else 20
    assert found["children"].count(0) >= promised, (found, stderr)
    assert found["parent_failures"] == []
    assert found["slowest_fork"] <= 2 * 3


def test_control_fork_support_that_is_turned_off(fleet: list[Backend]) -> None:
    """grpcio's own preparation missing, children hang or crash; grpclb says so beforehand."""
    found, stderr = run_forks("used", "os.fork", target_of(fleet), 2, "0")
    assert any(found["children"]), found
    assert stderr.count("RPCs in this child are likely to hang") == 2
    assert found["parent_failures"] == []


def test_a_fork_in_the_middle_of_rpcs_does_not_stop_the_parent(fleet: list[Backend]) -> None:
    """The children are promised nothing; that the program ended says that no fork got stuck."""
    found, _ = run_forks("busy", "os.fork", target_of(fleet), 10, None)
    assert len(found["children"]) == 10
    assert found["parent_failures"] == []


@pytest.mark.parametrize("stack", ["sync", "aio"])
def test_a_hundred_channels_leave_nothing(fleet: list[Backend], stack: str) -> None:
    command = [
        sys.executable,
        "-X",
        "dev",
        "-W",
        "error",
        "-m",
        "tests.faults.programs.come_and_go",
    ]
    command += [stack, target_of(fleet), "100"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    # asyncio's debug mode tells of steps over 0.1 s, which a busy machine has.
    noise = [line for line in done.stderr.splitlines() if not line.startswith("Executing <")]
    assert (done.returncode, noise) == (0, []), done.stdout + done.stderr
