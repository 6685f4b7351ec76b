"""Which child of a tree of policies gets which endpoint.

A resolver writes the path into the endpoint's attribute `HIERARCHY`, a tuple of children's names
from the root down. Each policy with named children takes the first name off and hands the endpoint
to the child of that name.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType

from grpclb.core.address import Endpoint
from grpclb.core.attributes import HIERARCHY


class Splitter:
    """Endpoints by their first name, without it.

    An endpoint object that was split before gives the same object again, so that the policies
    below see at a glance what did not change.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[int, tuple[Endpoint, str, Endpoint]] = {}

    def split(self, endpoints: Iterable[Endpoint]) -> dict[str, list[Endpoint]]:
        """Endpoints without a path are nobody's."""
        before, known = self._known, {}
        groups: dict[str, list[Endpoint]] = {}
        for endpoint in endpoints:
            entry = before.get(id(endpoint))
            if entry is None:
                entry = _popped(endpoint)
                if entry is None:
                    continue
            known[id(endpoint)] = entry
            groups.setdefault(entry[1], []).append(entry[2])
        self._known = known
        return groups


def _popped(endpoint: Endpoint) -> tuple[Endpoint, str, Endpoint] | None:
    path = endpoint.attributes.get(HIERARCHY)
    if not isinstance(path, tuple) or not path:
        return None
    attributes = {**endpoint.attributes, HIERARCHY: path[1:]}
    return endpoint, path[0], Endpoint(endpoint.addresses, MappingProxyType(attributes))
