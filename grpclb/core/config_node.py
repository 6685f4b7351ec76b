"""Typed reading of JSON values, every error with its path.

Load-balancing policies may use `Node` too, to read their own part of a service config.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from grpclb.core.duration import parse_duration

T = TypeVar("T")

# Longer durations are cut to a century: added to today they overflow C-core's 64-bit
# nanoseconds and Python's own timers, and a call with "no" deadline would fail at once.
LONGEST_SECONDS = 100 * 365.25 * 86_400

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_FRACTION = re.compile(r"[.eE]")
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_LONGEST_TEXT = 64  # of a number written as text


class ServiceConfigError(ValueError):
    """A service config that cannot be used as a whole. `path` is the JSON path of the mistake."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"service config: {path}: {problem}")
        self.path = path
        self.problem = problem

    def under(self, path: str) -> ServiceConfigError:
        """The same mistake, seen from a document that holds this one at `path`."""
        return ServiceConfigError(path + self.path.removeprefix("$"), self.problem)


def join(path: str, key: str) -> str:
    """The path of `key` in the object at `path`."""
    key = brief(key)
    return f"{path}.{key}" if _PLAIN_KEY.fullmatch(key) else f"{path}[{json.dumps(key)}]"


def shown(value: object) -> str:
    """`value` in an error: as JSON, shortened; an object or array only by its kind."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return json.dumps(brief(value))
        case int() | float():
            return brief(value)
        case dict():
            return "an object"
        case list():
            return "an array"
    return type(value).__name__


def brief(value: object, longest: int = 64) -> str:
    """`value` as text that is short enough for an error."""
    try:
        text = str(value)
    except Exception:  # the value is a stranger's: its __str__ may do anything
        return "?"
    return text if len(text) <= longest else text[: longest - 3] + "..."


@dataclass(frozen=True, slots=True)
class Node:
    """A value in a document, with the path that errors name. The value is plain JSON."""

    value: Any
    path: str = "$"

    def fail(self, problem: str) -> ServiceConfigError:
        """The error to raise for this value."""
        return ServiceConfigError(self.path, problem)

    def _expected(self, what: str) -> ServiceConfigError:
        return self.fail(f"expected {what}, got {shown(self.value)}")

    def get(self, name: str) -> Node | None:
        """A field of this object. A null is as good as none, as in protobuf's JSON."""
        value = self.object().get(name)
        return None if value is None else Node(value, join(self.path, name))

    def need(self, name: str) -> Node:
        """A field that must be there."""
        found = self.get(name)
        if found is None:
            raise ServiceConfigError(join(self.path, name), "this field is required")
        return found

    def optional(self, name: str, read: Callable[[Node], T]) -> T | None:
        """What `read` makes of a field that may be absent."""
        found = self.get(name)
        return None if found is None else read(found)

    def unread(self, known: Collection[str]) -> Iterator[str]:
        """The paths of this object's fields that are not `known`."""
        return (join(self.path, name) for name in self.object() if name not in known)

    def object(self) -> dict[str, Any]:
        if not isinstance(self.value, dict):
            raise self._expected("an object")
        return self.value

    def items(self) -> list[Node]:
        """The elements of an array."""
        if not isinstance(self.value, list):
            raise self._expected("an array")
        return [Node(item, f"{self.path}[{i}]") for i, item in enumerate(self.value)]

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self._expected("text")
        return self.value

    def boolean(self) -> bool:
        if not isinstance(self.value, bool):
            raise self._expected("true or false")
        return self.value

    def integer(self, low: int, high: int | None = None) -> int:
        """An integer, also as ``5.0`` or ``"5"``, as protobuf's JSON allows."""
        between = f">= {low}" if high is None else f"in {low}..{high}"
        value = self.value
        if isinstance(value, str) and len(value) <= _LONGEST_TEXT and _NUMBER.fullmatch(value):
            value = float(value) if _FRACTION.search(value) else int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._expected(f"an integer {between}")
        if value < low or (high is not None and value > high):
            raise self._expected(f"an integer {between}")
        return value

    def positive(self, high: float = math.inf) -> float:
        """A number above zero, also as text."""
        value = self.value
        if isinstance(value, str) and len(value) <= _LONGEST_TEXT and _NUMBER.fullmatch(value):
            value = float(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._expected("a number > 0")
        if not 0 < value <= high or not math.isfinite(value):
            limit = "" if high == math.inf else f" and <= {high:g}"
            raise self._expected(f"a number > 0{limit}")
        return float(value)

    def seconds(self) -> float:
        """A protobuf duration, never negative and at most `LONGEST_SECONDS`."""
        try:
            return min(parse_duration(self.value), LONGEST_SECONDS)
        except ValueError as error:
            raise self.fail(f"{error}, got {shown(self.value)}") from None

    def seconds_above_zero(self) -> float:
        value = self.seconds()
        if value <= 0:
            raise self._expected("a duration > 0s")
        return value
