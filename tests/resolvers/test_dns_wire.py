"""DNS messages: which answers count, and that no bytes raise anything else than they should."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from unittest import mock

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpclb.resolvers.dns import client
from grpclb.resolvers.dns.client import Answer, Client, Failure, Negative
from grpclb.resolvers.dns.system import ResolvConf, Server
from grpclb.resolvers.dns.wire import MalformedError, Query, Srv, decode


def answer(query: Query, *records: str, rcode: int = 0, flags: int = 0) -> bytes:
    """An answer to `query`; each of `records` is "name type value"."""
    message = dns.message.make_response(dns.message.from_wire(query.wire))
    message.set_rcode(dns.rcode.Rcode(rcode))
    message.flags |= flags
    for record in records:
        name, rdtype, value = record.split(" ", 2)
        section = message.additional if name.startswith("glue.") else message.answer
        section.append(dns.rrset.from_text(f"{name}.", 30, "IN", rdtype, value))
    return message.to_wire(max_size=65_535)


def test_a_question_asks_for_edns_and_recursion() -> None:
    message = dns.message.from_wire(Query.make("Api.Test", "AAAA").wire)
    assert message.edns == 0
    assert message.payload == 1232
    assert message.flags & dns.flags.RD
    assert message.question[0].to_text() == "Api.Test. IN AAAA"
    assert dns.message.from_wire(Query.make("api", "A", edns=False).wire).edns == -1


def test_ids_are_not_guessed() -> None:
    assert len({Query.make("api", "A").wire[:2] for _ in range(100)}) > 90


@pytest.mark.parametrize("name", ["a..b", "a" * 64, "a." * 130])
def test_a_name_that_dns_cannot_hold_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a DNS name"):
        Query.make(name, "A")


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        (lambda wire: wire, True),
        (lambda wire: wire[:12] + wire[12:].upper(), True),
        (lambda wire: bytes([wire[0] ^ 1]) + wire[1:], False),  # another id
        (lambda wire: wire[:2] + bytes([wire[2] & 0x7F]) + wire[3:], False),  # a question
        (lambda wire: wire[:2] + bytes([wire[2] | 0x28]) + wire[3:], False),  # another opcode
        (lambda wire: wire.replace(b"api", b"bpi"), False),  # another name
        (lambda wire: wire.replace(b"\0\x01\0\x01", b"\0\x1c\0\x01", 1), False),  # another type
        (lambda wire: wire[:4] + b"\0\0" + wire[6:], False),  # no question, yet no error
        (lambda wire: wire[:3] + b"\x01\0\0" + bytes(6), True),  # FORMERR in a bare header
        (lambda wire: wire[:11], False),
        (lambda wire: b"", False),
    ],
)
def test_an_answer_counts_only_for_its_question(
    change: Callable[[bytes], bytes], counts: bool
) -> None:
    query = Query.make("api.test", "A")
    assert query.is_answered_by(change(answer(query, "api.test A 10.0.0.1"))) is counts


def test_records_come_with_the_lowest_ttl_of_their_chain() -> None:
    query = Query.make("api.test", "A")
    reply = decode(answer(query, "api.test CNAME b.test.", "b.test A 10.0.0.1"), "A")
    assert (reply.rcode, reply.records, reply.ttl) == ("NOERROR", ("10.0.0.1",), 30)


def test_srv_records_come_with_their_glue() -> None:
    query = Query.make("_grpc._tcp.api", "SRV")
    wire = answer(
        query,
        "_grpc._tcp.api SRV 1 2 50051 Glue.api.",
        "glue.api A 10.0.0.1",
        "glue.api AAAA fd00::1",
    )
    reply = decode(wire, "SRV")
    assert reply.records == (Srv(1, 2, 50051, "glue.api"),)
    assert reply.glue == {"glue.api": ("10.0.0.1", "fd00::1")}


def test_txt_records_keep_their_strings() -> None:
    query = Query.make("t", "TXT")
    assert decode(answer(query, r't TXT "a" "\195"'), "TXT").records == ((b"a", b"\xc3"),)


def test_a_truncated_answer_is_worth_nothing() -> None:
    query = Query.make("api", "A")
    reply = decode(answer(query, "api A 10.0.0.1", flags=dns.flags.TC), "A")
    assert (reply.truncated, reply.records) == (True, ())


def test_a_loop_of_cnames_ends() -> None:
    query = Query.make("a", "A")
    with pytest.raises(MalformedError, match="endless chain of CNAMEs"):
        decode(answer(query, "a CNAME b.", "b CNAME a."), "A")


# ---- hostile bytes

RDTYPES = st.sampled_from(["A", "AAAA", "SRV", "TXT"])


def check_decoded(wire: bytes, rdtype: str) -> None:
    try:
        reply = decode(wire, rdtype)
    except MalformedError:
        return
    for record in reply.records:
        if rdtype in ("A", "AAAA"):
            ipaddress.ip_address(str(record))


@given(st.binary(max_size=600), RDTYPES)
def test_any_bytes_decode_or_are_malformed(data: bytes, rdtype: str) -> None:
    check_decoded(data, rdtype)
    Query.make("api", rdtype).is_answered_by(data)


@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=8),
    st.integers(0, 400),
    RDTYPES,
)
def test_any_damage_to_a_good_answer_decodes_or_is_malformed(
    changes: list[tuple[int, int]], cut: int, rdtype: str
) -> None:
    values = {"A": "10.0.0.1", "AAAA": "fd00::1", "SRV": "1 2 80 glue.api.", "TXT": '"x" "y"'}
    query = Query.make("api", rdtype)
    wire = bytearray(
        answer(query, "api CNAME b.", f"b {rdtype} {values[rdtype]}", "glue.api A 10.0.0.1")
    )
    for at, value in changes:
        if at < len(wire):
            wire[at] = value
    check_decoded(bytes(wire), rdtype)
    check_decoded(bytes(wire[:cut]), rdtype)


@given(st.binary(max_size=300), RDTYPES)
def test_whatever_a_server_sends_the_question_has_an_outcome(data: bytes, rdtype: str) -> None:
    async def exchange(server: Server, query: Query, *, tcp: bool) -> bytes:
        return data

    async def ask() -> Answer | Negative | Failure:
        loop = asyncio.get_running_loop()
        return await Client().ask(ResolvConf(), "api", rdtype, loop.time() + 1)

    with mock.patch.object(client, "exchange", exchange):
        outcome = asyncio.run(ask())
    assert isinstance(outcome, (Answer, Negative, Failure))
