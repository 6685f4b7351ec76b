"""Sync streams: iteration, request iterators good and bad, cancellation, deadlines."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from grpc.experimental import ChannelOptions

from tests.parity.harness import World, row, stub
from tests.parity.observe import attempt, kinds, show, view
from tests.support.backend import steer

SLOW = steer(delay_ms=300)
NAMED = steer(initial=[("i", "1")], trailing=[("t", "2")])
BROKEN = steer(code="NOT_FOUND", details="no such thing", trailing=[("t", "2")])


def _eventually(condition: Callable[[], Any], limit: float = 5.0) -> bool:
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


def _future_face(call: Any) -> list[Any]:
    return [call.done(), call.running(), call.cancelled()]


@row("sync us: next after the end, and after an error")
def _(world: World) -> Any:
    with world.channel() as channel:
        good = stub(channel, "us")(b"x", timeout=10)
        bad = stub(channel, "us")(b"x", metadata=BROKEN, timeout=10)
        return [attempt(next, call) for call in (good, good, good, bad, bad)] + [view(good)]


@row("sync us: cancel after the first of many")
def _(world: World) -> Any:
    with world.channel() as channel:
        call = stub(channel, "us")(b"x", metadata=steer(responses=50, gap_ms=20), timeout=10)
        seen = [attempt(next, call), call.is_active(), call.cancel()]
        ended = attempt(lambda: list(call) and None)
        return [*seen, ended, view(call), call.cancel(), attempt(next, call)]


@row("sync us: cancel before the first response")
def _(world: World) -> Any:
    with world.channel() as channel:
        call = stub(channel, "us")(b"x", metadata=SLOW, timeout=10)
        return [call.cancel(), attempt(next, call), view(call)]


@row("sync us: metadata during the stream")
def _(world: World) -> Any:
    with world.channel() as channel:
        metadata = steer(initial=[("i", "1")], trailing=[("t", "2")], delay_ms=50, responses=2)
        call = stub(channel, "us")(b"x", metadata=metadata, timeout=10)
        seen = [show(call.initial_metadata()), call.is_active(), call.time_remaining() > 5]
        return [*seen, show([*call]), show(call.trailing_metadata()), show(call.code())]


@row("sync us: a stream is a future too")
def _(world: World) -> Any:
    with world.channel() as channel:
        got: list[bool] = []
        call = stub(channel, "us")(b"x", metadata=steer(delay_ms=50), timeout=10)
        seen: list[Any] = [_future_face(call), attempt(call.exception, 0.001)]
        call.add_done_callback(lambda future: got.append(future is call))
        seen += [show(list(call)), _future_face(call), attempt(call.result, 5)]
        return [*seen, attempt(call.exception, 5), _eventually(lambda: got), got]


@row("sync us: a failed stream as a future")
def _(world: World) -> Any:
    with world.channel() as channel:
        call = stub(channel, "us")(b"x", metadata=BROKEN, timeout=10)
        seen = [attempt(lambda: list(call)), attempt(call.result, 5)]
        return [*seen, show(call.exception(5)), call.traceback(5) is not None, view(call)]


@row("sync us: deadline in the middle")
def _(world: World) -> Any:
    with world.channel() as channel:
        call = stub(channel, "us")(b"x", metadata=steer(responses=50, gap_ms=100), timeout=0.6)
        first = attempt(next, call)
        return [first, attempt(lambda: list(call) and None), view(call)]


@row("sync us: the single-threaded option")
def _(world: World) -> Any:
    options = [(ChannelOptions.SingleThreadedUnaryStream, 1)]
    with world.channel(options=options) as channel:
        many = stub(channel, "us")(b"x", metadata=steer(responses=5), timeout=10)
        bad = stub(channel, "us")(b"x", metadata=BROKEN, timeout=10)
        cut = stub(channel, "us")(b"x", metadata=steer(responses=50, gap_ms=20), timeout=10)
        seen = [kinds(many), show(list(many)), show(many.code()), many.details(), show(list(many))]
        seen += [attempt(next, bad), show(bad.code()), bad.details(), show(bad.trailing_metadata())]
        return [*seen, attempt(next, cut), cut.cancel(), attempt(lambda: [*cut] and None)]


@row("sync us: a stream left unread ends with its channel")
def _(world: World) -> Any:
    with world.channel() as channel:
        call = stub(channel, "us")(b"x", metadata=steer(responses=50, gap_ms=50), timeout=10)
        next(call)
    return [view(call), attempt(next, call)]


@row("sync su: request iterator that raises")
def _(world: World) -> Any:
    def requests() -> Iterator[bytes]:
        yield b"1"
        raise ValueError("asked for by the test")

    with world.channel() as channel:
        call = stub(channel, "su").future(requests(), timeout=10)
        both = stub(channel, "ss")(requests(), timeout=10)
        seen = [attempt(stub(channel, "su"), requests(), timeout=10), show(call.exception(5))]
        return [*seen, attempt(lambda: list(both) and None)]


@row("sync su: requests that are no iterator")
def _(world: World) -> Any:
    with world.channel() as channel:
        return [attempt(stub(channel, "su"), requests, timeout=5) for requests in ([b"x"], None, 5)]


@row("sync su: slow requests")
def _(world: World) -> Any:
    def requests() -> Iterator[bytes]:
        for number in range(3):
            time.sleep(0.02)
            yield b"%d" % number

    with world.channel() as channel:
        return [attempt(stub(channel, "su"), requests(), timeout=10),
                show([*stub(channel, "ss")(requests(), timeout=10)])]  # fmt: skip


@row("sync su: a deadline while requests are awaited")
def _(world: World) -> Any:
    release = threading.Event()

    def requests() -> Iterator[bytes]:
        yield b"1"
        release.wait(5)

    with world.channel() as channel:
        seen = [attempt(stub(channel, "su"), requests(), timeout=0.1)]
        seen.append(attempt(lambda: [*stub(channel, "ss")(requests(), timeout=0.1)] and None))
        release.set()
        return seen


@row("sync su: future cancelled while requests are awaited")
def _(world: World) -> Any:
    release = threading.Event()

    def requests() -> Iterator[bytes]:
        yield b"1"
        release.wait(5)

    with world.channel() as channel:
        call = stub(channel, "su").future(requests(), timeout=10)
        seen: list[Any] = [call.running(), call.cancel(), attempt(call.result, 5), view(call)]
        release.set()
        return seen


@row("sync ss: question and answer in turn")
def _(world: World) -> Any:
    turn = threading.Semaphore(1)

    def requests() -> Iterator[bytes]:
        for number in range(5):
            turn.acquire(timeout=5)
            yield b"%d" % number

    with world.channel() as channel:
        got: list[Any] = []
        for response in stub(channel, "ss")(requests(), timeout=10):
            got.append(show(response))
            turn.release()
        return got


@row("sync ss: the server ends before the requests do")
def _(world: World) -> Any:
    stop = threading.Event()

    def endless() -> Iterator[bytes]:
        while not stop.is_set():
            yield b"more"
            time.sleep(0.01)

    with world.channel() as channel:
        metadata = steer(code="ABORTED", details="enough", abort_after=2)
        call = stub(channel, "ss")(endless(), metadata=metadata, timeout=10)
        seen = [attempt(next, call), attempt(next, call), attempt(next, call), view(call)]
        stop.set()
        return seen


@row("sync ss: cancel in the middle")
def _(world: World) -> Any:
    stop = threading.Event()

    def requests() -> Iterator[bytes]:
        yield b"1"
        stop.wait(5)

    with world.channel() as channel:
        call = stub(channel, "ss")(requests(), timeout=10)
        seen = [attempt(next, call), call.cancel(), attempt(next, call), view(call)]
        stop.set()
        return seen


@row("sync ss: requests are taken on another thread")
def _(world: World) -> Any:
    threads: list[bool] = []

    def requests() -> Iterator[bytes]:
        threads.append(threading.current_thread() is threading.main_thread())
        yield b"1"

    with world.channel() as channel:
        return [show([*stub(channel, "ss")(requests(), timeout=10)]), threads]
