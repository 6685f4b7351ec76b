"""What `make kind` does with kubectl, kind and docker, and what it says when something is missing.

The tools are `fake_tools.py`; the runner, the recording, the figures and the report are the real
ones. (The pods and the calls are real in test_skew.py.)
"""

import json
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from integration.skew.__main__ import compare, main
from integration.skew.cluster import ClusterError
from integration.skew.kube import KubeCluster
from integration.skew.play import Timing

FAKES = Path(__file__).with_name("fake_tools.py")
QUICK = Timing(quiet=0.6, calls=30, ready=10, roll=10, settle=0.4, look=0.02)


class Tools:
    """A folder of fake tools on PATH, and the fake cluster behind them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bin, self.cluster = folder / "bin", folder / "cluster"
        self.cluster.mkdir()
        self.bin.mkdir()
        monkeypatch.setenv("PATH", str(self.bin))
        monkeypatch.setenv("FAKE_CLUSTER", str(self.cluster))
        for name in ("kubectl", "kind", "docker"):
            script = self.bin / name
            script.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKES} {name} "$@"\n')
            script.chmod(0o755)

    def trouble(self, name: str) -> None:
        """Have the tools behave badly, as fake_tools.py says."""
        (self.cluster / name).touch()

    def remove(self, name: str) -> None:
        """Take a tool off PATH."""
        (self.bin / name).unlink()

    @property
    def calls(self) -> list[str]:
        """Every command so far, without what is the same in all of kubectl's."""
        text = (self.cluster / "calls").read_text()
        return text.replace(" --context kind-grpclb --namespace grpclb-skew", "").splitlines()


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    return Tools(tmp_path, monkeypatch)


def in_order(calls: list[str], *parts: str) -> bool:
    """Whether there is a call with each part, one after another."""
    rest = iter(calls)
    return all(any(part in call for call in rest) for part in parts)


@pytest.mark.slow
def test_a_run_plays_the_scenario_and_reports_it_even_when_logs_break_off(
    tools: Tools, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tools.trouble("cut-logs")
    with KubeCluster("kind-grpclb", "registry.test/skew:1", retry=0.05) as cluster:
        code = compare(cluster, tmp_path / "out", QUICK)
    text = capsys.readouterr().out
    assert code == 0, text
    assert in_order(
        tools.calls,
        "delete deployment,job --all",
        "apply",
        "scale deployment/api --replicas=3",
        "rollout status",
        "logs --follow job/client-",
        "scale deployment/api --replicas=6",
        "rollout restart deployment/api",
        "delete pod api-",
        "delete job -l app=client",
    )
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(report["sides"]["d"]["six"].values()) == {report["sides"]["d"]["six"]["api-5d9c-p4"]}
    assert list(report["sides"]["b"]["six"].values())[3:] == [0, 0, 0]
    assert len(report["pods"]) == 13
    assert report["facts"]["cluster"] == "Kubernetes v1.99.0, kind-grpclb"
    assert report["claims"]
    ElementTree.parse(tmp_path / "out" / "report.svg")
    markdown = (tmp_path / "out" / "report.md").read_text()
    assert markdown.count("✓") == len(report["claims"])
    assert "from Ready to a new pod's first call | never | never | 0." in markdown
    for kind in ("Deployment", "Job"):
        manifest = (tools.cluster / f"{kind}.yaml").read_text()
        assert "image: registry.test/skew:1\n" in manifest
        assert "grpclb-skew:dev" not in manifest


@pytest.mark.slow
def test_pods_that_never_get_ready_are_shown_with_the_clusters_own_words(tools: Tools) -> None:
    tools.trouble("never-ready")
    with (
        KubeCluster("kind-grpclb", "image", retry=0.05) as cluster,
        pytest.raises(ClusterError, match=r"(?s)timed out waiting.*api-1 .*ErrImagePull.*Warning"),
    ):
        cluster.deploy(3)


@pytest.mark.slow
def test_a_client_that_fails_ends_the_run_with_its_last_words(tools: Tools) -> None:
    tools.trouble("client-fails")
    with KubeCluster("kind-grpclb", "image", retry=0.05) as cluster:
        cluster.start_clients()
        with pytest.raises(
            ClusterError, match=r"(?s)client \([abcd]\) failed:.*SomeError: a reason"
        ):
            wait_for_lines(cluster)


def wait_for_lines(cluster: KubeCluster) -> None:
    for _ in range(500):
        cluster.lines()
        time.sleep(0.02)


@pytest.mark.slow
def test_without_a_cluster_one_is_made_and_the_image_is_built_and_loaded(tools: Tools) -> None:
    from integration.skew import kind

    tools.trouble("no-cluster")
    assert kind.prepare(None, None, ["BASE_IMAGE=b"]) == ("kind-grpclb", "grpclb-skew:dev")
    assert in_order(
        tools.calls,
        "docker version",
        "kind create cluster --name grpclb --config",
        "docker build --file",
        "kind load docker-image grpclb-skew:dev --name grpclb",
    )
    assert any("--build-arg BASE_IMAGE=b" in call for call in tools.calls)


@pytest.mark.slow
def test_a_named_cluster_and_image_need_neither_docker_nor_kind(tools: Tools) -> None:
    from integration.skew import kind

    tools.remove("docker")
    tools.remove("kind")
    assert kind.prepare("prod", "registry.test/i:1", []) == ("prod", "registry.test/i:1")
    assert tools.calls == ["kubectl --context prod version"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("missing", "trouble", "arguments", "says"),
    [
        ("kubectl", None, [], "kubectl is not on PATH"),
        ("kind", None, [], "kind is not on PATH.*--context NAME"),
        ("docker", None, [], "docker is not on PATH.*--image IMAGE.*--namespaces"),
        (None, "no-engine", [], "engine does not answer"),
        (None, None, ["--context", "prod"], "'prod' is not kind's.*push it.*--image"),
    ],
)
def test_what_is_missing_is_said_with_what_to_do(
    tools: Tools,
    capsys: pytest.CaptureFixture[str],
    missing: str | None,
    trouble: str | None,
    arguments: list[str],
    says: str,
) -> None:

    if missing:
        tools.remove(missing)
    if trouble:
        tools.trouble(trouble)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert re.search(says, error, re.DOTALL), error
    assert "Traceback" not in error


@pytest.mark.slow
def test_down_deletes_our_cluster_and_only_our_namespace_in_the_users(tools: Tools) -> None:
    assert main(["--down"]) == 0
    assert main(["--down", "--context", "prod"]) == 0
    assert tools.calls == [
        "kind delete cluster --name grpclb",
        "kubectl --context prod delete namespace grpclb-skew --ignore-not-found",
    ]


def test_the_fakes_know_no_other_commands(tools: Tools) -> None:
    run = subprocess.run(["kubectl", "--context", "x", "drain"], capture_output=True, check=False)
    assert run.returncode == 1
