"""What services write into etcd, read as endpoints. Pure.

Three formats are known: that of Go's `endpoints` manager, kratos' JSON, and a bare ``host:port``
as go-zero writes it. Values come from whoever may write to etcd: nothing here raises, and nothing
in a value can set more than an address, a weight, a zone and a few words of metadata.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from grpclb.core.address import Address, AddressError, Endpoint
from grpclb.core.config_json import load
from grpclb.core.config_node import ServiceConfigError

MOST_BYTES = 16 * 1024
_ADDRESS_LIKE = re.compile(r"[a-zA-Z0-9._:%/\[\]-]{1,260}")
_MOST_ADDRESSES = 16
_MOST_METADATA = 16
_LONGEST_METADATA = 256  # bytes, of a key and of a value
_HEAVIEST = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Found:
    """An endpoint. `remark` says what of the value was passed over, if anything."""

    endpoint: Endpoint
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A value that names no endpoint, and why."""

    reason: str


def parse_value(value: bytes) -> Found | Rejected:
    """The endpoint that a service has registered. Never raises."""
    if len(value) > MOST_BYTES:
        return Rejected(f"the value has {len(value)} bytes; at most {MOST_BYTES} are read")
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return Rejected("the value is not UTF-8")
    try:
        if not text.startswith("{"):
            return Found(Endpoint((_address(text),)))
        return _json(load(text))
    except ServiceConfigError as error:
        return Rejected(str(error))
    except AddressError as error:
        return Rejected(str(error))


def _json(found: Mapping[str, Any]) -> Found | Rejected:
    if "Addr" in found:
        return _go(found)
    if "endpoints" in found:
        return _kratos(found)
    return Rejected("JSON with neither 'Addr' (Go) nor 'endpoints' (kratos)")


def _go(found: Mapping[str, Any]) -> Found | Rejected:
    """``{"Op": 0, "Addr": "10.0.0.7:443", "Metadata": ...}``; Op 1 would be a deletion."""
    if found.get("Op", 0) != 0:
        return Rejected(f"'Op' is {str(found['Op'])[:20]}, expected 0")
    address = found["Addr"]
    if not isinstance(address, str):
        return Rejected("'Addr' is not text")
    return _found((_address(address),), found.get("Metadata"), {})


def _kratos(found: Mapping[str, Any]) -> Found | Rejected:
    """``{"endpoints": ["grpc://10.0.0.7:443?isSecure=true"], "metadata": {...}, ...}``."""
    urls = found["endpoints"]
    if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
        return Rejected("'endpoints' is not a list of texts")
    addresses: list[Address] = []
    facts: dict[str, Any] = {}
    for index, url in enumerate(urls):
        if not url.startswith("grpc://"):
            continue
        try:
            parts = urlsplit(url)
            secure = parse_qs(parts.query, max_num_fields=16).get("isSecure")
        except ValueError as error:
            return Rejected(f"'endpoints'[{index}]: {error}")
        addresses.append(_address(parts.netloc))
        if secure is not None:
            facts["secure"] = secure[-1].lower() == "true"
    if not addresses:
        return Rejected("'endpoints' has no grpc:// address")
    if len(addresses) > _MOST_ADDRESSES:
        return Rejected(f"'endpoints' has {len(addresses)} addresses, at most {_MOST_ADDRESSES}")
    return _found(tuple(dict.fromkeys(addresses)), found.get("metadata"), facts)


def _address(text: str) -> Address:
    """Raises AddressError, with the text only if it may be one: the reason goes to a log."""
    if not _ADDRESS_LIKE.fullmatch(text):
        raise AddressError(f"{len(text)} characters that are no 'ip:port'")
    return Address.parse(text)


def _found(addresses: tuple[Address, ...], metadata: object, facts: dict[str, Any]) -> Found:
    """An endpoint with what its metadata says; what makes no sense is remarked and passed over."""
    remarks: list[str] = []
    rest: dict[str, str] = {}
    if isinstance(metadata, Mapping):
        for key, value in metadata.items():
            if key == "weight":
                _weight(value, facts, remarks)
            elif not isinstance(value, str):
                continue  # Go's metadata may be any JSON
            elif len(key.encode()) > _LONGEST_METADATA or len(value.encode()) > _LONGEST_METADATA:
                remarks.append(f"metadata {key[:40]!r} is longer than {_LONGEST_METADATA} bytes")
            elif key == "zone":
                facts["zone"] = value
            elif len(rest) < _MOST_METADATA:
                rest[key] = value
            else:
                remarks.append(f"metadata has more than {_MOST_METADATA} entries")
                break
    if rest:
        facts["metadata"] = MappingProxyType(rest)
    return Found(Endpoint(addresses, MappingProxyType(facts)), "; ".join(remarks[:4]))


def _weight(value: object, facts: dict[str, Any], remarks: list[str]) -> None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 10:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _HEAVIEST:
        facts["weight"] = value
    else:
        remarks.append(f"weight {str(value)[:20]!r} is not a whole number in 1..{_HEAVIEST}")
