"""Named things that users can add to: resolvers by scheme, policies by name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """A table from name to thing. Reads from any thread; a write swaps the whole table."""

    def __init__(self, kind: str, pattern: str = r"[a-zA-Z0-9_.+-]+") -> None:
        self._kind = kind
        self._pattern = re.compile(pattern)
        self._table: dict[str, T] = {}

    def register(self, name: str, thing: T) -> None:
        """Add or replace. Raises ValueError for a name that no target or config could say."""
        if not isinstance(name, str) or not self._pattern.fullmatch(name):
            raise ValueError(f"{self._kind} name {name!r} must match {self._pattern.pattern}")
        self._table = {**self._table, name: thing}

    def get(self, name: str) -> T | None:
        return self._table.get(name)

    def require(self, name: str) -> T:
        """The thing, or a ValueError that names those there are."""
        found = self._table.get(name)
        if found is None:
            raise ValueError(self.unknown(name))
        return found

    def unknown(self, name: str) -> str:
        """The sentence for a name that is not here, with the nearest one that is."""
        near = difflib.get_close_matches(name, self._table, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"unknown {self._kind} {name!r}; known: {', '.join(sorted(self._table))}{hint}"

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __contains__(self, name: object) -> bool:
        return name in self._table
