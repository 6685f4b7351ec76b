"""xds_cluster_manager, xds_cluster_impl, xds_wrr_locality; and a whole tree of them."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections import Counter
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpclb.control.registries import POLICIES
from grpclb.core.attributes import CLUSTER
from grpclb.core.balancer import QUEUE, CallOutcome, Drop, Fail, Pick, PickInfo, PickResult
from grpclb.core.config_node import ServiceConfigError
from grpclb.core.connectivity import CONNECTING, READY, TRANSIENT_FAILURE
from grpclb.core.resolver import ResolverState
from grpclb.core.status import Status
from grpclb.policies import xds_cluster_impl
from grpclb.policies.xds_cluster_impl import (
    DEFAULT_MAX_REQUESTS,
    RequestCounter,
    request_counter,
)
from tests.policies.stub import House, at, child, port_of, state

A, B, C = "10.0.1.1:1", "10.0.1.2:1", "10.0.1.3:1"
OK = CallOutcome(grpc.StatusCode.OK)


def to(cluster: str) -> PickInfo:
    return PickInfo("/s/m", attributes={CLUSTER: cluster})


# -- xds_cluster_manager -------------------------------------------------------------------------


def manager(**ids: int) -> tuple[House, Any]:
    house = House()
    balancer = house.build("xds_cluster_manager")
    manage(house, balancer, **ids)
    return house, balancer


def manage(house: House, balancer: Any, **ids: int) -> None:
    children = {name: {"childPolicy": child(number)} for name, number in ids.items()}
    config = house.parse("xds_cluster_manager", children=children)
    assert balancer.update(state(*(at(A, name) for name in ids)), config)


def test_each_rpc_goes_to_its_own_cluster() -> None:
    house, balancer = manager(a=1, b=2)
    assert house.helper.pick(to("a")) is QUEUE
    house.stub.by_id(1).publish(READY)
    house.stub.by_id(2).publish(TRANSIENT_FAILURE)
    house.settle()
    assert house.helper.state is READY
    picked = house.helper.pick(to("a"))
    assert isinstance(picked, Pick)
    assert port_of(picked) == 1
    failed = house.helper.pick(to("b"))
    assert failed == Fail(Status.unavailable("10.0.0.1:2 failed"))
    for info in (to("c"), PickInfo("/s/m")):
        assert "unknown cluster" in str(house.helper.pick(info))
    balancer.close()
    assert house.stub.live == set()
    assert house.helper.clock.pending == 0


def test_a_new_cluster_is_known_with_the_update_that_brings_it() -> None:
    house, balancer = manager(a=1)
    published = len(house.helper.states)
    manage(house, balancer, a=1, b=2)
    assert len(house.helper.states) == published + 1
    assert house.helper.pick(to("b")) is QUEUE
    manage(house, balancer, b=2)
    assert house.stub.live == {2}
    assert isinstance(house.helper.pick(to("a")), Fail)


def test_a_cluster_is_told_only_what_is_news_to_it() -> None:
    house = House()
    balancer = house.build("xds_cluster_manager")
    raw = {name: {"childPolicy": child(number)} for name, number in (("a", 1), ("b", 2))}
    config = house.parse("xds_cluster_manager", children=raw)
    one, two, other = at(A, "a"), at(B, "b"), at(C, "b")
    balancer.update(state(one, two), config)
    balancer.update(state(one, other), house.parse("xds_cluster_manager", children=raw))
    balancer.update(ResolverState((one, other), attributes={"x": 1}), config)
    balancer.update(state(one), config)
    balancer.update(state(one), config)
    first, second = house.stub.by_id(1), house.stub.by_id(2)
    assert len(first.updates) == 3
    assert [len(s.endpoints) for s, _ in second.updates] == [1, 1, 1, 0, 0], "it refused nobody"  # type: ignore[arg-type]


def test_changes_of_many_clusters_are_published_once() -> None:
    house, _ = manager(a=1, b=2, c=3)
    published = len(house.helper.states)
    for number in (1, 2, 3):
        house.stub.by_id(number).publish(READY)
    house.settle()
    assert len(house.helper.states) == published + 1


def test_an_error_of_one_cluster_does_not_make_the_resolver_try_again() -> None:
    house = House()
    balancer = house.build("xds_cluster_manager")
    config = house.parse("xds_cluster_manager", children={"a": {"childPolicy": child()}})
    assert balancer.update(state(), config)
    assert balancer.update(ResolverState(Status.unavailable("no answer")), config)


# -- xds_cluster_impl ----------------------------------------------------------------------------


def cluster_impl(**raw: Any) -> tuple[House, Any]:
    house = House()
    balancer = house.build("xds_cluster_impl")
    config = house.parse("xds_cluster_impl", childPolicy=child(), **raw)
    balancer.update(state(at(A)), config)
    house.stub.by_id(1).publish(READY)
    return house, balancer


@pytest.mark.parametrize(
    ("categories", "share"),
    [([], 0.0), ([1_000_000], 1.0), ([100_000], 0.1), ([500_000, 500_000], 0.75), ([9_999_999], 1)],
)
def test_drops_are_independent_draws(categories: list[int], share: float) -> None:
    house, _ = cluster_impl(
        cluster="drops",
        dropCategories=[
            {"category": f"c{i}", "requestsPerMillion": n} for i, n in enumerate(categories)
        ],
    )
    dropped: Counter[str] = Counter()
    for _ in range(2000):
        result = house.helper.pick()
        if isinstance(result, Drop):
            assert result.status.code is grpc.StatusCode.UNAVAILABLE
            dropped[result.status.details.split("'")[3]] += 1
        else:
            finish(result)
    assert abs(dropped.total() / 2000 - share) < 0.04
    if len(categories) == 2:
        assert abs(dropped["c0"] / 2000 - 0.5) < 0.04, "in order: the second gets what is left"


def finish(result: PickResult) -> None:
    assert isinstance(result, Pick)
    assert result.on_done is not None
    result.on_done(OK)


def test_nothing_is_dropped_while_the_child_is_not_ready() -> None:
    house, _ = cluster_impl(dropCategories=[{"category": "all", "requestsPerMillion": 1_000_000}])
    stub = house.stub.by_id(1)
    assert isinstance(house.helper.pick(), Drop)
    stub.publish(CONNECTING)
    assert house.helper.pick() is QUEUE
    stub.publish(TRANSIENT_FAILURE)
    assert isinstance(house.helper.pick(), Fail)


def test_the_circuit_breaker_counts_over_all_channels_of_the_process() -> None:
    house, balancer = cluster_impl(cluster="cb", edsServiceName="e", maxConcurrentRequests=3)
    other, _ = cluster_impl(cluster="cb", edsServiceName="e", maxConcurrentRequests=2)
    apart, _ = cluster_impl(cluster="cb", edsServiceName="another", maxConcurrentRequests=1)
    running = [house.helper.pick(), other.helper.pick()]
    assert isinstance(other.helper.pick(), Drop), "two are its limit"
    running.append(house.helper.pick())
    refused = house.helper.pick()
    assert isinstance(refused, Drop)
    assert "circuit breaker" in refused.status.details
    finish(apart.helper.pick())
    finish(running.pop())
    running.append(house.helper.pick())
    assert isinstance(running[-1], Pick)
    balancer.close()
    for result in running:
        finish(result)
    assert request_counter("cb", "e").running == 0


def test_a_pick_that_is_none_is_not_counted() -> None:
    house, _ = cluster_impl(cluster="uncounted", maxConcurrentRequests=1)
    stub = house.stub.by_id(1)
    for now in (CONNECTING, TRANSIENT_FAILURE):
        stub.publish(now)
        for _ in range(3):
            assert not isinstance(house.helper.pick(), (Pick, Drop))

    class Broken:
        def pick(self, info: PickInfo) -> PickResult:
            raise KeyError("a slip")

    stub.helper.update_picker(READY, Broken())
    with pytest.raises(KeyError):
        house.helper.pick()
    assert request_counter("uncounted", "").running == 0


def test_a_failure_says_what_the_resolver_knows() -> None:
    house, _ = cluster_impl(cluster="noted", resolutionNote="EDS: no answer yet")
    house.stub.by_id(1).publish(TRANSIENT_FAILURE)
    failed = Fail(Status.unavailable("10.0.0.1:1 failed; EDS: no answer yet"))
    assert house.helper.pick() == failed


def test_the_default_limit() -> None:
    house, _ = cluster_impl(cluster="default")
    running = [house.helper.pick() for _ in range(DEFAULT_MAX_REQUESTS)]
    assert isinstance(house.helper.pick(), Drop)
    for result in running:
        finish(result)


def test_the_child_s_own_on_done_is_told() -> None:
    house, _ = cluster_impl(cluster="told")
    told: list[CallOutcome] = []
    stub = house.stub.by_id(1)
    picker = house.helper.pickers[-1]
    inner = picker.pick(to(""))
    assert isinstance(inner, Pick)
    finish(inner)
    subchannel = inner.subchannel

    class Counting:
        def pick(self, info: PickInfo) -> PickResult:
            return Pick(subchannel, told.append)

    stub.helper.update_picker(READY, Counting())
    finish(house.helper.pick())
    assert told == [OK]


@pytest.mark.slow
def test_threads_never_lose_count_nor_pass_the_limit() -> None:
    house, _ = cluster_impl(cluster="threads", maxConcurrentRequests=5)
    picker = house.helper.pickers[-1]
    most: list[int] = []

    def work() -> None:
        for _ in range(300):
            result = picker.pick(to(""))
            if isinstance(result, Pick):
                finish(result)

    counter = request_counter("threads", "")
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    while any(t.is_alive() for t in threads):
        most.append(counter.running)
        threads[0].join(0.0005)
    for thread in threads:
        thread.join()
    assert counter.running == 0
    # Each thread may hold a place for the moment in which it finds out that there is none.
    assert max(most, default=0) <= 5 + 8


class InStep(list[None]):
    """Two threads look, append, and look again, and neither does the next thing alone."""

    def __init__(self) -> None:
        self._barrier = threading.Barrier(2)
        self._alone = {threading.get_ident()}

    def __len__(self) -> int:
        return self._both(super().__len__())

    def append(self, item: None) -> None:
        super().append(item)
        self._both(0)

    def pop(self, index: Any = -1) -> None:
        self._both(0)
        self._alone.add(threading.get_ident())
        super().pop(index)

    def _both(self, found: int) -> int:
        if threading.get_ident() not in self._alone:
            self._barrier.wait(20)
        return found


def test_of_two_that_start_at_once_one_gets_the_last_place() -> None:
    counter = RequestCounter()
    counter._running = InStep()
    got: list[bool] = []
    threads = [threading.Thread(target=lambda: got.append(counter.start(1))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [False, True]
    assert counter.running == 1


def test_counters_of_clusters_that_are_gone_are_forgotten() -> None:
    house, balancer = cluster_impl(cluster="gone")
    running = house.helper.pick()
    balancer.close()
    del house, balancer
    gc.collect()
    assert request_counter("gone", "").running == 1, "an RPC is under way"
    finish(running)
    del running
    gc.collect()
    assert ("gone", "") not in xds_cluster_impl._COUNTERS


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(["pick", "end"]), max_size=60), st.integers(0, 5))
def test_the_counter_is_exact(events: list[str], limit: int) -> None:
    house, balancer = cluster_impl(cluster="exact", maxConcurrentRequests=limit)
    running: list[PickResult] = []
    for event in events:
        if event == "pick":
            result = house.helper.pick()
            assert isinstance(result, Pick) is (len(running) < limit)
            if isinstance(result, Pick):
                running.append(result)
        elif running:
            finish(running.pop())
        assert request_counter("exact", "").running == len(running)
    balancer.close()
    for result in running:
        finish(result)
    assert request_counter("exact", "").running == 0


# -- xds_wrr_locality ----------------------------------------------------------------------------


def test_localities_get_their_weights() -> None:
    house = House()
    balancer = house.build("xds_wrr_locality")
    config = house.parse("xds_wrr_locality", childPolicy=child())
    assert balancer.update(
        state(
            at(A, locality="near", locality_weight=3),
            at(B, locality="far", locality_weight=1),
            at(C, locality="near", locality_weight=3),
        ),
        config,
    )
    near, far = house.stub.built
    assert near.addresses == [A, C]
    assert far.addresses == [B]
    near.publish(READY)
    far.publish(TRANSIENT_FAILURE)
    assert isinstance(house.helper.pick(), Pick)
    assert not balancer.update(state(), config), "nobody is no list to work with"
    assert isinstance(house.helper.pick(), Fail)


@pytest.mark.parametrize("weight", [None, 0, -1, True, "3", 2**32])
def test_a_senseless_weight_is_as_good_as_none(weight: object) -> None:
    house = House()
    balancer = house.build("xds_wrr_locality")
    config = house.parse("xds_wrr_locality", childPolicy=child())
    one = at(A, locality="x") if weight is None else at(A, locality="x", locality_weight=weight)
    assert balancer.update(state(one, at(B, locality="y")), config)
    for stub in house.stub.built:
        stub.publish(READY)
    near, _ = house.stub.built
    seen = Counter(id(house.helper.pick().subchannel) for _ in range(100))  # type: ignore[union-attr]
    assert min(seen.values()) >= 45
    near.publish(TRANSIENT_FAILURE)


def test_a_failed_resolution_leaves_the_localities() -> None:
    house = House()
    balancer = house.build("xds_wrr_locality")
    config = house.parse("xds_wrr_locality", childPolicy=child())
    balancer.update(state(at(A, locality="x", locality_weight=2)), config)
    house.stub.built[0].publish(READY)
    balancer.update(ResolverState(Status.unavailable("no answer")), config)
    assert isinstance(house.helper.pick(), Pick)
    assert not house.stub.built[0].closed


# -- configs and the registry --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "raw", "path"),
    [
        ("xds_cluster_manager", {}, "$.children"),
        ("xds_cluster_manager", {"children": {"a b": {}}}, '$.children["a b"].childPolicy'),
        ("xds_cluster_impl", {}, "$.childPolicy"),
        (
            "xds_cluster_impl",
            {"childPolicy": child(), "maxConcurrentRequests": -1},
            "$.maxConcurrentRequests",
        ),
        (
            "xds_cluster_impl",
            {"childPolicy": child(), "dropCategories": [{"requestsPerMillion": "x"}]},
            "$.dropCategories[0].requestsPerMillion",
        ),
        ("xds_wrr_locality", {"childPolicy": [{"nope": {}}]}, "$.childPolicy"),
    ],
)
def test_a_wrong_config_is_told_by_its_path(policy: str, raw: dict[str, Any], path: str) -> None:
    with pytest.raises(ServiceConfigError) as caught:
        House().parse(policy, **raw)
    assert caught.value.path == path


def test_the_policies_are_registered_and_find_their_children() -> None:
    policy = POLICIES.require("xds_wrr_locality_experimental")
    assert policy is POLICIES.get(policy.name)
    config = policy.parse_config({"childPolicy": [{"round_robin": {}}]})
    assert config == policy.parse_config({"childPolicy": [{"round_robin": {}}]})
    assert {"priority_experimental", "weighted_target_experimental"} <= set(POLICIES)


@pytest.mark.slow
def test_a_channel_that_does_not_use_them_does_not_load_them() -> None:
    code = (
        "import sys, grpclb; grpclb.insecure_channel('ipv4:127.0.0.1:1').close();"
        "print([m for m in sys.modules if m.startswith('grpclb.policies.')"
        " and m.rpartition('.')[2] not in ('round_robin', 'pick_first', 'graceful_switch',"
        " 'endpoint_sharding', 'endpoint_diff', 'connect_order')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- a whole tree --------------------------------------------------------------------------------


def tree(*priorities: str) -> dict[str, Any]:
    localities: list[dict[str, Any]] = [
        {"xds_wrr_locality_experimental": {"childPolicy": [{"round_robin": {}}]}}
    ]
    impl = [{"xds_cluster_impl_experimental": {"cluster": "tree", "childPolicy": localities}}]
    children = {name: {"config": impl} for name in priorities}
    failover = [{"priority_experimental": {"children": children, "priorities": list(priorities)}}]
    return {"cluster:tree": {"childPolicy": failover}}


def test_rpcs_wait_for_a_priority_that_has_endpoints_again() -> None:
    """The only healthy backend moves from one priority to another in one update."""
    house = House()
    balancer = house.build("xds_cluster_manager")
    config = house.parse("xds_cluster_manager", children=tree("p0", "p1"))
    better = at(A, "cluster:tree", "p0", locality="near", locality_weight=1)
    worse = at(C, "cluster:tree", "p1", locality="away", locality_weight=1)
    balancer.update(state(worse), config)
    house.helper.subchannel(C).set(READY)
    house.settle()
    assert isinstance(house.helper.pick(to("cluster:tree")), Pick)
    balancer.update(state(better), config)
    house.settle()
    assert house.helper.pick(to("cluster:tree")) is QUEUE, "it was empty, which is no failure"
    house.helper.subchannel(A).set(READY)
    house.settle()
    assert isinstance(house.helper.pick(to("cluster:tree")), Pick)
    balancer.update(state(), config)
    house.settle()
    assert isinstance(house.helper.pick(to("cluster:tree")), Fail)
    balancer.update(state(worse), config)
    house.settle()
    assert house.helper.pick(to("cluster:tree")) is QUEUE


def test_a_tree_as_the_xds_resolver_builds_it() -> None:
    house = House()
    balancer = house.build("xds_cluster_manager")
    config = house.parse("xds_cluster_manager", children=tree("p0", "p1"))
    endpoints = state(
        at(A, "cluster:tree", "p0", locality="near", locality_weight=1),
        at(B, "cluster:tree", "p0", locality="far", locality_weight=3),
        at(C, "cluster:tree", "p1", locality="away", locality_weight=1),
    )
    balancer.update(endpoints, config)
    info = to("cluster:tree")

    def picked() -> Counter[str]:
        house.helper.clock.advance(0.1)
        results = [house.helper.pick(info) for _ in range(40)]
        return Counter(r.subchannel.address.target if isinstance(r, Pick) else "?" for r in results)

    assert {s.address.target for s in house.helper.live} == {A, B}
    assert picked() == {"?": 40}
    for address in (A, B):
        house.helper.subchannel(address).set(READY)
    assert abs(picked()[B] - 30) <= 5
    for address in (A, B):
        house.helper.subchannel(address).set(TRANSIENT_FAILURE)
    assert picked() == {"?": 40}
    house.helper.subchannel(C).set(READY)
    assert picked() == {C: 40}
    balancer.close()
    assert house.helper.live == []
    assert house.helper.clock.pending == 0
