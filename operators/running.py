"""One window's values kept up to date, for aggregates that need them all.

Lives here: what follows a window as it moves forward over a log, and how aggregates are read from it.
Never here: logs and windows (`slices.py`).

    log             a  b  c  d  e  f  g          window of the last event [c d e f]
                          [--------]             window of this event     [d e f g]: g enters, c leaves
                             [--------]

Strategy: the values are counted, or kept in order; each enters and leaves once, so an event costs what has
changed and not what is inside.  All is derived from the log, and each aggregate has the same bits
as if it were computed from a slice, because it depends on the values and their order in the log alone.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable
from heapq import nlargest
from math import fsum, log2, sqrt
from typing import Any, Final, Protocol

from operators.exact import SCALE, UNIT, variance

__all__ = ["FOLLOWERS", "Follower", "Frequencies", "Ordered", "Sums", "quantile_of_ordered", "shares_entropy"]

Values = list[Any]


class Follower(Protocol):
    """What is known of the values inside a window."""

    def add(self, value: Any) -> None:
        """Let one value in."""
        ...

    def remove(self, value: Any) -> None:
        """Let one value out."""
        ...


class Frequencies:
    """How often each value is inside.

    >>> inside = Frequencies()
    >>> for value in "abca":
    ...     inside.add(value)
    >>> inside.remove("b")
    >>> inside.counts
    {'a': 2, 'c': 1}
    """

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: dict[Any, int] = {}

    def add(self, value: Any) -> None:
        """Let one value in."""
        self.counts[value] = self.counts.get(value, 0) + 1

    def remove(self, value: Any) -> None:
        """Let one value out."""
        left = self.counts[value] - 1
        if left:
            self.counts[value] = left
        else:
            del self.counts[value]


class Ordered:
    """The numbers inside, the smallest first.  Entering moves those that are larger: cheap up to 100,000."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values: Values = []

    def add(self, value: Any) -> None:
        """Let one number in."""
        insort(self.values, value)

    def remove(self, value: Any) -> None:
        """Let one number out."""
        del self.values[bisect_left(self.values, value)]


class Sums:
    """The exact sums of the numbers inside and of their squares, in units of `exact.py`."""

    __slots__ = ("count", "squares", "total")

    def __init__(self) -> None:
        self.count = self.total = self.squares = 0

    def add(self, value: Any) -> None:
        """Let one number in."""
        units = int(value * SCALE)
        self.count += 1
        self.total += units
        self.squares += units * units

    def remove(self, value: Any) -> None:
        """Let one number out."""
        units = int(value * SCALE)
        self.count -= 1
        self.total -= units
        self.squares -= units * units

    def variance(self) -> float:
        """Return the variance with n - 1 of the numbers, at least one."""
        return variance(self.count, self.total, self.squares)


def quantile_of_ordered(ordered: Values, share: float) -> float:
    """Return the quantile of numbers in order, at least one, linear between neighbours."""
    place = share * (len(ordered) - 1)
    below = int(place)
    low = ordered[below]
    found = low if place == below else low + (ordered[below + 1] - low) * (place - below)
    return float(found) + 0.0  # one zero


def shares_entropy(counts: dict[Any, int]) -> float:
    """Return the entropy of frequencies, at least one, in bits."""
    total = sum(counts.values())
    return 0.0 - fsum([count / total * log2(count / total) for count in counts.values()])


def _mode(inside: Frequencies, rank: int | None, newest_first: Callable[[], Values]) -> Any:
    """Return the value of `rank`; of equally frequent ones the newest comes first."""
    rank, counts = rank or 1, inside.counts
    if len(counts) < rank:
        return None
    least = nlargest(rank, counts.values())[-1]
    wanted = sum(count >= least for count in counts.values())
    found: dict[Any, int] = {}
    for value in newest_first():
        if value is not None and value not in found and counts[value] >= least:
            found[value] = counts[value]
            if len(found) == wanted:
                break
    return sorted(found, key=lambda value: -found[value])[rank - 1]


FOLLOWERS: Final[dict[str, tuple[Callable[[], Any], Callable[..., Any]]]] = {
    "sum": (Sums, lambda inside, _, __: float(inside.total) * UNIT),
    "mean": (
        Sums,
        lambda inside, _, __: float(inside.total) * UNIT / inside.count if inside.count else None,
    ),
    "var": (Sums, lambda inside, _, __: inside.variance() if inside.count else None),
    "std": (Sums, lambda inside, _, __: sqrt(inside.variance()) if inside.count else None),
    "distinct": (Frequencies, lambda inside, _, __: len(inside.counts)),
    "mode": (Frequencies, _mode),
    "entropy": (Frequencies, lambda inside, _, __: shares_entropy(inside.counts) if inside.counts else None),
    "median": (
        Ordered,
        lambda inside, _, __: quantile_of_ordered(inside.values, 0.5) if inside.values else None,
    ),
    "quantile": (
        Ordered,
        lambda inside, share, _: quantile_of_ordered(inside.values, share) if inside.values else None,
    ),
}
"""Aggregate -> what follows its window, and how it is read: (inside, argument, values from the newest on)."""
