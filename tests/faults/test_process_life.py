"""Exit and fork with open channels: FIGURES F48, F49; more forks run in integration/."""

from __future__ import annotations

import os

import pytest

from tests.faults.harness import target_of
from tests.faults.processes import run_forks, run_to_the_end
from tests.faults.programs.exits import SHAPES
from tests.support.backend import Backend

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("shape", SHAPES)
def test_exit_without_close(fleet: list[Backend], shape: str) -> None:
    ended = run_to_the_end("exits", shape, target_of(fleet[:2]), 7)
    assert ended.code == (1 if shape == "unhandled" else 7)
    assert ended.stderr == ""
    assert ended.seconds < 3  # 1 s, with slack


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("mode", ["unused", "used"])
@pytest.mark.parametrize("fork_support", [None, "1"])
def test_a_child_uses_the_channel_of_its_parent(
    fleet: list[Backend], mode: str, fork_support: str | None
) -> None:
    found, stderr = run_forks(mode, "os.fork", target_of(fleet[:2]), 3, fork_support)
    assert found["children"] == [0, 0, 0], stderr
    assert found["parent_failures"] == []
    assert found["slowest_fork"] < 3 * 2
    # Each child whose parent is not set up for it says so, once.
    warned = 3 if (mode, fork_support) == ("used", None) else 0
    assert stderr.count("grpclb.fork: forked after a channel was used") == warned
