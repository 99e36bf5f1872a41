"""Point-in-time look-ups: the value of a key's field as of a time, never a later one.

Lives here: values by key, field and time, in memory.  Never here: files (`engine/offline/json_lines.py`
reads them), which keys an event needs (`by.py`), defaults (the features' own).

Strategy: one column of times and one of values per key and field, sorted once; a question is
one binary search.  Memory is that of the rows given, about 100 bytes per value.

    merchant:7  risk       0.2 at 100            0.9 at 300
    asked at        99: missing   100: 0.2   299: 0.2   300: 0.9

This is the point-in-time join of feature stores: training must see what serving would have
seen.  (Feast, "Point-in-time joins", docs.feast.dev.)
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator

from topics.stored_features import StaticRow, StoredValue

__all__ = ["AsOf"]


class _Column:
    """The values of one field of one key, by time."""

    __slots__ = ("times", "values")

    def __init__(self) -> None:
        self.times = array("q")
        self.values: list[StoredValue] = []

    def sort(self) -> None:
        """Sort the values by time; of equal times the later row comes last."""
        times = self.times
        if all(times[index - 1] <= times[index] for index in range(1, len(times))):
            return
        order = sorted(range(len(times)), key=times.__getitem__)
        self.values = [self.values[index] for index in order]
        self.times = array("q", (times[index] for index in order))


class AsOf:
    """Timed rows, given in any order, that answer which value a field had at a time.

    Each field stands for itself: a row leaves the fields that it does not name as they were, and a None
    ends a field's value.  Of two rows of one time the later in `rows` holds.

    >>> rows = [
    ...     StaticRow("merchant:7", 300, {"risk": 0.9}),
    ...     StaticRow("merchant:7", 100, {"risk": 0.2, "country": "FR"}),
    ... ]
    >>> known = AsOf(rows)
    >>> [known.at("merchant:7", "risk", time_ms) for time_ms in (99, 100, 299, 300)]
    [None, 0.2, 0.2, 0.9]
    >>> known.at("merchant:7", "country", 300)
    'FR'
    """

    def __init__(self, rows: Iterable[StaticRow]) -> None:
        self._columns: dict[tuple[str, str], _Column] = {}
        self.rows = 0
        """How many rows were given."""
        for row in rows:
            self.rows += 1
            for name, value in row.fields.items():
                column = self._columns.get((row.key, name))
                if column is None:
                    column = self._columns[row.key, name] = _Column()
                column.times.append(row.time)
                column.values.append(value)
        for column in self._columns.values():
            column.sort()

    def at(self, key: str, name: str, time_ms: int) -> StoredValue:
        """Return the newest value of a field at or before `time_ms`, None if there was none."""
        column = self._columns.get((key, name))
        if column is None:
            return None
        index = bisect_right(column.times, time_ms)
        return column.values[index - 1] if index else None

    def newest(self) -> Iterator[tuple[str, str, StoredValue]]:
        """Yield key, field and its newest value, for every field of every key."""
        for (key, name), column in self._columns.items():
            yield key, name, column.values[-1]
