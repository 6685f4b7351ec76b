"""Which service config counts: the resolver's, the last good one, the default; on virtual time."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from grpclb.core.connectivity import READY
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


def timeout_of(channel: Channel) -> float | None:
    config = channel.slot.current.config.method_config("/test.Service/Method")
    return config.applied(None, None)[0]


def config(seconds: float) -> dict[str, Any]:
    return {"methodConfig": [{"name": [{}], "timeout": f"{seconds}s"}]}


@virtual
async def test_the_resolver_s_config_replaces_the_default() -> None:
    """gRFC A21."""
    channel = await Channel(service_config=config(1)).started()
    assert timeout_of(channel) == 1
    await channel.up(A)
    assert timeout_of(channel) == 1
    assert channel.core.snapshot()["resolver"]["service_config_source"] == "default"
    channel.update(A, service_config=config(2))
    assert timeout_of(channel) == 2
    seen = channel.core.snapshot()["resolver"]
    assert (seen["service_config"], seen["service_config_source"]) == (config(2), "resolver")
    await asyncio.sleep(1)
    channel.update(A)  # none any more: the default again
    assert timeout_of(channel) == 1


@pytest.mark.expect_log(r"service config is not used")
@virtual
async def test_a_bad_config_keeps_the_good_one_and_takes_the_endpoints(
    caplog: pytest.LogCaptureFixture,
) -> None:
    channel = await Channel(service_config=config(1)).started()
    await channel.up(A, service_config=config(2))
    bad = {"methodConfig": [{"name": [{}], "timeout": "soon"}]}
    assert channel.update(A, B, service_config=bad)
    assert timeout_of(channel) == 2
    await asyncio.sleep(0)
    channel.ready(B)
    await asyncio.sleep(0.2)
    assert channel.picks() == {A, B}
    (text,) = messages(caplog)
    assert text.startswith(
        "test:///api: the resolver's service config is not used: "
        "service config: $.methodConfig[0].timeout: "
    )


@pytest.mark.expect_log("service config is not used")
@virtual
async def test_a_bad_config_at_first_gives_way_to_the_default() -> None:
    channel = await Channel(service_config=config(1)).started()
    await channel.up(A, service_config="{")
    assert timeout_of(channel) == 1
    assert channel.picks() == {A}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("{", "test:///api: service config: $: not JSON"),
        (7, "test:///api: service config: $: expected a dict or JSON text, got 7"),
        (Status.unavailable("_grpc_config: SERVFAIL"), "test:///api: _grpc_config: SERVFAIL"),
        (
            {"loadBalancingConfig": [{"nope": {}}]},
            'test:///api: service config: $.loadBalancingConfig: no known policy in "nope"',
        ),
    ],
)
@pytest.mark.expect_log("service config is not used")
def test_a_bad_config_without_a_good_one_fails_rpcs(given: Any, reason: str) -> None:
    @virtual
    async def run() -> None:
        channel = await Channel().started()
        assert not channel.update(A, service_config=given)
        assert channel.failure().startswith(f"UNAVAILABLE: {reason}")

    run()


@virtual
async def test_fields_that_nothing_reads_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """At a level that disturbs nobody: by the rules of gRPC they are no mistake."""
    caplog.set_level(logging.INFO, "grpclb.channel")
    said = "test:///api: nothing reads these fields of the service config: "
    channel = await Channel(service_config={"loadBalancingConfg": [{"x": {}}]}).started()
    assert messages(caplog, logging.INFO) == [said + "$.loadBalancingConfg"]
    assert channel.core.snapshot()["resolver"]["service_config_ignored"] == ["$.loadBalancingConfg"]
    caplog.clear()
    odd: dict[str, Any] = {"methodConfig": [{"name": [{}], "timeOut": "1s", "retryPolicy": None}]}
    for more in ({}, {}, {"a b": 1}, {"a b": 2}):
        channel.update(A, service_config={**odd, **more})
        await asyncio.sleep(1)
    assert messages(caplog, logging.INFO) == [
        said + "$.methodConfig[0].timeOut",
        said + '$["a b"], $.methodConfig[0].timeOut',
    ]
    assert {record.levelname for record in caplog.records} == {"INFO"}


@virtual
async def test_an_equal_config_is_no_change() -> None:
    channel = await Channel().started()
    await channel.up(A, service_config=config(2))
    before = channel.slot.current.config
    channel.update(A, service_config='{"methodConfig":[{"timeout":"2.0s","name":[{}]}]}')
    assert channel.slot.current.config is before


@virtual
async def test_another_policy_takes_over_without_a_gap(scripted: ScriptedPolicy) -> None:
    channel = await Channel().started()
    await channel.up(A)
    channel.update(A, service_config=SCRIPTED)
    assert channel.picks() == {A}
    assert len(channel.transports) == 1  # the new policy holds the same connection
    assert channel.core.policy_name == "scripted"
    await turn()
    assert [s.connectivity.name for s in scripted.states] == ["READY"]
    scripted.publish(READY)
    await asyncio.sleep(60)
    assert channel.picks() == {A}
    assert channel.transports[0].closes == 0


@virtual
async def test_a_health_check_that_comes_or_goes_makes_new_connections() -> None:
    checked = {"healthCheckConfig": {"serviceName": "s"}}
    channel = await Channel().started()
    await channel.up(A)
    old = channel.transport(A)
    assert old.connection.args is None
    channel.update(A, service_config=checked)
    await turn()
    new = channel.transport(A)
    assert new is not old
    assert '"healthCheckConfig": {"serviceName": "s"}' in str(new.connection.args)
    assert channel.picks() == {A}
    assert new.connection.state.connectivity.name == "CONNECTING"  # so it is the old one still
    new.connection.report(READY)
    await asyncio.sleep(6)
    assert [t.closes for t in channel.transports] == [1, 0]
    assert channel.picks() == {A}
    channel.update(A)
    await turn()
    assert channel.transport(A).connection.args is None
