"""JSON text, or a value from Python code, as a bounded plain value of our own.

A service config may come from a stranger (a DNS TXT record), so nothing in here recurses deeper
than `MAX_DEPTH`, keeps more than `MAX_BYTES`, or raises anything but ServiceConfigError.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from grpclb.core.config_node import ServiceConfigError, brief, join, shown

MAX_BYTES = 64 * 1024
MAX_DEPTH = 64
MAX_VALUES = 10_000  # keeps the time for 64 KB of commas and brackets below 50 ms

_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_MARK = re.compile(r"[\[\]{},]")
_NUMBERS = (int, float)
_LISTS = (list, tuple)
_OBJECTS = (dict, Mapping)  # dict first: asking an abstract class is slow
_LONGEST_INTEGER = 310  # digits; more do not fit into a 64-bit float anyway


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
        # The common types first: a document of 64 KB has to be read within 50 ms.
        if isinstance(value, str):
            return self._text(value, way)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, _NUMBERS):
            return _finite(value, way)
        if depth >= MAX_DEPTH:
            raise ServiceConfigError("$", f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(value, _LISTS):
            return [self.value(v, (way, i), depth + 1) for i, v in enumerate(value)]
        if isinstance(value, _OBJECTS):
            return self._object(value, way, depth)
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
