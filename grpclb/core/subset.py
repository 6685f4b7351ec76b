"""A stable random subset of many endpoints (the idea of gRFC A68, random_subsetting)."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Sequence

from grpclb.core.address import Endpoint


def choose_subset(
    endpoints: Sequence[Endpoint], size: int, seed: bytes, ranks: dict[Endpoint, bytes]
) -> tuple[Endpoint, ...]:
    """The `size` endpoints that rank lowest under a hash keyed by `seed`, in their given order.

    Adding or removing one endpoint changes at most one member. `ranks` is the caller's cache and
    is left holding just the endpoints given, so that an update hashes only what is new.
    """
    fresh = {e: ranks.get(e) or _rank(e, seed) for e in endpoints}
    ranks.clear()
    ranks.update(fresh)
    if len(fresh) <= size:
        return tuple(fresh)
    chosen = set(heapq.nsmallest(size, fresh, key=fresh.__getitem__))
    return tuple(e for e in fresh if e in chosen)


def _rank(endpoint: Endpoint, seed: bytes) -> bytes:
    name = "\n".join(sorted(a.target for a in endpoint.addresses))
    return hashlib.blake2b(name.encode(), key=seed, digest_size=8).digest()
