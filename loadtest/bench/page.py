"""A run as one HTML page: its figures, and plots of what happened second by second.

Lives here: HTML and SVG of a report.  Never here: what the figures are (`report.py`), files.

Strategy: a function from the report that `--json` prints to a text.  Plots are inline SVG, colours are of the
reader's light or dark, nothing is loaded from anywhere, so the page can be mailed, kept and read offline.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from loadtest.bench.ledger import Latency

__all__ = ["load_page"]

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 220, 64, 12, 12, 34
TICKS = 4
LEVELS = (0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 97.5, 99.0, 99.5, 99.75, 99.9, 99.95, 99.99, 100.0)
"""Percentiles of the curve; the last is drawn at one answer of all."""
STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--faint:#8a929b;--paper:#fff;--c0:#0b62c4;--c1:#c2410c}
@media(prefers-color-scheme:dark){:root{--ink:#e6e8ea;--paper:#15181c;--c0:#6cb2ff;--c1:#ff9a62}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:84rem;
margin:1.5rem auto;padding:0 1rem}
main{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,34rem),1fr));gap:1rem}
figure{margin:0}svg{width:100%;height:auto}text{fill:var(--ink);font-size:12px}
.grid{stroke:var(--faint);stroke-width:.4}polyline{fill:none;stroke-width:1.8}
.s0{stroke:var(--c0)}.s1{stroke:var(--c1);stroke-dasharray:5 3}
td{padding:.1rem .9rem .1rem 0;font-variant-numeric:tabular-nums}td+td{text-align:right}
table{grid-row:span 3;align-self:start}
"""

Points = Sequence[tuple[float, float]]


class _Plot(NamedTuple):
    """One figure: one or two lines over a shared x."""

    title: str
    x_name: str
    lines: Sequence[tuple[str, Points]]
    x_ticks: Sequence[tuple[float, str]]
    logarithmic: bool = False


def load_page(name: str, found: Mapping[str, Any]) -> str:
    """Return the page of a run of the pipeline `name`; `found` is its report as `--json` prints it."""
    title = f"{name}: {found['rate']:g} events/s for {found['duration_s']:g} s, {found['scenario']}"
    rows = "".join(f"<tr><td>{escape(one)}</td><td>{escape(two)}</td></tr>" for one, two in _figures(found))
    plots = "\n".join(_figure(one) for one in _plots(found) if any(points for _, points in one.lines))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1><p><strong>{escape(found['verdict']['text'])}</strong></p>\n"
        f"<main><table>{rows}</table>\n{plots}\n</main>\n<p>On {escape(found['machine'])}</p></body></html>\n"
    )


def _figures(found: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for part, words in (("latency_ms", "due to read"), ("sender_late_ms", "of it: sender late")):
        for level, value in found[part].items():
            yield f"{words}, {level}", f"{value:,.2f} ms"
    for count in ("events", "answered", "lost", "duplicated", "mismatched", "foreign", "labels", "behind"):
        yield count, f"{found[count]:,}"
    if found["learned"] is not None:
        yield "learned", f"{found['learned']:,}"
    yield "answers", f"{found['throughput_per_s']:,g}/s"
    if found["knee_per_s"] is not None:
        yield "knee", f"{found['knee_per_s']:,g}/s"
    workers = found["workers"]
    if workers["cpu_ms_per_answer"] is not None:
        yield "processor time an answer", f"{workers['cpu_ms_per_answer']:.3f} ms"
        yield "memory of the worker at most", f"{workers['rss_mb_max']:,.0f} MB"


def _plots(found: Mapping[str, Any]) -> Iterable[_Plot]:
    slices = found["slices"]
    last_s = max((one["at_s"] + one["seconds"] for one in slices), default=1.0)
    seconds = [(last_s * tick / TICKS, f"{last_s * tick / TICKS:.3g}") for tick in range(TICKS + 1)]

    def by_time(figure: str, per: str | None = None) -> Points:
        return [
            (one["at_s"], one[figure] / (one[per] if per else 1.0))
            for one in slices
            if one[figure] is not None
        ]

    def over_time(title: str, *lines: tuple[str, Points], logarithmic: bool = False) -> _Plot:
        return _Plot(title, "s since the first event was due", lines, seconds, logarithmic)

    latencies = (("p50", by_time("p50_ms")), ("p99", by_time("p99_ms")))
    yield over_time("latency, ms", *latencies, logarithmic=True)
    yield over_time("answers a second", ("answers", by_time("answered", "seconds")))
    yield over_time("events without an answer", ("events", by_time("waiting")))
    yield over_time("processors the worker takes", ("processors", by_time("cpu_s", "seconds")))
    yield over_time("memory of the worker, MB", ("MB", by_time("rss_mb")))
    merged = Latency()
    for one in slices:
        merged.merge(one["histogram"])
    if len(merged):
        ends = [(1 - level / 100) or 1 / (len(merged) + 1) for level in LEVELS]
        curve = [(-math.log10(end), merged.at_ms(level)) for end, level in zip(ends, LEVELS, strict=True)]
        nines = range(math.ceil(curve[-1][0]) + 1)
        ticks = [(float(nine), f"{100 - 100 / 10**nine:.{max(0, nine - 2)}f} %") for nine in nines]
        yield _Plot("latency by percentile, ms", "percentile", [("all", curve)], ticks, logarithmic=True)


def _figure(plot: _Plot) -> str:
    """Return one plot as SVG, its lines named below it."""
    xs = [x for _, points in plot.lines for x, _ in points] + [x for x, _ in plot.x_ticks]
    ys = [y for _, points in plot.lines for _, y in points]
    low, high = (max(1e-3, min(ys)), max(1e-3, *ys)) if plot.logarithmic else (0.0, max(ys))
    if high <= low:
        high = low * 2 or 1.0
    x_low, x_high = min(xs), max(*xs, min(xs) + 1e-9)

    def at(x: float, y: float) -> tuple[float, float]:
        share = math.log(max(y, low) / low) / math.log(high / low) if plot.logarithmic else y / high
        across = (x - x_low) / (x_high - x_low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in range(TICKS + 1):
        share = tick / TICKS
        value = low * (high / low) ** share if plot.logarithmic else high * share
        _, y = at(x_low, value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_tick(value)}</text>')
    for x, words in plot.x_ticks:
        place, _ = at(x, low)
        parts.append(f'<text x="{place:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{words}</text>')
    for number, (_, points) in enumerate(plot.lines):
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in points))
        parts.append(f'<polyline class="s{number}" points="{drawn}"/>')
    styles = ("solid", "dashed")
    names = ", ".join(f"{name} ({styles[number]})" for number, (name, _) in enumerate(plot.lines))
    told = escape(f"{plot.title}: {names} by {plot.x_name}")
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{told}">{"".join(parts)}</svg>'
        f"<figcaption>{told}</figcaption></figure>"
    )


def _tick(value: float) -> str:
    """Return a value beside an axis, to three digits or whole.

    >>> _tick(6_470.2), _tick(0.1234)
    ('6,470', '0.123')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
