"""From a ``kubernetes`` target and the user's arguments to a resolver."""

from __future__ import annotations

from collections.abc import Sequence

from grpclb.core.target import Target
from grpclb.resolvers.kubernetes import kubeconfig
from grpclb.resolvers.kubernetes.credentials import (
    Access,
    Credentials,
    FileCredentials,
    pod_namespace,
)
from grpclb.resolvers.kubernetes.merge import FAMILIES
from grpclb.resolvers.kubernetes.resolver import KubernetesResolver, Plan
from grpclb.resolvers.kubernetes.target import ServiceTarget, check_namespace


def build(
    target: Target,
    access: Access | None = None,
    *,
    namespace: str | None = None,
    families: Sequence[str] = FAMILIES,
) -> KubernetesResolver:
    """The resolver of `target`. Raises ValueError or ImportError that says what is wrong."""
    access = access or Access()
    service = ServiceTarget.of(target)
    if namespace is not None and service.namespace is None:
        namespace = check_namespace(namespace)
        service = ServiceTarget(service.service, namespace, service.port)
    if not families or not set(families) <= set(FAMILIES):
        raise ValueError(f"families must be some of {', '.join(FAMILIES)}, got {families!r}")
    if _needs_kubeconfig(access):
        kubeconfig.require_package()
    return KubernetesResolver(
        Plan(
            target.text,
            service,
            access,
            make_credentials,
            lambda: _namespace(access),
            tuple(dict.fromkeys(families)),
        )
    )


def make_credentials(access: Access) -> Credentials:
    """What `access` means on this machine."""
    if _needs_kubeconfig(access):
        return kubeconfig.KubeconfigCredentials(access)
    return FileCredentials(access)


def _needs_kubeconfig(access: Access) -> bool:
    return access.api_server is None and not access.in_cluster


def _namespace(access: Access) -> str:
    if _needs_kubeconfig(access):
        return kubeconfig.namespace(access)
    return pod_namespace() if access.in_cluster else "default"
