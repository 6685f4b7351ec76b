"""Policies that raise, publish nonsense, or speak after close (F43); two policies at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from grpclb.core.balancer import Fail, FixedPicker, PickResult
from grpclb.core.connectivity import CONNECTING, READY, TRANSIENT_FAILURE
from grpclb.core.status import Status
from tests.control.harness import (
    SCRIPTED,
    A,
    B,
    Channel,
    ScriptedPolicy,
    messages,
    turn,
    virtual,
)


@pytest.mark.parametrize("where", ["build", "update"])
@pytest.mark.expect_log("raised in update")
def test_a_policy_that_raises_at_first_fails_rpcs_with_what_it_raised(
    where: str, scripted: ScriptedPolicy
) -> None:
    @virtual
    async def run() -> None:
        scripted.raises = {where}
        channel = await Channel(service_config=SCRIPTED).started()
        assert not channel.update(A)
        assert channel.failure().startswith(
            f"INTERNAL: policy 'scripted' raised RuntimeError: a mistake in {where}"
        )
        scripted.raises = set()
        await asyncio.sleep(1)
        assert channel.update(A)
        scripted.publish(READY)
        assert channel.picks() == {A}

    run()


@pytest.mark.expect_log("raised in update")
@virtual
async def test_a_policy_that_raises_later_keeps_what_it_published(
    scripted: ScriptedPolicy, caplog: pytest.LogCaptureFixture
) -> None:
    channel = await Channel(service_config=SCRIPTED).started()
    channel.update(A)
    scripted.publish(READY)
    scripted.raises = {"update"}
    for _ in range(600):
        await asyncio.sleep(0.1)
        channel.update(B)
    assert channel.picks() == {A}
    assert len(messages(caplog)) <= 2, "one line a minute"


@pytest.mark.expect_log("raised in a subchannel's on_state")
@virtual
async def test_a_policy_that_raises_in_on_state(
    scripted: ScriptedPolicy, caplog: pytest.LogCaptureFixture
) -> None:
    channel = await Channel(service_config=SCRIPTED).started()
    scripted.raises = {"on_state"}
    channel.update(A, B)
    for _ in range(100):
        for transport in channel.transports:
            transport.connection.report(READY)
            transport.connection.report(CONNECTING)
    assert channel.failure().startswith(
        "INTERNAL: test:///api: the policy 'scripted' raised in a subchannel's on_state: "
        "RuntimeError: a mistake in on_state"
    )
    assert len(messages(caplog)) == 1
    assert caplog.records[0].exc_info is not None


@pytest.mark.expect_log(r"raised in exit_idle\(\)")
@virtual
async def test_a_policy_that_raises_in_exit_idle(scripted: ScriptedPolicy) -> None:
    channel = await Channel(service_config=SCRIPTED).started()
    channel.update(A)
    scripted.publish(READY)
    scripted.raises = {"exit_idle"}
    channel.core.exit_idle()
    assert channel.picks() == {A}


@pytest.mark.expect_log(r"raised in close\(\)")
@virtual
async def test_a_policy_that_raises_in_close_leaks_nothing(scripted: ScriptedPolicy) -> None:
    channel = await Channel(service_config=SCRIPTED).started()
    channel.update(A)
    scripted.raises = {"close"}
    channel.core.close()
    assert channel.state == "SHUTDOWN"
    assert channel.transport(A).closes == 1


@virtual
async def test_a_policy_s_late_voice_is_not_heard(scripted: ScriptedPolicy) -> None:
    """A timer that it forgot to cancel fires after close."""
    channel = await Channel(service_config=SCRIPTED).started()
    channel.update(A)
    helper = scripted.helpers[-1]
    heard: list[Any] = []
    channel.core.close()
    helper.update_picker(READY, FixedPicker(Fail(Status.unavailable("late"))))
    helper.request_resolution()
    address = channel.transports[0].connection.address
    helper.create_subchannel(address, heard.append).connect()
    await asyncio.sleep(1)
    assert channel.state == "SHUTDOWN"
    assert (len(channel.transports), channel.resolver.hints, heard) == (1, 0, [])


@pytest.mark.expect_log("raised in a timer")
@virtual
async def test_a_policy_that_raises_in_a_timer_keeps_what_it_published(
    scripted: ScriptedPolicy, caplog: pytest.LogCaptureFixture
) -> None:
    channel = await Channel(service_config=SCRIPTED).started()
    channel.update(A)
    scripted.publish(READY)
    ran: list[int] = []

    def mistake() -> None:
        ran.append(1)
        raise ZeroDivisionError("a mistake in a timer")

    clock = scripted.helpers[-1].clock
    for delay in (0, 0.1, 0.2):
        clock.call_later(delay, mistake)
    clock.call_later(0.1, mistake).cancel()
    await asyncio.sleep(1)
    assert len(ran) == 3
    assert channel.picks() == {A}
    assert [r.name for r in caplog.records] == ["grpclb.channel"], "one line a minute, and ours"
    assert caplog.records[0].exc_info is not None
    assert "ZeroDivisionError: a mistake in a timer" in caplog.messages[0]


@virtual
async def test_two_policies_share_a_connection_while_one_replaces_the_other(
    scripted: ScriptedPolicy, register: Callable[[ScriptedPolicy], ScriptedPolicy]
) -> None:
    second = register(ScriptedPolicy("second"))
    channel = await Channel(service_config=SCRIPTED).started()
    await channel.up(A)
    scripted.publish(READY)
    channel.update(A, B, service_config={"loadBalancingConfig": [{"second": {}}]})
    assert channel.core.ready_count == (1, 2)
    assert [str(t.connection.address) for t in channel.transports] == [A, B]
    second.publish(READY)
    await turn()
    assert scripted.closed == 1
    channel.ready(B)
    assert [s.connectivity.name for s in second.states][-1] == "READY"
    assert channel.core.ready_count == (2, 2)


@virtual
async def test_published_nonsense_is_the_policy_s_mistake(scripted: ScriptedPolicy) -> None:
    """What a picker returns is judged where it is picked: see test_failures."""
    channel = await Channel(service_config=SCRIPTED).started()
    channel.update(A)
    scripted.helpers[-1].update_picker(TRANSIENT_FAILURE, _Raising())
    with pytest.raises(ZeroDivisionError):
        channel.pick()


class _Raising:
    def pick(self, info: object) -> PickResult:
        raise ZeroDivisionError
