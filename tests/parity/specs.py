"""Rows that are one call each, told as data, and run on both stacks in every calling style."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc

from tests.parity.harness import KINDS, World, add, stub
from tests.parity.observe import attempt, attempting, describe, show, view, viewing
from tests.support.backend import steer


@dataclass(frozen=True, slots=True)
class Spec:
    """One call. `steer` goes to the backend; the rest to the factory, the stub or the call."""

    name: str
    kind: str
    requests: tuple[Any, ...] = (b"hello",)
    steer: Mapping[str, Any] = field(default_factory=dict)
    call: Mapping[str, Any] = field(default_factory=dict)
    stub: Mapping[str, Any] = field(default_factory=dict)
    channel: Mapping[str, Any] = field(default_factory=dict)
    where: str = "backend"
    by_design: Mapping[str, str] = field(default_factory=dict)
    aio: bool = True

    @property
    def streams_requests(self) -> bool:
        return self.kind[0] == "s"

    @property
    def streams_responses(self) -> bool:
        return self.kind[1] == "s"

    def arguments(self) -> dict[str, Any]:
        given = {"timeout": 10, **self.call}
        metadata = given.get("metadata", ())
        if self.steer:
            # So that the server does not end a stream that is still being written, see `steady`.
            wishes = {"drain": self.kind == "ss", **self.steer}
            given["metadata"] = (*metadata, *steer(**wishes))
        return given

    def request(self) -> Any:
        return iter(self.requests) if self.streams_requests else self.requests[0]


def run_sync(spec: Spec, world: World) -> Any:
    """The call in every sync style."""
    with world.channel(spec.where, **spec.channel) as channel:
        callable_ = stub(channel, spec.kind, **spec.stub)
        if spec.streams_responses:
            return {"iterate": _iterate(callable_, spec)}

        def with_call() -> Any:
            response, call = callable_.with_call(spec.request(), **spec.arguments())
            return [response, view(call)]

        def future() -> Any:
            call = callable_.future(spec.request(), **spec.arguments())
            return [attempt(call.result, 10), view(call)]

        return {
            "call": attempt(callable_, spec.request(), **spec.arguments()),
            "with_call": attempt(with_call),
            "future": attempt(future),
        }


def _iterate(callable_: Any, spec: Spec) -> Any:
    try:
        call = callable_(spec.request(), **spec.arguments())
    except Exception as error:
        return {"raised": describe(error)}
    responses: list[Any] = []
    try:
        for response in call:
            responses.append(show(response))  # noqa: PERF401 - those before an error count
    except Exception as error:
        return {"responses": responses, "raised": describe(error), "view": view(call)}
    return {"responses": responses, "view": view(call)}


async def run_aio(spec: Spec, world: World) -> Any:
    """The call in every aio style."""
    async with world.aio(spec.where, **spec.channel) as channel:
        callable_ = stub(channel, spec.kind, **spec.stub)
        take = _iterate_aio if spec.streams_responses else _await
        seen = {"whole": await take(callable_, spec.request(), spec)}
        if spec.streams_requests:
            seen["async iterator"] = await take(callable_, _asynchronous(spec.request()), spec)
            seen["write"] = await _write(callable_, spec)
        if spec.streams_responses:
            seen["read"] = await _read(callable_, spec)
        return seen


async def _asynchronous(items: Iterator[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item


async def _await(callable_: Any, request: Any, spec: Spec) -> Any:
    try:
        call = callable_(request, **spec.arguments())
    except Exception as error:
        return {"raised": describe(error)}
    return {"await": await attempting(call), "view": await viewing(call)}


async def _iterate_aio(callable_: Any, request: Any, spec: Spec) -> Any:
    try:
        call = callable_(request, **spec.arguments())
    except Exception as error:
        return {"raised": describe(error)}
    responses: list[Any] = []

    async def iterate() -> None:
        async for response in call:
            responses.append(show(response))  # noqa: PERF401 - those before an error count

    ended = await attempting(iterate())
    return {"responses": responses, "ended": ended, "view": await viewing(call)}


async def _read(callable_: Any, spec: Spec) -> Any:
    try:
        call = callable_(spec.request(), **spec.arguments())
    except Exception as error:
        return {"raised": describe(error)}
    reads: list[Any] = []
    for _ in range(50):
        reads.append(await attempting(call.read()))
        if reads[-1].get("returned") == "EOF" or "raised" in reads[-1]:
            break
    return {"reads": reads, "view": await viewing(call)}


async def _write(callable_: Any, spec: Spec) -> Any:
    try:
        call = callable_(**spec.arguments())
    except Exception as error:
        return {"raised": describe(error)}
    raised: Any = None
    try:
        for request in spec.requests:
            await call.write(request)
        await call.done_writing()
    except Exception as error:
        # Which write meets the end of the call is a race; that one did is not observed either.
        raised = describe(error) if not isinstance(error, grpc.RpcError) else None
    if spec.streams_responses:
        first = await attempting(call.read())
    else:
        first = await attempting(call)
    call.cancel()
    return {"raised": raised, "first": first}


def _binary(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _fail(_: Any) -> Any:
    raise ValueError("asked for by the test")


_UNREACHABLE = {
    "details": "grpclb says which policy found no backend, and why",
    "first": "whether a write or the read meets the refusal first is a race",
}
_LOST = dict.fromkeys(
    ("code", "details"), "grpc.aio calls the end of a stream that is written to INTERNAL"
)
_WAITING = {"details": "grpclb says what the call was waiting for when its time ran out"}
_PRIVATE = {"text": "it holds the name of a private class"}
_UNPACKING = {"text": "C and Python word the same unpacking error in two ways"}
_CODES = tuple(code.name for code in grpc.StatusCode)
_MANY = tuple(b"%d" % n for n in range(300))
_MEGABYTE = bytes(1 << 20)


def _each_kind() -> Iterator[Spec]:
    late = {"delay_ms": 100}
    for kind in KINDS:
        yield Spec("echo", kind)
        yield Spec("an empty message", kind, requests=(b"",))
        yield Spec("a megabyte", kind, requests=(_MEGABYTE,))
        yield Spec(
            "initial and trailing metadata",
            kind,
            steer={
                "initial": [("a", "1"), ("a", "2"), ("b-bin", _binary(b"\x00\xff"))],
                "trailing": [("t", "x"), ("t-bin", _binary(b"\x01"))],
            },
        )
        yield Spec("an error with trailing metadata", kind, steer={
            "code": "ABORTED", "details": "déjà vu: 100%", "trailing": [("t", "x")],
            # Whether an aio stream still sees it beside the error is a race in grpcio.
            "initial": [] if kind[1] == "s" else [("i", "y")],
        })  # fmt: skip
        yield Spec("the handler crashes", kind, steer={"crash": True})
        yield Spec("deadline", kind, call={"timeout": 0.05}, steer={"delay_ms": 250})
        # An aio stream that ends while it is being written has a random status: grpcio's bug.
        steady = kind[0] != "s"
        yield Spec(
            "deadline of nought",
            kind,
            aio=steady,
            call={"timeout": 0},
            steer=late,
            by_design=_WAITING,
        )
        yield Spec(
            "negative deadline",
            kind,
            aio=steady,
            call={"timeout": -1},
            steer=late,
            by_design=_WAITING,
        )
        yield Spec(
            "tiny deadline",
            kind,
            aio=steady,
            call={"timeout": 1e-6},
            steer=late,
            by_design=_WAITING,
        )
        yield Spec("timeout of a wrong type", kind, call={"timeout": "soon"})
        yield Spec("wait_for_ready", kind, call={"wait_for_ready": True})
        yield Spec("no wait_for_ready", kind, call={"wait_for_ready": False})
        yield Spec("unreachable", kind, where="unreachable", by_design=_UNREACHABLE)
        yield Spec("wait_for_ready on the unreachable", kind, where="unreachable", by_design={
            **_UNREACHABLE
        }, call={"wait_for_ready": True, "timeout": 0.08})  # fmt: skip
        yield Spec("unknown method", kind, aio=steady, stub={"method": "/test.Echo/Nothing"})
        yield Spec("unknown service", kind, aio=steady, stub={"method": "/nothing/Nothing"})
        yield Spec("method without a slash", kind, aio=steady, stub={"method": "nothing"})
        yield Spec("registered method", kind, stub={"_registered_method": True})
        yield Spec("serializer raises", kind, stub={"request_serializer": _fail})
        yield Spec("deserializer raises", kind, stub={"response_deserializer": _fail})
        yield Spec("deserializer gives None", kind, stub={"response_deserializer": lambda _: None})
        yield Spec("own types", kind, requests=("text",), stub={
            "request_serializer": str.encode, "response_deserializer": bytes.decode,
        })  # fmt: skip
        yield Spec("compressed", kind, requests=(bytes(5000),), steer={"compression": "gzip"},
                   call={"compression": grpc.Compression.Gzip})  # fmt: skip
        yield Spec("credentials on an insecure channel", kind, call={
            "credentials": grpc.access_token_call_credentials("token")
        })  # fmt: skip
        yield Spec("unknown keyword", kind, call={"colour": "red"}, by_design=_PRIVATE)
        yield Spec("receive limit", kind, requests=(bytes(2000),), channel={
            "options": [("grpc.max_receive_message_length", 1000)]})  # fmt: skip
        yield Spec("send limit", kind, requests=(bytes(2000),), channel={
            "options": [("grpc.max_send_message_length", 1000)]
        }, by_design=_LOST if kind == "ss" else {})  # fmt: skip
        for code in _CODES:
            yield Spec(f"code {code}", kind, steer={"code": code, "details": "because"})


def _some_kinds() -> Iterator[Spec]:
    for kind in ("uu", "us"):
        yield Spec("request None", kind, requests=(None,))
        yield Spec("request of a wrong type", kind, requests=("text",))
        for name, metadata in _BAD_METADATA.items():
            # A dictionary: grpclb's aio refuses it at the call, grpcio's when it is awaited.
            yield Spec(
                f"metadata: {name}",
                kind,
                call={"metadata": metadata},
                aio=name != "dictionary",
                by_design=_UNPACKING,
            )
        # aio raises a private error of grpcio's where grpclb says that no backend was found.
        for name in ("capital key", "pseudo header", "number as value", "triple"):
            yield Spec(
                f"metadata on the unreachable: {name}",
                kind,
                where="unreachable",
                call={"metadata": _BAD_METADATA[name]},
                aio=False,
                by_design=_UNPACKING,
            )
        yield Spec("metadata: good", kind, steer={"size": 3}, call={
            "metadata": (("a", "1"), ("a", "2"), ("b-bin", b"\x00\xff"), ("c", ""))})  # fmt: skip
    for kind in ("us", "ss"):
        yield Spec("no response at all", kind, steer={"responses": 0})
        yield Spec("error after two responses", kind, requests=(b"1", b"2", b"3"), steer={
            "responses": 3, "code": "DATA_LOSS", "details": "two only", "abort_after": 2,
        })  # fmt: skip
        yield Spec("many responses", kind, steer={"responses": 40, "size": 10})
    for kind in ("su", "ss"):
        yield Spec("no request at all", kind, requests=())
        yield Spec("many requests", kind, requests=_MANY if kind == "su" else _MANY[:40])
    yield Spec("many responses at once", "us", steer={"responses": 300, "size": 1000})


_BAD_METADATA: Mapping[str, Any] = {
    "empty": (),
    "a list of lists": [["a", "b"]],
    "capital key": (("Upper", "x"),),
    "space in key": (("a b", "x"),),
    "empty key": (("", "x"),),
    "newline in value": (("a", "x\ny"),),
    "non-ASCII value": (("a", "é"),),
    "number as value": (("a", 5),),
    "None as value": (("a", None),),
    "bytes under a text key": (("a", b"\xff"),),
    "text under a binary key": (("a-bin", "text"),),
    "bytes as key": ((b"a", "x"),),
    "triple": (("a", "b", "c"),),
    "string": "ab",
    "number": 5,
    "flat pair": ("key", "value"),
    "dictionary": {"key": "value"},
    "reserved key": (("grpc-status", "7"),),
    "pseudo header": ((":path", "x"),),
}


def _register(spec: Spec) -> None:
    async def aio(world: World) -> Any:
        return await run_aio(spec, world)

    add(f"sync {spec.kind}: {spec.name}", lambda world: run_sync(spec, world), spec.by_design)
    if spec.aio:
        add(f"aio {spec.kind}: {spec.name}", aio, spec.by_design)


for _spec in (*_each_kind(), *_some_kinds()):
    _register(_spec)
