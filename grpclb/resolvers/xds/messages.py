"""The xDS messages that grpclb reads and sends, in a descriptor pool of their own.

Imported only when an ``xds:`` target is used; raises ImportError that names the extra ``xds``.
"""

from __future__ import annotations

from typing import Any

from grpclb.resolvers import protos

_FILES = (
    "aggregate", "cluster", "core", "discovery", "endpoint", "fault", "fault_common", "google_rpc",
    "http_connection_manager", "lb_least_request", "lb_pick_first", "lb_ring_hash",
    "lb_weighted_round_robin", "lb_wrr_locality", "listener", "matcher", "route", "type",
    "typed_struct_udpa", "typed_struct_xds",
)  # fmt: skip

_LB = "envoy.extensions.load_balancing_policies"
TYPE_PREFIX = "type.googleapis.com/"

MESSAGES = protos.load(
    "grpclb.resolvers.xds", *(f"proto/{name}.proto" for name in _FILES), extra="xds"
)

# Not before `load`, which says in which extra protobuf is.
from google.protobuf.message import DecodeError  # noqa: E402

LISTENER = "envoy.config.listener.v3.Listener"
ROUTE_CONFIGURATION = "envoy.config.route.v3.RouteConfiguration"
CLUSTER = "envoy.config.cluster.v3.Cluster"
CLUSTER_LOAD_ASSIGNMENT = "envoy.config.endpoint.v3.ClusterLoadAssignment"
RESOURCE_WRAPPER = "envoy.service.discovery.v3.Resource"
HTTP_CONNECTION_MANAGER = (
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
)
ROUTER = "envoy.extensions.filters.http.router.v3.Router"
FAULT = "envoy.extensions.filters.http.fault.v3.HTTPFault"
FILTER_CONFIG = "envoy.config.route.v3.FilterConfig"
AGGREGATE = "envoy.extensions.clusters.aggregate.v3.ClusterConfig"
TYPED_STRUCTS = ("xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct")
ROUND_ROBIN = f"{_LB}.round_robin.v3.RoundRobin"
PICK_FIRST = f"{_LB}.pick_first.v3.PickFirst"
WRR_LOCALITY = f"{_LB}.wrr_locality.v3.WrrLocality"
LEAST_REQUEST = f"{_LB}.least_request.v3.LeastRequest"
RING_HASH = f"{_LB}.ring_hash.v3.RingHash"
WEIGHTED_ROUND_ROBIN = f"{_LB}.client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin"


def message(full_name: str) -> Any:
    """The class of a message by its full name. Raises KeyError."""
    return MESSAGES.message(full_name)


def decode(full_name: str, data: bytes) -> Any | None:
    """The message in `data`; None if the bytes are no such message."""
    try:
        return message(full_name).FromString(data)
    except DecodeError:
        return None


def type_name(type_url: str) -> str:
    """``a.b.C`` of ``type.googleapis.com/a.b.C``; empty if the URL has no slash (gRFC A39)."""
    _, slash, name = type_url.rpartition("/")
    return name if slash else ""
