"""CDS: kinds of clusters, their policies, reasons to refuse one (A27, A32, A37, A50, A52)."""

from __future__ import annotations

from typing import Any

import pytest

from grpclb.resolvers.xds import messages as m
from grpclb.resolvers.xds.kinds import Kinds, Parsed
from grpclb.resolvers.xds.resources import (
    AggregateCluster,
    Cluster,
    DnsCluster,
    EdsCluster,
    LbPolicy,
)
from tests.support.xds_resources import (
    ADS,
    cluster,
    endpoint,
    lb,
    make,
    pack,
    policies,
    registry,
    seconds,
    typed_struct,
)

WRR_LOCALITY = "xds_wrr_locality_experimental"
DEFAULT = LbPolicy(WRR_LOCALITY, {"childPolicy": [{"round_robin": {}}]})


def parse(message: Any, *known: str) -> Parsed:
    packed = pack(message)
    return Kinds.of(registry(*known)).cds.parse(packed.type_url, packed.value)


def value(message: Any, *known: str) -> Cluster:
    parsed = parse(message, *known)
    assert parsed.error == ""
    assert isinstance(parsed.resource, Cluster)
    return parsed.resource


def dns(*endpoints: dict[str, Any], localities: int = 1) -> Any:
    places = [{"lb_endpoints": list(endpoints)}] * localities
    return cluster(type=2, load_assignment={"endpoints": places})


def aggregate(*names: str, packed: Any = None) -> Any:
    packed = packed or pack(make(m.AGGREGATE, {"clusters": list(names)}))
    return cluster(cluster_type={"name": "envoy.clusters.aggregate", "typed_config": packed})


def test_endpoints_by_the_clusters_own_name_or_another() -> None:
    assert value(cluster("c")) == Cluster("c", EdsCluster("c"), DEFAULT)
    other = {"eds_config": {"self": {}}, "service_name": "s"}
    assert value(cluster("c", type=3, eds_cluster_config=other)).kind == EdsCluster("s")


def test_one_host_of_dns() -> None:
    assert value(dns(endpoint("db.example", 443))).kind == DnsCluster("db.example", 443)


def test_an_aggregate_of_clusters() -> None:
    assert value(aggregate("a", "b")).kind == AggregateCluster(("a", "b"))


@pytest.mark.parametrize(
    ("thresholds", "expected"),
    [
        ([], 1024),
        ([{"max_requests": {"value": 7}}], 7),
        ([{"max_requests": {"value": 0}}], 0),
        ([{"priority": 1, "max_requests": {"value": 7}}], 1024),
        ([{"priority": 1}, {"max_requests": {"value": 7}}, {"max_requests": {"value": 8}}], 7),
        ([{}, {"max_requests": {"value": 8}}], 1024),  # the first of that priority counts
    ],
)
def test_how_many_requests_at_once(thresholds: list[Any], expected: int) -> None:
    message = cluster(circuit_breakers={"thresholds": thresholds})
    assert value(message).max_requests == expected


PICK_FIRST = lb("pick_first.v3.PickFirst", shuffle_address_list=True)
ROUND_ROBIN = lb("round_robin.v3.RoundRobin")
RING = lb("ring_hash.v3.RingHash")
WRR = "client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin"


def locality_of(*packed: Any) -> Any:
    return lb("wrr_locality.v3.WrrLocality", endpoint_picking_policy=policies(*packed))


@pytest.mark.parametrize(
    ("listed", "known", "expected"),
    [
        ([ROUND_ROBIN], [], LbPolicy("round_robin", {})),
        ([PICK_FIRST, ROUND_ROBIN], [], LbPolicy("pick_first", {"shuffleAddressList": True})),
        ([RING, ROUND_ROBIN], [], LbPolicy("round_robin", {})),
        (
            [RING, ROUND_ROBIN],
            ["ring_hash_experimental"],
            LbPolicy("ring_hash_experimental", {"minRingSize": 1024, "maxRingSize": 8388608}),
        ),
        ([pack("a.Unknown"), ROUND_ROBIN], [], LbPolicy("round_robin", {})),
        (
            [locality_of(RING, ROUND_ROBIN)],
            [],
            LbPolicy(WRR_LOCALITY, {"childPolicy": [{"round_robin": {}}]}),
        ),
        (
            [lb("least_request.v3.LeastRequest", choice_count={"value": 3})],
            ["least_request_experimental"],
            LbPolicy("least_request_experimental", {"choiceCount": 3}),
        ),
        (
            [typed_struct("t/my.policy", {"a": 1, "b": [1.5, {"c": None}], "d": True})],
            ["my.policy"],
            LbPolicy("my.policy", {"a": 1, "b": [1.5, {"c": None}], "d": True}),
        ),
        (
            [typed_struct("t/my", {}, package="udpa.type.v1"), ROUND_ROBIN],
            ["my"],
            LbPolicy("my", {}),
        ),
        ([typed_struct("t/other", {}), ROUND_ROBIN], ["my"], LbPolicy("round_robin", {})),
        (
            [
                lb(
                    WRR,
                    blackout_period=seconds(0.25),
                    oob_reporting_period=seconds(10),
                    enable_oob_load_report={"value": True},
                    error_utilization_penalty={"value": 0.5},
                )
            ],
            ["weighted_round_robin"],
            LbPolicy(
                "weighted_round_robin",
                {
                    "blackoutPeriod": "0.25s",
                    "oobReportingPeriod": "10s",
                    "enableOobLoadReport": True,
                    "errorUtilizationPenalty": 0.5,
                },
            ),
        ),
    ],
)
def test_the_first_policy_that_is_known_is_taken(
    listed: list[Any], known: list[str], expected: LbPolicy
) -> None:
    # The old enum says LEAST_REQUEST, and does not count.
    message = cluster(lb_policy=1, load_balancing_policy=policies(*listed))
    assert value(message, *known).lb_policy == expected


def test_a_policy_writes_itself_as_a_service_config_does() -> None:
    assert DEFAULT.json == [{WRR_LOCALITY: {"childPolicy": [{"round_robin": {}}]}}]


@pytest.mark.parametrize(
    ("fields", "known", "expected"),
    [
        ({"lb_policy": 1}, "least_request_experimental", {"choiceCount": 2}),
        (
            {"lb_policy": 1, "least_request_lb_config": {"choice_count": {"value": 5}}},
            "least_request_experimental",
            {"choiceCount": 5},
        ),
        (
            {"lb_policy": 2, "ring_hash_lb_config": {"minimum_ring_size": {"value": 9}}},
            "ring_hash_experimental",
            {"minRingSize": 9, "maxRingSize": 8388608},
        ),
    ],
)
def test_policies_of_the_old_enum(fields: dict[str, Any], known: str, expected: Any) -> None:
    assert value(cluster(**fields), known).lb_policy == LbPolicy(known, expected)
    assert "is not supported" in parse(cluster(**fields)).error


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"successRateEjection": {}}),
        ({"enforcing_success_rate": {"value": 0}}, {}),
        (
            {
                "interval": seconds(1),
                "base_ejection_time": seconds(0.5),
                "max_ejection_time": seconds(60),
                "max_ejection_percent": {"value": 40},
                "success_rate_minimum_hosts": {"value": 2},
                "success_rate_request_volume": {"value": 3},
                "success_rate_stdev_factor": {"value": 1000},
                "enforcing_success_rate": {"value": 50},
                "enforcing_failure_percentage": {"value": 60},
                "failure_percentage_threshold": {"value": 70},
                "failure_percentage_minimum_hosts": {"value": 4},
                "failure_percentage_request_volume": {"value": 5},
            },
            {
                "interval": "1s",
                "baseEjectionTime": "0.5s",
                "maxEjectionTime": "60s",
                "maxEjectionPercent": 40,
                "successRateEjection": {
                    "minimumHosts": 2,
                    "requestVolume": 3,
                    "stdevFactor": 1000,
                    "enforcementPercentage": 50,
                },
                "failurePercentageEjection": {
                    "minimumHosts": 4,
                    "requestVolume": 5,
                    "threshold": 70,
                    "enforcementPercentage": 60,
                },
            },
        ),
    ],
)
def test_outlier_detection(fields: dict[str, Any], expected: Any) -> None:
    assert value(cluster(outlier_detection=fields)).outlier_detection == expected


def deep(levels: int) -> Any:
    packed = ROUND_ROBIN
    for _ in range(levels):
        packed = locality_of(packed)
    return cluster(load_balancing_policy=policies(packed))


def test_policies_nest_up_to_sixteen_levels() -> None:
    assert value(deep(15)).lb_policy.name == WRR_LOCALITY
    assert "nested deeper than 16" in parse(deep(16)).error


EDS = {"eds_config": ADS}
CUSTOM = {"name": "x"}
POLICIES = "load_balancing_policy"
TYPED = f"{POLICIES}.policies[0].typed_extension_config.typed_config"
WHERE = "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address"
REFUSED: list[tuple[Any, str]] = [
    (make(m.CLUSTER, {"name": "c"}), "type: discovery type 0 is not supported"),
    (cluster(type=1), "type: discovery type 1 is not supported"),
    (cluster(type=3), "eds_cluster_config: not set"),
    (cluster(type=3, eds_cluster_config={}), "eds_cluster_config.eds_config: not set"),
    (
        cluster(type=3, eds_cluster_config={"eds_config": {}}),
        "eds_cluster_config.eds_config: is neither ads nor self",
    ),
    (cluster(type=2), "load_assignment: not set"),
    (dns(endpoint(), localities=2), "load_assignment.endpoints: 2 localities instead of one"),
    (dns(), "load_assignment.endpoints[0].lb_endpoints: 0 endpoints instead of one"),
    (dns({}), f"{WHERE}: not set"),
    (dns(endpoint("")), f"{WHERE}.address: empty"),
    (dns(endpoint("a", 0)), f"{WHERE}.port_value: 0"),
    (dns(endpoint("a", 70_000)), f"{WHERE}.port_value: 70000"),
    (
        cluster(type=2, load_assignment={"endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": {"socket_address": {
                "address": "a", "port_value": 1, "resolver_name": "r"}}}}]}]}),
        f"{WHERE}.resolver_name: is set",
    ),
    (cluster(cluster_type=CUSTOM), "cluster_type.typed_config: not set"),
    (aggregate(packed=pack("a.B")), "cluster_type.typed_config: the cluster type a.B is not"),
    (aggregate(packed=pack(m.AGGREGATE, b"\xff")), f"typed_config: is no {m.AGGREGATE}"),
    (aggregate(), "cluster_type.typed_config.clusters: empty"),
    (aggregate("a", ""), "clusters: a cluster without a name"),
    (cluster(lb_policy=3), "lb_policy: the policy 3 is not supported"),
    (cluster(lb_policy=99), "lb_policy: the policy 99 is not supported"),
    (cluster(load_balancing_policy={}), f"{POLICIES}: no supported policy; passed over: nothing"),
    (
        cluster(load_balancing_policy=policies(RING, pack("a.Unknown"))),
        "RingHash, a.Unknown",
    ),
    (cluster(load_balancing_policy={"policies": [{}]}), "typed_extension_config: not set"),
    (
        cluster(load_balancing_policy={"policies": [{"typed_extension_config": {}}]}),
        f"{TYPED}: not set",
    ),
    (
        cluster(load_balancing_policy=policies(lb("wrr_locality.v3.WrrLocality"))),
        f"{TYPED}.endpoint_picking_policy: not set",
    ),
    (
        cluster(load_balancing_policy=policies(locality_of(RING), ROUND_ROBIN)),
        "endpoint_picking_policy: no supported policy",  # known, so it had to be right
    ),
    (
        cluster(load_balancing_policy=policies(pack(m.PICK_FIRST, b"\xff"))),
        f"{TYPED}: is no {m.PICK_FIRST}",
    ),
    (
        cluster(load_balancing_policy=policies(typed_struct("t/my", {"bad": 1}), ROUND_ROBIN)),
        f"{POLICIES}: my: bad: not wanted",
    ),
    (
        cluster(load_balancing_policy=policies(typed_struct("my", {}))),
        f"{TYPED}.value.type_url: invalid type URL 'my'",
    ),
    (cluster(transport_socket={"name": "tls"}), "transport_socket: TLS from the control plane"),
    (cluster(transport_socket_matches=[{}]), "transport_socket_matches: not supported"),
    (cluster(lrs_server=ADS), "lrs_server: is not self"),
    (
        cluster(outlier_detection={"interval": {"seconds": -1}}),
        "outlier_detection.interval.seconds: -1",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("message", "reason"), REFUSED)
def test_refused_with_the_reason(message: Any, reason: str) -> None:
    parsed = parse(message, "my")
    assert parsed.name == "c"
    assert parsed.resource is None
    assert reason in parsed.error


@pytest.mark.parametrize(
    "field",
    [
        "max_ejection_percent",
        "enforcing_success_rate",
        "enforcing_failure_percentage",
        "failure_percentage_threshold",
    ],
)
def test_percentages_of_outlier_detection_end_at_a_hundred(field: str) -> None:
    error = parse(cluster(outlier_detection={field: {"value": 101}})).error
    assert error == f"outlier_detection.{field}: 101 is above 100"


@pytest.mark.parametrize(
    ("name", "fields", "known", "reason"),
    [
        ("least_request.v3.LeastRequest", {"choice_count": {"value": 1}}, "least_request", "1; at"),
        ("ring_hash.v3.RingHash", {"hash_function": 2}, "ring_hash", "is not XX_HASH"),
        (
            "ring_hash.v3.RingHash",
            {"minimum_ring_size": {"value": 0}},
            "ring_hash",
            "minimum_ring_size: 0 is not in",
        ),
        (
            "ring_hash.v3.RingHash",
            {"maximum_ring_size": {"value": 8388609}},
            "ring_hash",
            "maximum_ring_size: 8388609 is not in",
        ),
        (
            "ring_hash.v3.RingHash",
            {"minimum_ring_size": {"value": 3}, "maximum_ring_size": {"value": 2}},
            "ring_hash",
            "above maximum_ring_size",
        ),
        (WRR, {"blackout_period": {"nanos": -5}}, "", "blackout_period.nanos: -5"),
        (
            WRR,
            {"error_utilization_penalty": {"value": float("nan")}},
            "",
            "error_utilization_penalty: below 0",
        ),
    ],
)
def test_a_policys_own_mistakes(name: str, fields: dict[str, Any], known: str, reason: str) -> None:
    message = cluster(load_balancing_policy=policies(lb(name, **fields), ROUND_ROBIN))
    known = f"{known}_experimental" if known else "weighted_round_robin"
    assert reason in parse(message, known).error


def test_a_new_style_name_needs_a_service_name() -> None:
    packed = pack(cluster("xdstp://a/t/c"))
    parsed = Kinds.of(registry()).cds.parse(packed.type_url, packed.value)
    assert "eds_cluster_config.service_name: not set" in parsed.error
