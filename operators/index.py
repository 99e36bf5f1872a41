"""Running numbers over one column of a long log, so that a window costs the same however full it is.

Lives here: lists derived from a log, kept in step with it.  Never here: anything that could
not be computed from the log again; windows and times.

Strategy: sums by exact prefix sums (two floats per entry, or integers: see `exact.py`): the sum of
any range is one subtraction that leaves no error behind, and nothing has to be taken out when
entries expire.  Extremes by a monotonic stack: the positions that are larger (smaller) than all after
them; the first one inside a range is its maximum, so one stack serves all nested windows
(Lemire, "Streaming maximum-minimum filter using no more than three comparisons per element", 2006).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from itertools import accumulate
from typing import Any, Final

from operators.exact import SCALE, Split

__all__ = ["ROOM_MAX", "ColumnIndex"]

Values = list[Any]
"""Numbers or None, rows laid end to end."""

ROOM_MAX: Final = 2**60
"""Appending may go on for as long as anybody likes."""
ROOM_MIN: Final = 64
"""With room for fewer entries than this, two floats are not worth starting again for."""


class ColumnIndex:
    """The derived lists of column `offset` of rows of `stride` values; those not wanted are None.

    `sums[2 * i]` and `sums[2 * i + 1]`, high and low (or else `totals[i]`), `squares[i]` and `present[i]` are
    over the entries before `i`, from any origin; `peaks` and `dips` are positions.

    >>> index = ColumnIndex({"max", "present"}, stride=1, offset=0)
    >>> index.extend([3.0, None, 5.0, 4.0])
    >>> index.peaks, index.present
    ([2, 3], [0, 1, 1, 2, 3])
    """

    __slots__ = (
        "_offset",
        "_split",
        "_stride",
        "dips",
        "peaks",
        "present",
        "squares",
        "sums",
        "totals",
    )

    def __init__(
        self, wanted: frozenset[str] | set[str], *, stride: int, offset: int, split: Split | None = None
    ) -> None:
        self._stride = stride
        self._offset = offset
        self._split = split
        is_summed = bool(wanted & {"sum", "mean", "var", "std"})
        is_split = is_summed and split is not None
        self.sums: array[float] | None = array("d", (0.0, 0.0)) if is_split else None
        self.totals: list[int] | None = [0] if is_summed and split is None else None
        self.squares: list[int] | None = [0] if wanted & {"var", "std"} else None
        self.present: list[int] | None = [0] if "present" in wanted else None
        self.peaks: list[int] | None = [] if "max" in wanted else None
        self.dips: list[int] | None = [] if "min" in wanted else None

    @property
    def is_wide(self) -> bool:
        """Return whether sums are held as integers although two floats were hoped for."""
        return self._split is not None and self.totals is not None

    def room(self) -> int:
        """Return how many more entries may be appended before sums have to start from nothing."""
        if self.sums is None or self._split is None:
            return ROOM_MAX
        return self._split.room(self.sums[-2], self.sums[-1])

    def extend(self, values: Values) -> None:
        """Follow a log from its first entry."""
        for position in range(len(values) // self._stride):
            self._append_places(values, position)
        column = [value or 0.0 for value in values[self._offset :: self._stride]]
        if self._split is not None and self.sums is not None:
            parts = [self._split.parts(value) for value in column]
            fitting = [part for part in parts if part is not None]
            for high, low in fitting:
                self.sums.extend((self.sums[-2] + high, self.sums[-1] + low))
            fits = len(fitting) == len(parts) and self._split.holds(self.sums)
            if not fits or self.room() < ROOM_MIN:
                self._widen(values)
        elif self.totals is not None:
            units = [int(value * SCALE) for value in column]
            self.totals = list(accumulate(units, initial=0))
            if self.squares is not None:
                self.squares = list(accumulate((unit * unit for unit in units), initial=0))

    def append(self, values: Values, position: int) -> None:
        """Follow the log after the entry `position` was put at its end."""
        self._append_sums(values, values[position * self._stride + self._offset])
        self._append_places(values, position)

    def _append_places(self, values: Values, position: int) -> None:
        stride, offset = self._stride, self._offset
        value = values[position * stride + offset]
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

    def _append_sums(self, values: Values, value: Any) -> None:
        if (sums := self.sums) is not None and self._split is not None:
            parts = self._split.parts(value or 0.0)
            if parts is not None and self.room() > 0:
                sums.extend((sums[-2] + parts[0], sums[-1] + parts[1]))
            else:
                self._widen(values)
        elif (totals := self.totals) is not None:
            unit = int((value or 0.0) * SCALE)
            totals.append(totals[-1] + unit)
            if (squares := self.squares) is not None:
                squares.append(squares[-1] + unit * unit)

    def _widen(self, values: Values) -> None:
        """Hold sums as integers, which any number fits."""
        units = (int((value or 0.0) * SCALE) for value in values[self._offset :: self._stride])
        self.totals = list(accumulate(units, initial=0))
        self.sums = None

    def insert(self, values: Values, position: int) -> None:
        """Follow the log after the entry `position` was put before later ones."""
        value = values[position * self._stride + self._offset]
        if self.sums is not None and self._split is not None:
            parts = self._split.parts(value or 0.0)
            if parts is not None:
                _insert_parts(self.sums, position, *parts)
            if parts is None or not self._split.holds(self.sums[2 * position :]):
                self._widen(values)
        elif self.totals is not None:
            unit = int((value or 0.0) * SCALE)
            _insert(self.totals, position, unit)
            if self.squares is not None:
                _insert(self.squares, position, unit * unit)
        if self.present is not None:
            _insert(self.present, position, value is not None)
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
        if self.sums is not None:
            del self.sums[: 2 * count]
        for sums in (self.totals, self.squares, self.present):
            if sums is not None:
                del sums[:count]
        for stack in (self.peaks, self.dips):
            if stack is not None:
                stack[:] = [position - count for position in stack if position >= count]


def _insert(sums: list[int], position: int, more: int) -> None:
    """Put an entry worth `more` at `position` of prefix sums."""
    sums[position + 1 :] = [found + more for found in sums[position:]]


def _insert_parts(sums: array[float], position: int, high: float, low: float) -> None:
    """Put an entry worth `high` and `low` at `position` of exact prefix sums."""
    later = sums[2 * position :]
    later[::2] = array("d", [found + high for found in later[::2]])
    later[1::2] = array("d", [found + low for found in later[1::2]])
    sums[2 * position + 2 :] = later
