"""Are blocks of evidence longer than losses are correlated?  The correlation of neighbouring block means.

Lives here: that number, online, and the block that would make it small.  Never here: evidence, warnings.

Strategy: the lag-1 autocorrelation r of G. E. P. Box and G. M. Jenkins ("Time Series Analysis", 1970) from
six sums.  If blocks follow one another like a first-order autoregression, (1 + r) / (1 - r) of them carry
what one independent block does (the integrated autocorrelation time); means over twice as many are
correlated by less than 0.2, whatever r was.
"""

from __future__ import annotations

import math

import msgspec

__all__ = ["Neighbours"]

CORRELATION_MAX = 0.2
"""Neighbouring blocks that are correlated more than this are no witnesses of their own."""
DEVIATIONS = 3.0
"""How many standard errors (1 / sqrt(blocks)) a correlation must be above zero to be believed."""
CORRELATION_SEEN_MAX = 0.98
"""Few blocks cannot tell more: the block advised is at most some 200 of them."""


class Neighbours(msgspec.Struct):
    """The correlation of each value with the one before it, in constant memory.

    >>> blocks = Neighbours()
    >>> for storm in range(20):
    ...     for _ in range(5):
    ...         blocks.add(0.3 if storm % 2 else -0.3)
    >>> round(blocks.correlation, 2), blocks.blocks_wanted
    (0.61, 9)
    """

    count: int = 0
    first: float = 0.0
    last: float = 0.0
    total: float = 0.0
    squares: float = 0.0
    products: float = 0.0
    """Sum of each value times the one before it."""

    def add(self, value: float) -> None:
        """Take the next value."""
        if self.count:
            self.products += value * self.last
        else:
            self.first = value
        self.last = value
        self.total += value
        self.squares += value * value
        self.count += 1

    @property
    def correlation(self) -> float:
        """Return it, 0.0 where values do not vary."""
        if self.count < 2:
            return 0.0
        mean = self.total / self.count
        spread = self.squares - self.count * mean * mean
        if spread <= 1e-9 * self.squares:
            return 0.0
        inner = 2.0 * self.total - self.first - self.last
        return (self.products - mean * inner + (self.count - 1) * mean * mean) / spread

    @property
    def blocks_wanted(self) -> int:
        """Return how many of these blocks should be one; 1 where they are long enough, or too few to tell."""
        found = self.correlation
        if self.count < 2 or found <= max(CORRELATION_MAX, DEVIATIONS / math.sqrt(self.count)):
            return 1
        found = min(found, CORRELATION_SEEN_MAX)
        return math.ceil(2.0 * (1.0 + found) / (1.0 - found))
