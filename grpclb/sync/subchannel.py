"""A subchannel of the sync stack: one grpcio channel to one address, and the sweep of states.

grpcio tells of a sync channel's state changes only through a thread per channel. Instead the
control loop reads states: often while something connects, each second otherwise; and an RPC that
saw a failure asks for a look at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import sleep
from typing import Any

import grpc

from grpclb.control.failures import connection_error
from grpclb.control.method import MethodHandle
from grpclb.control.subchannel import Connection
from grpclb.core.clock import Clock, Timer
from grpclb.core.connectivity import CONNECTING, IDLE, READY, TRANSIENT_FAILURE
from grpclb.core.status import Status
from grpclb.sync._grpcio import READY_NUMBER, STATES, StateReader, open_channel, state_reader

_PROBE = "/grpc.health.v1.Health/Check"
_PROBE_TIMEOUT = 1.0
_PROBE_PATIENCE = 0.03  # seconds that a failure's report waits for its reason
_MOST_CALLABLES = 1024
_SETTLED = (READY, IDLE)
_FASTEST, _CONNECTING_SLOWEST, _FAILED_SLOWEST, _STEADY = 0.0002, 0.02, 0.25, 1.0
_TIMER_GRAIN = 0.001  # seconds
_SWEEP_SHARE = 20e-6  # seconds of pause per connection swept, so that a sweep stays a small share
_CONNECT_LAG = 0.1  # C-core may still say IDLE for a moment after it was asked to connect


class SyncTransport:
    """control.subchannel.Transport over grpcio's sync channel.

    `calls` holds one item per running RPC: list append and pop are atomic on every Python, which
    `+= 1` is not. `ready` and `callable` are for callers' threads; the rest is the control loop's.
    """

    __slots__ = (
        "__weakref__",
        "_asking",
        "_callables",
        "_channel",
        "_compression",
        "_connection",
        "_credentials",
        "_options",
        "_sweeper",
        "calls",
        "closed",
        "read_state",
    )

    def __init__(
        self,
        connection: Connection,
        credentials: grpc.ChannelCredentials | None,
        options: Sequence[tuple[str, Any]],
        compression: grpc.Compression | None,
        sweeper: Sweeper,
    ) -> None:
        self.calls: list[None] = []
        self.closed = False
        self._asking = False
        self.read_state: StateReader = _never_ready
        self._callables: dict[MethodHandle, Any] = {}
        self._channel: grpc.Channel | None = None
        self._connection = connection
        self._credentials = credentials
        self._options = options
        self._compression = compression
        self._sweeper = sweeper

    # -- callers' threads --------------------------------------------------------------------

    def ready(self) -> bool:
        """Whether an RPC given to it now goes out; one read of C-core's state."""
        try:
            return self.read_state(False) == READY_NUMBER
        except ValueError:  # closed since it was picked
            return False

    def callable(self, method: MethodHandle) -> Any:
        """grpcio's multicallable for a method on this address."""
        found = self._callables.get(method)
        return self._make_callable(method) if found is None else found

    def _make_callable(self, method: MethodHandle) -> Any:
        assert self._channel is not None
        made = method.bind(self._channel)
        if len(self._callables) >= _MOST_CALLABLES:
            self._callables = {}
        self._callables[method] = made
        return made

    @property
    def inflight(self) -> int:
        return len(self.calls)

    # -- control loop --------------------------------------------------------------------------

    @property
    def connection(self) -> Connection:
        return self._connection

    def connect(self) -> None:
        if self.closed:
            return
        if self._channel is None:
            uri = self._connection.address.uri
            self._channel = open_channel(uri, self._credentials, self._options, self._compression)
            self.read_state = state_reader(self._channel)
        self.read_state(True)
        self._sweeper.add(self)

    def check(self) -> None:
        """Read the state, and report it if it is new."""
        if self._channel is None or self.closed:
            return
        connection = self._connection
        old, new = connection.state.connectivity, STATES[self.read_state(False)]
        if new is old:
            return
        if new is IDLE and old is CONNECTING and self._sweeper.age(connection) < _CONNECT_LAG:
            return
        if new is TRANSIENT_FAILURE:
            self._ask_why()
        else:
            connection.report(new)
        if new not in (READY, IDLE):
            self._sweeper.add(self)

    def _ask_why(self) -> None:
        """Learn the connection error: an RPC on a failed channel ends at once, with the reason.

        It does not leave the client; should the channel connect in this very moment, the server
        sees a health check. The failure is reported with its reason, or soon without.
        """
        if self._asking or self._channel is None:
            return
        self._asking = True
        self._sweeper.clock.call_later(_PROBE_PATIENCE, lambda: self._report_failure(None))
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(_PROBE)
        probe = call.future(b"", timeout=_PROBE_TIMEOUT)
        probe.add_done_callback(self._learnt_why)

    def _learnt_why(self, probe: Any) -> None:
        """On a thread of grpcio's."""
        details = connection_error(probe.code(), probe.details(), self._connection.address.uri)
        self._sweeper.call_threadsafe(lambda: self._report_failure(details))

    def _report_failure(self, details: str | None) -> None:
        if self.closed or not self._asking:
            return
        self._asking = False
        if STATES[self.read_state(False)] is TRANSIENT_FAILURE:
            address = self._connection.address
            status = Status.unavailable(f"{address}: {details}") if details else None
            self._connection.report(TRANSIENT_FAILURE, status)

    def close(self) -> None:
        self.closed = True
        self._sweeper.remove(self)
        self._callables = {}
        if self._channel is not None:
            self._channel.close()


def _never_ready(try_to_connect: bool) -> int:
    return int(IDLE.value[0])


class Sweeper:
    """Reads the states of one channel's subchannels on the control loop."""

    def __init__(self, clock: Clock, call_threadsafe: Any) -> None:
        self.call_threadsafe = call_threadsafe
        self.clock = clock
        self._transports: set[SyncTransport] = set()
        self._restless: set[SyncTransport] = set()
        self._fast: Timer | None = None
        self._slow: Timer | None = None
        self._due = 0.0  # when `_fast` runs

    def age(self, connection: Connection) -> float:
        """Seconds since the connection's state last changed."""
        return self.clock.now() - connection.since

    def add(self, transport: SyncTransport) -> None:
        """Its state is about to change: look again soon."""
        self._transports.add(transport)
        self._restless.add(transport)
        if self._slow is None:
            self._slow = self.clock.call_later(_STEADY, self._sweep_all)
        self._look_in(_FASTEST)

    def remove(self, transport: SyncTransport) -> None:
        self._transports.discard(transport)
        self._restless.discard(transport)
        if not self._transports:
            self.close()

    def close(self) -> None:
        for timer in (self._fast, self._slow):
            if timer is not None:
                timer.cancel()
        self._fast = self._slow = None

    def _look_in(self, pause: float) -> None:
        """Sweep the restless ones in `pause` seconds at the latest, their number permitting."""
        pause = max(pause, _SWEEP_SHARE * len(self._restless))
        due = self.clock.now() + pause
        if self._fast is not None:
            if self._due <= due:
                return
            self._fast.cancel()
        self._due = due
        if pause < _TIMER_GRAIN:
            self._fast = self.clock.call_later(0, self._sweep_after_nap)
        else:
            self._fast = self.clock.call_later(pause, self._sweep_restless)

    def _sweep_after_nap(self) -> None:
        """asyncio's timers round up to whole milliseconds, in which a near backend connects.

        For the few milliseconds that this may matter, the control loop naps in place of waiting.
        """
        sleep(_FASTEST)
        self._sweep_restless()

    def _sweep_restless(self) -> None:
        self._fast = None
        shortest = _FAILED_SLOWEST
        for transport in tuple(self._restless):
            transport.check()
            state = transport.connection.state.connectivity
            if state in _SETTLED:
                self._restless.discard(transport)
            else:
                # A sixth of the time that the state has lasted: quick events are seen quickly.
                slowest = _FAILED_SLOWEST if state is TRANSIENT_FAILURE else _CONNECTING_SLOWEST
                pause = min(max(self.age(transport.connection) / 6, _FASTEST), slowest)
                shortest = min(shortest, pause)
        if self._restless:
            self._look_in(shortest)

    def _sweep_all(self) -> None:
        self._slow = self.clock.call_later(_STEADY, self._sweep_all)
        for transport in tuple(self._transports):
            transport.check()
            if transport.connection.state.connectivity not in _SETTLED:
                self._restless.add(transport)
        if self._restless:
            self._look_in(_FAILED_SLOWEST)
