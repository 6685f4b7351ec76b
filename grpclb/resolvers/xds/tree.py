"""From clusters to the tree of policies and its endpoints (A37, A52, A56, A74).

    xds_cluster_manager          a child per cluster that an RPC may be routed to
      priority                   a child per priority of each leaf, in order
        xds_cluster_impl         drops, circuit breaker
          the cluster's policy   mostly xds_wrr_locality over round_robin

A tree remembers what it built: what did not change is the same object in the next state, so that
nobody below has to look at it twice.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from grpclb.core.address import Endpoint
from grpclb.core.attributes import HIERARCHY, LOCALITY, LOCALITY_WEIGHT, WEIGHT
from grpclb.core.balancer import Policy, PolicyConfig
from grpclb.core.registry import Registry
from grpclb.core.service_config import EMPTY, ServiceConfig
from grpclb.core.status import Status
from grpclb.resolvers.xds.resources import (
    Cluster,
    Endpoints,
    LbEndpoint,
    LbPolicy,
    Locality,
    LocalityId,
)
from grpclb.resolvers.xds.survey import ClusterConfig, Leaf

Json = dict[str, Any]
MANAGER = "xds_cluster_manager_experimental"
OUTLIER_DETECTION = "outlier_detection_experimental"

_NOWHERE = LocalityId()


def child_name(cluster: str) -> str:
    """The name of a cluster's child in the cluster manager; the config selector says it, too."""
    return f"cluster:{cluster}"


class PriorityNames:
    """Names for the priorities of one leaf that stay with the localities in them (A56).

    When localities move from one priority to another, their child moves with its connections.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._numbers = itertools.count()
        self._of_locality: dict[LocalityId, str] = {}
        self._before: tuple[str, ...] = ()

    def name(self, priorities: Sequence[Sequence[LocalityId]]) -> tuple[str, ...]:
        """A name for each priority: its own from before, one of its localities', or a new one."""
        names: list[str | None] = [None] * len(priorities)
        for index, localities in enumerate(priorities[: len(self._before)]):
            before = self._before[index]
            if any(self._of_locality.get(locality) == before for locality in localities):
                names[index] = before
        for index, localities in enumerate(priorities):
            if names[index] is None:
                known = (self._of_locality.get(locality) for locality in localities)
                names[index] = next((n for n in known if n and n not in names), None)
        found = tuple(name or f"{self._prefix}-{next(self._numbers)}" for name in names)
        self._before = found
        self._of_locality = {
            locality: name
            for name, localities in zip(found, priorities, strict=True)
            for locality in localities
        }
        return found


class _Branch:
    """One cluster's part of the tree."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.made_of: ClusterConfig | Status | None = None
        self.config: Json = {}
        self.endpoints: tuple[Endpoint, ...] = ()
        self._names: dict[str, PriorityNames] = {}
        self._numbers = itertools.count()
        self._known: dict[tuple[Any, ...], Endpoint] = {}

    def grow(self, source: ClusterConfig | Status, knows: Callable[[str], bool]) -> None:
        """Build it, unless it is made of the same."""
        if source is self.made_of or source == self.made_of:
            return
        self.made_of = source
        if isinstance(source, Status):
            config, self.endpoints, self._known = _failing(self.name, source), (), {}
        else:
            config = self._priorities(source, knows)
        if config != self.config:
            self.config = config

    def _priorities(self, source: ClusterConfig, knows: Callable[[str], bool]) -> Json:
        children: Json = {}
        endpoints: list[Endpoint] = []
        before, self._known = self._known, {}
        for leaf in source.leaves:
            cluster = leaf.cluster
            names = self._names_of(cluster.name)
            for name, impl, localities in _leaf(leaf, names, source):
                children[name] = {
                    "config": _outliers(cluster, impl, knows),
                    # EDS says by itself what is new; DNS has to be asked.
                    "ignore_reresolution_requests": isinstance(leaf.endpoints, Endpoints),
                }
                for locality in localities:
                    endpoints += self._of_locality(name, locality, before)
        self.endpoints = tuple(endpoints)
        priority = {"children": children, "priorities": list(children)}
        return {"childPolicy": [{"priority_experimental": priority}]}

    def _names_of(self, leaf: str) -> PriorityNames:
        names = self._names.get(leaf)
        if names is None:
            names = self._names[leaf] = PriorityNames(f"priority-{next(self._numbers)}")
        return names

    def _of_locality(
        self, priority: str, locality: Locality, before: Mapping[tuple[Any, ...], Endpoint]
    ) -> Iterable[Endpoint]:
        path = (child_name(self.name), priority)
        for one in locality.endpoints:
            key = (priority, locality.id, locality.weight, one)
            endpoint = before.get(key)
            if endpoint is None:
                attributes: Json = {
                    HIERARCHY: path,
                    LOCALITY: str(locality.id),
                    LOCALITY_WEIGHT: locality.weight,
                    WEIGHT: locality.weight * one.weight,
                }
                if one.hostname:
                    attributes["hostname"] = one.hostname
                endpoint = Endpoint(one.addresses, MappingProxyType(attributes))
            self._known[key] = endpoint
            yield endpoint


class Tree:
    """The state of all clusters, as a service config and endpoints."""

    def __init__(self, policies: Registry[Policy]) -> None:
        self._policies = policies
        self._branches: dict[str, _Branch] = {}
        self._raw: Json = {}
        self._config = EMPTY

    def grow(
        self, clusters: Mapping[str, ClusterConfig | Status]
    ) -> tuple[ServiceConfig, tuple[Endpoint, ...]]:
        """Exactly these clusters. The config is the same object as before if it is equal."""
        branches = {}
        for name, source in clusters.items():
            branch = branches[name] = self._branches.get(name) or _Branch(name)
            branch.grow(source, self._policies.__contains__)
        self._branches = branches
        children = {child_name(name): branch.config for name, branch in branches.items()}
        raw: Json = {"children": children}
        if raw != self._raw:
            self._raw, self._config = raw, self._service_config(raw)
        endpoints = tuple(itertools.chain(*(branch.endpoints for branch in branches.values())))
        return self._config, endpoints

    def _service_config(self, raw: Json) -> ServiceConfig:
        """Built here: the parser of strangers' documents takes no hundreds of clusters."""
        manager = self._policies.require(MANAGER)
        return ServiceConfig(
            lb=PolicyConfig(manager, manager.parse_config(raw)),
            text=json.dumps({"loadBalancingConfig": [{MANAGER: raw}]}),
        )


def _leaf(
    leaf: Leaf, names: PriorityNames, source: ClusterConfig
) -> Iterable[tuple[str, Json, tuple[Locality, ...]]]:
    """The children that a leaf has: name, cluster_impl's config, localities."""
    found, note = leaf.endpoints, "; ".join(source.notes)
    drops: tuple[Json, ...] = ()
    if isinstance(found, Status):
        # A37: without an answer it is one priority with nobody in it.
        note = "; ".join(filter(None, (note, str(found))))
        priorities: tuple[tuple[Locality, ...], ...] = ((),)
    elif isinstance(found, Endpoints):
        priorities = found.priorities or ((),)
        drops = tuple(
            {"category": drop.category, "requestsPerMillion": drop.per_million}
            for drop in found.drops
        )
    else:
        priorities = ((_dns_locality(found),),)
    impl = _cluster_impl(leaf.cluster, source.cluster.lb_policy, drops, note)
    ids = tuple(tuple(locality.id for locality in localities) for localities in priorities)
    for name, localities in zip(names.name(ids), priorities, strict=True):
        yield name, impl, localities


def _dns_locality(found: Sequence[Endpoint]) -> Locality:
    """All addresses of a LOGICAL_DNS cluster are one endpoint (A37)."""
    addresses = tuple(dict.fromkeys(a for endpoint in found for a in endpoint.addresses))
    return Locality(_NOWHERE, 1, (LbEndpoint(addresses),) if addresses else ())


def _cluster_impl(cluster: Cluster, policy: LbPolicy, drops: tuple[Json, ...], note: str) -> Json:
    """`policy` is that of the cluster that was routed to, for all of its leaves (A37)."""
    service = getattr(cluster.kind, "service_name", "")
    config: Json = {
        "cluster": cluster.name,
        "edsServiceName": service if service != cluster.name else "",
        "maxConcurrentRequests": cluster.max_requests,
        "dropCategories": list(drops),
        "childPolicy": policy.json,
    }
    if note:
        config["resolutionNote"] = note
    return {"xds_cluster_impl_experimental": config}


def _outliers(cluster: Cluster, impl: Json, knows: Callable[[str], bool]) -> list[Json]:
    if cluster.outlier_detection is None or not knows(OUTLIER_DETECTION):
        return [impl]
    return [{OUTLIER_DETECTION: {**cluster.outlier_detection, "childPolicy": [impl]}}]


def _failing(name: str, status: Status) -> Json:
    """A branch whose RPCs fail with the reason."""
    nobody: list[Json] = [{"priority_experimental": {"children": {}, "priorities": []}}]
    impl = {"cluster": name, "resolutionNote": str(status.details), "childPolicy": nobody}
    return {"childPolicy": [{"xds_cluster_impl_experimental": impl}]}
