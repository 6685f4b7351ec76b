"""pick_first beyond the scenarios: chance, the order of addresses, and subchannels in a hurry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

import pytest

from grpclb.core.address import Address, Endpoint
from grpclb.core.balancer import Fail, Pick, SubchannelState
from grpclb.core.connectivity import (
    CONNECTING,
    IDLE,
    READY,
    TRANSIENT_FAILURE,
    ConnectivityState,
)
from grpclb.core.resolver import ResolverState
from grpclb.policies.connect_order import connect_order, shuffled
from grpclb.policies.pick_first import PICK_FIRST, PickFirstConfig
from grpclb.testing import FakeHelper, FakeSubchannel


def endpoints(*weights: object) -> list[Endpoint]:
    return [Endpoint.of(f"10.0.0.{i + 1}:1", weight=w) for i, w in enumerate(weights)]


def firsts(given: list[Endpoint], rounds: int = 10_000) -> Counter[str]:
    random = Random(1)
    return Counter(str(shuffled(given, random)[0]) for _ in range(rounds))


def test_two_addresses_swap_half_of_the_time() -> None:
    two = [Endpoint.of("10.0.0.1:1"), Endpoint.of("10.0.0.2:1")]
    assert 4800 < firsts(two)["10.0.0.2:1"] < 5200


@pytest.mark.slow
def test_equal_weights_give_every_order_the_same_chance() -> None:
    random = Random(2)
    orders = Counter(tuple(map(str, shuffled(endpoints(5, 5, 5), random))) for _ in range(6000))
    assert len(orders) == 6
    assert all(850 < count < 1150 for count in orders.values())


def test_heavier_endpoints_come_first_in_proportion() -> None:
    """gRFC A113."""
    counts = firsts(endpoints(1, 3, 6))
    assert 850 < counts["10.0.0.1:1"] < 1150
    assert 2800 < counts["10.0.0.2:1"] < 3200
    assert 5800 < counts["10.0.0.3:1"] < 6200


def test_weights_as_large_as_xds_makes_them_keep_their_proportion() -> None:
    """A113's weights are UQ1.31: u^(1/w) itself would be 1.0 for most of them."""
    counts = firsts(endpoints(2**31, 3 * 2**31))
    assert 2300 < counts["10.0.0.1:1"] < 2700


@pytest.mark.parametrize("weight", [0, -1, "7", None, True])
def test_a_weight_that_is_none_counts_as_one(weight: object) -> None:
    assert 4800 < firsts(endpoints(weight, 1))["10.0.0.1:1"] < 5200


@pytest.mark.parametrize(
    ("given", "order"),
    [
        (["4:1", "4:2"], ["4:1", "4:2"]),
        (["4:1", "4:2", "6:1", "6:2"], ["4:1", "6:1", "4:2", "6:2"]),
        (["6:1", "6:2", "4:1"], ["6:1", "4:1", "6:2"]),
        (["4:1", "6:1", "6:2", "6:3"], ["4:1", "6:1", "6:2", "6:3"]),
        (["4:1", "4:1", "6:1", "4:1"], ["4:1", "6:1"]),
        (["u:1", "4:1", "4:2", "6:1"], ["u:1", "4:1", "6:1", "4:2"]),
        (["4:3"], ["4:3"]),
    ],
)
def test_the_order_of_addresses(given: list[str], order: list[str]) -> None:
    """RFC 8305 section 4, after duplicates are gone."""
    wanted = tuple(map(address, order))
    assert connect_order([Endpoint.of(address(a)) for a in given]) == wanted
    assert connect_order([Endpoint(tuple(map(address, given)))]) == wanted


def address(text: str) -> Address:
    family, _, number = text.partition(":")
    match family:
        case "4":
            return Address.ip("10.0.0.1", number)
        case "6":
            return Address.ip("fd00::1", number)
    return Address.unix(f"/run/{number}")


# -- subchannels that answer before connect() returns -------------------------------------------


class HastySubchannel(FakeSubchannel):
    """Knows from within connect() how it ends."""

    def __init__(
        self,
        address: Address,
        on_state: Callable[[SubchannelState], None],
        end: ConnectivityState,
    ) -> None:
        super().__init__(address, on_state)
        self.end = end

    def connect(self) -> None:
        super().connect()
        self.set(self.end)


class HastyHelper(FakeHelper):
    def __init__(self, ends: dict[str, ConnectivityState]) -> None:
        super().__init__()
        self._ends = ends

    def create_subchannel(
        self, address: Address, on_state: Callable[[SubchannelState], None]
    ) -> FakeSubchannel:
        subchannel = HastySubchannel(address, on_state, self._ends[address.target])
        self.subchannels.append(subchannel)
        return subchannel


A, B, C = "10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"


def test_a_subchannel_may_be_ready_before_connect_returns() -> None:
    helper = HastyHelper({A: TRANSIENT_FAILURE, B: READY, C: READY})
    balancer = PICK_FIRST.build(helper)
    assert balancer.update(ResolverState.of([A, B, C]), PickFirstConfig())
    assert helper.states == [CONNECTING, READY]
    assert helper.live == [helper.subchannel(B)]
    assert helper.clock.pending == 0


def test_subchannels_may_fail_before_connect_returns() -> None:
    helper = HastyHelper(dict.fromkeys((A, B, C), TRANSIENT_FAILURE))
    balancer = PICK_FIRST.build(helper)
    balancer.update(ResolverState.of([A, B, C]), PickFirstConfig())
    assert helper.states == [CONNECTING, TRANSIENT_FAILURE]
    assert helper.resolution_requests == 1
    balancer.close()
    assert helper.clock.pending == 0


def test_addresses_that_are_connected_after_a_failed_pass_may_be_ready_at_once() -> None:
    ends = {A: TRANSIENT_FAILURE, B: CONNECTING}
    helper = HastyHelper(ends)
    PICK_FIRST.build(helper).update(ResolverState.of([A, B]), PickFirstConfig())
    first, second = helper.live
    assert isinstance(first, HastySubchannel)
    first.set(IDLE)
    first.end = READY
    second.set(TRANSIENT_FAILURE)
    assert helper.states == [CONNECTING, TRANSIENT_FAILURE, READY]
    assert helper.live == [first]
    assert helper.clock.pending == 0


def test_a_state_that_is_told_twice_is_published_once() -> None:
    """A connection that is taken over tells its new holder how it stands, perhaps once more."""
    helper = FakeHelper()
    PICK_FIRST.build(helper).update(ResolverState.of([A]), PickFirstConfig())
    (subchannel,) = helper.live
    for state in (CONNECTING, READY, READY):
        subchannel._on_state(SubchannelState(state))
    assert helper.states == [CONNECTING, READY]


def test_an_error_from_before_the_last_connection_is_not_shown() -> None:
    helper = FakeHelper()
    balancer = PICK_FIRST.build(helper)
    balancer.update(ResolverState.of([A]), PickFirstConfig())
    (subchannel,) = helper.live
    subchannel.set(TRANSIENT_FAILURE, "an old story")
    subchannel.set(READY)
    subchannel.set(IDLE)
    balancer.exit_idle()
    subchannel._on_state(SubchannelState(TRANSIENT_FAILURE))
    result = helper.pick()
    assert isinstance(result, Fail)
    assert result.status.details.endswith("last: connection failed")


def test_a_server_name_is_part_of_an_address() -> None:
    """Another name to verify is another connection."""
    helper = FakeHelper()
    balancer = PICK_FIRST.build(helper)
    for name in ("one.example", "two.example"):
        state = ResolverState.of([Address.parse(A, name)])
        balancer.update(state, PickFirstConfig())
        helper.live[-1].set(READY)
    (kept,) = helper.live
    assert kept.address.server_name == "two.example"
    result = helper.pick()
    assert isinstance(result, Pick)
    assert result.subchannel is kept


@pytest.mark.slow
def test_ten_thousand_addresses_open_one_connection() -> None:
    helper = FakeHelper()
    balancer = PICK_FIRST.build(helper)
    many = [f"10.0.{i >> 8}.{i & 255}:1" for i in range(10_000)]
    balancer.update(ResolverState.of(many), PickFirstConfig())
    assert len(helper.subchannels) == 1
    helper.subchannels[0].set(READY)
    helper.subchannels[0].set(IDLE)
    balancer.update(ResolverState.of(reversed(many)), PickFirstConfig())
    assert len(helper.subchannels) == 1


# -- config --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "shuffle"),
    [
        ({}, False),
        ({"shuffleAddressList": True}, True),
        ({"shuffleAddressList": False, "x": 1}, False),
    ],
)
def test_config(raw: dict, shuffle: bool) -> None:
    assert PICK_FIRST.parse_config(raw) == PickFirstConfig(shuffle)


@pytest.mark.parametrize("wrong", ["yes", 1, [], {}])
def test_wrong_config_names_the_field(wrong: object) -> None:
    with pytest.raises(ValueError, match="shuffleAddressList: expected true or false"):
        PICK_FIRST.parse_config({"shuffleAddressList": wrong})
