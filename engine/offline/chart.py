"""A line chart as SVG: a few lines over a few named columns, in text that any browser shows.

Lives here: coordinates, ticks, colours.  Never here: what is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

__all__ = ["line_chart"]

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 72, 150, 48, 56
"""Room for what stands around the lines, pixels."""
FONT = ' font-family="sans-serif" font-size="12"'
TICKS = 5
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999933", "#882255")
"""Told apart by colour-blind readers too (Okabe and Ito, "Color universal design", 2008); then again."""
SPAN_MIN = 1e-6
"""Values closer together than this, or than this share of them, are one."""
LABEL_GAP = 14
"""Least distance of two names at the end of their lines, pixels."""


def line_chart(
    title: str,
    *,
    x_title: str,
    y_title: str,
    columns: Sequence[str],
    lines: Mapping[str, Sequence[float | None]],
) -> str:
    """Return an SVG document with one line for each series; None leaves a gap.

    >>> svg = line_chart("t", x_title="x", y_title="y", columns=["0", "1h"], lines={"a": [0.1, 0.2]})
    >>> svg.startswith("<svg"), svg.count("<polyline"), svg.count("<circle")
    (True, 1, 2)
    """
    values = [value for line in lines.values() for value in line if value is not None]
    ticks = _ticks(min(values, default=0.0), max(values, default=1.0))
    across = [LEFT + (WIDTH - LEFT - RIGHT) * (n + 0.5) / len(columns) for n in range(len(columns))]

    def down(value: float) -> float:
        share = (value - ticks[0]) / (ticks[-1] - ticks[0])
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"{FONT}>',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(LEFT, TOP - 22, title, "start", 15),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, x_title),
        f'<g transform="rotate(-90 16 {HEIGHT / 2})">{_text(16, HEIGHT / 2, y_title)}</g>',
    ]
    for tick in ticks:
        y = down(tick)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>'
            + _text(LEFT - 8, y + 4, f"{tick:.6g}", "end")
        )
    parts += [_text(x, HEIGHT - BOTTOM + 20, name) for x, name in zip(across, columns, strict=True)]
    ends: list[tuple[float, str, str]] = []
    for number, (name, line) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = [(x, down(value)) for x, value in zip(across, line, strict=True) if value is not None]
        if points:
            parts.append(_line(points, colour, 3 if number == 0 else 1.5))
            ends.append((points[-1][1], name, colour))
    parts += _names(ends)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _line(points: Sequence[tuple[float, float]], colour: str, width: float) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>{dots}'


def _names(ends: Sequence[tuple[float, str, str]]) -> list[str]:
    """Return the names of the lines at their ends, from the top down, none over another."""
    parts, lowest = [], -math.inf
    for y, name, colour in sorted(ends):
        lowest = max(y, lowest + LABEL_GAP)
        parts.append(_text(WIDTH - RIGHT + 8, lowest + 4, name, "start", colour=colour))
    return parts


def _text(
    x: float, y: float, text: str, anchor: str = "middle", size: int = 12, colour: str = "#333333"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">'
        f"{escape(text)}</text>"
    )


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers from below `low` to above `high`.

    >>> _ticks(0.121, 0.187)
    [0.12, 0.14, 0.16, 0.18, 0.2]
    """
    span = max(high - low, abs(high) * SPAN_MIN, SPAN_MIN)
    raw = span / (TICKS - 1)
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= raw)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]
