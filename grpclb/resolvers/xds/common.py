"""Reading what several kinds of resources hold: durations, percentages, extensions, structs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from grpclb.core.duration import MAX_SECONDS
from grpclb.resolvers.xds.errors import Problems
from grpclb.resolvers.xds.matchers import MILLION, RegexMatcher
from grpclb.resolvers.xds.messages import TYPED_STRUCTS, decode, type_name
from grpclb.resolvers.xds.regex import compile_regex
from grpclb.resolvers.xds.regex_parser import RegexError

_MAX_DEPTH = 64
_PARTS = {0: 10_000, 1: 100, 2: 1}  # FractionalPercent.DenominatorType -> per million


def nanoseconds(duration: Any, problems: Problems) -> int:
    """A Duration in nanoseconds; 0 with a problem if it is negative or out of range."""
    bad = len(problems)
    if not 0 <= duration.seconds <= MAX_SECONDS:
        problems.add(f"{duration.seconds} is not in [0, {MAX_SECONDS}]", "seconds")
    if not 0 <= duration.nanos < 1_000_000_000:
        problems.add(f"{duration.nanos} is not in [0, 999999999]", "nanos")
    if len(problems) > bad:
        return 0
    return int(duration.seconds) * 1_000_000_000 + int(duration.nanos)


def seconds(duration: Any, problems: Problems) -> float:
    """A Duration in seconds, rounded once."""
    return nanoseconds(duration, problems) / 1_000_000_000


def per_million(percent: Any, problems: Problems) -> int:
    """A FractionalPercent as parts of a million, at most all of them."""
    parts = _PARTS.get(percent.denominator)
    if parts is None:
        problems.add(f"unknown denominator {percent.denominator}", "denominator")
        return 0
    return min(int(percent.numerator) * parts, MILLION)


def regex(pattern: str, problems: Problems) -> RegexMatcher | None:
    try:
        return RegexMatcher(compile_regex(pattern))
    except RegexError as error:
        problems.add(f"regex {pattern[:80]!r}: {error}")
        return None


def config_source(parent: Any, field: str, problems: Problems) -> None:
    """Only this very stream will do."""
    with problems.at(field):
        if not parent.HasField(field):
            problems.add("not set")
        elif getattr(parent, field).WhichOneof("config_source_specifier") is None:
            problems.add("is neither ads nor self")


@dataclass(frozen=True, slots=True)
class Extension:
    """A typed config: `type` without its prefix, and the message's bytes, or a struct as JSON."""

    type: str
    data: bytes | dict[str, Any]


def extension(parent: Any, field: str, problems: Problems) -> Extension | None:
    """The Any in `field`, out of its TypedStruct if it is in one."""
    with problems.at(field):
        if not parent.HasField(field):
            problems.add("not set")
            return None
        packed = getattr(parent, field)
        name = type_name(packed.type_url)
        if not name:
            problems.add(f"invalid type URL {packed.type_url[:80]!r}", "type_url")
            return None
        if name not in TYPED_STRUCTS:
            return Extension(name, packed.value)
        struct = decode(name, packed.value)
        if struct is None:
            problems.add(f"is no {name}")
            return None
        inner = type_name(struct.type_url)
        if not inner:
            problems.add(f"invalid type URL {struct.type_url[:80]!r}", "value.type_url")
            return None
        try:
            return Extension(inner, struct_json(struct.value))
        except ValueError as error:
            problems.add(str(error), "value.value")
            return None


def struct_json(struct: Any, depth: int = 0) -> dict[str, Any]:
    """A google.protobuf.Struct as plain JSON; a whole number as an int. Raises ValueError."""
    return {key: _value_json(value, depth + 1) for key, value in struct.fields.items()}


def _value_json(value: Any, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise ValueError(f"nested deeper than {_MAX_DEPTH}")
    match value.WhichOneof("kind"):
        case "struct_value":
            return struct_json(value.struct_value, depth)
        case "list_value":
            return [_value_json(item, depth + 1) for item in value.list_value.values]
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
    return None


def fill_struct(struct: Any, values: Any) -> None:
    """Write a JSON object into a google.protobuf.Struct."""
    for key, value in values.items():
        _fill_value(struct.fields[key], value)


def _fill_value(target: Any, value: Any) -> None:
    match value:
        case None:
            target.null_value = 0
        case bool():
            target.bool_value = value
        case int() | float():
            target.number_value = value
        case str():
            target.string_value = value
        case dict():
            target.struct_value.SetInParent()
            fill_struct(target.struct_value, value)
        case list():
            target.list_value.SetInParent()
            for item in value:
                _fill_value(target.list_value.values.add(), item)
