"""Reports as text for a terminal. Pure."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpclb.cli.lookup import Lookup
from grpclb.cli.probe import Backend
from grpclb.cli.report import Finding, Report
from grpclb.cli.rules import Level

_COLOURS = {"red": "31", "green": "32", "yellow": "33", "bold": "1", "dim": "2"}
_WIDTH = 96
_MOST_NAMED = 8  # backends named in one finding


@dataclass(frozen=True, slots=True)
class Paint:
    """Colours, if the output is a terminal that wants them."""

    on: bool = False

    def __call__(self, text: str, colour: str) -> str:
        return f"\033[{_COLOURS[colour]}m{text}\033[0m" if self.on else text


def doctor_text(report: Report, paint: Paint) -> Iterator[str]:
    """Line by line: the target, its backends, what is wrong with them."""
    yield from _about_target(report)
    if report.backends:
        yield ""
        yield from _table(report.backends, paint)
    for finding in report.findings:
        yield ""
        yield from _finding(finding, paint)
    yield ""
    problems, warnings = report.count(Level.PROBLEM), report.count(Level.WARNING)
    also = f", {_count(warnings, 'warning')}" if warnings else ""
    if problems:
        yield paint(f"{_count(problems, 'problem')}{also}", "red")
    else:
        yield paint(f"No problem found{also}.", "yellow" if warnings else "green")


def _about_target(report: Report) -> Iterator[str]:
    lookup = report.lookup
    yield _fact("target", str(lookup.spec.target))
    if report.asked:
        yield _fact("asked", report.asked)
    yield _fact("resolved", _resolved(lookup))
    yield _fact("config", _config(report))
    channel = report.channel
    if channel is not None:
        ready = f"{channel.ready} of {channel.backends} backends ready"
        yield _fact("channel", f"{channel.state}, {channel.policy}, {ready}")


def _fact(name: str, text: str) -> str:
    return f"{name:<10}{text}"


def _resolved(lookup: Lookup) -> str:
    took = f"in {lookup.seconds * 1000:.3g} ms"
    failure = lookup.failure
    if failure is not None:
        return f"no, after {lookup.seconds * 1000:.3g} ms: {failure.details}"
    note = str(lookup.snapshot["note"]).removeprefix(f"{lookup.spec.target} ")
    count = len(lookup.snapshot["endpoints"])
    return f"{note or _count(count, 'endpoint')} {took}".removeprefix("resolved ")


def _config(report: Report) -> str:
    snapshot = report.lookup.snapshot
    text = json.dumps(snapshot["service_config"])
    if snapshot["service_config_ignored"]:
        text += f"; nothing reads {', '.join(snapshot['service_config_ignored'])}"
    if snapshot["service_config_source"] == "resolver":
        return f"{text} (from the resolver)"
    none = "; TXT records were asked for, there is none" if report.asks_for_txt else ""
    if report.lookup.config_error is not None:
        none = "; the resolver's is wrong, see below"
    if report.lookup.failure is not None:
        none = ""
    return f"{text} (the default{none})"


def _table(backends: Sequence[Backend], paint: Paint) -> Iterator[str]:
    rows = [("backend", "connect", "health", "call")]
    rows += [_row(backend) for backend in backends]
    used = [any(row[column] for row in rows[1:]) for column in range(4)]
    kept = [[cell for cell, show in zip(row, used, strict=True) if show] for row in rows]
    widths = [max(map(len, column)) for column in zip(*kept, strict=True)]
    for number, row in enumerate(kept):
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        if number == 0:
            yield paint(line.rstrip(), "bold")
        else:
            bad = bool(backends[number - 1].seen)
            yield paint(line.rstrip(), "yellow") if bad else line.rstrip()


def _row(backend: Backend) -> tuple[str, str, str, str]:
    seconds = backend.connect_seconds
    connect = "failed" if seconds is None else f"{seconds * 1000:.3g} ms"
    call = backend.call
    text = "" if call is None else f"{call.code} {call.seconds * 1000:.3g} ms"
    if call is not None and call.response is not None:
        more = "+" if call.streaming else ""
        text += f", {len(call.response)}{more} bytes"
    return backend.address.target, connect, backend.health or "", text


def _finding(finding: Finding, paint: Paint) -> Iterator[str]:
    explanation = finding.explanation
    colour = "red" if explanation.level is Level.PROBLEM else "yellow"
    where = list(finding.where[:_MOST_NAMED])
    if len(finding.where) > _MOST_NAMED:
        where.append(f"and {len(finding.where) - _MOST_NAMED} more")
    head = f"{explanation.level.value} [{explanation.id}]"
    yield f"{paint(head, colour)} {', '.join(where)}"
    if finding.saw:
        yield from _wrapped(finding.saw, "  saw: ")
    yield from _wrapped(explanation.meaning, "  ")
    for advice in explanation.advice:
        yield from _wrapped(advice, "  - ")


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=" " * len(indent),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def resolve_text(
    lookup: Lookup, asked: str, found: Sequence[Finding], paint: Paint
) -> Iterator[str]:
    """The addresses, one a line, and below them where they came from."""
    if lookup.failure is not None:
        yield _fact("target", str(lookup.spec.target))
        if asked:
            yield _fact("asked", asked)
        for finding in found:
            yield ""
            yield from _finding(finding, paint)
        return
    for endpoint in lookup.snapshot["endpoints"]:
        yield endpoint_text(endpoint)
    yield paint(_fact("resolved", _resolved(lookup)), "dim")
    if asked:
        yield paint(_fact("asked", asked), "dim")
    if lookup.snapshot["service_config_source"] == "resolver":
        yield paint(_fact("config", json.dumps(lookup.snapshot["service_config"])), "dim")
    if lookup.config_error is not None:
        yield _fact("config", f"wrong, and not used: {lookup.config_error}")
    for finding in found:
        yield from _finding(finding, paint)


def endpoint_text(endpoint: Mapping[str, Any]) -> str:
    """``10.0.0.7:50051 zone=a``; several addresses of one endpoint are joined by a plus."""
    attributes = endpoint["attributes"]
    words = ["+".join(endpoint["addresses"])]
    words += [f"{key}={_value(value)}" for key, value in sorted(attributes.items())]
    return " ".join(words)


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
