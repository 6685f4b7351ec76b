"""All slices of a Service as one list of endpoints. Pure: the caller tells the time.

Slices are kept apart by name and united anew for every list; no event replaces another slice's
endpoints. A backend in several slices is one endpoint, and so is a pod with an IPv4 and an IPv6
address.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpclb.core.address import Address, AddressError, Endpoint
from grpclb.resolvers.kubernetes.slices import Backend, Condition, Port, Slice

FAMILIES = ("ipv4", "ipv6")
_MOST_REMARKS = 16
_TICK = 1e-3  # a loop's timer may be early by its clock's resolution


@dataclass(frozen=True, slots=True)
class Merged:
    """One list. `problem` says why nobody can be dialled though somebody is ready."""

    endpoints: Mapping[str, Endpoint]  # by identity
    mentioned: frozenset[Address]  # all that any slice has, whatever its condition
    ready: int
    draining: int
    out: int
    problem: str | None
    remarks: tuple[str, ...]

    @property
    def fallback(self) -> bool:
        """Whether endpoints that terminate are in use, since no other is left."""
        return not self.ready and bool(self.endpoints)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A backend with the address that is dialled; None if its slice has not the port."""

    backend: Backend
    family: str
    address: Address | None


class Merger:
    """Unites slices for one port and some address families, the preferred one first.

    Keeps what it made of a slice until that slice changes: of 50 slices mostly one is new.
    """

    def __init__(self, port: int | str | None, families: Sequence[str] = FAMILIES) -> None:
        self._port = port
        self._families = {family: rank for rank, family in enumerate(families)}
        self._cache: dict[str, tuple[Slice, tuple[_Entry, ...], tuple[str, ...]]] = {}
        self._endpoints: dict[str, Endpoint] = {}

    def merge(self, slices: Iterable[Slice]) -> Merged:
        """The union of `slices`, whose names are all different."""
        ordered = sorted(slices, key=lambda s: s.name)
        cache: dict[str, tuple[Slice, tuple[_Entry, ...], tuple[str, ...]]] = {}
        remarks: list[str] = []
        pods: dict[str, list[_Entry]] = {}
        for piece in ordered:
            kept = self._cache.get(piece.name)
            if kept is None or kept[0] is not piece:
                kept = (piece, *self._read(piece))
            cache[piece.name] = kept
            remarks += kept[2]
            for entry in kept[1]:
                pods.setdefault(entry.backend.identity, []).append(entry)
        self._cache = cache
        return self._union(pods, ordered, remarks)

    def _union(
        self, pods: dict[str, list[_Entry]], slices: list[Slice], remarks: list[str]
    ) -> Merged:
        counts = dict.fromkeys(Condition, 0)
        missing = 0  # ready, but without the port
        chosen: dict[Condition, dict[str, list[_Entry]]] = {c: {} for c in Condition}
        for identity, found in pods.items():
            # While it moves a backend may be in two slices that disagree; the better one counts.
            best = max(entry.backend.condition for entry in found)
            counts[best] += 1
            entries = [e for e in found if e.backend.condition is best]
            if any(entry.address for entry in entries):
                chosen[best][identity] = entries
            elif best is Condition.READY:
                missing += 1
        # As kube-proxy does: while nobody is ready, those that terminate and still serve.
        used = chosen[Condition.DRAINING if not counts[Condition.READY] else Condition.READY]
        self._endpoints = {i: self._endpoint(i, entries) for i, entries in used.items()}
        return Merged(
            self._endpoints,
            frozenset(e.address for entries in pods.values() for e in entries if e.address),
            counts[Condition.READY],
            counts[Condition.DRAINING],
            counts[Condition.OUT],
            self._no_port(slices) if missing and not used else None,
            tuple(dict.fromkeys(remarks))[:_MOST_REMARKS],
        )

    def _endpoint(self, identity: str, entries: list[_Entry]) -> Endpoint:
        by_family: dict[str, _Entry] = {}
        for entry in entries:
            if entry.address is not None:
                by_family.setdefault(entry.family, entry)
        ordered = sorted(by_family.values(), key=lambda e: self._families[e.family])
        addresses = tuple(e.address for e in ordered if e.address is not None)
        attributes = ordered[0].backend.attributes
        old = self._endpoints.get(identity)
        if old is not None and old.addresses == addresses and old.attributes == attributes:
            return old
        return Endpoint(addresses, attributes)

    def _read(self, piece: Slice) -> tuple[tuple[_Entry, ...], tuple[str, ...]]:
        remarks = list(piece.remarks)
        if piece.family not in self._families:
            if piece.family not in FAMILIES:
                remarks.append(
                    f"EndpointSlice {piece.name} is ignored: its addressType {piece.family!r} "
                    "holds no IP addresses"
                )
            return (), tuple(remarks)
        number = self._number(piece.ports)
        numbers = [p.number for p in piece.ports]
        if isinstance(self._port, int) and numbers and not {None, self._port} & {*numbers}:
            remarks.append(
                f"port {self._port} is used as it is, though the EndpointSlices name "
                f"{', '.join(map(str, dict.fromkeys(numbers)))}: it means the pod's port, not the "
                "Service's"
            )
        entries = []
        for backend in piece.backends:
            address = None
            try:
                address = None if number is None else Address.ip(backend.ip, number)
            except AddressError as error:
                remarks.append(f"EndpointSlice {piece.name}: an endpoint is left out: {error}")
                continue
            if address is not None and address.family != piece.family:
                remarks.append(
                    f"EndpointSlice {piece.name}: an endpoint is left out: {backend.ip} is no "
                    f"{piece.family} address"
                )
                continue
            entries.append(_Entry(backend, piece.family, address))
        return tuple(entries), tuple(remarks)

    def _number(self, ports: Sequence[Port]) -> int | None:
        if isinstance(self._port, int):
            return self._port
        usable = [p for p in ports if p.protocol == "TCP" and p.number is not None]
        if self._port is not None:
            usable = [p for p in usable if p.name == self._port]
        return usable[0].number if usable else None

    def _no_port(self, slices: list[Slice]) -> str:
        ports = {p.name: p.number for s in slices for p in s.ports if p.protocol == "TCP"}
        has = ", ".join(f"{name or '(no name)'} ({number})" for name, number in ports.items())
        if self._port is None:
            return "its EndpointSlices have no TCP port; write the port number into the target"
        near = difflib.get_close_matches(str(self._port), [n for n in ports if n], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"no port is named {self._port!r}; its TCP ports: {has or 'none'}{hint}"


class Hold:
    """Keeps addresses that vanished from all slices, for a moment.

    A backend that moves between slices is taken out of one and put into the other by two events,
    in any order. A backend that ends says so by its conditions first, so this delays nothing.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last: Mapping[str, Endpoint] = {}
        self._since: dict[Address, float] = {}

    def apply(self, merged: Merged, now: float) -> tuple[tuple[Endpoint, ...], float | None]:
        """The endpoints to use, and when to ask again if nothing happens; None for never."""
        # In the order of the last list, what is new behind it: a list that moved is no news.
        kept = {i: merged.endpoints[i] for i in self._last if i in merged.endpoints}
        result: dict[str, Endpoint] = {**kept, **merged.endpoints}
        since: dict[Address, float] = {}
        for identity, old in self._last.items():
            if result.get(identity) is old:
                continue
            for address in old.addresses:
                if address in merged.mentioned:
                    continue
                began = self._since.get(address, now)
                if now < began + self._seconds - _TICK:
                    since[address] = began
                    result[identity] = _with(result.get(identity), address, old.attributes)
        if since:
            order = [*self._last, *result]
            result = {i: result[i] for i in dict.fromkeys(order) if i in result}
        self._since, self._last = since, result
        wake = min(since.values()) + self._seconds if since else None
        return tuple(result.values()), wake


def _with(endpoint: Endpoint | None, address: Address, attributes: Mapping[str, Any]) -> Endpoint:
    if endpoint is None:
        return Endpoint((address,), attributes)
    return Endpoint((*endpoint.addresses, address), endpoint.attributes)
