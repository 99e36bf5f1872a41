"""Mean losses over time, for plots, in bounded memory.

Lives here: buckets of time and their merging.  Never here: what a loss is (`losses.py`), metrics.

Strategy: a curve holds the mean comparison loss per bucket of time; when there are too many buckets
the width doubles and pairs merge, so the whole run is always in view.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["BUCKETS_MAX", "Cells", "Curve", "Losses", "Point"]

BUCKETS_MAX = 256
"""Points of a curve: as many as a plot can show."""

Point = tuple[int, float, int]
"""(start of the bucket in ms, mean loss, examples)."""
Losses = Mapping[str, Sequence[float | None]]
"""Columns of losses by series."""
Cells = dict[str, tuple[float, int]]
"""(sum, count) of the losses of each series in one bucket."""
_NO_CELL = (0.0, 0)


class Curve:
    """Mean loss of every series over time, in at most `BUCKETS_MAX` buckets of equal width.

    >>> curve = Curve()
    >>> curve.extend(range(1_000), {"model": [time / 1_000 for time in range(1_000)]})
    >>> curve.width_ms, [(start, round(mean, 2), count) for start, mean, count in curve.points("model")][-1]
    (4, (996, 1.0, 4))
    """

    def __init__(self) -> None:
        self.width_ms = 1
        self.buckets: dict[int, Cells] = {}

    def extend(self, times_ms: Sequence[int], losses: Losses) -> None:
        """Count examples in their order, those without an opinion (None) left out.

        Neighbours mostly share a bucket.
        """
        start, rows = 0, len(times_ms)
        while start < rows:
            number = times_ms[start] // self.width_ms
            end = self._same_bucket(times_ms, start, number)
            cells = self._bucket(number)
            for name, column in losses.items():
                total, count = cells.get(name, _NO_CELL)
                known = [loss for loss in column[start:end] if loss is not None]
                for loss in known:  # one after the other: `sum` rounds in another way from Python 3.12 on
                    total += loss
                if known:
                    cells[name] = (total, count + len(known))
            start = end

    def _same_bucket(self, times_ms: Sequence[int], start: int, number: int) -> int:
        """Return the end of the stretch from `start` on whose times fall into bucket `number`."""
        width_ms, end = self.width_ms, len(times_ms)
        rest = times_ms[start:]
        if min(rest) // width_ms == number == max(rest) // width_ms:
            return end
        return next((row for row in range(start, end) if times_ms[row] // width_ms != number), end)

    def _bucket(self, number: int) -> Cells:
        cells = self.buckets.get(number)
        if cells is None:
            cells = self.buckets[number] = {}
            if len(self.buckets) > BUCKETS_MAX:
                return self._widen(number)
        return cells

    def _widen(self, number: int) -> Cells:
        """Double the width until the buckets fit; return the one that `number` fell into."""
        while len(self.buckets) > BUCKETS_MAX:
            self.width_ms *= 2
            number //= 2
            merged: dict[int, Cells] = {}
            for old, cells in self.buckets.items():
                into = merged.setdefault(old // 2, {})
                for name, (total, count) in cells.items():
                    more, others = into.get(name, _NO_CELL)
                    into[name] = (more + total, others + count)
            self.buckets = merged
        return self.buckets[number]

    def points(self, name: str) -> list[Point]:
        """Return one series in order of time; buckets without examples are left out."""
        return [
            (number * self.width_ms, cells[name][0] / cells[name][1], cells[name][1])
            for number, cells in sorted(self.buckets.items())
            if name in cells
        ]
