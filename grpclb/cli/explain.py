"""From what was seen to what it means and what to do. Pure; the texts are in `explanations`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from grpclb.cli.explanations import RULES
from grpclb.cli.rules import Level, Rule
from grpclb.cli.seen import Seen

# RFC 9113, section 7.
_HTTP2_ERRORS = (
    "NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT",
    "STREAM_CLOSED", "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR",
    "CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Explanation:
    """`id` is stable, for programs; `meaning` and `advice` are for people and may change."""

    id: str
    level: Level
    meaning: str
    advice: tuple[str, ...]


def explain(seen: Seen) -> Explanation:
    """The first rule of the table that applies; each stage's last rule applies to everything."""
    for rule in RULES:
        if seen.stage in rule.stages and rule.applies(seen):
            return _filled(rule, seen)
    raise AssertionError(f"no rule for {seen.stage}")  # the table ends with one for every stage


def _filled(rule: Rule, seen: Seen) -> Explanation:
    fields = _Fields(seen)
    advice = tuple(text.format_map(fields) for text in rule.advice)
    return Explanation(rule.id, rule.level, rule.meaning.format_map(fields), advice)


class _Fields(Mapping[str, str]):
    """The names that a text of the table may hold in braces."""

    def __init__(self, seen: Seen) -> None:
        certificate = seen.certificate
        self._derived = {
            "names": ", ".join(certificate.names) or "no name" if certificate else "unknown names",
            "issuer": certificate.issuer if certificate else "an unknown issuer",
            "not_after": certificate.not_after if certificate else "an unknown time",
            "not_before": certificate.not_before if certificate else "an unknown time",
            "http_status": _first(r"http2 header with status: (\d+)", seen.details),
            "reset": _reset(seen.details),
            "service_of_method": seen.method.strip("/").rpartition("/")[0],
            "name_of_method": seen.method.rpartition("/")[2],
            "ms": _milliseconds(seen.seconds),
            "deadline_ms": _milliseconds(seen.deadline),
            "connect_ms": _milliseconds(seen.connect_seconds),
            "health_service": repr(seen.service) if seen.service else "the server as a whole",
        }
        self._seen = seen

    def __getitem__(self, name: str) -> str:
        if name in self._derived:
            return self._derived[name]
        value = getattr(self._seen, name)
        return str(value.value if isinstance(value, Enum) else value)

    def __iter__(self) -> Iterator[str]:
        return iter((*self._derived, *Seen.__slots__))

    def __len__(self) -> int:
        return len(self._derived) + len(Seen.__slots__)


def _first(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else "?"


def _reset(details: str) -> str:
    number = _first(r"RST_STREAM with error code (\d+)", details)
    known = number.isdigit() and int(number) < len(_HTTP2_ERRORS)
    return f"{_HTTP2_ERRORS[int(number)]} ({number})" if known else number


def _milliseconds(seconds: float | None) -> str:
    return "?" if seconds is None else f"{seconds * 1000:.3g} ms"
