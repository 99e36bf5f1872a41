"""The loss of every candidate over time as rows: by event time and by label time, plain, rolling and fading.

Lives here: the rows, as CSV and as JSON.  Never here: the curves themselves (`operators/race/evaluation.py`).

A curve has at most 256 buckets; the rolling and the fading mean are worked out from them, each bucket's rows
taken at its mean.  A row of the past weighs `FADING` to the power of the rows since (Gama, Sebastião and
Rodrigues, "On evaluating stream learning algorithms", 2013).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from operators.race.evaluation import SERVED, Curve, Evaluation, Point
from topics.codec import encode_json
from topics.errors import SettingsError

__all__ = ["FADING", "ROLLING_ROWS", "CurveRow", "curve_rows", "written_curves"]

ROLLING_ROWS = 1_000
"""Rows of the rolling mean, the last ones, rounded up to whole buckets."""
FADING = 0.999
"""What a row's weight is multiplied by with each later row: a thousand rows back it weighs 0.37."""


class CurveRow(NamedTuple):
    """One bucket of one candidate's curve."""

    by: str
    """`event_time` or `label_time`."""
    model: str
    start_ms: int
    rows: int
    loss: float
    """Mean of the bucket."""
    rolling: float
    """Mean of the last `ROLLING_ROWS` rows."""
    fading: float
    """Mean of all rows so far, the older the lighter."""


def curve_rows(evaluation: Evaluation) -> list[CurveRow]:
    """Return every curve of a race: what was served, then each candidate by name."""
    rows: list[CurveRow] = []
    for by, curve in (("event_time", evaluation.by_event_time), ("label_time", evaluation.by_label_time)):
        names = {name for cells in curve.buckets.values() for name in cells}
        for name in sorted(names, key=lambda name: (name != SERVED, name)):
            rows += _rows(by, name, curve)
    return rows


def _rows(by: str, name: str, curve: Curve) -> Iterator[CurveRow]:
    points = curve.points(name)
    for (start_ms, loss, count), rolling, fading in zip(
        points, rolling_means(points), fading_means(points), strict=True
    ):
        yield CurveRow(by, name, start_ms, count, loss, rolling, fading)


def rolling_means(points: Sequence[Point], rows_max: int = ROLLING_ROWS) -> list[float]:
    """Return the mean of the last rows at each point: of as few whole buckets as have `rows_max` rows.

    >>> rolling_means([(0, 1.0, 10), (1, 3.0, 10), (2, 5.0, 20)], rows_max=15)
    [1.0, 2.0, 5.0]
    """
    means = []
    for end in range(1, len(points) + 1):
        total, count = 0.0, 0
        for _, loss, rows in reversed(points[:end]):
            total, count = total + loss * rows, count + rows
            if count >= rows_max:
                break
        means.append(total / count)
    return means


def fading_means(points: Sequence[Point], factor: float = FADING) -> list[float]:
    """Return the fading mean at each point.

    >>> [round(mean, 3) for mean in fading_means([(0, 1.0, 1), (1, 0.0, 1), (2, 1.0, 2)], factor=0.5)]
    [1.0, 0.333, 0.867]
    """
    total = weight = 0.0
    means = []
    for _, loss, rows in points:
        kept = factor**rows
        added = (1.0 - kept) / (1.0 - factor)
        total, weight = total * kept + loss * added, weight * kept + added
        means.append(total / weight)
    return means


def written_curves(evaluation: Evaluation, judged_by: str, path: Path) -> bytes:
    """Return the curves as a file of this name has them: CSV or JSON.  Raises SettingsError for another."""
    rows = curve_rows(evaluation)
    if path.suffix == ".csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(CurveRow._fields)
        writer.writerows(rows)
        return text.getvalue().encode()
    if path.suffix == ".json":
        told: dict[str, Any] = {
            "loss": judged_by,
            "rolling_rows": ROLLING_ROWS,
            "fading": FADING,
            "curves": [row._asdict() for row in rows],
        }
        return encode_json(told) + b"\n"
    raise SettingsError(f"--curves-out {path} is neither .csv nor .json", hint="name a .csv or a .json file")
