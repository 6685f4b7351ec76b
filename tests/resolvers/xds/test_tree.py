"""From clusters to policies and endpoints, as channels then read them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpclb.control.registries import POLICIES
from grpclb.core.address import Address, Endpoint
from grpclb.core.balancer import Policy
from grpclb.core.registry import Registry
from grpclb.core.service_config import parse_service_config
from grpclb.core.status import Status
from grpclb.policies.priority import PriorityPolicy
from grpclb.policies.round_robin import ROUND_ROBIN
from grpclb.policies.xds_cluster_impl import ClusterImplPolicy
from grpclb.policies.xds_cluster_manager import ClusterManagerPolicy
from grpclb.policies.xds_wrr_locality import WrrLocalityPolicy
from grpclb.resolvers.xds.resources import (
    Cluster,
    Drop,
    EdsCluster,
    LbEndpoint,
    Locality,
    LocalityId,
)
from grpclb.resolvers.xds.survey import ClusterConfig, Leaf
from grpclb.resolvers.xds.tree import PriorityNames, Tree
from tests.policies.stub import StubPolicy
from tests.resolvers.xds.world import (
    LOCALITIES,
    MISSING,
    aggregate,
    dns_cluster,
    eds_cluster,
    endpoints,
    locality,
    paths,
)


def alone(cluster: Cluster, found: Any) -> ClusterConfig:
    return ClusterConfig(cluster, (Leaf(cluster, found),))


def grow(tree: Tree, **clusters: ClusterConfig | Status) -> tuple[Any, tuple[Endpoint, ...]]:
    """The config as a parser of service configs takes it, too."""
    config, found = tree.grow(clusters)
    assert parse_service_config(config.text, find_policy=POLICIES.get) == config
    return config.raw, found


def tree() -> Tree:
    return Tree(POLICIES)


def priorities(raw: Any, cluster: str) -> tuple[list[str], dict[str, Any]]:
    """The order, and the cluster_impl of each."""
    (manager,) = raw["loadBalancingConfig"][0].values()
    (config,) = manager["children"][f"cluster:{cluster}"]["childPolicy"][0].values()
    impls = {name: child["config"][0] for name, child in config["children"].items()}
    key = "xds_cluster_impl_experimental"
    return config["priorities"], {name: impl[key] for name, impl in impls.items()}


def test_one_cluster() -> None:
    cluster = eds_cluster("a", service="e", max_requests=7)
    found = endpoints(
        "e",
        (locality("near", "10.0.0.1:80", weight=3), locality("far", "10.0.0.2:80")),
        (locality("away", "10.0.0.3:80"),),
        drops=(Drop("lb", 10_000),),
    )
    raw, all_endpoints = grow(tree(), a=alone(cluster, found))
    order, impls = priorities(raw, "a")
    assert order == ["priority-0-0", "priority-0-1"]
    assert impls["priority-0-1"] == {
        "cluster": "a",
        "edsServiceName": "e",
        "maxConcurrentRequests": 7,
        "dropCategories": [{"category": "lb", "requestsPerMillion": 10_000}],
        "childPolicy": LOCALITIES.json,
    }
    assert paths(all_endpoints) == {
        "10.0.0.1:80": ("cluster:a", "priority-0-0"),
        "10.0.0.2:80": ("cluster:a", "priority-0-0"),
        "10.0.0.3:80": ("cluster:a", "priority-0-1"),
    }
    near = all_endpoints[0].attributes
    assert (near["locality_weight"], near["weight"]) == (3, 3)
    assert near["locality"] == "{region='near', zone='', sub_zone=''}"


def test_an_endpoint_s_weight_is_within_its_locality_s() -> None:
    one = LbEndpoint((Address.parse("10.0.0.1:80"),), weight=5, hostname="pod-1")
    place = Locality(LocalityId("x"), 3, (one,))
    _, (found,) = grow(tree(), a=alone(eds_cluster("a"), endpoints("a", (place,))))
    assert (found.attributes["weight"], found.attributes["hostname"]) == (15, "pod-1")


@pytest.mark.parametrize("found", [MISSING, endpoints("a")])
def test_nobody_is_one_empty_priority(found: Any) -> None:
    raw, all_endpoints = grow(tree(), a=alone(eds_cluster("a"), found))
    order, impls = priorities(raw, "a")
    assert len(order) == 1
    assert all_endpoints == ()
    note = impls[order[0]].get("resolutionNote")
    assert note == (str(MISSING) if found is MISSING else None)


def test_a_host_is_one_endpoint_with_all_of_its_addresses() -> None:
    cluster = dns_cluster("d")
    answer = (Endpoint.of("10.0.0.1:80"), Endpoint.of("10.0.0.2:80"), Endpoint.of("10.0.0.1:80"))
    raw, (found,) = grow(tree(), d=alone(cluster, answer))
    assert str(found) == "10.0.0.1:80+10.0.0.2:80"
    assert found.attributes["locality_weight"] == 1
    (manager,) = raw["loadBalancingConfig"][0].values()
    (priority,) = manager["children"]["cluster:d"]["childPolicy"][0].values()
    (child,) = priority["children"].values()
    assert child["ignore_reresolution_requests"] is False
    assert grow(tree(), d=alone(cluster, ()))[1] == ()


def test_an_aggregate_lines_up_the_priorities_of_its_leaves() -> None:
    top = aggregate("top", "a", "d")
    a = eds_cluster("a", max_requests=2)
    found = endpoints("a", (locality("x", "10.0.0.1:80"),), (locality("y", "10.0.0.2:80"),))
    leaves = (Leaf(a, found), Leaf(dns_cluster("d"), (Endpoint.of("10.0.0.3:80"),)))
    raw, all_endpoints = grow(tree(), top=ClusterConfig(top, leaves, ("cluster 'g': gone",)))
    order, impls = priorities(raw, "top")
    assert order == ["priority-0-0", "priority-0-1", "priority-1-0"]
    assert [impls[name]["cluster"] for name in order] == ["a", "a", "d"]
    assert impls["priority-1-0"]["resolutionNote"] == "cluster 'g': gone"
    assert {path[0] for path in paths(all_endpoints).values()} == {"cluster:top"}


def test_one_endpoint_in_two_clusters_is_two_endpoints() -> None:
    found = endpoints("e", (locality("x", "10.0.0.1:80"),))
    _, all_endpoints = grow(
        tree(),
        a=alone(eds_cluster("a", service="e"), found),
        b=alone(eds_cluster("b", service="e"), found),
    )
    assert [e.attributes["hierarchy"][0] for e in all_endpoints] == ["cluster:a", "cluster:b"]


def test_a_cluster_in_trouble_has_its_own_branch() -> None:
    raw, all_endpoints = grow(tree(), a=Status.unavailable("cluster 'a': gone"))
    assert all_endpoints == ()
    assert "cluster 'a': gone" in str(raw)


def test_outlier_detection_is_asked_for_where_there_is_such_a_policy() -> None:
    cluster = Cluster("a", EdsCluster("a"), LOCALITIES, outlier_detection={"interval": "5s"})
    config = alone(cluster, endpoints("a", (locality("x", "10.0.0.1:80"),)))
    registry: Registry[Policy] = Registry("policy")
    registry.register("round_robin", ROUND_ROBIN)
    for make in (PriorityPolicy, ClusterImplPolicy, ClusterManagerPolicy, WrrLocalityPolicy):
        registry.register(make.name, make(registry.get))
    for known in (False, True):
        if known:
            registry.register("outlier_detection_experimental", StubPolicy("outliers"))
        text = Tree(registry).grow({"a": config})[0].text
        assert ("outlier_detection_experimental" in text) is known
        assert "xds_cluster_impl_experimental" in text


def test_what_did_not_change_is_the_same_object() -> None:
    growing = tree()

    def config(*addresses: str) -> ClusterConfig:
        return alone(eds_cluster("a"), endpoints("a", (locality("x", *addresses),)))

    other = alone(eds_cluster("b"), endpoints("b", (locality("y", "10.0.1.1:80"),)))
    one, before = growing.grow({"a": config("10.0.0.1:80", "10.0.0.2:80"), "b": other})
    again, after = growing.grow({"a": config("10.0.0.1:80", "10.0.0.3:80"), "b": other})
    assert again is one, "other endpoints are no other config"
    kept = {str(e): e for e in before}
    assert [kept.get(str(e)) is e for e in after] == [True, False, True]
    assert growing.grow({"b": other})[0] != one


def test_a_priority_keeps_its_name_while_it_keeps_a_locality() -> None:
    names = PriorityNames("p")
    one, two, three, four = (LocalityId(name) for name in "1234")
    assert names.name([[one], [two], [three]]) == ("p-0", "p-1", "p-2")
    assert names.name([[one], [two], [three]]) == ("p-0", "p-1", "p-2")
    assert names.name([[one, two], [three]]) == ("p-0", "p-2"), "two were merged"
    assert names.name([[one], [four]]) == ("p-0", "p-3"), "a new one"
    assert names.name([[four], [one]]) == ("p-3", "p-0"), "they changed places"
    assert names.name([]) == ()


@settings(deadline=None)
@given(st.lists(st.lists(st.lists(st.integers(0, 5), max_size=3), max_size=4), max_size=6))
def test_no_two_priorities_have_one_name(history: list[list[list[int]]]) -> None:
    names = PriorityNames("p")
    for priorities_now in history:
        localities = [[LocalityId(str(n)) for n in one] for one in priorities_now]
        found = names.name(localities)
        assert len(set(found)) == len(found) == len(localities)
