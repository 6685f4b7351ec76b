"""DNS messages as bytes: questions out, answers in. No I/O; dnspython does the parsing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# Imported here, in the thread that builds the channel: dnspython would import the record types
# when the first answer is parsed, which is on the user's loop.
import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rdtypes.ANY.CNAME
import dns.rdtypes.ANY.OPT
import dns.rdtypes.ANY.SOA
import dns.rdtypes.ANY.TXT
import dns.rdtypes.IN.A
import dns.rdtypes.IN.AAAA
import dns.rdtypes.IN.SRV
import dns.rrset

# What every path carries without fragments; longer answers come truncated, then over TCP.
UDP_PAYLOAD = 1232
_HEADER = 12
_QR, _OPCODE = 0x80, 0x78


class MalformedError(Exception):
    """An answer that makes no sense, with the reason."""


@dataclass(frozen=True, slots=True)
class Query:
    """One question, ready to be sent; `rdtype` is ``A``, ``AAAA``, ``SRV`` or ``TXT``."""

    name: str
    rdtype: str
    wire: bytes
    question: bytes

    @classmethod
    def make(cls, name: str, rdtype: str, *, edns: bool = True) -> Query:
        """A question under a new random id. Raises ValueError for a name that DNS cannot hold."""
        try:
            origin = dns.name.from_text(name)
        except (dns.exception.DNSException, UnicodeError) as error:
            raise ValueError(f"{name!r} is not a DNS name: {error}") from None
        message = dns.message.make_query(
            origin, rdtype, use_edns=0 if edns else -1, payload=UDP_PAYLOAD
        )
        wire = message.to_wire()
        length = len(origin.to_wire() or b"") + 4
        return cls(name, rdtype, wire, wire[_HEADER : _HEADER + length].lower())

    def is_answered_by(self, reply: bytes) -> bool:
        """Whether `reply` is for this question: the id, the direction, name and type agree.

        What is not may be forged or late, and is passed over.
        """
        if len(reply) < _HEADER or reply[:2] != self.wire[:2]:
            return False
        if not reply[2] & _QR or reply[2] & _OPCODE:
            return False
        if reply[4:6] == b"\0\0":  # a server that rejects the query need not repeat it
            return reply[3] & 0x0F != dns.rcode.NOERROR
        end = _HEADER + len(self.question)
        return reply[4:6] == b"\0\1" and reply[_HEADER:end].lower() == self.question


@dataclass(frozen=True, slots=True)
class Srv:
    """An SRV record; `target` in lower case without the last dot ("" for the root)."""

    priority: int
    weight: int
    port: int
    target: str


Record = str | Srv | tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """A server's answer. `records` are IP texts, `Srv`s or the strings of TXT records.

    `ttl` is the lowest of the chain of CNAMEs and the records; `glue` holds the addresses that
    came along for other names.
    """

    rcode: str
    truncated: bool = False
    records: tuple[Record, ...] = ()
    ttl: int = 0
    glue: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def decode(wire: bytes, rdtype: str) -> Reply:
    """Parse an answer to a question of `rdtype`. Raises MalformedError, whatever the bytes are.

    Takes 60 µs a record: run it off the loop for a large answer.
    """
    try:
        return _decode(wire, rdtype)
    except dns.message.ChainTooLong:
        raise MalformedError("endless chain of CNAMEs") from None
    except Exception as error:
        # Bytes from the network: whatever a parser trips over is the server's fault.
        raise MalformedError(f"malformed answer ({type(error).__name__})") from None


def _decode(wire: bytes, rdtype: str) -> Reply:
    message = dns.message.from_wire(wire, ignore_trailing=True)
    rcode = dns.rcode.to_text(message.rcode())
    if message.flags & dns.flags.TC:
        return Reply(rcode, truncated=True)
    if not isinstance(message, dns.message.QueryMessage) or rcode not in ("NOERROR", "NXDOMAIN"):
        return Reply(rcode)
    chain = message.resolve_chaining()
    if chain.answer is None:
        return Reply(rcode, ttl=chain.minimum_ttl)
    glue: dict[str, tuple[str, ...]] = {}
    if rdtype == "SRV":
        for rrset in message.additional:
            if rrset.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
                name = _text(rrset.name)
                glue[name] = glue.get(name, ()) + tuple(rdata.address for rdata in rrset)
    return Reply(rcode, False, _records(chain.answer, rdtype), chain.minimum_ttl, glue)


def _records(rrset: dns.rrset.RRset, rdtype: str) -> tuple[Record, ...]:
    if rdtype == "SRV":
        return tuple(Srv(r.priority, r.weight, r.port, _text(r.target)) for r in rrset)
    if rdtype == "TXT":
        return tuple(tuple(rdata.strings) for rdata in rrset)
    return tuple(rdata.address for rdata in rrset)


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower() if name != dns.name.root else ""
