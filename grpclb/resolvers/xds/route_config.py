"""RDS: a RouteConfiguration read and checked (A28, A31, A39, A44)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grpc import StatusCode

from grpclb.core.retry_config import DEFAULT_MAX_ATTEMPTS, RetryPolicy
from grpclb.resolvers.xds.common import extension, nanoseconds, per_million, regex, seconds
from grpclb.resolvers.xds.errors import Problems
from grpclb.resolvers.xds.filters import check_override
from grpclb.resolvers.xds.matchers import (
    HeaderMatcher,
    PresentMatcher,
    RangeMatcher,
    RouteMatcher,
    StringMatcher,
    TextMatcher,
    TextRule,
)
from grpclb.resolvers.xds.resources import (
    Route,
    RouteAction,
    RouteConfig,
    UnsupportedAction,
    VirtualHost,
    WeightedCluster,
)
from grpclb.resolvers.xds.routing import valid_domain

_MOST_WEIGHT = 2**32 - 1
_MILLISECOND = 1_000_000  # nanoseconds
_RETRY_ON = {
    "cancelled": StatusCode.CANCELLED,
    "deadline-exceeded": StatusCode.DEADLINE_EXCEEDED,
    "internal": StatusCode.INTERNAL,
    "resource-exhausted": StatusCode.RESOURCE_EXHAUSTED,
    "unavailable": StatusCode.UNAVAILABLE,
}
_HEADER_RULES = {
    "exact_match": TextRule.EXACT,
    "prefix_match": TextRule.PREFIX,
    "suffix_match": TextRule.SUFFIX,
    "contains_match": TextRule.CONTAINS,
}


def read_route_config(proto: Any, problems: Problems) -> RouteConfig:
    """A RouteConfiguration's value; worth something only if no problem was added."""
    plugins = _plugins(proto, problems)
    hosts = []
    for index, host in enumerate(proto.virtual_hosts):
        with problems.at(f"virtual_hosts[{index}]"):
            hosts.append(_virtual_host(host, plugins, problems))
    return RouteConfig(proto.name, tuple(hosts))


def _plugins(proto: Any, problems: Problems) -> frozenset[str]:
    """Names of the cluster specifier plugins. None is supported: only optional ones may be here.

    Routes that use one are passed over.
    """
    names: set[str] = set()
    for index, plugin in enumerate(proto.cluster_specifier_plugins):
        with problems.at(f"cluster_specifier_plugins[{index}].extension"):
            if not plugin.HasField("extension"):
                problems.add("not set")
                continue
            name = plugin.extension.name
            if name in names:
                problems.add(f"{name!r} is there twice", "name")
            names.add(name)
            found = extension(plugin.extension, "typed_config", problems)
            if found is not None and not plugin.is_optional:
                problems.add(f"{found.type} is not supported", "typed_config")
    return frozenset(names)


def _virtual_host(host: Any, plugins: frozenset[str], problems: Problems) -> VirtualHost:
    if not host.domains:
        problems.add("empty", "domains")
    for index, domain in enumerate(host.domains):
        if not valid_domain(domain):
            problems.add(f"bad pattern {domain[:80]!r}", f"domains[{index}]")
    _overrides(host.typed_per_filter_config, problems)
    retry = _retry_policy(host, problems)
    routes = []
    for index, proto in enumerate(host.routes):
        with problems.at(f"routes[{index}]"):
            route = _route(proto, retry, plugins, problems)
            if route is not None:
                routes.append(route)
    return VirtualHost(tuple(host.domains), tuple(routes), host.name)


def _overrides(configs: Mapping[str, Any], problems: Problems) -> None:
    for name in sorted(configs):
        with problems.at(f"typed_per_filter_config[{name[:80]!r}]"):
            check_override(name, configs[name], problems)


def _route(
    proto: Any, host_retry: RetryPolicy | None, plugins: frozenset[str], problems: Problems
) -> Route | None:
    """None: the route is passed over, as A28 says of what can never match here."""
    with problems.at("match"):
        if not proto.HasField("match"):
            problems.add("not set")
            return None
        if proto.match.query_parameters:
            return None
        matcher = _matcher(proto.match, problems)
    action: RouteAction | UnsupportedAction | None = UnsupportedAction()
    if proto.HasField("route"):
        with problems.at("route"):
            action = _action(proto.route, host_retry, plugins, problems)
    _overrides(proto.typed_per_filter_config, problems)
    return Route(matcher, action, proto.name) if matcher and action else None


def _matcher(match: Any, problems: Problems) -> RouteMatcher | None:
    ignore_case = match.HasField("case_sensitive") and not match.case_sensitive.value
    path: StringMatcher | None = None
    match match.WhichOneof("path_specifier"):
        case "prefix":
            path = TextMatcher.of(TextRule.PREFIX, match.prefix, ignore_case)
        case "path":
            path = TextMatcher.of(TextRule.EXACT, match.path, ignore_case)
        case "safe_regex":
            with problems.at("safe_regex"):
                path = regex(match.safe_regex.regex, problems)
        case _:
            problems.add("no path, prefix or safe_regex")
    headers = []
    for index, proto in enumerate(match.headers):
        with problems.at(f"headers[{index}]"):
            header = _header(proto, problems)
            if header is not None:
                headers.append(header)
    fraction = None
    if match.HasField("runtime_fraction") and match.runtime_fraction.HasField("default_value"):
        with problems.at("runtime_fraction.default_value"):
            fraction = per_million(match.runtime_fraction.default_value, problems)
    return RouteMatcher(path, tuple(headers), fraction) if path else None


def _header(proto: Any, problems: Problems) -> HeaderMatcher | None:
    rule: StringMatcher | RangeMatcher | PresentMatcher | None = None
    match proto.WhichOneof("header_match_specifier"):
        case "safe_regex_match":
            with problems.at("safe_regex_match"):
                rule = regex(proto.safe_regex_match.regex, problems)
        case "range_match":
            rule = RangeMatcher(proto.range_match.start, proto.range_match.end)
            if rule.start > rule.end:
                problems.add(f"[{rule.start}, {rule.end}) ends before it starts", "range_match")
        case "present_match":
            rule = PresentMatcher(proto.present_match)
        case "string_match":
            with problems.at("string_match"):
                rule = _string(proto.string_match, problems)
        case None:
            problems.add("no rule that is known")
        case name:
            rule = TextMatcher.of(_HEADER_RULES[name], getattr(proto, name))
    return HeaderMatcher(proto.name.lower(), rule, proto.invert_match) if rule else None


def _string(proto: Any, problems: Problems) -> StringMatcher | None:
    match proto.WhichOneof("match_pattern"):
        case "safe_regex":
            return regex(proto.safe_regex.regex, problems)
        case None:
            problems.add("no pattern that is known")
            return None
        case name:
            return TextMatcher.of(TextRule(name), getattr(proto, name), proto.ignore_case)


def _action(
    proto: Any, host_retry: RetryPolicy | None, plugins: frozenset[str], problems: Problems
) -> RouteAction | None:
    limit = _longest(proto, problems)
    retry = _retry_policy(proto, problems) if proto.HasField("retry_policy") else host_retry
    clusters: tuple[WeightedCluster, ...]
    match proto.WhichOneof("cluster_specifier"):
        case "cluster":
            if not proto.cluster:
                problems.add("empty", "cluster")
            clusters = (WeightedCluster(proto.cluster),)
        case "weighted_clusters":
            with problems.at("weighted_clusters"):
                clusters = _weighted(proto.weighted_clusters.clusters, problems)
        case "cluster_specifier_plugin":
            if proto.cluster_specifier_plugin not in plugins:
                name = proto.cluster_specifier_plugin[:80]
                problems.add(f"unknown plugin {name!r}", "cluster_specifier_plugin")
            return None
        case _:
            return None
    return RouteAction(clusters, limit, retry)


def _longest(proto: Any, problems: Problems) -> float | None:
    if not proto.HasField("max_stream_duration"):
        return None
    limits = proto.max_stream_duration
    with problems.at("max_stream_duration"):
        for field in ("grpc_timeout_header_max", "max_stream_duration"):
            if limits.HasField(field):
                with problems.at(field):
                    return seconds(getattr(limits, field), problems)
    return None


def _weighted(protos: Any, problems: Problems) -> tuple[WeightedCluster, ...]:
    clusters = []
    for index, proto in enumerate(protos):
        with problems.at(f"clusters[{index}]"):
            _overrides(proto.typed_per_filter_config, problems)
            if not proto.name:
                problems.add("empty", "name")
            if not proto.HasField("weight"):
                problems.add("not set", "weight")
            elif proto.weight.value:
                clusters.append(WeightedCluster(proto.name, proto.weight.value))
    if not clusters:
        problems.add("no cluster with a weight above 0")
    elif sum(cluster.weight for cluster in clusters) > _MOST_WEIGHT:
        problems.add(f"the sum of the weights is above {_MOST_WEIGHT}")
    return tuple(clusters)


def _retry_policy(parent: Any, problems: Problems) -> RetryPolicy | None:
    """`retry_policy` as A44 converts it; None also if it retries on nothing that is known."""
    if not parent.HasField("retry_policy"):
        return None
    proto = parent.retry_policy
    with problems.at("retry_policy"):
        retries = proto.num_retries.value if proto.HasField("num_retries") else 1
        if retries < 1:
            problems.add("0; at least 1", "num_retries")
        base, most = 25 * _MILLISECOND, 250 * _MILLISECOND
        if proto.HasField("retry_back_off"):
            with problems.at("retry_back_off"):
                base, most = _backoff(proto.retry_back_off, problems)
    words = (word.strip().lower() for word in proto.retry_on.split(","))
    codes = frozenset(_RETRY_ON[word] for word in words if word in _RETRY_ON)
    if not codes:
        return None
    attempts = min(retries + 1, DEFAULT_MAX_ATTEMPTS)
    return RetryPolicy(attempts, base / 1e9, most / 1e9, 2.0, codes)


def _backoff(proto: Any, problems: Problems) -> tuple[int, int]:
    """The base and the longest interval in nanoseconds, of one millisecond at least."""
    base = most = 0
    if not proto.HasField("base_interval"):
        problems.add("not set", "base_interval")
    else:
        with problems.at("base_interval"):
            base = _above_zero(proto.base_interval, problems)
    if proto.HasField("max_interval"):
        with problems.at("max_interval"):
            most = _above_zero(proto.max_interval, problems)
        if 0 < most < base:
            problems.add("shorter than base_interval", "max_interval")
    else:
        most = 10 * base
    return max(base, _MILLISECOND), max(most, _MILLISECOND)


def _above_zero(duration: Any, problems: Problems) -> int:
    bad = len(problems)
    value = nanoseconds(duration, problems)
    if value == 0 and len(problems) == bad:
        problems.add("0; above 0")
    return value
