"""Line charts as SVG, for the documents."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import NamedTuple

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 340, 230, 46, 30, 64
LOW, HIGH = -0.25, 1.0
INK, GREY = "#333", "#ccc"


class Line(NamedTuple):
    """A curve: points from 0 to 1 across, values, and a band round each."""

    name: str
    colour: str
    x: Sequence[float]
    y: Sequence[float]
    band: Sequence[tuple[float, float]]


def chart(panels: Mapping[str, Sequence[Line]], across: str) -> str:
    """Panels side by side with one legend below: an SVG document."""
    whole = len(panels) * (WIDTH + LEFT) + 20
    body = [_panel(LEFT + k * (WIDTH + LEFT), title, lines) for k, (title, lines) in enumerate(panels.items())]
    body.append(_text(whole / 2, TOP + HEIGHT + 36, across, "middle"))
    body.append(_legend(next(iter(panels.values())), TOP + HEIGHT + 56))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{whole}" height="{TOP + HEIGHT + BOTTOM}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


def _panel(left: float, title: str, lines: Sequence[Line]) -> str:
    parts = [_text(left + WIDTH / 2, TOP - 10, title, "middle", 'font-weight="bold"')]
    for value in (-0.25, 0.0, 0.25, 0.5, 0.75, 1.0):
        y = _down(value)
        parts.append(f'<path d="M{left} {y:.1f}H{left + WIDTH}" stroke="{INK if value == 0 else GREY}"/>')
        parts.append(_text(left - 6, y + 4, f"{value:g}", "end"))
    for value in (0.0, 0.5, 1.0):
        parts.append(_text(left + value * WIDTH, TOP + HEIGHT + 16, f"{value:.0%}", "middle"))
    for line in lines:
        places = [left + x * WIDTH for x in line.x]
        there = [f"{x:.1f},{_down(high):.1f}" for x, (_, high) in zip(places, line.band, strict=True)]
        back = [f"{x:.1f},{_down(low):.1f}" for x, (low, _) in zip(places, line.band, strict=True)]
        parts.append(f'<polygon points="{" ".join(there + back[::-1])}" fill="{line.colour}" opacity="0.18"/>')
        points = " ".join(f"{x:.1f},{_down(y):.1f}" for x, y in zip(places, line.y, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{line.colour}" stroke-width="2"/>')
    return "\n".join(parts)


def _legend(lines: Sequence[Line], y: float) -> str:
    parts, x = [], float(LEFT)
    for line in lines:
        parts.append(f'<path d="M{x} {y - 4}h18" stroke="{line.colour}" stroke-width="3"/>')
        parts.append(_text(x + 23, y, line.name, "start"))
        x += 40 + 7 * len(line.name)
    return "\n".join(parts)


def _down(value: float) -> float:
    return TOP + HEIGHT * (HIGH - min(max(value, LOW), HIGH)) / (HIGH - LOW)


def _text(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{INK}" {more}>{html.escape(text)}</text>'
