"""From the objects that a caller holds to plain values that can be compared.

Only what is public is observed: never a private type's name, an identity number or a repr.
"""

from __future__ import annotations

import asyncio
import enum
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import grpc

_PUBLIC_ERRORS: tuple[type, ...] = (
    grpc.RpcError,
    grpc.Call,
    grpc.Future,
    grpc.RpcContext,
    grpc.FutureTimeoutError,
    grpc.FutureCancelledError,
    grpc.aio.AioRpcError,
    grpc.aio.BaseError,
    grpc.aio.UsageError,
    grpc.aio.InternalError,
    asyncio.CancelledError,
    asyncio.InvalidStateError,
    TimeoutError,
    Exception,
)
_PUBLIC_CALLS: tuple[type, ...] = (
    grpc.RpcError,
    grpc.Call,
    grpc.Future,
    grpc.RpcContext,
    grpc.aio.Call,
    grpc.aio.UnaryUnaryCall,
    grpc.aio.UnaryStreamCall,
    grpc.aio.StreamUnaryCall,
    grpc.aio.StreamStreamCall,
)
_LONG = 64
_FRAME = re.compile(r"Stream removed \((.*)\)")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def kinds(value: object, among: Iterable[type] = _PUBLIC_CALLS) -> list[str]:
    """The public classes of which `value` is an instance."""
    return [cls.__name__ for cls in among if isinstance(value, cls)]


def show(value: Any) -> Any:
    """A comparable image of a value that a caller got."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case bytes() if len(value) > _LONG:
            return f"{len(value)} bytes {hashlib.sha256(value).hexdigest()[:12]}"
        case bytes():
            return repr(value)
        case enum.Enum():
            return value.name
        case grpc.RpcError() | BaseException():
            return describe(value)
        case grpc.aio.Metadata():
            return {"aio.Metadata": [[k, show(v)] for k, v in value]}
        case dict():
            return {str(k): show(v) for k, v in value.items()}
        case tuple() | list():
            return [show(item) for item in value]
        case _ if value is grpc.aio.EOF:
            return "EOF"
        case _:
            return kinds(value) or type(value).__name__


def _details(text: str | None) -> str | None:
    """The details without the frame that C-core puts around them when the stream's end races."""
    framed = None if text is None else _FRAME.fullmatch(text)
    return framed.group(1) if framed else text


def describe(error: Any) -> dict[str, Any]:
    """What an ``except`` clause can learn from an error.

    Not `debug_error_string`: on grpcio's sync errors of local origin it never returns.
    """
    known: dict[str, Any] = {"is": kinds(error, _PUBLIC_ERRORS)}
    if "RpcError" in known["is"] and hasattr(error, "code"):
        known["code"] = show(error.code())
        known["details"] = _details(error.details())
        known["initial"] = show(error.initial_metadata())
        known["trailing"] = show(error.trailing_metadata())
    else:
        known["type"] = type(error).__name__
        known["text"] = _ADDRESS.sub("", str(error))
    return known


def attempt(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What `function` returned, or what it raised."""
    try:
        return {"returned": show(function(*args, **kwargs))}
    except Exception as error:
        return {"raised": describe(error)}


async def attempting(awaitable: Awaitable[Any]) -> Any:
    """What awaiting gave, or what it raised; a call's own cancellation counts as raised."""
    try:
        return {"returned": show(await awaitable)}
    except (Exception, asyncio.CancelledError) as error:
        return {"raised": describe(error)}


def view(call: Any) -> dict[str, Any]:
    """The public face of a finished sync call."""
    face: dict[str, Any] = {
        "is": kinds(call),
        "code": show(call.code()),
        "details": _details(call.details()),
        "initial": show(call.initial_metadata()),
        "trailing": show(call.trailing_metadata()),
        "active": call.is_active(),
    }
    if isinstance(call, grpc.Future):
        face |= {"done": call.done(), "running": call.running(), "cancelled": call.cancelled()}
    return face


async def viewing(call: Any) -> dict[str, Any]:
    """The public face of an aio call whose end was awaited in some way.

    A call that failed before it was sent has no end on grpcio: its `code` would wait for ever.
    """
    if not call.done():
        code = asyncio.ensure_future(call.code())
        await asyncio.wait([code], timeout=0.1)
        code.cancel()
    if not call.done():
        return {"is": kinds(call), "done": False, "cancelled": call.cancelled()}
    return {
        "is": kinds(call),
        "code": show(await call.code()),
        "details": _details(await call.details()),
        "initial": await attempting(call.initial_metadata()),
        "trailing": await attempting(call.trailing_metadata()),
        "done": call.done(),
        "cancelled": call.cancelled(),
    }


def report(response: bytes) -> dict[str, Any]:
    """A backend's report on a call, without what is different for every connection."""
    told: dict[str, Any] = json.loads(response)
    del told["peer"], told["time_remaining"]
    told["metadata"] = sorted(pair for pair in told["metadata"] if pair[0] != "x-steer")
    return told
