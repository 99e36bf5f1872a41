"""What a test could do that knows what no rule in production knows.

Lives here: bounds to hold the tables against, from the block means of many runs.  Never here: the rule, laws,
Markdown.
"""

from __future__ import annotations

import math

import numpy as np

from loadtest.evidence.laws import Floats
from loadtest.evidence.rule import SHORT

__all__ = ["by_law", "by_variance", "mistaken"]

WINDOWS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Lengths of a moving mean, in short blocks, among which the best is chosen."""


def by_variance(collapse: Floats, change: int, every: int) -> float:
    """Return ln(threshold) x 2 x long-run variance / shift^2, in labels: for one who knows these two."""
    before = collapse[:, : change // SHORT]
    size = before.shape[1] // 3
    sums = before[:, : 3 * size].reshape(-1, size).mean(axis=1)
    variance = float(sums.var()) * size
    shift = float(collapse[:, change // SHORT + 1 :].mean() - before.mean())
    return float(math.log(every / SHORT) * 2.0 * variance / shift**2 * SHORT)


def by_law(equal: Floats, collapse: Floats, change: int, every: int) -> float:
    """Return the median labels until the best moving mean passes a bar that equals pass once in `every`.

    Its length and bar are chosen on these very runs: for one who knows the law, and what changes.
    """
    blocks = change // SHORT
    calm = math.exp(-equal.shape[1] * SHORT / every)
    found = math.inf
    for size in WINDOWS:
        bar = float(np.quantile(_moving(equal, size).max(axis=1), calm))
        moving = _moving(collapse, size)
        first = max(blocks - size + 1, 0)
        passed = moving[:, first:] > bar
        at = np.where(passed.any(axis=1), passed.argmax(axis=1) + first + size - blocks, math.inf)
        found = min(found, float(np.median(at)) * SHORT)
    return found


def mistaken(equal: Floats, labels: int, shift: float, every: int) -> float:
    """Return how often in `every` labels a mean over so many labels is `shift` or more; none overlap."""
    size = labels // SHORT
    moving = _moving(equal, size)
    count, free = 0, np.zeros(len(moving), int)
    for place, column in enumerate(moving.T):
        found = (column >= shift) & (free <= place)
        free[found] = place + size
        count += int(found.sum())
    return count / (equal.size * SHORT) * every


def _moving(means: Floats, size: int) -> Floats:
    sums = np.cumsum(np.pad(means, ((0, 0), (1, 0))), axis=1)
    return np.asarray((sums[:, size:] - sums[:, :-size]) / size)
