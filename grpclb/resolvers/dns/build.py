"""From a ``dns`` target and the channel's options to a resolver."""

from __future__ import annotations

import functools
import ipaddress
import os
import secrets
import socket
from dataclasses import replace
from random import Random

from grpclb.core import txt_config
from grpclb.core.address import Address, Endpoint
from grpclb.core.resolver import Resolver, ResolverContext, ResolverState
from grpclb.core.target import Target, own_host, split_host_port, srv_domain
from grpclb.resolvers.dns.client import Client
from grpclb.resolvers.dns.look_up import Found, Host, LookUp, Missing, Txt
from grpclb.resolvers.dns.resolver import DnsResolver
from grpclb.resolvers.dns.settings import Settings
from grpclb.resolvers.dns.system import (
    HOSTS,
    PORT,
    RESOLV_CONF,
    ResolvConf,
    Server,
    WatchedFile,
    find_in_hosts,
    parse_resolv_conf,
)
from grpclb.resolvers.dns.wire import Query
from grpclb.resolvers.static import StaticResolver

# This process among all clients, for the percentage in TXT configs: a canary stays one.
_CLIENT = secrets.token_hex(8)


def build(
    target: Target,
    context: ResolverContext,
    *,
    resolv_conf: str = RESOLV_CONF,
    hosts: str = HOSTS,
    port: int = PORT,
) -> Resolver:
    """The resolver of `target`. IP literals and localhost need no query, and are never refreshed.

    The files may be others for tests, as may the port of the servers in resolv.conf. Raises
    ValueError that names the part of the target or the option that is wrong.
    """
    settings = Settings.read(context.options)
    server = _server(target)
    name, given_port = split_host_port(target.endpoint, f"target {target.text!r}")
    number = given_port or context.default_port
    if fixed := _fixed(target.text, name, number):
        return StaticResolver(fixed)
    _check_name(target, name)
    srv = srv_domain(name) is not None
    if srv and given_port is not None:
        raise ValueError(
            f"target {target.text!r}: SRV records name the port themselves; leave out :{given_port}"
        )
    conf_file = WatchedFile(resolv_conf, functools.partial(parse_resolv_conf, port=port))
    hosts_file = WatchedFile(hosts, functools.partial(find_in_hosts, name=name))
    look_up = LookUp(
        Host(name, number, srv),
        Client().ask,
        # Whoever names a server wants to hear that server.
        hosts_file=hosts_file.get if server is None else tuple,
        txt=_txt(target) if settings.txt else None,
    )

    async def run() -> Found | Missing:
        return await look_up.run(_conf(conf_file.get(), server), settings.timeout)

    return DnsResolver(target.text, run, settings, context.random)


def _conf(conf: ResolvConf, server: Server | None) -> ResolvConf:
    return conf if server is None else replace(conf, servers=(server,))


def _server(target: Target) -> Server | None:
    """The DNS server in ``dns://server[:port]/name``."""
    if not target.authority:
        return None
    where = f"target {target.text!r}: DNS server"
    host, port = split_host_port(target.authority, where)
    if not _is_ip(host):
        raise ValueError(
            f"{where} {host!r} must be an IP address, as there is nobody to ask for it"
        )
    return Server(host, port or PORT)


def _fixed(text: str, name: str, port: int) -> ResolverState | None:
    """What needs no look-up: an address, or this machine (RFC 6761)."""
    if _is_ip(name):
        return ResolverState.of(
            [Address.ip(own_host(name), port)], note=f"{text} resolved 1 address"
        )
    bare = name.lower().rstrip(".")
    if bare == "localhost" or bare.endswith(".localhost"):
        # One endpoint: these are two ways to the same server.
        both = Endpoint.of(Address.ip("127.0.0.1", port), Address.ip("::1", port))
        return ResolverState((both,), note=f"{text} resolved 1 endpoint")
    return None


def _check_name(target: Target, name: str) -> None:
    try:
        Query.make(name, "A")
    except ValueError as error:
        raise ValueError(f"target {target.text!r}: {error}") from None


def _txt(target: Target) -> Txt:
    seed = f"{_CLIENT} {os.getpid()} {target.text}"
    return Txt(socket.gethostname(), txt_config.draw_percentage(Random(seed)))


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
