"""The demo's picture: its three sides as panels."""

from collections.abc import Sequence

from integration.demo.measure import TITLES, Summary
from integration.demo.terminal import spread, to_share
from integration.report.picture import Figure, Panel, Picture, draw
from integration.report.recording import Recording

_HOW = {
    "plain": "a connection sticks to the pod it was given",
    "robin": "balances over what DNS said when it connected",
    "grpclb": "balances every call over every live pod",
}
_SUBTITLE = (
    "A pod is added (+), one is killed (✕), then each is replaced by a new one (↻) and stopped (■)."
)


def draw_demo(recording: Recording, summaries: Sequence[Summary], note: str) -> str:
    """The picture of a finished run; `note` stands below it."""
    failed = "; ".join(f"{TITLES[s.side]}: {s.failed}" for s in summaries)
    picture = Picture(
        title="The same calls to the same pods, three ways",
        subtitle=_SUBTITLE,
        note=f"{note}  * before the first event",
        signs={"add": "+", "kill": "✕", "replace": "↻", "stop": "■"},
        alternative=f"Failed calls: {failed}",
    )
    return draw(recording, [_panel(summary) for summary in summaries], picture)


def _panel(summary: Summary) -> Panel:
    uneven = summary.steady_spread > 1.5
    figures = [
        Figure("calls failed", f"{summary.failed}", summary.failed > 10),
        Figure("new pod had its share after", to_share(summary), summary.to_share is None),
        Figure("busiest / quietest pod*", spread(summary), uneven),
    ]
    title, how = TITLES[summary.side], _HOW[summary.side]
    return Panel(summary.side, title, how, figures, summary.calls, summary.fair)
