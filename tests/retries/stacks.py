"""One face for RPCs of both stacks: begin one, see it from outside, learn how it ended.

A scenario is written once and runs on threads (sync) or on a loop of its own (aio); the fixture
`stack` gives it either. `plain=True` opens grpcio's own channel in place of grpclb's.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import grpc.aio

import grpclb
from grpclb.control.attempt_log import AttemptRecord
from tests.faults.harness import AioLoop, eventually

LIMIT = 15.0  # seconds; nothing comes near unless it hangs


@dataclass(frozen=True, slots=True)
class End:
    """How an RPC ended. `messages` are all responses that came before that."""

    code: grpc.StatusCode
    messages: tuple[bytes, ...]
    details: str = ""
    attempts: tuple[AttemptRecord, ...] = ()
    notes: str = ""


class Rpc(Protocol):
    """One RPC under way."""

    def end(self) -> End:
        """Read what comes, and say how it ended."""
        ...

    def headers(self) -> tuple[Any, ...]:
        """Its initial metadata, waiting for it."""
        ...

    def cancel(self) -> bool: ...

    def done(self) -> bool: ...

    def when_done(self, callback: Callable[[], object]) -> None: ...

    def attempts(self) -> list[grpc.StatusCode | None]:
        """The codes of its attempts so far; None: under way."""
        ...

    def drop(self) -> None:
        """Forget grpcio's object, as a user does who has no more use for it."""
        ...


class Stack(Protocol):
    """The sync or the aio surface."""

    name: str

    def open(self, target: str, *, plain: bool = False, **arguments: Any) -> Any:
        """A channel, closed at the end of the test."""
        ...

    def close(self, channel: Any) -> None: ...

    def begin(self, channel: Any, kind: str, request: Any, **arguments: Any) -> Rpc:
        """Start an RPC as `.future()` or a call object would. Raises what grpcio raises then."""
        ...

    def requests(self, messages: Iterable[bytes], gate: threading.Event | None = None) -> Any:
        """A request stream; with a gate, it does not end before that is set."""
        ...


def _failed(error: Any, messages: list[bytes], details: str | None) -> End:
    notes = "\n".join(getattr(error, "__notes__", ()))
    return End(error.code(), tuple(messages), details or "", grpclb.attempts(error), notes)


class SyncRpc:
    def __init__(self, call: Any, kind: str) -> None:
        self.call = call
        self._streams = kind.endswith("stream")

    def end(self) -> End:
        messages: list[bytes] = []
        try:
            if self._streams:
                for message in self.call:
                    messages.append(message)  # noqa: PERF402 (those before an error stay)
            else:
                messages.append(self.call.result(LIMIT))
        except grpc.FutureCancelledError:
            return End(grpc.StatusCode.CANCELLED, (), "", grpclb.attempts(self.call))
        except grpc.RpcError as error:
            return _failed(error, messages, error.details())
        assert self.call.code() is grpc.StatusCode.OK, "it failed, and raised nothing"
        return End(self.call.code(), tuple(messages), "", grpclb.attempts(self.call))

    def headers(self) -> tuple[Any, ...]:
        return tuple(self.call.initial_metadata())

    def cancel(self) -> bool:
        return bool(self.call.cancel())

    def done(self) -> bool:
        return bool(self.call.done())

    def when_done(self, callback: Callable[[], object]) -> None:
        self.call.add_done_callback(lambda _: callback())

    def attempts(self) -> list[grpc.StatusCode | None]:
        return [attempt.code for attempt in grpclb.attempts(self.call)]

    def drop(self) -> None:
        self.call = None
        gc.collect()


class SyncStack:
    name = "sync"

    def __init__(self) -> None:
        self._channels = contextlib.ExitStack()

    def open(self, target: str, *, plain: bool = False, **arguments: Any) -> Any:
        factory: Any = grpc.insecure_channel if plain else grpclb.insecure_channel
        return self._channels.enter_context(factory(target, **arguments))

    def close(self, channel: Any) -> None:
        channel.close()

    def begin(self, channel: Any, kind: str, request: Any, **arguments: Any) -> SyncRpc:
        multi = getattr(channel, kind)(f"/s/{kind}")
        start = multi if kind.endswith("stream") else multi.future
        return SyncRpc(start(request, **arguments), kind)

    def requests(self, messages: Iterable[bytes], gate: threading.Event | None = None) -> Any:
        def generate() -> Iterator[bytes]:
            yield from messages
            if gate is not None:
                gate.wait(LIMIT)

        return generate()

    def end(self) -> None:
        self._channels.close()


class AioRpc:
    def __init__(self, call: Any, kind: str, loop: AioLoop) -> None:
        self.call = call
        self._streams = kind.endswith("stream")
        self._loop = loop

    def end(self) -> End:
        result: End = self._loop.run(self._end(), LIMIT)
        return result

    async def _end(self) -> End:
        messages: list[bytes] = []
        try:
            if self._streams:
                async for message in self.call:
                    messages.append(message)  # noqa: PERF401 (those before an error stay)
            else:
                messages.append(await self.call)
        except asyncio.CancelledError:
            return End(grpc.StatusCode.CANCELLED, tuple(messages), "", grpclb.attempts(self.call))
        except grpc.aio.AioRpcError as error:
            return _failed(error, messages, error.details())
        assert await self.call.code() is grpc.StatusCode.OK, "it failed, and raised nothing"
        return End(await self.call.code(), tuple(messages), "", grpclb.attempts(self.call))

    def headers(self) -> tuple[Any, ...]:
        return tuple(self._loop.run(self.call.initial_metadata(), LIMIT))

    def cancel(self) -> bool:
        return bool(self._loop.call(self.call.cancel))

    def done(self) -> bool:
        return bool(self._loop.call(self.call.done))

    def when_done(self, callback: Callable[[], object]) -> None:
        self._loop.call(lambda: self.call.add_done_callback(lambda _: callback()))

    def attempts(self) -> list[grpc.StatusCode | None]:
        return [attempt.code for attempt in grpclb.attempts(self.call)]

    def drop(self) -> None:
        def forget() -> None:
            self.call = None
            gc.collect()

        self._loop.call(forget)


class AioStack:
    name = "aio"

    def __init__(self, loop: AioLoop) -> None:
        self.loop = loop
        self._channels: list[Any] = []

    def open(self, target: str, *, plain: bool = False, **arguments: Any) -> Any:
        factory: Any = grpc.aio.insecure_channel if plain else grpclb.aio.insecure_channel
        channel = self.loop.call(lambda: factory(target, **arguments))
        self._channels.append(channel)
        return channel

    def close(self, channel: Any) -> None:
        self.loop.run(channel.close())

    def begin(self, channel: Any, kind: str, request: Any, **arguments: Any) -> AioRpc:
        multi = getattr(channel, kind)(f"/s/{kind}")
        call = self.loop.call(lambda: multi(request, **arguments))
        return AioRpc(call, kind, self.loop)

    def requests(self, messages: Iterable[bytes], gate: threading.Event | None = None) -> Any:
        async def generate() -> AsyncIterator[bytes]:
            for message in messages:
                yield message
            while gate is not None and not gate.is_set():  # noqa: ASYNC110 (a thread sets it)
                await asyncio.sleep(0.01)

        return generate()

    def end(self) -> None:
        for channel in self._channels:
            self.close(channel)
        gc.collect()
        eventually(lambda: self.loop.tasks() == 0, what="tasks of the channels have ended")
