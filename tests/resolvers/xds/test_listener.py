"""LDS: what a listener says, and every reason to refuse one (A27, A31, A39, A41)."""

from __future__ import annotations

from typing import Any

import pytest

from grpclb.resolvers.xds import messages as m
from grpclb.resolvers.xds.kinds import Kinds, Parsed
from grpclb.resolvers.xds.resources import Listener, RouteConfig
from tests.support.xds_resources import (
    ADS,
    listener,
    make,
    pack,
    registry,
    route_config,
    seconds,
    typed_struct,
)

LDS = Kinds.of(registry()).lds
ROUTER = {"name": "router", "typed_config": pack(m.ROUTER)}
UNKNOWN = {"name": "x", "typed_config": pack("a.b.Unknown")}
HALF = {"percentage": {"numerator": 50}}


def parse(message: Any) -> Parsed:
    packed = pack(message)
    return LDS.parse(packed.type_url, packed.value)


def fault(**fields: Any) -> dict[str, Any]:
    return {"name": "fault", "typed_config": pack(make(m.FAULT, fields))}


def test_routes_by_name() -> None:
    assert parse(listener()) == Parsed("lis", Listener("lis", "routes", 0.0))


def test_routes_inside() -> None:
    inside = {"name": "r", "virtual_hosts": []}
    parsed = parse(listener(route_config=inside))
    assert parsed.resource == Listener("lis", RouteConfig("r", ()))


def test_the_longest_stream() -> None:
    options = {"max_stream_duration": seconds(1.5)}
    parsed = parse(listener(common_http_protocol_options=options))
    assert parsed.resource == Listener("lis", "routes", 1.5)


def test_self_is_a_source_too() -> None:
    rds = {"config_source": {"self": {}}, "route_config_name": "r"}
    assert parse(listener(rds=rds)).resource == Listener("lis", "r")


@pytest.mark.parametrize(
    "filters",
    [
        [ROUTER],
        [{**UNKNOWN, "is_optional": True}, ROUTER],
        # Behind the router, but not there for us.
        [ROUTER, {**UNKNOWN, "is_optional": True}],
        [fault(), ROUTER],  # Istio sends it to every client
        [fault(delay={"percentage": {}}, abort={}), ROUTER],
    ],
)
def test_filters_that_change_nothing(filters: list[Any]) -> None:
    assert parse(listener(http_filters=filters)).error == ""


MANAGER = "api_listener.api_listener"
FILTERS = f"{MANAGER}.http_filters"
REFUSED: list[tuple[str, Any, str]] = [
    ("no api_listener", make(m.LISTENER, {"name": "lis"}), "api_listener: not set"),
    (
        "empty api_listener",
        make(m.LISTENER, {"name": "lis", "api_listener": {}}),
        "api_listener.api_listener: not set",
    ),
    (
        "something else",
        make(m.LISTENER, {"name": "lis", "api_listener": {"api_listener": pack("a.B")}}),
        f"{MANAGER}: a.B is no HttpConnectionManager",
    ),
    (
        "bad bytes",
        make(
            m.LISTENER,
            {
                "name": "lis",
                "api_listener": {"api_listener": pack(m.HTTP_CONNECTION_MANAGER, b"\xff")},
            },
        ),
        f"{MANAGER}: cannot be decoded",
    ),
    (
        "a struct",
        make(
            m.LISTENER,
            {
                "name": "lis",
                "api_listener": {
                    "api_listener": typed_struct(f"t/{m.HTTP_CONNECTION_MANAGER}", {})
                },
            },
        ),
        f"{MANAGER}: cannot be decoded",
    ),
    ("no routes", listener(rds={}), "neither rds nor route_config"),
    ("no source", listener(rds={"route_config_name": "r"}), "rds.config_source: not set"),
    (
        "another source",
        listener(rds={"config_source": {}, "route_config_name": "r"}),
        "rds.config_source: is neither ads nor self",
    ),
    ("no name", listener(rds={"config_source": ADS}), "rds.route_config_name: empty"),
    (
        "bad routes",
        listener(route_config={"virtual_hosts": [{}]}),
        f"{MANAGER}.route_config.virtual_hosts[0].domains: empty",
    ),
    ("hops", listener(xff_num_trusted_hops=1), "xff_num_trusted_hops: not 0"),
    (
        "detection",
        listener(original_ip_detection_extensions=[{}]),
        "original_ip_detection_extensions: not empty",
    ),
    (
        "duration",
        listener(common_http_protocol_options={"max_stream_duration": {"seconds": -1}}),
        "max_stream_duration.seconds: -1",
    ),
    (
        "nanos",
        listener(common_http_protocol_options={"max_stream_duration": {"nanos": 10**9}}),
        "max_stream_duration.nanos: 1000000000",
    ),
    ("no filter", listener(http_filters=[]), f"{FILTERS}: no HTTP filter"),
    (
        "only optional",
        listener(http_filters=[{**UNKNOWN, "is_optional": True}]),
        f"{FILTERS}: no HTTP filter",
    ),
    (
        "unknown",
        listener(http_filters=[UNKNOWN, ROUTER]),
        f"{FILTERS}[0].typed_config: the filter a.b.Unknown is not supported",
    ),
    (
        "unknown in a struct",
        listener(http_filters=[{"name": "x", "typed_config": typed_struct("t/u.V", {})}, ROUTER]),
        "the filter u.V is not supported",
    ),
    ("no router", listener(http_filters=[fault()]), "the last filter is not the router"),
    (
        "two routers",
        listener(http_filters=[ROUTER, {**ROUTER, "name": "again"}]),
        "the router is not the last filter",
    ),
    ("twice", listener(http_filters=[ROUTER, ROUTER]), f"{FILTERS}[1].name: 'router' is there"),
    ("nameless", listener(http_filters=[{**ROUTER, "name": ""}]), f"{FILTERS}[0].name: empty"),
    ("no config", listener(http_filters=[{"name": "x"}]), f"{FILTERS}[0].typed_config: not set"),
    ("delay", listener(http_filters=[fault(delay=HALF), ROUTER]), "fault injection"),
    ("abort", listener(http_filters=[fault(abort=HALF), ROUTER]), "fault injection"),
    (
        "bad fault",
        listener(http_filters=[{"name": "f", "typed_config": pack(m.FAULT, b"\xff")}, ROUTER]),
        f"is no {m.FAULT}",
    ),
]


@pytest.mark.parametrize(
    ("message", "reason"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_refused_with_the_reason(message: Any, reason: str) -> None:
    parsed = parse(message)
    assert parsed.name == "lis"
    assert parsed.resource is None
    assert reason in parsed.error


def test_all_mistakes_are_told_at_once() -> None:
    error = parse(listener(xff_num_trusted_hops=1, http_filters=[], rds={})).error
    assert error.count("; ") == 2


def test_route_config_is_the_same_inside_as_outside() -> None:
    rds = Kinds.of(registry()).rds
    packed = pack(route_config())
    inside = parse(listener(route_config={"name": "routes", "virtual_hosts": [_HOST]})).resource
    assert isinstance(inside, Listener)
    assert inside.routes == rds.parse(packed.type_url, packed.value).resource


_HOST = {
    "name": "host",
    "domains": ["*"],
    "routes": [{"match": {"prefix": ""}, "route": {"cluster": "c"}}],
}
