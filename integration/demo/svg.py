"""The demo's picture: a panel for each side, with figures, calls over time and calls per pod.

Written by hand as SVG, so that it needs no plotting package; readable on light and dark pages. The
same recording always gives the same bytes.
"""

from collections.abc import Iterator, Mapping, Sequence
from xml.sax.saxutils import escape

from integration.demo.client import TICK
from integration.demo.measure import TITLES, Recording, Summary
from integration.demo.terminal import spread, to_share

_PANEL = 330
_GAP = 20
_MARGIN = 30
_TOP = 104
_PAD = 18
_PLOT_HEIGHT = 140
_ROW = 22
_BIN = 0.5  # seconds
_COLORS = (
    *("#4e79a7", "#f28e2b", "#5fb0a7", "#b07aa1", "#6aa84f", "#d9b13b", "#a5795c", "#7d8b99"),
    "#e08cb4",
)
_FAILED = "#e5484d"
_HOW = {
    "plain": "a connection sticks to the pod it was given",
    "robin": "balances over what DNS said when it connected",
    "grpclb": "balances every call over every live pod",
}
_SUBTITLE = (
    "A pod is added (+), one is killed (✕), then each is replaced by a new one (↻) and stopped (■)."
)
_SIGNS = {"add": "+", "kill": "✕", "replace": "↻", "stop": "■"}
_STYLE = """
text { font-family: system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif;
  font-size: 12px; fill: #1f2933; }
.page { fill: #ffffff; } .card { fill: #f6f8fa; stroke: #d8dee4; }
.title { font-size: 22px; font-weight: 650; } .head { font-size: 16px; font-weight: 650; }
.big { font-size: 16px; font-weight: 650; } .soft { fill: #5b6770; }
.bad { fill: #c8323a; } .good { fill: #1a7f4b; }
.axis { stroke: #c3ccd4; stroke-width: 1; } .event { stroke: #1f2933; stroke-dasharray: 2 3; }
.fair { stroke: #1f2933; stroke-width: 2; } .end { text-anchor: end; }
.middle, .mark { text-anchor: middle; } .mark { font-size: 10px; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; } .page { fill: #0d1117; } .card { fill: #161b22; stroke: #30363d; }
  .soft { fill: #9aa7b3; } .bad { fill: #ff7b81; } .good { fill: #56d394; }
  .axis { stroke: #3d4650; } .event, .fair { stroke: #e6edf3; }
}
"""


def draw(recording: Recording, summaries: Sequence[Summary], note: str) -> str:
    """The picture of a finished run; `note` stands below it."""
    bars_height = _ROW * len(recording.pods)
    panel_height = 196 + _PLOT_HEIGHT + 62 + bars_height
    width = 2 * _MARGIN + len(summaries) * _PANEL + (len(summaries) - 1) * _GAP
    height = _TOP + panel_height + 46
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        f"<title>{escape(_alternative(summaries))}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="page" width="{width}" height="{height}" rx="14"/>',
        _text(_MARGIN, 48, "The same calls to the same pods, three ways", "title"),
        _text(_MARGIN, 74, _SUBTITLE, "soft"),
    ]
    for index, summary in enumerate(summaries):
        x = _MARGIN + index * (_PANEL + _GAP)
        parts.append(f'<g transform="translate({x} {_TOP})">')
        parts.append(f'<rect class="card" width="{_PANEL}" height="{panel_height}" rx="12"/>')
        parts.extend(_figures(summary))
        parts.append(f'<g transform="translate({_PAD} 196)">')
        parts.extend(_timeline(recording, summary.side))
        parts.append(f'</g><g transform="translate({_PAD} {196 + _PLOT_HEIGHT + 48})">')
        parts.extend(_bars(summary, max(max(s.calls.values()) for s in summaries)))
        parts.append("</g></g>")
    parts.append(_text(_MARGIN, height - 18, f"{note}  * before the first event", "soft"))
    parts.append("</svg>\n")
    return "\n".join(parts)


def _figures(summary: Summary) -> Iterator[str]:
    yield _text(_PAD, 32, TITLES[summary.side], "head")
    yield _text(_PAD, 51, _HOW[summary.side], "soft")
    uneven = summary.steady_spread > 1.5
    rows = [
        ("calls failed", f"{summary.failed}", summary.failed > 10),
        ("new pod had its share after", to_share(summary), summary.to_share is None),
        ("busiest / quietest pod*", spread(summary), uneven),
    ]
    for index, (label, value, bad) in enumerate(rows):
        y = 86 + 26 * index
        yield _text(_PAD, y, label, "")
        yield _text(_PANEL - _PAD, y, value, "big end " + ("bad" if bad else "good"))


def _timeline(recording: Recording, side: str) -> Iterator[str]:
    """Calls a second as stacked areas, failed ones on top, with what was done to the cluster."""
    end = recording.events[-1].at
    bins = int(end / _BIN)
    width = _PANEL - 2 * _PAD
    layers = _layers(recording, side, bins)
    top = 1.15 * max((sum(column) for column in zip(*layers.values(), strict=True)), default=1.0)
    # The first and the last half bin are drawn level, so that the areas fill the axis.
    xs = [0.0, *(width * (index + 0.5) / bins for index in range(bins)), float(width)]
    yield _text(0, -16, "answered calls a second, by pod", "soft")
    yield _text(width, -16, "failed", "end bad")
    base = [0.0] * len(xs)
    for name, rates in layers.items():
        level = [rates[0], *rates, rates[-1]]
        upper = [low + rate for low, rate in zip(base, level, strict=True)]
        if any(rates):
            color = _FAILED if name == "failed" else _color(recording.pods, name)
            yield _area(xs, base, upper, top, color)
        base = upper
    yield f'<path class="axis" d="M0 {_PLOT_HEIGHT}H{width}"/>'
    yield from _marks(recording, width / end)
    for second in range(0, int(end) + 1, 5):
        anchor = "soft middle" if second else "soft"
        yield _text(width * second / end, _PLOT_HEIGHT + 16, f"{second} s", anchor)


def _marks(recording: Recording, scale: float) -> Iterator[str]:
    for event in recording.events:
        if event.kind in _SIGNS:
            x = event.at * scale
            yield f'<path class="event" d="M{x:.1f} 4V{_PLOT_HEIGHT}"/>'
            yield _text(x, 0, _SIGNS[event.kind], "mark")


def _layers(recording: Recording, side: str, bins: int) -> dict[str, list[float]]:
    """Rates in each bin of time, by pod, and "failed" last."""
    layers = {name: [0.0] * bins for name in (*recording.pods, "failed")}
    for tick in recording.ticks:
        index = int((tick.at - TICK / 2) / _BIN)
        if tick.side == side and 0 <= index < bins:
            for pod, calls in tick.calls.items():
                layers[pod][index] += calls / _BIN
            layers["failed"][index] += sum(tick.errors.values()) / _BIN
    return layers


def _bars(summary: Summary, most: int) -> Iterator[str]:
    yield _text(0, -4, "calls per pod; the stroke is an even share", "soft")
    left, right = 46, _PANEL - 2 * _PAD - 44
    scale = (right - left) / max(most, *summary.fair.values())
    for index, (pod, calls) in enumerate(summary.calls.items()):
        y = 6 + _ROW * index
        fair = left + summary.fair[pod] * scale
        yield _text(0, y + 12, pod, "")
        color = _color(tuple(summary.calls), pod)
        if calls:
            size = f'width="{calls * scale:.1f}" height="{_ROW - 7}"'
            yield f'<rect x="{left}" y="{y}" {size} rx="2" fill="{color}"/>'
        yield f'<path class="fair" d="M{fair:.1f} {y - 2}v{_ROW - 3}"/>'
        yield _text(_PANEL - 2 * _PAD, y + 12, f"{calls}", "end")


def _area(
    xs: Sequence[float], lower: Sequence[float], upper: Sequence[float], top: float, color: str
) -> str:
    def y(value: float) -> float:
        return _PLOT_HEIGHT * (1 - value / top)

    there = [f"{x:.1f} {y(value):.1f}" for x, value in zip(xs, upper, strict=True)]
    back = [f"{x:.1f} {y(value):.1f}" for x, value in zip(xs, lower, strict=True)]
    return f'<path fill="{color}" d="M{"L".join(there + back[::-1])}Z"/>'


def _color(pods: Sequence[str], pod: str) -> str:
    return _COLORS[pods.index(pod) % len(_COLORS)]


def _text(x: float, y: float, text: str, classes: str) -> str:
    attribute = f' class="{classes}"' if classes else ""
    return f'<text x="{x:.1f}" y="{y}"{attribute}>{escape(text)}</text>'


def _alternative(summaries: Sequence[Summary]) -> str:
    failed: Mapping[str, int] = {TITLES[s.side]: s.failed for s in summaries}
    return "Failed calls: " + "; ".join(f"{title}: {count}" for title, count in failed.items())
