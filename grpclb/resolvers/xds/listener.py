"""LDS: a client's Listener read and checked (A27, A31, A39)."""

from __future__ import annotations

from typing import Any

from grpclb.resolvers.xds.common import config_source, extension, seconds
from grpclb.resolvers.xds.errors import Problems
from grpclb.resolvers.xds.filters import check_filters
from grpclb.resolvers.xds.messages import HTTP_CONNECTION_MANAGER, decode
from grpclb.resolvers.xds.resources import Listener, RouteConfig
from grpclb.resolvers.xds.route_config import read_route_config


def read_listener(proto: Any, problems: Problems) -> Listener | None:
    """A Listener's value; worth something only if no problem was added."""
    with problems.at("api_listener"):
        if not proto.HasField("api_listener"):
            problems.add("not set: this is a server's listener")
            return None
        found = extension(proto.api_listener, "api_listener", problems)
        if found is None:
            return None
        with problems.at("api_listener"):
            if found.type != HTTP_CONNECTION_MANAGER:
                problems.add(f"{found.type[:120]} is no HttpConnectionManager")
                return None
            data = found.data
            manager = decode(HTTP_CONNECTION_MANAGER, data) if isinstance(data, bytes) else None
            if manager is None:
                problems.add("cannot be decoded")
                return None
            return _manager(proto.name, manager, problems)


def _manager(name: str, manager: Any, problems: Problems) -> Listener | None:
    # gRFC A41: both would change whom a server takes for its client.
    if manager.xff_num_trusted_hops:
        problems.add("not 0", "xff_num_trusted_hops")
    if manager.original_ip_detection_extensions:
        problems.add("not empty", "original_ip_detection_extensions")
    limit = 0.0
    options = manager.common_http_protocol_options
    if options.HasField("max_stream_duration"):
        with problems.at("common_http_protocol_options.max_stream_duration"):
            limit = seconds(options.max_stream_duration, problems)
    with problems.at("http_filters"):
        check_filters(manager.http_filters, problems)
    routes = _routes(manager, problems)
    return Listener(name, routes, limit) if routes is not None else None


def _routes(manager: Any, problems: Problems) -> str | RouteConfig | None:
    match manager.WhichOneof("route_specifier"):
        case "route_config":
            with problems.at("route_config"):
                return read_route_config(manager.route_config, problems)
        case "rds":
            with problems.at("rds"):
                config_source(manager.rds, "config_source", problems)
                if not manager.rds.route_config_name:
                    problems.add("empty", "route_config_name")
                return str(manager.rds.route_config_name)
    problems.add("neither rds nor route_config")
    return None
