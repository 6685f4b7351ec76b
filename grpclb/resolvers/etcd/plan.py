"""What is to be registered in etcd, and how etcd is reached. Checked when it is made."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from grpclb.core.address import Address
from grpclb.core.config_json import own
from grpclb.core.config_node import ServiceConfigError
from grpclb.core.target import Target, parse_target
from grpclb.resolvers.etcd.build import prefix_of
from grpclb.resolvers.etcd.settings import EtcdSettings, Pem, check_keywords, unread_environment
from grpclb.resolvers.etcd.values import MOST_BYTES, Rejected, parse_value

_LOG = logging.getLogger("grpclb.etcd")
DEFAULT_TTL = 10  # seconds
_MOST_TTL = 9_000_000_000  # etcd's own limit
_LEAST_TTL = 2  # below it a keepalive that is late by a second is too late


class EtcdOptions(TypedDict, total=False):
    """How to reach etcd: keywords, as `grpclb.etcd.resolver` takes them."""

    endpoints: str | Iterable[str]
    ca: Pem
    cert: Pem
    key: Pem
    user: str
    password: str
    allow_plaintext_auth: bool
    etcd_server_name: str
    timeout: float
    keepalive_time: float
    keepalive_timeout: float


# The others are Registration's own: here for what was misspelt.
_KEYWORDS = (*EtcdOptions.__annotations__, "metadata", "ttl", "patience", "keep_trying")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be registered, and where. `of` checks it all."""

    target: str
    settings: EtcdSettings
    address: str
    key: bytes
    ttl: int

    @classmethod
    def of(cls, target: str, address: str, ttl: int, options: EtcdOptions) -> Plan:
        """Raises ValueError or TypeError for a target, address or time that cannot work."""
        parsed = parse_target(target, ["etcd"])
        if parsed.scheme != "etcd":
            raise ValueError(f"target {target!r}: expected etcd://host:2379/service")
        dialable = Address.parse(address).target
        if isinstance(ttl, bool) or not isinstance(ttl, int):
            raise TypeError(f"ttl must be whole seconds, got {ttl!r}")
        if ttl < _LEAST_TTL:
            raise ValueError(f"ttl: {ttl} s is too short; at least {_LEAST_TTL}")
        if ttl > _MOST_TTL:
            raise ValueError(f"ttl: {str(ttl)[:20]} s is too long; at most {_MOST_TTL}")
        prefix = prefix_of(parsed)
        settings = _settings(parsed, options)
        # A member that is silent must not cost the lease: another one is asked in time.
        settings = replace(settings, timeout=min(settings.timeout, max(1.0, ttl / 4)))
        key = prefix + dialable.encode()
        return cls(target, settings, dialable, key, ttl)

    def value(self, metadata: Mapping[str, Any] | None) -> bytes:
        """The value of the key, as Go's `endpoints` manager writes it.

        Raises TypeError for metadata that is not JSON, ValueError for what no client would read.
        """
        fields = {"Op": 0, "Addr": self.address, "Metadata": _checked(metadata)}
        value = json.dumps(fields, separators=(",", ":"), allow_nan=False).encode()
        found = parse_value(value)
        if isinstance(found, Rejected) or found.remark:
            reason = found.reason if isinstance(found, Rejected) else found.remark
            raise ValueError(f"metadata: {reason} (at most {MOST_BYTES} bytes)")
        return value


def _checked(metadata: object) -> dict[str, Any] | None:
    """Metadata as plain JSON. Raises as `Plan.value` does, with the path of what is wrong."""
    if metadata is None:
        return None
    if not isinstance(metadata, Mapping):
        kind = type(metadata).__name__
        raise TypeError(f"metadata must be a dict, such as {{'weight': 3}}, got {kind}")
    try:
        plain: dict[str, Any] = own(metadata)
    except ServiceConfigError as error:
        text = f"metadata must be JSON: {error.path}: {error.problem}"
        raise (TypeError if " JSON" in f" {error.problem}" else ValueError)(text) from None
    zone = plain.get("zone", "")
    if not isinstance(zone, str):
        raise TypeError(f"metadata: zone must be text, got {zone!r:.40}")
    return plain


def _settings(target: Target, options: EtcdOptions) -> EtcdSettings:
    given: dict[str, Any] = dict(options)
    check_keywords(given, _KEYWORDS)
    if not given:
        return EtcdSettings.from_environment(target.authority or None)
    unread = unread_environment()
    endpoints = given.pop("endpoints", None)
    if "etcd_server_name" in given:
        given["server_name"] = given.pop("etcd_server_name")
    if target.authority and endpoints is not None:
        raise ValueError(
            f"target {target.text!r}: endpoints= says where etcd is; write etcd:///{target.endpoint}"
        )
    if endpoints is None and not target.authority:
        raise ValueError(
            f"target {target.text!r}: no endpoints; write etcd://host:2379/{target.endpoint}, or "
            f"give endpoints={_in_brackets(unread)}"
        )
    if unread:
        _LOG.info("%s: %s", target.text, unread)
    return EtcdSettings.of(endpoints or target.authority, **given)


def _in_brackets(note: str) -> str:
    return f" ({note})" if note else ""
