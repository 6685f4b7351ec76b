"""The two stacks behind one face, so that a test body runs on both."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any, Self

import grpc

import grpclb
from grpclb.testing import ManualResolver

KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
_REQUESTS: dict[str, Any] = {"unary": b"one", "stream": [b"a", b"b"]}

Ended = tuple[grpc.StatusCode, str]


class SyncStack:
    """Calls of a sync channel."""

    def __init__(self, resolver: ManualResolver, **options: Any) -> None:
        self.channel = grpclb.insecure_channel("xds-test:///x", resolver=resolver, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def start(self, kind: str, metadata: Sequence[tuple[str, str]] = (), **options: Any) -> Any:
        """An RPC beside this thread."""
        multi = getattr(self.channel, kind)(f"/s/{kind}")
        request = _REQUESTS[kind.partition("_")[0]]
        request = iter(request) if isinstance(request, list) else request
        begin = multi if kind.endswith("stream") else multi.future
        call = begin(request, metadata=tuple(metadata), **options)
        call.is_stream = kind.endswith("stream")
        return call

    def end(self, call: Any) -> Ended:
        if call.is_stream:
            with contextlib.suppress(grpc.RpcError):
                list(call)
        return call.code(), call.details() or ""

    def call(self, kind: str, metadata: Sequence[tuple[str, str]] = (), **options: Any) -> Ended:
        """A whole RPC, a blocking one if there is such."""
        if kind.endswith("stream"):
            return self.end(self.start(kind, metadata, **options))
        multi = getattr(self.channel, kind)(f"/s/{kind}")
        request = _REQUESTS[kind.partition("_")[0]]
        request = iter(request) if isinstance(request, list) else request
        try:
            multi(request, metadata=tuple(metadata), **options)
        except grpc.RpcError as error:
            failed: Any = error
            return failed.code(), failed.details()
        return grpc.StatusCode.OK, ""

    def cancel(self, call: Any) -> None:
        call.cancel()

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)


class AioStack:
    """Calls of an aio channel, whose loop runs while a method of this class does."""

    def __init__(self, resolver: ManualResolver, **options: Any) -> None:
        self._runner = asyncio.Runner()

        async def make() -> Any:
            return grpclb.aio.insecure_channel("xds-test:///x", resolver=resolver, **options)

        self.channel = self._runner.run(make())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self.channel.close())
        self._runner.close()

    def start(self, kind: str, metadata: Sequence[tuple[str, str]] = (), **options: Any) -> Any:
        async def begin() -> Any:
            multi = getattr(self.channel, kind)(f"/s/{kind}")
            call = multi(_REQUESTS[kind.partition("_")[0]], metadata=tuple(metadata), **options)
            await asyncio.sleep(0.01)
            return call

        return self._runner.run(begin())

    def end(self, call: Any) -> Ended:
        async def ending() -> Ended:
            if hasattr(call, "__aiter__"):
                with contextlib.suppress(grpc.RpcError, asyncio.CancelledError):
                    async for _ in call:
                        pass
            return await call.code(), await call.details() or ""

        return self._runner.run(ending())

    def call(self, kind: str, metadata: Sequence[tuple[str, str]] = (), **options: Any) -> Ended:
        return self.end(self.start(kind, metadata, **options))

    def cancel(self, call: Any) -> None:
        async def cancelling() -> None:
            call.cancel()

        self._runner.run(cancelling())

    def pause(self, seconds: float) -> None:
        self._runner.run(asyncio.sleep(seconds))
