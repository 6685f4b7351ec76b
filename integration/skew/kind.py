"""Get a cluster and an image: kind's, made if there is none, or what the user names."""

from collections.abc import Sequence
from pathlib import Path

from integration.skew import tools
from integration.skew.cluster import NAMESPACE, ClusterError

CLUSTER = "grpclb"
IMAGE = "grpclb-skew:dev"  # also in the manifests
_ROOT = Path(__file__).resolve().parents[2]
_FOLDER = _ROOT / "kind-cluster"


def prepare(context: str | None, image: str | None, build_args: Sequence[str]) -> tuple[str, str]:
    """The context and the image to use, once both are there. ClusterError says what is missing."""
    tools.need("kubectl")
    if context is None:
        context = f"kind-{CLUSTER}"
        _create_unless_there()
    if not tools.succeeds("kubectl", "--context", context, "version"):
        raise ClusterError(
            f"the cluster of context {context!r} does not answer "
            f"(kubectl --context {context} version says more)"
        )
    if image is None:
        image = IMAGE
        _build_and_load(context, build_args)
    return context, image


def remove(context: str | None) -> None:
    """Undo what a run left: our own kind cluster, or our namespace in the user's cluster."""
    if context is None:
        tools.need("kind")
        tools.show("kind", "delete", "cluster", "--name", CLUSTER)
    else:
        tools.need("kubectl")
        kubectl = ["kubectl", "--context", context]
        tools.show(*kubectl, "delete", "namespace", NAMESPACE, "--ignore-not-found")


def _create_unless_there() -> None:
    tools.need("kind")
    if CLUSTER not in tools.output("kind", "get", "clusters").split():
        tools.need("docker")
        config = str(_FOLDER / "kind.yaml")
        tools.show(
            *("kind", "create", "cluster", "--name", CLUSTER, "--config", config, "--wait", "180s")
        )


def _build_and_load(context: str, build_args: Sequence[str]) -> None:
    prefix, _, cluster = context.partition("-")
    if prefix != "kind":
        raise ClusterError(
            f"context {context!r} is not kind's, so an image made here would not get there.\n"
            "Build it (kind-cluster/Dockerfile), push it to where the cluster can pull it from,\n"
            "and name it with --image IMAGE."
        )
    tools.need("docker", "kind")
    extra = [part for argument in build_args for part in ("--build-arg", argument)]
    dockerfile = str(_FOLDER / "Dockerfile")
    tools.show("docker", "build", "--file", dockerfile, "--tag", IMAGE, *extra, str(_ROOT))
    tools.show("kind", "load", "docker-image", IMAGE, "--name", cluster)
