"""A small Kubernetes API server: EndpointSlices and Services, list and watch, with faults.

    api = KubernetesApi(tokens={"t"})               # on any loop, also on virtual time
    reader, writer = await api.opener(...)          # a connection in memory

It keeps a history, so that a watch begins where its resourceVersion says, or is told 410. Faults
are set for the next requests (`fail_next`) or for the watches that run (`break_watches`).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.kubernetes_objects import SERVICE_LABEL, slice_object, status_object

_SLICES = "endpointslices"


@dataclass(frozen=True, slots=True)
class Fault:
    """What a request gets instead of its answer. With `silent` it gets nothing, for ever."""

    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    silent: bool = False
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came, and when (the loop's seconds)."""

    at: float
    verb: str  # list, watch, get
    path: str
    query: dict[str, str]
    headers: dict[str, str]


@dataclass(slots=True, eq=False)
class _Watch:
    namespace: str
    service: str | None
    version: int  # up to which all has been sent
    queue: asyncio.Queue[object] = field(default_factory=asyncio.Queue)


_END = object()  # in a watch's queue: end in good order
_CUT = object()  # close the connection in the middle


class KubernetesApi:
    """The server's mind. Lives on one loop; `handle` serves one connection."""

    def __init__(self, tokens: Iterable[str] = ("token",)) -> None:
        self.tokens = set(tokens)  # empty: everybody may come in
        self.up = True  # False: connections are refused
        self.gone_by_status = False  # how a watch hears that its version is too old
        self.services: set[tuple[str, str]] = set()
        self.services_forbidden = False
        self.bookmark_at_end = True
        self.break_at_once: str | None = None  # what `break_watches` does, for every new watch
        self.on_request: Callable[[Request], object] = lambda request: None
        self.stuck = False  # watches that began do not end in time, and say nothing more
        self.requests: list[Request] = []
        self.connects = 0
        self.bugs: list[Exception] = []  # of this server
        self.version = 100
        self._floor = 0  # versions below are compacted
        self._objects: dict[tuple[str, str], dict[str, Any]] = {}
        self._history: list[tuple[int, str, dict[str, Any]]] = []
        self._lists: dict[int, list[dict[str, Any]]] = {}
        self._faults: list[tuple[str, Fault]] = []
        self._watches: set[_Watch] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    # -- what a cluster does -----------------------------------------------------------------

    def put(self, raw: dict[str, Any]) -> None:
        """Create or replace an EndpointSlice."""
        key = (raw["metadata"]["namespace"], raw["metadata"]["name"])
        self._event("MODIFIED" if key in self._objects else "ADDED", key, raw)

    def delete(self, name: str, namespace: str = "shop") -> None:
        key = (namespace, name)
        self._event("DELETED", key, self._objects[key])

    def elsewhere(self, count: int = 1) -> None:
        """Things happen that nobody here watches: only the version moves."""
        self.version += count

    def compact(self) -> None:
        """Forget the past: older versions, and lists that are half read, are 410 from now on."""
        self._floor = self.version
        self._lists.clear()

    def bookmark(self) -> None:
        """Tell every watch the present version."""
        for watch in self._watches:
            watch.queue.put_nowait((self.version, _bookmark(self.version)))

    def restart(self) -> None:
        """Every connection is lost; what is stored stays."""
        for task in self._tasks:
            task.cancel()

    @property
    def watching(self) -> int:
        return len(self._watches)

    def count(self, verb: str) -> int:
        return sum(request.verb == verb for request in self.requests)

    # -- faults ------------------------------------------------------------------------------

    def fail_next(self, verb: str, *faults: Fault) -> None:
        """Each of `faults` hits one of the next requests of that verb ("any" for all)."""
        self._faults += [(verb, fault) for fault in faults]

    def mend(self) -> None:
        self._faults.clear()

    def break_watches(self, how: str) -> None:
        """``end`` in good order, ``cut``, ``half`` a line, ``junk``; or 410, 500 … as an event."""
        for watch in self._watches:
            for item in _breakage(how):
                watch.queue.put_nowait(item)

    def say_error(self, status: dict[str, Any]) -> None:
        """An ERROR event that carries `status`, which ends all watches."""
        for watch in self._watches:
            watch.queue.put_nowait(_line("ERROR", status))
            watch.queue.put_nowait(_END)

    # -- connections -------------------------------------------------------------------------

    async def opener(
        self, host: str, port: int, tls: object, server_name: str | None
    ) -> tuple[asyncio.StreamReader, Any]:
        """A connection in memory, in the place of grpclb's own `open_streams`."""
        self.connects += 1
        if not self.up:
            raise ConnectionRefusedError(111, "Connection refused")
        to_client, to_server = asyncio.StreamReader(), asyncio.StreamReader()
        ours, theirs = _MemoryWriter(to_client, to_server), _MemoryWriter(to_server, to_client)
        task = asyncio.create_task(self._serve(to_server, ours))
        theirs.on_abort = task.cancel
        return to_client, theirs

    async def close(self) -> None:
        """End all connections in memory."""
        tasks = list(self._tasks)
        self.restart()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: Any) -> None:
        try:
            await self.handle(reader, writer)
        except Exception as error:
            self.bugs.append(error)
        finally:
            writer.transport.abort()

    async def handle(self, reader: asyncio.StreamReader, writer: Any) -> None:
        """Serve one connection until it ends. Raises what the connection raises."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._request(reader, writer):
                pass
        finally:
            self._tasks.discard(task)

    async def _request(self, reader: asyncio.StreamReader, writer: Any) -> bool:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except asyncio.IncompleteReadError:
            return False
        first, *lines = head.strip().split("\r\n")
        method, target, _ = first.split(" ")
        assert method == "GET"
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
        parts = urlsplit(target)
        query = {k: v[0] for k, v in parse_qs(parts.query, keep_blank_values=True).items()}
        path = unquote(parts.path)
        verb = "get"
        if path.endswith(_SLICES):
            verb = "watch" if query.get("watch") in ("1", "true") else "list"
        at = asyncio.get_running_loop().time()
        self.requests.append(Request(at, verb, path, query, headers))
        self.on_request(self.requests[-1])
        fault = self._fault(verb)
        if fault is not None:
            return await self._fail(fault, reader, writer)
        if self.tokens and headers.get("authorization", "")[7:] not in self.tokens:
            return await _answer(writer, 401, status_object(401, "Unauthorized", "Unauthorized"))
        answer = asyncio.create_task(self._dispatch(verb, path, query, writer))
        return await (_unless_gone(answer, reader) if verb == "watch" else answer)

    async def _dispatch(self, verb: str, path: str, query: dict[str, str], writer: Any) -> bool:
        labels = dict([query.get("labelSelector", "=").split("=", 1)])
        service, words = labels.get(SERVICE_LABEL), path.strip("/").split("/")
        if verb == "get":
            return await self._get_service(words, writer)
        if path != f"/apis/discovery.k8s.io/v1/namespaces/{words[4]}/{_SLICES}":
            return await _answer(writer, 404, status_object(404, "NotFound", "no such path"))
        if verb == "list":
            return await self._list(words[4], service, query, writer)
        return await self._watch(words[4], service, query, writer)

    async def _get_service(self, words: list[str], writer: Any) -> bool:
        if self.services_forbidden:
            return await _answer(writer, 403, status_object(403, "Forbidden", "services"))
        if (words[3], words[-1]) in self.services:
            return await _answer(writer, 200, {"kind": "Service", "metadata": {}})
        text = f'services "{words[-1]}" not found'
        return await _answer(writer, 404, status_object(404, "NotFound", text))

    async def _list(
        self, namespace: str, service: str | None, query: dict[str, str], writer: Any
    ) -> bool:
        start, version = 0, self.version
        if "continue" in query:
            token = json.loads(base64.b64decode(query["continue"]))
            start, version = token["start"], token["version"]
            if version not in self._lists:
                text = "The provided continue parameter is too old"
                return await _answer(writer, 410, status_object(410, "Expired", text))
        found = self._lists.setdefault(
            version, [o for k, o in sorted(self._objects.items()) if _matches(o, k[0], service)]
        )
        found = [o for o in found if _matches(o, namespace, service)]
        end = start + int(query.get("limit", 0) or len(found))
        metadata: dict[str, Any] = {"resourceVersion": str(version)}
        if end < len(found):
            more = json.dumps({"start": end, "version": version}).encode()
            metadata["continue"] = base64.b64encode(more).decode()
        answer = {
            "kind": "EndpointSliceList",
            "apiVersion": "discovery.k8s.io/v1",
            "metadata": metadata,
            "items": found[start:end],
        }
        return await _answer(writer, 200, answer)

    async def _watch(
        self, namespace: str, service: str | None, query: dict[str, str], writer: Any
    ) -> bool:
        since, seconds = int(query["resourceVersion"]), float(query.get("timeoutSeconds", 1800))
        gone = status_object(410, "Expired", f"too old resource version: {since}")
        if since < self._floor and self.gone_by_status:
            return await _answer(writer, 410, gone)
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        watch = _Watch(namespace, service, since)
        if since < self._floor:
            watch.queue.put_nowait(_line("ERROR", gone))
            watch.queue.put_nowait(_END)
        for version, kind, raw in self._history:
            if version > since and _matches(raw, namespace, service):
                watch.queue.put_nowait((version, _line(kind, raw)))
        for item in _breakage(self.break_at_once) if self.break_at_once else ():
            watch.queue.put_nowait(item)
        self._watches.add(watch)
        try:
            return await self._stream(watch, seconds, writer)
        finally:
            self._watches.discard(watch)

    async def _stream(self, watch: _Watch, seconds: float, writer: Any) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    await writer.drain()
                    item = await watch.queue.get()
                    if item is _CUT:
                        return False
                    if item is _END:
                        break
                    if isinstance(item, tuple):
                        watch.version, item = item
                    assert isinstance(item, bytes)
                    # In two pieces, as a line is cut anywhere on its way.
                    for piece in (item[: len(item) // 3], item[len(item) // 3 :]):
                        writer.write(b"%x\r\n%s\r\n" % (len(piece), piece) if piece else b"")
        if self.stuck:
            await asyncio.Event().wait()
        if self.bookmark_at_end:
            last = _bookmark(watch.version)
            writer.write(b"%x\r\n%s\r\n" % (len(last), last))
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    # -- inside ------------------------------------------------------------------------------

    def _event(self, kind: str, key: tuple[str, str], raw: dict[str, Any]) -> None:
        self.version += 1
        stamped = {**raw, "metadata": {**raw["metadata"], "resourceVersion": str(self.version)}}
        if kind == "DELETED":
            del self._objects[key]
        else:
            self._objects[key] = stamped
        self._history.append((self.version, kind, stamped))
        for watch in self._watches:
            if _matches(stamped, watch.namespace, watch.service):
                watch.queue.put_nowait((self.version, _line(kind, stamped)))

    def _fault(self, verb: str) -> Fault | None:
        for index, (wanted, fault) in enumerate(self._faults):
            if wanted in (verb, "any"):
                del self._faults[index]
                return fault
        return None

    async def _fail(self, fault: Fault, reader: asyncio.StreamReader, writer: Any) -> bool:
        if fault.silent:
            await reader.read()  # until the client gives up
        if fault.silent or fault.cut:
            return False
        body = fault.body
        if body is None:
            body = json.dumps(status_object(fault.status, "Fault", "as told")).encode()
        lines = [f"HTTP/1.1 {fault.status} X", f"Content-Length: {len(body)}"]
        lines += [f"{k}: {v}" for k, v in fault.headers]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await writer.drain()
        return True


class _MemoryWriter:
    """As much of a StreamWriter as is used, over the StreamReader of the other side."""

    def __init__(self, peer: asyncio.StreamReader, own: asyncio.StreamReader) -> None:
        self._peer = peer
        self._own = own
        self.closed = False
        self.transport = self
        self.on_abort: Callable[[], object] = lambda: None

    def write(self, data: bytes) -> None:
        if not self._peer.at_eof() and not self.closed and data:
            self._peer.feed_data(data)

    async def drain(self) -> None:
        await asyncio.sleep(0)

    def abort(self) -> None:
        if not self.closed:
            self.closed = True
            self._peer.feed_eof()
            self._own.feed_eof()
            self.on_abort()

    def get_extra_info(self, name: str) -> None:
        return None


async def _unless_gone(answer: asyncio.Task[bool], reader: asyncio.StreamReader) -> bool:
    """The end of `answer`, or of the client, who sends nothing while it watches."""
    gone = asyncio.create_task(reader.read(1))
    try:
        await asyncio.wait([answer, gone], return_when=asyncio.FIRST_COMPLETED)
        return answer.done() and answer.result()
    finally:
        for task in (answer, gone):
            task.cancel()
        await asyncio.gather(answer, gone, return_exceptions=True)


def _matches(raw: dict[str, Any], namespace: str, service: str | None) -> bool:
    metadata = raw["metadata"]
    fits = service is None or metadata.get("labels", {}).get(SERVICE_LABEL) == service
    return bool(metadata["namespace"] == namespace and fits)


def _line(kind: str, raw: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": raw}).encode() + b"\n"


def _bookmark(version: int) -> bytes:
    body = {"kind": "EndpointSlice", "metadata": {"resourceVersion": str(version)}}
    return _line("BOOKMARK", body)


def _breakage(how: str) -> list[object]:
    match how:
        case "end":
            return [_END]
        case "cut":
            return [_CUT]
        case "half":
            return [_line("MODIFIED", slice_object("half", "api", ["10.9.9.9"]))[:40], _CUT]
        case "junk":
            return [b"<html>502</html>\n"]
    code = int(how)
    return [_line("ERROR", status_object(code, "Expired" if code == 410 else "X", "as told")), _END]


async def _answer(writer: Any, status: int, raw: dict[str, Any]) -> bool:
    body = json.dumps(raw).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n"
    if len(body) < 10_000:
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    else:
        writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        for start in range(0, len(body), 9_000):
            piece = body[start : start + 9_000]
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True
