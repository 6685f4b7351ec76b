"""The shape of one row in the table of explanations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from grpclb.cli.seen import Seen, Stage


class Level(Enum):
    """A problem makes the exit code 1; a warning does not."""

    PROBLEM = "problem"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Rule:
    """If `applies`, then `meaning` and `advice`, in which {names} are fields of what was seen."""

    id: str
    stages: tuple[Stage, ...]
    applies: Callable[[Seen], bool]
    meaning: str
    advice: tuple[str, ...]
    level: Level = Level.PROBLEM


def says(*parts: str) -> Callable[[Seen], bool]:
    """True for details that hold any of `parts`, in any case."""
    lowered = tuple(part.lower() for part in parts)
    return lambda seen: any(part in seen.details.lower() for part in lowered)


def code(*names: str) -> Callable[[Seen], bool]:
    """True for any of these status codes."""
    return lambda seen: seen.code in names


def both(*conditions: Callable[[Seen], bool]) -> Callable[[Seen], bool]:
    """True if all conditions are."""
    return lambda seen: all(condition(seen) for condition in conditions)


def always(seen: Seen) -> bool:
    """The last rule of a stage."""
    del seen
    return True
