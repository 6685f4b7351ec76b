"""One blocking face for sync and aio channels, and for grpclb's and grpcio's own.

A scenario opens a client by `Connect`, makes RPCs one by one, in bulk or as a load in the
background, and looks at the results. Threads carry the RPCs of a sync channel, tasks on one loop
those of an aio channel; the scenario does not see which.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Protocol

import grpc
import grpc.aio

import grpclb
from tests.support.backend import Backend

ECHO = "/test.Echo/UnaryUnary"
STREAM = "/test.Echo/UnaryStream"
BIDI = "/test.Echo/StreamStream"
LIMIT = 30.0  # seconds; nothing comes near unless it hangs
PLAIN_ROUND_ROBIN = (("grpc.lb_policy_name", "round_robin"),)


def eventually(
    condition: Callable[[], Any], timeout: float = 5.0, what: str = "", every: float = 0.01
) -> Any:
    """The first true value of `condition`, for what another process or thread brings about."""
    end = monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if monotonic() > end:
            raise AssertionError(f"not within {timeout} s: {what or condition}; last: {value!r}")
        time.sleep(every)


@dataclass(frozen=True, slots=True)
class Result:
    """One finished RPC. `started` is on the monotonic clock."""

    code: grpc.StatusCode
    details: str
    response: Any
    started: float
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return self.code is grpc.StatusCode.OK


def succeeded(started: float, response: Any) -> Result:
    return Result(grpc.StatusCode.OK, "", response, started, monotonic() - started)


def failed(started: float, error: Any) -> Result:
    notes = tuple(getattr(error, "__notes__", ()))
    seconds = monotonic() - started
    return Result(error.code(), error.details() or "", None, started, seconds, notes)


def cancelled(started: float) -> Result:
    return Result(grpc.StatusCode.CANCELLED, "cancelled", None, started, monotonic() - started)


def failures(results: Iterable[Result]) -> list[Result]:
    """Those that did not end OK; an empty list is what most scenarios want."""
    return [result for result in results if not result.ok]


def calls_on(backends: Iterable[Backend]) -> list[int]:
    """How many RPCs each backend has executed."""
    return [backend.stats()["total"] for backend in backends]


def target_of(backends: Iterable[Backend]) -> str:
    return "ipv4:" + ",".join(backend.address for backend in backends)


class AioLoop:
    """An event loop on a thread of its own, for the RPCs of aio channels."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name="test-aio", daemon=True)
        self._thread.start()
        self.run(self._keep_engine())

    async def _keep_engine(self) -> None:
        # grpc.aio's poller lives while any object of it does; here it does all the time, so that
        # its descriptors are no news to the guards.
        self._engine = grpc.aio.insecure_channel("ipv4:127.0.0.1:9")

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def run(self, coroutine: Coroutine[Any, Any, Any], timeout: float = LIMIT) -> Any:
        """Run a coroutine to its end; TimeoutError cancels it."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result(timeout)
        except TimeoutError:
            future.cancel()
            raise

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a plain function on the loop's thread."""

        async def call() -> Any:
            return function()

        return self.run(call())

    def tasks(self) -> int:
        """Tasks that are not over."""
        return sum(not task.done() for task in asyncio.all_tasks(self.loop))

    def close(self) -> None:
        self.run(self._engine.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5)
        self.loop.close()


@dataclass(slots=True)
class Load:
    """A closed loop of RPCs in the background; `results` grows while it runs."""

    results: list[Result] = field(default_factory=list)
    stopping: bool = False

    def wait(self, count: int, timeout: float = LIMIT) -> None:
        """Until that many more RPCs have ended."""
        goal = len(self.results) + count
        eventually(lambda: len(self.results) >= goal, timeout, f"{count} more RPCs")

    def since(self, moment: float) -> list[Result]:
        """Those that started later."""
        return [result for result in list(self.results) if result.started > moment]

    @property
    def failures(self) -> list[Result]:
        return failures(list(self.results))

    @property
    def codes(self) -> Counter[str]:
        return Counter(result.code.name for result in self.results)


class Running(Protocol):
    """An RPC under way."""

    def result(self, timeout: float = LIMIT) -> Result: ...
    def read(self) -> bytes | None:
        """The next message of a stream; None at its end."""
        ...

    def cancel(self) -> None: ...


class Client(Protocol):
    """A channel of either stack. Blocking; for the test's thread."""

    channel: Any

    def call(self, request: bytes = b"x", method: str = ECHO, **arguments: Any) -> Result: ...
    def calls(self, count: int, workers: int = 16, **arguments: Any) -> list[Result]:
        """So many RPCs by so many workers at a time."""
        ...

    def load(
        self, workers: int = 8, **arguments: Any
    ) -> contextlib.AbstractContextManager[Load]: ...
    def start(self, request: bytes = b"x", **arguments: Any) -> Running:
        """A unary RPC that goes on beside the test."""
        ...

    def stream(self, request: bytes = b"x", **arguments: Any) -> Running:
        """A server-streaming RPC."""
        ...

    def on_channel(self, use: Callable[[Any], Any]) -> Any:
        """`use(channel)` where the channel may be used."""
        ...

    def close(self) -> float:
        """Close the channel; the seconds that it took."""
        ...


def snapshot(client: Client) -> dict[str, Any]:
    found: dict[str, Any] = client.on_channel(lambda channel: channel.debug_snapshot())
    return found


def states(client: Client) -> list[str]:
    """The states of all subchannels that the policy holds, by address."""
    return [s["state"] for s in snapshot(client)["subchannels"] if not s["removed"]]


def held(client: Client) -> list[str]:
    """The addresses that the policy holds."""
    return [s["address"] for s in snapshot(client)["subchannels"] if not s["removed"]]


def wait_ready(client: Client, count: int, timeout: float = 10.0) -> None:
    """Connect, and wait until so many backends are READY."""

    def ready() -> bool:
        return states(client).count("READY") == count

    client.call(wait_for_ready=True, timeout=LIMIT)
    eventually(ready, timeout, f"{count} READY backends")


# -- sync ----------------------------------------------------------------------------------------


class SyncClient:
    """Client over grpc.Channel."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel

    def call(self, request: bytes = b"x", method: str = ECHO, **arguments: Any) -> Result:
        return self._call(self.channel.unary_unary(method), request, arguments)

    def _call(self, stub: Any, request: bytes, arguments: dict[str, Any]) -> Result:
        started = monotonic()
        try:
            return succeeded(started, stub(request, **arguments))
        except grpc.RpcError as error:
            return failed(started, error)

    def calls(self, count: int, workers: int = 16, **arguments: Any) -> list[Result]:
        stub = self.channel.unary_unary(ECHO)
        with ThreadPoolExecutor(workers) as pool:
            jobs = [pool.submit(self._call, stub, b"x", arguments) for _ in range(count)]
            return [job.result(LIMIT) for job in jobs]

    @contextlib.contextmanager
    def load(self, workers: int = 8, **arguments: Any) -> Iterator[Load]:
        load, stub = Load(), self.channel.unary_unary(ECHO)

        def work() -> None:
            while not load.stopping:
                load.results.append(self._call(stub, b"x", arguments))

        with ThreadPoolExecutor(workers) as pool:
            jobs = [pool.submit(work) for _ in range(workers)]
            try:
                yield load
            finally:
                load.stopping = True
        for job in jobs:
            job.result()

    def start(self, request: bytes = b"x", **arguments: Any) -> Running:
        return _SyncRunning(self.channel.unary_unary(ECHO).future(request, **arguments))

    def stream(self, request: bytes = b"x", **arguments: Any) -> Running:
        return _SyncRunning(self.channel.unary_stream(STREAM)(request, **arguments))

    def on_channel(self, use: Callable[[Any], Any]) -> Any:
        return use(self.channel)

    def close(self) -> float:
        started = monotonic()
        self.channel.close()
        return monotonic() - started


class _SyncRunning:
    def __init__(self, call: Any) -> None:
        self._call = call
        self._started = monotonic()

    def result(self, timeout: float = LIMIT) -> Result:
        ended = threading.Event()
        if self._call.add_callback(ended.set) and not ended.wait(timeout):
            raise AssertionError(f"the RPC is still running after {timeout} s")
        code = self._call.code()
        if code is not grpc.StatusCode.OK:
            return failed(self._started, self._call)
        response = self._call.result() if hasattr(self._call, "result") else None
        return succeeded(self._started, response)

    def read(self) -> bytes | None:
        return next(self._call, None)

    def cancel(self) -> None:
        self._call.cancel()


# -- aio -----------------------------------------------------------------------------------------


class AioClient:
    """Client over grpc.aio.Channel, whose loop runs on another thread."""

    def __init__(self, channel: Any, loop: AioLoop) -> None:
        self.channel = channel
        self._loop = loop

    def call(self, request: bytes = b"x", method: str = ECHO, **arguments: Any) -> Result:
        result: Result = self._loop.run(self._call(method, request, arguments))
        return result

    async def _call(self, method: str, request: bytes, arguments: dict[str, Any]) -> Result:
        started = monotonic()
        try:
            return succeeded(started, await self.channel.unary_unary(method)(request, **arguments))
        except grpc.RpcError as error:
            return failed(started, error)
        except asyncio.CancelledError:
            if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                raise
            return cancelled(started)

    def calls(self, count: int, workers: int = 16, **arguments: Any) -> list[Result]:
        results: list[Result] = []
        left = iter(range(count))

        async def work() -> None:
            for _ in left:
                result = await self._call(ECHO, b"x", arguments)
                results.append(result)

        async def all_of_them() -> None:
            await asyncio.gather(*(work() for _ in range(workers)))

        self._loop.run(all_of_them())
        return results

    @contextlib.contextmanager
    def load(self, workers: int = 8, **arguments: Any) -> Iterator[Load]:
        load = Load()

        async def work() -> None:
            while not load.stopping:
                load.results.append(await self._call(ECHO, b"x", arguments))

        async def all_of_them() -> None:
            await asyncio.gather(*(work() for _ in range(workers)))

        done = asyncio.run_coroutine_threadsafe(all_of_them(), self._loop.loop)
        try:
            yield load
        finally:
            load.stopping = True
            done.result(LIMIT)

    def start(self, request: bytes = b"x", **arguments: Any) -> Running:
        call = self._loop.call(lambda: self.channel.unary_unary(ECHO)(request, **arguments))
        return _AioRunning(call, self._loop)

    def stream(self, request: bytes = b"x", **arguments: Any) -> Running:
        call = self._loop.call(lambda: self.channel.unary_stream(STREAM)(request, **arguments))
        return _AioRunning(call, self._loop)

    def on_channel(self, use: Callable[[Any], Any]) -> Any:
        return self._loop.call(lambda: use(self.channel))

    def close(self) -> float:
        started = monotonic()
        self._loop.run(self.channel.close())
        return monotonic() - started


class _AioRunning:
    def __init__(self, call: Any, loop: AioLoop) -> None:
        self._call = call
        self._loop = loop
        self._started = monotonic()

    def result(self, timeout: float = LIMIT) -> Result:
        result: Result = self._loop.run(self._result(), timeout)
        return result

    async def _result(self) -> Result:
        code, details = await self._call.code(), await self._call.details()
        if code is not grpc.StatusCode.OK:
            seconds = monotonic() - self._started
            return Result(code, details or "", None, self._started, seconds)
        awaitable = hasattr(self._call, "__await__")
        return succeeded(self._started, (await self._call) if awaitable else None)

    def read(self) -> bytes | None:
        message = self._loop.run(self._call.read())
        return None if message is grpc.aio.EOF else message

    def cancel(self) -> None:
        self._loop.call(self._call.cancel)


# -- opening -------------------------------------------------------------------------------------


class Connect:
    """Opens clients of one stack, and closes them at the end of the test."""

    def __init__(self, stack: str, loop: AioLoop) -> None:
        self.stack = stack
        self.loop = loop
        self._clients: list[Client] = []

    def __call__(
        self,
        target: str,
        *,
        plain: bool = False,
        credentials: grpc.ChannelCredentials | None = None,
        **arguments: Any,
    ) -> Client:
        """A client of a grpclb channel, or with `plain` of grpcio's own."""
        given = (target,) if credentials is None else (target, credentials)
        name = "insecure_channel" if credentials is None else "secure_channel"
        client: Client
        if self.stack == "sync":
            factory = getattr(grpc if plain else grpclb, name)
            client = SyncClient(factory(*given, **arguments))
        else:
            factory = getattr(grpc.aio if plain else grpclb.aio, name)
            client = AioClient(self.loop.call(lambda: factory(*given, **arguments)), self.loop)
        self._clients.append(client)
        return client

    def forget(self, client: Client) -> None:
        """Do not close it, nor keep it alive."""
        self._clients = [c for c in self._clients if c is not client]

    def close(self) -> None:
        """Close what was opened; harmless for what is closed already."""
        clients, self._clients = self._clients, []
        for client in clients:
            client.close()


def established(backends: Sequence[Backend] | Sequence[int]) -> int:
    """TCP connections from this process to these backends, or ports."""
    import psutil

    ports = {b if isinstance(b, int) else b.port for b in backends}
    return sum(
        1
        for c in psutil.Process().net_connections("inet")
        if c.raddr and c.raddr.port in ports and c.status == psutil.CONN_ESTABLISHED
    )
