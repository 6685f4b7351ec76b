"""Which child of a tree of policies gets which endpoint.

A resolver writes the path into the endpoint's attribute `HIERARCHY`, a tuple of children's names
from the root down. Each policy with named children takes the first name off and hands the endpoint
to the child of that name.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from types import MappingProxyType

from grpclb.core.address import Endpoint
from grpclb.core.attributes import HIERARCHY, STRAYS
from grpclb.core.config_node import brief
from grpclb.core.resolver import ResolverState

_MOST_NAMED = 4  # children, in an error


class Splitter:
    """Endpoints by their first name, without it.

    An endpoint object that was split before gives the same object again, so that the policies
    below see at a glance what did not change.
    """

    __slots__ = ("_known", "_strays")

    def __init__(self) -> None:
        self._known: dict[int, tuple[Endpoint, str, Endpoint]] = {}
        self._strays = ""

    def split(
        self, endpoints: Sequence[Endpoint], children: Collection[str]
    ) -> dict[str, list[Endpoint]]:
        """One group for each of `children` that has any. Endpoints without a path, or whose path
        begins with another name, are nobody's."""
        before, known = self._known, {}
        groups: dict[str, list[Endpoint]] = {}
        strays: list[Endpoint] = []
        for endpoint in endpoints:
            entry = before.get(id(endpoint)) or _popped(endpoint)
            if entry is None or entry[1] not in children:
                strays.append(endpoint)
                continue
            known[id(endpoint)] = entry
            groups.setdefault(entry[1], []).append(entry[2])
        self._known = known
        self._strays = _explained(strays, len(endpoints), children) if strays else ""
        return groups

    def told(self, state: ResolverState) -> ResolverState:
        """`state` for the children: one without endpoints should know that some went astray."""
        if not self._strays:
            return state
        return replace(state, attributes={**state.attributes, STRAYS: self._strays})


def _explained(strays: list[Endpoint], count: int, children: Collection[str]) -> str:
    names = ", ".join(repr(brief(name)) for name in (*children,)[:_MOST_NAMED])
    more = f" and {len(children) - _MOST_NAMED} others" if len(children) > _MOST_NAMED else ""
    path = strays[0].attributes.get(HIERARCHY)
    has = "none" if path is None else brief(repr(path))
    return (
        f"no endpoints: {len(strays)} of the resolver's {count} fit no child of the policy above; "
        f"the attribute {HIERARCHY!r} must be a tuple that begins with the name of one ({names}"
        f"{more}), and {strays[0]} has {has}"
    )


def _popped(endpoint: Endpoint) -> tuple[Endpoint, str, Endpoint] | None:
    path = endpoint.attributes.get(HIERARCHY)
    if not isinstance(path, tuple) or not path or not isinstance(path[0], str):
        return None
    attributes = {**endpoint.attributes, HIERARCHY: path[1:]}
    return endpoint, path[0], Endpoint(endpoint.addresses, MappingProxyType(attributes))
