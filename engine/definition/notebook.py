"""What a notebook shows of a definition and of tables: HTML, small, everything escaped, no script.

Lives here: the text.  Never here: what is in it (`pipeline.py`, `engine/offline/runs/results.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.definition.pipeline import Pipeline

__all__ = ["html_table", "pipeline_html"]

ROWS_MAX = 50
"""Rows of a table; how many more there are is said below it."""
CELL_CHARS_MAX = 200
"""Of one cell: an expression may be as long as its file."""


def html_table(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table with a column for each name in the first row.

    >>> html_table("models", [{"model": "a<b", "loss": 0.25}, {"model": "c", "loss": None}])[-73:]
    '<tr><td>a&lt;b</td><td>0.25</td></tr><tr><td>c</td><td></td></tr></table>'
    """
    if not rows:
        return ""
    names = list(rows[0])
    head = "".join(f"<th>{escape(str(name))}</th>" for name in names)
    lines = [
        "<tr>" + "".join(f"<td>{escape(_text(row.get(name)))}</td>" for name in names) + "</tr>"
        for row in rows[:ROWS_MAX]
    ]
    more = f"<p>... and {len(rows) - ROWS_MAX:,} more</p>" if len(rows) > ROWS_MAX else ""
    return f"<table><caption>{escape(title)}</caption><tr>{head}</tr>{''.join(lines)}</table>{more}"


def pipeline_html(pipeline: Pipeline) -> str:
    """Return a definition as HTML: where its events and labels come from, its features, its models."""
    labels = pipeline.labels.topic or f"field `{pipeline.labels.field}` of the event"
    facts = (
        f"events {pipeline.events.name} by `{pipeline.events.key}`, labels {labels}, {pipeline.task}, "
        f"champion {pipeline.field.first_champion}"
    )
    features = [
        {"feature": one.name, "is": one.expression, "type": one.type, "window": one.window, "key": one.key}
        for one in pipeline.book
    ]
    models = [
        {"model": name, "is": type(candidate.model).__name__}
        for name, candidate in pipeline.candidates.items()
    ]
    return (
        f"<div><p><b>{escape(pipeline.name)}</b>: {escape(facts)}</p>"
        f"{html_table('features', features)}{html_table('models', models)}</div>"
    )


def _text(value: object) -> str:
    """Return a cell: nothing for None, numbers to six digits."""
    if value is None:
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= CELL_CHARS_MAX else text[: CELL_CHARS_MAX - 3] + "..."
