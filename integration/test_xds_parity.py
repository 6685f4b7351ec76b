"""C-core's own xDS client and grpclb's, sync and aio, side by side: the same RPCs go the same way.

What only chance decides is given so many RPCs that 2 % are more than four standard deviations.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from integration.xds.client import Result
from integration.xds.side import Side
from tests.support import xds_resources as x
from tests.support.xds_resources import locality

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]
MANY = 4000
# Chance needs many RPCs; both of grpclb's stacks ask the same selector and the same picker.
statistics = pytest.mark.parametrize("side", [("c-core", "sync")], indirect=True)


def inline(*routes: Any, **host: Any) -> dict[str, Any]:
    """A route configuration as a field of a listener, which has it itself."""
    return {"name": "inline", "virtual_hosts": [{"domains": ["*"], "routes": list(routes), **host}]}


def expect(results: dict[str, Result], tolerance: float = 0.02, **expected: float) -> None:
    """Shares of all RPCs, by the name of the backend, or of the code for those that failed."""
    for client, result in results.items():
        for name, share in expected.items():
            seen = result.codes.get(name, 0) / result.total or result.share(name)
            assert abs(seen - share) <= tolerance, (client, name, seen, share, result)


# -- endpoints -----------------------------------------------------------------------------------


def test_all_endpoints_get_the_same(side: Side) -> None:
    side.serve(eds=[locality(side.at("a"), side.at("b"), side.at("c"))])
    side.until_from("a", "b", "c")
    expect(side.call(300), 0.01, a=1 / 3, b=1 / 3, c=1 / 3)


@statistics
def test_localities_get_their_weights(side: Side) -> None:
    side.serve(
        eds=[
            locality(side.at("a"), side.at("b"), zone="one", weight=9),
            locality(side.at("c"), zone="two", weight=1),
            locality(side.at("d"), zone="none", weight=0),
        ]
    )
    side.until_from("a", "b", "c", count=30)
    expect(side.call(MANY), a=0.45, b=0.45, c=0.1, d=0)


@statistics
def test_clusters_get_their_weights(side: Side) -> None:
    weighted = {
        "clusters": [
            {"name": side.named("one"), "weight": {"value": 90}},
            {"name": side.named("two"), "weight": {"value": 10}},
            {"name": side.named("none"), "weight": {"value": 0}},
        ]
    }
    side.serve(
        side.routes({"match": {"prefix": ""}, "route": {"weighted_clusters": weighted}}),
        *side.one("one", "a"),
        *side.one("two", "b"),
        *side.one("none", "c"),
    )
    side.until_from("a", "b", count=40)
    expect(side.call(MANY), a=0.9, b=0.1, c=0)


@statistics
def test_drop_overloads(side: Side) -> None:
    """Of what the first category lets pass, the second one drops its part."""
    drops = [
        {"category": "lb", "drop_percentage": {"numerator": 4}},
        {"category": "throttle", "drop_percentage": {"numerator": 62_500, "denominator": 2}},
    ]
    side.serve(side.endpoints("c", locality(side.at("a")), policy={"drop_overloads": drops}))
    side.until(lambda result: "a" in result.answers)
    results = side.call(MANY)
    expect(results, a=0.9, UNAVAILABLE=0.1)
    for client, result in results.items():
        assert "drop" in result.details["UNAVAILABLE"].lower(), (client, result)


def test_only_healthy_endpoints_are_used(side: Side) -> None:
    side.serve(
        eds=[
            locality(
                side.at("a", health_status=1),  # HEALTHY
                side.at("b", health_status=2),  # UNHEALTHY
                side.at("c", health_status=3),  # DRAINING
                side.at("d"),  # UNKNOWN
            )
        ]
    )
    side.until_from("a", "d")
    expect(side.call(60), 0.02, a=0.5, d=0.5)


def test_max_requests_limits_what_is_under_way(side: Side) -> None:
    breakers = {"thresholds": [{"priority": 0, "max_requests": {"value": 3}}]}
    side.serve(side.cluster(circuit_breakers=breakers), eds=[locality(side.at("a"))])
    side.ready()
    results = side.call(20, threads=20, metadata={"x-delay": "1.5"})
    for client, result in results.items():
        assert result.codes == {"OK": 3, "UNAVAILABLE": 17}, (client, result)
    expect(side.call(20, threads=1), a=1)  # they are over


def test_another_priority_takes_over_and_gives_back(side: Side) -> None:
    side.serve(
        eds=[
            locality(side.at("a"), zone="one"),
            locality(side.at("b"), zone="two", priority=1),
        ]
    )
    side.until_from("a")
    try:
        side.backends.close("a")
        side.until_from("b")
    finally:
        side.backends.open("a")
    side.until_from("a")


def test_a_priority_without_healthy_endpoints_is_passed_over(side: Side) -> None:
    side.serve(
        eds=[
            locality(side.at("a", health_status=2), zone="one"),
            locality(side.at("b"), zone="two", priority=1),
        ]
    )
    side.until_from("b")
    with side.flowing() as flows:
        side.put(
            side.endpoints(
                "c",
                locality(side.at("a"), zone="one"),
                locality(side.at("b"), zone="two", priority=1),
            )
        )
        side.until_from("a")
    for client, flow in flows.items():
        assert not flow.failed, (client, flow)


# -- routes --------------------------------------------------------------------------------------

REGEX = {"safe_regex": {"regex": "/test\\.Echo/(Get|Put)[0-9]+"}}
# match of a route to the backend `a` (others go to `b`), RPCs as (method, metadata), who answers
MATCHES: dict[str, tuple[dict[str, Any], list[tuple[str, dict[str, str], str]]]] = {
    "prefix": (
        {"prefix": "/test.Echo/Ge"},
        [("Get", {}, "a"), ("Ge", {}, "a"), ("get", {}, "b"), ("G", {}, "b")],
    ),
    "path": (
        {"path": "/test.Echo/Get"},
        [("Get", {}, "a"), ("GetX", {}, "b"), ("GET", {}, "b")],
    ),
    "path of any case": (
        {"path": "/test.echo/get", "case_sensitive": {"value": False}},
        [("Get", {}, "a"), ("GET", {}, "a"), ("GetX", {}, "b")],
    ),
    "prefix of any case": (
        {"prefix": "/TEST.echo/g", "case_sensitive": {"value": False}},
        [("Get", {}, "a"), ("Put", {}, "b")],
    ),
    "regex, the whole path": (
        REGEX,
        [("Get1", {}, "a"), ("Put22", {}, "a"), ("Get", {}, "b"), ("Get1x", {}, "b")],
    ),
    "header, exact": (
        {"prefix": "", "headers": [{"name": "who", "exact_match": "me"}]},
        [("P", {"who": "me"}, "a"), ("P", {"who": "Me"}, "b"), ("P", {}, "b")],
    ),
    "header, not": (
        {"prefix": "", "headers": [{"name": "who", "exact_match": "me", "invert_match": True}]},
        [("P", {"who": "me"}, "b"), ("P", {"who": "you"}, "a")],
    ),
    "header, not, which is absent": (
        {"prefix": "", "headers": [{"name": "who", "exact_match": "me", "invert_match": True}]},
        [("P", {}, "b")],
    ),
    "header, prefix and suffix": (
        {
            "prefix": "",
            "headers": [
                {"name": "who", "prefix_match": "m"},
                {"name": "where", "suffix_match": "e"},
            ],
        },
        [("P", {"who": "me", "where": "here"}, "a"), ("P", {"who": "me", "where": "x"}, "b")],
    ),
    "header, contains": (
        {"prefix": "", "headers": [{"name": "who", "contains_match": "ee"}]},
        [("P", {"who": "meek"}, "a"), ("P", {"who": "me"}, "b")],
    ),
    "header, regex": (
        {"prefix": "", "headers": [{"name": "who", "safe_regex_match": {"regex": "m.*k"}}]},
        [("P", {"who": "meek"}, "a"), ("P", {"who": "a meek"}, "b")],
    ),
    "header, range": (
        {"prefix": "", "headers": [{"name": "n", "range_match": {"start": -1, "end": 5}}]},
        [("P", {"n": "-1"}, "a"), ("P", {"n": "5"}, "b"), ("P", {"n": "x"}, "b")],
    ),
    "header, present": (
        {"prefix": "", "headers": [{"name": "who", "present_match": True}]},
        [("P", {"who": ""}, "a"), ("P", {}, "b")],
    ),
    "header, absent": (
        {"prefix": "", "headers": [{"name": "who", "present_match": False}]},
        [("P", {"who": "me"}, "b"), ("P", {}, "a")],
    ),
    "header, a string of any case": (
        {
            "prefix": "",
            "headers": [{"name": "who", "string_match": {"exact": "ME", "ignore_case": True}}],
        },
        [("P", {"who": "me"}, "a"), ("P", {"who": "you"}, "b")],
    ),
    "content-type": (
        {"prefix": "", "headers": [{"name": "content-type", "exact_match": "application/grpc"}]},
        [("P", {}, "a")],
    ),
    "query parameters never match": (
        {"prefix": "", "query_parameters": [{"name": "q"}]},
        [("P", {}, "b")],
    ),
}


def test_routes_match(side: Side) -> None:
    """One channel per kind of match, all at once."""
    side.put(*side.one("a", "a"), *side.one("b", "b"))
    for number, (match, _) in enumerate(MATCHES.values()):
        to = {"route": {"cluster": side.named("a")}}
        config = inline({"match": match, **to}, side.to("b"))
        side.put(x.listener(side.named(str(number)), route_config=config))
    side.ready(*(f"xds:///{side.named(str(number))}" for number in range(len(MATCHES))))
    rows, expected = [], []
    for number, (what, (_, calls)) in enumerate(MATCHES.items()):
        for method, metadata, name in calls:
            target = f"xds:///{side.named(str(number))}"
            rows.append({"target": target, "method": f"/test.Echo/{method}", "metadata": metadata})
            expected.append((what, method, metadata, name))
    for client, results in side.calls(rows).items():
        for result, row in zip(results, expected, strict=True):
            assert result.answers == {row[-1]: 1}, (client, row, result)


@statistics
def test_a_route_for_a_fraction(side: Side) -> None:
    fraction = {"default_value": {"numerator": 1_000, "denominator": 1}}  # of 10,000
    some = {"match": {"prefix": "", "runtime_fraction": fraction}}
    side.serve(
        side.routes({**some, "route": {"cluster": side.named("one")}}, side.to("two")),
        *side.one("one", "a"),
        *side.one("two", "b"),
    )
    side.until_from("a", "b", count=40)
    expect(side.call(MANY), a=0.1, b=0.9)


def test_no_route(side: Side) -> None:
    side.serve(side.routes(side.to("c", prefix="/else")), eds=[locality(side.at("a"))])
    for client, result in side.until(lambda r: "UNAVAILABLE" in r.codes, 5).items():
        assert result.codes == {"UNAVAILABLE": 5}, (client, result)
        assert "route" in result.details["UNAVAILABLE"].lower(), (client, result)


def test_an_action_that_is_not_supported(side: Side) -> None:
    """A redirect, and a direct response: RPCs that match fail, and only they."""
    routes = side.routes(
        {"match": {"prefix": "/test.Echo/Redirect"}},
        {"match": {"prefix": "/test.Echo/Direct"}},
        side.to("c"),
    )
    # Fields that grpclb's messages do not have: redirect, and direct_response with its status.
    for route, field in zip(
        routes.virtual_hosts[0].routes, (b"\x1a\x00", b":\x03\x08\xc8\x01"), strict=False
    ):
        route.MergeFromString(field)
    side.serve(routes, eds=[locality(side.at("a"))])
    side.ready()
    for method in ("Redirect", "Direct"):
        for client, result in side.call(3, method=f"/test.Echo/{method}").items():
            assert result.codes == {"UNAVAILABLE": 3}, (client, method, result)
    expect(side.call(3), a=1)


REPORT = {"x-report": "1"}
SHORT, TAKES, LONG = 3.0, 4.5, 15.0  # seconds
# of the route, of the HTTP connection manager, of the caller -> what counts
TIMEOUTS: list[tuple[dict[str, float], float | None, float, float]] = [
    ({"max_stream_duration": SHORT}, None, LONG, SHORT),
    ({"max_stream_duration": LONG, "grpc_timeout_header_max": SHORT}, None, LONG, SHORT),
    ({"max_stream_duration": SHORT, "grpc_timeout_header_max": LONG}, None, LONG, LONG),
    ({"grpc_timeout_header_max": 0}, SHORT, LONG, LONG),
    ({"max_stream_duration": 0}, SHORT, LONG, LONG),
    ({}, SHORT, LONG, SHORT),
    ({"max_stream_duration": LONG}, SHORT, SHORT, SHORT),
    ({"max_stream_duration": LONG}, SHORT, LONG, LONG),
]


def test_timeouts(side: Side) -> None:
    """Of the least one that counts. C-core does not tell it to the backend, grpclb does.

    Where C-core's clock of cycles is wrong, as on some virtual machines, its timeouts are early by
    seconds; hence such long ones.
    """
    side.put(*side.one("c", "a"))
    targets = [f"xds:///{side.named(str(number))}" for number in range(len(TIMEOUTS))]
    for number, (route, manager, _, _) in enumerate(TIMEOUTS):
        fields = {name: x.seconds(value) for name, value in route.items()}
        action = {"cluster": side.named("c"), **({"max_stream_duration": fields} if route else {})}
        more = {}
        if manager is not None:
            limit = {"max_stream_duration": x.seconds(manager)}
            more["common_http_protocol_options"] = limit
        config = inline({"match": {"prefix": ""}, "route": action})
        side.put(x.listener(side.named(str(number)), route_config=config, **more))
    side.ready(*targets)
    slow = {"x-delay": str(TAKES), **REPORT}
    calls = [
        {"target": target, "timeout": mine, "metadata": slow}
        for target, (_, _, mine, _) in zip(targets, TIMEOUTS, strict=True)
    ]
    for client, results in side.calls(calls).items():
        for row, result in zip(TIMEOUTS, results, strict=True):
            code = "DEADLINE_EXCEEDED" if row[-1] == SHORT else "OK"
            assert result.codes == {code: 1}, (client, row, result)
            for answer in result.answers:
                assert client == "c-core" or json.loads(answer)["left"] <= row[-1] - TAKES + 0.5


RETRIES: list[tuple[dict[str, Any], int, str]] = [  # policy, failures, the code in the end
    ({"retry_on": "unavailable", "num_retries": {"value": 3}}, 3, "OK"),
    ({"retry_on": "unavailable", "num_retries": {"value": 3}}, 4, "UNAVAILABLE"),
    ({"retry_on": "unavailable"}, 1, "OK"),
    ({"retry_on": "unavailable"}, 2, "UNAVAILABLE"),
    ({"retry_on": "internal,5xx"}, 1, "UNAVAILABLE"),
    ({"retry_on": "5xx"}, 1, "UNAVAILABLE"),
    ({"retry_on": "unavailable", "num_retries": {"value": 9}}, 4, "OK"),
]


def test_retries(side: Side) -> None:
    side.put(*side.one("c", "a"))
    for number, (policy, _, _) in enumerate(RETRIES):
        config = inline(side.to("c"), retry_policy=policy)
        side.put(x.listener(side.named(str(number)), route_config=config))
    targets = [f"xds:///{side.named(str(number))}" for number in range(len(RETRIES))]
    side.ready(*targets)
    calls = [
        {"target": t, "metadata": {"x-failures": str(failures), "x-id": t, **REPORT}}
        for t, (_, failures, _) in zip(targets, RETRIES, strict=True)
    ]
    for client, results in side.calls(calls).items():
        for row, result in zip(RETRIES, results, strict=True):
            assert result.codes == {row[-1]: 1}, (client, row, result)
            for answer in result.answers:
                assert json.loads(answer)["failed"] == row[1], (client, row, answer)


# -- clusters ------------------------------------------------------------------------------------


def aggregate(*names: str) -> dict[str, Any]:
    config = x.make("envoy.extensions.clusters.aggregate.v3.ClusterConfig", {"clusters": [*names]})
    return {"name": "envoy.clusters.aggregate", "typed_config": x.pack(config)}


def test_an_aggregate_fails_over(side: Side) -> None:
    names = (side.named("one"), side.named("two"))
    side.serve(
        side.cluster(cluster_type=aggregate(*names)),
        *side.one("one", "a"),
        *side.one("two", "b"),
    )
    side.until_from("a")
    try:
        side.backends.close("a")
        side.until_from("b")
    finally:
        side.backends.open("a")
    side.until_from("a")


def dns(port: int, host: str = "localhost") -> dict[str, Any]:
    return {
        "type": 2,
        "load_assignment": {"endpoints": [{"lb_endpoints": [x.endpoint(host, port)]}]},
    }


def test_logical_dns(side: Side) -> None:
    side.serve(side.cluster(**dns(side.backends.port("c"))))
    side.until_from("c")


def test_an_aggregate_of_dns_behind_eds(side: Side) -> None:
    side.serve(
        side.cluster(cluster_type=aggregate(side.named("one"), side.named("two"))),
        side.cluster("one"),
        side.endpoints("one", locality(side.at("a", health_status=2))),
        side.cluster("two", **dns(side.backends.port("d"))),
    )
    side.until_from("d")


# -- changes, without a failed RPC ---------------------------------------------------------------


def test_changes_of_each_type(side: Side) -> None:
    side.serve(eds=[locality(side.at("a"))])
    side.until_from("a")
    with side.flowing() as flows:
        side.put(side.endpoints("c", locality(side.at("b"))))
        side.until_from("b")
        side.put(
            side.cluster(
                eds_cluster_config={"eds_config": x.ADS, "service_name": side.named("e")}, type=3
            )
        )
        side.put(side.endpoints("e", locality(side.at("c"))))
        side.until_from("c")
        side.put(*side.one("new", "d"), side.routes(side.to("new")))
        side.until_from("d")
        side.put(side.listener(route_config=inline(side.to("c"))))
        side.until_from("c")
    for client, flow in flows.items():
        assert not flow.failed, (client, flow)
        assert {"b", "c", "d"} <= set(flow.answers), (client, flow)


def test_a_deleted_cluster_is_used_on(side: Side) -> None:
    """Deletion is no news for what has its data (gRFC A88)."""
    side.serve(eds=[locality(side.at("a"))])
    side.until_from("a")
    side.server.remove("CDS", side.named("c"))
    assert not any(verdict.error for verdict in side.verdicts("CDS").values())
    expect(side.call(50), a=1)
    side.put(side.cluster())
    expect(side.call(50), a=1)


def test_what_does_not_exist(side: Side) -> None:
    """After 15 s without an answer RPCs fail (one target for each kind); later it may come.

    grpclb lets no RPC wait for the first answer of any resolver for longer than 5 s.
    """
    kinds = ("LDS", "RDS", "CDS", "EDS")
    resources: dict[str, list[Any]] = {}
    for kind in kinds:
        rds = {"config_source": x.ADS, "route_config_name": side.named(f"{kind}-routes")}
        resources[kind] = [
            x.listener(side.named(kind), rds=rds),
            x.route_config(side.named(f"{kind}-routes"), [side.to(f"{kind}-c")]),
            side.cluster(f"{kind}-c"),
            side.endpoints(f"{kind}-c", locality(side.at("a"))),
        ]
        side.put(*resources[kind][: kinds.index(kind)])
    targets = [f"xds:///{side.named(kind)}" for kind in kinds]
    for client, results in side.calls([{"target": t, "timeout": 50} for t in targets]).items():
        for kind, result in zip(kinds, results, strict=True):
            assert result.codes == {"UNAVAILABLE": 1}, (client, kind, result)
            assert result.seconds > 14 or client != "c-core", (client, kind, result)
    for kind, target in zip(kinds, targets, strict=True):
        said = side.until(lambda r: "does not exist" in r.details["UNAVAILABLE"], 1, target=target)
        for client, result in said.items():
            assert side.named(kind) in result.details["UNAVAILABLE"], (client, kind, result)
    side.put(*(resource for some in resources.values() for resource in some))
    side.ready(*targets)


@pytest.mark.grpcio_leaks("the shared server listens anew")
def test_a_management_server_that_is_away(side: Side) -> None:
    """RPCs go on; then all names are asked for again, with versions and without a nonce."""
    side.serve(eds=[locality(side.at("a"))])
    side.until_from("a")
    kinds = ("LDS", "RDS", "CDS", "EDS")
    versions = {kind: {c: v.version for c, v in side.verdicts(kind).items()} for kind in kinds}
    names = {kind: {c: v.names for c, v in side.verdicts(kind).items()} for kind in kinds}
    with side.flowing() as flows:
        side.server.stop()
        expect(side.call(50), a=1)
        side.server.forget()
        side.server.start()
        for client in side.clients:
            for kind in kinds:
                first = side.server.wait_for(partial(side.server.asked, client, kind))[0]
                assert (first.version, first.nonce) == (versions[kind][client], "")
                assert sorted(first.names) == sorted(names[kind][client])
        side.put(side.endpoints("c", locality(side.at("b"))))
        side.until_from("b")
    for client, flow in flows.items():
        assert not flow.failed, (client, flow)
