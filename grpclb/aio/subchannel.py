"""A subchannel of the aio stack: one grpcio aio channel to one address, and its watching task."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import grpc
import grpc.aio

from grpclb.control.failures import connection_error
from grpclb.control.method import MethodHandle
from grpclb.control.subchannel import Connection
from grpclb.core.connectivity import CONNECTING, IDLE, READY, TRANSIENT_FAILURE, ConnectivityState
from grpclb.core.status import Status

_PROBE = "/grpc.health.v1.Health/Check"
_PROBE_PATIENCE = 0.03  # seconds that a failure's report waits for its reason
_MOST_CALLABLES = 1024

Spawn = Callable[[Coroutine[Any, Any, Any]], "asyncio.Task[Any]"]


class AioTransport:
    """control.subchannel.Transport over grpc.aio. Everything runs on the channel's loop.

    Watching an aio channel's state costs a future, not a thread, so every subchannel is watched.
    """

    __slots__ = (
        "_asking",
        "_callables",
        "_channel",
        "_compression",
        "_connection",
        "_credentials",
        "_options",
        "_spawn",
        "_watcher",
        "closed",
        "inflight",
    )

    def __init__(
        self,
        connection: Connection,
        credentials: grpc.ChannelCredentials | None,
        options: Sequence[tuple[str, Any]],
        compression: grpc.Compression | None,
        spawn: Spawn,
    ) -> None:
        self.inflight = 0
        self.closed = False
        self._asking = False
        self._callables: dict[MethodHandle, Any] = {}
        self._channel: grpc.aio.Channel | None = None
        self._compression = compression
        self._connection = connection
        self._credentials = credentials
        self._options = options
        self._spawn = spawn
        self._watcher: asyncio.Task[None] | None = None

    # -- for calls -----------------------------------------------------------------------------

    def ready(self) -> bool:
        """Whether an RPC given to it now goes out; one read of C-core's state."""
        channel = self._channel
        return channel is not None and not self.closed and channel.get_state() is READY

    def callable(self, method: MethodHandle) -> Any:
        """grpcio's multicallable for a method on this address."""
        found = self._callables.get(method)
        return self._make_callable(method) if found is None else found

    def _make_callable(self, method: MethodHandle) -> Any:
        made = method.bind(self._channel)
        if len(self._callables) >= _MOST_CALLABLES:
            self._callables = {}
        self._callables[method] = made
        return made

    @property
    def connection(self) -> Connection:
        return self._connection

    # -- control.subchannel.Transport ------------------------------------------------------------

    def connect(self) -> None:
        if self.closed:
            return
        if self._channel is None:
            self._channel = self._open()
            self._watcher = self._spawn(self._watch(self._channel))
        self._channel.get_state(try_to_connect=True)

    def _open(self) -> grpc.aio.Channel:
        # Tracing libraries wrap the factories; see sync/_grpcio.py.
        uri = self._connection.address.uri
        channel: grpc.aio.Channel
        if self._credentials is None:
            factory = inspect.unwrap(grpc.aio.insecure_channel)
            channel = factory(uri, self._options, self._compression)
        else:
            secure = inspect.unwrap(grpc.aio.secure_channel)
            channel = secure(uri, self._credentials, self._options, self._compression)
        return channel

    async def _watch(self, channel: grpc.aio.Channel) -> None:
        # IDLE is what C-core says until it has heard that it is to connect.
        state = IDLE
        while not self.closed:
            await channel.wait_for_state_change(state)
            if self.closed:
                return
            state = channel.get_state()
            self._saw(state)

    def check(self) -> None:
        """Read the state, and report it if it is new."""
        if self._channel is not None and not self.closed:
            state = self._channel.get_state()
            if not (state is IDLE and self._connection.state.connectivity is CONNECTING):
                self._saw(state)

    def _saw(self, state: ConnectivityState) -> None:
        if state is self._connection.state.connectivity:
            return
        if state is not TRANSIENT_FAILURE:
            self._connection.report(state)
        elif not self._asking:
            self._asking = True
            self._spawn(self._ask_why())

    async def _ask_why(self) -> None:
        """Learn the connection error: an RPC on a failed channel ends at once, with the reason.

        It does not leave the client; should the channel connect in this very moment, the server
        sees a health check. The failure is reported with its reason, or soon without.
        """
        assert self._channel is not None
        details: str | None = None
        ask: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(_PROBE)
        probe = ask(b"", timeout=_PROBE_PATIENCE)
        try:
            details = connection_error(
                await probe.code(), await probe.details(), self._connection.address.uri
            )
        finally:
            probe.cancel()
            self._asking = False
        if not self.closed and self._channel.get_state() is TRANSIENT_FAILURE:
            address = self._connection.address
            status = Status.unavailable(f"{address}: {details}") if details else None
            self._connection.report(TRANSIENT_FAILURE, status)

    def close(self) -> None:
        self.closed = True
        self._callables = {}
        channel, watcher = self._channel, self._watcher
        if channel is not None:
            self._spawn(_close(channel, watcher))


async def _close(channel: grpc.aio.Channel, watcher: asyncio.Task[None] | None) -> None:
    await channel.close()
    if watcher is not None:
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await watcher
