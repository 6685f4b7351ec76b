"""The four kinds of xDS resources as frozen values: what is left of them after validation.

Times are seconds. Everything in here has been checked: a value says only what grpclb does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from grpclb.core.address import Address
from grpclb.core.retry_config import RetryPolicy
from grpclb.resolvers.xds.matchers import RouteMatcher


@dataclass(frozen=True, slots=True)
class WeightedCluster:
    """`weight` is above 0; those of one action add up to less than 2**32."""

    name: str
    weight: int = 1


@dataclass(frozen=True, slots=True)
class RouteAction:
    """Send the RPC to one of `clusters`.

    `max_stream_duration` is what A31 makes of the route's fields: None leaves the listener's, 0 is
    no limit. `retry_policy` is the route's or the virtual host's (A44).
    """

    clusters: tuple[WeightedCluster, ...]
    max_stream_duration: float | None = None
    retry_policy: RetryPolicy | None = None


@dataclass(frozen=True, slots=True)
class UnsupportedAction:
    """RPCs that match fail with UNAVAILABLE (A28): a redirect, a direct response, ..."""


@dataclass(frozen=True, slots=True)
class Route:
    matcher: RouteMatcher
    action: RouteAction | UnsupportedAction
    name: str = ""


@dataclass(frozen=True, slots=True)
class VirtualHost:
    domains: tuple[str, ...]
    routes: tuple[Route, ...]
    name: str = ""


@dataclass(frozen=True, slots=True)
class RouteConfig:
    """RDS. `name` may be empty where a listener carries the routes itself."""

    name: str
    virtual_hosts: tuple[VirtualHost, ...]


@dataclass(frozen=True, slots=True)
class Listener:
    """LDS of a client: `routes` are in it, or they are to be asked for by name.

    `max_stream_duration` 0 is no limit.
    """

    name: str
    routes: str | RouteConfig
    max_stream_duration: float = 0.0


@dataclass(frozen=True, slots=True)
class EdsCluster:
    """Endpoints come by EDS, under `service_name`."""

    service_name: str


@dataclass(frozen=True, slots=True)
class DnsCluster:
    """Endpoints are all addresses of one host (LOGICAL_DNS, A37)."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class AggregateCluster:
    """Clusters in the order of their priority, never empty (A37)."""

    clusters: tuple[str, ...]


ClusterKind: TypeAlias = EdsCluster | DnsCluster | AggregateCluster


@dataclass(frozen=True, slots=True)
class LbPolicy:
    """A policy of our registry, with a config that it has accepted."""

    name: str
    config: Mapping[str, Any]

    @property
    def json(self) -> list[dict[str, Any]]:
        """As a service config's `loadBalancingConfig` writes it."""
        return [{self.name: dict(self.config)}]


@dataclass(frozen=True, slots=True)
class Cluster:
    """CDS. `max_requests` limits concurrent RPCs of the process (A32).

    `outlier_detection` is the config of A50's policy, as JSON; None: the server asks for none.
    """

    name: str
    kind: ClusterKind
    lb_policy: LbPolicy
    max_requests: int = 1024
    outlier_detection: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, order=True)
class LocalityId:
    region: str = ""
    zone: str = ""
    sub_zone: str = ""

    def __str__(self) -> str:
        return f"{{region={self.region!r}, zone={self.zone!r}, sub_zone={self.sub_zone!r}}}"


@dataclass(frozen=True, slots=True)
class LbEndpoint:
    """One usable backend: HEALTHY, or of unknown health. `weight` is above 0."""

    addresses: tuple[Address, ...]
    weight: int = 1
    hostname: str = ""


@dataclass(frozen=True, slots=True)
class Locality:
    """`weight` is above 0. `endpoints` may be empty: all of them are unhealthy."""

    id: LocalityId
    weight: int
    endpoints: tuple[LbEndpoint, ...]


@dataclass(frozen=True, slots=True)
class Drop:
    """`per_million` of the RPCs, 0 to 1,000,000, fail on purpose."""

    category: str
    per_million: int


@dataclass(frozen=True, slots=True)
class Endpoints:
    """EDS: localities by priority, highest first, and what to drop before the pick."""

    name: str
    priorities: tuple[tuple[Locality, ...], ...]
    drops: tuple[Drop, ...] = ()


Resource: TypeAlias = Listener | RouteConfig | Cluster | Endpoints
