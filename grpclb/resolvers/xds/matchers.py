"""Does a request match? Paths, headers and the fraction of a route (A28, A63). Pure; any thread."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias, assert_never

from grpclb.resolvers.xds.regex import Regex

if TYPE_CHECKING:
    from random import Random

MILLION = 1_000_000

# What C-core's number reader takes: spaces around, a sign, decimal digits.
_INTEGER = re.compile(r"[ \t\n\v\f\r]*[+-]?[0-9]{1,40}[ \t\n\v\f\r]*")
_UPPER = {c: c + 32 for c in range(ord("A"), ord("Z") + 1)}


def _lower(text: str) -> str:
    """ASCII letters only, as the xDS API means it."""
    return text.translate(_UPPER)


class TextRule(Enum):
    EXACT = "exact"
    PREFIX = "prefix"
    SUFFIX = "suffix"
    CONTAINS = "contains"


@dataclass(frozen=True, slots=True)
class TextMatcher:
    """`text` is in lower case if case does not count."""

    rule: TextRule
    text: str
    ignore_case: bool = False

    @classmethod
    def of(cls, rule: TextRule, text: str, ignore_case: bool = False) -> TextMatcher:
        return cls(rule, _lower(text) if ignore_case else text, ignore_case)

    def matches(self, value: str) -> bool:
        if self.ignore_case:
            value = _lower(value)
        match self.rule:
            case TextRule.EXACT:
                return value == self.text
            case TextRule.PREFIX:
                return value.startswith(self.text)
            case TextRule.SUFFIX:
                return value.endswith(self.text)
            case TextRule.CONTAINS:
                return self.text in value
        assert_never(self.rule)


@dataclass(frozen=True, slots=True)
class RegexMatcher:
    """The whole value matches; case counts always (A63)."""

    regex: Regex

    def matches(self, value: str) -> bool:
        return self.regex.fullmatch(value)


StringMatcher: TypeAlias = TextMatcher | RegexMatcher


@dataclass(frozen=True, slots=True)
class RangeMatcher:
    """A whole number in [start, end)."""

    start: int
    end: int

    def matches(self, value: str) -> bool:
        return bool(_INTEGER.fullmatch(value)) and self.start <= int(value) < self.end


@dataclass(frozen=True, slots=True)
class PresentMatcher:
    present: bool


@dataclass(frozen=True, slots=True)
class HeaderMatcher:
    """`name` is in lower case. Without the header only `PresentMatcher` can match."""

    name: str
    rule: StringMatcher | RangeMatcher | PresentMatcher
    invert: bool = False

    def matches(self, headers: Mapping[str, str]) -> bool:
        value = header_value(headers, self.name)
        match self.rule:
            case PresentMatcher(present):
                return ((value is not None) == present) != self.invert
            case rule:
                return value is not None and rule.matches(value) != self.invert


def header_value(headers: Mapping[str, str], name: str) -> str | None:
    """What routing sees of a header: binary ones never, and one content type (A28)."""
    if name.endswith("-bin"):
        return None
    return "application/grpc" if name == "content-type" else headers.get(name)


@dataclass(frozen=True, slots=True)
class RouteMatcher:
    """All of its rules have to match. `per_million` None is every request."""

    path: StringMatcher
    headers: tuple[HeaderMatcher, ...] = ()
    per_million: int | None = None

    def matches(self, path: str, headers: Mapping[str, str], random: Random) -> bool:
        """`headers` by lower-case name, several values joined by commas.

        Asks `random` only if everything else matches.
        """
        return self.path.matches(path) and self.matches_beside_path(headers, random)

    def matches_beside_path(self, headers: Mapping[str, str], random: Random) -> bool:
        """As `matches` of a path that matches."""
        for header in self.headers:
            if not header.matches(headers):
                return False
        return self.per_million is None or random.randrange(MILLION) < self.per_million

    @property
    def takes_every_request(self) -> bool:
        """Nothing but the path decides."""
        return not self.headers and self.per_million is None

    def exact_headers(self) -> Iterator[tuple[str, str]]:
        """Headers, and the only values of them with which this can match."""
        for header in self.headers:
            match header:
                case HeaderMatcher(
                    name, TextMatcher(TextRule.EXACT, value, ignore_case=False), invert=False
                ):
                    yield name, value
