"""The real kubectl understands what the runner says to it; no cluster is needed for that."""

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from integration.skew.kube import KubeCluster
from integration.test_kind_runner import Tools

ROOT = Path(__file__).resolve().parents[1]
KUBECTL = shutil.which("kubectl")
# A cluster that is not there: port 1 of this machine refuses connections.
CONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: none, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: nobody, user: {token: none}}]
contexts: [{name: kind-grpclb, context: {cluster: none, user: nobody}}]
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        KUBECTL is None, reason="needs kubectl (on Debian: apt-get install kubernetes-client)"
    ),
]


def kubectl(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    config = folder / "kubeconfig"
    config.write_text(CONFIG)
    command = [KUBECTL or "", f"--kubeconfig={config}", *arguments]
    return subprocess.run(
        command, input="", capture_output=True, text=True, check=False, timeout=30
    )


def test_every_command_of_a_run_is_one_of_kubectl_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        tools = Tools(tmp_path, patch)
        with KubeCluster("kind-grpclb", "image", retry=0.05) as cluster:
            cluster.deploy(3)
            cluster.start_clients()
            cluster.scale(6)
            cluster.roll()
            cluster.delete_now("api-5d9c-p1")
            cluster.trouble()
            cluster.facts()
            time.sleep(0.3)
            cluster.stop_clients()
        calls = (tools.cluster / "calls").read_text().splitlines()
    commands = sorted({call for call in calls if " apply " not in call})
    assert len(commands) >= 15
    for command in commands:
        run = kubectl(tmp_path, *command.split()[1:])
        assert "refused" in run.stderr, f"{command}: {run.stderr}"


def test_a_command_that_is_none_would_be_seen(tmp_path: Path) -> None:
    run = kubectl(tmp_path, "--context", "kind-grpclb", "get", "pods", "--output-watch-event")
    assert "refused" not in run.stderr
    assert "unknown flag" in run.stderr


def test_the_manifests_are_a_kustomization(tmp_path: Path) -> None:
    run = kubectl(tmp_path, "kustomize", str(ROOT / "kind-cluster" / "manifests"))
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("\nkind: Service\n") == 2
