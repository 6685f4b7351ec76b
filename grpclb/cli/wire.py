"""A bare look at a port: what listens there, whatever the client expected.

gRPC's own error for a plaintext client at a TLS port is "Socket closed", as it is for many other
things; this tells them apart. Nothing is verified here, and nothing secret is sent.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from dataclasses import dataclass

from grpclb.cli.credentials import Tls
from grpclb.cli.seen import Certificate, Wire
from grpclb.core.address import Address

# RFC 9113, section 3.4: the client's preface and an empty SETTINGS frame.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
_SETTINGS = 4
_MOMENT = 0.5  # seconds that a server has for its first words after the handshake
_SNI = re.compile(r"[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*")
_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which `ssl` has no name for


@dataclass(frozen=True, slots=True)
class Look:
    """What was found. `reason` is the system's text for a failure; `alpn`: HTTP/2 was agreed."""

    wire: Wire
    reason: str = ""
    certificate: Certificate | None = None
    alpn: bool = True


async def look(address: Address, server_name: str, tls: Tls | None, timeout: float) -> Look:
    """Look at `address` for at most `timeout` seconds. Raises nothing."""
    moment = min(_MOMENT, timeout / 4)
    # A list of addresses or a path is no name that a handshake could carry.
    name = server_name if _SNI.fullmatch(server_name) else None
    try:
        async with asyncio.timeout(timeout):
            with_tls = await _try_tls(address, name, tls, moment)
            return with_tls or await _try_plaintext(address, moment)
    except TimeoutError:
        return Look(Wire.SILENT)


async def _try_tls(
    address: Address, server_name: str | None, tls: Tls | None, moment: float
) -> Look | None:
    """None if it is something else than TLS that can be connected to."""
    try:
        reader, writer = await _connect(address, moment)
    except TimeoutError:
        return Look(Wire.TIMEOUT)
    except ConnectionRefusedError as error:
        return Look(Wire.REFUSED, str(error))
    except OSError as error:
        return Look(Wire.ERROR, error.strerror or str(error))
    context = _context(tls)
    try:
        async with asyncio.timeout(2 * moment):
            await writer.start_tls(context, server_hostname=server_name)
    except (TimeoutError, OSError, ssl.SSLError):
        await _close(writer)
        return None
    try:
        connection = writer.get_extra_info("ssl_object")
        alpn = connection.selected_alpn_protocol() == "h2"
        der = connection.getpeercert(binary_form=True)
        wire = Wire.TLS if await _speaks(reader, moment) else Wire.TLS_CLOSED
    finally:
        await _close(writer)
    return Look(wire, certificate=await _certificate(address, server_name, der, moment), alpn=alpn)


async def _speaks(reader: asyncio.StreamReader, moment: float) -> bool:
    """Whether the connection stays open; a server that refuses a client certificate closes it."""
    try:
        async with asyncio.timeout(moment):
            return bool(await reader.read(1))
    except TimeoutError:
        return True
    except (OSError, ssl.SSLError):
        return False


async def _certificate(
    address: Address, server_name: str | None, der: bytes, moment: float
) -> Certificate:
    """The names in a certificate that may be anybody's.

    `ssl` decodes only what it has verified: so the certificate is made its own authority, at any
    time of day, for one more handshake.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VerifyFlags(ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME)
    try:
        context.load_verify_locations(cadata=der)
        _, writer = await _connect(address, moment)
        try:
            await writer.start_tls(context, server_hostname=server_name)
            found = writer.get_extra_info("ssl_object").getpeercert()
        finally:
            await _close(writer)
    except (OSError, ssl.SSLError):
        return Certificate()
    return _decoded(found)


def _decoded(found: dict[str, object]) -> Certificate:
    def pairs(name: str) -> dict[str, str]:
        value = found.get(name)
        parts = value if isinstance(value, tuple) else ()
        return {key: text for part in parts for key, text in part}

    issuer, alternatives = pairs("issuer"), found.get("subjectAltName")
    listed = alternatives if isinstance(alternatives, tuple) else ()
    names = tuple(str(text) for kind, text in listed if kind in ("DNS", "IP Address"))
    return Certificate(
        names=names,
        issuer=issuer.get("commonName") or ", ".join(issuer.values()),
        not_before=str(found.get("notBefore", "")),
        not_after=str(found.get("notAfter", "")),
    )


async def _try_plaintext(address: Address, moment: float) -> Look:
    try:
        reader, writer = await _connect(address, moment)
    except (TimeoutError, OSError) as error:
        return Look(Wire.ERROR, str(error))
    try:
        writer.write(_PREFACE)
        head = await reader.read(9)
    except OSError:
        return Look(Wire.CLOSED)
    finally:
        await _close(writer)
    if not head:
        return Look(Wire.CLOSED)
    if head.startswith(b"HTTP/1"):
        return Look(Wire.HTTP1)
    return Look(Wire.HTTP2 if head[3:4] == bytes([_SETTINGS]) else Wire.OTHER)


async def _connect(
    address: Address, moment: float
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Raises TimeoutError if nobody answers in two moments, or another OSError."""
    kind, _, rest = address.target.partition(":")
    async with asyncio.timeout(2 * moment):
        if kind == "unix":
            return await asyncio.open_unix_connection(rest)
        if kind == "unix-abstract":
            return await asyncio.open_unix_connection("\0" + rest)
        host, _, port = address.target.rpartition(":")
        return await asyncio.open_connection(host.strip("[]"), int(port))


async def _close(writer: asyncio.StreamWriter) -> None:
    """Drop the connection; after a handshake that was cut short, `wait_closed` would hang."""
    writer.transport.abort()
    await asyncio.sleep(0)


def _context(tls: Tls | None) -> ssl.SSLContext:
    """Verifies nothing: this connection is looked at and closed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if tls is not None and tls.files is not None:
        context.load_cert_chain(*tls.files, password=lambda: "")
    return context
