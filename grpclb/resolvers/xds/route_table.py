"""Finding the first route that matches without asking each of hundreds of them (A28).

Nothing is decided here that `RouteMatcher` does not decide: an index only leaves out routes that
cannot match, so that the others are asked in the order in which they were configured. What a
request costs depends on the routes that might match it, not on all that there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from grpclb.resolvers.xds.matchers import RouteMatcher, TextMatcher, TextRule, header_value

if TYPE_CHECKING:
    from random import Random

_MAX_PATHS = 1_000  # whose candidates are remembered
_MAX_GROUPED = 20_000  # routes in all of the groups that are remembered


class RouteTable:
    """The routes of one virtual host. `find` may be called on any thread."""

    __slots__ = ("_by_path", "_grouped", "_groups", "_matchers", "_paths")

    def __init__(self, matchers: Sequence[RouteMatcher]) -> None:
        self._matchers = matchers
        self._paths = _PathIndex(matchers)
        # Single reads and writes of a dictionary are atomic. Two threads that meet may both work
        # the same group out, or one more than the bound may be kept.
        self._by_path: dict[str, _Group] = {}
        self._groups: dict[tuple[int, ...], _Group] = {}
        self._grouped = 0

    def find(self, path: str, headers: Mapping[str, str], random: Random) -> int | None:
        """The position of the first route that matches; None: there is none.

        `headers` and the draws are those of `RouteMatcher.matches`.
        """
        group = self._by_path.get(path)
        if group is None:
            group = self._group(path)
        if group.certain is not None:
            return group.certain
        matchers = self._matchers
        for position in group.candidates(headers):
            if matchers[position].matches_beside_path(headers, random):
                return position
        return None

    def _group(self, path: str) -> _Group:
        positions = tuple(self._reachable(path))
        group = self._groups.get(positions)
        if group is None:
            if self._grouped > _MAX_GROUPED:
                self._by_path.clear()
                self._groups.clear()
                self._grouped = 0
            group = self._groups[positions] = _Group(self._matchers, positions)
            self._grouped += len(positions)
        if len(self._by_path) >= _MAX_PATHS:
            self._by_path.clear()
        self._by_path[path] = group
        return group

    def _reachable(self, path: str) -> Iterator[int]:
        """The routes for a path, up to the first that takes all of its requests."""
        for position in self._paths.candidates(path):
            matcher = self._matchers[position]
            if matcher.path.matches(path):
                yield position
                if matcher.takes_every_request:
                    return


class _PathIndex:
    """Which routes may match a path: those for it, for its prefixes, and those that say neither."""

    __slots__ = ("_exact", "_others", "_prefixes")

    def __init__(self, matchers: Iterable[RouteMatcher]) -> None:
        self._exact: dict[str, list[int]] = {}
        self._prefixes: dict[int, dict[str, list[int]]] = {}  # by their length
        self._others: list[int] = []
        for position, matcher in enumerate(matchers):
            match matcher.path:
                case TextMatcher(TextRule.EXACT, text, ignore_case=False):
                    self._exact.setdefault(text, []).append(position)
                case TextMatcher(TextRule.PREFIX, text, ignore_case=False):
                    equal = self._prefixes.setdefault(len(text), {})
                    equal.setdefault(text, []).append(position)
                case _:
                    self._others.append(position)

    def candidates(self, path: str) -> list[int]:
        """In order."""
        found = [self._others, self._exact.get(path, _NONE)]
        found += (equal.get(path[:length], _NONE) for length, equal in self._prefixes.items())
        return sorted(chain.from_iterable(found))


class _Group:
    """The routes that match some paths, in order, indexed by the headers that they ask for."""

    __slots__ = ("_by_header", "_others", "certain")

    def __init__(self, matchers: Sequence[RouteMatcher], positions: Sequence[int]) -> None:
        first = positions[0] if positions else None
        takes_all = first is not None and matchers[first].takes_every_request
        self.certain = first if takes_all else None
        self._others: list[int] = []
        self._by_header: dict[str, dict[str, list[int]]] = {}
        # A route is filed under the one of its headers that tells most routes apart.
        wanted = {position: dict(matchers[position].exact_headers()) for position in positions}
        values = Counter(name for name, _ in {i for each in wanted.values() for i in each.items()})
        for position, headers in wanted.items():
            if headers:
                name = max(headers, key=lambda header: values[header])
                by_value = self._by_header.setdefault(name, {})
                by_value.setdefault(headers[name], []).append(position)
            else:
                self._others.append(position)

    def candidates(self, headers: Mapping[str, str]) -> Sequence[int]:
        """In order."""
        found = self._others
        for name, by_value in self._by_header.items():
            value = header_value(headers, name)
            more = None if value is None else by_value.get(value)
            if more:
                found = sorted(found + more) if found else more
        return found


_NONE: list[int] = []
