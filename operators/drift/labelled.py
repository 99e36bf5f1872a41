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
    "Labelled",
    "Misfit",
    "ServedRows",
    "covariances",
    "excess",
    "misfit",
    "pooled",
    "shares_of_classes",
]

RESIDUAL_UNIT: Final = 1 << 16
ROWS_MIN: Final = 30
"""A mean over fewer rows says nothing."""
VARIANCE_MIN: Final = 1e-3
"""Of one row."""


class Labelled(Struct, array_like=True):
    """Labelled rows of one block.

    Sums of residuals and places are whole numbers of `1 / RESIDUAL_UNIT`: they are the same in any order.
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

    def add(self, label: int, score: int, loss: float, residual: int) -> None:
        """Count one row of class and score cells."""
        self.rows += 1
        self.loss += loss
        self.table[label][score] += 1
        self.losses[score] += loss
        self.residuals[score] += residual

    def look(self, labels: Any, residuals: Any, places: Any) -> None:
        """Take the features of some rows: classes, residuals and places in whole units, a row each."""
        for label in np.unique(labels).tolist():
            of_class = labels == label
            self.looked[label] += int(of_class.sum())
            self.places[label] = _added(self.places[label], places[of_class].sum(0).tolist())
        self.crossed = _added(self.crossed, (residuals[:, None] * places // RESIDUAL_UNIT).sum(0).tolist())
        self.residual += int(residuals.sum())


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
    return total


def shares_of_classes(blocks: Sequence[Labelled]) -> Array:
    """Return the shares of classes, one block a row."""
    counts = np.array([[sum(row) for row in block.table] for block in blocks], dtype=float)
    return np.asarray(counts / counts.sum(1, keepdims=True))


def excess(
    blocks: Sequence[Labelled],
    reference: Sequence[Labelled],
    of: Callable[[Labelled], Any],
    *,
    left_out: bool,
) -> Array:
    """Return by block the mean of what has sums `of` a block by cells of its score, beyond what the
    reference's means in these cells let expect.

    `left_out`: the blocks are those of the reference, and each is compared with the others.
    """
    counts = np.array([np.sum(block.table, axis=0) for block in blocks], dtype=float)
    totals = np.array([np.sum(block.table, axis=0) for block in reference], dtype=float).sum(0)
    own = np.array([of(block) for block in blocks], dtype=float)
    sums = np.array([of(block) for block in reference], dtype=float).sum(0)
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
