"""One question to one server, over UDP or TCP; and work for which the loop has no time.

Bare sockets under the loop's `sock_*` methods: a cancelled query closes its socket at once, which
an asyncio transport does one turn of the loop later. The sockets are connected, so that the
kernel passes over datagrams from elsewhere; it also draws a random port for each.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from grpclb.resolvers.dns.system import Server
from grpclb.resolvers.dns.wire import Query

T = TypeVar("T")
_LARGEST = 65_535


async def exchange(server: Server, query: Query, *, tcp: bool) -> bytes:
    """The first answer to `query`, still as bytes. Raises OSError; waits until cancelled."""
    loop = asyncio.get_running_loop()
    kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
    # Numeric, so this asks nobody; it knows zones of IPv6 addresses.
    family, _, _, _, address = socket.getaddrinfo(
        server.host, server.port, type=kind, flags=socket.AI_NUMERICHOST
    )[0]
    with socket.socket(family, kind) as sock:
        sock.setblocking(False)
        if not tcp:
            sock.connect(address)
            await loop.sock_sendall(sock, query.wire)
            return await _answer(query, lambda: loop.sock_recv(sock, _LARGEST))
        await loop.sock_connect(sock, address)
        await loop.sock_sendall(sock, struct.pack("!H", len(query.wire)) + query.wire)
        return await _answer(query, lambda: _message(loop, sock))


async def _answer(query: Query, receive: Callable[[], Coroutine[Any, Any, bytes]]) -> bytes:
    while True:
        reply = await receive()
        if query.is_answered_by(reply):
            return reply


async def _message(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> bytes:
    (length,) = struct.unpack("!H", await _exactly(loop, sock, 2))
    return await _exactly(loop, sock, length)


async def _exactly(loop: asyncio.AbstractEventLoop, sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        more = await loop.sock_recv(sock, count - len(data))
        if not more:
            raise ConnectionResetError("connection closed before the answer was whole")
        data += more
    return bytes(data)
