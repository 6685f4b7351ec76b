"""weighted_target, and what all policies with named children have in common."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpclb.core.address import Endpoint
from grpclb.core.attributes import HIERARCHY
from grpclb.core.balancer import QUEUE, Fail
from grpclb.core.config_node import ServiceConfigError
from grpclb.core.connectivity import (
    CONNECTING,
    IDLE,
    READY,
    TRANSIENT_FAILURE,
    ConnectivityState,
)
from grpclb.core.resolver import ResolverState
from grpclb.core.status import Status
from grpclb.policies.child_policies import aggregate
from grpclb.policies.hierarchy import Splitter
from grpclb.policies.weighted_turns import WeightedChoice
from tests.policies.stub import House, at, child, state

NAMES = ("w", "x")
A, B, C = "10.0.1.1:1", "10.0.1.2:1", "10.0.1.3:1"


def targets(**weights: int) -> dict[str, Any]:
    """Target a has the stub with id 1, b 2, and so on."""
    return {
        name: {"weight": weight, "childPolicy": child(ord(name) - ord("a") + 1)}
        for name, weight in weights.items()
    }


def started(**weights: int) -> tuple[House, Any]:
    house = House()
    balancer = house.build("weighted_target")
    config = house.parse("weighted_target", targets=targets(**weights))
    assert balancer.update(state(*(at(A, name) for name in weights)), config)
    return house, balancer


# -- the maths -----------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 2**32 - 1), min_size=1, max_size=6),
    st.integers(0, 2**40),
    st.integers(1, 400),
)
def test_every_target_gets_its_share_of_every_run(weights: list[int], start: int, n: int) -> None:
    choice = WeightedChoice(list(zip(weights, range(len(weights)), strict=True)), count_from(start))
    seen = Counter(choice.next() for _ in range(n))
    bound = 2 + math.log2(n)
    for index, weight in enumerate(weights):
        assert abs(seen[index] - n * weight / sum(weights)) <= bound


def count_from(start: int) -> itertools.count[int]:
    return itertools.count(start)


@pytest.mark.parametrize(
    ("states", "whole"),
    [
        ((READY, TRANSIENT_FAILURE, CONNECTING, IDLE), READY),
        ((TRANSIENT_FAILURE, CONNECTING, IDLE), CONNECTING),
        ((TRANSIENT_FAILURE, IDLE), IDLE),
        ((TRANSIENT_FAILURE, TRANSIENT_FAILURE), TRANSIENT_FAILURE),
        ((), TRANSIENT_FAILURE),
    ],
)
def test_many_states_as_one(
    states: tuple[ConnectivityState, ...], whole: ConnectivityState
) -> None:
    for order in itertools.permutations(states):
        assert aggregate(order) is whole


# -- paths ---------------------------------------------------------------------------------------


def test_a_path_loses_its_first_name_and_nothing_else() -> None:
    splitter = Splitter()
    one, two, lost = at(A, "x", "y", zone="z"), at(B, "w"), at(C)
    groups = splitter.split((one, two, lost), NAMES)
    assert {name: [str(e) for e in group] for name, group in groups.items()} == {"x": [A], "w": [B]}
    assert dict(groups["x"][0].attributes) == {HIERARCHY: ("y",), "zone": "z"}
    again = splitter.split((two, one), NAMES)
    assert again["x"][0] is groups["x"][0], "what did not change is the same object"
    splitter.split((), NAMES)
    assert splitter.split((one,), NAMES)["x"][0] is not groups["x"][0], "what is gone is forgotten"


@pytest.mark.parametrize(
    ("path", "has"),
    [
        ({}, "none"),
        ({"hierarchy": "a"}, "'a'"),
        ({"hierarchy": ["a"]}, "['a']"),
        ({"hierarchy": ()}, "()"),
        ({"hierarchy": ("b", "a")}, "('b', 'a')"),
        ({"hierarchy": ([],)}, "([],)"),
    ],
)
@pytest.mark.parametrize("leaf", ["round_robin", "pick_first"])
@pytest.mark.parametrize("policy", ["weighted_target", "priority"])
def test_a_path_that_fits_nobody_is_named(
    policy: str, leaf: str, path: dict[str, Any], has: str
) -> None:
    house = House()
    balancer = house.build(policy)
    child: Any = {"a": {"weight": 1, "childPolicy": [{leaf: {}}], "config": [{leaf: {}}]}}
    more = {"targets": child} if policy == "weighted_target" else {"children": child}
    config = house.parse(policy, **more, **({"priorities": ["a"]} if policy == "priority" else {}))
    balancer.update(state(Endpoint.of(A, **path)), config)
    assert str(house.picked().status) == (  # type: ignore[attr-defined]
        f"UNAVAILABLE: {leaf}: no endpoints: 1 of the resolver's 1 fit no child of the policy "
        "above; the attribute 'hierarchy' must be a tuple that begins with the name of one ('a'), "
        f"and {A} has {has}"
    )
    balancer.update(state(), config)
    said = f"UNAVAILABLE: {leaf}: the resolver found no endpoints"
    assert str(house.picked().status) == said  # type: ignore[attr-defined]
    balancer.close()


# -- the policy ----------------------------------------------------------------------------------


def test_each_target_gets_its_endpoints_and_its_share() -> None:
    house = House()
    balancer = house.build("weighted_target")
    config = house.parse("weighted_target", targets=targets(a=3, b=1))
    balancer.update(state(at(A, "a"), at(B, "b"), at(C, "a"), at(C, "nobody")), config)
    assert house.stub.by_id(1).addresses == [A, C]
    assert house.stub.by_id(2).addresses == [B]
    assert house.helper.state is CONNECTING
    assert house.helper.pick() is QUEUE
    house.stub.by_id(1).publish(READY)
    assert house.helper.state is READY
    assert {house.picked() for _ in range(9)} == {1}, "who is not ready gets nothing"
    house.stub.by_id(2).publish(READY)
    seen = Counter(house.picked() for _ in range(400))
    assert abs(seen[1] - 300) <= 5
    balancer.close()
    assert house.stub.live == set()
    assert house.helper.clock.pending == 0


def test_a_failed_target_is_passed_over_until_all_fail() -> None:
    house, _ = started(a=1, b=1)
    house.stub.by_id(1).publish(READY)
    house.stub.by_id(2).publish(TRANSIENT_FAILURE)
    assert {house.picked() for _ in range(9)} == {1}
    house.stub.by_id(1).publish(TRANSIENT_FAILURE)
    assert house.helper.state is TRANSIENT_FAILURE
    said = {str(house.picked().status) for _ in range(9)}  # type: ignore[attr-defined]
    assert said == {
        "UNAVAILABLE: 10.0.0.1:1 failed",
        "UNAVAILABLE: 10.0.0.1:2 failed",
    }


def test_a_failure_is_sticky_until_ready() -> None:
    house, _ = started(a=1)
    stub = house.stub.by_id(1)
    stub.publish(TRANSIENT_FAILURE)
    for now in (CONNECTING, IDLE):
        stub.publish(now)
        assert house.helper.state is TRANSIENT_FAILURE
        assert isinstance(house.helper.pick(), Fail)
    stub.publish(READY)
    assert house.picked() == 1


def test_an_idle_child_is_connected_soon_but_never_in_a_loop() -> None:
    house, balancer = started(a=1)
    stub = house.stub.by_id(1)
    stub.publish(IDLE)
    assert house.helper.state is IDLE
    assert stub.woken == 0, "not from within its own call"
    house.settle()
    assert stub.woken == 1
    balancer.exit_idle()
    assert stub.woken == 2
    stub.exit_idle = lambda: stub.publish(IDLE)  # type: ignore[method-assign]
    stub.publish(IDLE)
    house.helper.clock.advance(3)
    balancer.close()
    assert house.helper.clock.pending == 0


def test_an_update_adds_reweighs_and_removes() -> None:
    house, balancer = started(a=1, b=1)
    for number in (1, 2):
        house.stub.by_id(number).publish(READY)
    config = house.parse("weighted_target", targets=targets(b=1, c=3))
    published = len(house.helper.states)
    balancer.update(state(at(B, "b"), at(C, "c")), config)
    assert len(house.helper.states) == published + 1, "once for the whole update"
    assert house.stub.live == {2, 3}
    assert {house.picked() for _ in range(9)} == {2}
    house.stub.by_id(3).publish(READY)
    seen = Counter(house.picked() for _ in range(400))
    assert abs(seen[3] - 300) <= 5


def test_a_child_changes_its_policy_gracefully() -> None:
    house, balancer = started(a=1)
    first = house.stub.by_id(1)
    first.publish(READY)
    one = {"a": {"weight": 1, "childPolicy": child(9, "other")}}
    balancer.update(state(at(A, "a")), house.parse("weighted_target", targets=one))
    assert house.picked() == 1
    house.other.by_id(9).publish(READY)
    assert house.picked() == 9
    house.settle()
    assert first.closed


def test_a_failed_resolution_goes_to_the_children() -> None:
    house, balancer = started(a=1)
    house.stub.by_id(1).publish(READY)
    failed = Status.unavailable("no answer")
    config = house.parse("weighted_target", targets=targets(a=1))
    balancer.update(ResolverState(failed), config)
    assert house.stub.by_id(1).updates[-1][0].endpoints == failed
    assert house.picked() == 1


def test_no_targets() -> None:
    house = House()
    balancer = house.build("weighted_target")
    balancer.update(state(at(A, "a")), house.parse("weighted_target", targets={}))
    assert house.helper.state is TRANSIENT_FAILURE
    assert "no targets" in str(house.picked())


def test_children_may_ask_for_resolution() -> None:
    house, balancer = started(a=1)
    stub = house.stub.by_id(1)
    stub.helper.request_resolution()
    assert house.helper.resolution_requests == 1
    balancer.close()
    stub.helper.request_resolution()
    stub.publish(READY)
    assert house.helper.resolution_requests == 1, "a closed child is not heard"


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ({}, "$.targets"),
        ({"targets": {"a": {"weight": 0, "childPolicy": child()}}}, "$.targets.a.weight"),
        ({"targets": {"a": {"childPolicy": child()}}}, "$.targets.a.weight"),
        ({"targets": {"a": {"weight": 1}}}, "$.targets.a.childPolicy"),
        ({"targets": {"a": {"weight": 1, "childPolicy": [{"x": {}}]}}}, "$.targets.a.childPolicy"),
        ({"targets": targets(a=2**32 - 1, b=1)}, "$.targets"),
    ],
)
def test_a_wrong_config_is_told_by_its_path(raw: dict[str, Any], path: str) -> None:
    with pytest.raises(ServiceConfigError) as caught:
        House().parse("weighted_target", **raw)
    assert caught.value.path == path


@pytest.mark.slow
@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("update"), st.sets(st.sampled_from("abcd"))),
            st.tuples(
                st.sampled_from("abcd"),
                st.sampled_from([IDLE, CONNECTING, READY, TRANSIENT_FAILURE]),
            ),
        ),
        max_size=30,
    )
)
def test_whatever_happens_the_state_is_that_of_the_children(events: list[Any]) -> None:
    house = House()
    balancer = house.build("weighted_target")
    sticky: dict[str, ConnectivityState] = {}
    for what, value in events:
        if what == "update":
            names = sorted(value)
            config = house.parse("weighted_target", targets=targets(**dict.fromkeys(names, 1)))
            balancer.update(state(*(at(A, name) for name in names)), config)
            sticky = {name: sticky.get(name, CONNECTING) for name in names}
        elif what in sticky:
            house.stub.by_id(ord(what) - ord("a") + 1).publish(value)
            if sticky[what] is not TRANSIENT_FAILURE or value is READY:
                sticky[what] = value
        if house.helper.states:
            assert house.helper.state is aggregate(sticky.values())
            ready = {ord(n) - ord("a") + 1 for n, s in sticky.items() if s is READY}
            if ready:
                assert {house.picked() for _ in range(30)} == ready
    assert house.stub.live == {ord(name) - ord("a") + 1 for name in sticky}
    balancer.close()
    house.settle()
    assert house.stub.live == set()
    assert house.helper.clock.pending == 0
