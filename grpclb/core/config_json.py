"""Strict reading of JSON configuration: bounded, typed, and every error with its path.

A service config may come from a stranger (a DNS TXT record), so nothing in here recurses
deeper than `MAX_DEPTH`, keeps more than `MAX_BYTES`, or raises anything but ServiceConfigError.
Load-balancing policies may use `Node` too, to read their own part of a config.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from grpclb.core.duration import parse_duration

T = TypeVar("T")

MAX_BYTES = 64 * 1024
MAX_DEPTH = 64
MAX_VALUES = 10_000  # keeps the time for 64 KB of commas and brackets below 50 ms

_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_MARK = re.compile(r"[\[\]{},]")
_FRACTION = re.compile(r"[.eE]")
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_LONGEST_INTEGER = 310  # digits; more do not fit into a 64-bit float anyway
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


class _Repeated(dict[str, Any]):
    """An object whose text had a key twice; reported by `own`, which knows the path."""

    key = ""


def load(raw: object, what: str = "object") -> Any:
    """A copy of our own, in plain dicts and lists, of JSON text or of a Python value.

    `what` is the top-level type to insist on, ``object`` or ``array``.
    """
    if isinstance(raw, str):
        raw = _decode(raw)
    elif what == "object" and not isinstance(raw, Mapping):
        raise ServiceConfigError("$", f"expected a dict or JSON text, got {shown(raw)}")
    value = own(raw)
    if not isinstance(value, dict if what == "object" else list):
        raise ServiceConfigError("$", f"expected a JSON {what}, got {shown(value)}")
    return value


def _decode(text: str) -> Any:
    # Characters first: cheap, and enough to keep the encoding of a huge text from being made.
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise ServiceConfigError("$", f"larger than {MAX_BYTES} bytes")
    _check_shape(text)
    try:
        return json.loads(text, parse_int=_integer, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise ServiceConfigError("$", f"not JSON: {error.msg} at {where}") from None


def _check_shape(text: str) -> None:
    """Before the decoder sees it: its own recursion is bounded by the C stack only."""
    marks = _MARK.findall(_STRING.sub("", text))
    if len(marks) - marks.count("]") - marks.count("}") >= MAX_VALUES:
        raise ServiceConfigError("$", f"more than {MAX_VALUES} values")
    depth = 0
    for mark in marks:
        if mark in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise ServiceConfigError("$", f"nested deeper than {MAX_DEPTH} levels")
        elif mark != ",":
            depth -= 1


def _integer(text: str) -> int | float:
    return int(text) if len(text) <= _LONGEST_INTEGER else math.inf


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    if len(plain) == len(pairs):
        return plain
    repeated = _Repeated(plain)
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            repeated.key = key
            break
        seen.add(key)
    return repeated


def own(value: object) -> Any:
    """A deep copy that holds JSON types only. Bounded in depth and size, so cycles end too."""
    return _Copy().value(value, None, 0)


# The way to a value: the container's own way, then the key or index. Written out as a path only
# when there is a mistake, as a document may have tens of thousands of values.
_Way: TypeAlias = "tuple[_Way, str | int] | None"


def _path(way: _Way) -> str:
    if way is None:
        return "$"
    parent, step = way
    return join(_path(parent), step) if isinstance(step, str) else f"{_path(parent)}[{step}]"


class _Copy:
    """One walk over a value, with what is left of its size budget."""

    def __init__(self) -> None:
        self._left = MAX_BYTES
        self._values = MAX_VALUES

    def value(self, value: object, way: _Way, depth: int) -> Any:
        self._values -= 1
        if self._values < 0:
            raise ServiceConfigError("$", f"more than {MAX_VALUES} values")
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return self._text(value, way)
        if isinstance(value, int | float):
            return _finite(value, way)
        if depth >= MAX_DEPTH:
            raise ServiceConfigError("$", f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(value, dict | Mapping):  # dict first: asking an ABC is slow
            return self._object(value, way, depth)
        if isinstance(value, list | tuple):
            return [self.value(v, (way, i), depth + 1) for i, v in enumerate(value)]
        problem = f"JSON has no {type(value).__name__} ({brief(value)})"
        raise ServiceConfigError(_path(way), problem)

    def _object(self, value: Mapping[Any, Any], way: _Way, depth: int) -> dict[str, Any]:
        if isinstance(value, _Repeated):
            raise ServiceConfigError(_path((way, value.key)), "this key is given twice")
        copy: dict[str, Any] = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise ServiceConfigError(_path(way), f"keys are text in JSON, got {shown(key)}")
            here = (way, key)
            copy[self._text(key, here)] = self.value(item, here, depth + 1)
        return copy

    def _text(self, text: str, way: _Way) -> str:
        self._pay(len(text))
        if not text.isascii():
            try:
                self._pay(len(text.encode()) - len(text))
            except UnicodeEncodeError:
                problem = "not Unicode: half a surrogate pair"
                raise ServiceConfigError(_path(way), problem) from None
        return str(text)

    def _pay(self, cost: int) -> None:
        self._left -= cost
        if self._left < 0:
            raise ServiceConfigError("$", f"larger than {MAX_BYTES} bytes")


def _finite(value: float, way: _Way) -> float:
    try:
        if math.isfinite(value):
            return int(value) if isinstance(value, int) else float(value)
    except OverflowError:
        pass
    raise ServiceConfigError(_path(way), "expected a finite number within the range of a double")


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
    """A value in a document, with the path that errors name. The value is JSON, from `own`."""

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
        """A protobuf duration, never negative."""
        try:
            return parse_duration(self.value)
        except ValueError as error:
            raise self.fail(f"{error}, got {shown(self.value)}") from None

    def seconds_above_zero(self) -> float:
        value = self.seconds()
        if value <= 0:
            raise self._expected("a duration > 0s")
        return value
