"""``xds`` targets with a bootstrap that does not come from the environment.

A channel to ``xds:///service`` needs nothing from here: it reads the bootstrap that
``GRPC_XDS_BOOTSTRAP`` or ``GRPC_XDS_BOOTSTRAP_CONFIG`` names, as every gRPC client does. For
another one, or for several in one process:

    import grpclb
    import grpclb.xds

    target = "xds:///api.shop"
    staging = grpclb.xds.resolver(target, bootstrap="/etc/staging/bootstrap.json")
    channel = grpclb.insecure_channel(target, resolver=staging)

    # or for all such targets of the process, or for a scheme of its own
    grpclb.register_resolver("xds", grpclb.xds.factory({"xds_servers": [...]}))

Channels with the same bootstrap (on one loop: all sync ones) share one stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from grpclb.control.registries import POLICIES
from grpclb.core.resolver import Resolver, ResolverContext, ResolverFactory
from grpclb.core.target import parse_target
from grpclb.resolvers.xds import build
from grpclb.resolvers.xds.bootstrap import Source, load_bootstrap

__all__ = ["factory", "resolver"]


def factory(bootstrap: Source | None = None) -> ResolverFactory:
    """What `grpclb.register_resolver` takes.

    `bootstrap` is a dict, JSON text or the path of a file, which is read for each channel; None
    reads the environment. Raises ValueError (for a dict or text at once) that names the mistake.
    """
    if isinstance(bootstrap, Mapping):
        bootstrap = load_bootstrap(bootstrap)
    return build.factory(POLICIES, bootstrap)


def resolver(
    target: str,
    *,
    bootstrap: Source | None = None,
    options: Sequence[tuple[str, Any]] = (),
) -> Resolver:
    """A resolver of `target`, for a channel's `resolver=`; `options` are the channel's own.

    Raises ValueError that says what is wrong with the target or the bootstrap.
    """
    scheme = target.partition(":")[0]
    context = ResolverContext(Random(), dict(options))
    return factory(bootstrap)(parse_target(target, (scheme,)), context)
