"""The picture of a soak: a panel for each figure, one above the other, with the phases behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from loadtest.soak.course import Phase
from loadtest.soak.readings import WorkerReading

__all__ = ["drawn"]

WIDTH, PANEL, GAP = 760, 92, 30
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 62, 40
FONT = ' font-family="sans-serif" font-size="11"'
COLOUR, BANDS = "#0072b2", ("#f4f4f4", "#e6eef4")
PANELS: Mapping[str, str] = {
    "rss_mb": "resident memory, MB",
    "descriptors": "open files and sockets",
    "lag": "records not read",
    "unlearned": "examples not learned",
    "waiting": "answers and early labels held",
    "window_keys": "keys held by windows",
    "checkpoint_ms": "a checkpoint, ms",
    "store_mb": "state directory, MB",
}


def drawn(readings: Sequence[WorkerReading], course: Sequence[Phase], title: str) -> str:
    """Return the SVG document."""
    height = TOP + len(PANELS) * (PANEL + GAP) + BOTTOM - GAP
    whole_s = course[-1].ends_s

    def across(seconds: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * min(seconds / whole_s, 1.0)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"{FONT}>',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(LEFT, 20, title, size=14),
    ]
    for number, phase in enumerate(course):
        left, right = across(phase.begins_s), across(phase.ends_s)
        parts.append(
            f'<rect x="{left:.1f}" y="{TOP - 18}" width="{right - left:.1f}"'
            f' height="{height - TOP - BOTTOM + 18}" fill="{BANDS[number % 2]}"/>'
        )
        parts.append(_text((left + right) / 2, TOP - 24, phase.name, "middle"))
    for number, (figure, named) in enumerate(PANELS.items()):
        top = TOP + number * (PANEL + GAP)
        low, right = top + PANEL, WIDTH - RIGHT
        values = [float(getattr(one, figure)) for one in readings]
        highest = max([*values, 1.0])
        points = " ".join(
            f"{across(one.seconds):.1f},{top + PANEL * (1 - value / highest):.1f}"
            for one, value in zip(readings, values, strict=True)
        )
        parts += [
            f'<line x1="{LEFT}" x2="{right}" y1="{low}" y2="{low}" stroke="#999999"/>',
            _text(LEFT - 6, top + 8, f"{highest:,.6g}", "end"),
            _text(LEFT - 6, low, "0", "end"),
            _text(LEFT + 4, top - 3, named),
            f'<polyline points="{points}" fill="none" stroke="{COLOUR}" stroke-width="1.5"/>',
        ]
    for phase in course:
        parts.append(_text(across(phase.begins_s), height - 14, f"{phase.begins_s / 60:g} min", "middle"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 11) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="#333333">'
        f"{escape(text)}</text>"
    )
