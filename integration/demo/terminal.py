"""What the demo prints at the end: bars for each side, and a table."""

from collections.abc import Sequence

from integration.demo.measure import TITLES, Summary
from integration.report.terminal import Terminal, bar


def print_summary(terminal: Terminal, summaries: Sequence[Summary]) -> None:
    """Print the bar charts and the table of a finished run."""
    for summary in summaries:
        terminal.say("\n" + terminal.bold(f"{TITLES[summary.side]}: calls per pod"))
        widest = max(max(s.calls.values()) for s in summaries)
        for index, (pod, calls) in enumerate(summary.calls.items()):
            line = bar(calls, widest, 40, mark=summary.fair[pod])
            terminal.say(f"  {pod}  {terminal.in_color(index, line)} {calls:5d}")
    terminal.say("  (│ marks an even share of the calls made while the pod was in service)\n")
    for row in table(summaries):
        terminal.say(row)
    for summary in summaries:
        for error, count in list(summary.errors.items())[:3]:
            terminal.say(f"  {summary.side}: {count} x {error[:110]}")


def table(summaries: Sequence[Summary]) -> list[str]:
    """The figures of all sides as lines."""
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
