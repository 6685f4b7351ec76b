"""endpoint_sharding: the pure diff, and children of other kinds than pick_first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpclb.core.address import Address, Endpoint
from grpclb.core.balancer import QUEUE_PICKER, Fail, FixedPicker
from grpclb.core.connectivity import CONNECTING, IDLE, READY, TRANSIENT_FAILURE
from grpclb.core.resolver import ResolverState
from grpclb.core.status import Status
from grpclb.policies.endpoint_diff import diff, endpoint_key
from grpclb.policies.endpoint_sharding import Child, EndpointSharding
from grpclb.testing import FakeHelper

A, B, C = "10.0.0.1:1", "10.0.0.2:1", "[fd00::1]:1"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (Endpoint.of(A), Endpoint.of(A), True),
        (Endpoint.of(A), Endpoint.of(A, weight=3), True),
        (Endpoint.of(A), Endpoint.of(A, A), True),
        (Endpoint.of(A, C), Endpoint.of(C, A), True),
        (Endpoint.of(A), Endpoint.of(B), False),
        (Endpoint.of(A), Endpoint.of(A, C), False),
        (Endpoint.of(A), Endpoint.of(Address.parse(A, "other.example")), False),
    ],
)
def test_an_endpoint_is_known_by_the_set_of_its_addresses(
    one: Endpoint, other: Endpoint, same: bool
) -> None:
    assert (endpoint_key(one) == endpoint_key(other)) is same
    assert (one.key == other.key) is same, "the fast key must agree with the plain one"


_ADDRESS = st.builds(
    Address.ip,
    st.just("10.0.0.1"),
    st.integers(1, 4),
    st.sampled_from([None, "x.example"]),
)
_ENDPOINTS = st.lists(
    st.builds(lambda a: Endpoint(tuple(a)), st.lists(_ADDRESS, min_size=1, max_size=3)), max_size=6
)


@pytest.mark.slow
@given(_ENDPOINTS, _ENDPOINTS)
def test_the_diff_is_the_difference(before: list[Endpoint], after: list[Endpoint]) -> None:
    have = {endpoint_key(e) for e in before}
    change = diff(have, after)
    want = {endpoint_key(e) for e in after}
    assert change.to_open.keys() == want - have
    assert change.to_keep.keys() == want & have
    assert set(change.to_shut) == have - want
    assert len(change.to_shut) == len(set(change.to_shut))
    for key, endpoint in {**change.to_open, **change.to_keep}.items():
        assert endpoint is next(e for e in after if endpoint_key(e) == key), "the first of equals"


class Puppet:
    """A child's policy that does what the test says."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.updates = 0
        self.exits = 0
        self.closed = False
        self.idles_again = False

    def update(self, state: ResolverState, config: object) -> bool:
        self.updates += 1
        return True

    def exit_idle(self) -> None:
        self.exits += 1
        if self.idles_again:
            self.child.update_picker(IDLE, QUEUE_PICKER)

    def close(self) -> None:
        self.closed = True


class Shards:
    """An EndpointSharding of puppets that counts how often its owner is told."""

    def __init__(self, *addresses: str) -> None:
        self.helper = FakeHelper()
        self.told = 0
        self.puppets: dict[str, Puppet] = {}
        self.sharding = EndpointSharding(self.helper, self._tell, self._build)
        self.update(*addresses)

    def _tell(self) -> None:
        self.told += 1

    def _build(self, child: Child) -> Puppet:
        puppet = self.puppets[str(child.endpoint)] = Puppet(child)
        return puppet

    def update(self, *addresses: str, config: object = None) -> None:
        self.sharding.update(ResolverState.of(addresses), config)

    def turn(self) -> None:
        self.helper.clock.advance(0)


def failing(text: str) -> FixedPicker:
    return FixedPicker(Fail(Status.unavailable(text)))


def test_a_child_may_be_of_any_kind() -> None:
    shards = Shards(A, B)
    assert shards.told == 1
    shards.puppets[A].child.update_picker(CONNECTING, QUEUE_PICKER)
    shards.puppets[B].child.update_picker(TRANSIENT_FAILURE, failing("no"))
    assert shards.told == 1, "told at the end of the turn, once for both"
    shards.turn()
    assert shards.told == 2
    assert shards.sharding.state is CONNECTING
    assert shards.sharding.last_error == Status.unavailable("no")


def test_failure_is_sticky_even_if_the_child_is_not() -> None:
    shards = Shards(A)
    child = shards.puppets[A].child
    child.update_picker(TRANSIENT_FAILURE, failing("no"))
    child.update_picker(CONNECTING, QUEUE_PICKER)
    child.update_picker(IDLE, QUEUE_PICKER)
    shards.turn()
    assert shards.sharding.state is TRANSIENT_FAILURE
    assert shards.puppets[A].exits == 1, "but it is connected again"
    child.update_picker(READY, QUEUE_PICKER)
    assert shards.sharding.state is READY


def test_a_child_that_answers_exit_idle_with_idle_does_not_spin() -> None:
    shards = Shards(A)
    puppet = shards.puppets[A]
    puppet.idles_again = True
    puppet.child.update_picker(IDLE, QUEUE_PICKER)
    shards.turn()
    assert puppet.exits == 1
    shards.helper.clock.advance(10)
    assert 5 <= puppet.exits <= 15


def test_a_new_config_goes_to_every_child_and_the_same_one_to_none() -> None:
    shards = Shards(A, B)
    shards.update(A, B)
    assert [p.updates for p in shards.puppets.values()] == [1, 1]
    shards.update(A, B, config="new")
    assert [p.updates for p in shards.puppets.values()] == [2, 2]


def test_a_child_that_was_shut_is_not_heard_any_more() -> None:
    shards = Shards(A, B)
    gone = shards.puppets[A]
    gone.child.update_picker(READY, QUEUE_PICKER)
    shards.update(B)
    assert gone.closed
    gone.child.update_picker(READY, QUEUE_PICKER)
    gone.child.update_picker(IDLE, QUEUE_PICKER)
    shards.turn()
    assert shards.sharding.state is CONNECTING
    assert not shards.sharding.ready
    assert gone.exits == 0


def test_endpoints_carry_their_newest_attributes() -> None:
    shards = Shards(A)
    shards.puppets[A].child.update_picker(READY, QUEUE_PICKER)
    version = shards.sharding.ready_version
    shards.sharding.update(ResolverState((Endpoint.of(A, weight=5),)))
    (child,) = shards.sharding.children.values()
    assert child.endpoint.attributes == {"weight": 5}
    assert shards.sharding.ready_version > version, "a weighted picker must be built anew"
    assert shards.puppets[A].updates == 1


def test_an_address_that_moves_to_another_endpoint_is_held_throughout() -> None:
    """The channel keeps a connection that somebody holds: so open first, then shut."""
    helper = FakeHelper()
    sharding = EndpointSharding(helper, lambda: None)
    sharding.update(ResolverState((Endpoint.of(A),)))
    order: list[str] = []
    create = helper.create_subchannel
    (old,) = helper.live
    release = old.release
    helper.create_subchannel = lambda *args: order.append("open") or create(*args)  # type: ignore[func-returns-value,method-assign]
    old.release = lambda: order.append("shut") or release()  # type: ignore[func-returns-value,method-assign]
    sharding.update(ResolverState((Endpoint.of(A, C),)))
    assert order == ["open", "shut"]


def test_close_shuts_every_child_and_cancels_every_timer() -> None:
    shards = Shards(A, B)
    shards.puppets[A].child.update_picker(TRANSIENT_FAILURE, failing("no"))
    shards.turn()
    shards.puppets[B].child.update_picker(IDLE, QUEUE_PICKER)
    assert shards.helper.clock.pending == 2
    shards.sharding.close()
    assert all(p.closed for p in shards.puppets.values())
    assert shards.helper.clock.pending == 0
