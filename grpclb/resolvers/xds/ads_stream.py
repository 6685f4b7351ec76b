"""One server's side of ADS: what was asked for on its stream, and what has to be said next.

Pure. Time is seconds of any clock that never goes back, handed in. Where gRFC A57 and the xDS
protocol leave a choice, it is made here and nowhere else:

- Requests wait until they are taken, so that many subscriptions become one request per kind, and
  an ACK carries the names as they are by then.
- The time for a resource to come begins when a connection has taken the request.
- A stream that ended before its first response is followed by the next one after a backoff. One
  that ended later is followed at once (A57), but a server that ends them again and again within
  seconds is not hammered: from the second time on there is a backoff, too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from grpclb.core.backoff import Backoff
from grpclb.core.status import Status
from grpclb.resolvers.xds.bootstrap import Server
from grpclb.resolvers.xds.kinds import ResourceKind
from grpclb.resolvers.xds.wire import Request

if TYPE_CHECKING:
    from random import Random

STEADY = 10.0  # seconds that a stream has to last for its end to mean nothing
DOES_NOT_EXIST = 15.0  # seconds (A57)
DOES_NOT_EXIST_TRANSIENT = 30.0  # seconds (A88)
LONGEST_BACKOFF = 30.0  # seconds, before jitter
_LONGEST_ERROR = 8_192  # characters of a NACK


class Phase(Enum):
    """IDLE: nobody wants a stream. OPENING: asked for, not there. WAITING: until `retry_at`."""

    IDLE = "idle"
    OPENING = "opening"
    OPEN = "open"
    WAITING = "waiting"


@dataclass(slots=True)
class _Asked:
    """One kind on this server. `version` outlives a stream, the rest does not."""

    version: str = ""
    nonce: str = ""
    error: str = ""
    dirty: bool = False
    ever: bool = False  # on this stream


@dataclass(slots=True)
class AdsStream:
    """The stream to one server, opened again and again. Not safe for threads."""

    server: Server
    kinds: tuple[ResourceKind, ...]
    random: Random
    phase: Phase = Phase.IDLE
    serial: int = 0  # of the stream under way; events of an earlier one are not for us
    retry_at: float = 0.0
    failure: Status | None = None  # why the last attempt came to nothing
    answered: bool = False  # a response came on this stream
    deadlines: dict[tuple[ResourceKind, str], float] = field(default_factory=dict)
    _asked: dict[ResourceKind, _Asked] = field(default_factory=dict)
    _unsent: deque[tuple[ResourceKind, tuple[str, ...]]] = field(default_factory=deque)
    _first: bool = True
    _opened_at: float = 0.0
    _flaps: int = 0
    _backoff: Backoff = field(init=False)

    def __post_init__(self) -> None:
        self._backoff = Backoff(self.random, cap=LONGEST_BACKOFF)

    # -- the stream's life -----------------------------------------------------------------------

    def open(self) -> int:
        """A stream is wanted now; returns its serial."""
        self.phase = Phase.OPENING
        self.serial += 1
        return self.serial

    def opened(self, now: float) -> None:
        """It takes requests now; all of them have to be said again."""
        self.phase = Phase.OPEN
        self._opened_at = now
        for kind in self.kinds:
            self.changed(kind)

    def closed(self, status: Status, now: float, *, our_fault: bool) -> bool:
        """It ended. True if that is a failure that watchers should hear of (A57).

        `our_fault`: we refused what the server sent; coming back at once would not help.
        """
        good = self.phase is Phase.OPEN and self.answered and not our_fault
        steady = good and now - self._opened_at >= STEADY
        self._reset()
        self.phase = Phase.WAITING
        if good:
            self._flaps = 0 if steady else self._flaps + 1
            self.retry_at = now if self._flaps <= 1 else now + self._backoff.next_delay()
            return False
        self.retry_at = now + self._backoff.next_delay()
        self.failure = status
        return True

    def interrupted(self, now: float) -> None:
        """It ended for a reason that has nothing to do with the server: begin again."""
        self._reset()
        self.phase = Phase.WAITING
        self.retry_at = now

    def shut(self) -> None:
        """Nobody wants it any longer: forget all."""
        self._reset()
        self._asked.clear()
        self.phase = Phase.IDLE
        self.serial += 1
        self.failure = None
        self._flaps = 0
        self._backoff.reset()

    def _reset(self) -> None:
        for asked in self._asked.values():
            asked.nonce, asked.error = "", ""
            asked.dirty = asked.ever = False
        self._unsent.clear()
        self.deadlines.clear()
        self._first = True
        self.answered = False

    # -- requests --------------------------------------------------------------------------------

    def changed(self, kind: ResourceKind) -> None:
        """The names of this kind are not what they were."""
        if self.phase is Phase.OPEN:
            self._of(kind).dirty = True

    def asked_for(self, kind: ResourceKind) -> bool:
        """Whether any request for this kind was made on this stream."""
        return self._of(kind).ever

    def requests(self, wanted: Mapping[ResourceKind, Iterable[str]]) -> list[Request]:
        """What has to be said now, given all names that are wanted; they count as said."""
        result: list[Request] = []
        for kind in self.kinds if self.phase is Phase.OPEN else ():
            asked = self._of(kind)
            names = tuple(wanted.get(kind, ()))
            # Without names, the first request would ask for everything there is.
            if not asked.dirty or not (names or asked.ever):
                continue
            self._unsent.append((kind, names))
            result.append(
                Request(kind.type_url, names, asked.version, asked.nonce, asked.error, self._first)
            )
            asked.error, asked.dirty, asked.ever = "", False, True
            self._first = False
        return result

    def sent(self) -> list[tuple[ResourceKind, str]]:
        """A connection has taken the oldest request. Returns its names for which no time runs."""
        if not self._unsent:
            return []
        kind, names = self._unsent.popleft()
        return [(kind, name) for name in names if (kind, name) not in self.deadlines]

    def expect(self, kind: ResourceKind, name: str, now: float) -> None:
        """From now on, time runs for this resource to come."""
        patience = DOES_NOT_EXIST_TRANSIENT if self.server.timer_is_transient else DOES_NOT_EXIST
        self.deadlines[kind, name] = now + patience

    def came(self, kind: ResourceKind, name: str) -> None:
        """The server said something of this resource, good or bad."""
        self.deadlines.pop((kind, name), None)

    def forget(self, kind: ResourceKind, name: str) -> None:
        """Nobody watches this resource any longer."""
        self.deadlines.pop((kind, name), None)
        self.changed(kind)

    def expired(self, now: float) -> list[tuple[ResourceKind, str]]:
        """The resources whose time is over; each is told once."""
        over = [key for key, deadline in self.deadlines.items() if deadline <= now]
        for key in over:
            self.came(*key)
        return over

    # -- responses -------------------------------------------------------------------------------

    def received(self) -> None:
        """A response came, of whatever kind: the server works."""
        self.answered = True
        self.failure = None
        if self._flaps <= 1:
            self._backoff.reset()

    def reply(self, kind: ResourceKind, version: str, nonce: str, error: str) -> None:
        """Answer the response of this kind: an ACK, or a NACK if `error` says why."""
        asked = self._of(kind)
        asked.nonce = nonce
        asked.error = error if len(error) <= _LONGEST_ERROR else error[:_LONGEST_ERROR] + "..."
        asked.dirty = True
        if not error:
            asked.version = version

    def _of(self, kind: ResourceKind) -> _Asked:
        return self._asked.setdefault(kind, _Asked())
