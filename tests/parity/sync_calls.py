"""Sync unary calls and futures: results, cancellation, callbacks, and what they say when."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from tests.parity.harness import World, row, stub
from tests.parity.observe import attempt, describe, kinds, report, show, view
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


@row("sync uu: future of a call that succeeds")
def _(world: World) -> Any:
    with world.channel() as channel:
        call = stub(channel, "uu").future(b"x", metadata=NAMED, timeout=10)
        seen: list[Any] = [kinds(call), show(call.result(5)), attempt(call.exception)]
        seen += [attempt(call.traceback), attempt(call.result), _future_face(call), view(call)]
        return [*seen, call.cancel(), _future_face(call), call.time_remaining() is not None]


@row("sync uu: future of a call that fails")
def _(world: World) -> Any:
    with world.channel() as channel:
        call = stub(channel, "uu").future(b"x", metadata=BROKEN, timeout=10)
        error = call.exception(5)
        same: Any = None
        try:
            call.result()
        except grpc.RpcError as raised:
            same = raised is error
        traceback = call.traceback()
        return [show(error), same, traceback is not None, _future_face(call), view(call)]


@row("sync uu: future before its end")
def _(world: World) -> Any:
    with world.channel() as channel:
        call = stub(channel, "uu").future(b"x", metadata=SLOW, timeout=10)
        seen: list[Any] = [_future_face(call), call.is_active()]
        seen.append(9 < call.time_remaining() <= 10)
        seen += [attempt(call.result, 0.01), attempt(call.exception, 0.01)]
        seen += [attempt(call.traceback, 0.01), _future_face(call)]
        return [*seen, attempt(call.result, timeout=5), call.is_active(), _future_face(call)]


@row("sync uu: time_remaining without a timeout")
def _(world: World) -> Any:
    with world.channel() as channel:
        call = stub(channel, "uu").future(b"x")
        call.result(5)
        return call.time_remaining()


@row("sync uu: future cancelled in flight")
def _(world: World) -> Any:
    with world.channel() as channel:
        call = stub(channel, "uu").future(b"x", metadata=SLOW, timeout=10)
        seen: list[Any] = [call.cancel(), call.cancel(), _future_face(call), call.is_active()]
        seen += [attempt(call.result, 5), attempt(call.exception, 5), attempt(call.traceback, 5)]
        return [*seen, view(call)]


@row("sync uu: done callbacks before and after the end")
def _(world: World) -> Any:
    with world.channel() as channel:
        got: list[bool] = []
        call = stub(channel, "uu").future(b"x", metadata=steer(delay_ms=50), timeout=10)
        seen = [call.add_done_callback(lambda future: got.append(future is call))]
        call.result(5)
        _eventually(lambda: got)
        seen.append(call.add_done_callback(lambda future: got.append(future is call)))
        return [seen, got]


@row("sync uu: done callback of a cancelled call")
def _(world: World) -> Any:
    with world.channel() as channel:
        got: list[Any] = []
        call = stub(channel, "uu").future(b"x", metadata=SLOW, timeout=10)
        call.add_done_callback(lambda future: got.append([future is call, future.cancelled()]))
        call.cancel()
        return [_eventually(lambda: got), got]


@row("sync uu: a done callback that raises harms nobody")
def _(world: World) -> Any:
    with world.channel() as channel:
        got: list[int] = []
        call = stub(channel, "uu").future(b"x", metadata=steer(delay_ms=50), timeout=10)
        call.add_done_callback(lambda _: got.append(1 // 0))
        call.add_done_callback(lambda _: got.append(2))
        return [attempt(call.result, 5), _eventually(lambda: got), got]


@row("sync uu: add_callback before and after the end")
def _(world: World) -> Any:
    with world.channel() as channel:
        got: list[int] = []
        call = stub(channel, "uu").future(b"x", metadata=SLOW, timeout=10)
        before = call.add_callback(lambda: got.append(1))
        call.result(5)
        _eventually(lambda: got)
        return [before, call.add_callback(lambda: got.append(2)), got]


@row("sync uu: initial metadata comes before the response")
def _(world: World) -> Any:
    with world.channel() as channel:
        metadata = steer(delay_ms=150, initial=[("early", "1")])
        call = stub(channel, "uu").future(b"x", metadata=metadata, timeout=10)
        return [show(call.initial_metadata()), call.done(), attempt(call.result, 5)]


@row("sync uu: code and details wait for the end")
def _(world: World) -> Any:
    with world.channel() as channel:
        call = stub(channel, "uu").future(b"x", metadata=steer(delay_ms=50), timeout=10)
        return [show(call.code()), call.details(), call.done()]


@row("sync uu: a future's deadline")
def _(world: World) -> Any:
    with world.channel() as channel:
        call = stub(channel, "uu").future(b"x", metadata=SLOW, timeout=0.05)
        return [show(call.exception(5)), view(call), call.time_remaining() <= 0]


@row("sync uu: an error as an object")
def _(world: World) -> Any:
    with world.channel() as channel:
        try:
            stub(channel, "uu")(b"x", metadata=BROKEN, timeout=10)
        except grpc.RpcError as error:
            call: Any = error
            asked = ("is_active", "time_remaining", "cancel", "cancelled", "done", "running",
                     "result", "exception", "code", "details")  # fmt: skip
            seen: list[Any] = [
                describe(error),
                {name: attempt(getattr(call, name)) for name in asked},
            ]
            seen += [attempt(call.add_callback, print), attempt(call.add_done_callback, len)]
            seen += [isinstance(call.debug_error_string(), str), "NOT_FOUND" in repr(call)]
            return [*seen, "no such thing" in str(call), call.traceback() is not None]
    return None


@row("sync uu: an error's metadata are named pairs")
def _(world: World) -> Any:
    with world.channel() as channel:
        call = stub(channel, "uu").future(b"x", metadata=NAMED, timeout=10)
        pairs = (call.initial_metadata(), call.trailing_metadata())
        return [[type(p).__name__, [[m.key, m.value] for m in p]] for p in pairs]


@row("sync: call objects of every kind")
def _(world: World) -> Any:
    with world.channel() as channel:
        responses = {kind: stub(channel, kind)(iter([b"x"]) if kind == "ss" else b"x", timeout=10)
                     for kind in ("us", "ss")}  # fmt: skip
        return {kind: [kinds(r), iter(r) is r, show([*r])] for kind, r in responses.items()}


@row("sync: multicallables are of grpc's public types")
def _(world: World) -> Any:
    with world.channel() as channel:
        types = (grpc.UnaryUnaryMultiCallable, grpc.UnaryStreamMultiCallable,
                 grpc.StreamUnaryMultiCallable, grpc.StreamStreamMultiCallable)  # fmt: skip
        return [kinds(stub(channel, kind), types) for kind in ("uu", "us", "su", "ss")]


@row("sync: arguments by position")
def _(world: World) -> Any:
    with world.channel() as channel:
        metadata = steer(report=True)
        response = stub(channel, "uu")(b"x", 10, metadata, None, True, grpc.Compression.Gzip)
        call = stub(channel, "us")(b"x", 10, metadata, None, None, None)
        return [report(response), [report(r) for r in call]]


@row("sync: no request at all is a mistake")
def _(world: World) -> Any:
    with world.channel() as channel:
        return [attempt(stub(channel, kind))["raised"]["is"] for kind in ("uu", "us", "su", "ss")]


@row("sync: sixteen threads on one multicallable")
def _(world: World) -> Any:
    got: list[Any] = []
    with world.channel() as channel:
        call = stub(channel, "uu")

        def work(number: int) -> None:
            got.extend(show(call(b"%d.%d" % (number, n), timeout=10)) for n in range(5))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    return sorted(got)


@row("sync: metadata that can be read only once")
def _(world: World) -> Any:
    def once() -> Iterator[tuple[str, str]]:
        yield from (*steer(report=True), ("a", "b"))

    seen = []
    for style in ("__call__", "with_call", "future"):
        with world.channel() as channel:
            answer = getattr(stub(channel, "uu"), style)(b"x", metadata=once(), timeout=10)
            answer = answer.result() if style == "future" else answer
            seen.append(report(answer[0] if style == "with_call" else answer))
    with world.channel() as channel:
        stream = stub(channel, "us")(b"x", metadata=once(), timeout=10)
        return [*seen, [report(response) for response in stream]]
