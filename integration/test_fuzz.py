"""A coverage-guided fuzzer for some seconds; for longer runs see integration/fuzz."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[1]
_MISSING = "platform: no Atheris here: `pip install atheris` has it for Linux on x86-64"
_SECONDS = 5


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_xds_bytes(tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        if os.environ.get("CI") == "true" and os.uname().machine == "x86_64":
            pytest.fail(_MISSING, pytrace=False)
        pytest.skip(_MISSING)
    options = [f"-max_total_time={_SECONDS}", "-max_len=4096", "-timeout=10", "-rss_limit_mb=1024"]
    done = subprocess.run(
        [sys.executable, "-m", "integration.fuzz.xds", str(tmp_path), *options],
        cwd=_ROOT, capture_output=True, text=True, timeout=100, check=False,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-4000:]
    runs = re.search(r"Done (\d+) runs", said)
    assert runs is not None, said[-4000:]
    assert int(runs[1]) > 1_000
