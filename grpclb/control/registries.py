"""The tables of resolvers and policies, with the built-in ones in them.

An explicit list, so that nothing registers itself by being imported.
"""

from __future__ import annotations

import functools
import importlib

from grpclb.core.balancer import Policy
from grpclb.core.registry import Registry
from grpclb.core.resolver import ResolverFactory
from grpclb.policies.pick_first import PICK_FIRST
from grpclb.policies.round_robin import ROUND_ROBIN
from grpclb.resolvers import dns, etcd, kubernetes, static

RESOLVERS: Registry[ResolverFactory] = Registry("target scheme", r"[a-z][a-z0-9+.-]*")
RESOLVERS.register("dns", dns.factory)
RESOLVERS.register("etcd", etcd.factory)
RESOLVERS.register("kubernetes", kubernetes.factory)
for _scheme in ("ipv4", "ipv6", "unix", "unix-abstract"):
    RESOLVERS.register(_scheme, static.factory)
del _scheme

POLICIES: Registry[Policy] = Registry("load-balancing policy")
for _policy in (ROUND_ROBIN, PICK_FIRST):
    POLICIES.register(_policy.name, _policy)
del _policy


def _with_children(module: str) -> Policy:
    """A policy that looks for those of its children in the same table."""
    make = importlib.import_module(f"grpclb.policies.{module}").make
    policy: Policy = make(POLICIES.get)
    return policy


# Imported when a config names them.
for _name in (
    "priority",
    "weighted_target",
    "xds_cluster_impl",
    "xds_cluster_manager",
    "xds_wrr_locality",
):
    POLICIES.register_lazy(f"{_name}_experimental", functools.partial(_with_children, _name))
del _name


def _xds() -> ResolverFactory:
    """Its clusters may ask for any policy of the table."""
    from grpclb.resolvers.xds.build import factory

    return factory(POLICIES)


RESOLVERS.register_lazy("xds", _xds)
