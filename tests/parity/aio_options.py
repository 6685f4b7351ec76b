"""Options, compression and credentials of aio channels and calls."""

from __future__ import annotations

from typing import Any

import grpc

from tests.parity.harness import KINDS, World, row, stub
from tests.parity.observe import attempting, report
from tests.parity.proxy import Relay
from tests.parity.sync_options import BAD_OPTIONS, OPTIONS_BY_DESIGN, Plugin
from tests.support.backend import steer

REPORT = steer(report=True)
READY = grpc.ChannelConnectivity.READY
IDLE = grpc.ChannelConnectivity.IDLE


def _requests(kind: str) -> Any:
    return iter([b"x"]) if kind[0] == "s" else b"x"


async def _whole(call: Any) -> Any:
    if hasattr(call, "__aiter__"):
        return [response async for response in call]
    return await call


async def _told(channel: grpc.aio.Channel, **arguments: Any) -> Any:
    """The backend's report on one call, or the error."""
    try:
        return report(await stub(channel, "uu")(b"x", metadata=REPORT, timeout=10, **arguments))
    except grpc.RpcError:
        return await attempting(stub(channel, "uu")(b"x", timeout=10, **arguments))


async def _echo(channel: grpc.aio.Channel) -> Any:
    return await attempting(stub(channel, "uu")(b"x", timeout=5))


@row("aio: user agent and authority")
async def _(world: World) -> Any:
    options = [("grpc.primary_user_agent", "mine/1"), ("grpc.secondary_user_agent", "second/2"),
               ("grpc.default_authority", "api.test:80")]  # fmt: skip
    async with world.aio(options=options) as channel, world.aio() as usual:
        return [await _told(channel), await _told(usual)]


@row("aio: the authority of a bare target")
async def _(world: World) -> Any:
    async with world.aio(world.place.backend.address) as channel:
        return await _told(channel)


@row("aio: options of all sorts", by_design=OPTIONS_BY_DESIGN)
async def _(world: World) -> Any:
    async def use(options: Any) -> Any:
        async with world.aio(options=options) as channel:
            return await attempting(stub(channel, "uu")(bytes(10), timeout=5))

    return {name: await attempting(use(options)) for name, options in BAD_OPTIONS.items()}


@row("aio: message limits say their numbers")
async def _(world: World) -> Any:
    small = [("grpc.max_receive_message_length", 100), ("grpc.max_send_message_length", 200)]
    async with world.aio(options=small) as channel:
        call = stub(channel, "uu")
        return [await attempting(call(bytes(n), timeout=5)) for n in (50, 100, 101, 200, 201)]


@row("aio: compression of channel and call, by the bytes on the wire")
async def _(world: World) -> Any:
    cases = [(None, None), (None, "Gzip"), ("Gzip", None), ("Gzip", "NoCompression")]
    seen = []
    for of_channel, of_call in cases:
        with Relay(world.place.backend.address) as relay:
            chosen = of_channel and getattr(grpc.Compression, of_channel)
            async with world.aio(f"ipv4:{relay.address}", compression=chosen) as channel:
                each = of_call and getattr(grpc.Compression, of_call)
                for kind in KINDS:
                    sent = bytes(20_000)
                    request = iter([sent]) if kind[0] == "s" else sent
                    await _whole(stub(channel, kind)(request, compression=each, timeout=10))
            seen.append([of_channel, of_call, relay.sent > 80_000])
    return seen


@row("aio: a secure channel and call credentials")
async def _(world: World) -> Any:
    plugin = Plugin((("who", "me"),))
    credentials = grpc.metadata_call_credentials(plugin)
    token = grpc.access_token_call_credentials("token")
    both = grpc.composite_call_credentials(credentials, token)
    async with world.aio_secure() as channel:
        seen = [await _told(channel), await _told(channel, credentials=both)]
    return [*seen, plugin.asked]


@row("aio: call credentials of the channel")
async def _(world: World) -> Any:
    trusted = world.place.authority.credentials()
    token = grpc.access_token_call_credentials("token")
    whole = grpc.composite_channel_credentials(trusted, token)
    async with world.aio_secure(credentials=whole) as channel:
        return await _told(channel)


@row("aio: credentials that fail")
async def _(world: World) -> Any:
    refusing = grpc.metadata_call_credentials(Plugin(error=ValueError("no token today")))
    async with world.aio_secure() as channel:
        return await attempting(stub(channel, "uu")(b"x", credentials=refusing, timeout=5))


@row("aio: the name in the certificate, and the wrong trust")
async def _(world: World) -> Any:
    codes = []
    for name in ("localhost", "other.test"):
        options = [("grpc.ssl_target_name_override", name)]
        async with world.aio_secure(options=options) as channel:
            outcome = await _echo(channel)
            codes.append(outcome.get("raised", {}).get("code"))
    async with world.aio_secure(credentials=grpc.ssl_channel_credentials()) as channel:
        codes.append((await _echo(channel))["raised"]["code"])
    return codes
