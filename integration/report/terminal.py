"""Progress in a terminal while a comparison runs, and bars for its end."""

import os
import shutil
import sys
from collections.abc import Mapping
from typing import TextIO

from integration.report.recording import Event, Recording

# One for each pod, of the 256-colour palette; the picture's colours, as near as it gets.
_COLORS = (33, 208, 37, 170, 70, 178, 99, 137, 245)
_COLUMN = 24
_BLOCKS = " ▏▎▍▌▋▊▉█"


class Terminal:
    """Live progress: a block redrawn in place on a TTY, a plain line each second elsewhere.

    `titles` are the sides in their order.
    """

    def __init__(self, titles: Mapping[str, str], out: TextIO = sys.stdout) -> None:
        self._titles = titles
        self._out = out
        columns = (_COLUMN + 2) * len(titles)
        self._live = out.isatty() and shutil.get_terminal_size().columns >= columns
        self._colors = out.isatty() and "NO_COLOR" not in os.environ
        self._drawn = 0
        self._next_line = 0.0

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._erase()
        print(text, file=self._out, flush=True)

    def event(self, event: Event) -> None:
        """Print what was done to the cluster."""
        self.say(self.bold(f"{event.at:5.1f} s  {event.text}"))

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

    def bold(self, text: str) -> str:
        """The text, in bold where that can be shown."""
        return self._paint(text, "1")

    def in_color(self, index: int, text: str) -> str:
        """The text in the colour of the pod that came as number `index`."""
        return self._paint(text, f"38;5;{_COLORS[index % len(_COLORS)]}")

    def _block(self, recording: Recording, now: float) -> list[str]:
        lines = ["", "  ".join(self.bold(f"{title:<{_COLUMN}}") for title in self._titles.values())]
        rates = {side: recording.calls(side, now - 1.25, now - 0.25) for side in self._titles}
        top = max((max(counts.values()) for counts in rates.values() if counts), default=1)
        serving = recording.serving(now)
        for index, pod in enumerate(recording.pods):
            if pod not in serving and not any(counts[pod] for counts in rates.values()):
                continue
            cells = [
                f"{short_name(pod):>5} {self.in_color(index, bar(counts[pod], top, 12))}"
                f" {counts[pod]:3d}/s"
                for counts in rates.values()
            ]
            lines.append("  ".join(cells))
        failed = [f"failed calls {recording.errors(side).total():4d}" for side in self._titles]
        lines.append("  ".join(f"{text:<{_COLUMN}}" for text in failed))
        return lines

    def _line(self, recording: Recording, now: float) -> str:
        rates = {side: recording.calls(side, now - 1.25, now - 0.25) for side in self._titles}
        serving = recording.serving(now)
        pods = [
            pod
            for pod in recording.pods
            if pod in serving or any(counts[pod] for counts in rates.values())
        ]
        sides = [
            f"{side}: {' '.join(f'{counts[pod]:3d}' for pod in pods)}"
            f"  failed {recording.errors(side).total()}"
            for side, counts in rates.items()
        ]
        names = " ".join(map(short_name, pods))
        return f"{now:5.1f} s  calls/s on {names}:  " + "  |  ".join(sides)

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colors else text

    def _erase(self) -> None:
        if self._drawn:
            self._out.write(f"\x1b[{self._drawn}F\x1b[J")
            self._drawn = 0


def short_name(pod: str) -> str:
    """What tells a pod from the others of its kind: all after the last hyphen."""
    return pod.rpartition("-")[2]


def bar(value: float, top: float, width: int, mark: float | None = None) -> str:
    """A bar of `width` characters, with a stroke where `mark` stands on the same scale."""
    eighths = round(8 * width * value / top) if top else 0
    full, rest = divmod(eighths, 8)
    cells = list(("█" * full + (_BLOCKS[rest] if rest else "")).ljust(width))
    if mark is not None and top:
        cells[min(width - 1, round(width * mark / top))] = "│"
    return "".join(cells)
