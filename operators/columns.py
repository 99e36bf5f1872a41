"""Logs of keys as arrays, entered and read by compiled code where Numba is installed.

Lives here: which key has which row, room for more, one event.  Never here: compiled code (`compiled.py`),
runs of events (`batches.py`), events that are not usual (`windows.py`).  Only this file imports compiled
code, and not before it is used.

Strategy: the same promises as `quiet.py`, for logs of any length: what does not fit is refused, nothing is
changed, and the log moves to `windows.py`.  All values are equal to the bit to those there.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Final

import numpy as np

from operators import cells
from operators.batches import compile_write
from operators.exact import VALUE_MAX, Number, Split, split_for
from operators.kernels import Target, kinds_of

__all__ = ["ColumnLogs", "column_logs"]

KINDS: Final = frozenset(("count", "rate", "since_last", "sum", "mean", "min", "max", "first", "last"))
"""Aggregates that compiled code reads; `var` and `std` need integers of any size."""
ENTRIES_MAX: Final = 2**20
"""Entries of a key; beyond, a log is one for `windows.py`."""
REFITS_MAX: Final = 8
"""How often larger numbers than before may change how all are split for sums: all entries are looked at."""
SHORT: Final = 16
"""A log of fewer entries is looked through before it is tried."""
ROWS_MIN: Final = 256
GROWTH: Final = 0.25
"""Arrays grow by a quarter: memory stays near what is used, and copying is still cheap."""


def column_logs(
    columns: Sequence[str | None], targets: Sequence[Target], event_max: int
) -> ColumnLogs | None:
    """Return logs for a group whose columns hold floats, None if compiled code cannot keep them."""
    aggregates = [target.aggregate for target in targets]
    is_fit = all(a.kind in KINDS and a.include_current and a.source == "events" for a in aggregates)
    return ColumnLogs(columns, targets, event_max) if is_fit and find_spec("numba") else None


class ColumnLogs:
    """The logs of one group, by key.

    >>> from operators.language.by import by
    >>> logs = ColumnLogs(["amount"], [Target("n", by("card").count("1h"))], event_max=10)
    >>> logs.put("a", [1_000, 1_001], [2.5, 3.5]), logs.put("b", [1_000], [None])
    (True, False)
    >>> len(logs), logs.times_and_values("a"), logs.newest("a")
    (1, (array('q', [1000, 1001]), [2.5, 3.5]), 1001)
    """

    def __init__(self, columns: Sequence[str | None], targets: Sequence[Target], event_max: int) -> None:
        from operators.compiled import enter_all, refit, release  # noqa: PLC0415  only where Numba is

        self._enter_all, self._refit, self._release = enter_all, refit, release
        self.columns, self.targets = tuple(columns), tuple(targets)
        self.widths_ms = sorted({target.aggregate.window_ms for target in targets}, reverse=True)
        kinds = [kinds_of(targets, column) for column in columns]
        self._is_summed = [bool(found & {"sum", "mean"}) for found in kinds]
        self._layout = self._layout_of(kinds, min(event_max, ENTRIES_MAX))
        self._one = self.batch(1)
        self.rows: dict[str, int] = {}
        """The row of each key."""
        self.clear()
        # Compiled now, or read from disk, and not while an event waits.
        self.enter(self._one, 0, 0)
        self._refit(self.kept, self.kept.split)
        self._release(self.kept, np.zeros(0, np.int64))

    def _layout_of(self, kinds: Sequence[set[str]], entries_max: int) -> Any:
        """Return the layout, as `cells.py` says."""
        widths, sums, stacks = len(self.widths_ms), 0, 0
        of_columns: list[int] = []
        for found, is_summed in zip(kinds, self._is_summed, strict=True):
            of_columns.append(sums if is_summed else -1)
            sums += 2 * widths * is_summed
            for kind in ("max", "min"):
                of_columns.append(stacks if kind in found else -1)
                stacks += kind in found
        self._entry = 1 + len(kinds) + stacks
        self._follow_cells, self._sum_cells = widths + 2 * stacks, sums
        layout = [widths, len(kinds), self._entry, entries_max, *self.widths_ms, *of_columns]
        return np.array(layout, np.int64)

    def clear(self) -> None:
        """Forget all keys."""
        self.rows.clear()
        self._unused = list(range(ROWS_MIN - 1, -1, -1))
        self._left: list[int] = []
        """Rows of keys that are gone, with all they have."""
        self._refits_left = REFITS_MAX
        self._splits: list[Split | None] = [None] * len(self.columns)
        split = np.zeros((len(self.columns), cells.SPLIT_CELLS))
        split[[not is_summed for is_summed in self._is_summed], cells.VALUE_MAX] = VALUE_MAX
        arena = np.zeros(ROWS_MIN * self._entry, np.int64)
        self.kept = cells.Kept(
            np.zeros((ROWS_MIN, cells.ROW_CELLS), np.int64),
            arena,
            arena.view(np.float64),
            np.zeros((0, self._follow_cells), np.int64),
            np.zeros((0, self._sum_cells)),
            np.zeros(cells.ROOM_CELLS, np.int64),
            self._layout,
            split,
        )

    def batch(self, size: int) -> cells.Batch:
        """Return arrays for so many events and what is read for them."""
        widths, columns = len(self.widths_ms), len(self.columns)
        ints = np.empty((size, cells.FIRST_COUNT + 2 * widths), np.int64)
        return cells.Batch(ints, np.empty((size, columns * (1 + widths * cells.READS))))

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def new(self, key: str) -> int:
        """Return a row without entries for a key that has none."""
        if not self._unused:
            self._make_rows()
        row = self.rows[key] = self._unused.pop()
        return row

    def _make_rows(self) -> None:
        """Let the rows of keys that were forgotten be used again, or make new ones."""
        if self._left:
            self._release(self.kept, np.array(self._left))
            self._unused, self._left = self._left, []
        else:
            used = len(self.kept.rows)
            self.kept = self.kept._replace(rows=_longer(self.kept.rows, ROWS_MIN))
            self._unused = list(range(len(self.kept.rows) - 1, used - 1, -1))

    def pop(self, key: str) -> bool:
        """Forget a key; return whether it was here."""
        if (row := self.rows.pop(key, None)) is None:
            return False
        self._left.append(row)
        return True

    def enter(self, batch: cells.Batch, begin: int, stop: int) -> int:
        """Enter events `begin` to `stop`; return the first that is not usual, and is not entered."""
        while True:
            done: int = self._enter_all(*self.kept, *batch, begin, stop)
            if done == stop:
                return done
            if self.kept.room[cells.WHY] == cells.FULL:
                self._grow(self.kept.rows[batch.ints[done, cells.ROW]])
            elif not self._make_fit(batch.floats[done, : len(self.columns)].tolist()):
                return done
            begin = done

    def _grow(self, head: Any) -> None:
        """Make room for what the key of a row wants."""
        kept = self.kept
        if head[cells.END] < head[cells.ROOM]:
            self.kept = kept._replace(follows=_longer(kept.follows, 16), sums=_longer(kept.sums, 16))
        else:
            arena = _longer(kept.arena, 4 * self._entry * max(2, int(head[cells.ROOM])))
            self.kept = kept._replace(arena=arena, floats=arena.view(np.float64))

    def _make_fit(self, values: Sequence[float]) -> bool:
        """Let numbers be split for sums so that larger values than before fit; return whether they do now."""
        large = [
            split_for([value]) if most < abs(value) <= VALUE_MAX else None
            for most, value in zip(self.kept.split[:, cells.VALUE_MAX].tolist(), values, strict=True)
        ]
        if not self._refits_left or large == [None] * len(values):
            return False
        self._refits_left -= 1
        split = self.kept.split.copy()
        for column, made in enumerate(large):
            if made is not None:
                split[column] = made.value_max, *made[1:4], made.low_max
        if not self._refit(self.kept, split):
            return False
        self._splits = [made or before for made, before in zip(large, self._splits, strict=True)]
        return True

    def _may_fit(self, values: Sequence[Any]) -> bool:
        """Return whether it is worth while to try whether numbers, row by row, can be summed."""
        for column, split in enumerate(self._splits):
            for value in values[column :: len(self.columns)]:
                if split is not None and abs(value) <= split.value_max and split.parts(value) is None:
                    return False
        return True

    def put(self, key: str, times: Sequence[int], values: Sequence[Number | None]) -> bool:
        """Keep a log; return whether it fits."""
        if not len(times) or not set(map(type, values)) <= {float}:
            return False
        if len(times) < SHORT and not self._may_fit(values):
            return False
        batch = self.batch(len(times))
        batch.floats[:, : len(self.columns)] = np.array(values, float).reshape(len(times), -1)
        batch.ints[:, cells.ROW], batch.ints[:, cells.MARK] = self.new(key), times[0]
        batch.ints[:, cells.TIME] = times
        if self.enter(batch, 0, len(times)) == len(times):
            return True
        self.pop(key)
        return False

    def times_and_values(self, key: str) -> tuple[array[int], list[Number | None]]:
        """Return the entries of `key` as a log has them; empty if there are none."""
        if (row := self.rows.get(key)) is None:
            return array("q"), []
        head, entry = self.kept.rows[row], self._entry
        begin = head[cells.START] + head[cells.BASE] * entry
        end = head[cells.START] + head[cells.END] * entry
        times = array("q", self.kept.arena[begin:end:entry].tobytes())
        values: list[Number | None] = []
        values += (
            self.kept.floats[begin:end].reshape(-1, entry)[:, 1 : 1 + len(self.columns)].ravel().tolist()
        )
        return times, values

    def newest(self, key: str) -> int:
        """Return the time of the newest entry of `key`, which has one."""
        return self.kept.rows.item(self.rows[key], cells.NEWEST)

    def calm(
        self, _columns: Sequence[str | None], _targets: Sequence[Target], names: Mapping[str, Any]
    ) -> Callable[..., bool]:
        """Return `calm(key, time, mark, row, out)`: enter an event of a key that is here, or new.

        It returns False, and nothing is changed, for an event that does not fit.  `names` has `changed` and
        `file` of the group's `Windows`.
        """
        rows, file, changed = self.rows, names["file"], names["changed"]
        ints, floats = (lines.ravel() for lines in self._one)
        write = compile_write(self)

        def calm(key: str, time: int, mark: int, row: tuple[Any, ...], out: dict[Any, Any]) -> bool:
            for column, value in enumerate(row):
                if type(value) is not float:
                    return False
                floats[column] = value
            if (found := rows.get(key)) is None:
                file(key, time)
                found = self.new(key)
            ints[cells.ROW], ints[cells.TIME], ints[cells.MARK] = found, time, mark
            if not self.enter(self._one, 0, 1):
                return False
            changed.add(key)
            write(out, ints.tolist(), floats.tolist())
            return True

        return calm


def _longer(found: Any, least: int) -> Any:
    """Return a copy with room for a quarter more, `least` at least."""
    made = np.zeros((len(found) + max(least, int(len(found) * GROWTH)), *found.shape[1:]), found.dtype)
    made[: len(found)] = found
    return made
