"""The ``etcd`` scheme. Importing this is cheap; protobuf is loaded when a target needs it."""

from __future__ import annotations

from grpclb.core.resolver import Resolver, ResolverContext
from grpclb.core.target import Target


def factory(target: Target, context: ResolverContext) -> Resolver:
    """The resolver of an ``etcd`` target, with the settings of the environment.

    Raises ValueError that names what is wrong, and ImportError that names the missing extra.
    """
    from grpclb.resolvers.etcd.build import build

    return build(target, context)
