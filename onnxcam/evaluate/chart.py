"""Line charts as SVG within a page: https://www.w3.org/TR/SVG2/. Colours come from the page's style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxcam.batch.report.page import markup

_WIDTH, _HEIGHT = 420, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 8, 22, 34
_COLOURS = (
    "#0b6fc2",
    "#d9480f",
    "#2b8a3e",
    "#9c36b5",
    "#c2255c",
    "#0c8599",
    "#a87400",
    "#5c940d",
    "#6741d9",
    "#495057",
)
_DASHES = ("none", "6 3", "2 3")

CHART_STYLE = """
figure.chart { width: 30rem; max-width: 100%; }
.chart svg { width: 100%; height: auto; display: block; }
.chart text { fill: var(--text); font-size: 11px; } .chart .mark { fill: var(--mute); }
.chart .grid { stroke: var(--line); } .chart polyline { fill: none; stroke-width: 1.8; }
.chart .baseline { stroke: var(--mute); stroke-width: 1.4; }
.key { display: flex; flex-wrap: wrap; gap: .1rem .8rem; } .key svg { width: 1.6rem; height: .7rem; display: inline; }
""" + "".join(f".chart .c{k} {{ stroke: {colour}; }}\n" for k, colour in enumerate(_COLOURS))


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: as in the key.
        points: (x, y), x from 0 to 1.
        baseline: whether it is drawn as one.
    """

    name: str
    points: Sequence[tuple[float, float]]
    baseline: bool = False


def chart(title: str, lines: Sequence[Line], across: str, up: str) -> str:
    """A figure with a line chart and its key; x goes from 0 to 1, y from 0 (or below) to the highest value."""
    values = [y for line in lines for _, y in line.points]
    low, high = min(0.0, *values), max(values)
    high = high if high > low else low + 1.0

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + x * (_WIDTH - _LEFT - _RIGHT),
            _TOP + (1 - (y - low) / (high - low)) * (_HEIGHT - _TOP - _BOTTOM),
        )

    drawn = "".join(_line(line, k, [at(x, y) for x, y in line.points]) for k, line in enumerate(lines))
    inner = _axes(low, high, across, up) + drawn
    return (
        f'<figure class="chart"><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{markup(title)}">'
        f'<text x="{_LEFT}" y="13">{markup(title)}</text>{inner}</svg>'
        f'<figcaption class="key">{_key(lines)}</figcaption></figure>'
    )


def _axes(low: float, high: float, across: str, up: str) -> str:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for k in range(5):
        y, x = bottom - k / 4 * (bottom - _TOP), _LEFT + k / 4 * (right - _LEFT)
        value = low + k / 4 * (high - low)
        parts += [
            f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>',
            f'<text class="mark" x="{_LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{value:.2g}</text>',
            f'<text class="mark" x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{k / 4:g}</text>',
        ]
    parts.append(
        f'<text class="mark" x="{(_LEFT + right) / 2}" y="{_HEIGHT - 5}" text-anchor="middle">{markup(across)}</text>'
    )
    parts.append(f'<text class="mark" x="{right}" y="13" text-anchor="end">{markup(up)}</text>')
    return "".join(parts)


def _line(line: Line, k: int, places: Sequence[tuple[float, float]]) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline {_look(line, k)} points="{points}"><title>{markup(line.name)}</title></polyline>'


def _look(line: Line, k: int) -> str:
    """Colour and dashes: lines of one colour differ in their dashes, and all baselines are grey."""
    dashes = _DASHES[1 + k % 2] if line.baseline else _DASHES[k // len(_COLOURS) % len(_DASHES)]
    kind = "baseline" if line.baseline else f"c{k % len(_COLOURS)}"
    return f'class="{kind}" stroke-dasharray="{dashes}"'


def _key(lines: Sequence[Line]) -> str:
    return "".join(
        f'<span><svg viewBox="0 0 24 10"><polyline {_look(line, k)} points="0,5 24,5"/></svg> '
        f"{markup(line.name)}</span>"
        for k, line in enumerate(lines)
    )
