"""Distances between the distribution of a block and that of its reference, one feature or several at once.

Lives here: Kolmogorov-Smirnov, population stability, chi-square on shares of cells; maximum mean discrepancy
by random Fourier features and the least-squares density difference, on a random projection of all features.
Never here: which distance is unusual (`budget.py`).

Every distance is a function of means over rows: shares of cells, mean cosines, mean kernels.  So a block is
kept as one vector of means, blocks are pooled by adding, and leaving a block out of the reference is a
subtraction. No p-value of independent rows is taken anywhere: rows of a stream are not independent, and such
values would promise what they do not hold.

- MMD: Gretton et al., "A kernel two-sample test" (JMLR 2012); random Fourier features: Rahimi and Recht
(2007). - LSDD: Sugiyama et al., "Density-difference estimation" (Neural Computation 2013).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

__all__ = [
    "Array",
    "Kernels",
    "chi_square",
    "fit_kernels",
    "ks",
    "lsdd",
    "mmd",
    "permutation_p",
    "population_stability",
]

Array = NDArray[np.float64]

PROJECTED_MAX: Final = 6
"""Dimensions after random projection: kernels on more see little."""
FREQUENCIES: Final = 32
CENTRES: Final = 32
PAIRS_MAX: Final = 250
"""Rows whose distances give the width of the kernel, by the median."""
RIDGE: Final = 0.1
"""Of the density difference: what noise in the kernel means costs."""
SHARE_MIN: Final = 2e-3
"""A cell that the reference hardly knows counts as one with this share."""


def ks(shares: Array, reference: Array) -> Array:
    """Return the largest distance of cumulated shares; cells are the last axis, in their order.

    >>> float(ks(np.array([0.5, 0.5, 0.0]), np.array([0.5, 0.25, 0.25])))
    0.25
    """
    return np.asarray(np.abs(np.cumsum(shares - reference, axis=-1)).max(axis=-1))


def chi_square(shares: Array, reference: Array) -> Array:
    """Return the chi-square distance per row: the statistic of goodness of fit over the number of rows.

    >>> float(chi_square(np.array([0.5, 0.5]), np.array([0.25, 0.75])).round(4))
    0.3333
    """
    return np.asarray(((shares - reference) ** 2 / np.maximum(reference, SHARE_MIN)).sum(axis=-1))


def population_stability(shares: Array, reference: Array) -> Array:
    """Return the population stability index, the symmetric divergence of Jeffreys.

    >>> float(population_stability(np.array([0.5, 0.5]), np.array([0.25, 0.75])).round(4))
    0.2747
    """
    one, other = np.maximum(shares, SHARE_MIN), np.maximum(reference, SHARE_MIN)
    return np.asarray(((one - other) * np.log(one / other)).sum(axis=-1))


class Kernels(Struct, frozen=True):
    """What makes of a row of numbers its cosines and kernels; kept as plain lists, so it is stored as it
    is."""

    projection: list[list[float]]
    """Of the numbers of a row to at most `PROJECTED_MAX`."""
    frequencies: list[list[float]]
    centres: list[list[float]]
    width: float
    """Of the kernel exp(-|x - y|^2 / (2 width^2)) ..."""
    difference: list[list[float]]
    """... and the form by which kernel means at the centres give the density difference."""

    @property
    def size(self) -> int:
        """Return how many means a block has."""
        return 2 * len(self.frequencies[0]) + len(self.centres)

    def means(self, rows: Array) -> Array:
        """Return the mean cosines, sines and kernels of some rows."""
        x = rows @ np.asarray(self.projection)
        phases = x @ np.asarray(self.frequencies)
        kernels = _kernels(x, np.asarray(self.centres), self.width)
        return np.concatenate([np.cos(phases).mean(0), np.sin(phases).mean(0), kernels.mean(0)])


def fit_kernels(rows: Array, seed: int) -> Kernels:
    """Return the kernels for rows like these; equal seeds and rows give equal kernels."""
    rng = np.random.default_rng(seed)
    width = rows.shape[1]
    size = min(width, PROJECTED_MAX)
    projection = np.eye(width) if width <= size else rng.standard_normal((width, size)) / np.sqrt(size)
    x = rows @ projection
    some = x[rng.permutation(len(x))[:PAIRS_MAX]]
    apart = (some**2).sum(1)[:, None] + (some**2).sum(1) - 2.0 * some @ some.T
    squared = float(np.median(apart[np.triu_indices(len(some), 1)])) if len(some) > 1 else 1.0
    sigma = max(squared, 0.0) ** 0.5
    sigma = sigma if sigma > 0.0 else 1.0
    centres = x[rng.permutation(len(x))[:CENTRES]]
    frequencies = rng.standard_normal((size, FREQUENCIES)) / sigma
    products = _products(centres, sigma)
    inverse = np.linalg.inv(products + RIDGE * np.eye(len(centres)))
    difference = 2.0 * inverse - inverse @ products @ inverse
    return Kernels(
        projection.tolist(),
        frequencies.tolist(),
        centres.tolist(),
        sigma,
        ((difference + difference.T) / 2).tolist(),
    )


def _kernels(x: Array, centres: Array, width: float) -> Array:
    squares = (x**2).sum(1)[:, None] + (centres**2).sum(1) - 2.0 * x @ centres.T
    return np.asarray(np.exp(-squares / (2.0 * width * width)))


def _products(centres: Array, width: float) -> Array:
    """Return the overlap of the kernels of every two centres, in units in which that of one is 1."""
    squares = ((centres[:, None] - centres[None]) ** 2).sum(-1)
    return np.asarray(np.exp(-squares / (4.0 * width * width)))


def mmd(difference: Array) -> Array:
    """Return the squared maximum mean discrepancy from differences of mean cosines and sines (last axis).

    >>> float(mmd(np.array([0.1, 0.0, 0.0, 0.2])).round(4))
    0.025
    """
    return np.asarray((difference**2).sum(axis=-1) / (difference.shape[-1] // 2))


def lsdd(difference: Array, form: Array) -> Array:
    """Return the density difference from those of kernel means (last axis), and the form of `Kernels`."""
    return np.asarray(((difference @ form) * difference).sum(axis=-1))


def permutation_p(before: Array, after: Array, seed: int, permutations: int = 199) -> float:
    """Return the share of permutations of *blocks* in which the squared distance of means is as large.

    Rows of one block stay together: what blocks share (a season, a storm) is no evidence.  One block a row.

    >>> rng = np.random.default_rng(0)
    >>> permutation_p(rng.standard_normal((20, 3)), rng.standard_normal((5, 3)) + 3.0, seed=1)
    0.005
    """
    rng = np.random.default_rng(seed)
    blocks = np.concatenate([before, after])
    size, count = len(after), len(blocks)
    total = blocks.sum(0)
    drawn = rng.permuted(np.tile(np.arange(count) < size, (permutations, 1)), axis=1)
    parts = np.vstack([after.sum(0), drawn.astype(float) @ blocks])
    apart = ((parts / size - (total - parts) / (count - size)) ** 2).sum(1)
    as_large = int((apart[1:] >= apart[0] * (1.0 - 1e-9)).sum())
    return (1 + as_large) / (permutations + 1)
