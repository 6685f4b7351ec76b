"""What is wrong with a bootstrap, or with a resource."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_MOST = 20  # mistakes that are written out
_LONGEST = 300  # characters of one


class BootstrapError(ValueError):
    """A bootstrap that cannot be used: where it came from, the JSON path, and what is wrong."""


class Problems:
    """Collects the mistakes of a resource, each with its path; `at` names the field being read."""

    __slots__ = ("_count", "_found", "_path")

    def __init__(self) -> None:
        self._path: list[str] = []
        self._found: dict[str, list[str]] = {}
        self._count = 0

    @contextmanager
    def at(self, step: str) -> Iterator[None]:
        """Everything added inside lies under `step`: ``name``, ``[3]`` or ``[3].name``."""
        self._path.append(step)
        try:
            yield
        finally:
            self._path.pop()

    def add(self, problem: str, step: str = "") -> None:
        """A mistake at the field that is being read, or at `step` in it."""
        self._count += 1
        if self._count <= _MOST:
            path = ""
            for part in (*self._path, step):
                path += part if not path or part.startswith("[") or not part else f".{part}"
            self._found.setdefault(path or "resource", []).append(problem[:_LONGEST])

    def __len__(self) -> int:
        return self._count

    def __str__(self) -> str:
        lines = [f"{path}: {', '.join(problems)}" for path, problems in self._found.items()]
        if self._count > _MOST:
            lines.append(f"and {self._count - _MOST} more")
        return "; ".join(lines)
