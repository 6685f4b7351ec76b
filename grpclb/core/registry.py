"""Named things that users can add to: resolvers by scheme, policies by name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """A table from name to thing. Reads from any thread; a write swaps the whole table."""

    def __init__(self, kind: str, pattern: str = r"[a-zA-Z0-9_.+-]+") -> None:
        self._kind = kind
        self._pattern = re.compile(pattern)
        self._table: dict[str, T] = {}
        self._lazy: dict[str, Callable[[], T]] = {}

    def register(self, name: str, thing: T) -> None:
        """Add or replace. Raises ValueError for a name that no target or config could say."""
        if not isinstance(name, str) or not self._pattern.fullmatch(name):
            raise ValueError(f"{self._kind} name {name!r} must match {self._pattern.pattern}")
        self._table = {**self._table, name: thing}

    def register_lazy(self, name: str, load: Callable[[], T]) -> None:
        """Have `load` make the thing when somebody first asks for it by this name.

        What is registered under the name, before or later, has precedence.
        """
        self._lazy = {**self._lazy, name: load}

    def get(self, name: str) -> T | None:
        found = self._table.get(name)
        return self._load(name) if found is None and self._lazy else found

    def _load(self, name: str) -> T | None:
        load = self._lazy.get(name)
        if load is not None:
            self.register(name, load())
        return self._table.get(name)  # which another thread may have filled meanwhile

    def require(self, name: str) -> T:
        """The thing, or a ValueError that names those there are."""
        found = self.get(name)
        if found is None:
            raise ValueError(self.unknown(name))
        return found

    def unknown(self, name: str) -> str:
        """The sentence for a name that is not here, with the nearest one that is."""
        near = difflib.get_close_matches(name, self, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"unknown {self._kind} {name!r}; known: {', '.join(sorted(self))}{hint}"

    def __iter__(self) -> Iterator[str]:
        return iter({**self._table, **self._lazy})

    def __contains__(self, name: object) -> bool:
        return name in self._table or name in self._lazy
