"""grpclb: client-side load balancing and name resolution for gRPC Python.

Replace `grpc.insecure_channel` by `grpclb.insecure_channel`, and every RPC is balanced over live
backends that a resolver keeps current. `grpclb.aio` is the same for `grpc.aio`. (Not the old
look-aside protocol of gRPC that is named grpclb, too.)
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grpclb import aio
    from grpclb.control.attempt_log import AttemptRecord, attempts
    from grpclb.core.address import Address, AddressError, Endpoint
    from grpclb.core.balancer import Policy
    from grpclb.core.resolver import Resolver, ResolverContext, ResolverFactory, ResolverState
    from grpclb.core.service_config import ServiceConfigError
    from grpclb.core.status import Status
    from grpclb.core.target import Target
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

# Where the public names live. Each is imported when it is first used, so that a program pays for
# the stack that it uses (sync or aio), and one that has no channel yet pays nearly nothing.
_HOMES = {
    "Address": "core.address",
    "AddressError": "core.address",
    "AttemptRecord": "control.attempt_log",
    "Channel": "sync.channel",
    "Endpoint": "core.address",
    "Resolver": "core.resolver",
    "ResolverContext": "core.resolver",
    "ResolverState": "core.resolver",
    "ServiceConfigError": "core.service_config",
    "Status": "core.status",
    "Target": "core.target",
    "attempts": "control.attempt_log",
    "insecure_channel": "sync.channel",
    "secure_channel": "sync.channel",
}

# Quiet unless the application configures logging (the tree is `grpclb.*`).
logging.getLogger("grpclb").addHandler(logging.NullHandler())

__version__ = "0.1.0"


def _import(name: str) -> object:
    """The value of a public name that was not used before."""
    if name == "aio":
        return importlib.import_module("grpclb.aio")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'grpclb' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"grpclb.{home}"), name)
    globals()[name] = value
    return value


if not TYPE_CHECKING:  # a type checker would take any misspelt name for one of ours
    __getattr__ = _import


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def register_resolver(scheme: str, factory: ResolverFactory) -> None:
    """Have targets ``scheme:...`` resolved by what `factory(target, context)` makes.

    Replaces a resolver of the same scheme for channels that are built afterwards. Raises
    ValueError for a scheme that no target could have, TypeError for what cannot be called. Any
    thread.
    """
    if not callable(factory):
        raise TypeError(
            "register_resolver takes a factory, to be called as factory(target, context), got "
            f"{type(factory).__name__}"
        )
    from grpclb.control.registries import RESOLVERS

    RESOLVERS.register(scheme, factory)


def register_policy(policy: Policy) -> None:
    """Make a load-balancing policy known under `policy.name`, for service configs and options.

    Raises ValueError for a name that no config could say, TypeError for what is no policy. Any
    thread.
    """
    missing = [name for name in ("name", "parse_config", "build") if not hasattr(policy, name)]
    if missing or isinstance(policy, type):
        problem = f"without {', '.join(missing)}" if missing else "itself, not an instance"
        got = f"the class {policy.__name__}" if isinstance(policy, type) else type(policy).__name__
        raise TypeError(
            f"register_policy takes a policy (name, parse_config, build), got {got} {problem}"
        )
    from grpclb.control.registries import POLICIES

    POLICIES.register(policy.name, policy)
