"""Markdown, as all groups write it."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.rounds import Result

PLAIN, PLAIN_AGAIN, BALANCED = "plain grpcio", "plain grpcio again", "grpclb"


def heading(text: str, note: str = "") -> None:
    print(f"\n## {text}\n")
    if note:
        print(f"{note}\n")


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    print("| " + " | ".join(columns) + " |")
    print("| " + " | ".join("---" for _ in columns) + " |")
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |", flush=True)


RATIO_COLUMNS = (
    "what",
    "goal",
    "time, ratio (quartiles)",
    "CPU, ratio (quartiles)",
    "noise: plain / plain, time and CPU",
    "us each: plain, grpclb",
)


def ratio_row(what: str, goal: str, results: dict[str, Result]) -> tuple[str, ...]:
    """A line under RATIO_COLUMNS."""
    ours, plain, again = results[BALANCED], results[PLAIN], results[PLAIN_AGAIN]
    return (
        what,
        goal,
        f"**{ours.wall}**",
        str(ours.cpu),
        f"{again.wall}; {again.cpu}",
        f"{plain.wall_us:.0f}, {ours.wall_us:.0f}",
    )
