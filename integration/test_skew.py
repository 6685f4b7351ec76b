"""The comparison of kind-cluster/ in network namespaces: real pods, real NAT, real DNS."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import psutil
import pytest

from integration.skew.cluster import ClusterError
from integration.skew.namespaces import unshare_command

ROOT = Path(__file__).resolve().parents[1]


def start(output: Path) -> subprocess.Popen[str]:
    """The comparison, or a skip with the reason."""
    try:
        unshare_command()
    except ClusterError as error:
        pytest.skip(str(error))
    return subprocess.Popen(
        [sys.executable, "-m", "integration.skew", "--namespaces", "--output", str(output)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def play(output: Path) -> tuple[int, str]:
    """One run to its end: the exit code, and what it said."""
    with start(output) as run:
        try:
            said, _ = run.communicate(timeout=170)
        finally:
            run.kill()  # and with it every process in its namespaces
    return run.returncode, said


@pytest.mark.slow
@pytest.mark.timeout(360)
def test_all_that_is_claimed_is_seen(tmp_path: Path) -> None:
    """Some claims are of a second or two: where the machine stood still, another run decides."""
    code, said = play(tmp_path)
    if code == 1:
        code, again = play(tmp_path)
        said += again
    assert code == 0, said
    report = json.loads((tmp_path / "report.json").read_text())
    assert all(claim["held"] for claim in report["claims"])
    assert len(report["claims"]) == 13
    assert len(report["pods"]) >= 12
    ElementTree.parse(tmp_path / "report.svg")


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_nothing_behind(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        assert run.stdout is not None
        while run.stdout.readline() not in ("", "starting the clients\n"):
            pass
        processes = psutil.Process(run.pid).children(recursive=True)
        namespaces = {os.readlink(f"/proc/{process.pid}/ns/net") for process in processes}
        run.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert len(processes) >= 4  # the runner and three pods
    assert len(namespaces) >= 4
    assert alive == []
    assert namespaces.isdisjoint(network_namespaces())


def network_namespaces() -> set[str]:
    """Of all processes that can be looked at."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/ns/net"):
        with contextlib.suppress(OSError):  # it ended just now, or is another user's
            found.add(os.readlink(link))
    return found
