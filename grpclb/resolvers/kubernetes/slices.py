"""EndpointSlices (discovery.k8s.io/v1): what the objects say. Pure.

Strict about what cannot be understood (`SliceError`), forgiving about single endpoints: one that
makes no sense is left out with a remark, and takes no other with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Any

_MOST_TEXT = 256  # characters of a name or a zone (FIGURES S6)
_MOST_HINTS = 16
_MOST_BACKENDS = 5_000  # in one slice; the API's own limit is 1,000
_MOST_PORTS = 100
_MOST_REMARKS = 8
_FAMILIES = {"IPv4": "ipv4", "IPv6": "ipv6"}


class SliceError(ValueError):
    """An object that is no EndpointSlice. `name` is its name, if it has got that far."""

    def __init__(self, problem: str, name: str | None = None) -> None:
        super().__init__(problem if name is None else f"EndpointSlice {name}: {problem}")
        self.name = name


class Condition(IntEnum):
    """What a backend is good for; more is better."""

    OUT = 0  # not ready
    DRAINING = 1  # terminating, and still serving
    READY = 2


@dataclass(frozen=True, slots=True)
class Port:
    """One port of all backends of a slice. `number` None means "all ports"."""

    name: str
    number: int | None
    protocol: str


@dataclass(frozen=True, slots=True)
class Backend:
    """One entry of a slice. `identity` is the pod, or the address where there is none."""

    identity: str
    ip: str
    condition: Condition
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Slice:
    """One EndpointSlice. `family` is ``ipv4``, ``ipv6``, or the addressType that we cannot use."""

    name: str
    family: str
    ports: tuple[Port, ...] = ()
    backends: tuple[Backend, ...] = ()
    remarks: tuple[str, ...] = ()


def parse_slice(raw: object) -> Slice:
    """An object of the API. Raises SliceError."""
    if not isinstance(raw, dict):
        raise SliceError(f"expected an object, got {type(raw).__name__}")
    name = _name(raw)
    kind = raw.get("addressType")
    if not isinstance(kind, str):
        raise SliceError(f"addressType must be text, got {kind!r:.80}", name)
    if kind not in _FAMILIES:
        return Slice(name, kind[:_MOST_TEXT])
    remarks: list[str] = []
    backends: list[Backend] = []
    for entry in _list(raw, "endpoints", name)[:_MOST_BACKENDS]:
        try:
            backends.append(_backend(entry))
        except (TypeError, ValueError) as error:
            remarks.append(f"EndpointSlice {name}: an endpoint is left out: {error}")
    ports = tuple(_ports(_list(raw, "ports", name), name))
    return Slice(name, _FAMILIES[kind], ports, tuple(backends), tuple(remarks[:_MOST_REMARKS]))


def _name(raw: dict[str, Any]) -> str:
    metadata = raw.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str) or not 0 < len(name) <= _MOST_TEXT or not name.isprintable():
        raise SliceError(f"metadata.name must be a short text, got {name!r:.80}")
    return name


def _list(raw: dict[str, Any], key: str, name: str) -> list[Any]:
    value = raw.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise SliceError(f"{key} must be an array, got {value!r:.80}", name)
    return value


def _ports(raw: list[Any], name: str) -> list[Port]:
    ports = []
    for entry in raw[:_MOST_PORTS]:
        if not isinstance(entry, dict):
            raise SliceError(f"ports: expected objects, got {entry!r:.80}", name)
        number = entry.get("port")
        valid = isinstance(number, int) and not isinstance(number, bool) and 0 < number < 65536
        if number is not None and not valid:
            raise SliceError(f"port {number!r:.40} is not in 1..65535", name)
        title, protocol = entry.get("name") or "", entry.get("protocol") or "TCP"
        ports.append(Port(_text(title), number, _text(protocol)))
    return ports


def _backend(raw: object) -> Backend:
    if not isinstance(raw, dict):
        raise TypeError(f"expected an object, got {raw!r:.80}")
    addresses = raw.get("addresses")
    if not isinstance(addresses, list) or not addresses:
        raise ValueError(f"addresses must be a filled array, got {addresses!r:.80}")
    ip = addresses[0]  # the others are fungible, says the API
    if not isinstance(ip, str) or len(ip) > _MOST_TEXT:
        raise TypeError(f"an address must be a short text, got {ip!r:.80}")
    reference = raw.get("targetRef")
    if not isinstance(reference, dict):
        reference = {}
    keys = ("kind", "namespace", "name", "uid")
    parts = [_text(reference.get(key) or "") for key in keys]
    identity = "/".join(parts) if parts[2] else ip
    return Backend(identity, ip, _condition(raw.get("conditions")), _attributes(raw, parts))


def _condition(raw: object) -> Condition:
    """Nil means ready; whoever terminates may still serve (KEP-1672)."""
    conditions = raw if isinstance(raw, dict) else {}
    ready = conditions.get("ready") is not False
    serving = conditions.get("serving")
    if conditions.get("terminating") is True:
        # publishNotReadyAddresses makes `ready` true for ever: it goes all the same.
        served = ready if serving is None else serving is True
        return Condition.DRAINING if served else Condition.OUT
    return Condition.READY if ready else Condition.OUT


def _attributes(raw: dict[str, Any], reference: list[str]) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    for key, name in (("zone", "zone"), ("node_name", "nodeName")):
        if raw.get(name):
            found[key] = _text(raw[name])
    hints = raw.get("hints")
    zones = hints.get("forZones") if isinstance(hints, dict) else None
    if isinstance(zones, list):
        names = (zone.get("name") for zone in zones[:_MOST_HINTS] if isinstance(zone, dict))
        found["hints"] = tuple(_text(name) for name in names if name)
    if reference[0] == "Pod":
        found["pod"] = reference[2]
    return MappingProxyType(found)


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > _MOST_TEXT or not value.isprintable():
        raise SliceError(f"expected a short text, got {value!r:.80}")
    return value
