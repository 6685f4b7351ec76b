"""From an ``xds`` target to a resolver (A27, A47)."""

from __future__ import annotations

import functools

from grpclb.core.balancer import Policy
from grpclb.core.registry import Registry
from grpclb.core.resolver import Resolver, ResolverContext, ResolverFactory
from grpclb.core.target import Target, parse_target
from grpclb.resolvers.dns.build import build as build_dns
from grpclb.resolvers.xds.bootstrap import Bootstrap, Source, load_bootstrap
from grpclb.resolvers.xds.client import shared_client
from grpclb.resolvers.xds.kinds import Kinds
from grpclb.resolvers.xds.names import fill
from grpclb.resolvers.xds.resolver import Plan, XdsResolver

_COALESCING_MS = "grpclb.update_coalescing_ms"
_DEFAULT_COALESCING_MS = 100
_GRACE = 1.0


def factory(policies: Registry[Policy], bootstrap: Source | None = None) -> ResolverFactory:
    """What makes resolvers of ``xds`` targets, with clusters' policies from this registry.

    Without a bootstrap it is read from the environment, for each channel anew.
    """
    kinds = Kinds.of(policies)

    def make(target: Target, context: ResolverContext) -> Resolver:
        return build(target, context, load_bootstrap(bootstrap), kinds, policies)

    return make


def build(
    target: Target,
    context: ResolverContext,
    bootstrap: Bootstrap,
    kinds: Kinds,
    policies: Registry[Policy],
) -> XdsResolver:
    """The resolver of `target`. Raises ValueError for one that the bootstrap knows no way to.

    Raises ImportError that names the extra for credentials that are not installed: here, so that
    it is an error when the channel is made.
    """
    if not target.endpoint:
        raise ValueError(f"target {target.text!r}: nothing after xds:///; write xds:///service")
    template = bootstrap.listener_template
    if target.authority:
        authority = bootstrap.authority(target.authority)
        if authority is None:
            known = ", ".join(sorted(a.name for a in bootstrap.authorities)) or "none"
            raise ValueError(
                f"target {target.text!r}: the bootstrap has no authority {target.authority!r}; "
                f"known: {known}"
            )
        template = authority.listener_template
    given = context.options.get("grpc.default_authority")
    plan = Plan(
        target.text,
        fill(template, target.endpoint),
        given if isinstance(given, str) and given else target.endpoint,
        kinds,
        policies,
        # The channel may keep an update back for so long.
        _GRACE + context.options.get(_COALESCING_MS, _DEFAULT_COALESCING_MS) / 1000,
    )
    for server in bootstrap.all_servers:
        server.credentials.require()
    opener = functools.partial(shared_client, bootstrap, kinds)
    return XdsResolver(plan, opener, functools.partial(_dns, context), context.random)


def _dns(context: ResolverContext, name: str) -> Resolver:
    """Of a LOGICAL_DNS cluster's host, as a ``dns`` target would be (A37)."""
    return build_dns(parse_target(f"dns:///{name}", ("dns",)), context)
