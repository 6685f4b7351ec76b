"""xDS resources for tests, as protobuf messages of grpclb's own pool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf import any_pb2

from grpclb.core.registry import Registry
from grpclb.resolvers.xds import messages as m
from grpclb.resolvers.xds.common import fill_struct
from grpclb.resolvers.xds.messages import message

ADS: dict[str, Any] = {"ads": {}}
ROUTER_FILTER = {"name": "router"}
_LB = "envoy.extensions.load_balancing_policies"


class StubPolicy:
    """A policy that exists; its config may not say `bad`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def parse_config(self, raw: Mapping[str, Any]) -> object:
        if "bad" in raw:
            raise ValueError("bad: not wanted")
        return raw

    def build(self, helper: object) -> Any:
        raise NotImplementedError


def registry(*names: str) -> Registry[Any]:
    """Policies of these names beside the ones that every xDS client has."""
    made: Registry[Any] = Registry("policy")
    for name in ("round_robin", "pick_first", "xds_wrr_locality_experimental", *names):
        made.register(name, StubPolicy(name))
    return made


def pack(name_or_message: Any, data: bytes = b"") -> Any:
    """An Any: of a message, or of bytes that claim to be a message of that name."""
    if isinstance(name_or_message, str):
        url, value = m.TYPE_PREFIX + name_or_message, data
    else:
        url = m.TYPE_PREFIX + name_or_message.DESCRIPTOR.full_name
        value = name_or_message.SerializeToString(deterministic=True)
    return any_pb2.Any(type_url=url, value=value)


def wrapped(resource: Any, name: str = "") -> Any:
    """`resource` in a Resource wrapper, in an Any."""
    inner = pack(resource)
    outer = message(m.RESOURCE_WRAPPER)(name=name)
    outer.resource.type_url, outer.resource.value = inner.type_url, inner.value
    return pack(outer)


def put_any(target: Any, packed: Any) -> None:
    target.type_url, target.value = packed.type_url, packed.value


def fill(target: Any, values: Mapping[str, Any]) -> Any:
    """Set fields from plain values: dicts are messages, lists repeated fields, Any as is."""
    for name, value in values.items():
        if isinstance(value, any_pb2.Any):
            getattr(target, name).SetInParent()
            put_any(getattr(target, name), value)
        elif isinstance(value, Mapping) and hasattr(getattr(target, name), "get"):
            for key, item in value.items():  # a map of Any
                put_any(getattr(target, name)[key], item)
        elif isinstance(value, Mapping):
            getattr(target, name).SetInParent()
            fill(getattr(target, name), value)
        elif isinstance(value, list):
            for item in value:
                if isinstance(item, Mapping):
                    fill(getattr(target, name).add(), item)
                else:
                    getattr(target, name).append(item)
        else:
            setattr(target, name, value)
    return target


def make(full_name: str, values: Mapping[str, Any]) -> Any:
    return fill(message(full_name)(), values)


def seconds(value: float) -> dict[str, int]:
    whole = int(value)
    return {"seconds": whole, "nanos": round((value - whole) * 1e9)}


def listener(name: str = "lis", **manager: Any) -> Any:
    """A client's listener; fields of its HttpConnectionManager as keywords."""
    fields = {
        "http_filters": [{**ROUTER_FILTER, "typed_config": pack(m.ROUTER)}],
        "rds": {"config_source": ADS, "route_config_name": "routes"},
        **manager,
    }
    if "route_config" in manager:
        del fields["rds"]
    packed = pack(make(m.HTTP_CONNECTION_MANAGER, {k: v for k, v in fields.items() if v != {}}))
    return make(m.LISTENER, {"name": name, "api_listener": {"api_listener": packed}})


def route(cluster: str = "c", prefix: str = "", **fields: Any) -> dict[str, Any]:
    return {"match": {"prefix": prefix}, "route": {"cluster": cluster}, **fields}


def route_config(
    name: str = "routes", routes: Iterable[Mapping[str, Any]] | None = None, /, **host: Any
) -> Any:
    """One virtual host for every name; its fields as keywords."""
    given = list(routes) if routes is not None else [route()]
    fields = {"name": "host", "domains": ["*"], "routes": given, **host}
    return make(m.ROUTE_CONFIGURATION, {"name": name, "virtual_hosts": [fields]})


def cluster(name: str = "c", **fields: Any) -> Any:
    """An EDS cluster; other fields as keywords."""
    base: dict[str, Any] = {"name": name}
    if not {"type", "cluster_type"} & set(fields):
        base |= {"type": 3, "eds_cluster_config": {"eds_config": ADS}}
    return make(m.CLUSTER, {**base, **fields})


def policies(*packed: Any) -> dict[str, Any]:
    """A LoadBalancingPolicy that lists these configs."""
    named = ({"name": "policy", "typed_config": config} for config in packed)
    return {"policies": [{"typed_extension_config": config} for config in named]}


def lb(name: str, **fields: Any) -> Any:
    """A policy's config: ``lb("pick_first.v3.PickFirst")``."""
    if name.startswith("round_robin"):
        return pack(f"{_LB}.{name}")
    return pack(make(f"{_LB}.{name}", fields))


def typed_struct(type_url: str, values: Mapping[str, Any], *, package: str = "xds.type.v3") -> Any:
    struct = message(f"{package}.TypedStruct")(type_url=type_url)
    struct.value.SetInParent()
    fill_struct(struct.value, values)
    return pack(struct)


def endpoint(address: str = "10.0.0.1", port: int = 80, **fields: Any) -> dict[str, Any]:
    where = {"socket_address": {"address": address, "port_value": port}}
    return {"endpoint": {"address": where}, **fields}


def locality(
    *endpoints: Mapping[str, Any], zone: str = "a", weight: int = 1, priority: int = 0
) -> dict[str, Any]:
    return {
        "locality": {"zone": zone},
        "lb_endpoints": list(endpoints),
        "load_balancing_weight": {"value": weight},
        "priority": priority,
    }


def endpoints(name: str = "c", *localities: Mapping[str, Any], **fields: Any) -> Any:
    return make(
        m.CLUSTER_LOAD_ASSIGNMENT, {"cluster_name": name, "endpoints": list(localities), **fields}
    )
