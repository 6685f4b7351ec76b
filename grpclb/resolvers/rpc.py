"""RPCs of the control plane (etcd, xDS), from an asyncio loop over grpcio's sync stack.

The background loop of sync channels must never run grpc.aio: its engine does not survive a fork,
in the child not even when it was closed before (DESIGN section 5). So these calls run on grpcio's
own threads and hand their results to the loop; an aio user's loop uses the same.

Bytes in, bytes out: messages are the callers' business.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from grpclb.resolvers.rpc_calls import BidiStream, Connection, Metadata, RpcFailed, Unary
from grpclb.resolvers.rpc_life import LIFE

__all__ = ["BidiStream", "ControlChannel", "Metadata", "RpcFailed"]

# Ours is the backoff between calls; C-core's between connects stays below it. The "minimum" is
# what C-core gives one attempt to connect.
_DEFAULTS: Mapping[str, Any] = {
    "grpc.enable_http_proxy": 0,
    "grpc.use_local_subchannel_pool": 1,
    "grpc.service_config_disable_resolution": 1,
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 1_000,
    "grpc.min_reconnect_backoff_ms": 5_000,
}
_CLOSE_PATIENCE = 1.0  # seconds for calls that are cancelled to say so
_READ_AHEAD = 16  # messages


class ControlChannel:
    """One connection to a control-plane server. Made and used on one loop at a time.

    Invisible to tracing libraries, which replace grpcio's factories. `options` are grpcio's; they
    win over `_DEFAULTS`. Nothing connects before the first call.
    """

    def __init__(
        self,
        target: str,
        credentials: grpc.ChannelCredentials | None = None,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        self.target = target
        merged = tuple({**_DEFAULTS, **dict(options)}.items())
        channel: Any
        if credentials is None:
            channel = inspect.unwrap(grpc.insecure_channel)(target, merged)
        else:
            channel = inspect.unwrap(grpc.secure_channel)(target, credentials, merged)
        self._connection = Connection(target, channel)
        LIFE.keep(channel)

    def __repr__(self) -> str:
        state = "closed" if self._connection.closed else f"{len(self._connection.calls)} calls"
        return f"<ControlChannel {self.target} {state}>"

    @property
    def busy(self) -> bool:
        """Whether any call is under way."""
        return bool(self._connection.calls)

    async def unary(
        self, method: str, request: bytes, *, timeout: float, metadata: Metadata = ()
    ) -> bytes:
        """The response, within `timeout` seconds. Raises RpcFailed. Cancelling ends the RPC."""

        connection = self._connection

        def start() -> Unary:
            connection.check()
            unary = Unary(connection, asyncio.get_running_loop())
            stub = connection.channel.unary_unary(method)
            unary.started(stub.future(request, timeout=timeout, metadata=tuple(metadata)))
            return unary

        return await (await LIFE.begin(start)).result()

    def stream(
        self,
        method: str,
        *,
        metadata: Metadata = (),
        read_ahead: int = _READ_AHEAD,
        on_sent: Callable[[], object] | None = None,
    ) -> BidiStream:
        """A stream in both directions, which begins when it is entered.

        `on_sent` is called on the loop once per message, in their order, when the connection has
        taken it: not before there is a connection.
        """
        return BidiStream(self._connection, method, tuple(metadata), read_ahead, on_sent)

    async def close(self) -> None:
        """Cancel what is under way and give everything back. Harmless when repeated."""
        if self._connection.closed or self._connection.of_parent:
            return
        self._cancel_all()
        try:
            if self._connection.calls:
                async with asyncio.timeout(_CLOSE_PATIENCE):
                    await self._connection.idle.wait()
        except TimeoutError:
            pass
        finally:
            self._close()

    def abandon(self) -> None:
        """Cancel all calls, of a loop that was closed. Any thread; nothing is waited for."""
        if not (self._connection.closed or self._connection.of_parent):
            self._cancel_all()

    def _cancel_all(self) -> None:
        self._connection.closed = True
        self._connection.idle.clear()
        for call in tuple(self._connection.calls):
            call.close()

    def _close(self) -> None:
        # grpcio's close() waits for calls to end. None should be left; if one is, its thread is
        # stuck, and this loop must not be.
        if self._connection.calls:
            close = self._connection.channel.close
            threading.Thread(target=close, name="grpclb-rpc-close", daemon=True).start()
        else:
            self._connection.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not GeneratorExit:
            await self.close()
        else:
            self.abandon()  # dropped with its loop: grpcio closes what is dropped
