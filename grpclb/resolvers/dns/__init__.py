"""The ``dns`` scheme. Importing this is cheap; dnspython is loaded when a target needs it."""

from __future__ import annotations

from grpclb.core.resolver import Resolver, ResolverContext
from grpclb.core.target import Target


def factory(target: Target, context: ResolverContext) -> Resolver:
    """The resolver of a ``dns`` target.

    Raises ValueError that names the part of the target or the option that is wrong.
    """
    from grpclb.resolvers.dns.build import build

    return build(target, context)
