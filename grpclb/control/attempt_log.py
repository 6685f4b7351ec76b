"""What became of an RPC's attempts, for the caller to see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grpc import StatusCode

_ATTRIBUTE = "_grpclb_attempts"


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One attempt of an RPC: where it went, how it ended, and how long it took.

    `backend` is the address, None if there was none to send it to. `code` is None while the
    attempt runs. `seconds` are counted from the pick. `details` are those of the status.
    """

    backend: str | None
    code: StatusCode | None
    seconds: float
    details: str = ""


def attach(call_or_error: Any, records: tuple[AttemptRecord, ...]) -> None:
    """Let `attempts` find these records on grpcio's own object."""
    setattr(call_or_error, _ATTRIBUTE, records)


def attempts(call_or_error: Any) -> tuple[AttemptRecord, ...]:
    """The attempts of an RPC, oldest first; the last one is the one that answered.

    Takes a call object or the error that an RPC raised, sync or aio. Empty for an object that is
    not of a grpclb channel, and for calls of a method that has no retry or hedging policy as long
    as they have not failed: nobody counts those. Any thread.
    """
    found = getattr(call_or_error, _ATTRIBUTE, ())
    return tuple(found() if callable(found) else found)


def describe(records: Sequence[AttemptRecord]) -> str:
    """``10.0.0.7:80 UNAVAILABLE (0.01 s), 10.0.0.8:80 UNAVAILABLE (0.02 s)``."""
    return ", ".join(
        f"{r.backend or 'no backend'} {r.code.name if r.code else 'running'} ({r.seconds:.2f} s)"
        for r in records
    )
