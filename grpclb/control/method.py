"""A method as a stub named it: path, kind, serializers. Shared by all subchannels of a channel."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from grpclb.core.balancer import PickInfo
from grpclb.core.config_selector import Selection
from grpclb.core.method_config import MethodConfig
from grpclb.core.service_config import ServiceConfig

UNARY_UNARY, UNARY_STREAM = "unary_unary", "unary_stream"
STREAM_UNARY, STREAM_STREAM = "stream_unary", "stream_stream"
_MOST_METHODS = 4096


class MethodHandle:
    """Hashed by identity, which keeps the look-up of a multicallable at one dict access."""

    __slots__ = (
        "_config",
        "_with_bytes",
        "deserializer",
        "info",
        "kind",
        "path",
        "registered",
        "serializer",
    )

    def __init__(
        self,
        kind: str,
        path: str,
        serializer: Callable[[Any], bytes] | None,
        deserializer: Callable[[bytes], Any] | None,
        registered: bool,
    ) -> None:
        self.kind = kind
        self.path = path
        self.serializer = serializer
        self.deserializer = deserializer
        self.registered = registered
        self.info = PickInfo(path)
        self._config: tuple[ServiceConfig, MethodConfig] | None = None
        self._with_bytes: MethodHandle | None = None

    def bind(self, channel: Any) -> Any:
        """The grpcio multicallable on `channel`, a grpc.Channel or grpc.aio.Channel."""
        factory = getattr(channel, self.kind)
        if self.registered:
            # The private keyword that generated stubs pass; grpcio has it since 1.63.
            return factory(self.path, self.serializer, self.deserializer, _registered_method=True)
        return factory(self.path, self.serializer, self.deserializer)

    def config(
        self, service_config: ServiceConfig, selection: Selection | None = None
    ) -> MethodConfig:
        """What was selected for the RPC (gRFC A31), else this method's part of the config.

        The latter is remembered until the config changes.
        """
        if selection is not None:
            return selection.config
        known = self._config
        if known is not None and known[0] is service_config:
            return known[1]
        found = service_config.method_config(self.path)
        self._config = (service_config, found)
        return found

    def with_bytes(self) -> MethodHandle:
        """The same method for a request that is serialized already; always the same object."""
        twin = self._with_bytes
        if twin is None:
            twin = MethodHandle(self.kind, self.path, None, self.deserializer, self.registered)
            self._with_bytes = twin
        return twin


class MethodTable:
    """One handle per (kind, path, serializers): stubs and interceptors ask again and again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handles: dict[tuple[Any, ...], MethodHandle] = {}

    def handle(
        self,
        kind: str,
        path: str | bytes,
        serializer: Callable[[Any], bytes] | None,
        deserializer: Callable[[bytes], Any] | None,
        registered: bool | None,
    ) -> MethodHandle:
        path = path if isinstance(path, str) else path.decode()
        key = (kind, path, serializer, deserializer, bool(registered))
        found = self._handles.get(key)
        if found is None:
            with self._lock:
                if len(self._handles) >= _MOST_METHODS:
                    self._handles = {}
                found = self._handles.setdefault(
                    key, MethodHandle(kind, path, serializer, deserializer, bool(registered))
                )
        return found

    def reset_lock(self) -> None:
        """In a forked child the lock may be held by a thread that does not exist."""
        self._lock = threading.Lock()


__all__ = [
    "STREAM_STREAM",
    "STREAM_UNARY",
    "UNARY_STREAM",
    "UNARY_UNARY",
    "MethodHandle",
    "MethodTable",
]
