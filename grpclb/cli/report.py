"""What the doctor found, and its JSON form (stable: docs/doctor.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import grpclb
from grpclb.cli.explain import Explanation, explain
from grpclb.cli.lookup import Lookup
from grpclb.cli.probe import Backend, Call
from grpclb.cli.rules import Level
from grpclb.cli.seen import Seen

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Finding:
    """One explanation, and the backends (or the target) that it is about. `saw` is raw text."""

    explanation: Explanation
    where: tuple[str, ...]
    saw: str = ""


@dataclass(frozen=True, slots=True)
class ChannelView:
    """A grpclb channel over the same addresses, after it had time to connect."""

    state: str
    policy: str
    ready: int
    backends: int


@dataclass(frozen=True, slots=True)
class Report:
    """Everything; `ok` is false when there is a problem (not for a warning)."""

    lookup: Lookup
    asked: str
    asks_for_txt: bool
    channel: ChannelView | None
    backends: tuple[Backend, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return not self.count(Level.PROBLEM)

    def count(self, level: Level) -> int:
        return sum(finding.explanation.level is level for finding in self.findings)


def findings_of(seen: Iterable[Seen]) -> tuple[Finding, ...]:
    """Explained, and those that say the same of several backends joined.

    Times differ between backends; the first one's stand in the text.
    """
    found: dict[tuple[object, ...], Finding] = {}
    for item in seen:
        explanation = explain(item)
        where, saw = item.address or item.target, item.status or said(item)
        names = item.certificate and item.certificate.names
        key = (explanation.id, saw, names, item.method, item.service)
        before = found.get(key)
        if before is None:
            found[key] = Finding(explanation, (where,), saw)
        else:
            found[key] = replace(before, where=(*before.where, where))
    return tuple(found.values())


def said(seen: Seen) -> str:
    """The error in the words of gRPC or of the resolver, without what differs by backend."""
    text = seen.details.replace(seen.address, "ADDRESS") if seen.address else seen.details
    if seen.method:
        return f"{seen.code}: {text}" if text else seen.code
    return text


def resolution_json(lookup: Lookup, asked: str) -> dict[str, Any]:
    """The part about addresses, which `resolve --json` gives, too."""
    failure, snapshot = lookup.failure, lookup.snapshot
    return {
        "ok": failure is None,
        "seconds": round(lookup.seconds, 6),
        "asked": asked or None,
        "note": snapshot["note"],
        "error": None if failure is None else f"{failure.code}: {failure.details}",
        "endpoints": snapshot["endpoints"],
        "service_config": snapshot["service_config"],
        "service_config_source": snapshot["service_config_source"],
        "service_config_error": lookup.config_error,
        "skipped": lookup.skipped,
    }


def to_json(report: Report) -> dict[str, Any]:
    """The whole report, JSON-ready."""
    channel = report.channel
    return {
        "schema": SCHEMA,
        "grpclb": grpclb.__version__,
        "target": str(report.lookup.spec.target),
        "ok": report.ok,
        "resolution": resolution_json(report.lookup, report.asked),
        "channel": None if channel is None else asdict(channel),
        "backends": [_backend(backend) for backend in report.backends],
        "findings": [_finding(finding) for finding in report.findings],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    explanation = finding.explanation
    return {
        "id": explanation.id,
        "level": explanation.level.value,
        "where": list(finding.where),
        "saw": finding.saw,
        "meaning": explanation.meaning,
        "advice": list(explanation.advice),
    }


def _backend(backend: Backend) -> dict[str, Any]:
    certificate = backend.certificate
    asked = backend.health_service is not None
    return {
        "address": backend.address.target,
        "connected": backend.connected,
        "connect_seconds": _rounded(backend.connect_seconds),
        "error": backend.error,
        "certificate": None if certificate is None else asdict(certificate),
        "health": {"service": backend.health_service, "status": backend.health} if asked else None,
        "call": None if backend.call is None else _call(backend.call),
    }


def _call(call: Call) -> Mapping[str, Any]:
    return {
        "method": call.method,
        "code": call.code,
        "details": call.details,
        "seconds": _rounded(call.seconds),
        "response_bytes": None if call.response is None else len(call.response),
        "streaming": call.streaming,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
