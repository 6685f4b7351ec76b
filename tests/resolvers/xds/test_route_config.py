"""RDS: routes as values, and every reason to refuse or to pass over one (A28, A31, A44, A63)."""

from __future__ import annotations

from typing import Any

import pytest
from grpc import StatusCode

from grpclb.core.retry_config import RetryPolicy
from grpclb.resolvers.xds import messages as m
from grpclb.resolvers.xds.kinds import Kinds, Parsed
from grpclb.resolvers.xds.matchers import (
    HeaderMatcher,
    PresentMatcher,
    RangeMatcher,
    RegexMatcher,
    RouteMatcher,
    TextMatcher,
    TextRule,
)
from grpclb.resolvers.xds.regex import Regex
from grpclb.resolvers.xds.resources import (
    Route,
    RouteAction,
    RouteConfig,
    UnsupportedAction,
    VirtualHost,
    WeightedCluster,
)
from tests.support.xds_resources import make, pack, registry, route, route_config, seconds

RDS = Kinds.of(registry()).rds


def parse(message: Any) -> Parsed:
    packed = pack(message)
    return RDS.parse(packed.type_url, packed.value)


def routes(*values: dict[str, Any], **host: Any) -> tuple[Route, ...]:
    parsed = parse(route_config("routes", values, **host))
    assert parsed.error == ""
    assert isinstance(parsed.resource, RouteConfig)
    return parsed.resource.virtual_hosts[0].routes


def error(*values: dict[str, Any], **host: Any) -> str:
    parsed = parse(route_config("routes", values, **host))
    assert parsed.name == "routes"
    assert parsed.resource is None
    return parsed.error


def matching(**match: Any) -> dict[str, Any]:
    return {"match": {"prefix": "", **match}, "route": {"cluster": "c"}}


def acting(**action: Any) -> dict[str, Any]:
    return {"match": {"prefix": ""}, "route": action}


def text(rule: str, value: str, ignore_case: bool = False) -> TextMatcher:
    return TextMatcher.of(TextRule(rule), value, ignore_case)


def test_a_whole_configuration() -> None:
    parsed = parse(
        route_config("r", [route("a", "/s/", name="one")], domains=["a", "*.b"], name="v")
    )
    matcher = RouteMatcher(text("prefix", "/s/"))
    action = RouteAction((WeightedCluster("a"),))
    host = VirtualHost(("a", "*.b"), (Route(matcher, action, "one"),), "v")
    assert parsed == Parsed("r", RouteConfig("r", (host,)))


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ({"prefix": "/S"}, text("prefix", "/S")),
        ({"path": "/s/m"}, text("exact", "/s/m")),
        ({"path": "/S/m", "case_sensitive": {"value": False}}, text("exact", "/s/m", True)),
        ({"path": "/S/m", "case_sensitive": {"value": True}}, text("exact", "/S/m")),
        ({"safe_regex": {"regex": "/s/.*"}}, RegexMatcher(Regex("/s/.*"))),
    ],
)
def test_paths(match: dict[str, Any], expected: Any) -> None:
    assert routes({**route(), "match": match})[0].matcher.path == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"exact_match": "X"}, text("exact", "X")),
        ({"prefix_match": "X"}, text("prefix", "X")),
        ({"suffix_match": "X"}, text("suffix", "X")),
        ({"contains_match": "X"}, text("contains", "X")),
        ({"safe_regex_match": {"regex": "x+"}}, RegexMatcher(Regex("x+"))),
        ({"range_match": {"start": -1, "end": 5}}, RangeMatcher(-1, 5)),
        ({"present_match": True}, PresentMatcher(True)),
        ({"present_match": False}, PresentMatcher(False)),
        ({"string_match": {"exact": "X", "ignore_case": True}}, text("exact", "x", True)),
        ({"string_match": {"prefix": "X"}}, text("prefix", "X")),
        ({"string_match": {"suffix": "X"}}, text("suffix", "X")),
        ({"string_match": {"contains": "X"}}, text("contains", "X")),
        (
            {"string_match": {"safe_regex": {"regex": "X"}, "ignore_case": True}},
            RegexMatcher(Regex("X")),  # A63: case counts in a regex, whatever is said
        ),
    ],
)
def test_headers(header: dict[str, Any], expected: Any) -> None:
    (found,) = routes(matching(headers=[{"name": "K", **header}]))[0].matcher.headers
    assert found == HeaderMatcher("k", expected)


def test_a_header_turned_round() -> None:
    headers = [{"name": "k", "present_match": True, "invert_match": True}]
    assert routes(matching(headers=headers))[0].matcher.headers[0].invert


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [
        ({"default_value": {"numerator": 7}}, 70_000),
        ({"default_value": {"numerator": 7, "denominator": 1}}, 700),
        ({"default_value": {"numerator": 7, "denominator": 2}}, 7),
        ({"default_value": {"numerator": 2**32 - 1}}, 1_000_000),
        ({"default_value": {}}, 0),
        ({}, None),
    ],
)
def test_fractions(fraction: dict[str, Any], expected: int | None) -> None:
    assert routes(matching(runtime_fraction=fraction))[0].matcher.per_million == expected


@pytest.mark.parametrize(
    "passed_over",
    [
        matching(query_parameters=[{"name": "q"}]),
        {"match": {"query_parameters": [{"name": "q"}]}},  # whatever else is wrong with it
        acting(),  # no cluster specifier that is known: a header, an inline plugin
    ],
)
def test_routes_that_are_passed_over(passed_over: dict[str, Any]) -> None:
    assert len(routes(passed_over, route("after"))) == 1


def test_an_action_that_is_not_supported_stays_and_fails_rpcs() -> None:
    assert routes({"match": {"prefix": ""}})[0].action == UnsupportedAction()


def weighted(*pairs: tuple[str, int | None]) -> dict[str, Any]:
    values = [{"name": n} if w is None else {"name": n, "weight": {"value": w}} for n, w in pairs]
    return acting(weighted_clusters={"clusters": values})


def test_weighted_clusters_without_those_of_weight_zero() -> None:
    action = routes(weighted(("a", 0), ("b", 1), ("c", 2**32 - 2)))[0].action
    assert action == RouteAction((WeightedCluster("b", 1), WeightedCluster("c", 2**32 - 2)))


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, None),
        ({"max_stream_duration": seconds(2)}, 2.0),
        ({"max_stream_duration": seconds(2), "grpc_timeout_header_max": seconds(0.25)}, 0.25),
        ({"max_stream_duration": seconds(2), "grpc_timeout_header_max": {}}, 0.0),
    ],
)
def test_how_long_a_stream_may_last(limits: dict[str, Any], expected: float | None) -> None:
    action = routes(acting(cluster="c", max_stream_duration=limits))[0].action
    assert isinstance(action, RouteAction)
    assert action.max_stream_duration == expected


ALL = {"retry_on": "cancelled,deadline-exceeded,internal,resource-exhausted,unavailable"}
CODES = frozenset(
    {
        StatusCode.CANCELLED,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.INTERNAL,
        StatusCode.RESOURCE_EXHAUSTED,
        StatusCode.UNAVAILABLE,
    }
)
UNAVAILABLE = frozenset({StatusCode.UNAVAILABLE})


def backoff(base: float | None, most: float | None = None) -> dict[str, Any]:
    values = {"base_interval": base, "max_interval": most}
    return {name: seconds(value) for name, value in values.items() if value is not None}


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (ALL, RetryPolicy(2, 0.025, 0.25, 2.0, CODES)),
        ({**ALL, "num_retries": {"value": 3}}, RetryPolicy(4, 0.025, 0.25, 2.0, CODES)),
        ({**ALL, "num_retries": {"value": 9}}, RetryPolicy(5, 0.025, 0.25, 2.0, CODES)),
        (
            {**ALL, "retry_back_off": backoff(0.1)},
            RetryPolicy(2, 0.1, 1.0, 2.0, CODES),
        ),
        (
            {**ALL, "retry_back_off": backoff(0.1, 0.3)},
            RetryPolicy(2, 0.1, 0.3, 2.0, CODES),
        ),
        (
            {**ALL, "retry_back_off": backoff(0.0001, 0.0002)},
            RetryPolicy(2, 0.001, 0.001, 2.0, CODES),
        ),
        (
            {"retry_on": "5xx, Unavailable ,gateway-error"},
            RetryPolicy(2, 0.025, 0.25, 2.0, UNAVAILABLE),
        ),
        ({"retry_on": "5xx"}, None),
        ({}, None),
    ],
)
def test_retry_policies(policy: dict[str, Any], expected: RetryPolicy | None) -> None:
    of_route = routes(acting(cluster="c", retry_policy=policy))[0].action
    of_host = routes(acting(cluster="c"), retry_policy=policy)[0].action
    assert of_route == of_host == RouteAction((WeightedCluster("c"),), None, expected)


def test_a_routes_policy_hides_the_hosts_even_if_it_retries_on_nothing() -> None:
    action = routes(acting(cluster="c", retry_policy={"retry_on": "5xx"}), retry_policy=ALL)[
        0
    ].action
    assert isinstance(action, RouteAction)
    assert action.retry_policy is None


FILTER = pack("a.b.Unknown")


def filter_config(config: Any, *, optional: bool = True) -> Any:
    return pack(make(m.FILTER_CONFIG, {"config": config, "is_optional": optional}))


def test_optional_overrides_of_unknown_filters_are_passed_over() -> None:
    configs = {"f": filter_config(FILTER), "g": pack(make(m.FAULT, {}))}
    assert routes({**route(), "typed_per_filter_config": configs}, typed_per_filter_config=configs)


def retry(**fields: Any) -> dict[str, Any]:
    return acting(cluster="c", retry_policy={**ALL, **fields})


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"route": {"cluster": "c"}}, "virtual_hosts[0].routes[0].match: not set"),
    ({"match": {}, "route": {"cluster": "c"}}, "match: no path, prefix or safe_regex"),
    (matching(safe_regex={"regex": "("}), "match.safe_regex: regex '(': a group"),
    (matching(headers=[{"name": "k"}]), "match.headers[0]: no rule that is known"),
    (
        matching(headers=[{"name": "k", "string_match": {}}]),
        "headers[0].string_match: no pattern that is known",
    ),
    (
        matching(headers=[{"name": "k", "safe_regex_match": {"regex": "["}}]),
        "headers[0].safe_regex_match: regex",
    ),
    (
        matching(headers=[{"name": "k", "range_match": {"start": 2, "end": 1}}]),
        "headers[0].range_match: [2, 1) ends before it starts",
    ),
    (
        matching(runtime_fraction={"default_value": {"denominator": 9}}),
        "runtime_fraction.default_value.denominator: unknown denominator 9",
    ),
    (acting(cluster=""), "route.cluster: empty"),
    (weighted(), "weighted_clusters: no cluster with a weight above 0"),
    (weighted(("a", 0)), "weighted_clusters: no cluster with a weight above 0"),
    (weighted(("a", 2**32 - 1), ("b", 1)), "the sum of the weights is above 4294967295"),
    (weighted(("", 1)), "weighted_clusters.clusters[0].name: empty"),
    (weighted(("a", None), ("b", 1)), "weighted_clusters.clusters[0].weight: not set"),
    (acting(cluster_specifier_plugin="p"), "route.cluster_specifier_plugin: unknown plugin 'p'"),
    (
        acting(cluster="c", max_stream_duration={"max_stream_duration": {"seconds": -1}}),
        "route.max_stream_duration.max_stream_duration.seconds: -1",
    ),
    (retry(num_retries={"value": 0}), "route.retry_policy.num_retries: 0; at least 1"),
    (retry(retry_back_off={}), "retry_policy.retry_back_off.base_interval: not set"),
    (retry(retry_back_off=backoff(0)), "retry_back_off.base_interval: 0; above 0"),
    (retry(retry_back_off=backoff(1, 0)), "retry_back_off.max_interval: 0; above 0"),
    (retry(retry_back_off=backoff(2, 1)), "max_interval: shorter than base_interval"),
    (
        retry(retry_back_off={"base_interval": {"nanos": -1}}),
        "retry_back_off.base_interval.nanos: -1",
    ),
    (
        {**route(), "typed_per_filter_config": {"f": FILTER}},
        "routes[0].typed_per_filter_config['f']: the filter a.b.Unknown is not supported",
    ),
    (
        {**route(), "typed_per_filter_config": {"f": filter_config(FILTER, optional=False)}},
        "the filter a.b.Unknown is not supported",
    ),
    (
        {**route(), "typed_per_filter_config": {"f": pack(m.FILTER_CONFIG)}},
        "typed_per_filter_config['f'].config: not set",
    ),
    (
        {**route(), "typed_per_filter_config": {"f": pack(m.FILTER_CONFIG, b"\xff")}},
        f"is no {m.FILTER_CONFIG}",
    ),
    (
        {**route(), "typed_per_filter_config": {"r": pack(m.ROUTER)}},
        "the router has no override",
    ),
    (
        {**route(), "typed_per_filter_config": {"": filter_config(FILTER)}},
        "a filter without a name",
    ),
]


@pytest.mark.parametrize(("value", "reason"), REFUSED)
def test_refused_with_the_reason(value: dict[str, Any], reason: str) -> None:
    assert reason in error(value)


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ({"domains": []}, "virtual_hosts[0].domains: empty"),
        ({"domains": ["a", "b*c"]}, "virtual_hosts[0].domains[1]: bad pattern 'b*c'"),
        ({"domains": [""]}, "domains[0]: bad pattern ''"),
        ({"retry_policy": {"num_retries": {"value": 0}}}, "[0].retry_policy.num_retries: 0"),
        ({"typed_per_filter_config": {"f": FILTER}}, "[0].typed_per_filter_config['f']: the"),
    ],
)
def test_a_host_is_refused_with_the_reason(host: dict[str, Any], reason: str) -> None:
    assert reason in error(route(), **host)


def plugins(*values: dict[str, Any]) -> Any:
    hosts = [{"domains": ["*"], "routes": [acting(cluster_specifier_plugin="p"), route()]}]
    fields = {"name": "r", "virtual_hosts": hosts, "cluster_specifier_plugins": list(values)}
    return make(m.ROUTE_CONFIGURATION, fields)


PLUGIN = {"extension": {"name": "p", "typed_config": FILTER}}


def test_routes_of_an_optional_plugin_are_passed_over() -> None:
    parsed = parse(plugins({**PLUGIN, "is_optional": True}))
    assert parsed.error == ""
    assert isinstance(parsed.resource, RouteConfig)
    assert len(parsed.resource.virtual_hosts[0].routes) == 1


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([PLUGIN], "cluster_specifier_plugins[0].extension.typed_config: a.b.Unknown is not"),
        ([{"is_optional": True}], "cluster_specifier_plugins[0].extension: not set"),
        ([{**PLUGIN, "is_optional": True}] * 2, "[1].extension.name: 'p' is there twice"),
        ([], "routes[0].route.cluster_specifier_plugin: unknown plugin 'p'"),
    ],
)
def test_plugins_are_refused_with_the_reason(values: list[Any], reason: str) -> None:
    assert reason in parse(plugins(*values)).error
