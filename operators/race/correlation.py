"""How much of what neighbouring blocks say is said twice.

Lives here: the spread of a series of block differences, how much correlation inflates it, and the correlation
of neighbours.  Never here: what is bet on a block (`evidence.py`).

Sums of 2, 4, 8 ... 128 blocks of independent differences spread as the blocks do; sums of correlated ones
spread more, up to the variance inflation V.  Spread is taken from half the squared step between one such sum
and the next (D. W. Allan, "Statistics of atomic frequency standards", 1966): a mean that is not zero, a
challenger that is simply better, does not enter it, and old regimes are forgotten.  Of each sum only as much
is believed as its few samples prove, so that V is 1 where nothing is wrong.

A jump of the mean enters each scale once.  In the first blocks it counts in full, for a first storm is a jump
too.  Later it is cut at what the next-shorter sums explain: a champion that collapses, or a challenger that
was cold and is not any more, must not look like correlation and so hide itself; storms that come again do
count.

The constants below were chosen on the tables of `python -m loadtest.evidence`, which also show what other
choices cost.

What is only told and not acted on is the lag-1 autocorrelation r of G. E. P. Box and G. M. Jenkins ("Time
Series Analysis", 1970), from six sums.  If blocks follow one another like a first-order autoregression,
(1 + r) / (1 - r) of them carry what one independent block does; means over twice as many are correlated by
less than 0.2, whatever r was.
"""

from __future__ import annotations

import math

import msgspec

__all__ = ["CORRELATION_MAX", "Neighbours", "Spread", "correlation_told"]

SCALES = 8
"""Sums of up to 2^7 blocks: 4,096 examples, some six hours at ten labels a minute."""
FORGET = 0.998
"""Weight kept from block to block: half of it is of the last 350 blocks."""
PAIRS_MIN = 1.96
"""Weight of the steps from which on a scale is believed: two of them, of long sums three."""
DEVIATIONS = 2.5
"""Standard errors by which a scale must spread more to count."""
CALM_BLOCKS = 130
"""Blocks after which a jump is cut."""
JUMP_MAX = 16.0
"""A squared step counts at most this many times the mean one of sums half as long: perfect correlation
makes it eight."""
OUTLIER = 20.0
"""A block this many deviations out, once there is calm, is no measure of the others."""
SATURATED_BLOCKS = 200.0
"""Blocks until the cut at two deviations is believed to tame correlated blocks as much as it seems."""
CAUTION = 3.0
"""An inflation that is seen counts this many times: what is seen late and of few storms is too small ..."""
CAUTION_BLOCKS = 100.0
"""... and once more for each of so many blocks by which one has seen fewer than that."""

CORRELATION_MAX = 0.2
"""Neighbouring blocks that are correlated more than this are not independent evidence."""
CORRELATION_DEVIATIONS = 3.0
"""How many standard errors (1 / sqrt(blocks)) a correlation must be above zero to be believed."""
CORRELATION_SEEN_MAX = 0.98
"""Few blocks cannot tell more: the block advised is at most some 200 of them."""
_FORGET_AT = tuple(FORGET ** (1 << scale) for scale in range(SCALES))


def _zeros() -> list[float]:
    return [0.0] * SCALES


class Spread(msgspec.Struct):
    """The spread of block differences and its inflation by correlation, in constant memory.

    >>> calm, storms = Spread(), Spread()
    >>> for n in range(400):
    ...     calm.add(n * 7919 % 101 - 50.0, 0.5)
    ...     storms.add((-1.0) ** (n // 20), 0.5)
    >>> calm.inflation, storms.inflation > 10
    (1.0, True)
    """

    blocks: int = 0
    sums: list[float] = msgspec.field(default_factory=_zeros)
    """By scale, the open sum of up to 2^scale blocks ..."""
    befores: list[float] = msgspec.field(default_factory=_zeros)
    """... and the closed one before it."""
    steps: list[float] = msgspec.field(default_factory=_zeros)
    """By scale, half the squared steps between neighbouring sums, with forgetting ..."""
    weights: list[float] = msgspec.field(default_factory=_zeros)
    """... and how many they weigh."""
    squares: float = 0.0
    """Of the differences, with forgetting ..."""
    cut_squares: float = 0.0
    """... and of them as they were bet on."""

    @property
    def deviation(self) -> float:
        """Return the standard deviation of a block, 0.0 where there is none yet."""
        return math.sqrt(self.steps[0] / self.weights[0]) if self.blocks > 1 else 0.0

    @property
    def saturation(self) -> float:
        """Return the mean square of what was bet on, 1.0 for independent blocks, in units of theirs."""
        seen = self.weights[0]
        return 4.0 * self.cut_squares / seen if seen else 1.0

    @property
    def inflation(self) -> float:
        """Return how many blocks carry what one independent block does, 1.0 or more."""
        if self.blocks < 4 or self.steps[0] <= 0.0:
            return 1.0
        unit = self.steps[0] / self.weights[0]
        inflation = 1.0
        for scale in range(1, SCALES):
            weight = self.weights[scale]
            if weight < PAIRS_MIN:
                break
            proven = 1.0 + DEVIATIONS * math.sqrt(2.0 / weight)
            inflation = max(inflation, self.steps[scale] / weight / (1 << scale) / unit / proven)
        if inflation > 1.0 and self.squares > 0.0:
            cut = min(4.0 * self.cut_squares * unit / self.squares, 1.0)
            inflation = max(inflation * cut ** min(1.0, self.blocks / SATURATED_BLOCKS), 1.0)
        return 1.0 + (inflation - 1.0) * (CAUTION + CAUTION_BLOCKS / self.blocks)

    def add(self, difference: float, cut: float) -> None:
        """Add the next block: its difference, and that in units of four deviations, cut at one unit."""
        calm = self.blocks >= CALM_BLOCKS
        deviation = self.deviation
        if deviation > 0.0:
            if calm:
                difference = max(-OUTLIER * deviation, min(difference, OUTLIER * deviation))
            self.squares = FORGET * self.squares + difference * difference
            self.cut_squares = FORGET * self.cut_squares + cut * cut
        self.blocks += 1
        total = difference
        for scale in range(SCALES):
            self.sums[scale] += total
            if self.blocks % (1 << scale):
                break
            total = self.sums[scale]
            if self.blocks >= 2 << scale:
                self._add_step(scale, total - self.befores[scale])
            self.befores[scale] = total
            self.sums[scale] = 0.0

    def _add_step(self, scale: int, step: float) -> None:
        half = step * step / 2.0
        if scale and self.blocks >= CALM_BLOCKS:
            half = min(half, JUMP_MAX * self.steps[scale - 1] / self.weights[scale - 1])
        self.steps[scale] = _FORGET_AT[scale] * self.steps[scale] + half
        self.weights[scale] = _FORGET_AT[scale] * self.weights[scale] + 1.0

    def mirrored(self) -> Spread:
        """Return the spread of the same two models with their roles changed."""
        return Spread(
            self.blocks,
            [-total for total in self.sums],
            [-total for total in self.befores],
            list(self.steps),
            list(self.weights),
            self.squares,
            self.cut_squares,
        )


def correlation_told(blocks: int) -> float:
    """Return the correlation above which so many blocks, at least one, are known not to be independent.

    >>> [round(correlation_told(blocks), 2) for blocks in (9, 100, 400)]
    [1.0, 0.3, 0.2]
    """
    return max(CORRELATION_MAX, CORRELATION_DEVIATIONS / math.sqrt(blocks))


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
        """Add the next value."""
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
        """Return the correlation, 0.0 where values do not vary."""
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
        """Return how many blocks should be joined; 1 where they are long enough, or too few to tell."""
        correlation = self.correlation
        if self.count < 2 or correlation <= correlation_told(self.count):
            return 1
        correlation = min(correlation, CORRELATION_SEEN_MAX)
        return math.ceil(2.0 * (1.0 + correlation) / (1.0 - correlation))
