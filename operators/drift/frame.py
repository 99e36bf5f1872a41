"""The frame of a reference: the cells of every feature, of scores and of labels, fitted once to its first
rows.

Lives here: which cell a value falls into, and the means of a block by which it is compared.  Never here:
distances (`two_sample.py`).

    missing   odd   below   .. quantiles of the first rows, or the categories ..   above (or a rare category)

`odd` is a text where numbers were, a number where texts were, or a category that nobody has seen.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from operator import itemgetter
from struct import Struct as Form
from struct import error, pack
from typing import Final, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from operators.drift.two_sample import Array, Kernels, fit_kernels
from topics.messages import FeatureValue, FeatureValues, LabelValue, Score, Task

__all__ = [
    "CELLS",
    "MISSING",
    "ODD",
    "SCORE_CELLS",
    "CellFrame",
    "SampledColumns",
    "fit_frame",
    "label_edges",
    "numbers_of",
    "quantiles",
]

SampledColumns = Mapping[str, Sequence[FeatureValue | None]]
Cells = NDArray[np.int64]

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
FIT_ROWS_MIN, FIT_ROWS_MAX, FIT_VALUES = 300, 1_000, 20_000
"""Rows by which the cells of numbers and the kernels are fitted; between the bounds, so many values of all
features."""
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
        offsets = CELLS * np.arange(len(self.features))[:, None]
        shares = np.bincount((views.cells + offsets).ravel(), minlength=CELLS * len(self.features)) / rows
        answered = np.bincount(self.score_cells(scores), minlength=SCORE_CELLS) / rows
        together = self.kernels.means(_together(self.features, views))
        return np.concatenate([shares, answered, together, views.places.mean(1), [refused, rows]])

    def places(self, rows: Sequence[FeatureValues]) -> Array:
        """Return one number for each row and feature: in units of its spread, of a text how rare it is."""
        placed = np.zeros((len(rows), len(self.features)))
        numeric = [number for number, feature in enumerate(self.features) if feature.numeric]
        of_numbers = [self.features[number] for number in numeric]
        numbers = numbers_of(rows, [feature.name for feature in of_numbers])
        placed[:, numeric] = _placed(of_numbers, numbers.T).T
        for number, feature in enumerate(self.features):
            if not feature.numeric:
                cells = _cells_of_texts(feature, [row.get(feature.name) for row in rows])
                placed[:, number] = (cells - FIRST) / RARITY
        return placed

    def score_cells(self, scores: Sequence[Score]) -> Cells:
        """Return the cells of scores; 0 is for no opinion."""
        try:
            numbers = np.frombuffer(pack(f"{len(scores)}d", *scores))
        except error:
            return np.array([self._score_cell(score) for score in scores], dtype=np.int64)
        return np.asarray(1 + np.searchsorted(self.edges, numbers, side="right"))

    def _score_cell(self, score: Score) -> int:
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
    """Return the frame of some rows: categories by all of them, numbers and kernels by every n-th."""
    names = sorted(columns)
    watched, rows = names[:FEATURES_MAX], len(scores)
    chosen = min(max(FIT_VALUES // max(len(watched), 1), FIT_ROWS_MIN), FIT_ROWS_MAX)
    step = max(1, rows // chosen)
    features = [_fitted(name, columns[name], step) for name in watched]
    some = {name: columns[name][::step] for name in watched}
    views = _views(features, some, len(range(0, rows, step)))
    kernels = fit_kernels(_together(features, views), seed)
    classes: list[str] = []
    edges: list[float] = []
    if task == "multiclass":
        answers = Counter(max(one, key=one.__getitem__) for one in scores if isinstance(one, dict) and one)
        classes = [name for name, _ in answers.most_common(SCORE_CELLS - 2)]
    elif numbers := [float(one) for one in scores if isinstance(one, int | float)]:
        edges = np.unique(np.quantile(numbers, np.linspace(0, 1, SCORE_CELLS)[1:-1])).tolist()
    return CellFrame(features, classes, edges, kernels, len(names) - len(features))


def _fitted(name: str, column: Sequence[FeatureValue | None], step: int) -> Feature:
    """Return how a feature is seen: as numbers, by every `step`-th of them, unless most values are texts."""
    if set(map(type, column)) - {float, int}:
        texts = [_text(value) for value in column if isinstance(value, str | bool)]
        if 2 * len(texts) > sum(value is not None for value in column):
            return _of_texts(name, texts)
    numbers, _ = _numbers(column[::step])
    return _of_numbers(name, np.sort(numbers[~np.isnan(numbers)]))


def _of_texts(name: str, texts: Sequence[str]) -> Feature:
    counted = Counter(texts).most_common(KNOWN_MAX + 1)
    categories = {
        text: FIRST + number if number < INSIDE else ABOVE
        for number, (text, _) in enumerate(counted[:KNOWN_MAX])
    }
    return Feature(name, False, [], 0.0, 0.0, 0.0, 1.0, categories, len(counted) > KNOWN_MAX)


def _of_numbers(name: str, rising: Array) -> Feature:
    if not len(rising):
        return Feature(name, True, [], 0.0, 0.0, 0.0, 1.0, {})
    size = len(rising)
    quantiles = np.interp(np.linspace(0, size - 1, INSIDE + 1), np.arange(size), rising)
    margin = MARGIN * float(quantiles[-1] - quantiles[0])
    scale = float(quantiles[3 * INSIDE // 4] - quantiles[INSIDE // 4]) / 1.35 or float(rising.std()) or 1.0
    return Feature(
        name,
        True,
        np.unique(quantiles[1:-1]).tolist(),
        float(quantiles[0]) - margin,
        float(quantiles[-1]) + margin,
        float(quantiles[INSIDE // 2]),
        scale,
        {},
    )


def quantiles(feature: Feature, shares: Array, at: Sequence[float]) -> list[float]:
    """Return quantiles of a feature of numbers by its shares of cells: even within each, and beyond the first
    rows at their bounds.

    >>> evenly = _of_numbers("x", np.arange(101.0))
    >>> shares = np.array([0.5, 0.0, 0.0, *[0.025] * 20, 0.0])
    >>> [round(one, 1) for one in quantiles(evenly, shares, (0.1, 0.5, 0.9))]
    [10.0, 50.0, 90.0]
    """
    inside = shares[FIRST : FIRST + len(feature.edges) + 1]
    rising = shares[BELOW] + np.concatenate([[0.0], np.cumsum(inside)])
    bounds = [feature.low, *feature.edges, feature.high]
    return [float(one) for one in np.interp(np.array(at) * (rising[-1] + shares[ABOVE]), rising, bounds)]


class _Views(NamedTuple):
    """Some rows as cells and as places, a feature a row."""

    cells: Cells
    places: Array


def _views(features: Sequence[Feature], columns: SampledColumns, rows: int) -> _Views:
    cells = np.zeros((len(features), rows), dtype=np.int64)
    places = np.zeros((len(features), rows))
    numeric: list[int] = []
    numbers: list[Array] = []
    odd: list[tuple[int, Cells]] = []
    for number, feature in enumerate(features):
        if (column := columns.get(feature.name)) is None:
            continue
        if not feature.numeric:
            cells[number] = _cells_of_texts(feature, column)
            places[number] = (cells[number] - FIRST) / RARITY
            continue
        values, texts = _numbers(column)
        numeric.append(number)
        numbers.append(values)
        if texts is not None:
            odd.append((number, texts))
    if numeric:
        matrix, known = np.stack(numbers), [features[number] for number in numeric]
        found = np.stack(
            [np.searchsorted(one.edges, row, side="right") for one, row in zip(known, matrix, strict=True)]
        )
        found = np.where(matrix < _column(known, "low"), BELOW, FIRST + found)
        found = np.where(matrix > _column(known, "high"), ABOVE, found)
        cells[numeric] = np.where(np.isnan(matrix), MISSING, found)
        places[numeric] = _placed(known, matrix)
    for number, texts in odd:
        cells[number, texts] = ODD
    return _Views(cells, places)


def _column(features: Sequence[Feature], name: str) -> Array:
    return np.array([[getattr(feature, name)] for feature in features])


def _placed(features: Sequence[Feature], numbers: Array) -> Array:
    """Return places of numbers, a feature a row; what is missing is in the middle."""
    if not len(features):
        return numbers
    places = np.clip((numbers - _column(features, "centre")) / _column(features, "scale"), -CLIP, CLIP)
    return np.asarray(np.where(np.isnan(numbers), 0.0, places))


def _cells_of_texts(feature: Feature, column: Sequence[FeatureValue | None]) -> Cells:
    unknown, known = ABOVE if feature.open else ODD, feature.categories
    if set(map(type, column)) == {str}:
        return np.array([known.get(value, unknown) for value in column], dtype=np.int64)  # type: ignore[arg-type]
    return np.array(
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


def _numbers(column: Sequence[FeatureValue | None]) -> tuple[Array, Cells | None]:
    """Return a column of numbers, NaN where there is none, and where a text stands, None if nowhere."""
    try:
        return np.frombuffer(pack(f"{len(column)}d", *column)), None
    except error:  # a value is missing or a text; numpy would read a number out of a text
        odd = np.array([isinstance(value, str) for value in column], dtype=bool)
        numbers = [None if isinstance(value, str) else value for value in column]
        return np.array(numbers, dtype=float), odd if odd.any() else None


def numbers_of(rows: Sequence[FeatureValues], names: Sequence[str]) -> Array:
    """Return numbers of some rows, one a row; NaN where one is missing or a text.

    >>> numbers_of([{"x": 1, "y": 0.5}, {"x": "1", "y": True}, {"y": 2.0}], ["x", "y"]).tolist()
    [[1.0, 0.5], [nan, 1.0], [nan, 2.0]]
    """
    if not names:
        return np.zeros((len(rows), 0))
    form, pick, parts = Form(f"{len(names)}d"), itemgetter(*names, names[-1]), []
    for row in rows:
        try:
            parts.append(form.pack(*pick(row)[:-1]))
        except (KeyError, error):
            values = map(row.get, names)
            parts.append(form.pack(*(one if isinstance(one, int | float) else math.nan for one in values)))
    return np.frombuffer(b"".join(parts)).reshape(len(rows), len(names))


def _together(features: Sequence[Feature], views: _Views) -> Array:
    """Return rows of numbers of like size: numbers in units of their spread, categories as 0 or 1."""
    parts = [
        place[:, None]
        if feature.numeric
        else np.eye(CELLS)[cells][:, : FIRST + min(len(feature.categories), INSIDE)]
        for feature, cells, place in zip(features, *views, strict=True)
    ]
    return np.concatenate(parts, axis=1) if parts else np.zeros((views.cells.shape[1], 1))


def _text(value: FeatureValue) -> str:
    return value if isinstance(value, str) else str(value).lower()
