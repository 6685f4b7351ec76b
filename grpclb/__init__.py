"""grpclb: client-side load balancing and name resolution for gRPC Python.

Replace `grpc.insecure_channel` by `grpclb.insecure_channel`, and every RPC is balanced over live
backends that a resolver keeps current. `grpclb.aio` is the same for `grpc.aio`. (Not the old
look-aside protocol of gRPC that is named grpclb, too.)
"""

from __future__ import annotations

import logging

from grpclb import aio
from grpclb.control.attempt_log import AttemptRecord, attempts
from grpclb.control.registries import POLICIES, RESOLVERS
from grpclb.core.address import Address, AddressError, Endpoint
from grpclb.core.balancer import Policy
from grpclb.core.resolver import Resolver, ResolverContext, ResolverFactory, ResolverState
from grpclb.core.service_config import ServiceConfigError
from grpclb.core.status import Status
from grpclb.core.target import Target
from grpclb.policies.pick_first import PICK_FIRST
from grpclb.policies.round_robin import ROUND_ROBIN
from grpclb.resolvers import dns, static
from grpclb.sync.channel import Channel, insecure_channel, secure_channel

__all__ = [
    "Address",
    "AddressError",
    "AttemptRecord",
    "Channel",
    "Endpoint",
    "Resolver",
    "ResolverContext",
    "ResolverState",
    "ServiceConfigError",
    "Status",
    "Target",
    "aio",
    "attempts",
    "insecure_channel",
    "register_policy",
    "register_resolver",
    "secure_channel",
]

# Quiet unless the application configures logging (the tree is `grpclb.*`).
logging.getLogger("grpclb").addHandler(logging.NullHandler())

__version__ = "0.1.0"


def register_resolver(scheme: str, factory: ResolverFactory) -> None:
    """Have targets ``scheme:...`` resolved by what `factory(target, context)` makes.

    Replaces a resolver of the same scheme for channels that are built afterwards. Raises
    ValueError for a scheme that no target could have. Any thread.
    """
    RESOLVERS.register(scheme, factory)


def register_policy(policy: Policy) -> None:
    """Make a load-balancing policy known under `policy.name`, for service configs and options.

    Raises ValueError for a name that no config could say. Any thread.
    """
    POLICIES.register(policy.name, policy)


# The built-in ones: an explicit list, so that nothing registers itself by being imported.
for _policy in (ROUND_ROBIN, PICK_FIRST):
    register_policy(_policy)
register_resolver("dns", dns.factory)
for _scheme in ("ipv4", "ipv6", "unix", "unix-abstract"):
    register_resolver(_scheme, static.factory)
del _policy, _scheme
