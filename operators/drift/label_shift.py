"""Label shift without labels: which class shares explain the scores that were served.

Lives here: black box shift estimation with its interval.  Never here: whether it is a label shift
(`triage.py`), the correction of scores (nobody's: a person decides).

BBSE: Lipton, Wang and Smola, "Detecting and correcting for label shift with black box predictors" (ICML
2018). If P(x | y) stays, so does P(answer | y), and P(answer) = sum over y of P(answer | y) P(y): the class
shares are the solution of linear equations, whatever the predictor, as long as it knows more than nothing.
The interval is by the delta method, over the sampling of both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from operators.drift.two_sample import Array

__all__ = ["ClassShares", "bbse"]

NORMAL_95: Final = 1.96
CONDITION_MAX: Final = 1e3
"""A confusion matrix that is worse conditioned says nothing of the classes."""


class ClassShares(NamedTuple):
    """Class shares, and the half width of the 95 % interval of each."""

    shares: tuple[float, ...]
    margins: tuple[float, ...]


def bbse(table: Array, answers: Sequence[float]) -> ClassShares | None:
    """Return the class shares behind some answers, or None where the predictor cannot tell.

    `table[y, a]` counts the reference's labelled rows of class y that were answered a; `answers[a]` counts
    the answers, without labels.

    >>> table = np.array([[80.0, 20.0], [10.0, 90.0]])
    >>> prior = bbse(table, [450.0, 550.0])
    >>> [round(share, 3) for share in prior.shares], [round(margin, 2) for margin in prior.margins]
    ([0.5, 0.5], [0.08, 0.08])
    """
    counts = np.asarray(answers, dtype=float)
    of_class = table.sum(1)
    if counts.sum() <= 0.0 or (of_class <= 0.0).any():
        return None
    given = (table / of_class[:, None]).T
    if table.shape[0] != table.shape[1] or np.linalg.cond(given) > CONDITION_MAX:
        return None
    seen = counts / counts.sum()
    inverse = np.linalg.inv(given)
    raw = inverse @ seen
    # The variance of `seen`, and of each column of `given` weighed by its class: d(raw) = inverse (d seen -
    # d given raw).
    variance = _multinomial(seen, counts.sum())
    for number, rows in enumerate(of_class):
        variance = variance + raw[number] ** 2 * _multinomial(given[:, number], rows)
    margins = NORMAL_95 * np.sqrt(np.maximum(np.diag(inverse @ variance @ inverse.T), 0.0))
    shares = np.maximum(raw, 0.0)
    return ClassShares(tuple((shares / shares.sum()).tolist()), tuple(margins.tolist()))


def _multinomial(shares: Array, rows: float) -> Array:
    """Return the covariance of observed shares."""
    return np.asarray((np.diag(shares) - np.outer(shares, shares)) / rows)
