"""CDS: a Cluster read and checked (A27, A32, A37, A50, A52)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grpclb.core.balancer import Policy
from grpclb.core.registry import Registry
from grpclb.resolvers.xds.common import config_source, extension, nanoseconds
from grpclb.resolvers.xds.errors import Problems
from grpclb.resolvers.xds.lb_policies import duration_json, read_lb_policy
from grpclb.resolvers.xds.messages import AGGREGATE, decode
from grpclb.resolvers.xds.resources import (
    AggregateCluster,
    Cluster,
    ClusterKind,
    DnsCluster,
    EdsCluster,
)

_LOGICAL_DNS, _EDS = 2, 3  # DiscoveryType
_DEFAULT_PRIORITY = 0
_DEFAULT_MAX_REQUESTS = 1024  # gRFC A32
_LONGEST_NAME = 255


def read_cluster(proto: Any, registry: Registry[Policy], problems: Problems) -> Cluster | None:
    """A Cluster's value; worth something only if no problem was added."""
    kind = _kind(proto, problems)
    policy = read_lb_policy(proto, registry, problems)
    _check_transport(proto, problems)
    if proto.HasField("lrs_server") and not proto.lrs_server.HasField("self"):
        problems.add("is not self", "lrs_server")  # load is reported to nobody yet
    outliers = None
    if proto.HasField("outlier_detection"):
        with problems.at("outlier_detection"):
            outliers = _outlier_detection(proto.outlier_detection, problems)
    if kind is None or policy is None:
        return None
    return Cluster(proto.name, kind, policy, _max_requests(proto), outliers)


def _kind(proto: Any, problems: Problems) -> ClusterKind | None:
    match proto.WhichOneof("cluster_discovery_type"):
        case "type" if proto.type == _EDS:
            return _eds(proto, problems)
        case "type" if proto.type == _LOGICAL_DNS:
            with problems.at("load_assignment"):
                return _dns(proto, problems)
        case "cluster_type":
            with problems.at("cluster_type"):
                return _aggregate(proto.cluster_type, problems)
    problems.add(f"discovery type {proto.type} is not supported", "type")
    return None


def _eds(proto: Any, problems: Problems) -> EdsCluster | None:
    with problems.at("eds_cluster_config"):
        if not proto.HasField("eds_cluster_config"):
            problems.add("not set")
            return None
        config = proto.eds_cluster_config
        config_source(config, "eds_config", problems)
        # gRFC A47
        if proto.name.startswith("xdstp:") and not config.service_name:
            problems.add("not set, though the cluster has an xdstp: name", "service_name")
        return EdsCluster(config.service_name or proto.name)


def _dns(proto: Any, problems: Problems) -> DnsCluster | None:
    if not proto.HasField("load_assignment"):
        problems.add("not set")
        return None
    localities = proto.load_assignment.endpoints
    if len(localities) != 1:
        problems.add(f"{len(localities)} localities instead of one", "endpoints")
        return None
    endpoints = localities[0].lb_endpoints
    if len(endpoints) != 1:
        problems.add(f"{len(endpoints)} endpoints instead of one", "endpoints[0].lb_endpoints")
        return None
    with problems.at("endpoints[0].lb_endpoints[0].endpoint.address.socket_address"):
        address = endpoints[0].endpoint.address
        if not address.HasField("socket_address"):
            problems.add("not set")
            return None
        socket = address.socket_address
        if socket.resolver_name:
            problems.add("is set", "resolver_name")
        if not socket.address or len(socket.address) > _LONGEST_NAME:
            problems.add("empty or too long", "address")
        if not 0 < socket.port_value < 65536:
            problems.add(f"{socket.port_value} is not in 1..65535", "port_value")
        return DnsCluster(socket.address, socket.port_value)


def _aggregate(cluster_type: Any, problems: Problems) -> AggregateCluster | None:
    found = extension(cluster_type, "typed_config", problems)
    if found is None:
        return None
    with problems.at("typed_config"):
        if found.type != AGGREGATE:
            problems.add(f"the cluster type {found.type[:120]} is not supported")
            return None
        message = decode(AGGREGATE, found.data) if isinstance(found.data, bytes) else None
        if message is None:
            problems.add(f"is no {AGGREGATE}")
            return None
        if not message.clusters:
            problems.add("empty", "clusters")
        if not all(message.clusters):
            problems.add("a cluster without a name", "clusters")
        return AggregateCluster(tuple(message.clusters))


def _check_transport(proto: Any, problems: Problems) -> None:
    """TLS as the control plane asks for it is not supported: never connect without it instead."""
    if proto.HasField("transport_socket"):
        problems.add("TLS from the control plane is not supported", "transport_socket")
    if proto.transport_socket_matches:
        problems.add("not supported", "transport_socket_matches")


def _max_requests(proto: Any) -> int:
    """The first threshold of the default priority counts."""
    for threshold in proto.circuit_breakers.thresholds:
        if threshold.priority == _DEFAULT_PRIORITY:
            if threshold.HasField("max_requests"):
                return int(threshold.max_requests.value)
            break
    return _DEFAULT_MAX_REQUESTS


def _outlier_detection(proto: Any, problems: Problems) -> Mapping[str, Any]:
    """The config of `outlier_detection_experimental` (A50) without its child."""
    config: dict[str, Any] = {}
    for field, name in (
        ("interval", "interval"),
        ("base_ejection_time", "baseEjectionTime"),
        ("max_ejection_time", "maxEjectionTime"),
    ):
        if proto.HasField(field):
            with problems.at(field):
                config[name] = duration_json(nanoseconds(getattr(proto, field), problems))
    most = _percent(proto, "max_ejection_percent", problems)
    if most is not None:
        config["maxEjectionPercent"] = most
    # Success rate is on by default, failure percentage is off (Envoy's defaults, A50).
    success: dict[str, Any] = {}
    _copy(proto, "success_rate_minimum_hosts", success, "minimumHosts")
    _copy(proto, "success_rate_request_volume", success, "requestVolume")
    _copy(proto, "success_rate_stdev_factor", success, "stdevFactor")
    enforcing = _percent(proto, "enforcing_success_rate", problems)
    if enforcing is not None:
        success["enforcementPercentage"] = enforcing
    if enforcing != 0:
        config["successRateEjection"] = success
    failure: dict[str, Any] = {}
    _copy(proto, "failure_percentage_minimum_hosts", failure, "minimumHosts")
    _copy(proto, "failure_percentage_request_volume", failure, "requestVolume")
    threshold = _percent(proto, "failure_percentage_threshold", problems)
    if threshold is not None:
        failure["threshold"] = threshold
    enforcing = _percent(proto, "enforcing_failure_percentage", problems)
    if enforcing:
        config["failurePercentageEjection"] = {**failure, "enforcementPercentage": enforcing}
    return config


def _percent(proto: Any, field: str, problems: Problems) -> int | None:
    if not proto.HasField(field):
        return None
    value = int(getattr(proto, field).value)
    if value > 100:
        problems.add(f"{value} is above 100", field)
    return value


def _copy(proto: Any, field: str, config: dict[str, Any], name: str) -> None:
    if proto.HasField(field):
        config[name] = int(getattr(proto, field).value)
