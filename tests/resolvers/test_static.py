"""Targets that are addresses already."""

from __future__ import annotations

import asyncio
import re
from random import Random

import pytest

from grpclb.core.resolver import ResolverContext, ResolverState
from grpclb.core.target import parse_target
from grpclb.resolvers.static import factory

SCHEMES = ("ipv4", "ipv6", "unix", "unix-abstract")


def resolve(text: str) -> list[ResolverState]:
    states: list[ResolverState] = []
    resolver = factory(parse_target(text, SCHEMES), ResolverContext(Random()))

    def update(state: ResolverState) -> bool:
        states.append(state)
        return False  # even a rejected list stays what it is

    asyncio.run(resolver.run(update))
    resolver.resolve_now()
    return states


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("ipv4:10.0.0.1:80", ["10.0.0.1:80"]),
        ("ipv4:10.0.0.2:80,10.0.0.1:81", ["10.0.0.2:80", "10.0.0.1:81"]),
        ("ipv4:10.0.0.1:80,10.0.0.1:80", ["10.0.0.1:80"]),
        ("ipv6:[::1]:80,[fd00:0::1]:80", ["[::1]:80", "[fd00::1]:80"]),
        ("ipv6:%5B::1%5D:80", ["[::1]:80"]),
        ("ipv4:0.0.0.0:80", ["127.0.0.1:80"]),
        ("ipv6:[::]:80", ["[::1]:80"]),
        ("unix:/run/a.sock", ["unix:/run/a.sock"]),
        ("unix:///run/a%20b.sock", ["unix:/run/a b.sock"]),
        ("unix:a.sock", ["unix:a.sock"]),
        ("unix-abstract:name", ["unix-abstract:name"]),
    ],
)
def test_the_addresses_are_reported_once_each_an_endpoint(text: str, addresses: list[str]) -> None:
    (state,) = resolve(text)
    assert isinstance(state.endpoints, tuple)
    assert [str(endpoint) for endpoint in state.endpoints] == addresses


def test_the_note_counts() -> None:
    (state,) = resolve("ipv4:10.0.0.2:80,10.0.0.1:81")
    assert state.note == "ipv4:10.0.0.2:80,10.0.0.1:81 resolved 2 addresses"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("ipv4:10.0.0.1", "address 1 of 1: '10.0.0.1' has no port; write 10.0.0.1:50051"),
        ("ipv4:10.0.0.1:80,10.0.0.300:80", "address 2 of 2: address '10.0.0.300'"),
        ("ipv4:10.0.0.1:80,,10.0.0.2:80", "address 2 of 3 is empty; write one comma"),
        ("ipv4:10.0.0.1:80,", "address 2 of 2 is empty"),
        ("ipv4:10.0.0.1:0", "address 1 of 1: address '10.0.0.1': port '0' is not in 1..65535"),
        ("ipv4:[::1]:80", "address 1 of 1: '[::1]:80' belongs in an ipv6: target"),
        ("ipv6:10.0.0.1:80", "address 1 of 1: '10.0.0.1:80' belongs in an ipv4: target"),
        ("ipv6:[::1]", "'[::1]' has no port; write [::1]:50051"),
        ("ipv6:::1:80", "expected 'ip:port' or '[ipv6]:port'"),
        ("ipv4:api:80", "names belong in a dns: target"),
        ("ipv4:224.0.0.1:80", "multicast"),
        ("unix:/run/a%0Ab", "must be text without NUL and newline"),
    ],
)
def test_a_bad_address_is_refused_with_its_place(text: str, problem: str) -> None:
    expected = re.escape(f"target {text!r}: ") + ".*" + re.escape(problem)
    with pytest.raises(ValueError, match=expected):
        factory(parse_target(text, SCHEMES), ResolverContext(Random()))
