"""Which virtual host, which route, which cluster, how long: pure decisions over resources (A28)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING

from grpclb.resolvers.xds.resources import Route, RouteAction, VirtualHost

if TYPE_CHECKING:
    from random import Random


def valid_domain(pattern: str) -> bool:
    """One ``*`` at most, alone or at an end."""
    return (
        bool(pattern)
        and "*" not in pattern.removeprefix("*").removesuffix("*")
        and (pattern == "*" or pattern.count("*") < 2)
    )


def _rank(pattern: str, host: str) -> tuple[int, int] | None:
    """How specifically a valid pattern fits a host; more is better. None: it does not fit.

    An asterisk stands for one character at least.
    """
    if pattern == "*":
        return 0, 1
    if pattern.startswith("*"):
        fits = len(host) >= len(pattern) and host.endswith(pattern[1:])
        return (2, len(pattern)) if fits else None
    if pattern.endswith("*"):
        fits = len(host) >= len(pattern) and host.startswith(pattern[:-1])
        return (1, len(pattern)) if fits else None
    return (3, len(pattern)) if pattern == host else None


def find_virtual_host(hosts: Iterable[VirtualHost], name: str) -> VirtualHost | None:
    """The host whose domain fits best: exact, then suffix, then prefix, then ``*``.

    Of two suffixes or prefixes the longer, of equal ones the first. Case does not count.
    """
    best: tuple[tuple[int, int], VirtualHost] | None = None
    name = name.lower()
    for host in hosts:
        for domain in host.domains:
            rank = _rank(domain.lower(), name)
            if rank is not None and (best is None or rank > best[0]):
                best = rank, host
    return best[1] if best else None


def find_route(
    routes: Iterable[Route], path: str, headers: Mapping[str, str], random: Random
) -> Route | None:
    """The first route that matches; None: the RPC fails with UNAVAILABLE."""
    return next((r for r in routes if r.matcher.matches(path, headers, random)), None)


def choose_cluster(action: RouteAction, random: Random) -> str:
    """One of the action's clusters, by weight."""
    if len(action.clusters) == 1:
        return action.clusters[0].name
    sums = list(accumulate(cluster.weight for cluster in action.clusters))
    draw = random.randrange(sums[-1])
    return next(c.name for c, end in zip(action.clusters, sums, strict=True) if draw < end)


def longest_call(action: RouteAction, listener_default: float) -> float | None:
    """The limit of an RPC's duration in seconds, beside the caller's own; None: no limit (A31)."""
    limit = action.max_stream_duration
    return (listener_default if limit is None else limit) or None
