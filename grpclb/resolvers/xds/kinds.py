"""The kinds of resources, and how one that came over the wire becomes a value or a complaint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from grpclb.core.balancer import Policy
from grpclb.core.registry import Registry
from grpclb.resolvers.xds.cluster import read_cluster
from grpclb.resolvers.xds.endpoints import read_endpoints
from grpclb.resolvers.xds.errors import Problems
from grpclb.resolvers.xds.listener import read_listener
from grpclb.resolvers.xds.messages import (
    CLUSTER,
    CLUSTER_LOAD_ASSIGNMENT,
    LISTENER,
    RESOURCE_WRAPPER,
    ROUTE_CONFIGURATION,
    TYPE_PREFIX,
    decode,
    type_name,
)
from grpclb.resolvers.xds.names import canonical
from grpclb.resolvers.xds.resources import Resource
from grpclb.resolvers.xds.route_config import read_route_config


@dataclass(frozen=True, slots=True)
class Parsed:
    """One resource of a response. `name` is empty if not even that could be read.

    `resource` is None if `error` says what is wrong.
    """

    name: str
    resource: Resource | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class ResourceKind:
    """LDS, RDS, CDS or EDS. `whole` kinds come complete: what a response lacks was deleted."""

    short: str
    full_name: str
    whole: bool
    name_field: str
    read: Callable[[Any, Problems], Resource | None] = field(compare=False)

    @property
    def type_url(self) -> str:
        return TYPE_PREFIX + self.full_name

    def parse(self, type_url: str, data: bytes) -> Parsed:
        """The resource in an Any with these fields. Never raises, whatever the bytes."""
        name = ""
        if type_name(type_url) == RESOURCE_WRAPPER:
            wrapper = decode(RESOURCE_WRAPPER, data)
            if wrapper is None:
                return Parsed("", None, f"is no {RESOURCE_WRAPPER}")
            name = canonical(wrapper.name)
            type_url, data = wrapper.resource.type_url, wrapper.resource.value
        if type_name(type_url) != self.full_name:
            return Parsed(name, None, f"is of type {type_url[:120]!r} instead of {self.type_url}")
        message = decode(self.full_name, data)
        if message is None:
            return Parsed(name, None, f"cannot be decoded as {self.full_name}")
        name = name or canonical(getattr(message, self.name_field))
        if not name:
            return Parsed("", None, "has no name")
        problems = Problems()
        try:
            resource = self.read(message, problems)
        except Exception as error:  # a mistake of ours must not end the stream for all channels
            problems.add(f"grpclb could not read it: {type(error).__name__}: {error}")
            resource = None
        if len(problems) or resource is None:
            return Parsed(name, None, str(problems) or "is not supported")
        return Parsed(name, resource)


@dataclass(frozen=True, slots=True)
class Kinds:
    """The four kinds; clusters are read with the policies of `registry`."""

    lds: ResourceKind
    rds: ResourceKind
    cds: ResourceKind
    eds: ResourceKind

    @classmethod
    def of(cls, registry: Registry[Policy]) -> Kinds:
        def cluster(proto: Any, problems: Problems) -> Resource | None:
            return read_cluster(proto, registry, problems)

        return cls(
            lds=ResourceKind("LDS", LISTENER, True, "name", read_listener),
            rds=ResourceKind("RDS", ROUTE_CONFIGURATION, False, "name", read_route_config),
            cds=ResourceKind("CDS", CLUSTER, True, "name", cluster),
            eds=ResourceKind("EDS", CLUSTER_LOAD_ASSIGNMENT, False, "cluster_name", read_endpoints),
        )

    @property
    def by_url(self) -> Mapping[str, ResourceKind]:
        return {kind.type_url: kind for kind in (self.lds, self.rds, self.cds, self.eds)}
