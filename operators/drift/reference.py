"""What a block is compared with: the blocks of the reference, and how far these lie from one another.

Lives here: expected means (of all blocks, or of those at the same place in the week), and the distances of
every statistic.  Never here: which blocks are in the reference (`watcher.py`).

    block's means - expected means ---> one distance for each feature, for scores, and for all features at
    once the same for each block of the reference, expected from the others ---> what is usual
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from operators.drift.frame import CELLS, SCORE_CELLS, CellFrame
from operators.drift.two_sample import Array, chi_square, ks, lsdd, mmd

__all__ = ["JOINT", "distances", "expected_means", "left_out_means", "row_statistics"]

JOINT: Final = ("scores", "mmd", "lsdd", "refused")
"""Statistics besides those of single features, in the order in which `distances` has them."""
LEAST: Final = {"ks": 0.01, "chi_square": 0.02, "scores": 0.01, "mmd": 1e-4, "lsdd": 1e-4, "refused": 2e-3}
"""Smallest differences of distances worth telling."""
SHRINK: Final = 1.0
"""Blocks of the whole reference that stand beside those of one place in the week."""


def row_statistics(frame: CellFrame) -> tuple[list[str], Array]:
    """Return the names of the statistics in the order in which `distances` has them, and by each the smallest
    difference worth telling."""
    names = [f"feature:{feature.name}" for feature in frame.features]
    least = [LEAST["ks" if feature.numeric else "chi_square"] for feature in frame.features]
    return [*names, *JOINT], np.array([*least, *(LEAST[name] for name in JOINT)])


def expected_means(vectors: Array, slots: Any, slot: int) -> Array:
    """Return the means that a block at `slot` should have; `vectors` has a block a row, `slots` its place."""
    chosen = vectors[slots == slot]
    return np.asarray((chosen.sum(0) + SHRINK * vectors.mean(0)) / (len(chosen) + SHRINK))


def left_out_means(vectors: Array, slots: Any) -> Array:
    """Return for each block the means that the others let expect."""
    total, size = vectors.sum(0), len(vectors)
    sums = np.zeros((int(slots.max()) + 1, vectors.shape[1]))
    np.add.at(sums, slots, vectors)
    counts = np.bincount(slots, minlength=len(sums))
    others = (total - vectors) / (size - 1)
    return np.asarray((sums[slots] - vectors + SHRINK * others) / (counts[slots] - 1.0 + SHRINK)[:, None])


def distances(frame: CellFrame, vectors: Array, expected: Array) -> Array:
    """Return the distances of some blocks, one a row: by feature in the frame's order, then `JOINT`."""
    count = len(frame.features)
    features, of_scores = count * CELLS, count * CELLS + SCORE_CELLS
    blocks = len(vectors)
    shares = vectors[:, :features].reshape(blocks, count, CELLS)
    usual = np.broadcast_to(expected, vectors.shape)[:, :features].reshape(blocks, count, CELLS)
    numeric = np.array([feature.numeric for feature in frame.features], dtype=bool)
    by_feature = np.where(numeric, ks(shares, usual), chi_square(shares, usual))
    difference = vectors - expected
    ranked = chi_square if frame.classes else ks
    scores = ranked(
        vectors[:, features:of_scores],
        np.broadcast_to(expected, vectors.shape)[:, features:of_scores],
    )
    cosines = of_scores + 2 * len(frame.kernels.frequencies[0])
    together = mmd(difference[:, of_scores:cosines])
    density = lsdd(
        difference[:, cosines : cosines + len(frame.kernels.centres)], np.asarray(frame.kernels.difference)
    )
    return np.column_stack([by_feature, scores, together, density, difference[:, -2]])
