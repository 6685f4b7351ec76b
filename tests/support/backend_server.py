"""The gRPC server that `tests.support.backend` runs in a process of its own.

Bytes in, bytes out: no generated code, so that it can stand behind any client. What one call
does is steered by the caller through the metadata key ``x-steer`` (see `Steer`), so that a
scenario says everything in one place and one server serves all scenarios at once.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc

STEER_KEY = "x-steer"
ID_KEY = "x-request-id"
ECHO_SERVICE = "test.Echo"
CONTROL_SERVICE = "test.Control"

_COMPRESSION = {
    "none": grpc.Compression.NoCompression,
    "deflate": grpc.Compression.Deflate,
    "gzip": grpc.Compression.Gzip,
}


@dataclass(frozen=True, slots=True)
class Steer:
    """What a caller asks of one call; every field is optional in the JSON of ``x-steer``.

    `delay_ms` passes before the first message is answered, `gap_ms` between responses.
    `initial` and `trailing` are metadata pairs; the value of a ``-bin`` key is base64.
    `code` (a name such as ``NOT_FOUND``) aborts the call, after `abort_after` responses.
    `responses` is the number of responses to one request of a unary-stream call.
    `report` makes every response a JSON report on the call instead of an echo.
    `size` makes every response that many zero bytes. `compression` is that of the responses.
    `headers_first` sends the initial metadata before anything else happens.
    `crash` makes the handler raise instead of answering.
    `drain` reads all requests of a stream-stream call before anything is answered.
    """

    delay_ms: float = 0
    gap_ms: float = 0
    initial: tuple[tuple[str, str], ...] = ()
    trailing: tuple[tuple[str, str], ...] = ()
    code: str | None = None
    details: str = ""
    abort_after: int = 0
    responses: int = 1
    report: bool = False
    size: int | None = None
    compression: str | None = None
    headers_first: bool = False
    crash: bool = False
    drain: bool = False


@dataclass(slots=True)
class Ledger:
    """Counts of what this server executed; any thread, under its lock."""

    name: str
    lock: threading.Lock = field(default_factory=threading.Lock)
    calls: Counter[str] = field(default_factory=Counter)
    ids: Counter[str] = field(default_factory=Counter)
    peers: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    completed: int = 0
    cancelled: int = 0

    def begin(self, method: str, request_id: str | None, peer: str) -> None:
        with self.lock:
            self.calls[method] += 1
            self.peers[peer] += 1
            self.in_flight += 1
            if request_id is not None:
                self.ids[request_id] += 1

    def end(self, *, cancelled: bool) -> None:
        with self.lock:
            self.in_flight -= 1
            if cancelled:
                self.cancelled += 1
            else:
                self.completed += 1

    def snapshot(self) -> dict[str, Any]:
        with self.lock:
            return {
                "name": self.name,
                "calls": dict(self.calls),
                "total": self.calls.total(),
                "ids": dict(self.ids),
                "peers": dict(self.peers),
                "in_flight": self.in_flight,
                "completed": self.completed,
                "cancelled": self.cancelled,
            }

    def reset(self) -> None:
        """Forget the counts; calls in flight stay counted."""
        with self.lock:
            self.calls.clear()
            self.ids.clear()
            self.peers.clear()
            self.completed = 0
            self.cancelled = 0


def _pairs(pairs: Iterable[Iterable[str]]) -> tuple[tuple[str, str | bytes], ...]:
    return tuple(
        (key, base64.b64decode(value) if key.endswith("-bin") else value) for key, value in pairs
    )


class _Call:
    """One call on this server: its steering, its bookkeeping and its answers."""

    def __init__(self, ledger: Ledger, method: str, context: Any) -> None:
        metadata = tuple(context.invocation_metadata())
        given = dict(metadata)
        self.ledger = ledger
        self.method = method
        self.context = context
        self.steer = Steer(**json.loads(given.get(STEER_KEY, "{}")))
        self.metadata = metadata
        self.sent = 0
        self._finished = False
        ledger.begin(method, given.get(ID_KEY), context.peer())
        if not context.add_callback(self._on_end):
            self._on_end()
        self._apply_headers()

    def _apply_headers(self) -> None:
        steer, context = self.steer, self.context
        if steer.compression is not None:
            context.set_compression(_COMPRESSION[steer.compression])
        if steer.trailing:
            context.set_trailing_metadata(_pairs(steer.trailing))
        if steer.initial or steer.headers_first:
            context.send_initial_metadata(_pairs(steer.initial))

    def _on_end(self) -> None:
        self.ledger.end(cancelled=not self._finished)

    def finish(self) -> None:
        self._finished = True

    def delay(self) -> None:
        if self.steer.delay_ms:
            time.sleep(self.steer.delay_ms / 1000)

    def check(self) -> None:
        """Fail here if the caller asked for it at this point of the call."""
        if self.steer.crash:
            self.finish()
            raise ValueError("crash asked for by the caller")
        if self.steer.code is not None and self.sent >= self.steer.abort_after:
            self.finish()
            if self.steer.code == "OK":
                self.context.set_details(self.steer.details)
                return
            self.context.abort(grpc.StatusCode[self.steer.code], self.steer.details)

    def answer(self, request: bytes) -> bytes:
        if self.sent and self.steer.gap_ms:
            time.sleep(self.steer.gap_ms / 1000)
        self.sent += 1
        if self.steer.report:
            return json.dumps(self.report(request)).encode()
        return request if self.steer.size is None else bytes(self.steer.size)

    def report(self, request: bytes) -> dict[str, Any]:
        host = self.context._rpc_event.call_details.host  # the :authority; no public accessor
        return {
            "name": self.ledger.name,
            "method": self.method,
            "authority": host.decode(),
            "peer": self.context.peer(),
            "identities": [i.decode() for i in self.context.peer_identities() or ()],
            "metadata": [
                [k, base64.b64encode(v).decode() if isinstance(v, bytes) else v]
                for k, v in self.metadata
            ],
            "time_remaining": self.context.time_remaining(),
            "request_size": len(request),
        }


def _echo_handlers(ledger: Ledger) -> dict[str, grpc.RpcMethodHandler]:
    """The four echo methods; a stream's answer to no request at all is empty."""

    def one(call: _Call, request: bytes) -> bytes:
        call.delay()
        call.check()
        response = call.answer(request)
        call.finish()
        return response

    def unary_unary(request: bytes, context: Any) -> bytes:
        return one(_Call(ledger, f"/{ECHO_SERVICE}/UnaryUnary", context), request)

    def stream_unary(requests: Iterator[bytes], context: Any) -> bytes:
        call = _Call(ledger, f"/{ECHO_SERVICE}/StreamUnary", context)
        return one(call, b"".join(requests))

    def unary_stream(request: bytes, context: Any) -> Iterator[bytes]:
        call = _Call(ledger, f"/{ECHO_SERVICE}/UnaryStream", context)
        call.delay()
        for _ in range(call.steer.responses):
            call.check()
            yield call.answer(request)
        call.check()
        call.finish()

    def stream_stream(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        call = _Call(ledger, f"/{ECHO_SERVICE}/StreamStream", context)
        if call.steer.drain:
            requests = iter(list(requests))
        call.delay()
        call.check()
        for request in requests:
            for _ in range(call.steer.responses):
                yield call.answer(request)
                call.check()
        call.check()
        call.finish()

    return {
        "UnaryUnary": grpc.unary_unary_rpc_method_handler(unary_unary),
        "StreamUnary": grpc.stream_unary_rpc_method_handler(stream_unary),
        "UnaryStream": grpc.unary_stream_rpc_method_handler(unary_stream),
        "StreamStream": grpc.stream_stream_rpc_method_handler(stream_stream),
    }


class Server:
    """A running server and its controls; built and stopped on the process's main thread."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.ledger = Ledger(options["name"])
        self._pool = futures.ThreadPoolExecutor(max_workers=options["workers"])
        self._server = grpc.server(
            self._pool, options=_server_options(options), maximum_concurrent_rpcs=None
        )
        self._health = _add_health(self._server) if options["health"] else None
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(ECHO_SERVICE, _echo_handlers(self.ledger)),
                grpc.method_handlers_generic_handler(CONTROL_SERVICE, self._control_handlers()),
            )
        )
        self.port = _bind(self._server, options)
        self._server.start()

    def control(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Answer one control request; the same for the pipe and for ``/test.Control``."""
        match request["op"]:
            case "stats":
                return self.ledger.snapshot()
            case "reset":
                self.ledger.reset()
                return {}
            case "set_health":
                return self._set_health(request.get("service", ""), request["status"])
            case op:
                return {"error": f"unknown control operation {op!r}"}

    def stop(self, grace: float | None) -> None:
        """Refuse new calls, let running ones finish for `grace` seconds, then abort them."""
        self._server.stop(grace).wait()

    def _set_health(self, service: str, status: str) -> dict[str, Any]:
        if self._health is None:
            return {"error": "this backend was started with health=False"}
        from grpc_health.v1 import health_pb2

        self._health.set(service, health_pb2.HealthCheckResponse.ServingStatus.Value(status))
        return {}

    def _control_handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        def handler(op: str) -> Callable[[bytes, Any], bytes]:
            def handle(request: bytes, context: Any) -> bytes:
                del context
                return json.dumps(self.control({**json.loads(request or b"{}"), "op": op})).encode()

            return handle

        return {
            name: grpc.unary_unary_rpc_method_handler(handler(op))
            for name, op in (("Stats", "stats"), ("Reset", "reset"), ("SetHealth", "set_health"))
        }


def _server_options(options: Mapping[str, Any]) -> list[tuple[str, Any]]:
    # Without so_reuseport two servers can never share a port by accident.
    args: list[tuple[str, Any]] = [("grpc.so_reuseport", 0)]
    for key in ("max_connection_age_ms", "max_connection_age_grace_ms"):
        args += [] if options[key] is None else [(f"grpc.{key}", options[key])]
    return args + [(key, value) for key, value in options["options"]]


def _add_health(server: grpc.Server) -> Any:
    from grpc_health.v1 import health, health_pb2_grpc

    servicer = health.HealthServicer(
        experimental_non_blocking=True,
        experimental_thread_pool=futures.ThreadPoolExecutor(max_workers=4),
    )
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    return servicer


def _bind(server: grpc.Server, options: Mapping[str, Any]) -> int:
    unix: str | None = options["unix"]
    where = unix if unix is not None else f"{options['host']}:{options['port']}"
    tls = options["tls"]
    if tls is None:
        return server.add_insecure_port(where)
    client_ca: str | None = tls.get("client_ca")
    credentials = grpc.ssl_server_credentials(
        [(tls["key"].encode(), tls["cert"].encode())],
        root_certificates=None if client_ca is None else client_ca.encode(),
        require_client_auth=client_ca is not None,
    )
    return server.add_secure_port(where, credentials)
