"""Running one command: its output, its exit code, and the ways it may be cut short."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterable, Sequence

from grpclb.cli.arguments import Request, parse
from grpclb.cli.doctor import examine, skipped
from grpclb.cli.lookup import asked, look_up
from grpclb.cli.output import is_terminal, say
from grpclb.cli.render import Paint, doctor_text, resolve_text
from grpclb.cli.report import SCHEMA, findings_of, resolution_json, to_json
from grpclb.cli.rules import Level
from grpclb.cli.watch import watch

_INTERRUPTED = 130  # as shells have it


def run(argv: Sequence[str] | None) -> int:
    """`grpclb.cli.main`, with everything imported."""
    try:
        request = parse(argv)
        return _COMMANDS[request.command](request)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 2
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:  # of `watch`, whose reader has seen enough
        return 0


def _doctor(request: Request) -> int:
    report = asyncio.run(examine(request))
    if request.json:
        _print([json.dumps(to_json(report), indent=2)])
    else:
        _print(doctor_text(report, Paint(is_terminal())))
    return 0 if report.ok else 1


def _resolve(request: Request) -> int:
    lookup = asyncio.run(look_up(request.spec, request.timeout))
    whom = asked(request.spec)
    found = findings_of([*([lookup.failure] if lookup.failure else []), *skipped(lookup)])
    if request.json:
        head = {"schema": SCHEMA, "target": request.target}
        ids = [finding.explanation.id for finding in found]
        body = {**head, **resolution_json(lookup, whom), "findings": ids}
        _print([json.dumps(body, indent=2)])
    else:
        _print(resolve_text(lookup, whom, found, Paint(is_terminal())))
    return 1 if any(finding.explanation.level is Level.PROBLEM for finding in found) else 0


def _watch(request: Request) -> int:
    with contextlib.suppress(KeyboardInterrupt):  # where signals cannot be handled otherwise
        asyncio.run(watch(request, say, Paint(is_terminal())))
    return 0


_COMMANDS = {"doctor": _doctor, "resolve": _resolve, "watch": _watch}


def _print(lines: Iterable[str]) -> None:
    """A reader that has seen enough (``| head``) changes nothing about the exit code."""
    with contextlib.suppress(BrokenPipeError):
        for line in lines:
            say(line)
