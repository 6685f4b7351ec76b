"""From an RPC to a backend, in a caller's thread: pick, confirm, or wait for the next picker."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from time import monotonic
from typing import TypeAlias

import grpc

from grpclb.control.arguments import INVALID_METADATA, check_metadata, legal_metadata
from grpclb.control.attempt_log import AttemptRecord
from grpclb.control.failures import checked_answer, picker_raised, tell
from grpclb.control.picker_slot import Published
from grpclb.control.subchannel import unwrapped
from grpclb.core.balancer import CallOutcome, Drop, Fail, Pick, PickInfo, PickResult
from grpclb.core.connectivity import CONNECTING, IDLE, SHUTDOWN
from grpclb.core.status import Status
from grpclb.sync.engine import Engine
from grpclb.sync.errors import CHANNEL_CLOSED, DroppedFailure, RpcFailure
from grpclb.sync.subchannel import SyncTransport

_STALE_PICKS = range(8)  # picks whose backend turned out not to be ready, before waiting for news
_STALE_WAIT = 0.02  # seconds; the state of a stale backend is being looked at meanwhile
_NEVER_SENT = CallOutcome(grpc.StatusCode.UNAVAILABLE)
# What a picker has answered already: an RPC asks it once, or a policy that drops one in ten would
# drop one in a hundred.
Seen: TypeAlias = tuple[Published, PickResult | None]


def transport_of(pick: Pick) -> SyncTransport:
    """Where a pick leads, through whatever a policy has wrapped around the subchannel."""
    transport: SyncTransport
    try:
        transport = pick.subchannel.connection.transport  # type: ignore[attr-defined]
    except AttributeError:
        transport = unwrapped(pick.subchannel).connection.transport  # type: ignore[assignment]
    return transport


def pick_now(engine: Engine, published: Published, info: PickInfo) -> PickResult | None:
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
        engine.suspect(transport)
    return None


def wait_for_pick(
    engine: Engine,
    info: PickInfo,
    deadline: float | None,
    wait_for_ready: bool | None,
    began: float,
    records: Sequence[AttemptRecord] = (),
    seen: Seen | None = None,
) -> Pick:
    """Block until there is a backend. Raises RpcFailure: no backend, deadline, or closed.

    `began` is when the RPC did, `records` are its attempts so far: for the error at the deadline.
    `seen` is what the picker said to it just now.
    """
    check_metadata(info.metadata)
    if not legal_metadata(info.metadata):
        raise RpcFailure(Status(grpc.StatusCode.INTERNAL, INVALID_METADATA))
    while True:
        if seen is None:
            published = engine.slot.current
            result = pick_now(engine, published, info)
        else:
            (published, result), seen = seen, None
        if type(result) is Pick:
            return result
        failure = failure_of(engine, published, result, wait_for_ready)
        if failure is not None:
            raise failure
        engine.wake()
        _wait(engine, published.generation, deadline, began, records, stale=result is None)


def wait_for_config(
    engine: Engine, timeout: float | None, wait_for_ready: bool | None = None
) -> Published:
    """Block until it is known which service config counts: an answer of the resolver, or none.

    Raises RpcFailure at the deadline. The method config of an RPC comes from the resolver, if it
    has one (gRFC A21), so the RPC waits for it before anything else.
    """
    began = monotonic()
    deadline = None if timeout is None else began + timeout
    while True:
        published = engine.slot.current
        if published.resolved or engine.closed:
            return published
        if published.state not in (IDLE, CONNECTING) and not wait_for_ready:
            return published
        engine.wake()
        _wait(engine, published.generation, deadline, began, stale=False)


def failure_of(
    engine: Engine, published: Published, result: PickResult | None, wait_for_ready: bool | None
) -> RpcFailure | None:
    """The end of an RPC whose pick gave no backend; None: it waits."""
    if published.state is SHUTDOWN or engine.closed:
        return RpcFailure(Status(grpc.StatusCode.CANCELLED, CHANNEL_CLOSED))
    if type(result) is Drop or (type(result) is Fail and not wait_for_ready):
        status = result.status.from_control_plane()
        failure = DroppedFailure if type(result) is Drop else RpcFailure
        return failure(Status(status.code, engine.explain(status)))
    cap = engine.spec.options.knob("grpclb.max_pending_calls")
    if engine.slot.waiting >= cap:
        details = f"{cap} RPCs wait for a backend of {engine.spec.target} already"
        return RpcFailure(Status(grpc.StatusCode.RESOURCE_EXHAUSTED, details))
    return None


def _wait(
    engine: Engine,
    generation: int,
    deadline: float | None,
    began: float,
    records: Sequence[AttemptRecord] = (),
    *,
    stale: bool,
) -> None:
    timeout = None if deadline is None else min(deadline - monotonic(), threading.TIMEOUT_MAX)
    if timeout is not None and not timeout > 0:  # or not a number
        raise RpcFailure(engine.out_of_time(began, records))
    if stale:
        timeout = _STALE_WAIT if timeout is None else min(timeout, _STALE_WAIT)
    event = threading.Event()
    token = engine.slot.wait(generation, event.set)
    try:
        event.wait(timeout)
    finally:
        engine.slot.forget(token)
