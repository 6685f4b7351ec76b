"""`make demo` runs, and shows what it claims."""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def play(output: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "integration.demo", "--output", str(output)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=110,
    )


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_demo_shows_what_it_claims_and_draws_it(tmp_path: Path) -> None:
    """Its calls have two seconds: where the machine stood still, another run decides."""
    run = play(tmp_path)
    if run.returncode == 1:
        run = play(tmp_path)
    if run.returncode == 2 and sys.platform == "darwin":
        pytest.skip("platform: this system has no loopback addresses besides 127.0.0.1")
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stderr == ""
    texts = [
        element.text
        for element in ElementTree.parse(tmp_path / "demo.svg").iter(
            "{http://www.w3.org/2000/svg}text"
        )
    ]
    assert {"grpcio, ClusterIP", "grpclb, DNS", "pod-g"} <= set(texts)
