"""A management server in this process: ADS over 127.0.0.1, state of the world, on a script.

    with XdsServer() as server:
        server.put(listener("api"), route_config(), cluster(), endpoints("c", ...))
        ...                                   # clients are told what they asked for, as it changes
        server.wait_for(lambda: server.answers("c-core", "CDS"))

Resources are messages of grpclb's own pool (`tests.support.xds_resources`), or an Any. What a
client said is in `requests`, by the id of its node. Faults: `silent`, `delay`, `end_streams`,
`say` (any response at all), and `stop` with `start`, which takes the same port again.

It is for several clients side by side, grpcio's own and Envoy among them, which get what a control
plane would send: each change once, wildcards, an answer that lacks what was deleted or never was.
`tests/support/xds_server.py` is for one client under test: whole requests, responses that say
nothing new, resources that are never answered, TLS.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import grpc
from grpc import StatusCode

from grpclb.resolvers.xds import messages as m
from grpclb.resolvers.xds.messages import message
from tests.support.xds_resources import pack

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
REQUEST = "envoy.service.discovery.v3.DiscoveryRequest"
RESPONSE = "envoy.service.discovery.v3.DiscoveryResponse"
TYPES = {
    "CDS": m.CLUSTER,
    "EDS": m.CLUSTER_LOAD_ASSIGNMENT,
    "LDS": m.LISTENER,
    "RDS": m.ROUTE_CONFIGURATION,
}  # in the order in which news is told: what is pointed to first
_SHORT = {m.TYPE_PREFIX + name: short for short, name in TYPES.items()}
_WHOLE = ("LDS", "CDS")  # a response that lacks one of these deletes it
_ENV = (("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1))


@dataclass(frozen=True, slots=True)
class Seen:
    """One request. `kind` is LDS, RDS, CDS, EDS, or the type URL of another type.

    `error` is empty unless it is a NACK; `user_agent` of the first of a stream.
    """

    stream: int
    node: str
    kind: str
    names: tuple[str, ...]
    version: str
    nonce: str
    error: str
    first: bool
    user_agent: str


@dataclass(slots=True)
class _Subscription:
    names: tuple[str, ...] = ()
    nonce: str = ""
    sent: Mapping[str, bytes] | None = None


@dataclass(slots=True, eq=False)
class _Stream:
    number: int
    out: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)
    node: str = ""
    subscriptions: dict[str, _Subscription] = field(default_factory=dict)


class XdsServer(grpc.GenericRpcHandler):
    """See the module. Its methods may be called from any thread.

    `silent` kinds are never answered; each response goes out after `delay` seconds.
    """

    def __init__(self) -> None:
        self.port = 0
        self.requests: list[Seen] = []
        self.silent: set[str] = set()
        self.delay = 0.0
        self.streams = 0  # opened so far
        self._changed = threading.Condition(threading.RLock())
        self._resources: dict[str, dict[str, Any]] = {kind: {} for kind in TYPES}
        self._versions = dict.fromkeys(TYPES, 0)
        self._nonces = itertools.count(1)
        self._open: list[_Stream] = []
        self._server: grpc.Server | None = None

    # -- life ------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Serve, on the port of the last time if there was one."""
        self._server = grpc.server(futures.ThreadPoolExecutor(32), handlers=[self], options=_ENV)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()
        return self

    def stop(self) -> None:
        """As a process that is killed: streams break. The resources stay."""
        server, self._server = self._server, None
        if server is not None:
            stopped = server.stop(0)
            self._to_all(None)
            stopped.wait(10)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def bootstrap(self, node: str = "test", **more: Any) -> dict[str, Any]:
        """A client's bootstrap; `more` are fields of the server, such as server_features."""
        server = {"server_uri": self.address, "channel_creds": [{"type": "insecure"}], **more}
        return {"xds_servers": [server], "node": {"id": node}}

    # -- what is served ---------------------------------------------------------------------------

    def put(self, *resources: Any) -> None:
        """Add or replace these, and tell who asked for them."""
        with self._changed:
            for resource in resources:
                kind = _kind_of(resource)
                name = resource.cluster_name if kind == "EDS" else resource.name
                self._set(kind, name, resource)
            self._publish()

    def put_as(self, kind: str, name: str, resource: Any) -> None:
        """Serve an Any, whatever is in it, to those who ask for this name."""
        with self._changed:
            self._set(kind, name, resource)
            self._publish()

    def remove(self, kind: str, *names: str) -> None:
        with self._changed:
            for name in names:
                del self._resources[kind][name]
            self._versions[kind] += 1
            self._publish()

    def version(self, kind: str) -> str:
        """What is said now with resources of this kind."""
        return str(self._versions[kind])

    def _set(self, kind: str, name: str, resource: Any) -> None:
        packed = resource if resource.DESCRIPTOR.name == "Any" else pack(resource)
        self._resources[kind][name] = packed
        self._versions[kind] += 1

    # -- faults -----------------------------------------------------------------------------------

    def end_streams(self, code: StatusCode | None = None, details: str = "") -> None:
        """End all streams, with OK or a code."""
        self._to_all((code, details))

    def say(self, data: bytes | Any) -> None:
        """Send bytes, or a response, on all streams, as it is."""
        self._to_all(data if isinstance(data, bytes) else data.SerializeToString())

    def response(self, kind: str, *resources: Any, **fields: Any) -> Any:
        """A DiscoveryResponse for `say`; fields as keywords in place of those that are right."""
        proto = message(RESPONSE)(
            **{
                "type_url": m.TYPE_PREFIX + TYPES[kind],
                "version_info": self.version(kind),
                "nonce": f"n{next(self._nonces)}",
                **fields,
            }
        )
        for resource in resources:
            packed = resource if resource.DESCRIPTOR.name == "Any" else pack(resource)
            proto.resources.add(type_url=packed.type_url, value=packed.value)
        return proto

    # -- what was seen ----------------------------------------------------------------------------

    def wait_for(self, condition: Callable[[], Any], timeout: float = 20.0) -> Any:
        """The first true value of `condition`, looked at after each request, or TimeoutError."""
        end = time.monotonic() + timeout
        with self._changed:
            while not (found := condition()):
                left = end - time.monotonic()
                if left <= 0:
                    last = "\n  ".join(map(repr, self.requests[-8:]))
                    raise TimeoutError(f"not seen within {timeout} s; last requests:\n  {last}")
                self._changed.wait(left)
        return found

    def asked(self, node: str, kind: str = "") -> list[Seen]:
        """The requests of a client, of one kind or all."""
        with self._changed:
            return [s for s in self.requests if s.node == node and kind in ("", s.kind)]

    def verdict(self, node: str, kind: str) -> Seen | None:
        """The client's answer to the last response of this kind that it was sent, if it came."""
        with self._changed:
            for stream in reversed(self._open):
                held = stream.subscriptions.get(kind)
                if stream.node == node and held is not None and held.nonce:
                    answers = (s for s in self.asked(node, kind) if s.nonce == held.nonce)
                    return next(answers, None)
        return None

    def forget(self) -> None:
        """Forget the requests so far."""
        with self._changed:
            self.requests.clear()

    # -- ADS --------------------------------------------------------------------------------------

    def service(self, details: Any) -> grpc.RpcMethodHandler | None:
        if details.method != METHOD:
            return None
        return grpc.stream_stream_rpc_method_handler(self._serve, message(REQUEST).FromString, None)

    def _serve(self, requests: Iterator[Any], context: Any) -> Iterator[bytes]:
        with self._changed:
            self.streams += 1
            stream = _Stream(self.streams)
            self._open.append(stream)
        if not context.add_callback(lambda: stream.out.put(None)):
            stream.out.put(None)
        reader = threading.Thread(target=self._read, args=(stream, requests), daemon=True)
        reader.start()
        try:
            while (item := stream.out.get()) is not None:
                match item:
                    case (None, _):
                        return
                    case (code, details):
                        context.abort(code, details)
                    case bytes() as data:
                        if self.delay:
                            time.sleep(self.delay)
                        yield data
        finally:
            with self._changed:
                self._open.remove(stream)

    def _read(self, stream: _Stream, requests: Iterator[Any]) -> None:
        try:
            for request in requests:
                self._heard(stream, request)
        except Exception:  # grpc's own, without a message: the stream broke
            return
        finally:
            stream.out.put(None)

    def _heard(self, stream: _Stream, request: Any) -> None:
        with self._changed:
            first = not stream.node
            stream.node = stream.node or request.node.id or "(nobody)"
            kind = _SHORT.get(request.type_url, request.type_url)
            names = tuple(request.resource_names)
            self.requests.append(
                Seen(
                    stream.number, stream.node, kind, names, request.version_info,
                    request.response_nonce, request.error_detail.message, first,
                    request.node.user_agent_name,
                )
            )  # fmt: skip
            if kind in TYPES:
                held = stream.subscriptions.setdefault(kind, _Subscription())
                if request.response_nonce == held.nonce:  # others are out of date
                    again = set(names) - set(held.names)
                    held.names = names
                    self._tell(stream, kind, bool(again))
            self._changed.notify_all()

    def _publish(self) -> None:
        """Tell the open streams, with the lock held, what is new to them."""
        for stream in self._open:
            for kind in TYPES:
                if kind in stream.subscriptions:
                    self._tell(stream, kind, False)

    def _tell(self, stream: _Stream, kind: str, asked: bool) -> None:
        """A response, if the client `asked` for more, or if what it asked for has changed."""
        if kind in self.silent:
            return
        held, all_of_them = stream.subscriptions[kind], self._resources[kind]
        found = [all_of_them[name] for name in _wanted(held, all_of_them) if name in all_of_them]
        now = {f"{i}": r.value for i, r in enumerate(found)}
        if not asked and held.sent == now:
            return
        if not found and (kind not in _WHOLE or (held.sent is None and not held.names)):
            return
        response = self.response(kind, *found)
        held.sent, held.nonce = now, response.nonce
        stream.out.put(response.SerializeToString())

    def _to_all(self, item: Any) -> None:
        with self._changed:
            for stream in self._open:
                stream.out.put(item)


def _wanted(held: _Subscription, known: Mapping[str, Any]) -> tuple[str, ...]:
    """No name at all, in the first request, and ``*``: everything."""
    return tuple(known) if not held.names or held.names == ("*",) else held.names


def _kind_of(resource: Any) -> str:
    found: str = _SHORT[m.TYPE_PREFIX + resource.DESCRIPTOR.full_name]
    return found
