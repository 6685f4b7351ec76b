"""What `CallAttempts` and its drivers say to each other: attempts, outcomes, actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from grpc import StatusCode

PREVIOUS_ATTEMPTS = "grpc-previous-rpc-attempts"  # request metadata of all attempts but number 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """One time that the RPC is sent.

    `serial` tells the attempts of an RPC apart, in the order of their start. `number` is the value
    of `grpc-previous-rpc-attempts`, left out for 0; a transparent retry has that of the attempt it
    replaces. `timeout` is how many seconds the attempt may take until it is committed, the pick
    included (`perAttemptRecvTimeout`); None: only the RPC's deadline counts. Two RPCs may share
    an attempt, so it is a key within one RPC only.
    """

    serial: int
    number: int
    timeout: float | None = None
    transparent: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended.

    `pushback` is what `parse_pushback` found. `never_left`: it failed before a byte of it left.
    `server_refused`: the server says that it did not process it. `dropped`: the picker's Drop.
    `by_attempt_timeout`: the driver ended it at `Attempt.timeout`, with the code
    DEADLINE_EXCEEDED; it is retried if the policy lists that code, like the server's own.
    """

    code: StatusCode
    pushback: float | None = None
    never_left: bool = False
    server_refused: bool = False
    dropped: bool = False
    by_attempt_timeout: bool = False


SUCCESS = Outcome(StatusCode.OK)


@dataclass(frozen=True, slots=True)
class Send:
    """Pick, and start this attempt with all requests from the first on."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Wake:
    """Call `on_wake` at this time, on the clock that gives `now`."""

    at: float


@dataclass(frozen=True, slots=True)
class Cancel:
    """End this attempt: another one won. Its outcome need not be told any more, but may."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Finish:
    """The outcome of this attempt is that of the RPC. Always the last action; nothing follows."""

    attempt: Attempt


Action: TypeAlias = Send | Wake | Cancel | Finish
Actions: TypeAlias = tuple[Action, ...]
