"""Resolvers of services in etcd, with settings from the program."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable
from random import Random
from typing import Any, ParamSpec, TypeVar

from grpclb.core.resolver import Resolver, ResolverContext, ResolverFactory
from grpclb.core.target import Target, parse_target
from grpclb.resolvers.etcd.build import build, prefix_of
from grpclb.resolvers.etcd.settings import (
    EtcdSettings,
    Pem,
    check_keywords,
    unread_environment,
)

_LOG = logging.getLogger("grpclb.etcd")
P = ParamSpec("P")
R = TypeVar("R")


def _spelt(function: Callable[P, R]) -> Callable[P, R]:
    """Have `function` name the keyword that a misspelt one was meant to be."""
    known = tuple(function.__kwdefaults__ or ())

    @functools.wraps(function)
    def checked(*args: P.args, **keywords: P.kwargs) -> R:
        check_keywords(keywords, known)
        return function(*args, **keywords)

    return checked


@_spelt
def factory(
    *,
    endpoints: str | Iterable[str] | None = None,
    ca: Pem | None = None,
    cert: Pem | None = None,
    key: Pem | None = None,
    user: str | None = None,
    password: str | None = None,
    allow_plaintext_auth: bool = False,
    etcd_server_name: str | None = None,
    timeout: float = 5.0,
    keepalive_time: float = 5.5,
    keepalive_timeout: float = 2.0,
    client: object = None,
    server_name: str | None = None,
) -> ResolverFactory:
    """What `grpclb.register_resolver` takes. Raises ValueError for settings that make no sense.

    `endpoints` are etcd's, for targets that name none; `ca`, `cert`, `key`, `user` and so on are
    those of `EtcdSettings` (`etcd_server_name` is its `server_name`: the name in *etcd's*
    certificate). The environment has no say, even without any keyword; a variable that is set is
    logged (INFO). `server_name` is the name in the *backends'* certificates, for secure channels.
    `client` is an etcd3-style client of yours, in place of all the others.
    """
    settings: dict[str, Any] = {
        "ca": ca,
        "cert": cert,
        "key": key,
        "user": user,
        "password": password,
        "allow_plaintext_auth": allow_plaintext_auth,
        "server_name": etcd_server_name,
        "timeout": timeout,
        "keepalive_time": keepalive_time,
        "keepalive_timeout": keepalive_timeout,
    }
    given = EtcdSettings.of(endpoints, **settings) if endpoints is not None else None
    if client is not None and given is not None:
        raise ValueError("etcd: client= has its own endpoints; leave out endpoints=")

    def make(target: Target, context: ResolverContext) -> Resolver:
        if client is not None:
            return build(target, context, client=client, server_name=server_name)
        unread = unread_environment()
        prefix_of(target)  # raises
        if target.authority and given is not None:
            raise ValueError(
                f"target {target.text!r}: endpoints= says where etcd is; write "
                f"etcd:///{target.endpoint}"
            )
        chosen = given
        if chosen is None:
            if not target.authority:
                raise ValueError(
                    f"target {target.text!r}: no endpoints; write etcd://host:2379/"
                    f"{target.endpoint}, or give endpoints={f' ({unread})' if unread else ''}"
                )
            chosen = EtcdSettings.of(target.authority, **settings)
        if unread:
            _LOG.info("%s: %s", target.text, unread)
        return build(target, context, chosen, server_name=server_name)

    return make


def resolver(target: str, **settings: Any) -> Resolver:
    """The resolver of one target, for the argument `resolver=` of a channel to the same target.

    The keywords are those of `factory`. Raises ValueError, and ImportError without the extra.
    """
    parsed = parse_target(target, ["etcd"])
    if parsed.scheme != "etcd":
        raise ValueError(f"target {target!r}: expected etcd:///service")
    return factory(**settings)(parsed, ResolverContext(Random()))
