"""A management server in this process, over real gRPC, which does what a test tells it to.

    with XdsServer() as server:
        server.set(CDS_URL, {"c": cluster("c")})     # new version, pushed to all who asked
        server.push(CDS_URL, [packed], version="x")  # any response at all, to all streams
        server.end_streams()                         # with OK, or a status
        server.stop(), server.start()                # on the same port

State of the world, ADS only. A request is answered if it asks for names (or for the first time);
an ACK or a NACK is not. What does not exist is not answered, as go-control-plane does it.

It is for one client under test: whole requests are kept, each `set` is pushed whether it changes
anything or not, and over TLS it sees who is authorized. `integration/xds/server.py` is for several
clients side by side, Envoy among them: it tells them apart and judges what each one said last,
answers wildcards, says what was deleted, and stays silent where nothing has changed.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from types import TracebackType
from typing import Any, Self

import grpc
from grpc import StatusCode

from grpclb.resolvers.xds.messages import message
from grpclb.resolvers.xds.wire import METHOD
from tests.support.xds_resources import pack

REQUEST = message("envoy.service.discovery.v3.DiscoveryRequest")
RESPONSE = message("envoy.service.discovery.v3.DiscoveryResponse")


class _End:
    def __init__(self, code: StatusCode, details: str) -> None:
        self.code = code
        self.details = details


class _Stream:
    """What one client asked for on one stream."""

    def __init__(self) -> None:
        self.events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.names: dict[str, tuple[str, ...]] = {}
        self.nonces: dict[str, str] = {}


class XdsServer(grpc.GenericRpcHandler):
    """See the module. `requests` holds all requests so far; read it from any thread.

    `authorized` has the ``authorization`` of each stream so far, or None.
    """

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.requests: list[Any] = []
        self.authorized: list[str | None] = []
        self.streams = 0  # opened so far
        self.port = 0
        self._credentials = credentials
        self._lock = threading.RLock()
        self._open: set[_Stream] = set()
        self._resources: dict[str, dict[str, Any]] = {}
        self._versions: dict[str, int] = {}
        self._nonce = 0
        self._server: grpc.Server | None = None

    # -- for tests -------------------------------------------------------------------------------

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def open_streams(self) -> int:
        with self._lock:
            return len(self._open)

    def bootstrap(self, **more: Any) -> dict[str, Any]:
        """A bootstrap that names this server."""
        return {"xds_servers": [self.entry()], "node": {"id": "test"}, **more}

    def entry(self, *features: str) -> dict[str, Any]:
        """This server's entry in a bootstrap."""
        return {
            "server_uri": self.target,
            "channel_creds": [{"type": "insecure"}],
            "server_features": list(features),
        }

    def start(self) -> Self:
        self._server = grpc.server(
            futures.ThreadPoolExecutor(32, thread_name_prefix="xds-server"),
            handlers=[self],
            options=[("grpc.so_reuseport", 0), ("grpc.max_send_message_length", -1)],
        )
        address = f"127.0.0.1:{self.port}"
        if self._credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, self._credentials)
        self._server.start()
        return self

    def stop(self) -> None:
        if self._server is not None:
            for stream in self._all():
                stream.events.put(_End(StatusCode.UNAVAILABLE, "the server stops"))
            self._server.stop(0).wait()
            self._server = None

    def set(self, type_url: str, resources: Mapping[str, Any]) -> None:
        """All resources of a kind, by name; messages, or Any for what is to be sent as it is."""
        packed = {
            name: value if value.DESCRIPTOR.name == "Any" else pack(value)
            for name, value in resources.items()
        }
        with self._lock:
            self._resources[type_url] = packed
            self._versions[type_url] = self._versions.get(type_url, 0) + 1
        for stream in self._all():
            stream.events.put(type_url)

    def push(
        self, type_url: str, resources: Iterable[Any] = (), *, version: str = "x", nonce: str = ""
    ) -> None:
        """One response to all open streams, whatever they asked for."""
        response = RESPONSE(type_url=type_url, version_info=version)
        for resource in resources:
            response.resources.add(type_url=resource.type_url, value=resource.value)
        response.nonce = nonce or self._next_nonce()
        self.push_bytes(response.SerializeToString())

    def push_bytes(self, data: bytes) -> None:
        """These bytes as a message to all open streams."""
        for stream in self._all():
            stream.events.put(data)

    def end_streams(self, code: StatusCode = StatusCode.OK, details: str = "") -> None:
        for stream in self._all():
            stream.events.put(_End(code, details))

    def of_kind(self, type_url: str) -> list[Any]:
        """The requests for one kind so far."""
        with self._lock:
            return [r for r in self.requests if r.type_url == type_url]

    def wait_for(
        self, condition: Callable[[], object], what: str = "", patience: float = 10.0
    ) -> None:
        """Block until a condition holds; for tests that are no coroutines."""
        end = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < end, f"not within {patience} s: {what or condition}"
            threading.Event().wait(0.005)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # -- the service -----------------------------------------------------------------------------

    def service(self, details: Any) -> grpc.RpcMethodHandler | None:
        if details.method != METHOD:
            return None
        return grpc.stream_stream_rpc_method_handler(self._serve)

    def _serve(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        stream = _Stream()
        # Before the stream counts as open: a test may end it at once. False: it is over already.
        if not context.add_callback(lambda: stream.events.put(None)):
            stream.events.put(None)
        metadata = dict(context.invocation_metadata())
        with self._lock:
            self._open.add(stream)
            self.authorized.append(metadata.get("authorization"))
            self.streams += 1
        reader = threading.Thread(target=self._read, args=(requests, stream), daemon=True)
        reader.start()
        try:
            yield from self._answers(stream, context)
        finally:
            with self._lock:
                self._open.discard(stream)

    def _answers(self, stream: _Stream, context: Any) -> Iterator[bytes]:
        while True:
            match stream.events.get():
                case None:
                    return
                case _End() as end:
                    if end.code is not StatusCode.OK:
                        context.abort(end.code, end.details)
                    return
                case bytes() as data:
                    yield data
                case str() as type_url:
                    if stream.names.get(type_url):
                        yield self._response(stream, type_url)
                case request:
                    answer = self._answer(stream, request)
                    if answer is not None:
                        yield answer

    def _read(self, requests: Iterator[bytes], stream: _Stream) -> None:
        try:
            for data in requests:
                request = REQUEST.FromString(data)
                with self._lock:
                    self.requests.append(request)
                stream.events.put(request)
        except Exception:  # grpcio's own, of several kinds: the stream is over
            return

    def _answer(self, stream: _Stream, request: Any) -> bytes | None:
        url, names = request.type_url, tuple(request.resource_names)
        before = stream.names.get(url)
        stream.names[url] = names
        acks = request.response_nonce and request.response_nonce == stream.nonces.get(url)
        new = set(names) - set(before or ())
        if not names or (acks and not new) or (before is not None and not new):
            return None
        with self._lock:
            known = self._resources.get(url, {})
        return self._response(stream, url) if new & known.keys() else None

    def _response(self, stream: _Stream, type_url: str) -> bytes:
        with self._lock:
            resources = dict(self._resources.get(type_url, {}))
            version = self._versions.get(type_url, 0)
        response = RESPONSE(type_url=type_url, version_info=str(version))
        for name in stream.names[type_url]:
            if name in resources:
                packed = resources[name]
                response.resources.add(type_url=packed.type_url, value=packed.value)
        response.nonce = stream.nonces[type_url] = self._next_nonce()
        data: bytes = response.SerializeToString()
        return data

    def _next_nonce(self) -> str:
        with self._lock:
            self._nonce += 1
            return f"nonce-{self._nonce}"

    def _all(self) -> list[_Stream]:
        with self._lock:
            return list(self._open)
