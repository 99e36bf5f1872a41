"""Exact sums: which values may enter a window, and how sums and squares of numbers are held.

Lives here: pure functions of numbers.  Never here: time, keys, memory.

Strategy: sums are exact.  A double is a whole number of units of 2**-252 if it is not
nearer to zero than 2**-200, so a sum of doubles is an integer: adding has an exact inverse,
order does not matter, nothing drifts, and one rounding at the end gives the correctly
rounded sum (what `math.fsum` gives).  The running sums of `log.py` are such integers,
so that a value is a function of the window's content alone, however it was reached.

Integers of that size cost four times a float, so everyday numbers are held as two floats each
(`ExactSplit`): `high`, the value rounded to a coarse unit, and `low`, the rest, a whole number of fine
units.  As long as sums stay below 2**53 of their units every addition of highs and of lows is exact
(Sterbenz; Rump, Ogita and Oishi, "Accurate floating-point summation", 2008, section 3), and the sum
of both, one rounded addition, is again the correctly rounded sum.  What does not fit is held
as integers, with the same result to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import frexp, ldexp
from typing import Any, Final, NamedTuple

__all__ = [
    "BITS",
    "SCALE",
    "UNIT",
    "VALUE_MAX",
    "VALUE_MIN",
    "ExactSplit",
    "Number",
    "as_value",
    "split_for",
    "variance",
    "variance_of",
]

Number = float | int | bool

BITS: Final = 252
SCALE: Final = 2.0**BITS
UNIT: Final = 2.0**-BITS
VALUE_MIN: Final = 2.0**-200
"""A number nearer to zero than this (6e-61) enters windows as 0.0."""
VALUE_MAX: Final = 1e15
"""A number beyond this counts as missing (decoders refuse it): whole numbers up to it are exact doubles."""
WINDOW_TEXT_MAX: Final = 256
"""Characters of a text that a window keeps and tells apart, and that a user's function may return."""


def as_value(value: Any) -> Any:
    """Return a number or a text as it enters a window, None where it may not.

    >>> as_value(3), as_value(1e-90), as_value(float("nan")), as_value("a" * 300) == "a" * 256
    (3, 0.0, None, True)
    """
    if isinstance(value, str):
        return value[:WINDOW_TEXT_MAX]
    if value is None or not -VALUE_MAX <= value <= VALUE_MAX:
        return None
    if -VALUE_MIN < value < VALUE_MIN and value:
        return 0.0
    return value


class ExactSplit(NamedTuple):
    """How the numbers of one column are held as two floats.

    With a scale of 1 a value of at most 2**20 is `high`, a multiple of 2**-19, and `low`, at most
    2**-20 and a multiple of 2**-59; running sums stay within 2**33 and 2**-7, so that the difference
    of two of them is still less than 2**53 units.  That is all doubles from 2**-7 (0.008) to a million,
    and every shorter one, such as whole numbers.
    """

    value_max: float
    round_high: float
    """Adding and taking away this rounds to a multiple of the coarse unit."""
    round_low: float
    """Adding and taking away this leaves a multiple of the fine unit as it is."""
    high_max: float
    low_step: float
    """No `low` is larger."""
    low_max: float

    def parts(self, value: Number) -> tuple[float, float] | None:
        """Return `high` and `low` of `value`, None if it does not fit.

        >>> split_for([1024]).parts(0.1)
        (0.10000038146972656, -3.814697265569489e-07)
        >>> split_for([1024]).parts(1e-9) is None
        True
        """
        if not -self.value_max <= value <= self.value_max:
            return None
        high = value + self.round_high - self.round_high
        low = value - high
        return (high, low) if low + self.round_low - self.round_low == low else None

    def room(self, high: float, low: float) -> int:
        """Return how many more values may be added to these sums, whatever they are."""
        return int(
            min((self.high_max - abs(high)) / self.value_max, (self.low_max - abs(low)) / self.low_step)
        )

    def holds(self, sums: Sequence[float]) -> bool:
        """Return whether all these sums, of highs and of lows in turn, are within bounds."""
        highs, lows = sums[::2], sums[1::2]
        return (
            max(highs) <= self.high_max
            and min(highs) >= -self.high_max
            and max(lows) <= self.low_max
            and min(lows) >= -self.low_max
        )


def split_for(values: Iterable[Any]) -> ExactSplit:
    """Return a split for numbers like `values`: up to a thousand times the largest of them."""
    largest = max((abs(value) for value in values if value), default=1.0)
    scale = ldexp(1.0, frexp(largest)[1] - 11)
    return ExactSplit(
        value_max=2.0**20 * scale,
        round_high=1.5 * 2.0**33 * scale,
        round_low=1.5 * 2.0**-7 * scale,
        high_max=2.0**33 * scale,
        low_step=2.0**-20 * scale,
        low_max=2.0**-7 * scale,
    )


def variance(count: int, total: int, squares: int) -> float:
    """Return the variance with n - 1 of `count` numbers, correctly rounded; 0.0 for one.

    `total` is their sum in units of 2**-252, `squares` the sum of the squares of those units.
    """
    if count == 1:
        return 0.0
    return (count * squares - total * total) / (count * (count - 1) << 2 * BITS)


def variance_of(values: Sequence[Number]) -> float:
    """Return the variance of the values themselves.

    >>> variance_of([1e9, 1e9 + 1, 1e9 + 2])
    1.0
    """
    units = [int(value * SCALE) for value in values]
    return variance(len(units), sum(units), sum([unit * unit for unit in units]))
