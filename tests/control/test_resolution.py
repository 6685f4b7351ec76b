"""What a channel makes of what its resolver says, however it says it; on virtual time."""

from __future__ import annotations

import asyncio
import logging

import pytest
from grpc import StatusCode

from grpclb.core.resolver import ResolverState
from grpclb.core.status import Status
from tests.control.harness import (
    A,
    B,
    C,
    Channel,
    ScriptedPolicy,
    address,
    lists,
    messages,
    scripted_channel,
    virtual,
)

# -- coalescing --------------------------------------------------------------------------------


@virtual
async def test_the_first_update_is_taken_at_once(scripted: ScriptedPolicy) -> None:
    channel = await scripted_channel()
    assert channel.update(A)
    assert lists(scripted) == [[A]]


@virtual
async def test_later_updates_are_joined_and_the_last_one_counts(scripted: ScriptedPolicy) -> None:
    channel = await scripted_channel()
    for addresses in ([A], [A, B], [B], [C]):
        assert channel.update(*addresses)
    await asyncio.sleep(0.099)
    assert lists(scripted) == [[A]]
    await asyncio.sleep(0.002)
    assert lists(scripted) == [[A], [C]]


@pytest.mark.expect_log("the source went away")
@virtual
async def test_a_failure_does_not_displace_the_list_that_waits(scripted: ScriptedPolicy) -> None:
    channel = await scripted_channel()
    channel.update(A)
    channel.update(B)
    channel.fail("the source went away")
    await asyncio.sleep(0.2)
    assert lists(scripted) == [[A], [B]]
    assert "the source went away" in channel.core.resolution.snapshot(0)["last_error"]


@virtual
async def test_after_a_pause_an_update_is_taken_at_once_again(scripted: ScriptedPolicy) -> None:
    channel = await scripted_channel()
    channel.update(A)
    await asyncio.sleep(0.1)
    channel.update(B)
    assert lists(scripted) == [[A], [B]]


@virtual
async def test_a_storm_costs_sixty_updates_and_ends_exactly(scripted: ScriptedPolicy) -> None:
    """FIGURES F26: 5,000 puts on 500 keys in 5 s."""
    channel = await scripted_channel()
    for number in range(5_000):
        channel.update(address(number % 500))
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.2)
    assert len(scripted.updates) <= 60
    assert lists(scripted)[-1] == [address(4_999 % 500)]
    assert channel.core.resolution.snapshot(0)["updates"] == len(scripted.updates)


@virtual
async def test_the_pause_is_an_option(scripted: ScriptedPolicy) -> None:
    channel = await scripted_channel(update_coalescing_ms=0)
    for addresses in ([A], [B], [C]):
        channel.update(*addresses)
    assert lists(scripted) == [[A], [B], [C]]


@pytest.mark.expect_log("no endpoints|down")
@virtual
async def test_a_joined_update_that_is_rejected_asks_the_resolver_again(
    scripted: ScriptedPolicy,
) -> None:
    channel = await scripted_channel()
    channel.update(A)
    assert channel.update()  # an empty list: no answer yet, so "accepted"
    await asyncio.sleep(0.2)
    assert channel.resolver.hints == 1
    channel.update(A)
    channel.fail("down")  # the resolver knows that itself
    await asyncio.sleep(0.2)
    assert channel.resolver.hints == 1


# -- errors and empty lists ----------------------------------------------------------------------


@pytest.mark.expect_log("SERVFAIL")
@virtual
async def test_an_error_keeps_the_good_list() -> None:
    channel = await Channel().started()
    await channel.up(A, B)
    assert not channel.fail("dns: SERVFAIL from 10.0.0.53")
    await asyncio.sleep(1000)
    assert channel.picks() == {A, B}
    seen = channel.core.snapshot()["resolver"]
    assert seen["last_error"] == "UNAVAILABLE: dns: SERVFAIL from 10.0.0.53"
    assert [e["addresses"] for e in seen["endpoints"]] == [[A], [B]]


@pytest.mark.expect_log("SERVFAIL|NXDOMAIN")
@virtual
async def test_an_error_before_any_list_fails_rpcs_with_its_reason() -> None:
    channel = await Channel().started()
    assert not channel.fail("dns: SERVFAIL from 10.0.0.53")
    assert channel.state == "TRANSIENT_FAILURE"
    assert channel.failure() == "UNAVAILABLE: dns: SERVFAIL from 10.0.0.53"
    await asyncio.sleep(1)
    channel.fail("dns: NXDOMAIN")
    assert channel.failure() == "UNAVAILABLE: dns: NXDOMAIN"


@pytest.mark.expect_log("no such thing")
@virtual
async def test_an_error_with_a_code_of_the_application_s_becomes_internal() -> None:
    """gRFC A54."""
    channel = await Channel().started()
    channel.resolver.update(ResolverState(Status(StatusCode.NOT_FOUND, "no such thing")))
    assert channel.failure() == (
        "INTERNAL: Illegal status code from control plane: NOT_FOUND: no such thing"
    )


@virtual
async def test_an_empty_list_is_believed() -> None:
    channel = await Channel().started()
    assert not channel.update(note="kubernetes: 0 of 0 endpoints")
    assert channel.state == "TRANSIENT_FAILURE"
    assert channel.failure() == (
        "UNAVAILABLE: round_robin: the resolver found no endpoints; "
        "kubernetes: 0 of 0 endpoints 0.0 s ago"
    )


@pytest.mark.expect_log("no endpoints")
@virtual
async def test_an_empty_list_replaces_a_good_one(caplog: pytest.LogCaptureFixture) -> None:
    channel = await Channel().started()
    await channel.up(A)
    assert not channel.update()
    assert channel.state == "TRANSIENT_FAILURE"
    assert messages(caplog) == ["test:///api: the resolver says that there are no endpoints"]
    await asyncio.sleep(60)
    assert channel.transport(A).closes == 1


@pytest.mark.expect_log("SERVFAIL|NXDOMAIN")
@virtual
async def test_a_change_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "grpclb.resolver")
    channel = await Channel().started()
    await channel.up(A)
    for details in ("SERVFAIL", "SERVFAIL", "NXDOMAIN", "NXDOMAIN"):
        channel.fail(details)
        await asyncio.sleep(1)
    channel.update(A, note="1 address")
    assert messages(caplog, logging.INFO) == [
        "test:///api: SERVFAIL; the last good list stays in use",
        "test:///api: NXDOMAIN; the last good list stays in use",
        "test:///api: resolved again: 1 address",
    ]


@pytest.mark.expect_log("down")
@virtual
async def test_a_flapping_resolver_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    channel = await Channel().started()
    for number in range(3_000):  # 5 minutes
        channel.fail(f"down {number % 2}")
        await asyncio.sleep(0.1)
        channel.update(A)
        await asyncio.sleep(0.1)
    assert len(messages(caplog)) <= 2 * 11


@pytest.mark.expect_log("dns: NXDOMAIN")
@virtual
async def test_a_name_that_is_gone_for_five_minutes_is_let_go() -> None:
    """FIGURES S3: its addresses may by now be somebody else's."""
    channel = await Channel().started()
    await channel.up(A)
    for _ in range(29):
        channel.fail("dns: NXDOMAIN", **{"dns.negative": True})
        await asyncio.sleep(10)
    assert channel.picks() == {A}
    await asyncio.sleep(10)
    channel.fail("dns: NXDOMAIN", **{"dns.negative": True})
    await asyncio.sleep(6)
    assert channel.transport(A).closes == 1
    assert channel.failure() == "UNAVAILABLE: dns: NXDOMAIN"
    assert channel.core.snapshot()["resolver"]["endpoints"] == []


@pytest.mark.expect_log("dns: ")
@virtual
async def test_only_an_unbroken_row_of_negative_answers_counts() -> None:
    channel = await Channel().started()
    await channel.up(A)
    for _ in range(3):
        channel.fail("dns: NXDOMAIN", **{"dns.negative": True})
        await asyncio.sleep(299)
        channel.fail("dns: SERVFAIL")
        await asyncio.sleep(1)
    channel.fail("dns: NXDOMAIN", **{"dns.negative": True})
    await asyncio.sleep(299)
    channel.update(A)
    await asyncio.sleep(1)
    channel.fail("dns: NXDOMAIN", **{"dns.negative": True})
    await asyncio.sleep(10)
    assert channel.picks() == {A}


# -- lists that are too long -----------------------------------------------------------------------


@virtual
async def test_of_a_long_list_a_stable_subset_is_used(scripted: ScriptedPolicy) -> None:
    channel = await scripted_channel(subset_size=10)
    everyone = [address(n) for n in range(100)]
    channel.update(*everyone)
    first = set(lists(scripted)[-1])
    assert len(first) == 10
    await asyncio.sleep(1)
    channel.update(*reversed(everyone))
    assert set(lists(scripted)[-1]) == first
    await asyncio.sleep(1)
    gone = min(first)
    channel.update(*(a for a in everyone if a != gone))
    second = set(lists(scripted)[-1])
    assert len(second) == 10
    assert first - second == {gone}


@virtual
async def test_a_list_up_to_twice_the_subset_is_used_whole(scripted: ScriptedPolicy) -> None:
    channel = await scripted_channel(subset_size=10)
    channel.update(*(address(n) for n in range(20)))
    assert len(lists(scripted)[-1]) == 20


@virtual
async def test_channels_choose_different_subsets(scripted: ScriptedPolicy) -> None:
    for _ in range(3):
        channel = await scripted_channel(subset_size=10)
        channel.update(*(address(n) for n in range(100)))
    chosen = [frozenset(each) for each in lists(scripted)]
    assert len(set(chosen)) == 3
