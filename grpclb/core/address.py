"""Where a server can be reached: addresses, and endpoints that group them."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

# What a URI's path may hold as it is (RFC 3986); C-core decodes the rest.
_URI_SAFE = "/!$&'()*+,;=:@"
_NOTHING: Mapping[str, Any] = MappingProxyType({})
# Every update of a resolver brings mostly the addresses of the one before.
_parsed = lru_cache(maxsize=16_384)(ipaddress.ip_address)


class AddressError(ValueError):
    """An address that no client could dial, with the reason and the way out."""


@dataclass(frozen=True, slots=True)
class Address:
    """One place to connect to. Build it with `ip`, `unix`, `unix_abstract` or `parse`.

    `target` is canonical: ``10.0.0.7:443``, ``[fd00::7]:443``, ``unix:/path`` or
    ``unix-abstract:name``. `server_name` replaces the channel's authority on this address
    (and with TLS the name that the certificate must carry); None keeps the channel's.
    """

    target: str
    server_name: str | None = None

    @classmethod
    def ip(cls, host: str, port: int | str, server_name: str | None = None) -> Address:
        """An IP address with a port. Raises AddressError for anything that is not dialable."""
        try:
            number = int(port) if str(port).isascii() and str(port).isdigit() else 0
            address = _parsed(host)
        except ValueError:
            raise AddressError(
                f"address {host!r} port {port!r}: not an IP address; "
                "resolvers hand over IP addresses, names belong in a dns: target"
            ) from None
        if not 0 < number < 65536:
            raise AddressError(f"address {host!r}: port {port!r} is not in 1..65535")
        if address.is_multicast or address.is_unspecified:
            raise AddressError(f"address {host!r}: multicast and unspecified are not dialable")
        if getattr(address, "scope_id", None):
            raise AddressError(f"address {host!r}: zone ids mean nothing on another machine")
        text = f"[{address}]" if address.version == 6 else str(address)
        return cls(f"{text}:{number}", server_name)

    @classmethod
    def unix(cls, path: str, server_name: str | None = None) -> Address:
        """A Unix domain socket in the file system."""
        return cls("unix:" + _socket_name(path), server_name)

    @classmethod
    def unix_abstract(cls, name: str, server_name: str | None = None) -> Address:
        """A Unix domain socket in Linux' abstract name space."""
        return cls("unix-abstract:" + _socket_name(name), server_name)

    @classmethod
    def parse(cls, text: str, server_name: str | None = None) -> Address:
        """``ip:port`` or ``[ipv6]:port``; nothing else, as the text may come from a network."""
        if not isinstance(text, str):
            raise AddressError(f"address {text!r}: expected 'ip:port' text, got {type(text)}")
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host or not colon:
            raise AddressError(f"address {text!r}: expected 'ip:port' or '[ipv6]:port'")
        return cls.ip(host, port, server_name)

    @property
    def uri(self) -> str:
        """The target string that a grpcio channel to just this address takes."""
        if self.target.startswith("unix"):
            return quote(self.target, safe=_URI_SAFE)
        return ("ipv6:" if self.target.startswith("[") else "ipv4:") + self.target

    @property
    def family(self) -> str:
        """``ipv4``, ``ipv6`` or ``unix``, for interleaving (gRFC A61)."""
        return self.uri.partition(":")[0].removesuffix("-abstract")

    def __str__(self) -> str:
        return self.target


def _socket_name(name: str) -> str:
    if not isinstance(name, str) or not name or "\0" in name or "\n" in name:
        raise AddressError(f"unix socket name {name!r}: must be text without NUL and newline")
    return name


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server, by one or several addresses of its own, with what is known about it.

    Attribute keys are strings: ``weight`` (int > 0), ``locality`` (str), ``zone`` (str),
    ``hash_key`` (str), and whatever a resolver and a policy agree on.
    """

    addresses: tuple[Address, ...]
    attributes: Mapping[str, Any] = field(default_factory=lambda: _NOTHING, hash=False)

    def __post_init__(self) -> None:
        if not self.addresses:
            raise AddressError("an endpoint needs at least one address")

    @classmethod
    def of(cls, *addresses: Address | str, **attributes: Any) -> Endpoint:
        """An endpoint from addresses or ``ip:port`` texts."""
        parsed = tuple(a if isinstance(a, Address) else Address.parse(a) for a in addresses)
        return cls(parsed, MappingProxyType(attributes))

    @property
    def key(self) -> frozenset[Address]:
        """The identity of an endpoint: its addresses in no order (gRFC A61)."""
        return frozenset(self.addresses)

    def __str__(self) -> str:
        return "+".join(map(str, self.addresses))
