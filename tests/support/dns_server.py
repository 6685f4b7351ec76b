"""A real DNS server for tests and the demo: UDP and TCP on one port, its zone changeable while up.

    with DnsServer() as dns:
        dns.set("api.test", "A", "127.0.0.1", "127.0.0.2", ttl=5)
        dns.fault("api.test", Fault.SERVFAIL, times=2)
        ...  # resolve dns://127.0.0.1:{dns.port}/api.test
        assert len(dns.queries("api.test", "A")) == 3

The server runs on a thread of its own; every method may be called from any thread at any time.
It answers as an authoritative server does: NXDOMAIN for a name that it does not hold, an empty
answer for a type that the name does not have, CNAMEs followed inside the zone, records in the
order given, EDNS sizes obeyed, TC set on a UDP answer that does not fit.
"""

import asyncio
import contextlib
import functools
import socket
import struct
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tests.support.dns_zone import DnsZone, Fault, Query, Transport
from tests.support.loop_thread import Connections, LoopThread

__all__ = ["DnsServer", "Fault", "Query", "Transport"]


class DnsServer(DnsZone):
    """A DNS server on 127.0.0.1; a context manager, or `start()` and `stop()`.

    The port is the system's choice unless given, and stays the same over `stop()` and `start()`,
    so that an outage is a stop (queries meet a closed port) or `fault("*", Fault.DROP)` (queries
    meet silence). With `tcp=False` TCP connections are refused.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, tcp: bool = True) -> None:
        super().__init__()
        self.host = host
        self.port = port
        self._tcp = tcp
        self._thread = LoopThread("test-dns-server")

    def start(self) -> None:
        """Bind and serve; the port is known and open when this returns."""
        udp, tcp = _bind_pair(self.host, self.port)
        self.port = udp.getsockname()[1]
        if self._tcp:
            tcp.listen(128)
        self._thread.start(functools.partial(self._serve, udp, tcp))

    def stop(self) -> None:
        """Close both sockets and end the thread; zone, faults and recorded queries stay."""
        self._thread.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def authority(self) -> str:
        """`host:port`, as it stands in `dns://authority/name`."""
        return f"{self.host}:{self.port}"

    # ---- the server's thread

    async def _serve(
        self,
        udp: socket.socket,
        tcp: socket.socket,
        ready: Callable[[], None],
        stopping: asyncio.Event,
    ) -> None:
        loop = asyncio.get_running_loop()
        with udp, tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stray:
            stray.bind((self.host, 0))
            loop.add_reader(udp, self._on_datagram, udp, stray)
            connections = Connections(tcp, self._serve_connection) if self._tcp else None
            ready()
            await stopping.wait()
            loop.remove_reader(udp)
            if connections is not None:
                await connections.close()

    def _on_datagram(self, udp: socket.socket, stray: socket.socket) -> None:
        with contextlib.suppress(OSError):  # e.g. the client of an earlier answer has gone
            wire, client = udp.recvfrom(65_535)
            reply = self.reply(wire, "udp")
            if reply.wire is None:
                return
            via = stray if reply.wrong_port else udp
            if reply.delay:
                asyncio.get_running_loop().call_later(reply.delay, _send, via, reply.wire, client)
            else:
                _send(via, reply.wire, client)

    async def _serve_connection(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            (length,) = struct.unpack("!H", await _read(connection, 2))
            reply = self.reply(await _read(connection, length), "tcp")
            await asyncio.sleep(reply.delay)
            if reply.reset:
                no_linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_linger)
                return
            if reply.wire is not None:
                message = struct.pack("!H", len(reply.wire)) + reply.wire
                await loop.sock_sendall(connection, message)


async def _read(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = await asyncio.get_running_loop().sock_recv(connection, count - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _send(via: socket.socket, wire: bytes, client: tuple[str, int]) -> None:
    with contextlib.suppress(OSError):  # closed while the answer was held back
        via.sendto(wire, client)


def _bind_pair(host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """A UDP and a TCP socket on the same port; a free one where `port` is 0."""
    for _ in range(50):
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            tcp.bind((host, port))
            udp.bind((host, tcp.getsockname()[1]))
        except OSError:
            tcp.close()
            udp.close()
            if port:
                raise
            continue
        udp.setblocking(False)
        tcp.setblocking(False)
        return udp, tcp
    raise OSError(f"no port of {host} is free for both UDP and TCP")
