"""What an update of endpoints changes: decided here, done by `EndpointSharding`."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass

from grpclb.core.address import Endpoint


def endpoint_key(endpoint: Endpoint) -> Hashable:
    """An endpoint's identity, the set of its addresses; a plain text where one will do.

    Most endpoints have one address, and a text is hashed and compared ten times faster.
    """
    addresses = endpoint.addresses
    if len(addresses) == 1 and addresses[0].server_name is None:
        return addresses[0].target
    distinct = frozenset(addresses)
    (first, *more) = distinct
    return first.target if not more and first.server_name is None else distinct


@dataclass(frozen=True, slots=True)
class Diff:
    """What an update asks for, by endpoint key. Endpoints given twice are there once."""

    to_open: dict[Hashable, Endpoint]
    to_keep: dict[Hashable, Endpoint]
    to_shut: tuple[Hashable, ...]


def diff(have: Collection[Hashable], want: Iterable[Endpoint]) -> Diff:
    """Compare the keys that are there with the endpoints that should be. `have` knows `in`."""
    to_open: dict[Hashable, Endpoint] = {}
    to_keep: dict[Hashable, Endpoint] = {}
    for endpoint in want:
        key = endpoint_key(endpoint)
        (to_keep if key in have else to_open).setdefault(key, endpoint)
    gone = () if len(to_keep) == len(have) else tuple(key for key in have if key not in to_keep)
    return Diff(to_open, to_keep, gone)
