"""The files of kind-cluster/: valid Kubernetes, of one piece, and enough for the image."""

import itertools
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from integration.skew import cluster, kind
from integration.skew.workload import PRE_STOP, Wanted

HOW = "needs the extra `integration`, which `make integration` installs"
kubernetes_validate = pytest.importorskip("kubernetes_validate", reason=HOW)
yaml = pytest.importorskip("yaml", reason=HOW)

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "kind-cluster"
FILES = sorted(
    file for file in (FOLDER / "manifests").glob("*.yaml") if file.stem != "kustomization"
)
OLDEST, NEWEST = "1.29", "1.35"


def documents(file: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(file.read_text(encoding="utf-8")))


def everything() -> dict[tuple[str, str], dict[str, Any]]:
    """Each object by kind and name."""
    found = [document for file in FILES for document in documents(file)]
    objects = {(d["kind"], d["metadata"]["name"]): d for d in found}
    assert len(objects) == len(found)
    return objects


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_a_manifest_is_valid_to_the_letter(file: Path, version: str) -> None:
    for document in documents(file):
        kubernetes_validate.validate(document, version, strict=True)


def test_a_mistake_would_be_seen() -> None:
    deployment = everything()["Deployment", "api"]
    deployment["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, NEWEST, strict=True)


def test_all_is_in_the_one_namespace_and_kustomize_lists_all_but_the_clients() -> None:
    for (what, _), document in everything().items():
        assert what == "Namespace" or document["metadata"]["namespace"] == cluster.NAMESPACE
    listed = yaml.safe_load((FOLDER / "manifests" / "kustomization.yaml").read_text())
    assert {*listed["resources"], "clients.yaml"} == {file.name for file in FILES}


def test_both_services_have_the_deployments_pods_and_one_is_headless() -> None:
    objects = everything()
    template = objects["Deployment", "api"]["spec"]["template"]
    container = template["spec"]["containers"][0]
    named = {port["name"]: port["containerPort"] for port in container["ports"]}
    for name, address in ((cluster.SERVICE, None), (cluster.HEADLESS, "None")):
        spec = objects["Service", name]["spec"]
        assert spec["selector"].items() <= template["metadata"]["labels"].items()
        assert spec.get("clusterIP") == address
        (port,) = spec["ports"]
        assert named[port["targetPort"]] == port["port"] == cluster.PORT


def test_the_deployment_drains_and_replaces_pods_as_the_namespaces_do() -> None:
    spec = everything()["Deployment", "api"]["spec"]
    pod = spec["template"]["spec"]
    container = pod["containers"][0]
    assert container["readinessProbe"]["grpc"]["port"] == cluster.PORT
    sleep, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert sleep == "sleep"
    assert int(seconds) >= PRE_STOP
    assert pod["terminationGracePeriodSeconds"] > int(seconds) + 5
    rolling = spec["strategy"]["rollingUpdate"]
    assert rolling == {"maxSurge": f"{Wanted(6).surge:.0%}", "maxUnavailable": 0}


def test_the_jobs_are_the_four_clients_and_only_d_has_a_token_which_reads_slices_alone() -> None:
    objects = everything()
    seen = {}
    for (what, name), job in objects.items():
        if what == "Job":
            pod = job["spec"]["template"]["spec"]
            side, target = pod["containers"][0]["args"]
            assert name == f"client-{side}"
            seen[side] = target
            account = pod.get("serviceAccountName")
            assert account == ("client" if side == "d" else None)
            assert (account is None) == (pod.get("automountServiceAccountToken") is False)
    assert seen == dict(cluster.TARGETS)
    (role,) = [document for (what, _), document in objects.items() if what == "Role"]
    assert role["rules"] == [
        {
            "apiGroups": ["discovery.k8s.io"],
            "resources": ["endpointslices"],
            "verbs": ["list", "watch"],
        }
    ]
    binding = objects["RoleBinding", "client-reads-endpointslices"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert [subject["name"] for subject in binding["subjects"]] == ["client"]


def test_the_runner_s_image_is_the_one_in_the_manifests() -> None:
    texts = [file.read_text() for file in FILES]
    images = [*itertools.chain(*(re.findall(r"image: (.*)\n", text) for text in texts))]
    assert images == [kind.IMAGE] * 5


@pytest.mark.slow
@pytest.mark.parametrize("program", ["pod", "client"])
def test_the_image_has_what_the_programs_import(tmp_path: Path, program: str) -> None:
    """Only the files that the Dockerfile copies, laid out as it does."""
    dockerfile = (FOLDER / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (.+)$", dockerfile, re.MULTILINE):
        *sources, destination = line.split()
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, tmp_path / destination)
            else:
                folder = tmp_path / destination
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, folder)
    check = f"import integration.skew.{program} as p, grpclb; print(p.__file__, grpclb.__file__)"
    run = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, '.'); {check}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert all(path.startswith(str(tmp_path)) for path in run.stdout.split()), run.stdout


def test_base_image_and_package_index_are_arguments() -> None:
    dockerfile = (FOLDER / "Dockerfile").read_text()
    arguments = set(re.findall(r"^ARG (\w+)", dockerfile, re.MULTILINE))
    assert {"BASE_IMAGE", "PIP_INDEX_URL"} <= arguments
    assert re.findall(r"^FROM (.+)$", dockerfile, re.MULTILINE) == ["${BASE_IMAGE}"]
