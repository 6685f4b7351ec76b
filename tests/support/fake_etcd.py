"""An etcd of one member in this process, which does what a test tells it to.

    with FakeEtcd() as etcd:
        etcd.put("svc/a", "10.0.0.1:80")
        etcd.end_watches()                   # as a proxy or a restart would
        etcd.compact()                       # watches from older revisions are refused

It keeps revisions and answers Range, Put, DeleteRange, Txn, Watch, Lease and Authenticate as etcd
does, as far as our client can tell. It is no judge of the real protocol: integration/ has that.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent import futures
from types import TracebackType
from typing import Any, Self

import grpc
from grpc import StatusCode

from grpclb.resolvers.etcd import messages as m

_EVENT = m.Event


class FakeEtcd(grpc.GenericRpcHandler):
    """See the module. The attributes may be set at any time; `calls` counts RPCs by method."""

    def __init__(self, tls: grpc.ServerCredentials | None = None) -> None:
        self.revision = 1
        self.calls: Counter[str] = Counter()
        self.serializable = 0  # Range calls that asked for it
        self.metadata: dict[str, str] = {}  # of the last watch
        self.leader = True
        self.silent = False  # Watch is accepted and never answered
        self.fragments = 0  # send so many events at once, and mark the rest as to come
        self.users: dict[str, str] | None = None  # None: authentication is not enabled
        self.denied = "etcdserver: permission denied"  # what an unknown token is told
        self.denied_code = StatusCode.PERMISSION_DENIED
        self.wrong_password = "etcdserver: authentication failed, invalid user ID or password"
        self.new_token: Callable[[], str] = lambda: f"token-{self.calls['Authenticate']}"
        self.garbage: bytes | None = None  # in place of every answer
        self.put_fails: StatusCode | None = None
        self.page_hook: Callable[[], object] = lambda: None  # called after each page of a list
        self._tls = tls
        self._lock = threading.RLock()
        self._data: dict[bytes, Any] = {}
        self._history: list[tuple[int, Any]] = []
        self._compacted = 0
        self._leases: set[int] = set()
        self._tokens: set[str] = set()
        self._watches: set[queue.SimpleQueue[Any]] = set()
        self._server: grpc.Server | None = None
        self.port = 0

    # -- for tests ---------------------------------------------------------------------------------

    def start(self) -> Self:
        self._server = grpc.server(
            futures.ThreadPoolExecutor(24),
            handlers=[self],
            options=[("grpc.so_reuseport", 0)],
        )
        where = f"127.0.0.1:{self.port}"
        if self._tls is None:
            self.port = self._server.add_insecure_port(where)
        else:
            self.port = self._server.add_secure_port(where, self._tls)
        self._server.start()
        return self

    def stop(self) -> None:
        """Stop serving; what is stored stays, and `start` takes the same port again."""
        server, self._server = self._server, None
        if server is not None:
            stopped = server.stop(0)
            self._to_watches(None)
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
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def put(self, key: str, value: str) -> int:
        with self._lock:
            self._change(m.PutRequest(key=key.encode(), value=value.encode()))
            return self.revision

    def delete(self, key: str) -> int:
        with self._lock:
            self._remove([key.encode()])
            return self.revision

    def compact(self) -> None:
        """Forget everything before now."""
        with self._lock:
            self._compacted = self.revision + 1
            self._history.clear()

    def end_watches(self, code: StatusCode | None = None, details: str = "") -> None:
        """End all watch streams, with OK or a code."""
        self._to_watches((code, details))

    def cancel_watches(self, reason: str, compact_revision: int = 0) -> None:
        response = m.WatchResponse(
            canceled=True, cancel_reason=reason, compact_revision=compact_revision
        )
        self._to_watches(response)

    def progress(self) -> None:
        """What etcd sends on a watch that is idle."""
        response = m.WatchResponse()
        response.header.revision = self.revision
        self._to_watches(response)

    def expire_tokens(self) -> None:
        with self._lock:
            self._tokens.clear()

    @property
    def watching(self) -> int:
        return len(self._watches)

    # -- gRPC ---------------------------------------------------------------------------------

    def service(self, details: Any) -> grpc.RpcMethodHandler | None:
        name = details.method.rpartition("/")[2]
        self.calls[name] += 1
        method = getattr(self, f"_{name}")
        request = {
            "Watch": m.WatchRequest,
            "LeaseKeepAlive": m.LeaseKeepAliveRequest,
            "Range": m.RangeRequest,
            "Put": m.PutRequest,
            "DeleteRange": m.DeleteRangeRequest,
            "Txn": m.TxnRequest,
            "LeaseGrant": m.LeaseGrantRequest,
            "LeaseRevoke": m.LeaseRevokeRequest,
            "Authenticate": m.AuthenticateRequest,
        }[name]
        kind = (
            grpc.stream_stream_rpc_method_handler
            if name in ("Watch", "LeaseKeepAlive")
            else grpc.unary_unary_rpc_method_handler
        )
        return kind(method, request.FromString, self._encoded)

    def _encoded(self, message: Any) -> bytes:
        whole: bytes = message.SerializeToString()
        return whole if self.garbage is None else self.garbage

    def _check(self, context: Any) -> None:
        if self.users is not None and self._token(context) not in self._tokens:
            context.abort(self.denied_code, self.denied)

    def _token(self, context: Any) -> str:
        return str(dict(context.invocation_metadata()).get("token", ""))

    def _Authenticate(self, request: Any, context: Any) -> Any:  # noqa: N802
        if self.users is None:
            context.abort(
                StatusCode.FAILED_PRECONDITION, "etcdserver: authentication is not enabled"
            )
        assert self.users is not None
        if self.users.get(request.name) != request.password:
            context.abort(StatusCode.INVALID_ARGUMENT, self.wrong_password)
        with self._lock:
            token = self.new_token()
            self._tokens.add(token)
        return m.AuthenticateResponse(token=token)

    def _Range(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._check(context)
        self.serializable += request.serializable
        if not self.leader and not request.serializable:
            context.abort(StatusCode.UNAVAILABLE, "etcdserver: no leader")
        with self._lock:
            end = request.range_end or request.key + b"\0"
            found = sorted(key for key in self._data if request.key <= key < end)
            limit = request.limit or len(found)
            response = m.RangeResponse(
                kvs=[self._data[key] for key in found[:limit]], more=len(found) > limit
            )
            response.header.revision = self.revision
        self.page_hook()
        return response

    def _Put(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._check(context)
        if self.put_fails is not None:
            context.abort(self.put_fails, "as the test wants")
        with self._lock:
            if request.lease and request.lease not in self._leases:
                context.abort(StatusCode.NOT_FOUND, "etcdserver: requested lease not found")
            self._change(request)
            return m.PutResponse(header={"revision": self.revision})

    def _DeleteRange(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._check(context)
        with self._lock:
            return m.DeleteRangeResponse(deleted=self._remove([request.key]))

    def _Txn(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._check(context)
        if self.put_fails is not None:
            context.abort(self.put_fails, "as the test wants")
        with self._lock:
            for operation in request.success:
                self._change(operation.request_put)
        return m.TxnResponse(succeeded=True)

    def _LeaseGrant(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._check(context)
        lease = request.ID or 1_000 + self.calls["LeaseGrant"]
        self._leases.add(lease)
        return m.LeaseGrantResponse(ID=lease, TTL=max(request.TTL, 2))

    def _LeaseRevoke(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.ID not in self._leases:
            context.abort(StatusCode.NOT_FOUND, "etcdserver: requested lease not found")
        with self._lock:
            self._leases.discard(request.ID)
            self._remove([key for key, kv in self._data.items() if kv.lease == request.ID])
        return m.LeaseRevokeResponse()

    def _LeaseKeepAlive(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:  # noqa: N802
        self._check(context)
        for request in requests:
            ttl = 5 if request.ID in self._leases else 0
            yield m.LeaseKeepAliveResponse(ID=request.ID, TTL=ttl)

    def _Watch(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:  # noqa: N802
        self.metadata = {k: str(v) for k, v in context.invocation_metadata()}
        create = next(requests).create_request
        mine: queue.SimpleQueue[Any] = queue.SimpleQueue()
        if not context.add_callback(lambda: mine.put(None)):
            return
        if not self.leader and self.metadata.get("hasleader") == "true":
            context.abort(StatusCode.UNAVAILABLE, "etcdserver: no leader")
        if self.users is not None and self._token(context) not in self._tokens:
            yield m.WatchResponse(created=True, canceled=True, cancel_reason=self.denied)
            return
        with self._lock:
            self._watches.add(mine)
            if create.start_revision < self._compacted:
                backlog = [m.WatchResponse(canceled=True, compact_revision=self._compacted)]
            else:
                backlog = [
                    self._batch(n, e) for n, e in self._history if n >= create.start_revision
                ]
        try:
            if not self.silent:
                yield m.WatchResponse(created=True)
                yield from backlog
            yield from self._live(mine, create, context)
        finally:
            with self._lock:
                self._watches.discard(mine)

    def _live(self, mine: queue.SimpleQueue[Any], create: Any, context: Any) -> Iterator[Any]:
        while (item := mine.get()) is not None:
            match item:
                case (None, _):
                    return
                case (code, details):
                    context.abort(code, details)
            if item.events and not (create.key <= item.events[0].kv.key < create.range_end):
                continue
            yield from self._in_fragments(item)
            if item.canceled:
                return

    def _in_fragments(self, response: Any) -> Iterator[Any]:
        size, events = self.fragments, list(response.events)
        while size and len(events) > size:
            part = m.WatchResponse(header=response.header, fragment=True, events=events[:size])
            events = events[size:]
            yield part
        yield m.WatchResponse(
            header=response.header,
            events=events,
            canceled=response.canceled,
            cancel_reason=response.cancel_reason,
            compact_revision=response.compact_revision,
        )

    # -- the store, with the lock held --------------------------------------------------------

    def put_at_once(self, *pairs: tuple[str, str]) -> None:
        """Several keys in one revision."""
        with self._lock:
            self.revision += 1
            events = [self._set(m.PutRequest(key=k.encode(), value=v.encode())) for k, v in pairs]
            self._happened(events)

    def _change(self, request: Any) -> None:
        self.revision += 1
        self._happened([self._set(request)])

    def _set(self, request: Any) -> Any:
        event = _EVENT()
        event.kv.key, event.kv.value, event.kv.lease = request.key, request.value, request.lease
        event.kv.mod_revision = self.revision
        self._data[request.key] = event.kv
        return event

    def _remove(self, keys: list[bytes]) -> int:
        events: list[Any] = []
        for key in keys:
            if self._data.pop(key, None) is not None:
                self.revision += not events
                event = _EVENT(type=m.DELETE)
                event.kv.key, event.kv.mod_revision = key, self.revision
                events.append(event)
        if events:
            self._happened(events)
        return len(events)

    def _happened(self, events: list[Any]) -> None:
        self._history += [(self.revision, event) for event in events]
        self._to_watches(self._batch(self.revision, *events))

    def _batch(self, revision: int, *events: Any) -> Any:
        return m.WatchResponse(header={"revision": revision}, events=events)

    def _to_watches(self, item: Any) -> None:
        with self._lock:
            for watch in self._watches:
                watch.put(item)
