"""When is a difference proven: intervals that hold at every moment at once.

Lives here: two intervals that may be looked at after every example, as long as one likes.  Never here: what
is compared, and what follows from it.

`MeanInterval`, of a mean of numbers in [0, 1] that come one after the other: the empirical Bernstein
confidence sequence of

    I. Waudby-Smith, A. Ramdas, "Estimating means of bounded random variables by betting" (JRSS B, 2024),
    theorem 2

Exact for any number of values, in constant memory.  Where the mean drifts it covers the mean of the means so
far, weighted as the values are.

`ArmSums`, of the difference of two arms whose units (users) come back again and again: outcomes of one user
are no independent witnesses.  So users are hashed into buckets, the variance is that of buckets (the delta
method for a ratio, cluster-robust), and the boundary is the normal mixture of

    H. Robbins, "Statistical methods related to the law of the iterated logarithm" (1970)
    I. Waudby-Smith et al., "Time-uniform central limit theory and asymptotic confidence sequences" (2021)

in the information 1 / variance.  Valid for large samples: `BUCKETS_MIN` buckets with something in them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec
import numpy as np

__all__ = ["ArmSums", "Interval", "MeanInterval", "arm_difference", "arm_differences"]

BET_MAX = 0.5
"""Largest bet of the sequence, as its authors advise."""
BUCKETS = 128
"""Buckets of an arm: 2 KB."""
BUCKETS_MIN = 32
"""Buckets with outcomes from which on a variance of buckets means something."""
DEVIATION_TIGHTEST = 0.02
"""The interval is tightest where the standard deviation of the difference is this, and less than twice the
fixed one's width from a fifth to five times of it."""


class Interval(NamedTuple):
    """Where a number lies."""

    low: float
    high: float
    middle: float
    """The estimate."""

    @property
    def excludes_zero(self) -> bool:
        """Return whether it is on one side of zero."""
        return self.low > 0.0 or self.high < 0.0


class MeanInterval(msgspec.Struct):
    """The mean of numbers in [0, 1], at every moment at once.

    >>> shares = MeanInterval(error=0.05)
    >>> for n in range(400):
    ...     shares.add(0.25 if n % 2 else 0.35)
    >>> found = shares.interval()
    >>> round(found.low, 2), round(found.middle, 2), round(found.high, 2)
    (0.28, 0.3, 0.32)
    """

    error: float
    """Probability that it ever leaves the mean out."""
    count: int = 0
    total: float = 0.0
    spread: float = 0.0
    """Sum of squared distances from the mean as it was known with each value."""
    bets: float = 0.0
    weighted: float = 0.0
    """Sums of the bets, and of bets times values."""
    penalty: float = 0.0

    def add(self, value: float) -> None:
        """Add the next value."""
        number = self.count + 1
        mean, variance = (0.5 + self.total) / number, (0.25 + self.spread) / number
        wanted = 2.0 * math.log(2.0 / self.error) / (variance * number * math.log1p(number))
        bet = min(math.sqrt(wanted), BET_MAX)
        self.bets += bet
        self.weighted += bet * value
        self.penalty += (value - mean) ** 2 * (-math.log1p(-bet) - bet)
        self.count = number
        self.total += value
        self.spread += (value - (0.5 + self.total) / (number + 1)) ** 2

    def interval(self) -> Interval:
        """Return the interval; all of [0, 1] before the first value."""
        if not self.count:
            return Interval(0.0, 1.0, 0.5)
        middle = self.weighted / self.bets
        half = (math.log(2.0 / self.error) + self.penalty) / self.bets
        return Interval(max(middle - half, 0.0), min(middle + half, 1.0), middle)


class ArmSums(msgspec.Struct):
    """Rewards of one arm, by bucket of its units."""

    counts: list[int] = msgspec.field(default_factory=lambda: [0] * BUCKETS)
    sums: list[float] = msgspec.field(default_factory=lambda: [0.0] * BUCKETS)
    count: int = 0
    total: float = 0.0

    def add(self, bucket: int, reward: float) -> None:
        """Add the reward of a unit that falls into a bucket."""
        self.counts[bucket] += 1
        self.sums[bucket] += reward
        self.count += 1
        self.total += reward

    @property
    def mean(self) -> float:
        """Return the mean reward, 0.0 without any."""
        return self.total / self.count if self.count else 0.0


_Sums = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def arm_difference(a: ArmSums, b: ArmSums, error: float) -> Interval:
    """Return where the mean reward of `a` minus that of `b` lies, in [-1, 1].

    >>> a, b = ArmSums(), ArmSums()
    >>> for n in range(4000):
    ...     (a if n % 2 else b).add(n // 2 % BUCKETS, float(n % 7 < (4 if n % 2 else 3)))
    >>> arm_difference(a, b, 0.05).excludes_zero
    True
    """
    if min(sum(map(bool, arm.counts)) for arm in (a, b)) < BUCKETS_MIN:
        return Interval(-1.0, 1.0, a.mean - b.mean)
    sums = [(np.array(arm.counts, dtype=float), np.array(arm.sums)) for arm in (a, b)]
    low, high, middle = arm_differences(*sums[0], *sums[1], error)
    return Interval(float(low), float(high), float(middle))


def arm_differences(
    counts_a: _Sums, sums_a: _Sums, counts_b: _Sums, sums_b: _Sums, error: float
) -> tuple[_Sums, _Sums, _Sums]:
    """Return the ends and the middle of the intervals of many comparisons; buckets are the last axis."""
    (mean_a, variance_a), (mean_b, variance_b) = _ratio(counts_a, sums_a), _ratio(counts_b, sums_b)
    middle = mean_a - mean_b
    half = half_width(variance_a + variance_b, error)
    return np.maximum(middle - half, -1.0), np.minimum(middle + half, 1.0), middle


def half_width(variance: _Sums, error: float) -> _Sums:
    """Return half the width of the interval around an estimate of this variance."""
    log_error = 2.0 * math.log(1.0 / error)
    mixed = DEVIATION_TIGHTEST**-2 / (log_error + math.log1p(log_error))
    information = 1.0 / np.maximum(variance, np.finfo(float).tiny ** 0.5)
    inside = (information + mixed) * (np.log1p(information / mixed) + log_error)
    return np.asarray(np.sqrt(inside) / information)


def _ratio(counts: _Sums, sums: _Sums) -> tuple[_Sums, _Sums]:
    """Return the mean over all and its variance, buckets being the independent witnesses."""
    count = counts.sum(-1)
    mean = sums.sum(-1) / count
    apart = sums - mean[..., None] * counts
    filled = (counts > 0).sum(-1)
    return mean, (apart**2).sum(-1) / count**2 * filled / (filled - 1.0)
