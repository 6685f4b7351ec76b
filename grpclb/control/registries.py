"""The tables of resolvers and policies; `grpclb` fills in the built-in ones by an explicit list."""

from __future__ import annotations

from grpclb.core.balancer import Policy
from grpclb.core.registry import Registry
from grpclb.core.resolver import ResolverFactory

RESOLVERS: Registry[ResolverFactory] = Registry("target scheme", r"[a-z][a-z0-9+.-]*")
POLICIES: Registry[Policy] = Registry("load-balancing policy")
