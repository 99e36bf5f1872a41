"""The logs of one key group: entries of each key, their order, and for how long they are kept.

Lives here: what a key keeps, packed while it is little, and what an event, a label or the watermark does to
it. Never here: what is read from a log (`ranges.py`, `aggregates.py`), features, clocks.

    log of one key      t0  t1  t2  t3  t4          an event at t4; windows end there:
    (t4 - 1h, t4]           [---------------]       from the first entry after t4 - 1h
    (t4 - 1m, t4]                       [---]       half open: an entry at t4 - 1m is out
    watermark - 1h     |                            entries at or before it are forgotten
    arrival t0 t2 t1                                not behind the watermark, t1 is put in its place;
                                                    behind it t1 sees what is kept, and is not entered

Strategy: the log is the whole state.  Whatever makes reading fast (`prefix_sums.py`) is derived from it and
holds exact numbers, so values do not depend on the way they were reached: on batches, restores, or the order
of arrival within the grace.

Packed keys are a second form of a log and stay for memory: 173 bytes per key with two entries, where lists
and objects take 700 or more.  They are read by the same ranges.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise
from struct import Struct
from typing import Any, Final

import msgspec

from operators.windows.aggregates import Columns, Target, derived_of
from operators.windows.exact import Number, Split, split_for
from operators.windows.keys import LONG_AGO, IdleKeys
from operators.windows.prefix_sums import UNBOUNDED, Column
from operators.windows.ranges import Ranges, widths_of
from topics.messages import Event

__all__ = ["Logs", "PackedLogs", "Row"]

Row = tuple[Any, ...]
"""The values of one event that a group looks at, one per column; None where missing."""

INDEX_MIN: Final = 8
"""A log of this many entries gets prefix sums; a shorter one is sliced as fast and is far smaller."""
TRIM_MIN: Final = 8
"""Forgotten entries are cut off a list when they are this many and half of it."""
PACKED_MAX: Final = 7
"""Entries of a packed key: from 8 on prefix sums pay, and a packed log of more costs more to rewrite."""
REPACK_MAX: Final = 4
"""A log that has shrunk to fewer entries is packed again: half of `PACKED_MAX`, so that it stays so."""
CELL_BYTES: Final = 8
"""A time or a value of a packed log."""
_CODES: Final[dict[type, str]] = {float: "d", int: "q"}


class KeyLog:
    """What one key keeps: times in order and columns beside them; entries before `base` are forgotten.

    `base` follows what is over at `watermark`, that of the last change, only when there are `room` entries.
    """

    __slots__ = ("base", "changed", "columns", "is_indexed", "room", "starts", "times", "watermark")

    def __init__(self, times: array[int], columns: list[Any], widths: int) -> None:
        self.times = times
        self.columns = columns
        """Plain lists, or each a `Column` where `is_indexed`."""
        self.is_indexed = False
        self.base = 0
        self.room = 0
        self.watermark = LONG_AGO
        self.changed = False
        self.starts = [0] * widths
        """No window of the newest entry or a later one starts before these, the longest first."""


class PackedLogs:
    """Short logs of one group, one bytes object per key: entry after entry, times and values of 8 bytes each.

    The types of a group's first row are those of all packed rows, so that values come back as what they were.

    >>> logs = PackedLogs(width=1, entries_max=2)
    >>> logs.put("a", [1_000, 1_001], [[2.5, 3.5]]), logs.put("b", [1_000], [[None]])
    (True, False)
    >>> len(logs.data["a"]), logs.entries("a"), logs.newest("a")
    (32, ((1000, 1001), [(2.5, 3.5)]), 1001)
    """

    def __init__(self, *, width: int, entries_max: int) -> None:
        self.data: dict[str, bytes] = {}
        self.entries_max = entries_max
        self._cells = width + 1
        self._size = CELL_BYTES * self._cells
        self._offsets = range(1, width + 1)
        self._adopt([float] * width)

    def _adopt(self, types: list[type]) -> None:
        self._types = types
        entry = "q" + "".join([_CODES[kind] for kind in types])
        self._pack = Struct("<" + entry).pack
        self._unpack = [Struct("<" + entry * count).unpack for count in range(self.entries_max + 2)]

    def accept(self, row: Iterable[Number | None]) -> bool:
        """Return whether a row has the types of all packed ones; the first one may change them."""
        types = [*map(type, row)]
        if types != self._types and not self.data and all(kind in _CODES for kind in types):
            self._adopt(types)
        return types == self._types

    def put(self, key: str, times: Sequence[int], columns: Sequence[Sequence[Any]]) -> bool:
        """Keep a short log; return whether it fits."""
        if not 0 < len(times) <= self.entries_max:
            return False
        rows = list(zip(*columns, strict=True)) if columns else [()] * len(times)
        if not self.accept(rows[-1]) or any([*map(type, row)] != self._types for row in rows):
            return False
        self.data[key] = b"".join([self._pack(time, *row) for time, row in zip(times, rows, strict=True)])
        return True

    def entries(self, key: str) -> tuple[Sequence[int], list[Sequence[Any]]]:
        """Return times and columns of `key`; empty if there are none."""
        data = self.data.get(key, b"")
        cells = self._unpack[len(data) // self._size](data)
        return cells[:: self._cells], [cells[at :: self._cells] for at in self._offsets]

    def newest(self, key: str) -> int:
        """Return the time of the newest entry of `key`, which has one."""
        data = self.data[key]
        return int(self._unpack[len(data) // self._size](data)[-self._cells])

    def append(
        self, key: str, time: int, horizon: int, row: Row
    ) -> tuple[Sequence[int], list[Any], bool] | None:
        """Put an entry at the end of `key`, where those at or before `horizon` are forgotten.

        Return times, columns and whether the key is new, or None, and change nothing, for an entry that does
        not fit: in its place, by its types, or because there are too many.
        """
        if [*map(type, row)] != self._types and not self.accept(row):
            return None
        data = self.data.get(key)
        if data is None:
            self.data[key] = self._pack(time, *row)
            return (time,), [(value,) for value in row], True
        data += self._pack(time, *row)
        count, width = len(data) // self._size, self._cells
        cells = self._unpack[count](data)
        times = cells[::width]
        if time < times[-2]:
            return None
        if times[0] <= horizon:
            over = bisect_right(times, horizon)
            data, cells, times = data[over * self._size :], cells[over * width :], times[over:]
        if len(times) > self.entries_max:
            return None
        self.data[key] = data
        return times, [cells[at::width] for at in self._offsets], False


class Logs:
    """The logs of one key group.

    `columns` name the values of a row (None: the label's), `targets` pairs names with the aggregates that go
    under them.  `event_max` bounds a key's entries: the oldest make room, counted in `evicted_events`.  A key
    with nothing left in its longest window is forgotten, counted in `evicted_keys`.

    >>> from operators.language.by import by
    >>> count, total = by("card").count("1h"), by("card").sum("amount", "1h")
    >>> hour = Logs(["amount"], [Target("n", count), Target("sum", total)], event_max=100)
    >>> for time in (0, 1_000, 3_600_000):
    ...     out = {}
    ...     event = Event("id", time, "alice", None, offset=0, watermark=time)
    ...     hour.step("alice", event, (2.5,), out)
    ...     print(out)
    {'n': 1, 'sum': 2.5}
    {'n': 2, 'sum': 5.0}
    {'n': 2, 'sum': 5.0}
    """

    def __init__(self, columns: Sequence[str | None], targets: Sequence[Target], event_max: int) -> None:
        aggregates = [target.aggregate for target in targets]
        before = [target for target in targets if not target.aggregate.include_current]
        after = [target for target in targets if target.aggregate.include_current]
        self._derived = [derived_of(aggregates, column) for column in columns]
        self._splits: list[Split | None] = [None] * len(columns)
        widths = widths_of(targets)
        self._before = [Ranges(before, columns, widths, is_indexed=indexed) for indexed in (False, True)]
        """Windows that leave the event itself out: of plain lists, and of indexed columns."""
        self._after = [Ranges(after, columns, widths, is_indexed=indexed) for indexed in (False, True)]
        self._reads_before = bool(before)
        self._widths = len(widths)
        self._logs: dict[str, KeyLog] = {}
        self._packed = PackedLogs(width=len(columns), entries_max=min(PACKED_MAX, event_max))
        self._changed: set[str] = set()
        self.width_max_ms = max(aggregate.reach_ms for aggregate in aggregates)
        self.idle = IdleKeys(self.width_max_ms)
        """When `forget` has something to do."""
        self._event_max = event_max
        self.evicted_events = 0
        self.evicted_keys = 0

    def __len__(self) -> int:
        return len(self._logs) + len(self._packed.data)

    @property
    def changed(self) -> bool:
        """Return whether any key changed since the last `changes`."""
        return bool(self._changed)

    def step(self, key: str, event: Event, row: Row, out: dict[Any, Any]) -> None:
        """Enter one event and write its windows into `out`.

        A late event sees what is kept and itself, and is not entered.
        """
        time, watermark = event.event_time, event.watermark
        if event.late:
            self._show_late(key, event, row, out)
            return
        log = self._logs.get(key)
        if log is None:
            entries = self._packed.append(key, time, watermark - self.width_max_ms, row)
            if entries is not None:
                times, columns, is_new = entries
                if is_new:
                    self.idle.file(key, time)
                self._changed.add(key)
                if self._reads_before:
                    self._before[0].write(times, 0, columns, len(times) - 1, time, 0, out)
                self._after[0].write(times, 0, columns, len(times), time, 1, out)
                return
            log = self._unpack(key, time)
        times = log.times
        stop = len(times)
        if stop >= log.room or not log.changed:
            stop = self._make_ready(key, log, watermark)
        log.watermark = watermark
        if stop and time < times[-1]:
            self._step_back(log, time, row, out)
        else:
            if self._reads_before:
                before = self._before[log.is_indexed]
                before.write(times, log.base, log.columns, stop, time, 0, out)
            times.append(time)
            columns, offset = log.columns, 0
            for value in row:
                columns[offset].append(value)
                offset += 1  # noqa: SIM113  a tuple for each value would cost more than its append
            self._after[log.is_indexed].write_newest(times, columns, log.starts, log.base, time, out)
        if not log.is_indexed and self._packed.accept(row):
            self._pack(key, log)

    def _step_back(self, log: KeyLog, time: int, row: Row, out: dict[Any, Any]) -> None:
        """Enter an event before later ones and write its windows."""
        position = bisect_right(log.times, time, log.base)
        if self._reads_before:
            before = self._before[log.is_indexed]
            before.write(log.times, log.base, log.columns, position, time, 0, out)
        self._insert(log, position, time, row)
        after = self._after[log.is_indexed]
        after.write(log.times, log.base, log.columns, position + 1, time, 1, out)

    def _write(
        self, times: Sequence[int], columns: Columns, stop: int, time: int, own: int, out: dict[Any, Any]
    ) -> None:
        """Write all windows of plain entries, of which the last is the event itself where `own` is 1."""
        if self._reads_before:
            self._before[0].write(times, 0, columns, stop - own, time, 0, out)
        self._after[0].write(times, 0, columns, stop, time, own, out)

    def _show_late(self, key: str, event: Event, row: Row, out: dict[Any, Any]) -> None:
        times, columns = self._kept(key, event)
        times.append(event.event_time)
        for column, value in zip(columns, row, strict=True):
            column.append(value)
        self._write(times, columns, len(times), event.event_time, 1, out)

    def _kept(self, key: str, event: Event) -> tuple[list[int], list[list[Any]]]:
        """Return a copy of what is kept up to a late event, apart from laziness in forgetting."""
        times, columns, base = self._entries(key)
        base = bisect_right(times, event.watermark - self.width_max_ms, base)
        end = bisect_right(times, event.event_time, base)
        return list(times[base:end]), [list(column[base:end]) for column in columns]

    def enter(self, key: str, time: int, watermark: int, row: Row) -> None:
        """Enter what is no event of its own: a label.  One from before all windows changes nothing."""
        if time <= watermark - self.width_max_ms:
            return
        log = self._logs.get(key)
        if log is None:
            entries = self._packed.append(key, time, watermark - self.width_max_ms, row)
            if entries is not None:
                if entries[2]:
                    self.idle.file(key, time)
                self._changed.add(key)
                return
            log = self._unpack(key, time)
        stop = self._make_ready(key, log, watermark)
        if not stop or time >= log.times[-1]:
            log.times.append(time)
            for column, value in zip(log.columns, row, strict=True):
                column.append(value)
        else:
            self._insert(log, bisect_right(log.times, time, log.base), time, row)
        if not log.is_indexed and self._packed.accept(row):
            self._pack(key, log)

    def read(self, key: str, event: Event, out: dict[Any, Any]) -> None:
        """Write the windows that end at `event` into `out`, without entering anything."""
        time = event.event_time
        log = self._logs.get(key)
        if event.late or log is None:
            times, columns = self._kept(key, event) if event.late else self._packed.entries(key)
            self._write(times, columns, bisect_right(times, time), time, 0, out)
            return
        times = log.times
        stop = len(times) if not times or times[-1] <= time else bisect_right(times, time, log.base)
        if self._reads_before:
            self._before[log.is_indexed].write(times, log.base, log.columns, stop, time, 0, out)
        self._after[log.is_indexed].write(times, log.base, log.columns, stop, time, 0, out)

    def forget(self, watermark: int) -> None:
        """Forget the keys that have nothing left in any window at `watermark`."""
        horizon = watermark - self.width_max_ms
        for key, moved_on in self.idle.passed(watermark, self._newest):
            if not moved_on:
                self._logs.pop(key, None)
                self._packed.data.pop(key, None)
                self._changed.add(key)
                self.evicted_keys += 1
                continue
            log = self._logs.get(key)
            if log is not None and bisect_right(log.times, horizon) > len(log.times) - REPACK_MAX:
                self._pack(key, log)

    def _newest(self, key: str) -> int:
        """Return the time of a key's newest entry."""
        log = self._logs.get(key)
        return self._packed.newest(key) if log is None else log.times[-1]

    # -- the life of one log ----------------------------------------------------------------------------

    def _unpack(self, key: str, time: int) -> KeyLog:
        """Return a new log for `key`, with the entries that it had packed."""
        times, columns = self._packed.entries(key)
        if self._packed.data.pop(key, None) is None:
            self.idle.file(key, time)
        log = self._logs[key] = KeyLog(array("q", times), [list(column) for column in columns], self._widths)
        return log

    def _pack(self, key: str, log: KeyLog) -> None:
        """Pack a key if its log is short and fits."""
        base = self._base(log)
        if len(log.times) - base <= self._packed.entries_max:
            columns = [column[base:] for column in _plain(log)]
            if self._packed.put(key, log.times[base:], columns):
                del self._logs[key]

    def _make_ready(self, key: str, log: KeyLog, watermark: int) -> int:
        """Make a log ready for one more entry; return the number of its entries, forgotten ones included."""
        if not log.changed:
            log.changed = True
            self._changed.add(key)
        log.watermark = watermark
        if len(log.times) >= log.room:
            self._make_room(log, watermark)
        return len(log.times)

    def _make_room(self, log: KeyLog, watermark: int) -> None:
        """Forget what is over or too much, and say when to come again."""
        times, end = log.times, len(log.times)
        base = bisect_right(times, watermark - self.width_max_ms, log.base)
        if (excess := end - base - self._event_max + 1) > 0:
            base += excess
            self.evicted_events += excess
        log.base = base
        log.starts[:] = [max(start, base) for start in log.starts]
        kept = end - base
        spare = min(max(TRIM_MIN, kept // 4), self._event_max - kept)
        if base >= TRIM_MIN and base * 2 >= end:
            self._trim(log)
        if not log.is_indexed:
            if kept >= INDEX_MIN:
                self._index(log)
            else:
                spare = min(spare, INDEX_MIN - kept)
        if log.is_indexed:
            exact = min([column.room() for column in log.columns], default=UNBOUNDED)
            if exact < spare:
                self._trim(log)
                self._index(log)
                exact = min([column.room() for column in log.columns])
            spare = min(spare, exact)
        log.room = len(times) + spare

    def _trim(self, log: KeyLog) -> None:
        """Cut what is forgotten off the lists."""
        count, log.base = log.base, 0
        del log.times[:count]
        log.starts[:] = [start - count for start in log.starts]
        for column in log.columns:
            if log.is_indexed:
                column.trim(count)
            else:
                del column[:count]
        if log.is_indexed and any(column.is_wide for column in log.columns):
            self._index(log)

    def _index(self, log: KeyLog) -> None:
        """Give a log its prefix sums and stacks, or new ones."""
        columns = []
        for offset, (values, derived) in enumerate(zip(_plain(log), self._derived, strict=True)):
            split = self._splits[offset]
            if split is None and derived.sums and not derived.squares:
                split = self._splits[offset] = split_for(values)
            columns.append(Column(values, derived, split))
        log.columns, log.is_indexed = columns, True

    def _insert(self, log: KeyLog, position: int, time: int, row: Row) -> None:
        """Put an entry before later ones."""
        log.times.insert(position, time)
        for column, value in zip(log.columns, row, strict=True):
            column.insert(position, value)

    def _base(self, log: KeyLog) -> int:
        """Return the first entry that was not over at the last change."""
        return bisect_right(log.times, log.watermark - self.width_max_ms, log.base)

    def _entries(self, key: str) -> tuple[Sequence[int], list[Any], int]:
        """Return times, plain columns, and the position of the first entry that is kept."""
        log = self._logs.get(key)
        return (*self._packed.entries(key), 0) if log is None else (log.times, _plain(log), self._base(log))

    # -- checkpoints ------------------------------------------------------------------------------------

    def entries(self) -> Iterable[tuple[str, bytes]]:
        """Return every key and its log as bytes."""
        return ((key, self._encode(key)) for key in (*self._logs, *self._packed.data))

    def changes(self) -> list[tuple[str, bytes | None]]:
        """Return the keys that changed since the last call, None for those forgotten."""
        found: list[tuple[str, bytes | None]] = []
        for key in self._changed:
            log = self._logs.get(key)
            if log is not None:
                log.changed = False
            is_kept = log is not None or key in self._packed.data
            found.append((key, self._encode(key) if is_kept else None))
        self._changed.clear()
        return found

    def load(self, entries: Iterable[tuple[str, bytes]]) -> None:
        """Replace all logs by those of `entries`."""
        for kept in (self._logs, self._packed.data, self._changed, self.idle):
            kept.clear()
        for key, data in entries:
            steps, columns = _decode(data)
            if len(columns) != len(self._derived) or any(len(column) != len(steps) for column in columns):
                raise ValueError(f"{len(columns)} columns of unequal length")
            times = array("q", accumulate(steps))
            self.idle.file(key, times[-1])
            if not self._packed.put(key, times, columns):
                self._logs[key] = KeyLog(times, columns, self._widths)

    def _encode(self, key: str) -> bytes:
        times, columns, base = self._entries(key)
        times = times[base:]
        steps = [times[0], *(after - before for before, after in pairwise(times))]
        return _encode((steps, [column[base:] for column in columns]))


def _plain(log: KeyLog) -> list[Any]:
    """Return the columns of a log as lists of values."""
    return [column.values for column in log.columns] if log.is_indexed else log.columns


_encode: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[list[int], list[list[int | float | bool | str | None]]]).decode
