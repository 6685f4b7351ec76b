"""What became of an RPC's attempts, for the caller to see."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import grpc
import grpc.aio
from grpc import StatusCode

_ATTRIBUTE = "_grpclb_attempts"
# Errors of any kind: a cancelled RPC raises that of asyncio, or grpcio's own for futures.
_OF_RPCS = (grpc.RpcContext, grpc.Future, grpc.aio.RpcContext, BaseException)
_NOTABLE = 0.005  # seconds; shorter pauses are no backoff, and no resolution


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One attempt of an RPC: where it went, how it ended, and how long it took.

    `backend` is the address, None if there was none to send it to. `code` is None while the
    attempt runs. `seconds` are counted from the pick. `details` are those of the status. `begun`
    is how many seconds after the RPC itself it began.
    """

    backend: str | None
    code: StatusCode | None
    seconds: float
    details: str = ""
    begun: float = 0.0


class HedgedRecords(list[AttemptRecord]):
    """Those of a hedged RPC: what lies between two of them is no backoff."""


def in_order(records: Iterable[AttemptRecord]) -> tuple[AttemptRecord, ...]:
    """Oldest first: hedged attempts do not end in the order in which they began."""
    return tuple(sorted(records, key=attrgetter("begun")))


def attach(call_or_error: Any, records: tuple[AttemptRecord, ...]) -> None:
    """Let `attempts` find these records on grpcio's own object."""
    setattr(call_or_error, _ATTRIBUTE, records)


def attempts(call_or_error: Any) -> tuple[AttemptRecord, ...]:
    """The attempts of an RPC, oldest first, those that were called off with code CANCELLED.

    The one that answered is the one with code OK, or with the code of the error. Where the RPC is
    retried, that is the last one; a hedged RPC may be answered by any.

    Takes a call object or the error that an RPC raised, sync or aio. Empty for those that are not
    of a grpclb channel, and for RPCs of a method that has no retry or hedging policy, however they
    end: nobody counts those. Raises TypeError for anything else, such as a response. Any thread.
    """
    found = getattr(call_or_error, _ATTRIBUTE, None)
    if found is None:
        if not isinstance(call_or_error, _OF_RPCS):
            raise TypeError(
                "attempts() takes the call (of with_call, future(), a stream or an aio RPC) or the "
                f"error that an RPC raised, got {type(call_or_error).__name__}"
            )
        return ()
    return tuple(found() if callable(found) else found)


def describe(records: Sequence[AttemptRecord]) -> str:
    """``10.0.0.7:80 UNAVAILABLE (0.01 s), 0.10 s of backoff, 10.0.0.8:80 OK (0.02 s)``.

    Oldest first, in whatever order they are given.
    """
    parts: list[str] = []
    hedged = isinstance(records, HedgedRecords)
    ended: float | None = None
    for record in in_order(records):
        if ended is not None and not hedged and record.begun - ended >= _NOTABLE:
            parts.append(f"{_seconds(record.begun - ended)} of backoff")
        ended = record.begun + record.seconds
        code = record.code.name if record.code else "running"
        parts.append(f"{record.backend or 'no backend'} {code} ({_seconds(record.seconds)})")
    return ", ".join(parts)


def out_of_time(
    target: object,
    state: str,
    times: tuple[float, float | None, float],
    records: Sequence[AttemptRecord] = (),
) -> str:
    """Where the time went of an RPC whose deadline passed while it waited for a backend.

    `times` are when it began, when the name was resolved (None: not yet), and now.
    """
    began, resolved, now = times
    ends = [began, *(began + record.begun + record.seconds for record in records)]
    parts: list[str] = []
    if resolved is None:
        parts.append(f"resolution of {target} {_seconds(now - began)} ({state})")
    elif resolved - began >= _NOTABLE:
        parts.append(f"resolution {_seconds(resolved - began)}")
    if records:
        parts.append(f"attempts: {describe(records)}")
    if resolved is not None:
        waited = _seconds(max(0.0, now - max(*ends, resolved)))
        parts.append(f"waiting for a backend of {target} {waited} ({state})")
    return f"Deadline Exceeded after {_seconds(now - began)}: {', '.join(parts)}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
