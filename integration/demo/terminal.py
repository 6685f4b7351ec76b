"""What the demo shows in a terminal: progress while it runs, a table and bars at the end."""

import os
import shutil
import sys
from collections.abc import Sequence
from typing import TextIO

from integration.demo.measure import TITLES, Event, Recording, Summary

_COLORS = (33, 208, 37, 170, 70, 178, 99, 137, 245)  # one for each pod, of the 256-colour palette
_COLUMN = 24
_NEEDED_COLUMNS = 3 * _COLUMN + 4
_BLOCKS = " ▏▎▍▌▋▊▉█"


class Terminal:
    """Live progress: a block redrawn in place on a TTY, a plain line each second elsewhere."""

    def __init__(self, sides: Sequence[str], out: TextIO = sys.stdout) -> None:
        self._sides = sides
        self._out = out
        self._live = out.isatty() and shutil.get_terminal_size().columns >= _NEEDED_COLUMNS
        self._colors = out.isatty() and "NO_COLOR" not in os.environ
        self._drawn = 0
        self._next_line = 0.0

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._erase()
        print(text, file=self._out, flush=True)

    def event(self, event: Event) -> None:
        """Print what was done to the cluster."""
        self.say(self._paint(f"{event.at:5.1f} s  {event.text}", "1"))

    def progress(self, recording: Recording, now: float) -> None:
        """Show the last second, when it is time to."""
        if self._live:
            self._erase()
            lines = self._block(recording, now)
            print("\n".join(lines), file=self._out, flush=True)
            self._drawn = len(lines)
        elif now >= self._next_line:
            self._next_line = now + 1
            print(self._line(recording, now), file=self._out, flush=True)

    def summary(self, summaries: Sequence[Summary]) -> None:
        """Print the bar charts and the table of a finished run."""
        for summary in summaries:
            self.say("\n" + self._paint(f"{TITLES[summary.side]}: calls per pod", "1"))
            widest = max(max(s.calls.values()) for s in summaries)
            for index, (pod, calls) in enumerate(summary.calls.items()):
                line = bar(calls, widest, 40, mark=summary.fair[pod])
                self.say(f"  {pod}  {self._pod(index, line)} {calls:5d}")
        self.say("  (│ marks an even share of the calls made while the pod was in service)\n")
        for row in table(summaries):
            self.say(row)
        for summary in summaries:
            for error, count in list(summary.errors.items())[:3]:
                self.say(f"  {summary.side}: {count} x {error[:110]}")

    def _block(self, recording: Recording, now: float) -> list[str]:
        lines = [
            "",
            "  ".join(self._paint(f"{TITLES[side]:<{_COLUMN}}", "1") for side in self._sides),
        ]
        rates = {side: recording.calls(side, now - 1.25, now - 0.25) for side in self._sides}
        top = max((max(counts.values()) for counts in rates.values() if counts), default=1)
        serving = recording.serving(now)
        for index, pod in enumerate(recording.pods):
            if pod not in serving and not any(counts[pod] for counts in rates.values()):
                continue
            cells = [
                f"{pod} {self._pod(index, bar(rates[side][pod], top, 12))} {rates[side][pod]:3d}/s"
                for side in self._sides
            ]
            lines.append("  ".join(cells))
        failed = [f"failed calls {recording.errors(side).total():4d}" for side in self._sides]
        lines.append("  ".join(f"{text:<{_COLUMN}}" for text in failed))
        return lines

    def _line(self, recording: Recording, now: float) -> str:
        sides = []
        for side in self._sides:
            rates = recording.calls(side, now - 1.25, now - 0.25)
            pods = [pod for pod in recording.pods if pod in recording.serving(now) or rates[pod]]
            counts = " ".join(f"{pod[4:]} {rates[pod]:3d}" for pod in pods)
            sides.append(f"{side}: {counts}  failed {recording.errors(side).total()}")
        return f"{now:5.1f} s  calls/s  " + "  |  ".join(sides)

    def _pod(self, index: int, text: str) -> str:
        return self._paint(text, f"38;5;{_COLORS[index % len(_COLORS)]}")

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colors else text

    def _erase(self) -> None:
        if self._drawn:
            self._out.write(f"\x1b[{self._drawn}F\x1b[J")
            self._drawn = 0


def bar(value: float, top: float, width: int, mark: float | None = None) -> str:
    """A bar of `width` characters, with a stroke where `mark` stands on the same scale."""
    eighths = round(8 * width * value / top) if top else 0
    full, rest = divmod(eighths, 8)
    cells = list(("█" * full + (_BLOCKS[rest] if rest else "")).ljust(width))
    if mark is not None and top:
        cells[min(width - 1, round(width * mark / top))] = "│"
    return "".join(cells)


def table(summaries: Sequence[Summary]) -> list[str]:
    """The figures of both sides as lines."""
    rows = [("", *(TITLES[s.side] for s in summaries))]
    rows += [
        ("calls answered", *(f"{sum(s.calls.values())}" for s in summaries)),
        ("calls failed", *(f"{s.failed}" for s in summaries)),
        ("  after the kill", *(f"{s.failed_by['kill']}" for s in summaries)),
        ("  in the rolling restart", *(f"{s.failed_by['replace']}" for s in summaries)),
        ("busiest / quietest pod, undisturbed", *(spread(s) for s in summaries)),
        ("new pod had its share after", *(to_share(s) for s in summaries)),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        f"  {row[0]:<{widths[0]}}"
        + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
    return [lines[0], "  " + "─" * (len(lines[0]) - 2), *lines[1:]]


def spread(summary: Summary) -> str:
    """How far from even the calls were while nothing happened."""
    idle = sum(1 for calls in summary.steady.values() if not calls)
    if idle:
        return f"{idle} of {len(summary.steady)} pods idle"
    return f"{summary.steady_spread:.2f}"


def to_share(summary: Summary) -> str:
    """Seconds until the new pod had its share, or that it never had."""
    if summary.to_share is None:
        return f"never (in {summary.window:.0f} s)"
    return f"{summary.to_share:.1f} s"
