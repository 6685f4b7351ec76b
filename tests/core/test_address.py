"""Addresses: canonical, dialable, or refused with a reason."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpclb.core.address import Address, AddressError, Endpoint


@pytest.mark.parametrize(
    ("text", "target", "uri", "family"),
    [
        ("10.0.0.7:443", "10.0.0.7:443", "ipv4:10.0.0.7:443", "ipv4"),
        ("10.0.0.7:0443", "10.0.0.7:443", "ipv4:10.0.0.7:443", "ipv4"),
        ("[fd00::7]:443", "[fd00::7]:443", "ipv6:[fd00::7]:443", "ipv6"),
        ("[FD00:0::0007]:443", "[fd00::7]:443", "ipv6:[fd00::7]:443", "ipv6"),
    ],
)
def test_an_ip_address_is_canonical(text: str, target: str, uri: str, family: str) -> None:
    address = Address.parse(text)
    assert (address.target, address.uri, address.family) == (target, uri, family)
    assert str(address) == target


@pytest.mark.parametrize(
    ("address", "uri"),
    [
        (Address.unix("/run/a.sock"), "unix:/run/a.sock"),
        (Address.unix("/run/a b%41?#"), "unix:/run/a%20b%2541%3F%23"),
        (Address.unix_abstract("name"), "unix-abstract:name"),
    ],
)
def test_a_socket_name_is_percent_encoded_in_the_uri(address: Address, uri: str) -> None:
    assert (address.uri, address.family) == (uri, "unix")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("10.0.0.7", "expected 'ip:port'"),
        ("fd00::7:443", "expected 'ip:port' or '[ipv6]:port'"),
        ("api:80", "names belong in a dns: target"),
        ("10.0.0.7:0", "port '0' is not in 1..65535"),
        ("10.0.0.7:65536", "port '65536' is not in 1..65535"),
        ("10.0.0.7:-1", "port '-1' is not in 1..65535"),
        ("10.0.0.7:http", "port 'http' is not in 1..65535"),
        ("0.0.0.0:80", "multicast and unspecified are not dialable"),
        ("[::]:80", "multicast and unspecified are not dialable"),
        ("224.0.0.1:80", "multicast"),
        ("[fe80::1%eth0]:80", "zone ids"),
        ("", "expected 'ip:port'"),
        (None, "expected 'ip:port' text"),
    ],
)
def test_what_nobody_can_dial_is_refused(text: Any, problem: str) -> None:
    with pytest.raises(AddressError, match=re.escape(problem)):
        Address.parse(text)


@pytest.mark.parametrize("name", ["", "a\0b", "a\nb", None])
def test_a_wrong_socket_name_is_refused(name: Any) -> None:
    with pytest.raises(AddressError, match="unix socket name"):
        Address.unix(name)


@given(st.text())
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        assert Address.parse(Address.parse(text).target) == Address.parse(text)
    except AddressError:
        pass


def test_the_server_name_is_a_part_of_the_identity() -> None:
    assert Address.parse("10.0.0.7:443") != Address.parse("10.0.0.7:443", "api")


def test_an_endpoint_is_its_addresses_in_no_order() -> None:
    one = Endpoint.of("10.0.0.1:80", "10.0.0.2:80", weight=3)
    other = Endpoint.of("10.0.0.2:80", "10.0.0.1:80")
    assert one.key == other.key
    assert one.attributes["weight"] == 3
    assert str(one) == "10.0.0.1:80+10.0.0.2:80"


def test_an_endpoint_has_an_address() -> None:
    with pytest.raises(AddressError, match="at least one address"):
        Endpoint(())
