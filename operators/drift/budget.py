"""The one budget of false alarms: what is unusual among the blocks of the reference, and bets on it.

Lives here: the p-value of a distance by the reference's own distances, and the e-detector over blocks.
Never here: distances (`two_sample.py`), what an alarm means (`triage.py`).

    distance of a block ---> its rank among the distances of reference blocks, each measured with itself left
    out rank                ---> a normal score z, and bets exp(l z - l^2 / 2) with a few fixed l: an e-value
    e-values            ---> a Shiryaev-Roberts sum for each statistic; their weighted mean against one
    threshold

Blocks, not rows, are what is compared: seasons within a block, bursts and the likeness of rows are in the
distances of the reference too.  A mean of e-detectors is one, whatever their dependence, so all statistics
share the budget by their weights (Bonferroni's bound) and the mean time to a false alarm is at least the
threshold in blocks (Shin, Ramdas and Rinaldo, "E-detectors", 2023).  Ranks among a few blocks win less than
they may, so alarms would come far more seldom than promised: the threshold is a part of it, `SPENT`.  Three
things are approximations, measured in docs/drift-results.md: that part; beyond the largest distance of the
reference the p-value is that of a Pareto tail; blocks that resemble their neighbours make each bet weaker
(the e-values of L interleaved sequences of blocks that are far enough apart are independent, and the L-th
root of their product is below their mean).
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Final

import numpy as np

from operators.drift.two_sample import Array

__all__ = [
    "BETS",
    "BOTH_WAYS",
    "bets",
    "budget_shares",
    "enough",
    "grown",
    "p_values",
    "unusual",
    "usual_of",
]

BETS: Final = (0.75, 1.5, 2.25, 3.0)
"""From shifts that need a week of blocks to those that one block shows."""
TAIL_INDEX: Final = 4.0
"""Of the Pareto tail beyond what the reference has seen: heavier than that of most streams."""
Z_MIN, Z_MAX = -3.0, 8.0
WEALTH_MAX: Final = 1e12
RESEMBLANCE_MAX: Final = 8.0
SURE_DEVIATIONS: Final = 0.5
"""Of its estimate, by which a correlation must exceed 0 to count."""
WEIGHTS: Final = {
    "scores": 0.1,
    "mmd": 0.05,
    "lsdd": 0.05,
    "refused": 0.05,
    "labels": 0.1,
    "loss": 0.2,
    "residual up": 0.05,
    "residual down": 0.05,
}
"""Shares of the budget; what is left is shared evenly by the features."""
RESIDUALS: Final = 0.15
"""Of the budget, shared evenly by the residuals with features."""
SPENT: Final = 0.4
"""Of the promised blocks, the evidence that is enough for a verdict.  The bound would ask for all of them;
how much it gives away was measured on runs made for that alone; docs/drift-results.md has the rate on others.
"""
EVIDENCE_MIN: Final = 5.0
"""Where more blocks are promised, less evidence than this is never enough."""
BOTH_WAYS: Final = ((" up", 1.0), (" down", -1.0))
"""A statistic with a sign is bet on in both ways, each by itself: its steps in one direction add up."""
_NORMAL = NormalDist()
_BETS = np.array(BETS)


def budget_shares(features: Sequence[str]) -> dict[str, float]:
    """Return the share of each statistic in the budget.

    >>> round(sum(budget_shares(["a", "b", "c"]).values()), 6)
    1.0
    """
    rows = [f"feature:{name}" for name in features]
    residuals = [f"residual:{name}{way}" for name in features for way, _ in BOTH_WAYS]
    left = 1.0 - sum(WEIGHTS.values()) - RESIDUALS
    return {
        **WEIGHTS,
        **dict.fromkeys(rows, left / max(len(rows), 1)),
        **dict.fromkeys(residuals, RESIDUALS / max(len(residuals), 1)),
    }


def enough(promised_blocks: float) -> float:
    """Return the evidence at which a verdict opens.

    >>> enough(3.0), enough(10.0), enough(100.0)
    (3.0, 5.0, 40.0)
    """
    return max(SPENT * promised_blocks, min(promised_blocks, EVIDENCE_MIN))


def p_values(distances: Array, usual: Array, least: Array) -> Array:
    """Return by statistic how rarely a block of the reference lies as far out.

    `usual` are the distances of the reference's blocks, a statistic a row, rising; `least` is the smallest
    difference of distances that is worth telling, in their unit.

    >>> usual = np.arange(1.0, 20.0)
    >>> p_values(np.array([10.0, 19.0, 60.0]), np.stack([usual] * 3), np.full(3, 0.1)).round(5).tolist()
    [0.55, 0.1, 0.00043]
    """
    size = usual.shape[1]
    above = (usual >= distances[:, None]).sum(1)
    found = (1.0 + above) / (size + 1)
    beyond = above == 0
    if beyond.any():
        tail, centre = usual[beyond], size // 2
        scale = np.maximum(tail[:, centre:].mean(1) - tail[:, centre], least[beyond])
        further = 1.0 + (distances[beyond] - tail[:, -1]) / (TAIL_INDEX * scale)
        found[beyond] = further**-TAIL_INDEX / (size + 1)
    return np.asarray(found)


def unusual(p: float) -> float:
    """Return the normal score of a p-value: 0 at a half, larger for what is rarer.

    >>> round(unusual(0.5), 3), round(unusual(0.025), 2)
    (0.0, 1.96)
    """
    return min(max(_NORMAL.inv_cdf(1.0 - min(max(p, 1e-15), 1.0 - 1e-15)), Z_MIN), Z_MAX)


def bets(z: Array, apart: Array) -> Array:
    """Return the e-values of normal scores, one a row; `apart` is how many blocks one counts for."""
    return np.asarray(np.exp((_BETS * z[:, None] - _BETS * _BETS / 2.0) / apart[:, None]))


def grown(wealth: Array, factors: Array) -> Array:
    """Return the Shiryaev-Roberts sums after one more block."""
    return np.minimum((1.0 + wealth) * factors, WEALTH_MAX)


def usual_of(distances: Array) -> tuple[Array, Array]:
    """Return the distances rising, a statistic a row, and how many blocks in a row count as one.

    `distances` has a block a row and a statistic a column.  The second is from the correlation of neighbours'
    ranks, if it is sure.

    >>> rising, apart = usual_of(np.array([[1.0], [9.0], [2.0], [8.0], [3.0], [7.0]]))
    >>> rising.tolist(), apart.tolist()
    ([[1.0, 2.0, 3.0, 7.0, 8.0, 9.0]], [1.0])
    """
    size = len(distances)
    order = np.argsort(distances, axis=0, kind="stable")
    rising = np.take_along_axis(distances, order, axis=0)
    if size < 4:
        return rising.T, np.ones(distances.shape[1])
    # Equal distances have the same rank: how many are smaller, and how many are not larger.
    places = np.broadcast_to(np.arange(size)[:, None], rising.shape)
    begins = np.ones(rising.shape, dtype=bool)
    begins[1:] = rising[1:] != rising[:-1]
    ends = np.ones(rising.shape, dtype=bool)
    ends[:-1] = begins[1:]
    smaller = np.maximum.accumulate(np.where(begins, places, 0), axis=0)
    not_larger = np.minimum.accumulate(np.where(ends, places + 1, size)[::-1], axis=0)[::-1]
    ranks = np.empty(rising.shape)
    np.put_along_axis(ranks, order, (smaller + not_larger).astype(float), axis=0)
    ranks -= ranks.mean(0)
    total = (ranks**2).sum(0)
    alike = (ranks[1:] * ranks[:-1]).sum(0) / np.where(total > 0.0, total, 1.0)
    sure = np.clip(alike - SURE_DEVIATIONS * size**-0.5, 0.0, 0.9)
    return rising.T, np.minimum((1.0 + sure) / (1.0 - sure), RESEMBLANCE_MAX)
