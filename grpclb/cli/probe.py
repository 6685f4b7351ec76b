"""One backend, tried for real: connect, ask for its health, call a method."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from time import monotonic

import grpc
import grpc.aio

from grpclb.cli.arguments import Request
from grpclb.cli.seen import Certificate, Seen, Stage, Wire
from grpclb.cli.wire import Look, look
from grpclb.control.failures import connection_error
from grpclb.core.address import Address
from grpclb.core.connectivity import READY, TRANSIENT_FAILURE
from grpclb.core.service_config import ServiceConfig, message_limits_json
from grpclb.core.target import split_host_port

_HEALTH = "/grpc.health.v1.Health/Check"
_STATUSES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
_LOOK_PATIENCE = 3.0
_GRACE = 0.5  # seconds beyond a call's deadline, after which it is given up
_TRAILERS = 0.2  # seconds between a unary answer and its status


@dataclass(frozen=True, slots=True)
class Call:
    """One RPC: how it ended, after how many seconds, and the bytes of its first answer."""

    method: str
    code: str
    details: str
    seconds: float
    response: bytes | None = None
    streaming: bool = False


@dataclass(frozen=True, slots=True)
class Backend:
    """All that was found out about one address."""

    address: Address
    connected: bool
    connect_seconds: float | None = None
    error: str | None = None
    certificate: Certificate | None = None
    health_service: str | None = None
    health: str | None = None  # a status of grpc.health.v1, or the code of the call
    call: Call | None = None
    seen: tuple[Seen, ...] = ()


async def probe(address: Address, request: Request, config: ServiceConfig) -> Backend:
    """Try one backend. Every step takes `request.timeout` at most; raises nothing."""
    credentials = None if request.tls is None else request.tls.channel_credentials()
    options = request.spec.subchannel_options(address, message_limits_json(config))
    if credentials is None:
        channel = grpc.aio.insecure_channel(address.uri, options)
    else:
        channel = grpc.aio.secure_channel(address.uri, credentials, options)
    try:
        began = monotonic()
        ready = await _connect(channel, request.timeout)
        seconds = monotonic() - began
        if not ready:
            return await _unreachable(channel, address, request)
        return await _ask(channel, address, request, config, seconds)
    finally:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GRACE):
                await channel.close()


async def _connect(channel: grpc.aio.Channel, timeout: float) -> bool:
    """One attempt; False when it failed or took too long."""
    state = channel.get_state(try_to_connect=True)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            while state not in (READY, TRANSIENT_FAILURE):
                await channel.wait_for_state_change(state)
                state = channel.get_state()
    return state is READY


async def _unreachable(channel: grpc.aio.Channel, address: Address, request: Request) -> Backend:
    name = server_name(request, address)
    found, error = await asyncio.gather(
        look(address, name, request.tls, min(request.timeout, _LOOK_PATIENCE)),
        _reason(channel, address),
    )
    details = error or found.reason or _without_reason(found)
    seen = Seen(
        Stage.CONNECT,
        "UNAVAILABLE",
        details,
        request.target,
        request.spec.target.scheme,
        address.target,
        tls=request.tls is not None,
        wire=found.wire,
        alpn=found.alpn,
        certificate=found.certificate,
        server_name=name,
        client_certificate=request.tls is not None and request.tls.cert is not None,
    )
    return Backend(address, False, error=details, certificate=found.certificate, seen=(seen,))


def _without_reason(found: Look) -> str:
    return "no answer to the connection attempt" if found.wire is Wire.TIMEOUT else "not connected"


def server_name(request: Request, address: Address) -> str:
    """The name that the backend at `address` must prove."""
    name = address.server_name or request.spec.authority
    try:
        return split_host_port(name, "")[0]
    except ValueError:
        return name


async def _reason(channel: grpc.aio.Channel, address: Address) -> str | None:
    """An RPC on a failed channel ends at once inside gRPC, with the reason."""
    ask: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_HEALTH)
    call = ask(b"", timeout=_TRAILERS)
    return connection_error(await call.code(), await call.details(), address.uri)


async def _ask(
    channel: grpc.aio.Channel,
    address: Address,
    request: Request,
    config: ServiceConfig,
    seconds: float,
) -> Backend:
    seen: list[Seen] = []
    health = None
    service = config.health_check_service if request.health is None else request.health
    if service is not None:
        health, oddity = await _health(channel, address, request, service)
        seen += oddity
    call = None
    if request.method is not None:
        deadline, _ = config.method_config(request.method).applied(request.deadline, None)
        limit = request.timeout if deadline is None else min(deadline, request.timeout)
        call = await _call(channel, request.method, request.data, limit)
        if call.code != "OK":
            seen.append(_called(Stage.CALL, address, request, call, limit, seconds))
    return Backend(
        address,
        True,
        connect_seconds=seconds,
        health_service=service,
        health=health,
        call=call,
        seen=tuple(seen),
    )


async def _health(
    channel: grpc.aio.Channel, address: Address, request: Request, service: str
) -> tuple[str, list[Seen]]:
    name = service.encode()
    # HealthCheckRequest has one field, the string 1; lengths above 127 take two bytes.
    size = bytes([len(name)]) if len(name) < 128 else bytes([len(name) & 127 | 128, len(name) >> 7])
    call = await _call(channel, _HEALTH, b"\x0a" + size + name if name else b"", request.timeout)
    status = _status(call.response) if call.code == "OK" else ""
    if status == "SERVING":
        return status, []
    seen = _called(Stage.HEALTH, address, request, call, request.timeout, None, service, status)
    return status or call.code, [seen]


def _status(response: bytes | None) -> str:
    """HealthCheckResponse has one field, the enum 1, which is absent when it is 0."""
    number = response[1] if response and len(response) > 1 and response[0] == 8 else 0
    return _STATUSES[number] if number < len(_STATUSES) else "UNKNOWN"


def _called(
    stage: Stage,
    address: Address,
    request: Request,
    call: Call,
    deadline: float,
    connect_seconds: float | None,
    service: str = "",
    status: str = "",
) -> Seen:
    return Seen(
        stage,
        call.code,
        call.details,
        request.target,
        request.spec.target.scheme,
        address.target,
        tls=request.tls is not None,
        method=call.method,
        service=service,
        status=status,
        empty_request=not request.data,
        deadline=deadline,
        seconds=call.seconds,
        connect_seconds=connect_seconds,
    )


async def _call(channel: grpc.aio.Channel, method: str, data: bytes, deadline: float) -> Call:
    """Send one message and read the first answer: right for methods of all four types."""
    ask: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(method)
    began = monotonic()
    # grpc.aio takes 0 for "no deadline".
    call = ask(data, timeout=deadline if deadline > 0 else -1.0)
    response, streaming = None, False
    try:
        async with asyncio.timeout(max(deadline, 0.0) + _GRACE):
            first = await call.read()
            if first is not grpc.aio.EOF:
                assert isinstance(first, bytes)
                response = first
                streaming = await _goes_on(call)
    except grpc.aio.AioRpcError:
        pass  # its code is the call's
    except TimeoutError:
        return Call(method, "DEADLINE_EXCEEDED", "no end in time", monotonic() - began)
    finally:
        call.cancel()
    seconds = monotonic() - began
    if streaming:
        return Call(method, "OK", "", seconds, response, streaming=True)
    code, details = await call.code(), await call.details()
    return Call(method, code.name, details or "", seconds, response)


async def _goes_on(call: grpc.aio.UnaryStreamCall[bytes, bytes]) -> bool:
    """Whether there is more after the first answer, as only a stream has."""
    try:
        async with asyncio.timeout(_TRAILERS):
            return await call.read() is not grpc.aio.EOF
    except TimeoutError:
        return True
