"""From an ``etcd`` target and the user's settings to a resolver."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from grpclb.core.resolver import ResolverContext
from grpclb.core.target import Target
from grpclb.resolvers.etcd.adapter import Adapter
from grpclb.resolvers.etcd.resolver import EtcdResolver, Source
from grpclb.resolvers.etcd.settings import EtcdSettings


def build(
    target: Target,
    context: ResolverContext,
    settings: EtcdSettings | None = None,
    *,
    client: object = None,
    server_name: str | None = None,
) -> EtcdResolver:
    """The resolver of `target`. Raises ValueError or TypeError, and ImportError for the extra.

    Without `settings` and `client` the endpoints are the target's or the environment's, and the
    environment says the rest.
    """
    prefix = prefix_of(target)
    if client is not None:
        adapter = Adapter(client)
        return EtcdResolver(target.text, prefix, lambda: adapter, context.random, server_name)
    if settings is None:
        settings = EtcdSettings.from_environment(target.authority or None)
    make = _client_maker(settings, context.random)
    return EtcdResolver(target.text, prefix, make, context.random, server_name)


def _client_maker(settings: EtcdSettings, random: Random) -> Callable[[], Source]:
    # Here, so that a missing extra is an error when the channel is made.
    from grpclb.resolvers.etcd.client import EtcdClient

    return lambda: EtcdClient(settings, random)


def prefix_of(target: Target) -> bytes:
    """The keys of a service begin with its name and a slash, so `api` never sees `api2`."""
    if "@" in target.authority:  # may be a password: never shown
        raise ValueError("etcd target: no user belongs in it; use user= and password=")
    service = target.endpoint.rstrip("/")
    if not service:
        raise ValueError(
            f"target {target.text!r}: the service is missing; write etcd://host:2379/service or "
            "etcd:///service"
        )
    return service.encode() + b"/"
