"""Which resources a channel needs, and whether they make a whole yet (A74, A37). Pure.

`survey` walks from the listener to the endpoints over what is known. What it comes by is wanted;
the config is there when nothing on the way is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias, cast

from grpclb.core.address import Endpoint
from grpclb.core.status import Status
from grpclb.resolvers.xds.resources import (
    AggregateCluster,
    Cluster,
    DnsCluster,
    EdsCluster,
    Endpoints,
    Listener,
    Resource,
    RouteAction,
    RouteConfig,
    VirtualHost,
)
from grpclb.resolvers.xds.routing import find_virtual_host

MAX_DEPTH = 16  # of aggregate clusters (A37)


class Kind(Enum):
    """What a channel watches. DNS is the name ``host:port`` of a LOGICAL_DNS cluster."""

    __hash__ = object.__hash__  # Enum's own is a function of Python's, and each key is hashed often

    LDS = "LDS"
    RDS = "RDS"
    CDS = "CDS"
    EDS = "EDS"
    DNS = "DNS"


Key: TypeAlias = tuple[Kind, str]
# None: there is no answer yet. A tuple of endpoints is an answer of DNS.
Known: TypeAlias = "Resource | tuple[Endpoint, ...] | Status | None"


@dataclass(frozen=True, slots=True)
class Leaf:
    """A cluster that has endpoints of its own; a Status says why it has none."""

    cluster: Cluster
    endpoints: Endpoints | tuple[Endpoint, ...] | Status


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """A cluster that routes name, and its leaves by priority; it may be its own only leaf.

    `notes` tell of clusters that were left out.
    """

    cluster: Cluster
    leaves: tuple[Leaf, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class XdsConfig:
    """All that a channel needs. Clusters with a Status fail their RPCs, and nobody else's."""

    listener: Listener
    virtual_host: VirtualHost
    clusters: Mapping[str, ClusterConfig | Status]

    @property
    def routed(self) -> frozenset[str]:
        """The clusters that routes name."""
        return routed_clusters(self.virtual_host)


@dataclass(frozen=True, slots=True)
class Survey:
    """What to watch, and what there is.

    `config` is a Status if there is no way to route an RPC, None while something is missing.
    `held` are the clusters that only RPCs under way need, as far as they are known.
    """

    wanted: frozenset[Key]
    config: XdsConfig | Status | None
    held: Mapping[str, ClusterConfig | Status] = field(default_factory=dict)


def dns_name(cluster: DnsCluster) -> str:
    host = f"[{cluster.host}]" if ":" in cluster.host else cluster.host
    return f"{host}:{cluster.port}"


def routed_clusters(host: VirtualHost) -> frozenset[str]:
    return frozenset(
        cluster.name
        for route in host.routes
        if isinstance(route.action, RouteAction)
        for cluster in route.action.clusters
    )


def survey(
    known: Callable[[Kind, str], Known], listener: str, authority: str, held: Iterable[str] = ()
) -> Survey:
    """`known` tells what has been heard of a resource; `authority` chooses the virtual host.

    `held` are clusters that RPCs under way were routed to: they stay watched, but nothing waits
    for them.
    """
    walk = _Walk(known)
    found = walk.routes(listener, authority)
    kept = {name: walk.cluster(name) for name in held}
    usable = {name: config for name, config in kept.items() if config is not None}
    if found is None or isinstance(found, Status):
        return Survey(frozenset(walk.wanted), found, usable)
    value, host = found
    clusters: dict[str, ClusterConfig | Status] = {}
    missing = False
    for name in sorted(routed_clusters(host)):
        config = kept[name] if name in kept else walk.cluster(name)
        if config is None:
            missing = True  # go on: all that is needed is asked for at once
        else:
            clusters[name] = config
    whole = None if missing else XdsConfig(value, host, clusters)
    others = {name: config for name, config in usable.items() if name not in clusters}
    return Survey(frozenset(walk.wanted), whole, others)


class _Walk:
    def __init__(self, known: Callable[[Kind, str], Known]) -> None:
        self._known = known
        self.wanted: set[Key] = set()
        # What clusters that are no aggregates add. Many aggregates may name the same ones.
        self._ends: dict[str, Leaf | str | None] = {}

    def _ask(self, kind: Kind, name: str) -> Known:
        self.wanted.add((kind, name))
        return self._known(kind, name)

    def routes(self, name: str, authority: str) -> tuple[Listener, VirtualHost] | Status | None:
        listener = self._ask(Kind.LDS, name)
        if listener is None or isinstance(listener, Status):
            return _told(f"listener {name!r}", listener)
        listener = cast("Listener", listener)
        routes: Known = None
        if isinstance(listener.routes, RouteConfig):
            routes, what = listener.routes, f"listener {name!r}"
        else:
            routes, what = self._ask(Kind.RDS, listener.routes), f"routes {listener.routes!r}"
        if routes is None or isinstance(routes, Status):
            return _told(what, routes)
        host = find_virtual_host(cast("RouteConfig", routes).virtual_hosts, authority)
        if host is None:
            return Status.unavailable(f"{what}: no virtual host for {authority!r}")
        return listener, host

    def cluster(self, name: str) -> ClusterConfig | Status | None:
        """The cluster with its leaves; None: something is missing."""
        notes: list[str] = []
        leaves: dict[str, Leaf] = {}
        complete = self._leaves(name, 0, leaves, notes, set())
        if isinstance(complete, Status):
            return complete
        if not complete:
            return None
        cluster = self._ask(Kind.CDS, name)
        if isinstance(cluster, Status):
            return _told(f"cluster {name!r}", cluster)
        if not leaves:
            why = "; ".join(notes) or "an aggregate of nothing"
            return Status.unavailable(f"cluster {name!r}: {why}")
        return ClusterConfig(cast("Cluster", cluster), tuple(leaves.values()), tuple(notes))

    def _leaves(
        self, name: str, depth: int, leaves: dict[str, Leaf], notes: list[str], seen: set[str]
    ) -> bool | Status | None:
        """Collect; True if all is known, a Status if the graph is too deep."""
        if name in seen:
            return True  # a second mention of a cluster, or a loop (A37)
        if depth >= MAX_DEPTH:
            return Status.unavailable(f"aggregate clusters are nested deeper than {MAX_DEPTH}")
        seen.add(name)
        if name in self._ends:
            end = self._ends[name]
        else:
            cluster = self._ask(Kind.CDS, name)
            if isinstance(cluster, Cluster) and isinstance(cluster.kind, AggregateCluster):
                return self._all_leaves(cluster.kind.clusters, depth + 1, leaves, notes, seen)
            end = self._ends[name] = self._end(name, cast("Cluster | Status | None", cluster))
        if end is None:
            return None
        if isinstance(end, Leaf):
            leaves[end.cluster.name] = end
        else:
            notes.append(end)
        return True

    def _all_leaves(
        self,
        names: Iterable[str],
        depth: int,
        leaves: dict[str, Leaf],
        notes: list[str],
        seen: set[str],
    ) -> bool | Status | None:
        """`_leaves` of each."""
        result: bool | None = True
        ends = self._ends
        for name in names:
            if name in seen:
                continue
            end = ends.get(name) if depth < MAX_DEPTH else None
            if isinstance(end, Leaf):  # as `_leaves` does, at a tenth of the cost
                seen.add(name)
                leaves[end.cluster.name] = end
                continue
            found = self._leaves(name, depth, leaves, notes, seen)
            if isinstance(found, Status):
                return found
            result = result and found
        return result

    def _end(self, name: str, cluster: Cluster | Status | None) -> Leaf | str | None:
        """What a cluster that is no aggregate adds: a leaf, or a note; None: it is not known."""
        if cluster is None:
            return None
        if isinstance(cluster, Status):
            # A74: one that is not there is passed over, as others may do.
            return f"cluster {name!r}: {cluster}"
        if isinstance(cluster.kind, DnsCluster):
            kind, asked = Kind.DNS, dns_name(cluster.kind)
        else:
            kind, asked = Kind.EDS, cast("EdsCluster", cluster.kind).service_name
        endpoints = self._ask(kind, asked)
        if endpoints is None:
            return None
        if isinstance(endpoints, Status):
            endpoints = Status(endpoints.code, f"{kind.value} {asked!r}: {endpoints.details}")
        return Leaf(cluster, cast("Endpoints | Status", endpoints))


def _told(what: str, status: Status | None) -> Status | None:
    """A failure with what it is about."""
    return None if status is None else Status.unavailable(f"{what}: {status}")
