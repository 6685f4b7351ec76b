"""In which order pick_first tries addresses (gRFC A61, A62, A113; RFC 8305)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from grpclb.core.address import Address, Endpoint

if TYPE_CHECKING:
    from random import Random


def shuffled(endpoints: Sequence[Endpoint], random: Random) -> list[Endpoint]:
    """A random order in which heavier endpoints tend to come first (gRFC A113).

    A113 sorts by u^(1/weight), descending; its logarithm gives the same order without losing
    digits for large weights. With equal weights it is a uniform shuffle.
    """

    def key(endpoint: Endpoint) -> float:
        weight = endpoint.attributes.get("weight", 1)
        heavy = isinstance(weight, int | float) and not isinstance(weight, bool) and weight > 0
        return -math.log(1.0 - random.random()) / (weight if heavy else 1)

    return sorted(endpoints, key=key)


def connect_order(endpoints: Sequence[Endpoint]) -> tuple[Address, ...]:
    """All addresses once each, the families taking turns, the first one's first (RFC 8305, 4)."""
    if len(endpoints) == 1 and len(endpoints[0].addresses) == 1:
        return endpoints[0].addresses
    families: dict[str, list[Address]] = {}
    for address in dict.fromkeys(a for e in endpoints for a in e.addresses):
        families.setdefault(address.family, []).append(address)
    # Place in the family, then the family's place: a stable sort of the few keys does the turns.
    turns = [
        (place, turn, address)
        for turn, family in enumerate(families.values())
        for place, address in enumerate(family)
    ]
    turns.sort(key=lambda item: item[:2])
    return tuple(address for _, _, address in turns)
