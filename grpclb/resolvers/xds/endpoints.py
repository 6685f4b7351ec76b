"""EDS: a ClusterLoadAssignment read and checked (A27)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from grpclb.core.address import Address, AddressError
from grpclb.resolvers.xds.common import per_million
from grpclb.resolvers.xds.errors import Problems
from grpclb.resolvers.xds.resources import Drop, Endpoints, LbEndpoint, Locality, LocalityId

_MOST_WEIGHT = 2**32 - 1
_UNKNOWN, _HEALTHY, _DRAINING = 0, 1, 3  # HealthStatus
# An update of a large cluster brings mostly the addresses of the one before.
_ip = lru_cache(maxsize=65_536)(Address.ip)


def read_endpoints(proto: Any, problems: Problems) -> Endpoints:
    """A ClusterLoadAssignment's value; worth something only if no problem was added."""
    by_priority: dict[int, dict[LocalityId, Locality]] = {}
    seen: set[str] = set()
    for index, locality in enumerate(proto.endpoints):
        # No weight means no load: such a locality is not looked at.
        if not locality.load_balancing_weight.value:
            continue

        def at(step: str, index: int = index) -> str:
            return f"endpoints[{index}]{step}"

        value = _locality(locality, seen, problems, at)
        if value is not None:
            peers = by_priority.setdefault(locality.priority, {})
            if value.id in peers:
                problems.add(f"{value.id} is in priority {locality.priority} twice", at(""))
            peers[value.id] = value
    _check_priorities(by_priority, problems)
    priorities = tuple(tuple(by_priority[key].values()) for key in sorted(by_priority))
    return Endpoints(proto.cluster_name, priorities, _drops(proto, problems))


def _check_priorities(
    by_priority: dict[int, dict[LocalityId, Locality]], problems: Problems
) -> None:
    for expected, priority in enumerate(sorted(by_priority)):
        if priority != expected:
            problems.add(f"there is a priority {priority} but no {expected}", "endpoints")
            break
    for priority, localities in by_priority.items():
        if sum(locality.weight for locality in localities.values()) > _MOST_WEIGHT:
            problem = f"the sum of the weights in priority {priority} is above {_MOST_WEIGHT}"
            problems.add(problem, "endpoints")


# Thousands of endpoints: paths are written out only for a mistake, hence the callables.
_At = Callable[[str], str]


def _locality(proto: Any, seen: set[str], problems: Problems, at: _At) -> Locality | None:
    if not proto.HasField("locality"):
        problems.add("not set", at(".locality"))
        return None
    name = proto.locality
    endpoints = []
    total = 0
    for index, endpoint in enumerate(proto.lb_endpoints):
        if endpoint.health_status not in (_UNKNOWN, _HEALTHY, _DRAINING):
            continue

        def here(step: str, index: int = index) -> str:
            return at(f".lb_endpoints[{index}]{step}")

        value = _endpoint(endpoint, seen, problems, here)
        if value is not None:
            total += value.weight
            if endpoint.health_status != _DRAINING:
                endpoints.append(value)
    if total > _MOST_WEIGHT:
        problem = f"the sum of the endpoints' weights is above {_MOST_WEIGHT}"
        problems.add(problem, at(".lb_endpoints"))
    identity = LocalityId(name.region, name.zone, name.sub_zone)
    return Locality(identity, proto.load_balancing_weight.value, tuple(endpoints))


def _endpoint(proto: Any, seen: set[str], problems: Problems, at: _At) -> LbEndpoint | None:
    weight = 1
    if proto.HasField("load_balancing_weight"):
        weight = proto.load_balancing_weight.value
        if not weight:
            problems.add("0; above 0", at(".load_balancing_weight"))
    if not proto.HasField("endpoint"):
        problems.add("not set", at(".endpoint"))
        return None
    endpoint = proto.endpoint
    protos = [endpoint.address, *(extra.address for extra in endpoint.additional_addresses)]
    addresses = []
    for proto_address in protos:
        address = _address(proto_address, problems, at)
        if address is None:
            continue
        if address.target in seen:
            problems.add(f"{address} is there twice", at(".endpoint"))
        seen.add(address.target)
        addresses.append(address)
    return LbEndpoint(tuple(addresses), weight, endpoint.hostname) if addresses else None


def _address(proto: Any, problems: Problems, at: _At) -> Address | None:
    """An IP address with a port; a server cannot make clients ask DNS or open a socket file."""
    if not proto.HasField("socket_address"):
        problems.add("not set", at(".endpoint.address.socket_address"))
        return None
    socket = proto.socket_address
    try:
        return _ip(socket.address, socket.port_value)
    except AddressError as error:
        problems.add(str(error), at(".endpoint.address.socket_address"))
        return None


def _drops(proto: Any, problems: Problems) -> tuple[Drop, ...]:
    drops = []
    for index, overload in enumerate(proto.policy.drop_overloads):
        with problems.at(f"policy.drop_overloads[{index}]"):
            if not overload.category:
                problems.add("empty", "category")
            if not overload.HasField("drop_percentage"):
                problems.add("not set", "drop_percentage")
                continue
            with problems.at("drop_percentage"):
                drops.append(
                    Drop(overload.category, per_million(overload.drop_percentage, problems))
                )
    return tuple(drops)
