"""graceful_switch beyond the scenarios: policies that misbehave."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from grpclb.core.address import Address
from grpclb.core.balancer import Fail, FixedPicker, Helper, LoadBalancer, Pick, PolicyConfig
from grpclb.core.connectivity import CONNECTING, READY, TRANSIENT_FAILURE
from grpclb.core.resolver import ResolverState
from grpclb.core.status import Status
from grpclb.policies.graceful_switch import GracefulSwitch
from grpclb.policies.round_robin import ROUND_ROBIN
from grpclb.testing import FakeHelper

STATE = ResolverState.of(["10.0.0.1:1"])
GOOD = PolicyConfig(ROUND_ROBIN, ROUND_ROBIN.parse_config({}))


class Scripted:
    """A policy, and the one balancer that it builds, whose calls can be made to raise."""

    def __init__(self, name: str = "scripted", raises: str = "") -> None:
        self.name = name
        self.raises = raises
        self.helper: Helper | None = None
        self.closed = 0

    def parse_config(self, raw: Mapping[str, Any]) -> object:
        return None

    def build(self, helper: Helper) -> LoadBalancer:
        self._maybe("build")
        self.helper = helper
        return self

    def update(self, state: ResolverState, config: object) -> bool:
        self._maybe("update")
        return True

    def exit_idle(self) -> None:
        self._maybe("exit_idle")

    def close(self) -> None:
        self.closed += 1
        self._maybe("close")

    def _maybe(self, call: str) -> None:
        if call == self.raises:
            raise KeyError("a slip")


def serving_round_robin() -> tuple[FakeHelper, GracefulSwitch]:
    helper = FakeHelper()
    switch = GracefulSwitch(helper)
    switch.update(STATE, GOOD)
    helper.live[0].set(READY)
    helper.clock.advance(0)
    assert helper.state is READY
    return helper, switch


@pytest.mark.expect_log(r"policy scripted raised in update\(\)")
@pytest.mark.parametrize("call", ["build", "update"])
def test_a_policy_that_raises_leaves_the_one_before_in_place(
    call: str, caplog: pytest.LogCaptureFixture
) -> None:
    helper, switch = serving_round_robin()
    assert not switch.update(STATE, PolicyConfig(Scripted(raises=call), None))
    helper.clock.advance(0)
    assert isinstance(helper.pick(), Pick)
    assert (switch.policy_name, switch.pending_name) == ("round_robin", None)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("grpclb.policy", logging.ERROR)
    assert switch.update(STATE, GOOD)


@pytest.mark.expect_log(r"policy scripted raised in update\(\)")
@pytest.mark.parametrize("call", ["build", "update"])
def test_a_first_policy_that_raises_fails_rpcs_with_what_it_raised(
    call: str, caplog: pytest.LogCaptureFixture
) -> None:
    helper = FakeHelper()
    switch = GracefulSwitch(helper)
    policy = Scripted(raises=call)
    assert not switch.update(STATE, PolicyConfig(policy, None))
    assert helper.state is TRANSIENT_FAILURE
    result = helper.pick()
    assert isinstance(result, Fail)
    assert str(result.status) == "INTERNAL: policy 'scripted' raised KeyError: 'a slip'"
    assert caplog.records
    policy.raises = ""
    assert switch.update(STATE, PolicyConfig(policy, None)), "it gets another chance"


def test_a_policy_that_always_raises_is_logged_once_a_minute(
    expect_log: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    expect_log("raised in update")
    helper, switch = serving_round_robin()
    for _ in range(130):
        switch.update(STATE, PolicyConfig(Scripted(raises="update"), None))
        helper.clock.advance(1)
    assert len(caplog.records) == 3


@pytest.mark.expect_log(r"raised in close\(\)")
def test_a_policy_that_raises_in_close_spoils_nothing(caplog: pytest.LogCaptureFixture) -> None:
    helper = FakeHelper()
    switch = GracefulSwitch(helper)
    switch.update(STATE, PolicyConfig(Scripted(raises="close"), None))
    switch.update(STATE, GOOD)
    helper.live[0].set(READY)
    helper.clock.advance(0)
    assert helper.state is READY
    assert "raised in close()" in caplog.text


def test_a_policy_that_was_replaced_is_not_heard_any_more() -> None:
    helper = FakeHelper()
    switch = GracefulSwitch(helper)
    old = Scripted()
    switch.update(STATE, PolicyConfig(old, None))
    switch.update(STATE, GOOD)
    helper.clock.advance(0)
    assert old.closed == 1
    published, requests = len(helper.states), helper.resolution_requests
    assert old.helper is not None
    old.helper.update_picker(TRANSIENT_FAILURE, FixedPicker(Fail(Status.unavailable("ghost"))))
    old.helper.request_resolution()
    assert (len(helper.states), helper.resolution_requests) == (published, requests)


def test_a_policy_is_not_closed_in_the_middle_of_its_own_call() -> None:
    """The old policy leaves READY, which brings in the new one: it is closed a turn later."""
    helper = FakeHelper()
    switch = GracefulSwitch(helper)
    old = Scripted()
    switch.update(STATE, PolicyConfig(old, None))
    assert old.helper is not None
    subchannel = old.helper.create_subchannel(Address.parse("10.0.0.9:1"), lambda state: None)
    old.helper.update_picker(READY, FixedPicker(Pick(subchannel)))
    switch.update(STATE, GOOD)
    assert switch.pending_name == "round_robin"
    old.helper.update_picker(CONNECTING, FixedPicker(Pick(subchannel)))
    assert switch.policy_name == "round_robin"
    assert old.closed == 0
    helper.clock.advance(0)
    assert old.closed == 1


def test_a_balancer_of_another_name_is_wanted_by_its_config_only() -> None:
    helper = FakeHelper()
    with pytest.raises(TypeError, match="PolicyConfig"):
        GracefulSwitch(helper).update(STATE, None)
