"""An `etcd3`-style client of the user's as the source of a resolver.

Its calls block, so they run on threads of their own; its watchers are known to die without a
word, so the keys are listed again every half minute whatever they say.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from grpc import StatusCode

from grpclb.resolvers.etcd.model import EtcdFailed, Event, KeyValue, Listing, WatchBatch
from grpclb.resolvers.thread import off_loop

T = TypeVar("T")
_PATIENCE = 10.0  # seconds for one call of the client's
_LIST_AGAIN = 30.0  # seconds
# After an empty list whose revision the client does not tell: a watch from "now" leaves a gap.
_LIST_AGAIN_SOON = 1.0
_WHERE = "(the given client)"


class Adapter:
    """A `Source`. `client` has `get_prefix`, and one of the two ways to watch that etcd3 has.

    The client is the user's: it is never closed here.
    """

    def __init__(self, client: object) -> None:
        self._client: Any = client
        ways = ("add_watch_prefix_callback", "watch_prefix")
        if not hasattr(client, "get_prefix") or not any(hasattr(client, way) for way in ways):
            raise TypeError(
                "client= must have etcd3's methods get_prefix and add_watch_prefix_callback (or "
                f"watch_prefix), got {type(client).__name__}"
            )

    def __repr__(self) -> str:
        return f"<Adapter of {type(self._client).__name__}>"

    async def list(self, prefix: bytes, *, fall_back: bool) -> Listing:
        """All keys. `fall_back` is the client's own business."""
        return await _ask(lambda: self._list(prefix))

    def _list(self, prefix: bytes) -> Listing:
        if hasattr(self._client, "get_prefix_response"):
            response = self._client.get_prefix_response(prefix)
            items = tuple(
                KeyValue(bytes(kv.key), bytes(kv.value), int(kv.mod_revision))
                for kv in response.kvs
            )
            return Listing(int(response.header.revision), items)
        items, revision = (), 0
        for value, meta in self._client.get_prefix(prefix):
            found = int(getattr(meta, "mod_revision", 0))
            header = getattr(meta, "response_header", None)
            revision = max(revision, found, int(getattr(header, "revision", 0)))
            items += (KeyValue(bytes(meta.key), bytes(value), found),)
        return Listing(revision, items)

    def watch(self, prefix: bytes, start_revision: int) -> _Watch:
        """What happens from `start_revision` on, for half a minute."""
        return _Watch(self._client, prefix, start_revision)

    async def close(self) -> None:
        """Nothing: the client is the user's."""


class _Watch:
    """One watch of the client's, bridged from its thread to the loop."""

    def __init__(self, client: Any, prefix: bytes, start_revision: int) -> None:
        self._client = client
        self._prefix = prefix
        self._revision = start_revision - 1
        self._batches: asyncio.Queue[WatchBatch | Exception] = asyncio.Queue()
        self._cancel: Callable[[], object] | None = None
        self._closed = False

    async def __aenter__(self) -> AsyncIterator[WatchBatch]:
        self._loop = asyncio.get_running_loop()
        patience = _LIST_AGAIN if self._revision else _LIST_AGAIN_SOON
        self._end = self._loop.time() + patience
        try:
            self._cancel = await _ask(self._begin)
        except BaseException:
            self._closed = True  # the client may begin it yet, when nobody waits any more
            raise
        return self._events()

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        if self._cancel is not None:
            with contextlib.suppress(EtcdFailed):
                await _ask(self._cancel)

    async def _events(self) -> AsyncIterator[WatchBatch]:
        while True:
            try:
                async with asyncio.timeout_at(self._end):
                    batch = await self._batches.get()
            except TimeoutError:
                text = "time to list again"
                raise EtcdFailed(StatusCode.OK, text, _WHERE, interrupted=True) from None
            if isinstance(batch, Exception):
                raise _failed(batch) from batch
            yield batch

    def _begin(self) -> Callable[[], object]:
        """Start the watch on the client; what cancels it."""
        since = {"start_revision": self._revision + 1} if self._revision else {}
        if hasattr(self._client, "add_watch_prefix_callback"):
            number = self._client.add_watch_prefix_callback(
                self._prefix, self._on_response, **since
            )
            return self._begun(lambda: self._client.cancel_watch(number))
        events, cancel = self._client.watch_prefix(self._prefix, **since)
        threading.Thread(
            target=self._read, args=(events,), name="grpclb-etcd-watch", daemon=True
        ).start()
        return self._begun(cancel)

    def _begun(self, cancel: Callable[[], object]) -> Callable[[], object]:
        if self._closed:
            cancel()
        return cancel

    def _read(self, events: Any) -> None:
        try:
            for event in events:
                if self._closed:
                    return
                self._on_events([event])
            self._post(RuntimeError("the watch has ended"))
        except Exception as error:
            self._post(error)

    def _on_response(self, response: Any) -> None:
        """etcd3's callback, on its thread: a response with events, or an exception."""
        if isinstance(response, Exception):
            self._post(response)
            return
        try:
            self._on_events(response.events)
        except Exception as error:
            self._post(error)

    def _on_events(self, events: Any) -> None:
        found = tuple(
            Event(
                bytes(event.key),
                None if "Delete" in type(event).__name__ else bytes(event.value),
                int(getattr(event, "mod_revision", 0)),
            )
            for event in events
        )
        revision = max((event.mod_revision for event in found), default=self._revision)
        self._revision = max(self._revision, revision)
        self._post(WatchBatch(self._revision, found))

    def _post(self, batch: WatchBatch | Exception) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed
            self._loop.call_soon_threadsafe(self._batches.put_nowait, batch)


async def _ask(work: Callable[[], T]) -> T:
    """Run a blocking call of the client's. Raises EtcdFailed."""
    try:
        async with asyncio.timeout(_PATIENCE):
            return await off_loop(work)
    except TimeoutError:
        text = f"no answer within {_PATIENCE:g} s"
        raise EtcdFailed(StatusCode.DEADLINE_EXCEEDED, text, _WHERE) from None
    except Exception as error:
        raise _failed(error) from error


def _failed(error: Exception) -> EtcdFailed:
    return EtcdFailed(StatusCode.UNAVAILABLE, f"{type(error).__name__}: {error}"[:500], _WHERE)
