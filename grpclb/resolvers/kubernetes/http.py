"""As much of an HTTP/1.1 client as a list and a watch need, on asyncio's streams.

GET only; no redirects (the token would go along), no compression, no proxies. Everything that a
server sends has a bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import os
import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from grpclb.resolvers.thread import off_loop

MOST_LINE = 8 << 20  # bytes of one event; etcd's own limit for an object is 1.5 MiB
MOST_BODY = 64 << 20
_MOST_HEADERS = 100
_PIECE = 65_536

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Opener = Callable[[str, int, ssl.SSLContext | None, str | None], Awaitable[Streams]]


class HttpError(Exception):
    """The connection failed, was cut, or does not speak HTTP. The text says which."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the server is. `tls` None is plain text; `server_name` is what TLS verifies."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    server_name: str | None = None
    base_path: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'http' if self.tls is None else 'https'}://{host}:{self.port}{self.base_path}"


async def open_streams(
    host: str, port: int, tls: ssl.SSLContext | None, server_name: str | None
) -> Streams:
    """A connection whose peer's silent death is noticed within half a minute, if by the kernel."""
    reader, writer = await _connect(host, port, tls, (server_name or host) if tls else None)
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
                if hasattr(socket, name):
                    sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return reader, writer


async def _connect(
    host: str, port: int, tls: ssl.SSLContext | None, server_name: str | None
) -> Streams:
    """As asyncio does, but a DNS that is silent holds up no exit of the interpreter."""
    try:
        ipaddress.ip_address(host)
        addresses = [host]
    except ValueError:
        look_up = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        addresses = [str(found[4][0]) for found in await off_loop(look_up)]
    problem: OSError | None = None
    for address in dict.fromkeys(addresses):
        try:
            return await asyncio.open_connection(
                address, port, ssl=tls, server_hostname=server_name
            )
        except ssl.SSLError:
            raise
        except OSError as error:
            problem = problem or error
    raise problem or OSError(f"{host} has no address")


class Connection:
    """One connection, for one request after the other; `async with` closes it at the end."""

    def __init__(self, origin: Origin, opener: Opener, timeout: float) -> None:
        """`timeout` is for connecting, TLS included; seconds."""
        self._origin = origin
        self._opener = opener
        self._timeout = timeout
        self._streams: Streams | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._drop()

    async def get(self, path: str, headers: Mapping[str, str], timeout: float) -> Response:
        """Send a GET and read the answer up to its headers. Raises HttpError."""
        if self._streams is None:
            self._streams = await self._open()
        reader, writer = self._streams
        host = str(self._origin).partition("://")[2].removesuffix(self._origin.base_path)
        lines = [f"GET {self._origin.base_path}{path} HTTP/1.1", f"Host: {host}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        try:
            async with asyncio.timeout(timeout):
                writer.write("\r\n".join([*lines, "", ""]).encode("ascii"))
                await writer.drain()
                return Response(reader, *await _head(reader), done=self._finished)
        except TimeoutError:
            raise HttpError(f"no answer from {self._origin} in {timeout:g} s") from None
        except (OSError, EOFError) as error:
            raise HttpError(f"{self._origin} closed the connection ({_reason(error)})") from None

    def _finished(self, *, reusable: bool) -> None:
        if not reusable:
            self._drop()

    def _drop(self) -> None:
        streams, self._streams = self._streams, None
        if streams is not None:
            # Not close(): that waits for a farewell which a dead peer never sends.
            streams[1].transport.abort()

    async def _open(self) -> Streams:
        origin = self._origin
        try:
            async with asyncio.timeout(self._timeout):
                return await self._opener(origin.host, origin.port, origin.tls, origin.server_name)
        except TimeoutError:
            raise HttpError(f"{origin}: no connection in {self._timeout:g} s") from None
        except ssl.SSLCertVerificationError as error:
            raise HttpError(
                f"{origin}: its certificate is not accepted: {error.verify_message}"
            ) from None
        except (OSError, ValueError) as error:
            raise HttpError(f"{origin}: {_reason(error)}") from None


class Response:
    """An answer, whose body is read once."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        status: int,
        headers: Mapping[str, str],
        done: Callable[..., None],
    ) -> None:
        self.status = status
        self.headers = headers
        self._reader = reader
        self._done = done

    async def read(self, timeout: float, limit: int = MOST_BODY) -> bytes:
        """The whole body. Raises HttpError, also for more than `limit` bytes or `timeout` s.

        After a failure the connection is closed: what is left of the body is no answer to the
        next request.
        """
        try:
            async with asyncio.timeout(timeout):
                return await self._read(limit)
        except TimeoutError:
            self._done(reusable=False)
            raise HttpError(f"the answer did not end in {timeout:g} s") from None
        except HttpError:
            self._done(reusable=False)
            raise

    async def _read(self, limit: int) -> bytes:
        parts, size = [], 0
        async with contextlib.aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                parts.append(piece)
                size += len(piece)
                if size > limit:
                    raise HttpError(f"an answer of more than {limit} bytes")
        return b"".join(parts)

    async def lines(self, limit: int = MOST_LINE) -> AsyncGenerator[bytes, None]:
        """The lines of the body as they come. Raises HttpError if the last one is cut off."""
        rest = bytearray()
        searched = 0
        async with contextlib.aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                rest += piece
                while (end := rest.find(b"\n", searched)) >= 0:
                    line = bytes(rest[:end])
                    del rest[: end + 1]
                    searched = 0
                    if line.strip():
                        yield line
                searched = len(rest)
                if searched > limit:
                    raise HttpError(f"a line of more than {limit} bytes")
        if rest.strip():
            raise HttpError("the answer ended within a line")

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        headers = self.headers
        closing = "close" in headers.get("connection", "").lower()
        length = headers.get("content-length")
        try:
            if "chunked" in headers.get("transfer-encoding", "").lower():
                async with contextlib.aclosing(self._chunks()) as chunks:
                    async for piece in chunks:
                        yield piece
            elif length is not None:
                left = _number(length, 10)
                while left:
                    piece = await self._some(left)
                    left -= len(piece)
                    yield piece
            else:
                closing = True
                while piece := await self._reader.read(_PIECE):
                    yield piece
        except (OSError, EOFError) as error:
            raise HttpError(f"the answer was cut off ({_reason(error)})") from None
        self._done(reusable=not closing)

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        while True:
            size = _number((await _line(self._reader)).partition(";")[0], 16)
            left = size
            while left:
                piece = await self._some(left)
                left -= len(piece)
                yield piece
            # The end of this chunk; after the last one, of the trailers.
            while await _line(self._reader):
                if size:
                    raise HttpError("a chunk is longer than it says")
            if not size:
                return

    async def _some(self, most: int) -> bytes:
        piece = await self._reader.read(min(most, _PIECE))
        if not piece:
            raise EOFError("connection closed")
        return piece


async def _head(reader: asyncio.StreamReader) -> tuple[int, Mapping[str, str]]:
    line = await _line(reader)
    version, _, rest = line.partition(" ")
    code = rest[:3]
    if version not in ("HTTP/1.1", "HTTP/1.0") or not (code.isascii() and code.isdigit()):
        raise HttpError(f"this is not HTTP/1.1: {line[:40]!r}")
    headers: dict[str, str] = {}
    for _ in range(_MOST_HEADERS):
        line = await _line(reader)
        if not line:
            return int(code), headers
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    raise HttpError(f"more than {_MOST_HEADERS} headers")


async def _line(reader: asyncio.StreamReader) -> str:
    try:
        line = await reader.readuntil(b"\n")
    except asyncio.LimitOverrunError:
        raise HttpError("a header or chunk size without an end") from None
    return line.decode("latin-1").rstrip("\r\n")


def _number(text: str, base: int) -> int:
    text = text.strip()
    # int() takes signs and underscores, too.
    if not text.isalnum() or not text.isascii() or len(text) > 16:
        raise HttpError(f"{text[:20]!r} is no length")
    try:
        return int(text, base)
    except ValueError:
        raise HttpError(f"{text[:20]!r} is no length") from None


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)  # asyncio's own text is about the call that failed
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, asyncio.IncompleteReadError):
        return "connection closed"
    return str(error) or type(error).__name__
