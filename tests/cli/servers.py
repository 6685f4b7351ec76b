"""Servers for the doctor's patients: a gRPC server that fails on request, and ports that misbehave.

All run on threads of this process, as most tests need only one connection.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.support.tls import Pair

_Handle = Callable[[socket.socket], None]
_FRAME_HEADERS, _FRAME_RESET, _FRAME_SETTINGS, _FRAME_PING, _FRAME_GOAWAY = 1, 3, 4, 6, 7
PREFACE = 24  # bytes


@contextlib.contextmanager
def grpc_server(
    tls: Pair | None = None,
    client_ca: str | None = None,
    *,
    with_health: bool = True,
    options: Sequence[tuple[str, Any]] = (),
) -> Iterator[str]:
    """The address of a server with /test.Patient/{Echo,Stream,Slow,Crash,Parse,<STATUS CODE>}.

    Health: "" and "well" serve, "ill" does not.
    """
    pool = futures.ThreadPoolExecutor(max_workers=8)
    server = grpc.server(pool, options=[("grpc.so_reuseport", 0), *options])
    ending = threading.Event()
    handlers = _patient(ending)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test.Patient", handlers),)
    )
    if with_health:
        servicer = health.HealthServicer()
        servicer.set("well", health_pb2.HealthCheckResponse.SERVING)
        servicer.set("ill", health_pb2.HealthCheckResponse.NOT_SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    if tls is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        credentials = grpc.ssl_server_credentials(
            [(tls.key.encode(), tls.cert.encode())],
            root_certificates=None if client_ca is None else client_ca.encode(),
            require_client_auth=client_ca is not None,
        )
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        ending.set()
        server.stop(None).wait()
        pool.shutdown()


def _patient(ending: threading.Event) -> dict[str, grpc.RpcMethodHandler]:
    def echo(request: bytes, context: Any) -> bytes:
        del context
        return request

    def stream(request: bytes, context: Any) -> Iterator[bytes]:
        yield request
        ending.wait(30)

    def slow(request: bytes, context: Any) -> bytes:
        ending.wait(30)
        return request

    def crash(request: bytes, context: Any) -> bytes:
        raise ValueError("crash asked for by the test")

    def parse(request: bytes) -> bytes:
        raise ValueError("not a message of this type")

    def failing(code: grpc.StatusCode) -> Callable[[bytes, Any], bytes]:
        def fail(request: bytes, context: Any) -> bytes:
            context.abort(code, f"the server's own {code.name}")
            return b""

        return fail

    unary = grpc.unary_unary_rpc_method_handler
    handlers: dict[str, grpc.RpcMethodHandler] = {
        code.name: unary(failing(code)) for code in grpc.StatusCode if code.value[0]
    }
    return {
        **handlers,
        "Echo": unary(echo),
        "Slow": unary(slow),
        "Crash": unary(crash),
        "Parse": unary(echo, request_deserializer=parse),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
    }


class Port:
    """A listening port whose connections `handle` has, each on a thread; closed by `with`."""

    def __init__(self, handle: _Handle) -> None:
        self._handle = handle
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._ending = False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> str:
        self._threads[0].start()
        return self.address

    def __exit__(self, *_: object) -> None:
        self._ending = True
        for each in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        self._listener.close()

    def _accept(self) -> None:
        while not self._ending:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            self._handle(connection)


def silent(connection: socket.socket) -> None:
    """Accepts, reads, and says nothing."""
    while connection.recv(4096):
        pass


def closes(connection: socket.socket) -> None:
    """Accepts, and closes at once."""


def says(words: bytes) -> _Handle:
    """Answers whatever comes with the same words, and closes."""

    def handle(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(words)

    return handle


def tls_without_alpn(context: ssl.SSLContext) -> _Handle:
    """A TLS server that has never heard of HTTP/2."""

    def handle(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as wrapped:
            while wrapped.recv(4096):
                pass

    return handle


def http2(
    answer: Callable[[int], bytes | None], *, first: float = 0.0, real: bool = True
) -> _Handle:
    """Speaks HTTP/2 so far that a client is connected; `answer` gets the id of each stream.

    What it returns is sent, None closes the connection. The server's SETTINGS come `first`
    seconds late; with `real=False` a client whose own SETTINGS say anything is hung up on.
    """

    def handle(connection: socket.socket) -> None:
        with connection.makefile("rb") as reader:
            if not reader.read(PREFACE).startswith(b"PRI"):
                return  # a TLS client
            time.sleep(first)
            greeted = False
            while len(head := reader.read(9)) == 9:
                kind, flags, stream = head[3], head[4], int.from_bytes(head[5:])
                payload = reader.read(int.from_bytes(head[:3]))
                if not greeted:
                    greeted = True
                    if payload and not real:
                        return
                    connection.sendall(frame(_FRAME_SETTINGS) + frame(_FRAME_SETTINGS, 1))
                elif kind == _FRAME_PING and not flags:
                    connection.sendall(frame(_FRAME_PING, 1, 0, payload))
                elif kind == _FRAME_HEADERS:
                    reply = answer(stream)
                    if reply is None:
                        return
                    connection.sendall(reply)

    return handle


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """One HTTP/2 frame (RFC 9113, section 4.1)."""
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def reset(code: int) -> Callable[[int], bytes]:
    """RST_STREAM, as a proxy sends it when its timeout is over."""
    return lambda stream: frame(_FRAME_RESET, 0, stream, struct.pack("!I", code))


def http_status(status: int) -> Callable[[int], bytes]:
    """A whole answer of headers only, with this status and nothing of gRPC's."""
    # HPACK: literal without indexing, name 8 of the static table (":status").
    block = b"\x08\x03" + str(status).encode()
    return lambda stream: frame(_FRAME_HEADERS, 5, stream, block)


def goaway(stream: int) -> bytes:
    """The server goes away, and has not taken the call."""
    return frame(_FRAME_GOAWAY, 0, 0, struct.pack("!II", 0, 0))


def hangs_up(stream: int) -> None:
    """The connection breaks in the middle of the call."""


def never(stream: int) -> bytes:
    """The call is not answered."""
    return b""


@contextlib.contextmanager
def full_backlog() -> Iterator[str]:
    """An address that lets connection attempts run into the void, as a firewall does."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        host, port = listener.getsockname()
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex((host, port))
        yield f"{host}:{port}"


@contextlib.contextmanager
def closed_port() -> Iterator[str]:
    """An address where nobody listens; held, so that nobody else takes it."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"
