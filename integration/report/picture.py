"""The picture of a comparison: a panel for each side, with figures, calls over time and per pod.

Written by hand as SVG, so that it needs no plotting package; readable on light and dark pages. The
same recording always gives the same bytes.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from integration.report.recording import TICK, Recording
from integration.report.terminal import short_name

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
    *("#e08cb4", "#8c6bd1", "#a3b532", "#2f7f8f", "#5b8def"),
)
_FAILED = "#e5484d"
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


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of figures: large, green or red."""

    label: str
    value: str
    bad: bool


@dataclass(frozen=True, slots=True)
class Panel:
    """One side; `calls` and `fair` (an even share) are what the bars show, by pod."""

    side: str
    title: str
    how: str
    figures: Sequence[Figure]
    calls: Mapping[str, int]
    fair: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Picture:
    """The words around the panels; `signs` are the marks of the kinds of event that get one."""

    title: str
    subtitle: str
    note: str
    signs: Mapping[str, str]
    bars: str = "calls per pod; the stroke is an even share"
    columns: int = 3
    alternative: str = field(kw_only=True)  # for those who cannot see it


def draw(recording: Recording, panels: Sequence[Panel], picture: Picture) -> str:
    """The picture of a finished run."""
    bars_at = _plot_at(panels) + _PLOT_HEIGHT + 48
    panel_height = bars_at + _ROW * max(len(panel.calls) for panel in panels) + 14
    columns = min(picture.columns, len(panels))
    rows = -(-len(panels) // columns)
    width = 2 * _MARGIN + columns * (_PANEL + _GAP) - _GAP
    height = _TOP + rows * (panel_height + _GAP) - _GAP + 46
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        f"<title>{escape(picture.alternative)}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="page" width="{width}" height="{height}" rx="14"/>',
        _text(_MARGIN, 48, picture.title, "title"),
        _text(_MARGIN, 74, picture.subtitle, "soft"),
    ]
    most = max(max(panel.calls.values()) for panel in panels)
    for index, panel in enumerate(panels):
        row, column = divmod(index, columns)
        x, y = _MARGIN + column * (_PANEL + _GAP), _TOP + row * (panel_height + _GAP)
        parts.append(f'<g transform="translate({x} {y})">')
        parts.append(f'<rect class="card" width="{_PANEL}" height="{panel_height}" rx="12"/>')
        parts.extend(_figures(panel))
        parts.append(f'<g transform="translate({_PAD} {_plot_at(panels)})">')
        parts.extend(_timeline(recording, panel.side, picture.signs))
        parts.append(f'</g><g transform="translate({_PAD} {bars_at})">')
        parts.extend(_bars(recording, panel, most, picture.bars))
        parts.append("</g></g>")
    parts.append(_text(_MARGIN, height - 18, picture.note, "soft"))
    parts.append("</svg>\n")
    return "\n".join(parts)


def _plot_at(panels: Sequence[Panel]) -> int:
    return 118 + 26 * max(len(panel.figures) for panel in panels)


def _figures(panel: Panel) -> Iterator[str]:
    yield _text(_PAD, 32, panel.title, "head")
    yield _text(_PAD, 51, panel.how, "soft")
    for index, figure in enumerate(panel.figures):
        y = 86 + 26 * index
        yield _text(_PAD, y, figure.label, "")
        yield _text(_PANEL - _PAD, y, figure.value, "big end " + ("bad" if figure.bad else "good"))


def _timeline(recording: Recording, side: str, signs: Mapping[str, str]) -> Iterator[str]:
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
            there = _where_any(
                level
            )  # a pod serves for a part of the time; no line before and after
            yield _area(xs[there], base[there], upper[there], top, color)
        base = upper
    yield f'<path class="axis" d="M0 {_PLOT_HEIGHT}H{width}"/>'
    for event in recording.events:
        if event.kind in signs:
            x = event.at * width / end
            yield f'<path class="event" d="M{x:.1f} 4V{_PLOT_HEIGHT}"/>'
            yield _text(x, 0, signs[event.kind], "mark")
    step = 5 if end < 45 else 10 if end < 120 else 60
    for second in range(0, int(end) + 1, step):
        anchor = "soft middle" if second else "soft"
        yield _text(width * second / end, _PLOT_HEIGHT + 16, f"{second} s", anchor)


def _where_any(rates: Sequence[float]) -> slice:
    """From the point before the first rate above zero to the one after the last."""
    above = [index for index, rate in enumerate(rates) if rate]
    return slice(max(0, above[0] - 1), above[-1] + 2)


def _layers(recording: Recording, side: str, bins: int) -> dict[str, list[float]]:
    """Rates in each bin of time, by pod, and "failed" last."""
    layers = {name: [0.0] * bins for name in (*recording.pods, "failed")}
    for tick in recording.ticks:
        index = math.floor((tick.at - TICK / 2) / _BIN)
        if tick.side == side and 0 <= index < bins:
            for pod, calls in tick.calls.items():
                layers[pod][index] += calls / _BIN
            layers["failed"][index] += sum(tick.errors.values()) / _BIN
    return layers


def _bars(recording: Recording, panel: Panel, most: int, heading: str) -> Iterator[str]:
    yield _text(0, -4, heading, "soft")
    left, right = 46, _PANEL - 2 * _PAD - 44
    scale = (right - left) / max(most, *panel.fair.values())
    for index, (pod, calls) in enumerate(panel.calls.items()):
        y = 6 + _ROW * index
        fair = left + panel.fair[pod] * scale
        yield _text(0, y + 12, pod if len(pod) < 7 else short_name(pod), "")
        if calls:
            size = f'width="{calls * scale:.1f}" height="{_ROW - 7}"'
            fill = _color(recording.pods, pod)
            yield f'<rect x="{left}" y="{y}" {size} rx="2" fill="{fill}"/>'
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
