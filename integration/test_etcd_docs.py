"""The service and the client of docs/resolvers/etcd.md do what the page says they do."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from integration.etcd.cluster import Cluster
from tests.faults.harness import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

_ROOT = Path(__file__).resolve().parents[1]
PAGE = _ROOT / "docs/resolvers/etcd.md"


def programs() -> dict[str, str]:
    """The programs of the page, by the file name in their first line."""
    blocks = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return dict(blocks)


def test_they_are_short() -> None:
    assert set(programs()) == {"service.py", "client.py"}
    for name, text in programs().items():
        assert len(text.splitlines()) <= 40, name


def test_they_find_each_other(etcd: Cluster, tmp_path: Path) -> None:
    for name, text in programs().items():
        (tmp_path / name).write_text(text)
    environment = {
        **os.environ,
        "GRPCLB_ETCD_ENDPOINTS": etcd.addresses,
        "POD_IP": "127.0.0.1",
        "PYTHONPATH": str(_ROOT),
    }
    with contextlib.ExitStack() as stack:

        def start(name: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, name], cwd=tmp_path, env=environment,
                stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return process

        services = [start("service.py") for _ in range(2)]
        client = start("client.py")
        assert client.stdout is not None
        eventually(lambda: len(etcd.api.items("shop/127")) == 2, 30)
        both = {f"hello from {key.rpartition('/')[2]}" for key in etcd.api.items("shop/127")}
        said: set[str] = set()
        while said != both:
            said.add(client.stdout.readline().strip())
        services[0].send_signal(signal.SIGTERM)
        assert services[0].wait(20) == 0
        (key,) = etcd.api.items("shop/127")
        left = f"hello from {key.rpartition('/')[2]}"
        row = 0
        while row < 5:
            row = row + 1 if client.stdout.readline().strip() == left else 0
        assert client.poll() is None, "no RPC of its failed"
        services[1].send_signal(signal.SIGINT)
        assert services[1].wait(20) == 0
        assert etcd.api.items("shop/127") == {}
