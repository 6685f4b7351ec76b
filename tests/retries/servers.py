"""Three real servers in this process whose answers are scripted, attempt by attempt."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc

Step = dict[str, Any]  # code, push, delay, headers, messages; empty: echo


class Scripted:
    """`script(key, step, ...)` says what the attempts of the RPC with that key meet, in order."""

    def __init__(self, count: int = 3) -> None:
        self._lock = threading.Lock()
        self._scripts: dict[str, list[Step]] = {}
        self.seen: list[tuple[str, str, str | None]] = []  # key, server, previous attempts
        self.cancelled: list[str] = []
        self.received: list[bytes] = []
        self._servers: list[grpc.Server] = []
        self.addresses: list[str] = []
        for name in "abcdefgh"[:count]:
            server = grpc.server(futures.ThreadPoolExecutor(16))
            server.add_generic_rpc_handlers((_Handler(self, name),))
            self.addresses.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
            server.start()
            self._servers.append(server)

    @property
    def target(self) -> str:
        return "ipv4:" + ",".join(self.addresses)

    def script(self, key: str, *steps: Step) -> tuple[tuple[str, str], ...]:
        """Returns the metadata to send."""
        self._scripts[key] = list(steps)
        return (("id", key),)

    def attempts_of(self, key: str) -> list[str]:
        with self._lock:
            return [server for seen, server, _ in self.seen if seen == key]

    def next_step(self, key: str, name: str, previous: str | None) -> Step:
        with self._lock:
            self.seen.append((key, name, previous))
            steps = self._scripts.get(key)
            return steps.pop(0) if steps else {}

    def stop(self) -> None:
        for event in [server.stop(0) for server in self._servers]:
            event.wait()


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, scripted: Scripted, name: str) -> None:
        self._scripted = scripted
        self._name = name

    def service(self, details: Any) -> Any:
        metadata = dict(details.invocation_metadata)
        kind = details.method.rsplit("/", 1)[1]
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(_Run(self._scripted, self._name, metadata, kind))


class _Run:
    """One attempt on the server."""

    def __init__(self, scripted: Scripted, name: str, metadata: dict[str, str], kind: str) -> None:
        self._scripted = scripted
        self._name = name
        self._metadata = metadata
        self._kind = kind

    def __call__(self, request: Any, context: Any) -> Any:
        key = self._metadata.get("id", "")
        previous = self._metadata.get("grpc-previous-rpc-attempts")
        step = self._scripted.next_step(key, self._name, previous)
        ended = threading.Event()

        def over() -> None:
            if not context.is_active():
                ended.set()

        context.add_callback(over)
        if "headers" in step:
            context.send_initial_metadata(step["headers"])
        if self._kind.endswith("stream"):
            return self._stream(step, request, context, ended, key)
        return self._unary(step, request, context, ended, key)

    def _meet(self, step: Step, context: Any, ended: threading.Event, key: str) -> None:
        if ended.wait(step.get("delay", 0)):
            self._scripted.cancelled.append(key)
        if "push" in step:
            context.set_trailing_metadata((("grpc-retry-pushback-ms", str(step["push"])),))
        if "code" in step:
            context.abort(step["code"], f"scripted by {self._name}")

    def _unary(self, step: Step, request: Any, context: Any, ended: Any, key: str) -> bytes:
        if step.get("early"):
            self._meet(step, context, ended, key)
        if not isinstance(request, bytes):
            request = b"".join(request)
        self._meet(step, context, ended, key)
        self._scripted.received.append(request)
        return bytes(request)

    def _stream(
        self, step: Step, request: Any, context: Any, ended: Any, key: str
    ) -> Iterator[bytes]:
        for number in range(step.get("messages", 0)):
            yield b"early %d" % number
        if not step.get("late"):
            self._meet(step, context, ended, key)
        yield from ([request] * 3 if isinstance(request, bytes) else request)
        self._meet(step, context, ended, key)


def pause() -> None:
    """A moment for a server to see a cancellation."""
    time.sleep(0.05)
