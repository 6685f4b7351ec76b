"""`grpc.intercept_channel` on both flavours: what interceptors see, change and decide."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import grpc

from tests.parity.harness import KINDS, World, add, row, stub
from tests.parity.observe import attempt, kinds, report, show, view
from tests.support.backend import steer


class Details(NamedTuple):
    """Call details as the documentation of grpcio's interceptors has one write them."""

    method: str
    timeout: float | None
    metadata: Any
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class _Every(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """One interceptor for all four types; a subclass says what `around` does."""

    def around(self, proceed: Any, details: Any, request: Any) -> Any:
        return proceed(details, request)

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return self.around(continuation, details, request)

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return self.around(continuation, details, request)

    def intercept_stream_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return self.around(continuation, details, request)

    def intercept_stream_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return self.around(continuation, details, request)


def _changed(details: Any, **changes: Any) -> Details:
    known = {name: getattr(details, name) for name in Details._fields}
    return Details(**{**known, **changes})


class Watch(_Every):
    """Writes down what passes."""

    def __init__(self, name: str, log: list[Any]) -> None:
        self.name, self.log = name, log

    def around(self, proceed: Any, details: Any, request: Any) -> Any:
        fields = [details.method, details.timeout, details.wait_for_ready]
        fields += [details.credentials, show(details.compression), show(details.metadata)]
        self.log.append([self.name, fields])
        call = proceed(details, request)
        self.log.append([self.name, kinds(call)])
        return call


class AddMetadata(_Every):
    def around(self, proceed: Any, details: Any, request: Any) -> Any:
        metadata = (*(details.metadata or ()), ("added", "by-interceptor"))
        return proceed(_changed(details, metadata=metadata), request)


class CutTimeout(_Every):
    def around(self, proceed: Any, details: Any, request: Any) -> Any:
        return proceed(_changed(details, timeout=0.05), request)


class OtherMethod(_Every):
    def around(self, proceed: Any, details: Any, request: Any) -> Any:
        return proceed(_changed(details, method="/test.Echo/Nothing"), request)


class OtherRequest(_Every):
    def around(self, proceed: Any, details: Any, request: Any) -> Any:
        changed = b"changed" if isinstance(request, bytes) else iter([b"changed"])
        return proceed(details, changed)


class Raise(_Every):
    def around(self, proceed: Any, details: Any, request: Any) -> Any:
        raise ValueError("asked for by the test")


class RaiseRpcError(_Every):
    def around(self, proceed: Any, details: Any, request: Any) -> Any:
        raise grpc.RpcError("asked for by the test")


class OwnResponse(_Every):
    def around(self, proceed: Any, details: Any, request: Any) -> Any:
        return b"own"


class OwnStream(_Every):
    def around(self, proceed: Any, details: Any, request: Any) -> Any:
        return iter([b"own", b"stream"])


class Twice(_Every):
    """Calls on, looks at the outcome, and calls again."""

    def around(self, proceed: Any, details: Any, request: Any) -> Any:
        first = proceed(details, request)
        first.code()
        return proceed(_changed(details, metadata=()), request)


def _call(channel: Any, kind: str, **arguments: Any) -> Any:
    """One call of this kind in every style."""
    given: dict[str, Any] = {"timeout": 10, **arguments}
    callable_ = stub(channel, kind)

    def request() -> Any:
        return iter([b"1", b"2"]) if kind[0] == "s" else b"1"

    if kind[1] == "s":
        return attempt(lambda: list(callable_(request(), **given)))

    def with_call() -> Any:
        response, call = callable_.with_call(request(), **given)
        return [response, view(call)]

    def future() -> Any:
        call = callable_.future(request(), **given)
        return [attempt(call.result, 5), kinds(call), call.done(), call.cancelled()]

    return [attempt(callable_, request(), **given), attempt(with_call), attempt(future)]


def _with(interceptor: Any, kind: str, world: World, **arguments: Any) -> Any:
    with world.channel() as channel:
        return _call(grpc.intercept_channel(channel, interceptor), kind, **arguments)


_FAILING = {"metadata": steer(code="ABORTED", details="first", drain=True)}
_CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "changes nothing": (_Every(), {}),
    "changes the timeout": (CutTimeout(), {"metadata": steer(delay_ms=200)}),
    "changes the method": (OtherMethod(), {}),
    "changes the request": (OtherRequest(), {}),
    "raises": (Raise(), {}),
    "raises an RpcError": (RaiseRpcError(), {}),
    "answers itself": (OwnResponse(), {}),
    "answers with a stream of its own": (OwnStream(), {}),
    "sees a failure": (_Every(), _FAILING),
}


def _register(kind: str, name: str) -> None:
    interceptor, arguments = _CASES[name]
    add(
        f"sync {kind}: an interceptor that {name}",
        lambda world: _with(interceptor, kind, world, **arguments),
        {},
    )


for _kind in KINDS:
    for _name in _CASES:
        _register(_kind, _name)


@row("sync: an interceptor adds metadata to every kind")
def _(world: World) -> Any:
    with world.channel() as channel:
        told = grpc.intercept_channel(channel, AddMetadata())
        metadata = steer(report=True)
        one = stub(told, "uu")(b"x", metadata=metadata, timeout=10)
        many = stub(told, "ss")(iter([b"x"]), metadata=metadata, timeout=10)
        joined = stub(told, "su")(iter([b"x"]), metadata=metadata, timeout=10)
        stream = stub(told, "us")(b"x", metadata=metadata, timeout=10)
        return [report(one), report(joined), [report(r) for r in many], [report(r) for r in stream]]


@row("sync: the order of interceptors, and what they are told")
def _(world: World) -> Any:
    log: list[Any] = []
    with world.channel() as channel:
        watched = grpc.intercept_channel(channel, Watch("outer", log), Watch("inner", log))
        watched = grpc.intercept_channel(watched, Watch("last added", log))
        calls = [_call(watched, kind, wait_for_ready=True) for kind in KINDS]
    return [calls, log]


@row("sync: an interceptor that calls on twice")
def _(world: World) -> Any:
    metadata = steer(code="ABORTED", details="first")
    return [_with(Twice(), kind, world, metadata=metadata) for kind in ("uu", "us")]


@row("sync: an interceptor sees a cancelled future")
def _(world: World) -> Any:
    log: list[Any] = []
    with world.channel() as channel:
        watched = grpc.intercept_channel(channel, Watch("w", log))
        call = stub(watched, "uu").future(b"x", metadata=steer(delay_ms=300), timeout=10)
        return [call.cancel(), attempt(call.result, 5), call.cancelled(), log[1:]]


@row("sync: interceptors of one kind leave the others alone")
def _(world: World) -> Any:
    class Only(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            return continuation(details, b"only")

    return [_with(Only(), kind, world) for kind in KINDS]


@row("sync: what is no interceptor is refused")
def _(world: World) -> Any:
    with world.channel() as channel:
        return attempt(grpc.intercept_channel, channel, object())["raised"]["is"]


@row("sync: an intercepted channel keeps its other powers")
def _(world: World) -> Any:
    channel = grpc.intercept_channel(world.channel(), _Every())
    with channel:
        ready = attempt(grpc.channel_ready_future(channel).result, 5)
    return [ready, attempt(_call, channel, "uu"), isinstance(channel, grpc.Channel)]


@row("sync: a request iterator passes through an interceptor once")
def _(world: World) -> Any:
    taken: list[int] = []

    def requests() -> Iterator[bytes]:
        for number in range(3):
            taken.append(number)
            yield b"%d" % number

    with world.channel() as channel:
        told = grpc.intercept_channel(channel, _Every())
        return [show(stub(told, "su")(requests(), timeout=10)), taken]
