"""Kubernetes Services as targets, with more to say about the way in than a target can.

A channel to ``kubernetes:///api.shop:grpc`` needs nothing from here: it uses the service account of
its pod, or outside of a cluster the kubeconfig. For another context, namespace or API server:

    import grpclb
    import grpclb.kubernetes

    target = "kubernetes:///api.shop:grpc"
    staging = grpclb.kubernetes.resolver(target, context="staging")
    channel = grpclb.insecure_channel(target, resolver=staging)

    # or for all such targets of the process, or for a scheme of its own
    grpclb.register_resolver("kubernetes", grpclb.kubernetes.factory(context="staging"))
"""

from __future__ import annotations

from collections.abc import Sequence

from grpclb.core.resolver import Resolver, ResolverContext, ResolverFactory
from grpclb.core.target import Target, parse_target
from grpclb.resolvers.kubernetes.build import build
from grpclb.resolvers.kubernetes.credentials import Access
from grpclb.resolvers.kubernetes.merge import FAMILIES

__all__ = ["factory", "resolver"]


def factory(
    *,
    context: str | None = None,
    kubeconfig: str | None = None,
    namespace: str | None = None,
    api_server: str | None = None,
    token_file: str | None = None,
    ca_file: str | None = None,
    client_cert_file: str | None = None,
    client_key_file: str | None = None,
    insecure_skip_tls_verify: bool = False,
    families: Sequence[str] = FAMILIES,
) -> ResolverFactory:
    """What `grpclb.register_resolver` takes. Raises ValueError for arguments that exclude others.

    `context` and `kubeconfig` (a path, or several joined as in KUBECONFIG) choose a cluster of a
    kubeconfig, `api_server` (a URL) one by its address; with none of them it is the pod's own.
    `namespace` is that of targets which have none. `token_file`, `ca_file` (PEM), and a client
    certificate with its key replace what would be used otherwise. `insecure_skip_tls_verify` sends
    the token to whoever answers. `families` are the address families to use, the preferred first.
    """
    access = Access(
        api_server,
        token_file,
        ca_file,
        client_cert_file,
        client_key_file,
        kubeconfig,
        context,
        insecure_skip_tls_verify,
    )

    def make(target: Target, context: ResolverContext) -> Resolver:
        return build(target, access, namespace=namespace, families=families)

    return make


def resolver(
    target: str,
    *,
    context: str | None = None,
    kubeconfig: str | None = None,
    namespace: str | None = None,
    api_server: str | None = None,
    token_file: str | None = None,
    ca_file: str | None = None,
    client_cert_file: str | None = None,
    client_key_file: str | None = None,
    insecure_skip_tls_verify: bool = False,
    families: Sequence[str] = FAMILIES,
) -> Resolver:
    """The resolver of one target, for the argument `resolver=` of a channel to the same target.

    The arguments are those of `factory`. Raises ValueError for a target that names no Service,
    and ImportError where a kubeconfig is needed and the extra ``kubernetes`` is not installed.
    """
    access = Access(
        api_server,
        token_file,
        ca_file,
        client_cert_file,
        client_key_file,
        kubeconfig,
        context,
        insecure_skip_tls_verify,
    )
    parsed = parse_target(target, ["kubernetes"])
    if parsed.scheme != "kubernetes":
        raise ValueError(f"target {target!r}: expected kubernetes:///service.namespace:port")
    return build(parsed, access, namespace=namespace, families=families)
