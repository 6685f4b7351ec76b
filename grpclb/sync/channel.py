"""grpc.Channel, balanced: the factories and the channel object."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

import grpc

from grpclb.control.channel_spec import build_spec
from grpclb.control.loop import CONTROL, run_on
from grpclb.control.method import STREAM_STREAM, STREAM_UNARY, UNARY_STREAM, UNARY_UNARY
from grpclb.core.connectivity import IDLE, SHUTDOWN, ConnectivityState
from grpclb.core.resolver import Resolver
from grpclb.sync.calls import (
    StreamStreamMultiCallable,
    StreamUnaryMultiCallable,
    UnaryStreamMultiCallable,
    UnaryUnaryMultiCallable,
)
from grpclb.sync.engine import Engine

_LOG = logging.getLogger("grpclb.channel")
_SNAPSHOT_PATIENCE = 2.0


def insecure_channel(
    target: str,
    options: Sequence[tuple[str, Any]] | None = None,
    compression: grpc.Compression | None = None,
    *,
    service_config: Mapping[str, Any] | str | None = None,
    resolver: Resolver | None = None,
) -> Channel:
    """A balanced channel without encryption; in place of `grpc.insecure_channel`.

    `service_config` (dict or JSON text) is the default: a config from the resolver replaces it
    (gRFC A21). `resolver` is used as it is, whatever the target's scheme. Nothing connects before
    the first RPC. Raises ValueError or TypeError that names the mistake: an unknown scheme,
    option or policy, a malformed target, a wrong service config.
    """
    return Channel(target, None, options, compression, service_config, resolver)


def secure_channel(
    target: str,
    credentials: grpc.ChannelCredentials,
    options: Sequence[tuple[str, Any]] | None = None,
    compression: grpc.Compression | None = None,
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
    return Channel(target, credentials, options, compression, service_config, resolver)


class Channel(grpc.Channel):
    """A grpc.Channel that spreads its RPCs over all backends. Every method: any thread."""

    def __init__(
        self,
        target: str,
        credentials: grpc.ChannelCredentials | None,
        options: Sequence[tuple[str, Any]] | None,
        compression: grpc.Compression | None,
        service_config: Mapping[str, Any] | str | None,
        resolver: Resolver | None,
    ) -> None:
        secure = credentials is not None
        spec = build_spec(target, options, service_config, resolver, compression, secure=secure)
        self._engine = Engine(spec, credentials)
        self._watchers = _Watchers(self._engine)

    # -- grpc.Channel ----------------------------------------------------------------------------

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> UnaryUnaryMultiCallable:
        return UnaryUnaryMultiCallable(
            self._engine,
            self._engine.methods.handle(
                UNARY_UNARY, method, request_serializer, response_deserializer, _registered_method
            ),
        )

    def unary_stream(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> UnaryStreamMultiCallable:
        return UnaryStreamMultiCallable(
            self._engine,
            self._engine.methods.handle(
                UNARY_STREAM, method, request_serializer, response_deserializer, _registered_method
            ),
        )

    def stream_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> StreamUnaryMultiCallable:
        return StreamUnaryMultiCallable(
            self._engine,
            self._engine.methods.handle(
                STREAM_UNARY, method, request_serializer, response_deserializer, _registered_method
            ),
        )

    def stream_stream(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> StreamStreamMultiCallable:
        return StreamStreamMultiCallable(
            self._engine,
            self._engine.methods.handle(
                STREAM_STREAM,
                method,
                request_serializer,
                response_deserializer,
                _registered_method,
            ),
        )

    def subscribe(
        self,
        callback: Callable[[ConnectivityState], None],
        try_to_connect: bool | None = False,
    ) -> None:
        """Tell `callback` the state now and at every change, on a thread of its own."""
        self._watchers.add(callback)
        if try_to_connect:
            self._engine.wake()

    def unsubscribe(self, callback: Callable[[ConnectivityState], None]) -> None:
        self._watchers.remove(callback)

    def close(self) -> None:
        """Cancel running RPCs and give back every thread and connection; at most 2 s."""
        self._watchers.clear()
        self._engine.close()

    def __enter__(self) -> Channel:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> Literal[False]:
        self.close()
        return False

    # -- grpclb's own ----------------------------------------------------------------------------

    def resolve_now(self) -> None:
        """Ask the resolver to look again; a hint, joined with others in its quiet time."""
        works = self._engine.works()
        works.call_threadsafe(works.core.resolve_now)

    def debug_snapshot(self) -> dict[str, Any]:
        """Endpoints, states, last resolution, config: JSON-ready, for logs and debug pages."""
        engine = self._engine
        core = engine.core
        if core is None or engine.closed:
            state = SHUTDOWN if engine.closed else IDLE
            return {"target": str(engine.spec.target), "state": state.name, "subchannels": []}
        if threading.current_thread() is CONTROL.thread:
            return core.snapshot()
        works = engine.works()
        snapshot = run_on(works.lease.loop, core.snapshot, _SNAPSHOT_PATIENCE)
        assert isinstance(snapshot, dict)
        return snapshot

    def __repr__(self) -> str:
        engine = self._engine
        core = engine.core
        state = SHUTDOWN if engine.closed else engine.slot.current.state
        policy = engine.spec.policy_of(engine.spec.default_config).policy.name
        ready = held = 0
        if core is not None:
            policy, (ready, held) = core.policy_name, core.ready_count
        return (
            f"<grpclb.Channel {engine.spec.target} policy={policy} "
            f"state={state.name} ready={ready}/{held}>"
        )


class _Watchers:
    """Connectivity callbacks, delivered in order by one thread that lives while it has work."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._callbacks: list[list[Any]] = []  # [callback, last state told]
        self._delivering = False
        self._token: int | None = None

    def add(self, callback: Callable[[ConnectivityState], None]) -> None:
        with self._lock:
            self._callbacks.append([callback, None])
        self._changed()

    def remove(self, callback: Callable[[ConnectivityState], None]) -> None:
        with self._lock:
            for index, entry in enumerate(self._callbacks):
                if entry[0] == callback:
                    del self._callbacks[index]
                    break

    def clear(self) -> None:
        with self._lock:
            self._callbacks = []
            token, self._token = self._token, None
        if token is not None:
            self._engine.slot.forget(token)

    def _changed(self) -> None:
        """Any thread, also the control loop: hand over to the delivering thread."""
        with self._lock:
            if self._delivering or not self._callbacks:
                return
            self._delivering = True
        threading.Thread(target=self._deliver, name="grpclb-connectivity", daemon=True).start()

    def _deliver(self) -> None:
        while True:
            published = self._engine.slot.current
            with self._lock:
                due = [e for e in self._callbacks if e[1] is not published.state]
                for entry in due:
                    entry[1] = published.state
                if not due:
                    self._delivering = False
                    watching = bool(self._callbacks)
                    break
            for entry in due:
                try:
                    entry[0](published.state)
                except Exception:
                    _LOG.exception("Exception in a connectivity callback")
        if watching:
            self._token = self._engine.slot.wait(published.generation, self._changed)
