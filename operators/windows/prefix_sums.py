"""The values of one column of a log, with prefix sums and monotonic stacks beside them.

Lives here: lists derived from a column, kept in step with it, so that a range is read at a cost that does not
depend on its length.  Never here: times, windows, anything that could not be computed from the values again.

    values      3   1   4   1   5         sum of the range [1, 4): prefix[4] - prefix[1] = 9 - 3 = 6
    prefix  0   3   4   8   9   14
    peaks                       4         positions larger than all after them: the first one at or after the
    dips                    3   4         start of a range that reaches the end is its maximum (dips: minimum)

Strategy: sums are exact prefix sums (two floats per entry, or integers: see `exact.py`), so the sum of any
range is one subtraction that leaves no error behind, and nothing is taken out when entries expire.  One stack
serves all nested windows (Lemire, "Streaming maximum-minimum filter using no more than three comparisons per
element", 2006).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable
from itertools import accumulate
from typing import Any, Final, NamedTuple

from operators.windows.exact import SCALE, UNIT, ExactSplit, variance

__all__ = ["UNBOUNDED", "Column", "Derived"]

UNBOUNDED: Final = 2**60
"""Entries that may be appended where no sum can leave its bounds."""
ROOM_MIN: Final = 64
"""With room for fewer entries than this, two floats are not worth starting again for."""
SURE_MAX: Final = 2**13
"""Numbers that a `ExactSplit` takes and of which so many cannot leave its bounds."""


class Derived(NamedTuple):
    """The lists that are kept beside the values of a column."""

    sums: bool = False
    squares: bool = False
    """Sums and sums of squares as integers, in place of `sums`."""
    peaks: bool = False
    dips: bool = False


class Column:
    """Values, oldest first, None where missing, and what is derived from them; lists not wanted are None.

    `highs[i]` and `lows[i]` (or else `totals[i]`), `squares[i]` and `present[i]` are over the entries before
    `i`, from any origin; `peaks` and `dips` are positions.  `present` is made with the first missing value.

    >>> column = Column([3.0, None, 5.0, 4.0], Derived(peaks=True))
    >>> column.peaks, column.present
    ([2, 3], [0, 1, 1, 2, 3])
    """

    __slots__ = (
        "_rounding",
        "_split",
        "dips",
        "followers",
        "highs",
        "lows",
        "peaks",
        "present",
        "squares",
        "totals",
        "values",
    )

    def __init__(self, values: Iterable[Any], derived: Derived, split: ExactSplit | None = None) -> None:
        self.values: list[Any] = []
        self.followers: dict[Hashable, Any] = {}
        """Per reader of `aggregates.py`, what follows its window."""
        self._split = split
        self._rounding = (-split.value_max, *split[:3]) if split is not None else (0.0, 0.0, 0.0, 0.0)
        is_split = derived.sums and not derived.squares and split is not None
        self.highs: array[float] | None = array("d", (0.0,)) if is_split else None
        self.lows: array[float] | None = array("d", (0.0,)) if is_split else None
        is_whole = derived.squares or (derived.sums and split is None)
        self.totals: list[int] | None = [0] if is_whole else None
        self.squares: list[int] | None = [0] if derived.squares else None
        self.present: list[int] | None = None
        self.peaks: list[int] | None = [] if derived.peaks else None
        self.dips: list[int] | None = [] if derived.dips else None
        for value in values:
            self.append(value)
        if self.highs is not None and self.lows is not None and split is not None:
            fits = len(self.values) <= SURE_MAX or split.holds(_in_turn(self.highs, self.lows))
            if not fits or self.room() < ROOM_MIN:
                self._widen()

    @property
    def is_wide(self) -> bool:
        """Return whether sums are held as integers although two floats were hoped for."""
        return self._split is not None and self.totals is not None and self.squares is None

    @property
    def wants_split(self) -> bool:
        """Return whether sums are held as integers because it was not known how large values are."""
        return self._split is None and self.totals is not None and self.squares is None

    def room(self) -> int:
        """Return how many more values may be appended before the sums have to start from nothing."""
        if self.highs is None or self.lows is None or self._split is None:
            return UNBOUNDED
        return self._split.room(self.highs[-1], self.lows[-1])

    def append(self, value: Any) -> None:
        """Put a value at the end, where there is `room`."""
        values = self.values
        position = len(values)
        values.append(value)
        if value is None:
            self._append_missing()
            return
        if (present := self.present) is not None:
            present.append(present[-1] + 1)
        if (highs := self.highs) is not None:
            least, most, coarse, fine = self._rounding
            high = value + coarse - coarse
            low = value - high
            if least <= value <= most and low + fine - fine == low:
                lows: Any = self.lows
                highs.append(highs[position] + high)
                lows.append(lows[position] + low)
            else:
                self._widen()
        elif (totals := self.totals) is not None:
            unit = int(value * SCALE)
            totals.append(totals[-1] + unit)
            if (squares := self.squares) is not None:
                squares.append(squares[-1] + unit * unit)
        if (peaks := self.peaks) is not None:
            while peaks and values[peaks[-1]] <= value:
                peaks.pop()
            peaks.append(position)
        if (dips := self.dips) is not None:
            while dips and values[dips[-1]] >= value:
                dips.pop()
            dips.append(position)

    def _append_missing(self) -> None:
        """Update the derived lists after None was appended."""
        if self.present is None:
            self.present = list(range(len(self.values)))
        self.present.append(self.present[-1])
        prefixes: tuple[Any, ...] = (self.highs, self.lows, self.totals, self.squares)
        for sums in prefixes:
            if sums is not None:
                sums.append(sums[-1])

    def _widen(self) -> None:
        """Hold sums as integers, which any number fits."""
        units = (int((value or 0.0) * SCALE) for value in self.values)
        self.totals = list(accumulate(units, initial=0))
        self.highs = self.lows = None

    def insert(self, position: int, value: Any) -> None:
        """Put a value before later ones."""
        values = self.values
        values.insert(position, value)
        if value is None and self.present is None:
            self.present = list(range(len(values)))
        if self.present is not None:
            _insert(self.present, position, value is not None)
        if self.highs is not None and self.lows is not None and self._split is not None:
            parts = self._split.parts(value or 0.0)
            if parts is not None:
                _insert(self.highs, position, parts[0])
                _insert(self.lows, position, parts[1])
            if parts is None or not self._split.holds(_in_turn(self.highs[position:], self.lows[position:])):
                self._widen()
        elif self.totals is not None:
            unit = int((value or 0.0) * SCALE)
            _insert(self.totals, position, unit)
            if self.squares is not None:
                _insert(self.squares, position, unit * unit)
        for stack, sign in ((self.peaks, 1), (self.dips, -1)):
            if stack is not None:
                self._insert_extreme(stack, sign, position)
        for follower in self.followers.values():
            follower.inserted(position, value)

    def _insert_extreme(self, stack: list[int], sign: int, position: int) -> None:
        """Move the positions from `position` on by one, and put it in unless a later one hides it."""
        values = self.values
        index = bisect_left(stack, position)
        stack[index:] = [later + 1 for later in stack[index:]]
        if (value := values[position]) is None:
            return
        value *= sign
        if index < len(stack) and values[stack[index]] * sign >= value:
            return
        first = index
        while first and values[stack[first - 1]] * sign <= value:
            first -= 1
        stack[first:index] = [position]

    def trim(self, count: int) -> None:
        """Cut the first `count` values off."""
        del self.values[:count]
        for sums in (self.highs, self.lows, self.totals, self.squares, self.present):
            if sums is not None:
                del sums[:count]
        for stack in (self.peaks, self.dips):
            if stack is not None:
                stack[:] = [position - count for position in stack if position >= count]
        for number, follower in list(self.followers.items()):
            if not follower.trimmed(count):
                del self.followers[number]

    # -- what a range comes to ----------------------------------------------------------------------------

    def count(self, start: int, stop: int) -> int:
        """Return how many values of a range are present."""
        present = self.present
        return stop - start if present is None else present[stop] - present[start]

    def sum(self, start: int, stop: int) -> float:
        """Return the correctly rounded sum of a range."""
        if (highs := self.highs) is not None:
            lows = self.lows
            return (highs[stop] - highs[start]) + (lows[stop] - lows[start])  # type: ignore[index]
        totals = self.totals
        assert totals is not None
        return float(totals[stop] - totals[start]) * UNIT

    def mean(self, start: int, stop: int) -> float:
        """Return the mean of a range that has values."""
        return self.sum(start, stop) / self.count(start, stop)

    def max(self, start: int, stop: int) -> Any:
        """Return the largest value of a range that has some, the newest of equals."""
        return self._extreme(self.peaks, max, start, stop)

    def min(self, start: int, stop: int) -> Any:
        """Return the smallest value of a range that has some, the newest of equals."""
        return self._extreme(self.dips, min, start, stop)

    def _extreme(self, stack: list[int] | None, choose: Callable[..., Any], start: int, stop: int) -> Any:
        values = self.values
        if stop == len(values) and stack is not None:
            return values[stack[bisect_left(stack, start)]]
        # Entries after a range may hide its extreme.
        return choose([value for value in values[start:stop] if value is not None][::-1])

    def variance(self, start: int, stop: int) -> float:
        """Return the variance, with n - 1, of a range that has values."""
        totals, squares = self.totals, self.squares
        assert totals is not None
        assert squares is not None
        total, square = totals[stop] - totals[start], squares[stop] - squares[start]
        return variance(self.count(start, stop), total, square)

    def first(self, start: int, stop: int) -> Any:
        """Return the oldest value of a range that has values."""
        if (present := self.present) is not None:
            start = bisect_left(present, present[start] + 1, start, stop + 1) - 1
        return self.values[start]

    def last(self, start: int, stop: int) -> Any:
        """Return the newest value of a range that has values."""
        if (present := self.present) is not None:
            stop = bisect_left(present, present[stop], start, stop + 1)
        return self.values[stop - 1]


def _in_turn(highs: Iterable[float], lows: Iterable[float]) -> list[float]:
    """Return highs and lows alternating in one list."""
    return [part for pair in zip(highs, lows, strict=True) for part in pair]


def _insert(sums: Any, position: int, more: float) -> None:
    """Put an entry worth `more` at `position` of prefix sums."""
    later = [found + more for found in sums[position:]]
    sums[position + 1 :] = array(sums.typecode, later) if isinstance(sums, array) else later
