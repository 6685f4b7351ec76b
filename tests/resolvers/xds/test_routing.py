"""Virtual hosts, matchers and clusters (A28, A31, A63)."""

from __future__ import annotations

from random import Random

import pytest

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
    UnsupportedAction,
    VirtualHost,
    WeightedCluster,
)
from grpclb.resolvers.xds.routing import (
    choose_cluster,
    find_route,
    find_virtual_host,
    longest_call,
    valid_domain,
)

RANDOM = Random(1)


class Draws(Random):
    """Answers what it is told to, and counts."""

    def __init__(self, *values: int) -> None:
        super().__init__(0)
        self.values = list(values)
        self.asked: list[int] = []

    def randrange(self, start: int, *_: object) -> int:
        self.asked.append(start)
        return self.values.pop(0)


@pytest.mark.parametrize(
    ("domains", "name", "winner"),
    [
        (["*", "a.b", "*.b", "a.*"], "a.b", "a.b"),
        (["*", "*.b", "a.*"], "a.b", "*.b"),
        (["*", "a.*"], "a.b", "a.*"),
        (["*", "c.*"], "a.b", "*"),
        (["*.b", "*a.b", "*.c"], "xa.b", "*a.b"),
        (["xa.*", "x*"], "xa.b", "xa.*"),
        (["*.b", "*.b"], "a.b", "*.b"),
        (["A.B"], "a.b", "A.B"),
        (["a.b"], "A.B", "a.b"),
        (["*.b"], ".b", None),  # an asterisk stands for one character at least
        (["a.*"], "a.", None),
        (["a"], "b", None),
        (["a:80"], "a:80", "a:80"),
        ([], "a", None),
    ],
)
def test_the_most_specific_domain_wins(domains: list[str], name: str, winner: str | None) -> None:
    hosts = [VirtualHost((domain,), (), str(index)) for index, domain in enumerate(domains)]
    found = find_virtual_host(hosts, name)
    assert (found and found.domains[0]) == winner
    if found and domains.count(found.domains[0]) > 1:
        assert found.name == "0", "of equal domains the first"


def test_a_host_wins_by_its_best_domain() -> None:
    hosts = [VirtualHost(("*", "*.b"), ()), VirtualHost(("x", "*.a.b"), ())]
    assert find_virtual_host(hosts, "z.a.b") is hosts[1]


@pytest.mark.parametrize(
    "domain", ["*", "*.a", "a.*", "a", "*a", "-", "", "a*b", "*a*", "**", "*a*b"]
)
def test_a_domain_has_one_asterisk_at_an_end(domain: str) -> None:
    assert valid_domain(domain) is (domain in {"*", "*.a", "a.*", "a", "*a", "-"})


def text(rule: str, value: str, ignore_case: bool = False) -> TextMatcher:
    return TextMatcher.of(TextRule(rule), value, ignore_case)


HEADERS = {"k": "Abc", "n": "-7", "content-type": "application/grpc+json", "x-bin": "b", "e": ""}


@pytest.mark.parametrize(
    ("matcher", "expected"),
    [
        (HeaderMatcher("k", text("exact", "Abc")), True),
        (HeaderMatcher("k", text("exact", "abc")), False),
        (HeaderMatcher("k", text("exact", "aBC", True)), True),
        (HeaderMatcher("k", text("prefix", "Ab")), True),
        (HeaderMatcher("k", text("suffix", "bc")), True),
        (HeaderMatcher("k", text("contains", "b")), True),
        (HeaderMatcher("k", text("contains", "B", True)), True),
        (HeaderMatcher("k", RegexMatcher(Regex("A.*"))), True),
        (HeaderMatcher("k", RegexMatcher(Regex("b"))), False),
        (HeaderMatcher("k", text("exact", "Abc"), invert=True), False),
        (HeaderMatcher("k", text("exact", "x"), invert=True), True),
        # Without the header nothing matches, turned round or not.
        (HeaderMatcher("q", text("exact", "x"), invert=True), False),
        (HeaderMatcher("q", RangeMatcher(0, 9), invert=True), False),
        (HeaderMatcher("n", RangeMatcher(-7, 0)), True),
        (HeaderMatcher("n", RangeMatcher(-9, -7)), False),
        (HeaderMatcher("n", RangeMatcher(-6, 9), invert=True), True),
        (HeaderMatcher("k", RangeMatcher(0, 9)), False),
        (HeaderMatcher("k", RangeMatcher(0, 9), invert=True), True),
        (HeaderMatcher("k", PresentMatcher(True)), True),
        (HeaderMatcher("e", PresentMatcher(True)), True),
        (HeaderMatcher("q", PresentMatcher(True)), False),
        (HeaderMatcher("q", PresentMatcher(False)), True),
        (HeaderMatcher("q", PresentMatcher(True), invert=True), True),
        # Binary headers are invisible, and there is one content type.
        (HeaderMatcher("x-bin", PresentMatcher(True)), False),
        (HeaderMatcher("content-type", text("exact", "application/grpc")), True),
    ],
)
def test_headers(matcher: HeaderMatcher, expected: bool) -> None:
    assert matcher.matches(HEADERS) is expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (text("exact", "/s/m"), True),
        (text("exact", "/S/M"), False),
        (text("exact", "/S/M", True), True),
        (text("prefix", ""), True),
        (text("prefix", "/s/"), True),
        (text("prefix", "/S", True), True),
        (RegexMatcher(Regex("/s/[a-z]+")), True),
        (RegexMatcher(Regex("/s")), False),
    ],
)
def test_paths(path: TextMatcher | RegexMatcher, expected: bool) -> None:
    assert RouteMatcher(path).matches("/s/m", {}, RANDOM) is expected


def test_a_fraction_is_drawn_last_and_out_of_a_million() -> None:
    matcher = RouteMatcher(text("prefix", "/s"), per_million=3)
    draws = Draws(2, 3)
    assert matcher.matches("/s/m", {}, draws)
    assert not matcher.matches("/s/m", {}, draws)
    assert not matcher.matches("/other", {}, draws), "asked nobody"
    assert draws.asked == [1_000_000, 1_000_000]


def test_no_fraction_of_zero_ever_matches_and_a_whole_one_always() -> None:
    none, all_ = (RouteMatcher(text("prefix", ""), per_million=n) for n in (0, 1_000_000))
    random = Random(3)
    assert not any(none.matches("/s/m", {}, random) for _ in range(1000))
    assert all(all_.matches("/s/m", {}, random) for _ in range(1000))


def test_the_first_route_that_matches_is_taken_even_if_its_action_is_not_supported() -> None:
    routes = [
        Route(RouteMatcher(text("exact", "/s/m")), UnsupportedAction(), "first"),
        Route(RouteMatcher(text("prefix", "/")), RouteAction((WeightedCluster("c"),)), "second"),
    ]
    assert find_route(routes, "/s/m", {}, RANDOM) is routes[0]
    assert find_route(routes, "/s/n", {}, RANDOM) is routes[1]
    assert find_route(routes, "s", {}, RANDOM) is None


def test_clusters_are_chosen_by_weight() -> None:
    clusters = (WeightedCluster("a", 1), WeightedCluster("b", 2), WeightedCluster("c", 2**31))
    action = RouteAction(clusters)
    draws = Draws(0, 1, 2, 3, 2**31 + 2)
    assert [choose_cluster(action, draws) for _ in range(5)] == ["a", "b", "b", "c", "c"]
    assert set(draws.asked) == {2**31 + 3}
    assert choose_cluster(RouteAction(clusters[:1]), Draws()) == "a"


@pytest.mark.parametrize(
    ("route", "listener", "expected"),
    [(None, 0.0, None), (None, 5.0, 5.0), (0.0, 5.0, None), (2.0, 5.0, 2.0), (7.0, 0.0, 7.0)],
)
def test_a_route_limits_the_call_before_the_listener_does(
    route: float | None, listener: float, expected: float | None
) -> None:
    assert longest_call(RouteAction((), route), listener) == expected
