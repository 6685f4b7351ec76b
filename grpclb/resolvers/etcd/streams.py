"""etcd's two streams: watching a prefix, and keeping a lease alive. Each at one member."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, Self

from grpc import StatusCode

from grpclb.resolvers.etcd import messages as m
from grpclb.resolvers.etcd.members import NEED_LEADER, Members, parse
from grpclb.resolvers.etcd.model import EtcdCompacted, EtcdFailed, Event, WatchBatch
from grpclb.resolvers.rpc import BidiStream, RpcFailed

_MOST_EVENTS = 200_000  # of one revision, in fragments: above it memory would have no bound


class _Stream:
    """A stream at the member whose turn it is, begun with a token of its time."""

    method: str

    def __init__(self, members: Members) -> None:
        self._members = members
        self._stack = AsyncExitStack()
        self._stream: BidiStream | None = None
        self.endpoint = ""

    async def __aenter__(self) -> Self:
        self.endpoint = self._members.current
        try:
            await self._members.with_token(self.endpoint, self._begin)
        except EtcdFailed as failure:
            await self._stack.aclose()
            if not failure.interrupted and not isinstance(failure, EtcdCompacted):
                self._members.move_on(self.endpoint)
            raise
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _begin(self, endpoint: str, metadata: list[tuple[str, str]]) -> None:
        """Open the stream and see that it was taken. Raises RpcFailed."""
        await self._stack.aclose()  # of the try with an old token
        self._stack = AsyncExitStack()
        channel = self._members.channel(endpoint)
        stream = channel.stream(self.method, metadata=[*metadata, NEED_LEADER])
        self._stream = await self._stack.enter_async_context(stream)
        await self._opened(self._stream)

    async def _opened(self, stream: BidiStream) -> None:
        raise NotImplementedError

    async def _next(self, stream: BidiStream, timeout: float | None) -> bytes:
        """The next message. Raises RpcFailed, for a stream that ends or is late as well."""
        try:
            async with asyncio.timeout(timeout):
                return await anext(stream)
        except StopAsyncIteration:
            raise RpcFailed(StatusCode.UNAVAILABLE, "etcd closed the stream") from None
        except TimeoutError:
            text = f"no answer within {timeout:g} s"
            raise RpcFailed(StatusCode.DEADLINE_EXCEEDED, text) from None

    def _failed(self, failure: RpcFailed) -> EtcdFailed:
        if not failure.interrupted:
            self._members.move_on(self.endpoint)
        return self._members.failed(failure, self.endpoint)


class Watch(_Stream):
    """``async with client.watch(prefix, revision) as watch: async for batch in watch``.

    Entering returns once etcd has confirmed the watch. Raises EtcdFailed when the stream ends,
    for whatever reason; EtcdCompacted when `start_revision` is no longer there.
    """

    method = m.WATCH

    def __init__(self, members: Members, key: bytes, end: bytes, start_revision: int) -> None:
        super().__init__(members)
        self._create = m.WatchCreateRequest(
            key=key,
            range_end=end,
            start_revision=start_revision,
            progress_notify=True,
            fragment=True,
        )
        self._parts: list[Event] = []

    async def _opened(self, stream: BidiStream) -> None:
        request = m.WatchRequest(create_request=self._create)
        await stream.send(request.SerializeToString())
        timeout = self._members.settings.timeout
        response = parse(m.WatchResponse, await self._next(stream, timeout))
        if response.canceled:
            self._raise_canceled(response)
        if not response.created:
            raise RpcFailed(StatusCode.INTERNAL, "etcd's first word is not that it watches")

    def __aiter__(self) -> AsyncIterator[WatchBatch]:
        return self

    async def __anext__(self) -> WatchBatch:
        stream = self._stream
        assert stream is not None, "entered first"
        try:
            while True:
                response = parse(m.WatchResponse, await self._next(stream, None))
                if response.canceled:
                    self._raise_canceled(response)
                self._parts += map(_event, response.events)
                if not response.fragment:
                    break
                if len(self._parts) > _MOST_EVENTS:
                    raise RpcFailed(StatusCode.RESOURCE_EXHAUSTED, "too many events at once")
        except RpcFailed as failure:
            raise self._failed(failure) from None
        parts, self._parts = self._parts, []
        return WatchBatch(response.header.revision, tuple(parts))

    def _raise_canceled(self, response: Any) -> None:
        reason = response.cancel_reason or "etcd cancelled the watch"
        if response.compact_revision:
            text = f"{reason} (compacted at revision {response.compact_revision})"
            raise EtcdCompacted(
                StatusCode.OUT_OF_RANGE, self._members.redacted(text), self.endpoint
            )
        denied = "permission denied" in reason or "auth token" in reason
        code = StatusCode.PERMISSION_DENIED if denied else StatusCode.UNAVAILABLE
        raise RpcFailed(code, reason)


def _event(event: Any) -> Event:
    kv = event.kv
    return Event(kv.key, None if event.type == m.DELETE else kv.value, kv.mod_revision)


class KeepAlive(_Stream):
    """``async with client.keep_alive(lease) as stream: ttl = await stream.ping()``."""

    method = m.LEASE_KEEP_ALIVE

    def __init__(self, members: Members, lease: int) -> None:
        super().__init__(members)
        self._request = m.LeaseKeepAliveRequest(ID=lease).SerializeToString()
        self._first: int | None = None

    async def _opened(self, stream: BidiStream) -> None:
        self._first = await self._ping(stream)

    async def ping(self) -> int:
        """Renew the lease; the seconds that it lives now, 0 when it is gone. Raises EtcdFailed.

        Entering has renewed it once, which the first `ping` reports.
        """
        first, self._first = self._first, None
        if first is not None:
            return first
        assert self._stream is not None, "entered first"
        try:
            return await self._ping(self._stream)
        except RpcFailed as failure:
            raise self._failed(failure) from None

    async def _ping(self, stream: BidiStream) -> int:
        await stream.send(self._request)
        answer = await self._next(stream, self._members.settings.timeout)
        ttl: int = parse(m.LeaseKeepAliveResponse, answer).TTL
        return max(ttl, 0)
