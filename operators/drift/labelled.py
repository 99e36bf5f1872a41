"""Labels by class and score: the table that tells a label shift from a concept that drifted.

Lives here: counts and losses of labelled rows by block, what a block should have lost by its scores, and
which single change explains a table.  Never here: features, bets.

    P(y | s) stays, P(s) changes:  covariate shift       rows moved, answers mean what they meant
    P(s | y) stays, P(y) changes:  label shift           classes moved, each looks as it looked
    P(s) stays, P(y | s) changes:  concept drift         rows are as they were, the truth about them is not
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from operators.drift.two_sample import Array

__all__ = ["Labelled", "Misfit", "excess_losses", "misfit", "pooled", "shares_of_classes"]


class Labelled(Struct, array_like=True):
    """Labelled rows of one block."""

    rows: int = 0
    loss: float = 0.0
    """Sum over rows."""
    table: list[list[int]] = []
    """Rows by class and cell of the served score."""
    losses: list[float] = []
    """Sum of losses by cell of the score."""

    @staticmethod
    def empty(classes: int, cells: int) -> Labelled:
        """Return that of no rows."""
        return Labelled(0, 0.0, [[0] * cells for _ in range(classes)], [0.0] * cells)

    def add(self, label: int, score: int, loss: float) -> None:
        """Count one row of class and score cells."""
        self.rows += 1
        self.loss += loss
        self.table[label][score] += 1
        self.losses[score] += loss


class Misfit(NamedTuple):
    """How badly each single change explains a table, in deviations beyond what blocks of the reference
    show."""

    covariate: float
    label: float
    concept: float
    likelier: float
    """Log-likelihood by which a covariate shift explains the table better than a label shift."""


def pooled(parts: Iterable[Labelled], classes: int, cells: int) -> Labelled:
    """Return several blocks as one."""
    total = Labelled.empty(classes, cells)
    for part in parts:
        total.rows += part.rows
        total.loss += part.loss
        for mine, others in zip(total.table, part.table, strict=True):
            mine[:] = [one + other for one, other in zip(mine, others, strict=True)]
        total.losses = [one + other for one, other in zip(total.losses, part.losses, strict=True)]
    return total


def shares_of_classes(blocks: Sequence[Labelled]) -> Array:
    """Return the shares of classes, one block a row."""
    counts = np.array([[sum(row) for row in block.table] for block in blocks], dtype=float)
    return np.asarray(counts / counts.sum(1, keepdims=True))


def excess_losses(blocks: Sequence[Labelled], reference: Sequence[Labelled], *, left_out: bool) -> Array:
    """Return by block the mean loss beyond what its scores let expect, by the losses of the reference's
    scores.

    `left_out`: the blocks are those of the reference, and each is compared with the others.
    """
    counts = np.array([np.sum(block.table, axis=0) for block in blocks], dtype=float)
    totals = np.array([np.sum(block.table, axis=0) for block in reference], dtype=float).sum(0)
    losses = np.array([block.losses for block in reference]).sum(0)
    rows: Array = counts.sum(1)
    seen = np.array([block.loss for block in blocks]) / rows
    if left_out:
        totals = totals - counts
        losses = losses - np.array([block.losses for block in blocks])
    overall = losses.sum(-1) / np.maximum(totals.sum(-1), 1.0)
    by_score = np.where(totals > 0, losses / np.maximum(totals, 1.0), overall[..., None])
    return np.asarray(seen - (counts * by_score).sum(1) / rows)


def misfit(window: Labelled, reference: Sequence[Labelled]) -> Misfit:
    """Return how badly each change explains the window's table, given the blocks of the reference.

    Blocks differ among themselves by more than chance: each likelihood is measured in units of what a block
    of the reference loses against the others.
    """
    blocks = [np.array(block.table, dtype=float) for block in reference]
    total = np.sum(blocks, axis=0)
    now = np.array(window.table, dtype=float)
    classes, cells = now.shape
    freedom = np.array([cells * (classes - 1), classes * (cells - 1), cells - 1], dtype=float)
    usual = np.mean([_lost(block, total - block) for block in blocks], axis=0)
    spread = np.maximum(usual / freedom, 1.0)
    lost = _lost(now, total)
    beyond = (lost / spread - freedom) / np.sqrt(2.0 * freedom)
    covariate, label, concept = beyond.tolist()
    by_likelihood = lost - freedom
    return Misfit(covariate, label, concept, float(by_likelihood[1] - by_likelihood[0]) / 2.0)


def _lost(now: Array, before: Array) -> Array:
    """Return twice the log-likelihood lost by each single change: covariate, label, concept."""
    joint = (before + 0.5) / (before + 0.5).sum()
    rows_of_class, rows_of_score = now.sum(1, keepdims=True), now.sum(0, keepdims=True)
    given_class = joint / joint.sum(1, keepdims=True)
    given_score = joint / joint.sum(0, keepdims=True)
    return np.array(
        [
            _deviance(now, rows_of_score * given_score),
            _deviance(now, rows_of_class * given_class),
            _deviance(rows_of_score[0], now.sum() * joint.sum(0)),
        ]
    )


def _deviance(counts: Array, expected: Array) -> float:
    ratio = np.where(counts > 0, counts / np.maximum(expected, 1e-9), 1.0)
    return float(2.0 * (counts * np.log(ratio)).sum())
