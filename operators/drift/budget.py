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
    "p_value",
    "resemblance",
    "unusual",
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


def p_value(distance: float, usual: Array, least: float) -> float:
    """Return how rarely a block of the reference lies this far out.

    `usual` are the distances of the reference's blocks, rising; `least` is the smallest difference of
    distances that is worth telling, in their unit.

    >>> usual = np.arange(1.0, 20.0)
    >>> p_value(10.0, usual, 0.1), p_value(19.0, usual, 0.1), round(p_value(60.0, usual, 0.1), 5)
    (0.55, 0.1, 0.00043)
    """
    size = len(usual)
    above = size - int(np.searchsorted(usual, distance, side="left"))
    if above or not size:
        return (1 + above) / (size + 1)
    upper = usual[size // 2 :]
    scale = max(float(upper.mean() - usual[size // 2]), least)
    return float((1.0 + (distance - usual[-1]) / (TAIL_INDEX * scale)) ** -TAIL_INDEX / (size + 1))


def unusual(p: float) -> float:
    """Return the normal score of a p-value: 0 at a half, larger for what is rarer.

    >>> round(unusual(0.5), 3), round(unusual(0.025), 2)
    (0.0, 1.96)
    """
    return min(max(_NORMAL.inv_cdf(1.0 - min(max(p, 1e-15), 1.0 - 1e-15)), Z_MIN), Z_MAX)


def bets(z: float, apart: float) -> list[float]:
    """Return the e-values of a normal score; `apart` is how many blocks one counts for."""
    return [float(np.exp((bet * z - bet * bet / 2.0) / apart)) for bet in BETS]


def grown(wealth: Sequence[float], factors: Sequence[float]) -> list[float]:
    """Return the Shiryaev-Roberts sums after one more block."""
    return [min((1.0 + won) * factor, WEALTH_MAX) for won, factor in zip(wealth, factors, strict=True)]


def resemblance(distances: Array) -> float:
    """Return how many blocks in a row count as one: from the correlation of neighbours' ranks, if it is sure.

    >>> resemblance(np.array([1.0, 9.0, 2.0, 8.0, 3.0, 7.0]))
    1.0
    """
    size = len(distances)
    if size < 4:
        return 1.0
    rising = np.sort(distances)
    ranks = np.searchsorted(rising, distances, "left") + np.searchsorted(rising, distances, "right")
    ranks = ranks - ranks.mean()
    total = float((ranks**2).sum())
    alike = float((ranks[1:] * ranks[:-1]).sum()) / total if total else 0.0
    sure = min(max(alike - SURE_DEVIATIONS * size**-0.5, 0.0), 0.9)
    return float(min((1.0 + sure) / (1.0 - sure), RESEMBLANCE_MAX))
