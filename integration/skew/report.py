"""report.md, report.json and the picture of a finished run."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from integration.report.picture import Figure, Panel, Picture, draw
from integration.report.recording import Recording
from integration.skew import figures
from integration.skew.client import WORKERS
from integration.skew.cluster import TARGETS
from integration.skew.figures import Claim, Side, busiest

_HOW = {
    "a": "one connection, which sticks to one pod",
    "b": "balances over what DNS said when it connected",
    "c": "balances every call; asks DNS again and again",
    "d": "balances every call; watches EndpointSlices",
}
_PHASES = {
    "steady": "3 pods, nothing happens",
    "scale": "3 → 6 pods, under load",
    "roll": "rolling update, under load",
    "delete": "a pod deleted with grace 0",
}


def write(
    directory: Path,
    recording: Recording,
    sides: Sequence[Side],
    claims: Sequence[Claim],
    facts: Mapping[str, str],
) -> list[Path]:
    """Write the three files; their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    texts = {
        "report.md": markdown(sides, claims, facts),
        "report.json": as_json(recording, sides, claims, facts),
        "report.svg": picture(recording, sides, facts),
    }
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")
    return [directory / name for name in texts]


def markdown(sides: Sequence[Side], claims: Sequence[Claim], facts: Mapping[str, str]) -> str:
    """The report for people."""
    rows: list[tuple[str, list[str]]] = [
        ("calls by pod, of 3", [_counts(side.three) for side in sides]),
        ("calls by pod, of 6", [_counts(side.six) for side in sides]),
        ("from Ready to a new pod's first call", [_each(side.to_call) for side in sides]),
        ("from Ready to its share of the calls", [_each(side.to_share) for side in sides]),
        *(
            (f"failed calls: {text}", [f"{side.failed[phase]}" for side in sides])
            for phase, text in _PHASES.items()
        ),
        ("answered calls", [f"{side.answered}" for side in sides]),
    ]
    lines = [
        "# The same calls to the same pods, four ways",
        "",
        "![calls over time and per pod](report.svg)",
        "",
        _row("", [side.title for side in sides]),
        _row("---", ["---:"] * len(sides)),
        *(_row(label, cells) for label, cells in rows),
        "",
        "## What had to be seen",
        "",
        *(f"- {'✓' if c.held else '✗ **NOT SEEN**'} {c.text}: {c.seen}" for c in claims),
        "",
        "## How",
        "",
        *(f"- {side.title}: `{TARGETS[side.side]}`" for side in sides),
        *(f"- {name}: {value}" for name, value in facts.items()),
        "",
    ]
    errors = [
        f"- {side.title}: {count} x `{error}`"
        for side in sides
        for error, count in list(side.errors.items())[:5]
    ]
    if errors:
        lines += ["## Errors", "", *errors, ""]
    return "\n".join(lines)


def as_json(
    recording: Recording, sides: Sequence[Side], claims: Sequence[Claim], facts: Mapping[str, str]
) -> str:
    """The report for programs."""
    document = {
        "facts": dict(facts),
        "sides": {side.side: figures.as_json(side) for side in sides},
        "claims": [{"text": c.text, "held": c.held, "seen": c.seen} for c in claims],
        "events": [{"at": e.at, "kind": e.kind, "text": e.text} for e in recording.events],
        "pods": {
            pod: {"ready": since, "left": until}
            for pod, (since, until) in recording.in_service.items()
        },
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def picture(recording: Recording, sides: Sequence[Side], facts: Mapping[str, str]) -> str:
    """The picture."""
    shares = "; ".join(f"{side.title}: {busiest(side.six):.0%}" for side in sides)
    words = Picture(
        title="The same calls to the same pods, four ways",
        subtitle="3 pods are scaled to 6 (+), then all are replaced by a rolling update (↻), "
        "then one is deleted with no grace (✕).",
        note=f"{facts['cluster']}; {facts['calls']}.",
        signs={"scale": "+", "roll": "↻", "delete": "✕"},
        bars="calls per pod before the update; stroke: even",
        columns=2,
        alternative=f"The busiest of 6 pods had of all calls: {shares}",
    )
    return draw(recording, [_panel(side) for side in sides], words)


def print_summary(sides: Sequence[Side], claims: Sequence[Claim]) -> None:
    """The claims, for the terminal."""
    print()
    for side in sides:
        failed = ", ".join(f"{phase} {count}" for phase, count in side.failed.items())
        print(f"  {side.title:<28} 3 pods: {_counts(side.three)}   6 pods: {_counts(side.six)}")
        print(f"  {'':<28} failed: {failed}")
    print()
    for claim in claims:
        print(f"  {'✓' if claim.held else '✗ NOT SEEN:'} {claim.text}: {claim.seen}")
    sys.stdout.flush()


def _panel(side: Side) -> Panel:
    share, fair = busiest(side.six), 1 / len(side.six)
    late = side.slowest(side.to_share)
    failed = " / ".join(f"{side.failed[phase]}" for phase in ("scale", "roll", "delete"))
    lost = side.failed["scale"] + side.failed["roll"] > 0 or side.failed["delete"] > WORKERS
    rows = [
        Figure("busiest of 6 pods had", f"{share:.1%} of calls", share > fair * 1.05),
        Figure("a new pod had its share after", _seconds(side, side.to_share), late is None),
        Figure("failed: scaling / update / delete", failed, lost),
    ]
    calls, even = side.before_roll, side.fair_before_roll
    return Panel(side.side, side.title, _HOW[side.side], rows, calls, even)


def _counts(calls: Mapping[str, int]) -> str:
    return " / ".join(f"{count}" for count in calls.values())


def _seconds(side: Side, seconds: Mapping[str, float | None]) -> str:
    slowest = side.slowest(seconds)
    return "never" if slowest is None else f"{slowest:.1f} s"


def _each(seconds: Mapping[str, float | None]) -> str:
    if set(seconds.values()) == {None}:
        return "never"
    return " / ".join("never" if s is None else f"{s:.1f}" for s in seconds.values()) + " s"


def _row(label: str, cells: Sequence[str]) -> str:
    return f"| {label} | " + " | ".join(cells) + " |"
