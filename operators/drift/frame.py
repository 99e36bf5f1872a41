"""The frame of a reference: the cells of every feature, of scores and of labels, fitted once to its first
rows.

Lives here: which cell a value falls into, and the means of a block by which it is compared.  Never here:
distances (`two_sample.py`).

    missing   odd   below   .. quantiles of the first rows, or the categories ..   above (or a rare category)

`odd` is a text where numbers were, a number where texts were, or a category that nobody has seen.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from msgspec import Struct

from operators.drift.two_sample import Array, Kernels, fit_kernels
from topics.messages import FeatureValue, LabelValue, Score, Task

__all__ = [
    "CELLS",
    "MISSING",
    "ODD",
    "SCORE_CELLS",
    "CellFrame",
    "SampledColumns",
    "fit_frame",
    "label_edges",
]

SampledColumns = Mapping[str, Sequence[FeatureValue | None]]

CELLS: Final = 24
MISSING, ODD, BELOW, FIRST, ABOVE = 0, 1, 2, 3, CELLS - 1
INSIDE: Final = CELLS - 4
SCORE_CELLS: Final = 12
LABEL_CELLS: Final = 10
"""Of a regression's labels."""
KNOWN_MAX: Final = 500
"""Categories of one feature that are remembered as seen; a feature with more has no odd ones."""
FEATURES_MAX: Final = 200
"""Features that are watched, the first by name; further ones are counted in the report."""
MARGIN: Final = 0.05
"""Of the span of the first rows: a value a little beyond is still inside."""
CLIP: Final = 4.0
RARITY: Final = 5.0
"""Categories, the most frequent first, that are as far apart as a number's quartiles from its centre."""


class Feature(Struct, array_like=True):
    """How one feature is seen."""

    name: str
    numeric: bool
    edges: list[float]
    """Numeric: inner edges between cells, rising."""
    low: float
    high: float
    centre: float
    scale: float
    categories: dict[str, int]
    """Text: the cell of each category that is known."""
    open: bool = False
    """There are too many categories to know any as new."""


class CellFrame(Struct):
    """The cells, and the kernels on all features at once."""

    features: list[Feature]
    classes: list[str]
    """Of a multiclass task, the most answered first; the last cell is for all others."""
    edges: list[float]
    """Inner edges of the cells of a score."""
    kernels: Kernels
    ignored: int = 0
    """Features beyond `FEATURES_MAX`."""

    @property
    def size(self) -> int:
        """Return how many means a block has."""
        return len(self.features) * (CELLS + 1) + SCORE_CELLS + self.kernels.size + 2

    def means(self, columns: SampledColumns, scores: Sequence[Score], refused: float) -> Array:
        """Return the means of a block: shares of cells by feature and of scores, kernels, places by feature,
        refused, rows."""
        rows = len(scores)
        views = _views(self.features, columns, rows)
        parts = [np.bincount(one.cells, minlength=CELLS) / rows for one in views]
        answered = np.bincount([self.score_cell(score) for score in scores], minlength=SCORE_CELLS) / rows
        together = self.kernels.means(_together(self.features, views, rows))
        return np.concatenate([*parts, answered, together, _places(views, rows).mean(0), [refused, rows]])

    def places(self, columns: SampledColumns, rows: int) -> Array:
        """Return one number for each row and feature: in units of its spread, of a text how rare it is."""
        return _places(_views(self.features, columns, rows), rows)

    def score_cell(self, score: Score) -> int:
        """Return the cell of a score; 0 is for no opinion."""
        if score is None:
            return 0
        if isinstance(score, dict):
            return self.class_cell(max(score, key=score.__getitem__)) + 1 if score else 0
        return 1 + bisect_right(self.edges, score)

    def class_cell(self, label: LabelValue) -> int:
        """Return the cell of a class."""
        text = str(label)
        return self.classes.index(text) if text in self.classes else len(self.classes)


def label_edges(labels: Sequence[float]) -> list[float]:
    """Return the inner edges of a regression's labels."""
    inner = np.linspace(0, 1, LABEL_CELLS + 1)[1:-1]
    return [float(edge) for edge in np.unique(np.quantile(labels, inner))]


def fit_frame(columns: SampledColumns, scores: Sequence[Score], task: Task, seed: int) -> CellFrame:
    """Return the frame of some rows."""
    names = sorted(columns)
    features = [_fitted(name, columns[name]) for name in names[:FEATURES_MAX]]
    rows = len(scores)
    kernels = fit_kernels(_together(features, _views(features, columns, rows), rows), seed)
    classes: list[str] = []
    edges: list[float] = []
    if task == "multiclass":
        answers = Counter(max(one, key=one.__getitem__) for one in scores if isinstance(one, dict) and one)
        classes = [name for name, _ in answers.most_common(SCORE_CELLS - 2)]
    elif numbers := [float(one) for one in scores if isinstance(one, int | float)]:
        edges = np.unique(np.quantile(numbers, np.linspace(0, 1, SCORE_CELLS)[1:-1])).tolist()
    return CellFrame(features, classes, edges, kernels, len(names) - len(features))


def _fitted(name: str, column: Sequence[FeatureValue | None]) -> Feature:
    values = [value for value in column if value is not None]
    texts = [_text(value) for value in values if isinstance(value, str | bool)]
    if 2 * len(texts) > len(values):
        counted = Counter(texts).most_common(KNOWN_MAX + 1)
        categories = {
            text: FIRST + number if number < INSIDE else ABOVE
            for number, (text, _) in enumerate(counted[:KNOWN_MAX])
        }
        return Feature(name, False, [], 0.0, 0.0, 0.0, 1.0, categories, len(counted) > KNOWN_MAX)
    numbers = np.array([value for value in values if not isinstance(value, str)], dtype=float)
    if not len(numbers):
        return Feature(name, True, [], 0.0, 0.0, 0.0, 1.0, {})
    quantiles = np.quantile(numbers, np.linspace(0, 1, INSIDE + 1))
    margin = MARGIN * float(quantiles[-1] - quantiles[0])
    scale = float(quantiles[3 * INSIDE // 4] - quantiles[INSIDE // 4]) / 1.35 or float(numbers.std()) or 1.0
    return Feature(
        name,
        True,
        np.unique(quantiles[1:-1]).tolist(),
        float(quantiles[0]) - margin,
        float(quantiles[-1]) + margin,
        float(np.median(numbers)),
        scale,
        {},
    )


class _View(NamedTuple):
    """One feature of some rows."""

    cells: Any
    place: Array
    """In units of its spread, of a text how rare it is."""


def _views(features: Sequence[Feature], columns: SampledColumns, rows: int) -> list[_View]:
    nowhere = _View(np.zeros(rows, dtype=np.int64), np.zeros(rows))
    return [
        nowhere
        if (column := columns.get(feature.name)) is None
        else _of_numbers(feature, column)
        if feature.numeric
        else _of_texts(feature, column)
        for feature in features
    ]


def _of_texts(feature: Feature, column: Sequence[FeatureValue | None]) -> _View:
    unknown, known = ABOVE if feature.open else ODD, feature.categories
    if set(map(type, column)) == {str}:
        cells = np.array([known.get(value, unknown) for value in column], dtype=np.int64)  # type: ignore[arg-type]
    else:
        cells = np.array(
            [
                MISSING
                if value is None
                else known.get(_text(value), unknown)
                if isinstance(value, str | bool)
                else ODD
                for value in column
            ],
            dtype=np.int64,
        )
    return _View(cells, (cells - FIRST) / RARITY)


def _of_numbers(feature: Feature, column: Sequence[FeatureValue | None]) -> _View:
    kinds = set(map(type, column))
    if str in kinds:  # numpy would read a number out of a text
        odd = np.array([isinstance(value, str) for value in column], dtype=bool)
        column = [None if isinstance(value, str) else value for value in column]
    else:
        odd = np.zeros(len(column), dtype=bool)
    numbers = np.array(column, dtype=float)  # None becomes NaN
    nothing = np.isnan(numbers)
    found = FIRST + np.searchsorted(feature.edges, numbers, side="right")
    found = np.where(numbers < feature.low, BELOW, np.where(numbers > feature.high, ABOVE, found))
    cells = np.where(odd, ODD, np.where(nothing, MISSING, found))
    place = np.clip((numbers - feature.centre) / feature.scale, -CLIP, CLIP)
    return _View(cells, np.where(nothing, 0.0, place))


def _places(views: Sequence[_View], rows: int) -> Array:
    return np.stack([view.place for view in views], axis=1) if views else np.zeros((rows, 0))


def _together(features: Sequence[Feature], views: Sequence[_View], rows: int) -> Array:
    """Return rows of numbers of like size: numbers in units of their spread, categories as 0 or 1."""
    parts = [
        view.place[:, None]
        if feature.numeric
        else np.eye(CELLS)[view.cells][:, : FIRST + min(len(feature.categories), INSIDE)]
        for feature, view in zip(features, views, strict=True)
    ]
    return np.concatenate(parts, axis=1) if parts else np.zeros((rows, 1))


def _text(value: FeatureValue) -> str:
    return value if isinstance(value, str) else str(value).lower()
