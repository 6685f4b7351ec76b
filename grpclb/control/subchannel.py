"""Connections, the handles that policies hold on them, and the pool that keeps them.

A connection is one grpcio channel to one address. Several policies may hold it at once (while one
replaces the other), and nobody for a while (an address that comes back keeps its connection).
Everything here runs on the control loop, except reading `inflight`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from grpclb.control.failures import with_health_service
from grpclb.core.address import Address
from grpclb.core.balancer import Subchannel, SubchannelState
from grpclb.core.clock import Clock, Timer
from grpclb.core.connectivity import (
    CONNECTING,
    IDLE,
    READY,
    SHUTDOWN,
    TRANSIENT_FAILURE,
    ConnectivityState,
)
from grpclb.core.status import Status

_LOG = logging.getLogger("grpclb.subchannel")
_DRAIN_POLL = 0.25  # seconds between looks at a draining connection
# Seconds for the RPCs of threads that picked a connection just before it was retired, and are not
# counted on it yet: closing at once would cancel them.
_SETTLE = 0.1
_NEW = SubchannelState(IDLE)
_MOST_WRAPPERS = 32


class Transport(Protocol):
    """A grpcio channel to one address, sync or aio. Called on the control loop."""

    def connect(self) -> None:
        """Open the channel, if need be, and leave IDLE; states come back to the connection."""
        ...

    def check(self) -> None:
        """Look at the state now: an RPC saw something."""
        ...

    def close(self) -> None:
        """Close the channel; RPCs still running on it end CANCELLED."""
        ...

    @property
    def inflight(self) -> int:
        """RPCs running on it. Any thread."""
        ...


def unwrapped(subchannel: Subchannel) -> SubchannelHandle:
    """The channel's own subchannel under a policy's wrappers (`core.balancer.Subchannel`).

    Raises TypeError, naming the rule, for an object that is neither.
    """
    found: object = subchannel
    for _ in range(_MOST_WRAPPERS):
        if isinstance(found, SubchannelHandle):
            return found
        found = getattr(found, "wrapped", None)
    raise TypeError(
        f"a picker must pick what create_subchannel gave, or an object that has it as `wrapped`; "
        f"got a {type(subchannel).__name__}"
    )


class Connection:
    """One address, its transport, its state, and the handles that listen to it."""

    __slots__ = (
        "_clock",
        "_handles",
        "address",
        "args",
        "connected_at",
        "failures",
        "last_error",
        "retired_at",
        "since",
        "state",
        "timer",
        "transport",
    )

    transport: Transport

    def __init__(self, address: Address, args: str | None, clock: Clock) -> None:
        self.address = address
        self.args = args
        self.state = SubchannelState(IDLE)
        self.since = clock.now()
        self.connected_at: float | None = None
        self.failures = 0  # since it was last READY
        self.last_error: Status | None = None
        self.retired_at: float | None = None
        self.timer: Timer | None = None
        self._clock = clock
        self._handles: tuple[SubchannelHandle, ...] = ()

    @property
    def held(self) -> bool:
        return bool(self._handles)

    def hold(self, handle: SubchannelHandle) -> None:
        self._handles = (*self._handles, handle)

    def drop(self, handle: SubchannelHandle) -> None:
        self._handles = tuple(h for h in self._handles if h is not handle)

    def connect(self) -> None:
        """Leave IDLE; every other state has a connection or an attempt of its own under way."""
        if self.state.connectivity is IDLE:
            self.report(CONNECTING)
            self.transport.connect()

    def report(self, connectivity: ConnectivityState, status: Status | None = None) -> None:
        """The transport saw a state. Repeated ones are swallowed, but a new error is news."""
        if connectivity is TRANSIENT_FAILURE and status is None:
            status = self.last_error or Status.unavailable(f"{self.address}: connection failed")
        if status is not None:
            status = with_health_service(status, self.args)
        state = SubchannelState(connectivity, status)
        if state == self.state or self.state.connectivity is SHUTDOWN:
            return
        if connectivity is not self.state.connectivity:
            self.since = self._clock.now()
            _LOG.debug(
                "%s: %s -> %s", self.address, self.state.connectivity.name, connectivity.name
            )
        if connectivity is READY:
            self.connected_at, self.last_error, self.failures = self.since, None, 0
        elif connectivity is TRANSIENT_FAILURE:
            self.failures += self.state.connectivity is not TRANSIENT_FAILURE
            self.last_error = status
        self.state = state
        for handle in self._handles:
            handle.deliver(state)

    def snapshot(self, now: float) -> dict[str, Any]:
        """What a person on call asks of a backend; JSON-ready."""
        return {
            "address": self.address.target,
            "state": self.state.connectivity.name,
            "for_seconds": round(now - self.since, 3),
            "inflight": self.transport.inflight,
            "failures": self.failures,
            "last_error": None if self.last_error is None else self.last_error.details,
            "removed": self.retired_at is not None,
        }

    def __repr__(self) -> str:
        return f"<Connection {self.address} {self.state.connectivity.name}>"


class SubchannelHandle:
    """A policy's hold on a connection: core.balancer.Subchannel."""

    __slots__ = ("_on_state", "_pool", "_told", "connection")

    def __init__(
        self,
        connection: Connection,
        pool: SubchannelPool | None,
        on_state: Callable[[SubchannelState], None],
    ) -> None:
        self.connection = connection
        self._pool = pool
        self._on_state = on_state
        self._told = _NEW

    @property
    def address(self) -> Address:
        return self.connection.address

    def connect(self) -> None:
        if self._pool is not None:
            self.connection.connect()

    def release(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.release(self)

    def deliver(self, state: SubchannelState) -> None:
        pool = self._pool
        if pool is not None and state != self._told:
            self._told = state
            try:
                self._on_state(state)
            except Exception as error:
                pool.on_policy_error(error)

    def deliver_present(self) -> None:
        """Tell a new holder of a connection that is not IDLE how it stands."""
        self.deliver(self.connection.state)

    def __repr__(self) -> str:
        return f"<Subchannel {self.connection.address} {self.connection.state.connectivity.name}>"


class SubchannelPool:
    """Hands out connections by address and arguments, and closes those that nobody wants.

    `linger` seconds a connected but unwanted connection stays, so that a resolver that flaps
    costs no reconnects. Then its RPCs run out, for `drain_timeout` seconds at most (0: no limit).
    """

    def __init__(
        self,
        clock: Clock,
        open_transport: Callable[[Connection], Transport],
        linger: float,
        drain_timeout: float,
        on_policy_error: Callable[[Exception], None],
    ) -> None:
        self.on_policy_error = on_policy_error
        self._clock = clock
        self._open_transport = open_transport
        self._linger = linger
        self._drain_timeout = drain_timeout
        self._connections: dict[tuple[Address, str | None], Connection] = {}
        self._draining: set[Connection] = set()
        self._closed = False

    def acquire(
        self, address: Address, args: str | None, on_state: Callable[[SubchannelState], None]
    ) -> SubchannelHandle:
        """A handle; a lingering connection to the same address is taken up again.

        After `close` a dead one, as a policy's forgotten timer may still ask.
        """
        if self._closed:
            dead = Connection(address, args, self._clock)
            dead.state = SubchannelState(SHUTDOWN)
            return SubchannelHandle(dead, None, on_state)
        key = (address, args)
        connection = self._connections.get(key)
        if connection is None:
            connection = Connection(address, args, self._clock)
            connection.transport = self._open_transport(connection)
            self._connections[key] = connection
        elif connection.timer is not None:
            connection.timer.cancel()
            connection.timer = None
        connection.retired_at = None
        handle = SubchannelHandle(connection, self, on_state)
        connection.hold(handle)
        if connection.state.connectivity is not IDLE:
            self._clock.call_later(0, handle.deliver_present)
        return handle

    def release(self, handle: SubchannelHandle) -> None:
        """The last holder gone, the connection lingers if it is of use, and else drains."""
        connection = handle.connection
        connection.drop(handle)
        if connection.held or self._closed:
            return
        connection.retired_at = self._clock.now()
        if connection.state.connectivity is READY and self._linger > 0:
            connection.timer = self._clock.call_later(self._linger, lambda: self._drain(connection))
        else:
            self._drain(connection)

    def _drain(self, connection: Connection) -> None:
        connection.timer = None
        key = (connection.address, connection.args)
        if self._connections.get(key) is connection:
            del self._connections[key]
        age = self._clock.now() - (connection.retired_at or 0.0)
        late = self._drain_timeout and age >= self._drain_timeout
        settling = connection.connected_at is not None and age < _SETTLE
        if (connection.transport.inflight or settling) and not late:
            pause = _SETTLE if settling else _DRAIN_POLL
            self._draining.add(connection)
            connection.timer = self._clock.call_later(pause, lambda: self._drain(connection))
            return
        self._draining.discard(connection)
        self._shut(connection)

    def _shut(self, connection: Connection) -> None:
        if connection.timer is not None:
            connection.timer.cancel()
            connection.timer = None
        connection.state = SubchannelState(SHUTDOWN)
        connection.transport.close()

    def connections(self) -> list[Connection]:
        """All of them: in use, lingering, draining."""
        return [*self._connections.values(), *self._draining]

    @property
    def inflight(self) -> int:
        return sum(c.transport.inflight for c in self.connections())

    def close(self) -> None:
        """Close every connection now."""
        self._closed = True
        for connection in self.connections():
            self._shut(connection)
        self._connections.clear()
        self._draining.clear()
