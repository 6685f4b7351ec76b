"""From an RPC to a backend, on the channel's loop: pick, confirm, or wait for the next picker."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import TypeAlias

import grpc

from grpclb.aio.engine import Engine
from grpclb.aio.errors import CHANNEL_CLOSED
from grpclb.aio.subchannel import AioTransport
from grpclb.control.attempt_log import AttemptRecord
from grpclb.control.failures import checked_answer, picker_raised, tell
from grpclb.control.picker_slot import Published
from grpclb.control.subchannel import unwrapped
from grpclb.core.balancer import NO_ATTRIBUTES, CallOutcome, Drop, Fail, Pick, PickInfo, PickResult
from grpclb.core.connectivity import SHUTDOWN
from grpclb.core.status import Status

_STALE_PICKS = range(8)  # picks whose backend turned out not to be ready, before waiting for news
_STALE_WAIT = 0.02  # seconds; the state of a stale backend is being looked at meanwhile
_NEVER_SENT = CallOutcome(grpc.StatusCode.UNAVAILABLE)
# What a picker has answered already: an RPC asks it once, or a policy that drops one in ten would
# drop one in a hundred.
Seen: TypeAlias = tuple[Published, PickResult | None]


class Unselected:
    """There is a config, or a config selector, that the RPC has not been asked for yet."""


class DroppedStatus(Status):
    """The status of a policy's Drop: never retried."""


def transport_of(pick: Pick) -> AioTransport:
    """Where a pick leads, through whatever a policy has wrapped around the subchannel."""
    transport: AioTransport
    try:
        transport = pick.subchannel.connection.transport  # type: ignore[attr-defined]
    except AttributeError:
        transport = unwrapped(pick.subchannel).connection.transport  # type: ignore[assignment]
    return transport


def pick_now(published: Published, info: PickInfo) -> PickResult | None:
    """One decision of the picker, confirmed by the backend's own state; None: only stale ones.

    An RPC given to a channel that is connecting would be queued inside C-core, where it cannot
    be taken back; so the state is read once more just before.
    """
    for _ in _STALE_PICKS:
        try:
            result = published.picker.pick(info)
            if type(result) is not Pick:
                return checked_answer(result)
            transport = transport_of(result)
        except Exception as error:
            return picker_raised(error)
        if transport.ready():
            return result
        tell(result, _NEVER_SENT)
        asyncio.get_running_loop().call_soon(transport.check)
    return None


async def wait_for_pick(
    engine: Engine,
    info: PickInfo,
    deadline: float | None,
    wait_for_ready: bool | None,
    began: float,
    records: Sequence[AttemptRecord] = (),
    seen: Seen | None = None,
    cold: bool = False,
) -> Pick | Status | Unselected:
    """A backend, once there is one; or the status with which the RPC ends without.

    `began` is when the RPC did, `records` are its attempts so far: for the error at the deadline.
    `seen` is what the picker said to it just now. `cold`: it began before a config was known.
    """
    while True:
        published = engine.slot.current
        if published.selector is not None and info.attributes is NO_ATTRIBUTES:
            return Unselected()
        if cold and published.resolved:
            return Unselected()
        if seen is None:
            result = pick_now(published, info)
        else:
            (published, result), seen = seen, None
        if type(result) is Pick:
            return result
        failure = failure_of(engine, published, result, wait_for_ready)
        if failure is not None:
            return failure
        engine.wake()
        timeout = None if deadline is None else deadline - monotonic()
        if timeout is not None and not timeout > 0:  # or not a number
            return engine.out_of_time(began, records)
        await _wait(engine, published.generation, timeout, stale=result is None)


def failure_of(
    engine: Engine, published: Published, result: PickResult | None, wait_for_ready: bool | None
) -> Status | None:
    """The end of an RPC whose pick gave no backend; None: it waits."""
    if published.state is SHUTDOWN or engine.ended:
        return Status(grpc.StatusCode.CANCELLED, CHANNEL_CLOSED)
    if type(result) is Drop or (type(result) is Fail and not wait_for_ready):
        status = result.status.from_control_plane()
        failure = DroppedStatus if type(result) is Drop else Status
        return failure(status.code, engine.explain(status))
    cap = engine.spec.options.knob("grpclb.max_pending_calls")
    if engine.slot.waiting >= cap:
        details = f"{cap} RPCs wait for a backend of {engine.spec.target} already"
        return Status(grpc.StatusCode.RESOURCE_EXHAUSTED, details)
    return None


async def _wait(engine: Engine, generation: int, timeout: float | None, *, stale: bool) -> None:
    if stale:
        timeout = _STALE_WAIT if timeout is None else min(timeout, _STALE_WAIT)
    news: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake() -> None:
        if not news.done():
            news.set_result(None)

    token = engine.slot.wait(generation, wake)
    try:
        await asyncio.wait((news,), timeout=timeout)
    finally:
        engine.slot.forget(token)
        news.cancel()
