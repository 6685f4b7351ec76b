"""aio interceptors on both flavours: what they see, change and decide."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc.aio import ClientCallDetails

from tests.parity.harness import KINDS, World, add, row, stub
from tests.parity.observe import attempt, attempting, kinds, report, show
from tests.support.backend import steer

Around = Any  # async (proceed, details, request) -> call or response


class _UU(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, around: Around) -> None:
        self.around = around

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return await self.around(continuation, details, request)


class _US(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, around: Around) -> None:
        self.around = around

    async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return await self.around(continuation, details, request)


class _SU(grpc.aio.StreamUnaryClientInterceptor):
    def __init__(self, around: Around) -> None:
        self.around = around

    async def intercept_stream_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return await self.around(continuation, details, request)


class _SS(grpc.aio.StreamStreamClientInterceptor):
    def __init__(self, around: Around) -> None:
        self.around = around

    async def intercept_stream_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return await self.around(continuation, details, request)


def every(around: Around) -> list[Any]:
    """Interceptors for all four types that do the same."""
    return [_UU(around), _US(around), _SU(around), _SS(around)]


async def _nothing(proceed: Any, details: Any, request: Any) -> Any:
    return await proceed(details, request)


async def _cut_timeout(proceed: Any, details: Any, request: Any) -> Any:
    return await proceed(details._replace(timeout=0.05), request)


async def _other_method(proceed: Any, details: Any, request: Any) -> Any:
    return await proceed(details._replace(method=b"/test.Echo/Nothing"), request)


async def _other_request(proceed: Any, details: Any, request: Any) -> Any:
    return await proceed(details, b"new" if isinstance(request, bytes) else iter([b"new"]))


async def _raise(proceed: Any, details: Any, request: Any) -> Any:
    raise ValueError("asked for by the test")


async def _raise_rpc_error(proceed: Any, details: Any, request: Any) -> Any:
    raise grpc.aio.AioRpcError(
        grpc.StatusCode.ABORTED,
        grpc.aio.Metadata(("i", "1")),
        grpc.aio.Metadata(("t", "2")),
        "asked for by the test",
    )


async def _own_response(proceed: Any, details: Any, request: Any) -> Any:
    return b"own"


async def _own_stream(proceed: Any, details: Any, request: Any) -> Any:
    call = await proceed(details, request)

    async def responses() -> AsyncIterator[bytes]:
        yield b"own"
        async for response in call:
            yield b"own " + response

    return responses()


async def _slow(proceed: Any, details: Any, request: Any) -> Any:
    await asyncio.sleep(0.05)
    return await proceed(details, request)


async def _wait_first(proceed: Any, details: Any, request: Any) -> Any:
    call = await proceed(details, request)
    await call.wait_for_connection()
    return call


async def _empty_metadata(proceed: Any, details: Any, request: Any) -> Any:
    return await proceed(details._replace(metadata=grpc.aio.Metadata()), request)


async def _own_details(proceed: Any, details: Any, request: Any) -> Any:
    made = ClientCallDetails(details.method, details.timeout, details.metadata, None, None)
    return await proceed(made, request)


async def _whole(call: Any) -> Any:
    if hasattr(call, "__aiter__"):
        return [response async for response in call]
    return await call


async def _ended(call: Any) -> Any:
    face = {"is": kinds(call), "result": await attempting(_whole(call))}
    for name in ("code", "details", "initial_metadata", "trailing_metadata"):
        face[name] = await attempting(asyncio.wait_for(getattr(call, name)(), 0.5))
    return {**face, "done": attempt(call.done), "cancelled": attempt(call.cancelled)}


def _request(kind: str) -> Any:
    return iter([b"1", b"2"]) if kind[0] == "s" else b"1"


async def _styles(channel: Any, kind: str, **arguments: Any) -> Any:
    """One call of this kind in every style."""
    given: dict[str, Any] = {"timeout": 10, **arguments}
    seen = {"whole": await _ended(stub(channel, kind)(_request(kind), **given))}
    if kind[1] == "s":
        call = stub(channel, kind)(_request(kind), **given)
        seen["read"] = [await attempting(call.read()) for _ in range(3)]
        call.cancel()
    if kind[0] == "s":
        call = stub(channel, kind)(**given)
        writes = [await attempting(call.write(b"w")), await attempting(call.done_writing())]
        seen["write"] = [writes, await attempting(_whole(call))]
    return seen


_FAILING = {"metadata": steer(code="ABORTED", details="first", drain=True)}
_RACE = "grpcio: whether the write or the read meets the failure first"
_CASES: dict[str, tuple[Around, dict[str, Any], tuple[str, ...]]] = {
    "changes nothing": (_nothing, {}, KINDS),
    "changes the timeout": (_cut_timeout, {"metadata": steer(delay_ms=150)}, ("uu", "us", "su")),
    "changes the method": (_other_method, {}, ("uu", "us")),
    "changes the request": (_other_request, {}, ("uu", "us", "su")),
    "raises": (_raise, {}, ("uu", "us")),
    "raises an RpcError": (_raise_rpc_error, {}, ("uu", "us")),
    "answers itself": (_own_response, {}, ("uu",)),
    "answers with a stream of its own": (_own_stream, {}, ("us", "ss")),
    "is slow": (_slow, {}, KINDS),
    "waits for the connection": (_wait_first, {}, ("uu", "us")),
    "empties the metadata": (_empty_metadata, {"metadata": steer(code="ABORTED")}, ("uu", "us")),
    "makes its own details": (_own_details, {}, KINDS),
    "sees a failure": (_nothing, _FAILING, ("uu", "us", "su")),
}


def _register(kind: str, name: str) -> None:
    around, arguments, _ = _CASES[name]

    async def run(world: World) -> Any:
        async with world.aio(interceptors=every(around)) as channel:
            return await _styles(channel, kind, **arguments)

    add(f"aio {kind}: an interceptor that {name}", run, {"writes": _RACE})


for _name, _case in _CASES.items():
    for _kind in _case[2]:
        _register(_kind, _name)


@row("aio: an interceptor adds metadata to every kind")
async def _(world: World) -> Any:
    async def around(proceed: Any, details: Any, request: Any) -> Any:
        metadata = grpc.aio.Metadata(*details.metadata)
        metadata.add("added", "by-interceptor")
        return await proceed(details._replace(metadata=metadata), request)

    async with world.aio(interceptors=every(around)) as channel:
        told = []
        for kind in KINDS:
            call = stub(channel, kind)(_request(kind), metadata=steer(report=True), timeout=10)
            answer = await _whole(call)
            told.append([report(r) for r in (answer if isinstance(answer, list) else [answer])])
        return told


@row("aio: the order of interceptors, and what they are told")
async def _(world: World) -> Any:
    log: list[Any] = []

    def watch(name: str) -> Around:
        async def around(proceed: Any, details: Any, request: Any) -> Any:
            fields = [show(details.method), details.timeout, details.wait_for_ready]
            log.append([name, fields, show(details.metadata), details.credentials])
            call = await proceed(details, request)
            log.append([name, kinds(call)])
            return call

        return around

    watched = every(watch("first")) + every(watch("second"))
    async with world.aio(interceptors=watched) as channel:
        for kind in KINDS:
            call = stub(channel, kind)(
                _request(kind), timeout=9, metadata=(("a", "b"),), wait_for_ready=True
            )
            await _whole(call)
    return log


@row("aio: an interceptor that calls on twice")
async def _(world: World) -> Any:
    async def around(proceed: Any, details: Any, request: Any) -> Any:
        first = await proceed(details, request)
        if await first.code() is grpc.StatusCode.OK:
            return first
        return await proceed(details._replace(metadata=grpc.aio.Metadata()), request)

    async with world.aio(interceptors=[_UU(around), _US(around)]) as channel:
        return [await _ended(stub(channel, kind)(b"x", timeout=10, **_FAILING))
                for kind in ("uu", "us")]  # fmt: skip


@row("aio: cancel while an interceptor holds the call")
async def _(world: World) -> Any:
    async with world.aio(interceptors=every(_slow)) as channel:
        seen = []
        for kind in KINDS:
            call = stub(channel, kind)(_request(kind), timeout=10)
            await asyncio.sleep(0.01)
            seen.append([call.done(), call.cancelled(), call.cancel(), await _ended(call)])
        return seen


@row("aio: cancel an intercepted call in flight")
async def _(world: World) -> Any:
    async with world.aio(interceptors=every(_nothing)) as channel:
        seen = []
        for kind in KINDS:
            call = stub(channel, kind)(_request(kind), metadata=steer(delay_ms=300), timeout=10)
            await asyncio.sleep(0.03)
            seen.append([call.cancel(), await _ended(call)])
        return seen


@row("aio: done callbacks of intercepted calls")
async def _(world: World) -> Any:
    seen: list[Any] = []
    async with world.aio(interceptors=every(_slow)) as channel:
        for kind in KINDS:
            got: list[bool] = []
            call = stub(channel, kind)(_request(kind), timeout=10)
            call.add_done_callback(lambda c, g=got, k=call: g.append(c is k))
            await _whole(call)
            await asyncio.sleep(0.01)
            call.add_done_callback(lambda c, g=got, k=call: g.append(c is k))
            await asyncio.sleep(0.01)
            seen.append(got)
        return seen


@row("aio: interceptors of one kind leave the others alone")
async def _(world: World) -> Any:
    async with world.aio(interceptors=[_UU(_other_request)]) as channel:
        return [await _ended(stub(channel, k)(_request(k), timeout=10)) for k in KINDS]


@row("aio: what is no interceptor is refused", by_design={"text": "holds a repr"})
async def _(world: World) -> Any:
    return [attempt(lambda: world.aio(interceptors=[object()])),
            attempt(lambda: world.aio(interceptors=5))]  # fmt: skip


@row("aio: one object with two kinds of interceptor")
async def _(world: World) -> Any:
    class Both(_UU, _US):
        pass

    async with world.aio(interceptors=[Both(_other_request)]) as channel:
        return [await _ended(stub(channel, k)(_request(k), timeout=10)) for k in ("uu", "us")]


@row("aio: intercepted calls and the end of the channel")
async def _(world: World) -> Any:
    channel = world.aio(interceptors=every(_nothing))
    call = stub(channel, "uu")(b"x", metadata=steer(delay_ms=300), timeout=10)
    await asyncio.sleep(0.03)
    await channel.close()
    seen = await _ended(call)
    late = await attempting(_whole(stub(channel, "uu")(b"x", timeout=5)))
    return [seen, late]


@row("aio: intercepted calls share the channel's grace")
async def _(world: World) -> Any:
    channel = world.aio(interceptors=every(_slow))
    call = stub(channel, "uu")(b"x", metadata=steer(delay_ms=50), timeout=10)
    await asyncio.sleep(0.08)
    await channel.close(2)
    return await _ended(call)


@row("aio: iterating and mixing styles on intercepted streams")
async def _(world: World) -> Any:
    async with world.aio(interceptors=every(_nothing)) as channel:
        seen = []
        call = stub(channel, "us")(b"x", metadata=steer(responses=3), timeout=10)
        seen.append([await attempting(call.read()), await attempting(_whole(call))])
        call = stub(channel, "su")(_request("su"), timeout=10)
        seen.append([await attempting(call.write(b"x")), await attempting(call.done_writing())])
        return [*seen, await attempting(call), attempt(call.time_remaining)]
