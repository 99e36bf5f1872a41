"""Holistic aggregates, which need every value of a window: distinct, mode, entropy, median, quantile.

Lives here: each of them over values, and over a window that is followed as it moves on: every value enters
and leaves once.  Never here: aggregates that sums and extremes are enough for (`prefix_sums.py`), where a
window starts and ends (`aggregates.py`).

    log             a  b  c  d  e  f  g          window of the last event [c d e f]
                          [--------]             window of this event     [d e f g]: g enters, c leaves
                             [--------]

The term is that of Gray et al., "Data cube" (1997).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Sequence
from heapq import nlargest
from math import fsum, log2
from typing import Any, Protocol

__all__ = ["Followed", "Frequencies", "Ordered", "entropy_of", "mode_of", "quantile_of"]

Values = Sequence[Any]


def quantile_of(values: Values, share: float) -> float:
    """Return the quantile, linear between neighbours (Hyndman and Fan's type 7).

    >>> quantile_of([4.0, 1.0, 2.0], 0.75)
    3.0
    """
    return _quantile_of_ordered(sorted(values), share)


def _quantile_of_ordered(ordered: Values, share: float) -> float:
    rank = share * (len(ordered) - 1)
    below = int(rank)
    low = ordered[below]
    value = low if rank == below else low + (ordered[below + 1] - low) * (rank - below)
    return float(value) + 0.0  # one zero


def mode_of(values: Values, rank: int) -> Any:
    """Return the value that is `rank`-th in frequency, the newest of equally frequent ones first.

    >>> mode_of(["a", "b", "a", "c", "b"], 1), mode_of(["a", "b", "a", "c", "b"], 2), mode_of(["a"], 2)
    ('b', 'a', None)
    """
    ranked = Counter(values[::-1]).most_common(rank)
    return ranked[rank - 1][0] if len(ranked) >= rank else None


def entropy_of(values: Values) -> float:
    """Return the entropy of the values' frequencies in bits (Shannon, 1948).

    >>> entropy_of(["a", "b", "a", "b"]), entropy_of(["a", "a"])
    (1.0, 0.0)
    """
    return _entropy(Counter(values))


def _entropy(counts: dict[Any, int]) -> float:
    total = sum(counts.values())
    return 0.0 - fsum([count / total * log2(count / total) for count in counts.values()])


class _Inside(Protocol):
    """The values inside a moving window."""

    def add(self, value: Any) -> None:
        """Let one value in."""
        ...

    def remove(self, value: Any) -> None:
        """Let one value out."""
        ...

    def value(self, function: str, argument: Any, newest_first: Callable[[], Values]) -> Any:
        """Return an aggregate, None where it is missing."""
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

    def value(self, function: str, argument: Any, newest_first: Callable[[], Values]) -> Any:
        """Return `distinct`, `entropy` or the `mode` of a rank."""
        if function == "distinct":
            return len(self.counts)
        if function == "entropy":
            return _entropy(self.counts) if self.counts else None
        return self._mode(argument or 1, newest_first())

    def _mode(self, rank: int, newest_first: Values) -> Any:
        """Return the value of `rank`; of equally frequent ones the newest comes first."""
        counts = self.counts
        if len(counts) < rank:
            return None
        least = nlargest(rank, counts.values())[-1]
        wanted = sum(count >= least for count in counts.values())
        found: dict[Any, int] = {}
        for value in newest_first:
            if value is not None and value not in found and counts[value] >= least:
                found[value] = counts[value]
                if len(found) == wanted:
                    break
        return sorted(found, key=lambda value: -found[value])[rank - 1]


class Ordered:
    """The numbers inside the window, sorted.  Adding one moves the larger ones: cheap up to 100,000."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values: list[Any] = []

    def add(self, value: Any) -> None:
        """Let one number in."""
        insort(self.values, value)

    def remove(self, value: Any) -> None:
        """Let one number out."""
        del self.values[bisect_left(self.values, value)]

    def value(self, function: str, argument: Any, newest_first: Callable[[], Values]) -> Any:  # noqa: ARG002
        """Return `median` or the `quantile` of a share."""
        if not self.values:
            return None
        return _quantile_of_ordered(self.values, 0.5 if function == "median" else argument)


class Followed:
    """A window that is followed over one column: the entries from `start` to `stop` are in `inside`."""

    __slots__ = ("inside", "start", "stop")

    def __init__(self, start: int, inside: _Inside) -> None:
        self.start = self.stop = start
        self.inside = inside

    def move(self, values: list[Any], start: int, stop: int) -> bool:
        """Move the window to a later range; return False, and stay, where the range is an earlier one."""
        if start < self.start or stop < self.stop:
            return False
        for value in values[self.stop : stop]:
            if value is not None:
                self.inside.add(value)
        for value in values[self.start : start]:
            if value is not None:
                self.inside.remove(value)
        self.start, self.stop = start, stop
        return True

    def inserted(self, position: int, value: Any) -> None:
        """Follow the column after a value was put before later ones."""
        if position < self.start:
            self.start += 1
            self.stop += 1
        elif position < self.stop:
            self.stop += 1
            if value is not None:
                self.inside.add(value)

    def trimmed(self, count: int) -> bool:
        """Follow the column after its first values were cut off; return whether the window is still known."""
        is_known = self.start >= count
        self.start -= count
        self.stop -= count
        return is_known
