"""A resolver's config selector on its way to RPCs; on virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from grpc import StatusCode

from grpclb.control.picker_slot import PickerSlot
from grpclb.control.selecting import select
from grpclb.core.balancer import NO_ATTRIBUTES, Fail, PickInfo
from grpclb.core.config_selector import OUTDATED, Outdated, Selected, Selection, SelectResult
from grpclb.core.connectivity import CONNECTING, READY
from grpclb.core.resolver import ResolverState
from grpclb.core.status import Status
from tests.control.harness import (
    SCRIPTED,
    A,
    B,
    Channel,
    Script,
    ScriptedPolicy,
    address,
    lists,
    scripted_channel,
    virtual,
)

INFO = PickInfo("/s/m")


class Says:
    """A selector with one answer."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = Selected() if answer is None else answer

    def select(self, info: PickInfo) -> SelectResult:
        if isinstance(self.answer, Exception):
            raise self.answer
        result: SelectResult = self.answer
        return result


@virtual
async def test_a_selector_is_published_with_the_first_picker_of_its_state(
    scripted: ScriptedPolicy,
) -> None:
    channel = Channel(None, (), SCRIPTED)
    seen: list[Any] = []

    class Recording(PickerSlot):
        def publish(self, *args: Any, **more: Any) -> None:
            seen.append(more["selector"])
            super().publish(*args, **more)

    channel.core.slot = Recording()
    await channel.started()
    one, two = Says(), Says()
    channel.update(A, config_selector=one)
    scripted.publish(CONNECTING)
    assert seen[-1] is one
    await asyncio.sleep(1)
    update = scripted.update

    def updating(state: ResolverState, config: object) -> bool:
        scripted.publish(READY)
        return update(state, config)

    scripted.update = updating  # type: ignore[method-assign]
    seen.clear()
    channel.update(A, B, config_selector=two)
    assert seen == [two], "from within the update, and not once more after it"
    assert channel.core.slot.current.selector is two


@pytest.mark.expect_log("SERVFAIL")
@virtual
async def test_a_failed_resolution_keeps_the_selector() -> None:
    channel = await Channel().started()
    selector = Says()
    await channel.up(A, config_selector=selector)
    channel.fail("SERVFAIL")
    assert channel.slot.current.selector is selector
    channel.update(B)
    await asyncio.sleep(1)
    assert channel.slot.current.selector is None, "the resolver took it back"


@virtual
async def test_a_channel_that_falls_asleep_forgets_its_selector() -> None:
    channel = await Channel(options=[("grpc.client_idle_timeout_ms", 1000)]).started()
    await channel.up(A, config_selector=Says())
    assert channel.slot.current.resolved
    await asyncio.sleep(5)
    assert channel.state == "IDLE"
    assert channel.slot.current.selector is None
    assert not channel.slot.current.resolved, "RPCs wait for the next one"


@virtual
async def test_a_list_that_rpcs_are_routed_within_is_never_cut(scripted: ScriptedPolicy) -> None:
    channel = await scripted_channel(subset_size=10)
    channel.update(*(address(n) for n in range(100)), config_selector=Says())
    assert len(lists(scripted)[-1]) == 100


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (Fail(Status.unavailable("no route")), StatusCode.UNAVAILABLE, "no route"),
        (Fail(Status(StatusCode.ABORTED, "x")), StatusCode.INTERNAL, "ABORTED: x"),
        (KeyError("a slip"), StatusCode.INTERNAL, "config selector raised KeyError: 'a slip'"),
        (OUTDATED, StatusCode.INTERNAL, "config selector returned Outdated"),
        ("yes", StatusCode.INTERNAL, "config selector returned str"),
    ],
)
def test_what_ends_an_rpc(answer: Any, code: StatusCode, said: str) -> None:
    @virtual
    async def run() -> None:
        channel = await Channel().started()
        await channel.up(A, config_selector=Says(answer))
        status = select(channel.slot, channel.slot.current, INFO)
        assert isinstance(status, Status)
        assert (status.code, said in status.details) == (code, True), status

    run()


@virtual
async def test_a_selector_that_was_replaced_says_nothing() -> None:
    channel = await Channel().started()
    await channel.up(A, config_selector=Says(Outdated()))
    before = channel.slot.current
    await channel.up(A, config_selector=Says())
    assert select(channel.slot, before, INFO) is None
    assert isinstance(select(channel.slot, channel.slot.current, INFO), Selection)


def test_a_selection_tells_once_and_is_told_apart_from_none() -> None:
    told: list[int] = []
    selection = Selection(Selected(on_committed=lambda: told.append(1)))
    assert selection.attributes == {}
    assert selection.attributes is not NO_ATTRIBUTES
    selection.release()
    selection.release()
    assert told == [1]
    dropped = Selection(Selected(on_committed=lambda: told.append(2)))
    del dropped
    assert told == [1, 2]


@pytest.mark.expect_log(r"snapshot\(\) raised")
@virtual
async def test_the_snapshot_has_what_a_resolver_says_of_itself() -> None:
    class Talks(Script):
        said: Any = {"resources": [{"name": "a", "at": object}]}  # noqa: RUF012

        def snapshot(self) -> Any:
            if self.said is None:
                raise KeyError("a slip")
            return self.said

    resolver = Talks()
    channel = await Channel(resolver).started()
    await channel.up(A)
    details = channel.core.snapshot()["resolver"]["details"]
    assert details == {"resources": [{"name": "a", "at": "<class 'object'>"}]}
    for said in ("junk", None):
        resolver.said = said
        assert channel.core.snapshot()["resolver"]["details"] == {}
