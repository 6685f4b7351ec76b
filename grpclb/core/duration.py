"""Durations as protobuf's JSON mapping writes them: ``"0.5s"``."""

from __future__ import annotations

import re

# google.protobuf.Duration: at most ten thousand years, nanoseconds at the finest.
MAX_SECONDS = 315_576_000_000

_PATTERN = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,9})?s")


def parse_duration(text: object) -> float:
    """The seconds that `text` means, never negative, rounded once to the nearest float.

    Raises ValueError for everything but digits, an optional point with one to nine digits, and
    ``s``. A number in place of the text is a ValueError too, since 5 could mean any unit.
    """
    if not isinstance(text, str) or not _PATTERN.fullmatch(text):
        raise ValueError('expected a duration such as "0.5s"')
    seconds = float(text[:-1])
    if seconds > MAX_SECONDS:
        raise ValueError(f'expected a duration of at most "{MAX_SECONDS}s"')
    return seconds
