"""What a test DNS server answers: a mutable zone, scripted faults, a record of the questions.

No sockets here: bytes in, a `Reply` out. `dns_server.DnsServer` puts it on the network.
"""

import threading
import time
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.TXT
import dns.rrset

Transport = Literal["udp", "tcp"]

_MAX_CHAIN = 16
_PLAIN_UDP_LIMIT = 512
_UDP_LIMIT = 65_000


class Fault(Enum):
    """What goes wrong with the answers for a name; all but NONE replace the zone's answer."""

    NONE = auto()  # the true answer; useful with a delay
    SERVFAIL = auto()
    NXDOMAIN = auto()  # although the zone may hold the name
    NODATA = auto()  # NOERROR with an empty answer
    FORMERR = auto()
    REFUSED = auto()
    DROP = auto()  # no answer at all, on UDP or TCP
    GARBAGE = auto()  # bytes that are no DNS message
    TRUNCATE = auto()  # TC and no records on UDP; the true answer on TCP
    TRUNCATE_NO_TCP = auto()  # the same, and a query on TCP is met with a reset
    OVERSIZE = auto()  # the whole answer in one datagram, however small a size was asked for
    WRONG_ID = auto()  # the true answer under another message id
    WRONG_PORT = auto()  # the true answer, sent on UDP from a port that was not asked
    CNAME_LOOP = auto()  # name -> loop.name -> name


_RCODES = {
    Fault.SERVFAIL: dns.rcode.SERVFAIL,
    Fault.NXDOMAIN: dns.rcode.NXDOMAIN,
    Fault.NODATA: dns.rcode.NOERROR,
    Fault.FORMERR: dns.rcode.FORMERR,
    Fault.REFUSED: dns.rcode.REFUSED,
}


@dataclass(frozen=True, slots=True)
class Query:
    """One question as it came in: lower-case name without the last dot, time.monotonic()."""

    name: str
    rdtype: str
    transport: Transport
    at: float


@dataclass(slots=True)
class _Rule:
    fault: Fault
    delay: float
    left: int | None  # queries that it still applies to; None: until it is cleared


@dataclass(frozen=True, slots=True)
class Reply:
    """How to answer one query; wire None sends nothing."""

    wire: bytes | None
    delay: float = 0.0
    wrong_port: bool = False
    reset: bool = False


class DnsZone:
    """The zone, its faults and the queries so far; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._zone: dict[str, dict[str, dns.rrset.RRset]] = {}
        self._rules: dict[tuple[str, str | None], _Rule] = {}
        self._queries: list[Query] = []

    # ---- zone

    def set(self, name: str, rdtype: str, *values: str, ttl: int = 30) -> None:
        """Replace all records of `name` and `rdtype`; no values leaves the name without that type.

        Values are as in a zone file (SRV: "priority weight port target"), names in them absolute;
        a TXT value is the bare text, of any length.
        """
        key, kind = _key(name), rdtype.upper()
        rrset = dns.rrset.RRset(_name(key), dns.rdataclass.IN, dns.rdatatype.from_text(kind))
        rrset.update_ttl(ttl)
        for value in values:
            rrset.add(_rdata(kind, value), ttl)
        with self._lock:
            records = self._zone.setdefault(key, {})
            if values:
                records[kind] = rrset
            else:
                records.pop(kind, None)

    def remove(self, name: str) -> None:
        """Forget the name: NXDOMAIN from now on."""
        with self._lock:
            self._zone.pop(_key(name), None)

    # ---- faults

    def fault(
        self,
        name: str,
        fault: Fault,
        *,
        rdtype: str | None = None,
        times: int | None = None,
        delay: float = 0.0,
    ) -> None:
        """Answer queries for `name` ("*": any name) with `fault`, `delay` seconds late.

        `rdtype` limits it to one type; `times` to so many queries (A and AAAA count as two). The
        narrowest rule wins: name and type, name, "*" and type, "*". It replaces the rule before it.
        """
        with self._lock:
            kind = rdtype and rdtype.upper()
            self._rules[_key(name), kind] = _Rule(fault, delay, times)

    def clear_faults(self, name: str | None = None) -> None:
        """Answer truly again, for one name or for all."""
        with self._lock:
            for key in [key for key in self._rules if name is None or key[0] == _key(name)]:
                del self._rules[key]

    # ---- what was asked

    def queries(
        self,
        name: str | None = None,
        rdtype: str | None = None,
        transport: Transport | None = None,
    ) -> tuple[Query, ...]:
        """The queries that came in so far, oldest first, those that fit every given argument."""
        with self._lock:
            return self._select(name, rdtype, transport)

    def wait_for_queries(
        self, count: int, name: str | None = None, rdtype: str | None = None, *, timeout: float = 10
    ) -> tuple[Query, ...]:
        """Block until at least `count` matching queries came in; TimeoutError after `timeout` s."""
        with self._arrived:
            if self._arrived.wait_for(
                lambda: len(self._select(name, rdtype, None)) >= count, timeout
            ):
                return self._select(name, rdtype, None)
            got = len(self._select(name, rdtype, None))
        raise TimeoutError(f"{got} of {count} queries for {name} {rdtype} within {timeout} s")

    def forget_queries(self) -> None:
        """Start recording anew."""
        with self._lock:
            self._queries.clear()

    def _select(
        self, name: str | None, rdtype: str | None, transport: Transport | None
    ) -> tuple[Query, ...]:
        return tuple(
            query
            for query in self._queries
            if (name is None or query.name == _key(name))
            and (rdtype is None or query.rdtype == rdtype.upper())
            and (transport is None or query.transport == transport)
        )

    # ---- answering

    def reply(self, wire: bytes, transport: Transport) -> Reply:
        """Record the query in `wire` and answer it; what is no DNS query gets no answer."""
        try:
            query = dns.message.from_wire(wire)
            question = query.question[0]
        except (dns.exception.DNSException, IndexError):
            return Reply(None)
        name = _key(question.name.to_text())
        rdtype = dns.rdatatype.to_text(question.rdtype)
        with self._arrived:
            self._queries.append(Query(name, rdtype, transport, time.monotonic()))
            self._arrived.notify_all()
            rule = self._take_rule(name, rdtype)
            response = dns.message.make_response(query, our_payload=1232)
            response.flags |= dns.flags.AA
            self._fill(response, name, rdtype, rule.fault)
        return _encode(query, response, rule, transport)

    def _take_rule(self, name: str, rdtype: str) -> _Rule:
        for key in ((name, rdtype), (name, None), ("*", rdtype), ("*", None)):
            rule = self._rules.get(key)
            if rule is None:
                continue
            if rule.left is not None:
                rule.left -= 1
                if rule.left <= 0:
                    del self._rules[key]
            return rule
        return _Rule(Fault.NONE, 0.0, None)

    def _fill(self, response: dns.message.Message, name: str, rdtype: str, fault: Fault) -> None:
        if fault in _RCODES:
            response.set_rcode(_RCODES[fault])
            return
        if fault is Fault.CNAME_LOOP:
            for owner, target in ((name, f"loop.{name}"), (f"loop.{name}", name)):
                response.answer.append(
                    dns.rrset.from_text(f"{owner}.", 30, "IN", "CNAME", f"{target}.")
                )
            return
        for _ in range(_MAX_CHAIN):
            records = self._zone.get(name)
            if records is None:
                response.set_rcode(dns.rcode.NXDOMAIN)
                return
            if rdtype in records:
                response.answer.append(records[rdtype])
                return
            alias = records.get("CNAME")
            if alias is None:
                return
            response.answer.append(alias)
            name = _key(alias[0].to_text())


def _encode(
    query: dns.message.Message, response: dns.message.Message, rule: _Rule, transport: Transport
) -> Reply:
    match rule.fault:
        case Fault.DROP:
            return Reply(None, rule.delay)
        case Fault.GARBAGE:
            return Reply(b"this is no DNS message", rule.delay)
        case Fault.TRUNCATE | Fault.TRUNCATE_NO_TCP if transport == "udp":
            response.flags |= dns.flags.TC
            response.answer.clear()
        case Fault.TRUNCATE_NO_TCP:
            return Reply(None, rule.delay, reset=True)
        case Fault.WRONG_ID:
            response.id ^= 0x5555
        case _:
            pass
    if transport == "tcp":
        limit = 65_535
    elif rule.fault is Fault.OVERSIZE:
        limit = _UDP_LIMIT
    else:
        limit = max(_PLAIN_UDP_LIMIT, query.payload)
    wire = response.to_wire(max_size=limit, prefer_truncation=True, want_shuffle=False)
    return Reply(wire, rule.delay, wrong_port=rule.fault is Fault.WRONG_PORT)


def _key(name: str) -> str:
    return name.rstrip(".").lower()


def _name(key: str) -> dns.name.Name:
    return dns.name.from_text(key)


def _rdata(kind: str, value: str) -> dns.rdata.Rdata:
    if kind == "TXT":
        raw = value.encode()
        chunks = [raw[i : i + 255] for i in range(0, len(raw), 255)] or [b""]
        return dns.rdtypes.ANY.TXT.TXT(dns.rdataclass.IN, dns.rdatatype.TXT, chunks)
    return dns.rdata.from_text("IN", kind, value, origin=dns.name.root, relativize=False)
