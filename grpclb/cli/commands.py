"""Running one command: its output, its exit code, and the ways it may be cut short."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Iterable, Sequence

from grpclb.cli.arguments import Request, parse
from grpclb.cli.doctor import examine
from grpclb.cli.lookup import asked, look_up
from grpclb.cli.render import Paint, doctor_text, resolve_text
from grpclb.cli.report import SCHEMA, Finding, findings_of, resolution_json, to_json
from grpclb.cli.watch import say, watch

_INTERRUPTED = 130  # as shells have it


def run(argv: Sequence[str] | None) -> int:
    """`grpclb.cli.main`, with everything imported."""
    try:
        request = parse(argv)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 2
    try:
        return _COMMANDS[request.command](request)
    except KeyboardInterrupt:
        return 0 if request.command == "watch" else _INTERRUPTED
    except BrokenPipeError:  # of `watch`, whose reader has seen enough
        _silence()
        return 0


def _doctor(request: Request) -> int:
    report = asyncio.run(examine(request))
    if request.json:
        _print([json.dumps(to_json(report), indent=2)])
    else:
        _print(doctor_text(report, _paint()))
    return 0 if report.ok else 1


def _resolve(request: Request) -> int:
    lookup = asyncio.run(look_up(request.spec, request.timeout))
    whom, failure = asked(request.spec), lookup.failure
    if request.json:
        head = {"schema": SCHEMA, "target": request.target}
        found: list[Finding] = [] if failure is None else [*findings_of([failure])]
        ids = [finding.explanation.id for finding in found]
        body = {**head, **resolution_json(lookup, whom), "findings": ids}
        _print([json.dumps(body, indent=2)])
    else:
        explained = None if failure is None else findings_of([failure])[0]
        _print(resolve_text(lookup, whom, explained, _paint()))
    return 0 if failure is None else 1


def _watch(request: Request) -> int:
    asyncio.run(watch(request, say, _paint()))
    return 0


_COMMANDS = {"doctor": _doctor, "resolve": _resolve, "watch": _watch}


def _print(lines: Iterable[str]) -> None:
    """A reader that has seen enough (``| head``) changes nothing about the exit code."""
    try:
        for line in lines:
            say(line)
    except BrokenPipeError:
        _silence()


def _silence() -> None:
    """Nothing that the interpreter flushes at exit shall meet the broken pipe again."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        descriptor = sys.stdout.fileno()
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, descriptor)
        os.close(devnull)


def _paint() -> Paint:
    """Colours for people at a terminal, unless they said no (no-color.org)."""
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Paint(wanted and sys.stdout.isatty())
