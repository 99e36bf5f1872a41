"""Running numbers over one column of a long log, so that a window costs the same however full it is.

Lives here: lists derived from a log, kept in step with it.  Never here: anything that could
not be computed from the log again; windows and times.

Strategy: sums by exact prefix sums (integers, see `exact.py`): the sum of any range is
one subtraction that leaves no error behind, and nothing has to be taken out when entries
expire.  Extremes by a monotonic stack: the positions that are larger (smaller) than all after
them; the first one inside a range is its maximum, so one stack serves all nested windows
(Lemire, "Streaming maximum-minimum filter using no more than three comparisons per element", 2006).
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

from operators.exact import SCALE

__all__ = ["ColumnIndex"]

Values = list[Any]
"""Numbers or None, rows laid end to end."""


class ColumnIndex:
    """The derived lists of column `offset` of rows of `stride` values; those not wanted are None.

    `totals[i]`, `squares[i]`, `present[i]` are over the entries before `i`, from any origin;
    `peaks` and `dips` are positions.

    >>> index = ColumnIndex({"max", "present"}, stride=1, offset=0)
    >>> index.extend([3.0, None, 5.0, 4.0])
    >>> index.peaks, index.present
    ([2, 3], [0, 1, 1, 2, 3])
    """

    __slots__ = ("_offset", "_stride", "dips", "peaks", "present", "squares", "totals")

    def __init__(self, wanted: frozenset[str] | set[str], *, stride: int, offset: int) -> None:
        self._stride = stride
        self._offset = offset
        self.totals: list[int] | None = [0] if wanted & {"sum", "mean", "var", "std"} else None
        self.squares: list[int] | None = [0] if wanted & {"var", "std"} else None
        self.present: list[int] | None = [0] if "present" in wanted else None
        self.peaks: list[int] | None = [] if "max" in wanted else None
        self.dips: list[int] | None = [] if "min" in wanted else None

    def extend(self, values: Values) -> None:
        """Follow a log from its first entry."""
        for position in range(len(values) // self._stride):
            self.append(values, position)

    def append(self, values: Values, position: int) -> None:
        """Follow the log after the entry `position` was put at its end."""
        stride, offset = self._stride, self._offset
        value = values[position * stride + offset]
        if (totals := self.totals) is not None:
            unit = 0 if value is None else int(value * SCALE)
            totals.append(totals[-1] + unit)
            if (squares := self.squares) is not None:
                squares.append(squares[-1] + unit * unit)
        if (present := self.present) is not None:
            present.append(present[-1] + (value is not None))
        if value is None:
            return
        if (peaks := self.peaks) is not None:
            while peaks and values[peaks[-1] * stride + offset] <= value:
                peaks.pop()
            peaks.append(position)
        if (dips := self.dips) is not None:
            while dips and values[dips[-1] * stride + offset] >= value:
                dips.pop()
            dips.append(position)

    def insert(self, values: Values, position: int) -> None:
        """Follow the log after the entry `position` was put before later ones."""
        value = values[position * self._stride + self._offset]
        unit = 0 if value is None else int(value * SCALE)
        for sums, more in (
            (self.totals, unit),
            (self.squares, unit * unit),
            (self.present, value is not None),
        ):
            if sums is not None:
                sums[position + 1 :] = [found + more for found in sums[position:]]
        for stack, sign in ((self.peaks, 1), (self.dips, -1)):
            if stack is not None:
                self._insert_extreme(stack, sign, values, position)

    def _insert_extreme(self, stack: list[int], sign: int, values: Values, position: int) -> None:
        """Move the positions from `position` on by one, and put it in unless a later one hides it."""
        stride, offset = self._stride, self._offset
        place = bisect_left(stack, position)
        stack[place:] = [later + 1 for later in stack[place:]]
        value = values[position * stride + offset]
        if value is None:
            return
        value *= sign
        if place < len(stack) and values[stack[place] * stride + offset] * sign >= value:
            return
        first = place
        while first and values[stack[first - 1] * stride + offset] * sign <= value:
            first -= 1
        stack[first:place] = [position]

    def trim(self, count: int) -> None:
        """Follow the log after its first `count` entries were cut off."""
        for sums in (self.totals, self.squares, self.present):
            if sums is not None:
                del sums[:count]
        for stack in (self.peaks, self.dips):
            if stack is not None:
                stack[:] = [position - count for position in stack if position >= count]
