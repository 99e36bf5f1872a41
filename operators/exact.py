"""Exact sums: which numbers may enter a window, and how their sums and squares are held.

Lives here: pure functions of numbers.  Never here: time, keys, memory.

Strategy: sums are exact.  A double is a whole number of units of 2**-252 if it is not
nearer to zero than 2**-200, so a sum of doubles is an integer: adding has an exact inverse,
order does not matter, nothing drifts, and one rounding at the end gives the correctly
rounded sum (what `math.fsum` gives).  The running sums of `windows.py` are such integers,
so that a value is a function of the window's content alone, however it was reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = [
    "BITS",
    "SCALE",
    "UNIT",
    "VALUE_MAX",
    "VALUE_MIN",
    "Number",
    "as_number",
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


def as_number(value: Number | None) -> Number | None:
    """Return `value` as it enters a window, None where it may not.

    >>> as_number(3), as_number(1e-90), as_number(float("nan"))
    (3, 0.0, None)
    """
    if value is None or not -VALUE_MAX <= value <= VALUE_MAX:
        return None
    if -VALUE_MIN < value < VALUE_MIN and value:
        return 0.0
    return value


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
