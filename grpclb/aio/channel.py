"""grpc.aio.Channel, balanced: the factories and the channel object."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import grpc
import grpc.aio

from grpclb.aio.calls import (
    StreamStreamMultiCallable,
    StreamUnaryMultiCallable,
    UnaryStreamMultiCallable,
    UnaryUnaryMultiCallable,
)
from grpclb.aio.engine import Engine
from grpclb.aio.interceptors import sort_interceptors
from grpclb.control.channel_spec import build_spec
from grpclb.control.method import STREAM_STREAM, STREAM_UNARY, UNARY_STREAM, UNARY_UNARY
from grpclb.core.connectivity import IDLE, READY, SHUTDOWN, ConnectivityState
from grpclb.core.resolver import Resolver


def insecure_channel(
    target: str,
    options: Sequence[tuple[str, Any]] | None = None,
    compression: grpc.Compression | None = None,
    interceptors: Sequence[Any] | None = None,
    *,
    service_config: Mapping[str, Any] | str | None = None,
    resolver: Resolver | None = None,
) -> Channel:
    """A balanced channel without encryption; in place of `grpc.aio.insecure_channel`.

    `service_config` (dict or JSON text) is the default: a config from the resolver replaces it
    (gRFC A21). `resolver` is used as it is, whatever the target's scheme. Nothing connects before
    the first RPC. Raises ValueError or TypeError that names the mistake: an unknown scheme,
    option or policy, a malformed target, a wrong service config.
    """
    return Channel(target, None, options, compression, interceptors, service_config, resolver)


def secure_channel(
    target: str,
    credentials: grpc.ChannelCredentials,
    options: Sequence[tuple[str, Any]] | None = None,
    compression: grpc.Compression | None = None,
    interceptors: Sequence[Any] | None = None,
    *,
    service_config: Mapping[str, Any] | str | None = None,
    resolver: Resolver | None = None,
) -> Channel:
    """A balanced channel over TLS (or whatever `credentials` say); see `insecure_channel`.

    Every backend must prove the name in the target (or `grpc.default_authority`, or
    `grpc.ssl_target_name_override`), not the address that the resolver found.
    """
    if not isinstance(credentials, grpc.ChannelCredentials):
        raise TypeError(
            f"credentials must be grpc.ChannelCredentials, got {type(credentials).__name__}"
        )
    return Channel(
        target, credentials, options, compression, interceptors, service_config, resolver
    )


class Channel(grpc.aio.Channel):
    """A grpc.aio.Channel that spreads its RPCs over all backends. Its loop's thread only."""

    def __init__(
        self,
        target: str,
        credentials: grpc.ChannelCredentials | None,
        options: Sequence[tuple[str, Any]] | None,
        compression: grpc.Compression | None,
        interceptors: Sequence[Any] | None,
        service_config: Mapping[str, Any] | str | None,
        resolver: Resolver | None,
    ) -> None:
        self._interceptors = sort_interceptors(interceptors)
        secure = credentials is not None
        spec = build_spec(target, options, service_config, resolver, compression, secure=secure)
        self._engine = Engine(spec, credentials)

    # -- grpc.aio.Channel --------------------------------------------------------------------

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> UnaryUnaryMultiCallable:
        handle = self._engine.methods.handle(
            UNARY_UNARY, method, request_serializer, response_deserializer, _registered_method
        )
        return UnaryUnaryMultiCallable(self._engine, handle, self._interceptors[UNARY_UNARY])

    def unary_stream(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> UnaryStreamMultiCallable:
        handle = self._engine.methods.handle(
            UNARY_STREAM, method, request_serializer, response_deserializer, _registered_method
        )
        return UnaryStreamMultiCallable(self._engine, handle, self._interceptors[UNARY_STREAM])

    def stream_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> StreamUnaryMultiCallable:
        handle = self._engine.methods.handle(
            STREAM_UNARY, method, request_serializer, response_deserializer, _registered_method
        )
        return StreamUnaryMultiCallable(self._engine, handle, self._interceptors[STREAM_UNARY])

    def stream_stream(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> StreamStreamMultiCallable:
        handle = self._engine.methods.handle(
            STREAM_STREAM, method, request_serializer, response_deserializer, _registered_method
        )
        return StreamStreamMultiCallable(self._engine, handle, self._interceptors[STREAM_STREAM])

    def get_state(self, try_to_connect: bool = False) -> ConnectivityState:
        """The state now; `try_to_connect` then leaves IDLE, which the next call shows."""
        if self._engine.closed:
            return SHUTDOWN
        state = self._engine.slot.current.state
        if try_to_connect:
            self._engine.wake()
        return state

    async def wait_for_state_change(self, last_observed_state: ConnectivityState) -> None:
        """Return when the state is another than `last_observed_state`."""
        slot = self._engine.slot
        loop = asyncio.get_running_loop()
        if self._engine.closed:
            raise grpc.aio.UsageError("Channel is closed.")
        while (published := slot.current).state is last_observed_state:
            news: asyncio.Future[None] = loop.create_future()
            token = slot.wait(published.generation, functools.partial(_set, news))
            try:
                await news
            finally:
                slot.forget(token)

    async def channel_ready(self) -> None:
        """Connect, and return when READY."""
        state = self.get_state(try_to_connect=True)
        while state is not READY:
            await self.wait_for_state_change(state)
            state = self.get_state(try_to_connect=True)

    async def close(self, grace: float | None = None) -> None:
        """No new RPCs; running ones get `grace` seconds, then end CANCELLED."""
        await self._engine.close(grace)

    async def __aenter__(self) -> Channel:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        # grpcio's channel has it, and programs that log it exist (its own tests among them).
        return asyncio.get_event_loop()

    # -- grpclb's own ------------------------------------------------------------------------

    def resolve_now(self) -> None:
        """Ask the resolver to look again; a hint, joined with others in its quiet time."""
        self._engine.works().core.resolve_now()

    def debug_snapshot(self) -> dict[str, Any]:
        """Endpoints, states, last resolution, config: JSON-ready, for logs and debug pages."""
        engine = self._engine
        core = engine.core
        if core is None or engine.closed:
            state = SHUTDOWN if engine.closed else IDLE
            return {"target": str(engine.spec.target), "state": state.name, "subchannels": []}
        return core.snapshot()

    def __repr__(self) -> str:
        engine = self._engine
        core = engine.core
        state = SHUTDOWN if engine.closed else engine.slot.current.state
        policy = engine.spec.policy_of(engine.spec.default_config).policy.name
        ready = held = 0
        if core is not None:
            policy, (ready, held) = core.policy_name, core.ready_count
        return (
            f"<grpclb.aio.Channel {engine.spec.target} policy={policy} "
            f"state={state.name} ready={ready}/{held}>"
        )


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
