"""Forks and exits of processes with control-plane RPCs under way, and with etcd's watch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.faults.processes import run_forks
from tests.support.backend import Backend
from tests.support.fake_etcd import FakeEtcd

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="platform: no os.fork here"),
]


def run(program: str, *args: str, support: str | None) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "GRPC_ENABLE_FORK_SUPPORT"}
    if support is not None:
        environment["GRPC_ENABLE_FORK_SUPPORT"] = support
    return subprocess.run(
        [sys.executable, "-m", f"tests.resolvers.programs.{program}", *args],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=environment,
    )


def forks(children: int, support: str | None) -> tuple[dict[str, Any], str]:
    with Backend.start() as backend:
        done = run("rpc_forks", backend.address, str(children), support=support)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    # Whatever becomes of the children: the parent goes on at once.
    assert result["failures"] == []
    assert all(result["streams_went_on"])
    assert result["interrupted"] >= children
    assert result["slowest_fork"] < 2 * 3
    assert result["threads"] == ["MainThread"]
    return result, done.stderr


@pytest.mark.parametrize("support", ["1", None])
def test_forks(support: str | None) -> None:
    result, stderr = forks(20, support)
    assert result["children"].count(0) >= (20 if support else 18), stderr


def test_control_fork_support_that_is_turned_off() -> None:
    """grpcio's own preparation missing, the children hang: what is tested above is not nothing."""
    result, _ = forks(2, "0")
    assert any(result["children"])


@pytest.mark.parametrize("mode", ["unused", "used"])
def test_a_channel_that_follows_etcd_is_inherited(mode: str) -> None:
    with FakeEtcd() as etcd, Backend.start() as one, Backend.start() as other:
        etcd.put("shop/1", one.address)
        etcd.put("shop/2", other.address)
        target = f"etcd://{etcd.endpoint}/shop"
        found, stderr = run_forks(mode, "os.fork", target, 10, "1")
    assert found["children"] == [0] * 10, (found, stderr)
    assert found["parent_failures"] == []
    assert found["slowest_fork"] <= 2 * 3


@pytest.mark.parametrize(
    "shape",
    ["on_a_daemon_thread", "on_a_loop_that_just_stops", "on_a_closed_loop", "by_a_signal"],
)
def test_exits(shape: str) -> None:
    with Backend.start() as backend:
        done = run("rpc_exits", shape, backend.address, support=None)
    assert (done.returncode, done.stderr) == (7, "")
