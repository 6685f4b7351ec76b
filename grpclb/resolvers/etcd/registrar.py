"""What keeps one key in etcd alive, as a machine without I/O.

Its driver asks `step(now)` what to do, does it, and says how it went. One thing at a time; a step
that was asked for twice is the same step. All of that on one loop.

The lease's id is ours, not etcd's: a Grant whose answer was lost is repeated under the same id, so
no lease is left behind, and can be revoked by someone who never heard that it was granted.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from grpclb.core.backoff import Backoff

if TYPE_CHECKING:
    from random import Random

# Seconds between looks at our key, where keeping the lease alive is rarer: whoever deletes it, or
# revokes its lease, sees it again within two.
_LOOK_EVERY: Final = 1.5
_FIRST_RETRY: Final = 0.25
_LONGEST_RETRY: Final = 5.0


class RegistrationState(enum.Enum):
    """Where a registration is. `REGISTERED` and `RECOVERING` alternate until it is closed."""

    NEW = "new"  # not entered yet
    REGISTERING = "registering"  # not in etcd for the first time yet
    REGISTERED = "registered"
    # It was registered; etcd cannot be reached, or has lost the key. Clients may still have it.
    RECOVERING = "recovering"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Grant:
    """Have etcd make this lease; that it exists already is as good."""

    lease: int
    ttl: int


@dataclass(frozen=True, slots=True)
class Put:
    """Write the key."""

    lease: int
    value: bytes


@dataclass(frozen=True, slots=True)
class KeepAlive:
    lease: int


@dataclass(frozen=True, slots=True)
class Look:
    """Ask for the key, and under which lease it is."""

    lease: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do for so many seconds, unless `update` or `close` is called."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Revoke:
    """The last step. Whether it succeeds or not, the lease is given up."""

    lease: int


@dataclass(frozen=True, slots=True)
class Finished:
    pass


Step = Grant | Put | KeepAlive | Look | Wait | Revoke | Finished


class Registrar:
    """One key. `now` is always monotonic seconds; `failed` and its like follow the step's end."""

    def __init__(self, value: bytes, ttl: int, random: Random) -> None:
        self._wanted = value
        self._ttl = ttl
        self._random = random
        # No longer than a third of the lease's life, so that it outlives a failed attempt.
        longest = min(_LONGEST_RETRY, ttl / 3)
        self._backoff = Backoff(random, initial=min(_FIRST_RETRY, longest), cap=longest)
        self._lease: int | None = None
        self._granted = False
        self._written: bytes | None = None  # None: the key is not there, as far as we know
        self._keep_alive_at = self._look_at = self._retry_at = float("-inf")
        self._steady = True  # nothing went wrong since all was in order
        self._contested = False  # somebody else's lease is on our key
        self._closing = self._finished = False
        self._was_registered = False
        self.error: str | None = None  # why it is not in order now

    # -- what its owner wants --------------------------------------------------------------------

    def update(self, value: bytes) -> None:
        """Have the key say `value` from now on."""
        self._wanted = value

    def close(self) -> None:
        """Give the lease up: the next steps are Revoke (if there may be one) and Finished."""
        self._closing = True

    @property
    def state(self) -> RegistrationState:
        if self._closing:
            return RegistrationState.CLOSED
        if self.error is None and self._written is not None:
            return RegistrationState.REGISTERED
        if self._was_registered:
            return RegistrationState.RECOVERING
        return RegistrationState.REGISTERING

    @property
    def lease(self) -> int | None:
        """The lease that etcd has confirmed."""
        return self._lease if self._granted else None

    @property
    def settled(self) -> bool:
        """Whether etcd has what was last asked for."""
        return self.state is RegistrationState.REGISTERED and self._written == self._wanted

    def step(self, now: float) -> Step:
        """What to do next."""
        if self._closing:
            if self._finished or self._lease is None:
                return Finished()
            return Revoke(self._lease)
        if now < self._retry_at:
            return Wait(self._retry_at - now)
        if self._lease is None or not self._granted:
            if self._lease is None:
                self._lease = self._random.randrange(1, 1 << 63)
            return Grant(self._lease, self._ttl)
        if now >= self._keep_alive_at:
            return KeepAlive(self._lease)
        if self._written != self._wanted and not self._contested:
            return Put(self._lease, self._wanted)
        if now >= self._look_at:
            return Look(self._lease)
        return Wait(min(self._keep_alive_at, self._look_at) - now)

    # -- how the step went -----------------------------------------------------------------------

    def granted(self, asked_at: float, ttl: int) -> None:
        """The lease is there, and lives `ttl` seconds from when it was asked for."""
        self._granted = True
        self._keep_alive_at = asked_at + ttl / 3

    def kept_alive(self, asked_at: float, ttl: int) -> None:
        """The lease lives `ttl` seconds from when it was asked for; 0 when it is gone."""
        if ttl <= 0:
            self.lease_lost(asked_at)
            return
        self._keep_alive_at = asked_at + ttl / 3
        if self._written == self._wanted and not self._contested:
            self._in_order()

    def put(self, now: float, value: bytes) -> None:
        """The key says `value`."""
        self._written = value
        self._look_at = now + _LOOK_EVERY
        self._was_registered = True
        self._in_order()

    def looked(self, now: float, lease: int | None, value: bytes = b"") -> None:
        """The key says `value` and is under `lease`; None: there is no such key.

        Another value under our own lease is an older one, by a Put that came to etcd late. A key
        under another lease is somebody else's, who registers the same address: it is left alone,
        for two that take it from each other in turn help nobody. When it goes, ours comes.
        """
        self._look_at = now + _LOOK_EVERY
        self._contested = lease not in (None, self._lease)
        if lease is None:
            self._written = None
            self.error = "the key was deleted"
        elif self._contested:
            self.error = f"the key is registered by somebody else, under lease {lease}"
        else:
            self._written = value
            if value == self._wanted:
                self._in_order()

    def lease_lost(self, now: float) -> None:
        """etcd says that there is no such lease (any more). A new one is asked for at once."""
        self._forget_lease("the lease expired or was revoked")
        if not self._steady:  # again, before all was in order: not in a hot loop
            self._retry_at = now + self._backoff.next_delay()
        self._steady = False

    def failed(self, now: float, error: str) -> None:
        """etcd could not be asked, or refused."""
        self.error = error
        self._steady = False
        self._retry_at = now + self._backoff.next_delay()

    def revoked(self) -> None:
        """The lease is given up, or could not be: it expires by itself then."""
        self._finished = True

    def _in_order(self) -> None:
        self.error = None
        self._steady = True
        self._backoff.reset()

    def _forget_lease(self, error: str) -> None:
        self._lease, self._granted, self._written = None, False, None
        self._contested = False
        self.error = error
