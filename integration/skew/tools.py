"""kubectl, kind and docker: found or missed with a sentence that helps, and run."""

import shutil
import subprocess
from collections.abc import Sequence

from integration.skew.cluster import ClusterError

_WHAT_TO_DO = {
    "kubectl": "kubectl is not on PATH: install it (https://kubernetes.io/docs/tasks/tools/).",
    "kind": (
        "kind is not on PATH: install it (https://kind.sigs.k8s.io), or name a cluster that is\n"
        "there already with --context NAME (and an image that it can pull with --image IMAGE)."
    ),
    "docker": (
        "docker is not on PATH. It makes the image, and is what kind runs in. Without it, name a\n"
        "cluster with --context NAME and an image that it can pull with --image IMAGE; or see the\n"
        "same in network namespaces: make kind ARGS=--namespaces (Linux)."
    ),
}


def need(*tools: str) -> None:
    """ClusterError, which says what to do, if one is not on PATH or cannot work."""
    for tool in tools:
        if shutil.which(tool) is None:
            raise ClusterError(_WHAT_TO_DO[tool])
    if "docker" in tools and not succeeds("docker", "version"):
        raise ClusterError(
            "docker is installed, but its engine does not answer (`docker version` says more).\n"
            "Start it; or use --context and --image, or --namespaces, which do without."
        )


def succeeds(*command: str) -> bool:
    """Whether the command ends with exit code 0."""
    run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return run.returncode == 0


def output(*command: str, text: str | None = None, timeout: float = 60.0) -> str:
    """What the command prints when it reads `text`. ClusterError, in its own words, if it fails."""
    try:
        run = subprocess.run(
            command, input=text or "", capture_output=True, text=True, check=False, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        raise ClusterError(f"{_shown(command)}: no answer within {timeout:.0f} s") from None
    if run.returncode:
        raise ClusterError(f"{_shown(command)}: {(run.stderr or run.stdout).strip()}")
    return run.stdout


def show(*command: str) -> None:
    """Run a command that takes its time, with its own progress on the terminal."""
    print(f"$ {_shown(command)}", flush=True)
    if code := subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode:
        raise ClusterError(f"{_shown(command)}: exit code {code}")


def _shown(command: Sequence[str]) -> str:
    return " ".join(command)
