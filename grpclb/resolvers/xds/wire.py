"""The two messages of an ADS stream, between bytes and values."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from grpc import StatusCode

from grpclb.core.status import Status
from grpclb.resolvers.xds.bootstrap import Node
from grpclb.resolvers.xds.common import fill_struct
from grpclb.resolvers.xds.messages import decode, message
from grpclb.resolvers.xds.names import canonical

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
_RESPONSE = "envoy.service.discovery.v3.DiscoveryResponse"
_REQUEST = "envoy.service.discovery.v3.DiscoveryRequest"
# What a management server may expect of a gRPC client (A27, and resources in a wrapper).
_CLIENT_FEATURES = (
    "envoy.lb.does_not_support_overprovisioning",
    "xds.config.resource-in-sotw",
)
_INVALID_ARGUMENT = 3
_CODES = {code.value[0]: code for code in StatusCode}


@dataclass(frozen=True, slots=True)
class Request:
    """A DiscoveryRequest: a subscription, an ACK, or with `error` a NACK.

    `first` of its stream: it says who the client is.
    """

    type_url: str
    names: tuple[str, ...]
    version: str = ""
    nonce: str = ""
    error: str = ""
    first: bool = False


@dataclass(frozen=True, slots=True)
class Response:
    """A DiscoveryResponse. `resources` are pairs of type URL and bytes.

    `errors` say by name why the server cannot send a resource (xRFC TP3).
    """

    type_url: str
    version: str = ""
    nonce: str = ""
    resources: tuple[tuple[str, bytes], ...] = ()
    errors: tuple[tuple[str, Status], ...] = ()


def encode_request(request: Request, node: Node, user_agent: tuple[str, str]) -> bytes:
    """`user_agent` is a name and a version."""
    proto = message(_REQUEST)(
        type_url=request.type_url,
        resource_names=request.names,
        version_info=request.version,
        response_nonce=request.nonce,
    )
    if request.error:
        proto.error_detail.code = _INVALID_ARGUMENT
        proto.error_detail.message = request.error
    if request.first:
        _fill_node(proto.node, node, user_agent)
    data: bytes = proto.SerializeToString()
    return data


def _fill_node(proto: Any, node: Node, user_agent: tuple[str, str]) -> None:
    proto.id, proto.cluster = node.id, node.cluster
    if node.region or node.zone or node.sub_zone:
        proto.locality.region = node.region
        proto.locality.zone = node.zone
        proto.locality.sub_zone = node.sub_zone
    metadata = json.loads(node.metadata)
    if metadata:
        fill_struct(proto.metadata, metadata)
    proto.user_agent_name, proto.user_agent_version = user_agent
    proto.client_features.extend(_CLIENT_FEATURES)


def decode_response(data: bytes) -> Response | None:
    """None: no DiscoveryResponse."""
    proto = decode(_RESPONSE, data)
    if proto is None:
        return None
    return Response(
        proto.type_url,
        proto.version_info,
        proto.nonce,
        tuple((resource.type_url, resource.value) for resource in proto.resources),
        tuple(
            (canonical(error.resource_name.name), _status(error.error_detail))
            for error in proto.resource_errors
            if error.resource_name.name
        ),
    )


def _status(proto: Any) -> Status:
    code = _CODES.get(proto.code, StatusCode.UNKNOWN)
    if code is StatusCode.OK:
        code = StatusCode.UNKNOWN
    return Status(code, proto.message[:1000])
