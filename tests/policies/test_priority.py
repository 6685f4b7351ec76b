"""priority: scenarios of gRFC A56 on a fake clock."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpclb.core.balancer import QUEUE
from grpclb.core.config_node import ServiceConfigError
from grpclb.core.connectivity import (
    CONNECTING,
    IDLE,
    READY,
    TRANSIENT_FAILURE,
    ConnectivityState,
)
from grpclb.policies.priority import FAILOVER_SECONDS, KEPT_SECONDS
from tests.policies.stub import House, at, child, state

A = "10.0.1.1:1"


def config(house: House, *names: str, ignore: bool = False) -> object:
    """Child p1 has the stub with id 1, and so on."""
    children = {
        name: {"config": child(int(name[1:])), "ignore_reresolution_requests": ignore}
        for name in names
    }
    return house.parse("priority", children=children, priorities=list(names))


class Three(House):
    """p1 before p2 before p3."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.balancer = self.build("priority")
        self.take(*(names or ("p1", "p2", "p3")))

    def take(self, *names: str) -> bool:
        endpoints = (at(A, name) for name in names)
        accepted: bool = self.balancer.update(state(*endpoints), config(self, *names))
        return accepted

    def says(self, number: int, now: ConnectivityState) -> None:
        self.stub.by_id(number).publish(now)

    def wait(self, seconds: float) -> None:
        self.helper.clock.advance(seconds)


def test_the_best_child_alone_as_long_as_it_works() -> None:
    house = Three()
    assert house.stub.live == {1}
    assert house.helper.state is CONNECTING
    assert house.helper.pick() is QUEUE
    house.says(1, READY)
    assert house.picked() == 1
    house.wait(60)
    assert house.stub.live == {1}, "the others are not even created"


def test_a_failure_brings_in_the_next_at_once() -> None:
    house = Three()
    house.says(1, TRANSIENT_FAILURE)
    assert house.stub.live == {1, 2}
    assert house.helper.state is CONNECTING
    house.says(2, READY)
    assert house.picked() == 2
    assert house.stub.live == {1, 2}, "the third is not needed"


def test_ten_seconds_are_enough_to_connect() -> None:
    house = Three()
    house.wait(FAILOVER_SECONDS - 0.1)
    assert house.stub.live == {1}
    house.wait(0.2)
    assert house.stub.live == {1, 2}
    house.wait(FAILOVER_SECONDS)
    assert house.stub.live == {1, 2, 3}
    house.wait(10 * FAILOVER_SECONDS)
    assert house.helper.state is CONNECTING, "all had their time: wait for the first that connects"
    house.says(3, READY)
    assert house.picked() == 3
    house.says(1, READY)
    assert house.picked() == 1, "a better one is taken at once"


def test_all_fail_and_the_last_one_says_why() -> None:
    house = Three()
    for number in (1, 2, 3):
        house.says(number, TRANSIENT_FAILURE)
    assert house.helper.state is TRANSIENT_FAILURE
    assert "10.0.0.1:3 failed" in str(house.picked())
    house.says(2, CONNECTING)
    assert house.helper.clock.pending == 0, "a child that failed gets no second ten seconds"


def test_lower_children_live_on_for_a_quarter_of_an_hour() -> None:
    house = Three()
    house.says(1, TRANSIENT_FAILURE)
    house.says(2, READY)
    house.says(1, READY)
    assert house.picked() == 1
    house.wait(KEPT_SECONDS - 1)
    house.says(1, TRANSIENT_FAILURE)
    assert house.picked() == 2, "it was kept, and is ready"
    house.wait(KEPT_SECONDS + 1)
    assert house.stub.live == {1, 2}, "it is in use"
    house.says(1, READY)
    house.wait(KEPT_SECONDS + 1)
    assert house.stub.live == {1}
    house.says(1, TRANSIENT_FAILURE)
    assert len(house.stub.built) == 3, "a new one"
    assert house.helper.state is CONNECTING


def test_a_child_that_was_ready_gets_ten_seconds_to_reconnect() -> None:
    house = Three()
    house.says(1, READY)
    house.says(1, CONNECTING)
    assert house.stub.live == {1}
    house.wait(FAILOVER_SECONDS + 0.1)
    assert house.stub.live == {1, 2}
    house.says(1, CONNECTING)
    house.wait(FAILOVER_SECONDS - 1)
    house.says(2, TRANSIENT_FAILURE)
    assert house.stub.live == {1, 2, 3}, "p1 may not begin anew"


def test_an_idle_child_is_as_good_as_a_ready_one() -> None:
    house = Three()
    house.says(1, IDLE)
    house.wait(FAILOVER_SECONDS + 1)
    assert house.helper.state is IDLE
    assert house.stub.live == {1}
    assert house.stub.by_id(1).woken >= 1


def test_an_update_reorders_and_removes() -> None:
    house = Three()
    house.says(1, TRANSIENT_FAILURE)
    house.says(2, READY)
    first = house.stub.by_id(1)
    assert house.take("p2", "p3")
    assert first.closed, "removed children go at once (gRFC A115)"
    assert house.picked() == 2
    assert house.stub.live == {2}
    house.take("p3", "p2")
    assert house.picked() is QUEUE, "p3 is the best now, and connects"
    house.says(3, READY)
    assert house.picked() == 3
    house.balancer.close()
    assert house.helper.clock.pending == 0
    assert house.stub.live == set()


def test_children_that_report_during_the_update_are_chosen_among_once() -> None:
    house = Three()
    house.says(1, TRANSIENT_FAILURE)
    house.says(2, READY)
    for number in (1, 2):
        stub = house.stub.by_id(number)
        update = stub.update

        def failing(*args: Any, stub: Any = stub, update: Any = update) -> bool:
            accepted: bool = update(*args)
            stub.publish(TRANSIENT_FAILURE if stub.label.target.endswith("2") else READY)
            return accepted

        stub.update = failing  # type: ignore[method-assign, assignment]
    published = len(house.helper.states)
    house.take("p1", "p2", "p3")
    assert house.helper.states[published:] == [READY]
    assert house.picked() == 1


def test_nobody() -> None:
    house = Three()
    house.says(1, READY)
    assert not house.balancer.update(state(), config(house))
    assert house.helper.state is TRANSIENT_FAILURE
    assert "no children" in str(house.picked())
    assert house.stub.live == set()


@pytest.mark.parametrize("ignore", [False, True])
def test_reresolution_is_passed_on_or_ignored(ignore: bool) -> None:
    house = House()
    balancer = house.build("priority")
    balancer.update(state(at(A, "p1")), config(house, "p1", ignore=ignore))
    house.stub.by_id(1).helper.request_resolution()
    assert house.helper.resolution_requests == (0 if ignore else 1)


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ({"priorities": []}, "$.children"),
        ({"children": {}}, "$.priorities"),
        ({"children": {}, "priorities": ["a"]}, "$.priorities[0]"),
        ({"children": {"a": {"config": child()}}, "priorities": []}, "$.children"),
        ({"children": {"a": {"config": child()}}, "priorities": ["a", "a"]}, "$.priorities[1]"),
        ({"children": {"a": {}}, "priorities": ["a"]}, "$.children.a.config"),
    ],
)
def test_a_wrong_config_is_told_by_its_path(raw: dict[str, Any], path: str) -> None:
    with pytest.raises(ServiceConfigError) as caught:
        House().parse("priority", **raw)
    assert caught.value.path == path


_EVENTS = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 3), st.sampled_from([IDLE, CONNECTING, READY, TRANSIENT_FAILURE])),
        st.tuples(st.just("wait"), st.sampled_from([1.0, 11.0, 901.0])),
        st.tuples(
            st.just("take"),
            st.permutations(["p1", "p2", "p3"]).flatmap(
                lambda names: st.integers(1, 3).map(lambda n: names[:n])
            ),
        ),
    ),
    max_size=25,
)


@pytest.mark.slow
@settings(deadline=None)
@given(_EVENTS)
def test_whatever_happens_a_ready_child_before_all_that_are_not(events: list[Any]) -> None:
    house = Three()
    names = ["p1", "p2", "p3"]
    for what, value in events:
        if what == "take":
            names = value
            house.take(*names)
        elif what == "wait":
            house.wait(value)
        elif what in house.stub.live:
            house.says(what, value)
        live = [int(n[1:]) for n in names if int(n[1:]) in house.stub.live]
        assert house.stub.live == set(live), "only those of the config"
        picked = house.picked()
        if isinstance(picked, int):
            assert picked in live
            better = live[: live.index(picked)]
            states = {n: house.stub.by_id(n) for n in better}
            assert READY not in [_state(house, n) for n in states]
    house.balancer.close()
    house.settle()
    assert house.helper.clock.pending == 0
    assert house.stub.live == set()


def _state(house: Three, number: int) -> ConnectivityState:
    found: ConnectivityState = house.balancer._children.children[f"p{number}"].reported
    return found
