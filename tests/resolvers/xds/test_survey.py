"""Which resources are wanted, and when they are a whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpclb.core.address import Endpoint
from grpclb.core.status import Status
from grpclb.resolvers.xds.survey import MAX_DEPTH, ClusterConfig, Key, Kind, Survey, XdsConfig
from grpclb.resolvers.xds.survey import survey as _survey
from tests.resolvers.xds.world import (
    MISSING,
    aggregate,
    cluster_of,
    dns_cluster,
    eds_cluster,
    endpoints,
    listener,
    locality,
    route,
    routes,
    simple,
)


def survey(known: Mapping[Key, Any], held: tuple[str, ...] = (), authority: str = "svc") -> Survey:
    return _survey(lambda kind, name: known.get((kind, name)), "svc", authority, held)


def names(found: Survey) -> set[str]:
    return {f"{kind.value} {name}" for kind, name in found.wanted}


def test_each_answer_leads_to_the_next_question() -> None:
    whole = simple()
    known: dict[Key, Any] = {}
    asked = []
    for key in ((Kind.LDS, "svc"), (Kind.RDS, "r"), (Kind.CDS, "a"), (Kind.EDS, "a")):
        found = survey(known)
        assert found.config is None
        asked.append(names(found))
        known[key] = whole[key]
    assert asked == [
        {"LDS svc"},
        {"LDS svc", "RDS r"},
        {"LDS svc", "RDS r", "CDS a"},
        {"LDS svc", "RDS r", "CDS a", "EDS a"},
    ]
    config = survey(known).config
    assert isinstance(config, XdsConfig)
    assert config.routed == {"a"}


def test_routes_within_the_listener_need_no_rds() -> None:
    known = {**cluster_of("a", "10.0.0.1:80"), (Kind.LDS, "svc"): listener(routes(route("a")))}
    found = survey(known)
    assert names(found) == {"LDS svc", "CDS a", "EDS a"}
    assert isinstance(found.config, XdsConfig)


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({(Kind.LDS, "svc"): MISSING}, "listener 'svc': NOT_FOUND: it does not exist"),
        (
            {(Kind.LDS, "svc"): listener(), (Kind.RDS, "r"): MISSING},
            "routes 'r': NOT_FOUND: it does not exist",
        ),
        (
            {(Kind.LDS, "svc"): listener(), (Kind.RDS, "r"): routes(route("a"), domain="other")},
            "routes 'r': no virtual host for 'svc'",
        ),
    ],
)
def test_without_routes_there_is_no_way(known: Mapping[Key, Any], said: str) -> None:
    assert survey(known).config == Status.unavailable(said)


def test_a_cluster_that_is_missing_is_no_other_cluster_s_trouble() -> None:
    known = {**simple(), (Kind.RDS, "r"): routes(route("a", "b")), (Kind.CDS, "b"): MISSING}
    config = survey(known).config
    assert isinstance(config, XdsConfig)
    assert isinstance(config.clusters["a"], ClusterConfig)
    assert config.clusters["b"] == Status.unavailable("cluster 'b': NOT_FOUND: it does not exist")


def test_endpoints_that_are_missing_are_an_answer() -> None:
    known = {**simple(), (Kind.EDS, "a"): MISSING}
    config = survey(known).config
    assert isinstance(config, XdsConfig)
    cluster = config.clusters["a"]
    assert isinstance(cluster, ClusterConfig)
    (leaf,) = cluster.leaves
    assert leaf.endpoints == Status(MISSING.code, "EDS 'a': it does not exist")


def test_all_that_is_needed_is_asked_for_at_once() -> None:
    known = {
        (Kind.LDS, "svc"): listener(),
        (Kind.RDS, "r"): routes(route("a", "b"), route("c")),
        (Kind.CDS, "b"): eds_cluster("b", service="other"),
        (Kind.CDS, "c"): dns_cluster("c", "fd00::1", 90),
    }
    found = survey(known)
    assert names(found) - {"LDS svc", "RDS r"} == {
        "CDS a",
        "CDS b",
        "CDS c",
        "EDS other",
        "DNS [fd00::1]:90",
    }
    assert found.config is None


def test_an_aggregate_is_its_leaves_in_order() -> None:
    known: dict[Key, Any] = {
        **simple("top"),
        **cluster_of("a", "10.0.0.1:80"),
        **cluster_of("b", "10.0.0.2:80"),
        (Kind.CDS, "top"): aggregate("top", "mid", "d", "gone", "a"),
        (Kind.CDS, "mid"): aggregate("mid", "b", "top", "a"),
        (Kind.CDS, "d"): dns_cluster("d"),
        (Kind.CDS, "gone"): MISSING,
    }
    assert survey(known).config is None, "DNS has not answered"
    known[Kind.DNS, "db.example:80"] = (Endpoint.of("10.0.0.3:80"),)
    config = survey(known).config
    assert isinstance(config, XdsConfig)
    top = config.clusters["top"]
    assert isinstance(top, ClusterConfig)
    assert [leaf.cluster.name for leaf in top.leaves] == ["b", "a", "d"], "no loop, none twice"
    assert top.notes == ("cluster 'gone': NOT_FOUND: it does not exist",)


def test_an_aggregate_of_nothing_fails() -> None:
    known: dict[Key, Any] = {
        **simple("top"),
        (Kind.CDS, "top"): aggregate("top", "gone", "top"),
        (Kind.CDS, "gone"): MISSING,
    }
    config = survey(known).config
    assert isinstance(config, XdsConfig)
    status = config.clusters["top"]
    assert isinstance(status, Status)
    assert status.details == "cluster 'top': cluster 'gone': NOT_FOUND: it does not exist"


@pytest.mark.parametrize(("depth", "fails"), [(MAX_DEPTH - 1, False), (MAX_DEPTH, True)])
def test_aggregates_are_nested_so_deep_and_no_deeper(depth: int, fails: bool) -> None:
    known: dict[Key, Any] = {**simple("0"), **cluster_of(str(depth), "10.0.0.1:80")}
    for level in range(depth):
        known[Kind.CDS, str(level)] = aggregate(str(level), str(level + 1))
    for held in ((), (str(depth),)):  # the leaf may have been met before, on a shorter way
        config = survey(known, held).config
        assert isinstance(config, XdsConfig)
        assert isinstance(config.clusters["0"], Status) is fails


def test_held_clusters_stay_watched_and_hold_up_nothing() -> None:
    known: dict[Key, Any] = {**simple(), **cluster_of("b", "10.0.0.2:80")}
    found = survey(known, held=("a", "b", "c"))
    assert {"CDS b", "EDS b", "CDS c"} <= names(found)
    assert isinstance(found.config, XdsConfig)
    assert set(found.config.clusters) == {"a"}
    assert set(found.held) == {"b"}, "nothing is known of c"
    del known[Kind.LDS, "svc"]
    assert survey(known, held=("b",)).held.keys() == {"b"}


def test_what_many_aggregates_name_is_looked_at_once() -> None:
    children = [str(number) for number in range(60)]
    tops = [f"top{number}" for number in range(40)]
    known: dict[Key, Any] = {(Kind.LDS, "svc"): listener(routes(route(*tops)))}
    for child in children:
        known.update(cluster_of(child, "10.0.0.1:80"))
    known[Kind.EDS, "3"] = MISSING
    known[Kind.CDS, "4"] = MISSING
    for number, top in enumerate(tops):
        known[Kind.CDS, top] = aggregate(top, *children[number:], *children[:number], "top0")
    asked: list[Key] = []

    def ask(kind: Kind, name: str) -> Any:
        asked.append((kind, name))
        return known[kind, name]

    config = _survey(ask, "svc", "svc").config
    assert isinstance(config, XdsConfig)
    assert sum(kind is Kind.EDS for kind, _ in asked) == len(children) - 1
    assert len(asked) < 3 * (len(children) + len(tops))
    once = len(asked)
    assert _survey(ask, "svc", "svc", tops).config == config
    assert len(asked) == 2 * once, "clusters with RPCs are mostly routed to as well"
    for number, top in enumerate(tops):
        found = config.clusters[top]
        assert isinstance(found, ClusterConfig)
        order = [*children[number:], *children[:number]]
        order.remove("4")
        assert [leaf.cluster.name for leaf in found.leaves] == order
        assert found.notes == ("cluster '4': NOT_FOUND: it does not exist",)


_NAMES = st.sampled_from(["a", "b", "c", "d"])
_CLUSTERS = st.one_of(
    st.none(),
    st.just(MISSING),
    st.just("eds"),
    st.just("dns"),
    st.lists(_NAMES, min_size=1, max_size=3),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(_NAMES, max_size=3), st.dictionaries(_NAMES, _CLUSTERS), st.sets(_NAMES))
def test_whatever_the_graph_the_walk_ends_and_what_it_says_is_whole(
    routed: list[str], graph: dict[str, Any], answered: set[str]
) -> None:
    known: dict[Key, Any] = {(Kind.LDS, "svc"): listener(routes(*(route(name) for name in routed)))}
    for name, what in graph.items():
        match what:
            case None:
                continue
            case "eds":
                known[Kind.CDS, name] = eds_cluster(name)
            case "dns":
                known[Kind.CDS, name] = dns_cluster(name, f"{name}.example")
            case list():
                known[Kind.CDS, name] = aggregate(name, *what)
            case status:
                known[Kind.CDS, name] = status
    for name in answered:
        known[Kind.EDS, name] = endpoints(name, (locality("x"),))
        known[Kind.DNS, f"{name}.example:80"] = ()
    found = survey(known)
    missing = {key for key in found.wanted if key not in known}
    assert isinstance(found.config, XdsConfig) is (not missing)
    if isinstance(found.config, XdsConfig):
        assert found.config.clusters.keys() == set(routed)
