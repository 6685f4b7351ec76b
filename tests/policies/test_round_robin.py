"""round_robin beyond the scenarios: real threads, large sets, pickers of custom children."""

from __future__ import annotations

import itertools
import sys
import threading
from collections import Counter
from random import Random

import pytest

from grpclb.core.address import Address
from grpclb.core.balancer import (
    QUEUE,
    QUEUE_PICKER,
    FixedPicker,
    Pick,
    Picker,
    PickInfo,
    PickResult,
)
from grpclb.core.connectivity import CONNECTING, IDLE, READY, TRANSIENT_FAILURE
from grpclb.core.resolver import ResolverState
from grpclb.policies.round_robin import ROUND_ROBIN, RoundRobin, RoundRobinConfig, make_picker
from grpclb.testing import FakeHelper, FakeSubchannel

INFO = PickInfo("/s/m")


def addresses(count: int, start: int = 0) -> list[str]:
    return [f"10.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255}:1" for i in range(start, start + count)]


def ready_balancer(count: int, seed: int = 0) -> tuple[FakeHelper, RoundRobin]:
    helper = FakeHelper(seed=seed)
    balancer = ROUND_ROBIN.build(helper)
    balancer.update(ResolverState.of(addresses(count)), RoundRobinConfig())
    for subchannel in sorted(helper.live, key=lambda s: s.address.target):
        subchannel.set(READY)
    helper.clock.advance(0.05)
    assert helper.state is READY
    return helper, balancer


def target_of(result: PickResult) -> str:
    assert isinstance(result, Pick)
    return result.subchannel.address.target


def pick_from_threads(picker: Picker, threads: int, each: int) -> Counter[str]:
    """`each` picks from each of `threads` real threads that start together."""
    counts: list[Counter[str]] = []
    start = threading.Barrier(threads)

    def work() -> None:
        start.wait(10)
        counts.append(Counter(target_of(picker.pick(INFO)) for _ in range(each)))

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    return sum(counts, Counter())


@pytest.mark.parametrize("backends", [3, 4])
def test_sixteen_threads_pick_exactly_evenly(backends: int) -> None:
    helper, _ = ready_balancer(backends)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        counts = pick_from_threads(helper.pickers[-1], threads=16, each=250)
    finally:
        sys.setswitchinterval(before)
    assert counts.total() == 4000
    assert len(counts) == backends
    assert max(counts.values()) - min(counts.values()) <= 1


def test_evenness_survives_that_the_picker_is_replaced_again_and_again() -> None:
    helper, balancer = ready_balancer(3)
    counts: Counter[str] = Counter()
    for number in range(300):
        counts[target_of(helper.pick())] += 1
        weight = {"weight": number + 1}
        fresh = ResolverState(tuple(e.__class__.of(*e.addresses, **weight) for e in _state(3)))
        balancer.update(fresh, RoundRobinConfig())
    assert len(helper.pickers) > 300, "the attributes of READY endpoints changed: a new picker each"
    assert sorted(counts.values()) == [100, 100, 100]


def _state(count: int) -> tuple:
    endpoints = ResolverState.of(addresses(count)).endpoints
    assert isinstance(endpoints, tuple)
    return endpoints


def test_many_clients_do_not_start_on_the_same_backend() -> None:
    first = Counter(target_of(ready_balancer(4, seed)[0].pick()) for seed in range(200))
    assert len(first) == 4
    assert max(first.values()) < 100


def test_many_clients_do_not_connect_to_the_same_backend_first() -> None:
    first: Counter[str] = Counter()
    for seed in range(200):
        helper = FakeHelper(seed=seed)
        ROUND_ROBIN.build(helper).update(ResolverState.of(addresses(4)), RoundRobinConfig())
        first[helper.subchannels[0].address.target] += 1
    assert len(first) == 4
    assert max(first.values()) < 100


def test_a_cold_burst_is_shared() -> None:
    """FIGURES C10: 30 calls that wait over 3 backends, at most 15 on one."""
    helper = FakeHelper()
    ROUND_ROBIN.build(helper).update(ResolverState.of(addresses(3)), RoundRobinConfig())
    helper.clock.advance(0.002)
    counts: Counter[str] = Counter()
    for subchannel in helper.live:
        subchannel.set(READY)
        helper.clock.advance(0.004)
        if helper.state is READY and not counts:
            counts.update(target_of(helper.pick()) for _ in range(30))
    assert counts.total() == 30
    assert max(counts.values()) <= 15


def test_the_wait_of_a_cold_start_ends_in_the_moment_when_its_backend_is_lost() -> None:
    helper = FakeHelper()
    ROUND_ROBIN.build(helper).update(ResolverState.of(addresses(2)), RoundRobinConfig())
    first = helper.live[0]
    helper.clock.call_later(0.010, lambda: first.set(IDLE))
    first.set(READY)
    helper.clock.advance(0.010)
    assert set(helper.states) == {CONNECTING}
    assert helper.pick() == QUEUE


# -- pickers of children that decide for each RPC ------------------------------------------------


class Choosy:
    """A child's picker that answers each RPC anew."""

    def __init__(self, result: PickResult) -> None:
        self.result = result
        self.asked = 0

    def pick(self, info: PickInfo) -> PickResult:
        self.asked += 1
        return self.result


def pick_of(target: str) -> Pick:
    return Pick(FakeSubchannel(Address.parse(target), lambda state: None))


def test_turns_among_children_that_decide_for_each_rpc() -> None:
    fixed = FixedPicker(pick_of("10.0.0.1:1"))
    choosy = Choosy(pick_of("10.0.0.2:1"))
    picker = make_picker((fixed, choosy), itertools.count())
    assert Counter(target_of(picker.pick(INFO)) for _ in range(10)).most_common() == [
        ("10.0.0.1:1", 5),
        ("10.0.0.2:1", 5),
    ]
    assert choosy.asked == 5


def test_a_tried_backend_is_avoided_among_children_that_decide_for_each_rpc() -> None:
    tried = PickInfo("/s/m", tried=frozenset({Address.parse("10.0.0.1:1")}))
    pickers = (Choosy(pick_of("10.0.0.1:1")), Choosy(pick_of("10.0.0.2:1")))
    picker = make_picker(pickers, itertools.count())
    assert {target_of(picker.pick(tried)) for _ in range(10)} == {"10.0.0.2:1"}


def test_a_child_that_queues_is_obeyed() -> None:
    picker = make_picker((QUEUE_PICKER,), itertools.count())
    assert picker.pick(INFO) == QUEUE
    assert picker.pick(PickInfo("/s/m", tried=frozenset({Address.parse("10.0.0.1:1")}))) == QUEUE


def test_the_search_for_an_untried_backend_is_bounded() -> None:
    picks = tuple(FixedPicker(pick_of(a)) for a in addresses(1000))
    turns = itertools.count()
    picker = make_picker(picks, turns)
    everywhere = frozenset(map(Address.parse, addresses(1000)))
    picker.pick(PickInfo("/s/m", tried=everywhere))
    assert next(turns) <= 20


# -- ten thousand endpoints, counted in operations ---------------------------------------------


@pytest.mark.slow
def test_an_update_of_ten_thousand_endpoints_works_for_the_changed_ones_only() -> None:
    """FIGURES C8: 100 of 10,000 changed."""
    helper, balancer = ready_balancer(10_000)
    published, created = len(helper.pickers), len(helper.subchannels)
    balancer.update(ResolverState.of(addresses(10_000, start=100)), RoundRobinConfig())
    assert len(helper.subchannels) - created == 100
    assert sum(s.released for s in helper.subchannels) == 100
    assert len(helper.pickers) - published == 1


@pytest.mark.slow
def test_ten_thousand_endpoints_that_connect_one_by_one_do_not_make_as_many_pickers() -> None:
    helper = FakeHelper()
    balancer = ROUND_ROBIN.build(helper)
    balancer.update(ResolverState.of(addresses(10_000)), RoundRobinConfig())
    for subchannel in helper.live:
        subchannel.set(READY)
        helper.clock.advance(0.001)
    helper.clock.advance(0.05)
    assert len(helper.pickers) < 1000, "10 s at some 50 pickers a second"
    assert len({target_of(helper.pick()) for _ in range(10_000)}) == 10_000


@pytest.mark.slow
def test_a_loss_among_ten_thousand_is_published_in_the_same_turn() -> None:
    helper, _ = ready_balancer(10_000)
    published = len(helper.pickers)
    lost = helper.live[5000]
    lost.set(TRANSIENT_FAILURE)
    helper.clock.advance(0)
    assert len(helper.pickers) == published + 1
    assert lost.address.target not in {target_of(helper.pick()) for _ in range(9_999)}


@pytest.mark.slow
def test_ten_thousand_that_fail_at_once_ask_for_resolution_once() -> None:
    helper, _ = ready_balancer(10_000)
    published = len(helper.pickers)
    for subchannel in helper.live:
        subchannel.set(IDLE)
    helper.clock.advance(0)
    assert helper.resolution_requests == 1
    assert len(helper.pickers) == published + 1


# -- config --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "wait"),
    [({}, 0.05), ({"coldStartWait": "0s"}, 0), ({"coldStartWait": "0.2s", "new": 1}, 0.2)],
)
def test_config(raw: dict, wait: float) -> None:
    assert ROUND_ROBIN.parse_config(raw) == RoundRobinConfig(wait)


@pytest.mark.parametrize("raw", [{"coldStartWait": 5}, {"coldStartWait": "5"}])
def test_wrong_config_names_the_field(raw: dict) -> None:
    with pytest.raises(ValueError, match="coldStartWait"):
        ROUND_ROBIN.parse_config(raw)


def test_the_start_depends_on_the_given_chance_only() -> None:
    first, second = (FakeHelper(seed=7) for _ in range(2))
    assert first.random.random() == second.random.random() == Random(7).random()
    picks = []
    for _ in range(2):
        helper, _ = ready_balancer(5, seed=7)
        picks.append([target_of(helper.pick()) for _ in range(5)])
    assert picks[0] == picks[1]
