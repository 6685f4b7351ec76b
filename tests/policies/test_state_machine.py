"""Any sequence of events, and what must hold after each of them (FIGURES F53).

The channel's own arrangement: round_robin and pick_first under a graceful switch. Every rule ends
with one turn of the loop, since pickers may be joined within a turn.
"""

from __future__ import annotations

import itertools
import os

import pytest
from grpc import StatusCode
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from grpclb.core.address import Address, Endpoint
from grpclb.core.balancer import Fail, Pick, PolicyConfig, Queue
from grpclb.core.connectivity import (
    CONNECTING,
    IDLE,
    READY,
    TRANSIENT_FAILURE,
    ConnectivityState,
)
from grpclb.core.resolver import ResolverState
from grpclb.core.status import Status
from grpclb.policies.graceful_switch import GracefulSwitch
from grpclb.policies.pick_first import PICK_FIRST
from grpclb.policies.round_robin import ROUND_ROBIN
from grpclb.testing import FakeHelper, FakeSubchannel

ADDRESSES = [
    *(Address.ip("10.0.0.1", port) for port in range(1, 6)),
    *(Address.ip("fd00::1", port) for port in range(1, 3)),
    Address.ip("10.0.0.1", 1, "other.example"),
]
ENDPOINTS = st.lists(
    st.builds(
        lambda addresses, weight: Endpoint.of(*addresses, weight=weight),
        st.lists(st.sampled_from(ADDRESSES), min_size=1, max_size=3),
        st.integers(0, 3),
    ),
    max_size=5,
)
CONFIGS = st.sampled_from(
    [
        PolicyConfig(ROUND_ROBIN, ROUND_ROBIN.parse_config({})),
        PolicyConfig(ROUND_ROBIN, ROUND_ROBIN.parse_config({"coldStartWait": "0s"})),
        PolicyConfig(PICK_FIRST, PICK_FIRST.parse_config({})),
        PolicyConfig(PICK_FIRST, PICK_FIRST.parse_config({"shuffleAddressList": True})),
    ]
)
STATES = st.sampled_from([IDLE, CONNECTING, READY, TRANSIENT_FAILURE])
LONGEST_HOLD = 0.05


class Policies(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 100), endpoints=ENDPOINTS, config=CONFIGS)
    def start(self, seed: int, endpoints: list[Endpoint], config: PolicyConfig) -> None:
        self.helper = FakeHelper(seed=seed)
        self.switch = GracefulSwitch(self.helper)
        self.endpoints: tuple[Endpoint, ...] = ()
        self.config = config
        self.updating = False
        self.seen = 0  # how many publications were looked at
        self.before: ConnectivityState = IDLE
        self.held_since: float | None = None
        self._update(endpoints, config, anew=False)

    # -- events ----------------------------------------------------------------------------

    @rule(endpoints=ENDPOINTS, config=CONFIGS, anew=st.booleans())
    def update(self, endpoints: list[Endpoint], config: PolicyConfig, anew: bool) -> None:
        self._update(endpoints, config, anew=anew)

    @rule(endpoints=ENDPOINTS)
    def update_addresses(self, endpoints: list[Endpoint]) -> None:
        self._update(endpoints, self.config, anew=False)

    @rule()
    def repeat_update(self) -> None:
        created, published = len(self.helper.subchannels), len(self.helper.pickers)
        self._update(list(self.endpoints), self.config, anew=False)
        if self.endpoints:
            assert len(self.helper.subchannels) == created, "nothing new: no new connection"
            assert len(self.helper.pickers) == published, "nothing new: no new picker"

    def _update(self, endpoints: list[Endpoint], config: PolicyConfig, *, anew: bool) -> None:
        self.updating = True
        self.endpoints, self.config = tuple(endpoints), config
        accepted = self.switch.update(ResolverState(self.endpoints), config, anew=anew)
        assert accepted is bool(endpoints)
        self._turn()

    @rule()
    def resolver_fails(self) -> None:
        self.updating = True
        self.switch.update(ResolverState(Status.unavailable("SERVFAIL")), self.config)
        self._turn()

    @precondition(lambda self: self.helper.live)
    @rule(which=st.integers(0, 100), state=STATES, error=st.sampled_from(["refused", "timeout"]))
    def subchannel_reports(self, which: int, state: ConnectivityState, error: str) -> None:
        live = self.helper.live
        failed = state is TRANSIENT_FAILURE
        live[which % len(live)].set(state, error if failed else None)
        self._turn()

    @precondition(lambda self: any(s.released for s in self.helper.subchannels))
    @rule(which=st.integers(0, 100), state=STATES)
    def released_subchannel_reports(self, which: int, state: ConnectivityState) -> None:
        gone = [s for s in self.helper.subchannels if s.released]
        published = len(self.helper.pickers)
        gone[which % len(gone)].set(state)
        self._turn()
        assert len(self.helper.pickers) == published

    @rule(seconds=st.sampled_from([0.001, 0.01, 0.05, 0.25, 1, 30, 1000]))
    def time_passes(self, seconds: float) -> None:
        self.helper.clock.advance(seconds)
        self._turn()

    @rule()
    def a_call_waits(self) -> None:
        if self.helper.state is IDLE:
            self.switch.exit_idle()
            self._turn()
            assert self.helper.state is not IDLE or not self.endpoints

    def _turn(self) -> None:
        self.helper.clock.advance(0)

    # -- what must hold --------------------------------------------------------------------

    @invariant()
    def the_picker_answers_as_its_state_demands(self) -> None:
        answers = [self.helper.pick() for _ in range(3)]
        for answer in answers:
            match self.helper.state:
                case ConnectivityState.READY:
                    assert isinstance(answer, Pick)
                case ConnectivityState.TRANSIENT_FAILURE:
                    assert isinstance(answer, Fail)
                    assert answer.status.code is StatusCode.UNAVAILABLE
                    assert answer.status.details
                case ConnectivityState.CONNECTING if isinstance(answer, Pick):
                    # A cold start lets one RPC through, while the others wait.
                    assert self.switch.policy_name == "round_robin"
                    assert sum(isinstance(a, Pick) for a in answers) == 1
                case _:
                    assert isinstance(answer, Queue)

    @invariant()
    def picks_go_to_ready_subchannels_that_are_held(self) -> None:
        for _ in range(6):
            answer = self.helper.pick()
            if isinstance(answer, Pick):
                assert isinstance(answer.subchannel, FakeSubchannel)
                assert not answer.subchannel.released
                assert answer.subchannel.state.connectivity is READY

    @invariant()
    def failure_is_sticky(self) -> None:
        news = [self.before, *self.helper.states[self.seen :]]
        self.seen, self.before = len(self.helper.states), news[-1]
        if not self.updating:
            for old, new in itertools.pairwise(news):
                assert old is not TRANSIENT_FAILURE or new in (READY, TRANSIENT_FAILURE)
        self.updating = False

    @invariant()
    def a_ready_backend_is_used_soon(self) -> None:
        ready = any(s.state.connectivity is READY for s in self.helper.live)
        if not ready or self.helper.state is READY:
            self.held_since = None
            return
        assert self.helper.state is CONNECTING, "only a cold start holds RPCs back"
        now = self.helper.clock.now()
        self.held_since = now if self.held_since is None else self.held_since
        assert now - self.held_since <= LONGEST_HOLD + 1e-9

    @invariant()
    def only_wanted_addresses_are_held(self) -> None:
        if self.switch.pending_name is None:
            wanted = {a for e in self.endpoints for a in e.addresses}
            assert {s.address for s in self.helper.live} <= wanted

    @invariant()
    def one_policy_is_left_when_nothing_is_ready(self) -> None:
        assert self.switch.pending_name is None or self.helper.state is READY

    @invariant()
    def connections_are_not_opened_twice(self) -> None:
        if self.switch.pending_name is not None:
            return
        held = [s.address for s in self.helper.live]
        if self.switch.policy_name == "pick_first":
            assert len(held) == len(set(held))
            assert self.helper.state is not READY or len(held) == 1
        else:
            distinct = {e.key for e in self.endpoints}
            assert all(held.count(a) <= sum(a in key for key in distinct) for a in held)

    @invariant()
    def round_robin_leaves_nobody_idle(self) -> None:
        if (self.switch.pending_name, self.switch.policy_name) != (None, "round_robin"):
            return
        shared = [a for e in self.endpoints if len(e.key) > 1 for a in e.addresses]
        for subchannel in self.helper.live:
            if subchannel.address not in shared:
                assert subchannel.state.connectivity is not IDLE

    @invariant()
    def round_robin_uses_all_that_are_ready(self) -> None:
        if self.switch.policy_name != "round_robin" or self.helper.state is not READY:
            return
        if self.switch.pending_name is None:
            ready = [s for s in self.helper.live if s.state.connectivity is READY]
            answers = [self.helper.pick() for _ in ready]
            picked = [a.subchannel for a in answers if isinstance(a, Pick)]
            assert sorted(map(id, picked)) == sorted(map(id, ready)), "each exactly once"

    @invariant()
    def timers_do_not_pile_up(self) -> None:
        assert self.helper.clock.pending <= 3 + 2 * len(self.endpoints) + 2

    def teardown(self) -> None:
        if hasattr(self, "switch"):
            self.switch.close()
            assert self.helper.live == []
            self.helper.clock.advance(10_000)
            assert self.helper.clock.pending == 0


Policies.TestCase.settings = settings(
    max_examples=int(os.environ.get("GRPCLB_EXAMPLES", "125")),
    stateful_step_count=40,
    deadline=None,
)
TestPolicies = pytest.mark.slow(Policies.TestCase)
