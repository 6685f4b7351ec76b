"""The index over routes answers as the plain walk over them does, and asks far fewer."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpclb.core.attributes import CLUSTER
from grpclb.core.balancer import PickInfo
from grpclb.core.config_selector import Selected
from grpclb.resolvers.xds import route_table
from grpclb.resolvers.xds.matchers import (
    HeaderMatcher,
    PresentMatcher,
    RangeMatcher,
    RegexMatcher,
    RouteMatcher,
    StringMatcher,
    TextMatcher,
    TextRule,
)
from grpclb.resolvers.xds.regex import compile_regex
from grpclb.resolvers.xds.resources import Route, RouteAction, WeightedCluster
from grpclb.resolvers.xds.route_table import RouteTable
from grpclb.resolvers.xds.routing import find_route
from grpclb.resolvers.xds.selector import ClusterUse, RouteSelector
from tests.resolvers.xds.world import listener, route, routes

_ACTION = RouteAction((WeightedCluster("c"),))
_PATH = st.sampled_from(["", "/", "/a", "/a/b", "/A/b", "/a/bc", "/d/e"])
_NAME = st.sampled_from(["k", "n", "x-bin", "content-type"])
_VALUE = st.sampled_from(["", "1", "2", "a", "A", "1,2", "application/grpc"])
_REGEX = st.sampled_from([".*", "/a/.*", "[12a]", "(?i)/A/b"]).map(compile_regex)


def _texts(text: st.SearchStrategy[str]) -> st.SearchStrategy[StringMatcher]:
    of = st.builds(TextMatcher.of, st.sampled_from(TextRule), text, st.booleans())
    exact = st.builds(TextMatcher.of, st.just(TextRule.EXACT), text)
    prefix = st.builds(TextMatcher.of, st.just(TextRule.PREFIX), text)
    return st.one_of(exact, prefix, of, st.builds(RegexMatcher, _REGEX))


_HEADER = st.builds(
    HeaderMatcher,
    _NAME,
    st.one_of(
        _texts(_VALUE),
        st.just(RangeMatcher(1, 2)),
        st.builds(PresentMatcher, st.booleans()),
    ),
    st.sampled_from([False, False, True]),
)
_MATCHER = st.builds(
    RouteMatcher,
    _texts(_PATH),
    st.lists(_HEADER, max_size=3).map(tuple),
    st.sampled_from([None, None, 0, 500_000, 1_000_000]),
)
_REQUEST = st.tuples(_PATH, st.dictionaries(_NAME, _VALUE))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(_MATCHER, max_size=12), st.lists(_REQUEST, min_size=1, max_size=8), st.integers(0, 9)
)
def test_finds_what_a_walk_over_all_routes_finds_with_the_same_draws(
    matchers: list[RouteMatcher], requests: list[tuple[str, Mapping[str, str]]], seed: int
) -> None:
    found = [Route(matcher, _ACTION, str(number)) for number, matcher in enumerate(matchers)]
    table = RouteTable(tuple(matchers))
    plain, ours = Random(seed), Random(seed)
    for path, headers in requests * 2:  # the second time out of what is remembered
        expected = find_route(found, path, headers, plain)
        position = table.find(path, headers, ours)
        assert (None if position is None else found[position]) is expected
    assert ours.random() == plain.random(), "as many draws"


def test_what_is_remembered_of_paths_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route_table, "_MAX_PATHS", 5)
    monkeypatch.setattr(route_table, "_MAX_GROUPED", 5)
    prefixes = [TextMatcher.of(TextRule.PREFIX, f"/{n % 9}") for n in range(18)]
    table = RouteTable(
        tuple(RouteMatcher(prefix, (HeaderMatcher("k", prefix),)) for prefix in prefixes)
    )
    for number in range(100):
        first = f"/{number % 9}"
        assert table.find(f"{first}/{number}", {"k": first}, Random(1)) == number % 9
        assert len(table._by_path) <= 5
        assert sum(map(len, table._groups)) <= 5 + 2


class _Counting(dict[str, str]):
    """Headers that count how often they are asked."""

    asked = 0

    def get(self, *args: str) -> str | None:  # type: ignore[override]
        self.asked += 1
        return super().get(*args)


@pytest.mark.parametrize("number", [0, 499])
def test_a_route_by_a_header_s_value_costs_the_same_wherever_it_stands(number: int) -> None:
    prefix = TextMatcher.of(TextRule.PREFIX, "")
    table = RouteTable(
        tuple(
            RouteMatcher(
                prefix, (HeaderMatcher("to", TextMatcher.of(TextRule.EXACT, str(n))),), 1_000_000
            )
            for n in range(500)
        )
    )
    headers = _Counting(to=str(number))
    assert table.find("/s/m", headers, Random(1)) == number
    assert headers.asked == 2, "once for the index, once for the route"


def test_only_conditions_that_have_to_hold_sort_routes_out() -> None:
    any_path = TextMatcher.of(TextRule.PREFIX, "")
    either_case = HeaderMatcher("k", TextMatcher.of(TextRule.EXACT, "A", ignore_case=True))
    other_value = HeaderMatcher("k", TextMatcher.of(TextRule.EXACT, "a"), invert=True)
    table = RouteTable(
        (RouteMatcher(any_path, (other_value,)), RouteMatcher(any_path, (either_case,)))
    )
    found = [table.find("/s/m", {"k": value}, Random(1)) for value in "Aab"]
    assert found == [0, 1, 0]
    assert table.find("/s/m", {}, Random(1)) is None
    upper = RouteMatcher(TextMatcher.of(TextRule.EXACT, "/S", ignore_case=True), (either_case,))
    assert RouteTable((upper,)).find("/s", {"k": "A"}, Random(1)) == 0


def test_a_selector_joins_headers_and_keeps_the_order_of_routes() -> None:
    found = (
        route("a", header="k=1,2"),
        route("b", path="/s/", header="k=2"),
        route("c", header="k=1"),
        route("d", path="/s/"),
        route("e", header="k=1"),
    )
    uses = {name: ClusterUse(name, lambda: None) for name in "abcde"}
    selector = RouteSelector(listener(), routes(*found).virtual_hosts[0], uses, Random(1))

    def goes(path: str, *metadata: tuple[str, str]) -> object:
        selected = selector.select(PickInfo(path, metadata))
        return selected.attributes[CLUSTER] if isinstance(selected, Selected) else "nowhere"

    assert goes("/s/m", ("k", "1"), ("k", "2")) == "cluster:a"
    assert goes("/s/m", ("k", "2")) == "cluster:b"
    assert goes("/s/m", ("k", "1")) == "cluster:c"
    assert goes("/s/m", ("k", "3")) == goes("/s/m") == "cluster:d"
    assert goes("/t/m", ("k", "1")) == "cluster:c"
    assert goes("/t/m", ("k", "2")) == goes("/t/m") == "nowhere"
