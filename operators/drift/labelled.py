"""Labels by class, score and features: what tells a label shift from a concept that drifted.

Lives here: counts, losses, residuals and places of labelled rows by block; what a block should have lost by
its scores; how much each single change leaves unexplained.  Never here: bets, verdicts.

    P(y | x) stays, P(x) changes:  covariate shift       rows moved, answers mean what they meant
    P(x | y) stays, P(y) changes:  label shift           classes moved, each looks as it looked
    P(x) stays, P(y | x) changes:  concept drift         rows are as they were, the truth about them is not

A regression's classes are tenths of its first labels: a label shift is another mix of these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from msgspec import Struct

from operators.drift.two_sample import Array

__all__ = [
    "RESIDUAL_UNIT",
    "Contrast",
    "Labelled",
    "LabelledRows",
    "Misfit",
    "ServedRows",
    "contrast",
    "covariances",
    "excess",
    "misfit",
    "pooled",
    "shares_of_classes",
]

RESIDUAL_BITS: Final = 16
RESIDUAL_UNIT: Final = 1 << RESIDUAL_BITS
ROWS_MIN: Final = 30
"""A mean over fewer rows says nothing."""
VARIANCE_MIN: Final = 1e-3
"""Of one row."""
NOTHING: Final = np.zeros(0)


class Labelled(Struct, array_like=True):
    """Labelled rows of one block.

    All sums are whole numbers of `1 / RESIDUAL_UNIT`, or multiples of it: they are the same in any order, so
    rows may be counted in batches, however these are cut.
    """

    rows: int = 0
    loss: float = 0.0
    """Sum over rows."""
    table: list[list[int]] = []
    """Rows by class and cell of the served score."""
    losses: list[float] = []
    """Sum of losses by cell of the score."""
    residuals: list[int] = []
    """Sum of truth less answer by cell of the score."""
    looked: list[int] = []
    """Rows by class whose features were looked at."""
    places: list[list[int]] = []
    """Sum of places by class and feature."""
    crossed: list[int] = []
    """Sum of residual times place by feature."""
    residual: int = 0
    """Sum of residuals of the rows that were looked at."""
    span: tuple[float, float] | None = None
    """Smallest and largest label of a regression."""

    @staticmethod
    def empty(classes: int, cells: int, features: int) -> Labelled:
        """Return that of no rows."""
        return Labelled(
            0,
            0.0,
            [[0] * cells for _ in range(classes)],
            [0.0] * cells,
            [0] * cells,
            [0] * classes,
            [[0] * features for _ in range(classes)],
            [0] * features,
        )

    def count(self, rows: LabelledRows) -> None:
        """Count some rows."""
        cells, classes = len(self.losses), len(self.table)
        self.rows += len(rows.labels)
        self.loss += float(rows.losses.sum())
        table = np.bincount(rows.labels * cells + rows.cells, minlength=classes * cells)
        self.table = (np.array(self.table) + table.reshape(classes, cells)).tolist()
        self.losses = (np.array(self.losses) + np.bincount(rows.cells, rows.losses, cells)).tolist()
        residuals = np.bincount(rows.cells, rows.residuals, cells).astype(np.int64).tolist()
        self.residuals = _added(self.residuals, residuals)
        if len(rows.numbers):
            self.span = _spanned(self.span, (float(rows.numbers.min()), float(rows.numbers.max())))
        looked = rows.looked
        if not len(looked):
            return
        of_class, residuals_looked = np.eye(classes)[rows.labels[looked]], rows.residuals[looked]
        self.looked = _added(self.looked, of_class.sum(0).astype(np.int64).tolist())
        places = (of_class.T @ rows.places).astype(np.int64).tolist()
        self.places = [_added(*pair) for pair in zip(self.places, places, strict=True)]
        crossed = residuals_looked[:, None] * rows.places.astype(np.int64) >> RESIDUAL_BITS
        self.crossed = _added(self.crossed, crossed.sum(0).tolist())
        self.residual += int(residuals_looked.sum())


class LabelledRows(NamedTuple):
    """Labelled rows side by side."""

    labels: Any
    """Classes."""
    cells: Any
    """Of the served scores."""
    losses: Array
    """Whole multiples of `1 / RESIDUAL_UNIT`, so that sums are the same in any order."""
    residuals: Any
    """Whole numbers of `1 / RESIDUAL_UNIT`."""
    looked: Any
    """Numbers of the rows whose features are looked at."""
    places: Array
    """Their places, whole numbers of `1 / RESIDUAL_UNIT`, one row each."""
    numbers: Array = NOTHING
    """Labels of a regression."""

    def of(self, chosen: Any) -> LabelledRows:
        """Return the rows where `chosen` is true."""
        if chosen.all():
            return self
        kept = chosen[self.looked]
        numbers = np.cumsum(chosen) - 1
        return LabelledRows(
            self.labels[chosen],
            self.cells[chosen],
            self.losses[chosen],
            self.residuals[chosen],
            numbers[self.looked[kept]],
            self.places[kept],
            self.numbers[chosen] if len(self.numbers) else self.numbers,
        )


def _spanned(
    mine: tuple[float, float] | None, other: tuple[float, float] | None
) -> tuple[float, float] | None:
    if mine is None or other is None:
        return mine or other
    return min(mine[0], other[0]), max(mine[1], other[1])


def _added(mine: Sequence[int], others: Sequence[int]) -> list[int]:
    return [one + other for one, other in zip(mine, others, strict=True)]


class Misfit(NamedTuple):
    """How much each single change leaves unexplained: the mean square of what should not have moved, in its
    own deviations; about 1 where it explains all."""

    covariate: float
    """P(truth given row) should not have moved."""
    label: float
    """P(row given class) should not have."""
    mixed: float
    """Rows as served should have moved as far as the new class shares say."""
    concept: float
    """Rows as served should not have moved."""


def pooled(parts: Iterable[Labelled], total: Labelled) -> Labelled:
    """Add blocks to one, and return it."""
    for part in parts:
        total.rows += part.rows
        total.loss += part.loss
        total.table = [_added(*pair) for pair in zip(total.table, part.table, strict=True)]
        total.losses = [one + other for one, other in zip(total.losses, part.losses, strict=True)]
        total.residuals = _added(total.residuals, part.residuals)
        total.looked = _added(total.looked, part.looked)
        total.places = [_added(*pair) for pair in zip(total.places, part.places, strict=True)]
        total.crossed = _added(total.crossed, part.crossed)
        total.residual += part.residual
        total.span = _spanned(total.span, part.span)
    return total


def shares_of_classes(blocks: Sequence[Labelled]) -> Array:
    """Return the shares of classes, one block a row."""
    counts = np.array([[sum(row) for row in block.table] for block in blocks], dtype=float)
    return np.asarray(counts / counts.sum(1, keepdims=True))


def excess(
    blocks: Sequence[Labelled], reference: Labelled, of: Callable[[Labelled], Array], *, left_out: bool
) -> Array:
    """Return by block the mean of what has sums `of` a block by cells of its score, beyond what the
    reference's means in these cells let expect.

    `left_out`: the blocks are those of the reference, and each is compared with the others.
    """
    counts = np.array([block.table for block in blocks], dtype=float).sum(1)
    totals = np.array(reference.table, dtype=float).sum(0)
    own, sums = np.array([of(block) for block in blocks]), of(reference)
    rows: Array = counts.sum(1)
    if left_out:
        totals, sums = totals - counts, sums - own
    overall = sums.sum(-1) / np.maximum(totals.sum(-1), 1.0)
    by_score = np.where(totals > 0, sums / np.maximum(totals, 1.0), overall[..., None])
    return np.asarray((own.sum(1) - (counts * by_score).sum(1)) / rows)


def covariances(blocks: Sequence[Labelled]) -> Array:
    """Return for each block, one a row, the covariance of residuals with the places of each feature.

    The gradient of a linear model's loss, of which parameter-instability tests are made (Zeileis and Hornik,
    "Generalized M-fluctuation tests for parameter instability", 2007): where it leaves its usual place, the
    answer is wrong in another way on one side of the feature.  What a whole block shares is not in it.
    """
    rows = np.maximum(np.array([[sum(block.looked)] for block in blocks], dtype=float), 1.0)
    crossed = np.array([block.crossed for block in blocks], dtype=float) / RESIDUAL_UNIT
    residuals = np.array([[block.residual] for block in blocks], dtype=float) / RESIDUAL_UNIT
    places = np.array([np.sum(block.places, axis=0) for block in blocks], dtype=float) / RESIDUAL_UNIT
    return np.asarray(crossed / rows - residuals / rows * places / rows)


class Contrast(NamedTuple):
    """Which half of the link between answers and classes stayed as it was."""

    shares: float
    """Deviations of blocks by which the classes' shares moved."""
    p_given_answer: float
    """How rarely blocks show as much where the class given the answer stays ..."""
    p_given_class: float
    """... and where the answer given the class stays."""


def contrast(since: Sequence[Labelled], reference: Sequence[Labelled]) -> Contrast:
    """Return what the tables of classes and answers show along the one axis that links them most.

    The axis gives each class and each cell of scores a number (correspondence analysis: the first singular
    vectors of the table), so that either is expected from the other on a straight line.  What is beyond each
    line, and how it goes with where one is on it, is compared by Hotelling's test over blocks.  All of the
    evidence of a table on two axes: an omnibus test of its hundred cells drowns it.
    """
    before = np.array([block.table for block in reference], dtype=float)
    tables = np.array([block.table for block in since], dtype=float)
    classes, cells, link = _axis(before.sum(0))
    of_class, of_answer = cells - link * classes, classes - link * cells

    def p(*weights: Array) -> tuple[float, float]:
        sums, sums_since = (np.tensordot(one, weights, ([1, 2], [1, 2])) for one in (before, tables))
        return _hotelling(sums, before.sum((1, 2)), sums_since.sum(0), tables.sum())

    shares, _ = p(classes + 0.0 * cells)
    _, given_class = p(of_class, of_class * classes)
    _, given_answer = p(of_answer, of_answer * cells)
    return Contrast(shares**0.5, given_answer, given_class)


def _axis(table: Array) -> tuple[Array, Array, float]:
    """Return a number for each class (a column), one for each cell (a row), and their correlation."""
    shares = table / table.sum()
    of_class, of_cell = shares.sum(1, keepdims=True), shares.sum(0, keepdims=True)
    expected = of_class * of_cell
    root = np.sqrt(np.where(expected > 0.0, expected, 1.0))
    left, values, right = np.linalg.svd((shares - expected) / root)
    numbers = left[:, :1] / np.sqrt(np.where(of_class > 0.0, of_class, 1.0))
    others = right[:1] / np.sqrt(np.where(of_cell > 0.0, of_cell, 1.0))
    return np.asarray(numbers), np.asarray(others), float(values[0])


def _hotelling(before: Array, rows: Array, since: Array, rows_since: float) -> tuple[float, float]:
    """Return Hotelling's statistic of means since against those of blocks before, and its p-value (of two).

    Hotelling, "The generalization of Student's ratio" (1931); with two means its F has this closed form.
    """
    size, usual = len(before), before.sum(0) / rows.sum()
    apart = before - usual * rows[:, None]
    spread = apart.T @ apart / (size - 1) * size / rows.sum() * (1.0 / rows_since + 1.0 / rows.sum())
    difference = since / rows_since - usual
    statistic = float(difference @ np.linalg.pinv(spread, hermitian=True) @ difference)
    return statistic, (1.0 + statistic / (size - 1)) ** (-(size - 2) / 2)


class ServedRows(NamedTuple):
    """Sums over rows as served and how many rows they are of, a block a row: score cells, then places."""

    sums: Array
    rows: Array


def misfit(
    since: Sequence[Labelled],
    reference: Sequence[Labelled],
    served_since: ServedRows,
    served_before: ServedRows,
) -> Misfit:
    """Return how much each change leaves unexplained."""
    mixed = _of_mix(since, reference)
    return Misfit(
        unexplained(*_truths(reference), *_truths(since)),
        unexplained(*_within_classes(reference), *_within_classes(since)),
        unexplained(*served_before, served_since.sums - mixed * served_since.rows, served_since.rows),
        unexplained(*served_before, *served_since),
    )


def _of_mix(since: Sequence[Labelled], reference: Sequence[Labelled]) -> Array:
    """Return by how much the means of rows move because classes come in other shares."""
    tables = np.array([block.table for block in reference], dtype=float).sum(0)
    places = np.array([block.places for block in reference], dtype=float).sum(0) / RESIDUAL_UNIT
    looked = np.array([block.looked for block in reference], dtype=float).sum(0)
    rows = tables.sum(1)
    now = np.array([block.table for block in since], dtype=float).sum((0, 2))
    rise = now / now.sum() - rows / rows.sum()
    of_class = np.hstack([tables / np.maximum(rows, 1.0)[:, None], places / np.maximum(looked, 1.0)[:, None]])
    return np.asarray(rise @ of_class)


def _truths(blocks: Sequence[Labelled]) -> tuple[Array, Array]:
    """Return sums and rows by block of what should stay where only rows moved: residuals by score, and with
    features."""
    residuals = np.array([block.residuals for block in blocks], dtype=float) / RESIDUAL_UNIT
    counts = np.array([np.sum(block.table, axis=0) for block in blocks], dtype=float)
    looked = np.array([[sum(block.looked)] for block in blocks], dtype=float)
    crossed = covariances(blocks) * looked
    return np.hstack([residuals, crossed]), np.hstack([counts, np.broadcast_to(looked, crossed.shape)])


def _within_classes(blocks: Sequence[Labelled]) -> tuple[Array, Array]:
    """Return sums and rows by block of what should stay where only classes moved: scores and places in
    each."""
    tables = np.array([block.table for block in blocks], dtype=float)
    rows = np.broadcast_to(tables.sum(2, keepdims=True), tables.shape)
    places = np.array([block.places for block in blocks], dtype=float) / RESIDUAL_UNIT
    looked = np.broadcast_to(
        np.array([block.looked for block in blocks], dtype=float)[:, :, None], places.shape
    )
    size = len(blocks)
    return (
        np.hstack([tables.reshape(size, -1), places.reshape(size, -1)]),
        np.hstack([rows.reshape(size, -1), looked.reshape(size, -1)]),
    )


def unexplained(before: Array, rows_before: Array, since: Array, rows_since: Array) -> float:
    """Return the mean square of differences between two means, in deviations; sums and rows, a block a row.

    Deviations are those of blocks, not of rows (Liang and Zeger, "Longitudinal data analysis using
    generalized linear models", 1986): what rows of a block share is no evidence.
    """
    total_before, total_since = rows_before.sum(0), rows_since.sum(0)
    enough = (total_before >= ROWS_MIN) & (total_since >= ROWS_MIN)
    if not enough.any():
        return 1.0
    before, rows_before, since = before[:, enough], rows_before[:, enough], since[:, enough]
    total_before, total_since = total_before[enough], total_since[enough]
    usual = before.sum(0) / total_before
    apart = since.sum(0) / total_since - usual
    size = len(before)
    of_block = ((before - usual * rows_before) ** 2).sum(0) / (size - 1) * size / total_before
    variance = np.maximum(of_block, VARIANCE_MIN) * (1.0 / total_since + 1.0 / total_before)
    return float((apart**2 / variance).mean())
