"""The logs of one key group: entries of each key, their order, and for how long they are kept.

Lives here: what a key keeps, packed while it is little, and what an event, a label or the watermark does to
it.  Never here: what is read from a log (`aggregates.py`), features, clocks.

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
and objects take 700 or more.  A short log that is restored stays the bytes of its checkpoint until something
asks for it: of a million keys few are met at once, and a restore of all is answered sooner.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, chain, pairwise, repeat
from struct import Struct
from typing import Any, Final

import msgspec

from operators.windows.aggregates import Columns, Target, Write, derived_of, widths_of, windows_writer
from operators.windows.exact import ExactSplit, Number, split_for
from operators.windows.keyed_state import LONG_AGO, IdleKeys, Row
from operators.windows.prefix_sums import Column
from topics.messages import Event

__all__ = ["Logs", "PackedLogs"]

SPLIT_MIN: Final = 7
"""Values of which it is told how large those of a column are: one would be too few."""
TRIM_MIN: Final = 8
"""Forgotten entries are cut off a list when they are this many and half of it."""
PACKED_MAX: Final = 7
"""Entries of a packed key: from 8 on prefix sums pay, and a packed log of more costs more to rewrite."""
REPACK_MAX: Final = 4
"""A log that has shrunk to fewer entries is packed again: half of `PACKED_MAX`, so that it stays so."""
CELL_BYTES: Final = 8
"""A time or a value of a packed log."""
_CODES: Final[dict[type, str]] = {float: "d", int: "q"}
_unpack_time: Final = Struct("<q").unpack_from
_encode: Final[Callable[[Any], bytes]] = msgspec.msgpack.Encoder().encode
_decode_cells: Final = msgspec.msgpack.Decoder(list[Any]).decode
NO_CELLS: Final = _encode([])


class KeyLog:
    """The log of one key: times in order, and a `Column` of values each; entries before `base` are forgotten.

    `base` follows what is over at `watermark`, that of the last change, only when there are `room` entries.
    """

    __slots__ = ("base", "columns", "room", "starts", "times", "watermark")

    def __init__(self, times: array[int], columns: list[Column], widths: int) -> None:
        self.times = times
        self.columns = columns
        self.base = 0
        self.room = 0
        """With so many entries, forget some first; 0: nobody knows yet that the key changes."""
        self.watermark = LONG_AGO
        self.starts = [0] * widths
        """No window of the newest entry or a later one starts before these, the longest first."""


class PackedLogs:
    """Short logs of one group, one bytes object per key: entry after entry, its time and its values.

    Numbers are cells of 8 bytes each; the types of a group's first row of numbers are those of all such
    rows, so that values come back as what they were.  A key with any other row is kept as MessagePack.

    >>> logs = PackedLogs(width=1, entries_max=2)
    >>> logs.put("a", [1_000, 1_001], [[2.5, 3.5]]), logs.put("b", [1_000], [["x"]])
    (True, True)
    >>> len(logs.data["a"]), logs.entries("a"), logs.newest("a"), logs.entries("b")
    (32, ((1000, 1001), (1000, 2.5, 1001, 3.5)), 1001, ([1000], [1000, 'x']))
    """

    def __init__(self, *, width: int, entries_max: int) -> None:
        self.data: dict[str, bytes] = {}
        """Keys of numbers; those in `stored` have no bytes here yet."""
        self.stored: dict[str, bytes] = {}
        """Restored keys that nothing has asked for since, as their checkpoint has them."""
        self.mixed: dict[str, bytes] = {}
        """Keys with missing values, texts, or numbers of another type."""
        self.entries_max = entries_max
        self.stride = width + 1
        """Cells of an entry: its time, then its values."""
        self._size = CELL_BYTES * self.stride
        self._adopt([float] * width)

    def _adopt(self, types: list[type]) -> None:
        self._types = types
        entry = "q" + "".join([_CODES[each] for each in types])
        counts = range(self.entries_max + 2)
        self._pack = Struct("<" + entry).pack
        self._pack_all = [Struct("<" + entry * count).pack for count in counts]
        self._unpack = [Struct("<" + entry * count).unpack for count in counts]
        self._types_of_all = [[int, *types] * count for count in counts]

    def accept(self, row: Iterable[Number | None]) -> bool:
        """Return whether a row has the types of all packed rows; the first row sets them."""
        types = [*map(type, row)]
        if types != self._types and not self.data and all(each in _CODES for each in types):
            self._adopt(types)
        return types == self._types

    def put(self, key: str, times: Sequence[int], columns: Sequence[Sequence[Any]]) -> bool:
        """Pack a short log; return whether it fits."""
        count = len(times)
        if not 0 < count <= self.entries_max:
            return False
        cells = [*chain.from_iterable(zip(times, *columns, strict=True))]
        types = [*map(type, cells)]
        if not self.data:
            self.accept(cells[1 - self.stride :] if columns else ())
        if types == self._types_of_all[count]:
            self.data[key] = self._pack_all[count](*cells)
        else:
            self.data.pop(key, None)
            self.mixed[key] = _encode(cells)
        return True

    def store(self, key: str, data: bytes) -> None:
        """Keep a short log as its checkpoint has it; the first sets the types of packed rows."""
        if self.data:
            self.data[key], self.stored[key] = b"", data
        else:
            steps, columns = _decode(data)
            self.put(key, [*accumulate(steps)], columns)

    def _met(self, key: str) -> bytes | None:
        """Pack a stored key, which is asked for; return its bytes, None if it is among the mixed now."""
        steps, columns = _decode(self.stored.pop(key))
        if not self.stored:
            self.stored = {}  # a dict does not shrink by itself
        self.put(key, [*accumulate(steps)], columns)
        return self.data.get(key)

    def pop(self, key: str) -> bool:
        """Remove a key; return whether it was here."""
        self.stored.pop(key, None)
        return self.data.pop(key, None) is not None or self.mixed.pop(key, None) is not None

    def keys(self) -> list[str]:
        """Return all keys."""
        return [*self.data, *self.mixed]

    def entries(self, key: str) -> tuple[Sequence[int], Sequence[Any]]:
        """Return times and cells of `key`, tuples where all are numbers; empty if there are none."""
        if (data := self.data.get(key)) == b"":
            data = self._met(key)
        if data is None:
            cells: Sequence[Any] = _decode_cells(self.mixed.get(key, NO_CELLS))
        else:
            cells = self._unpack[len(data) // self._size](data)
        return cells[:: self.stride], cells

    def newest(self, key: str) -> int | None:
        """Return the time of the newest entry of `key`, None if it has none."""
        if (data := self.stored.get(key)) is not None:
            return sum(_decode(data)[0])
        if (data := self.data.get(key)) is not None:
            time: int = _unpack_time(data, len(data) - self._size)[0]
            return time
        times, _ = self.entries(key)
        return times[-1] if times else None

    def append(
        self, key: str, time: int, horizon: int, row: Row
    ) -> tuple[Sequence[int], Sequence[Any], bool] | None:
        """Append an entry to `key`, whose entries at or before `horizon` are forgotten.

        Return times, cells and whether the key is new, or None, and change nothing, for an entry that does
        not fit: in its place, or because there are too many.
        """
        for value, expected in zip(row, self._types):  # noqa: B905  as many as there are columns
            if type(value) is not expected:
                if self.accept(row):
                    break
                return self._append_mixed(key, time, horizon, row)
        cells: tuple[Any, ...] = (time, *row)
        data = self.data.get(key)
        if not data and data is not None:
            data = self._met(key)
        if data is None:
            if key in self.mixed:
                return self._append_mixed(key, time, horizon, row)
            self.data[key] = self._pack(*cells)
            return (time,), cells, True
        data += self._pack(*cells)
        stride = self.stride
        cells = self._unpack[len(data) // self._size](data)
        times = cells[::stride]
        if time < times[-2]:
            return None
        if times[0] <= horizon:
            over = bisect_right(times, horizon)
            data, cells, times = data[over * self._size :], cells[over * stride :], times[over:]
        if len(times) > self.entries_max:
            return None
        self.data[key] = data
        return times, cells, False

    def _append_mixed(
        self, key: str, time: int, horizon: int, row: Row
    ) -> tuple[Sequence[int], Sequence[Any], bool] | None:
        known, cells = self.entries(key)
        if known and time < known[-1]:
            return None
        over = bisect_right(known, horizon)
        if len(known) - over >= self.entries_max:
            return None
        times, cells = [*known[over:], time], [*cells[over * self.stride :], time, *row]
        self.data.pop(key, None)
        self.mixed[key] = _encode(cells)
        return times, cells, not known


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
        self._derived = [derived_of(aggregates, column) for column in columns]
        self._splits: list[ExactSplit | None] = [None] * len(columns)
        self._widths = widths_of(targets)
        before = [target for target in targets if _leaves_event_out(target)]
        after = [target for target in targets if not _leaves_event_out(target)]

        def writer(targets: Sequence[Target], *, is_packed: bool) -> Write | None:
            return windows_writer(targets, columns, self._widths, is_packed=is_packed) if targets else None

        self._before = writer(before, is_packed=False)
        """Windows that leave the event itself out."""
        self._after = writer(after, is_packed=False)
        self._packed_before = writer(before, is_packed=True)
        self._packed_after = writer(after, is_packed=True)
        self._zeros = [0] * len(self._widths)
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
        return len(self._logs) + len(self._packed.data) + len(self._packed.mixed)

    def __iter__(self) -> Iterator[str]:
        return iter((*self._logs, *self._packed.keys()))

    def __contains__(self, key: str) -> bool:
        return key in self._logs or key in self._packed.data or key in self._packed.mixed

    @property
    def changed(self) -> bool:
        """Return whether any key changed since the last `changes`."""
        return bool(self._changed)

    def erase(self, key: str) -> None:
        """Remove a key that is there, with all its entries."""
        if not self._packed.pop(key):
            del self._logs[key]
        self.idle.remove(key)
        self._changed.add(key)

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
                times, cells, is_new = entries
                if is_new:
                    self.idle.file(key, time)
                self._changed.add(key)
                starts, stop = [*self._zeros], len(times)
                if self._packed_before is not None:
                    self._packed_before(times, cells, starts, stop - 1, 0, time, out)
                if self._packed_after is not None:
                    self._packed_after(times, cells, starts, stop, 0, time, out)
                return
            log = self._unpack(key, time)
        times = log.times
        stop = len(times)
        if stop >= log.room:
            stop = self._make_room(key, log, watermark)
        log.watermark = watermark
        if stop and time < times[-1]:
            self._step_back(key, log, time, row, out)
            return
        columns = log.columns
        if self._before is not None:
            self._before(times, columns, log.starts, stop, log.base, time, out)
        times.append(time)
        offset = 0
        for value in row:
            columns[offset].append(value)
            offset += 1  # noqa: SIM113  a tuple for each value would cost more than its append
        if self._after is not None:
            self._after(times, columns, log.starts, stop + 1, log.base, time, out)

    def _step_back(self, key: str, log: KeyLog, time: int, row: Row, out: dict[Any, Any]) -> None:
        """Enter an event before later ones and write its windows."""
        position = bisect_right(log.times, time, log.base)
        self._insert(log, position, time, row)
        starts = self._starts(log.times, log.base, position, time)
        if self._before is not None:
            self._before(log.times, log.columns, starts, position, log.base, time, out)
        if self._after is not None:
            self._after(log.times, log.columns, starts, position + 1, log.base, time, out)
        self._pack(key, log)

    def _show_late(self, key: str, event: Event, row: Row, out: dict[Any, Any]) -> None:
        """Write the windows of an event that is not entered, over a copy of what is kept and itself."""
        time = event.event_time
        times, columns, base = self._entries(key)
        base = bisect_right(times, event.watermark - self.width_max_ms, base)
        stop = bisect_right(times, time, base)
        seen, starts = [*times[base:stop], time], self._starts(times[base:stop], 0, stop - base, time)
        rows = zip(*[column[base:stop] for column in columns], strict=True) if columns else repeat(())
        entries = zip(seen, chain(rows, [row]), strict=False)
        cells = [cell for time, values in entries for cell in (time, *values)]
        if self._packed_before is not None:
            self._packed_before(seen, cells, starts, len(seen) - 1, 0, time, out)
        if self._packed_after is not None:
            self._packed_after(seen, cells, starts, len(seen), 0, time, out)

    def _starts(self, times: Sequence[int], base: int, stop: int, time: int) -> list[int]:
        """Return where the sliding windows of any event start."""
        starts, start = [], base
        for width in self._widths:
            if start < stop and times[start] <= time - width:
                start = bisect_right(times, time - width, start + 1, stop)
            starts.append(start)
        return starts

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
        stop = len(log.times)
        if stop >= log.room:
            stop = self._make_room(key, log, watermark)
        log.watermark = watermark
        if stop and time < log.times[-1]:
            self._insert(log, bisect_right(log.times, time, log.base), time, row)
            self._pack(key, log)
            return
        log.times.append(time)
        for column, value in zip(log.columns, row, strict=True):
            column.append(value)

    def read(self, key: str, event: Event, out: dict[Any, Any]) -> None:
        """Write the windows that end at `event` into `out`, without entering anything."""
        time = event.event_time
        log = self._logs.get(key)
        kept: Columns
        times: Sequence[int]
        if log is None:
            before, after, base = self._packed_before, self._packed_after, 0
            times, kept = self._packed.entries(key)
        else:
            before, after, base, times, kept = self._before, self._after, log.base, log.times, log.columns
        if event.late:
            base = bisect_right(times, event.watermark - self.width_max_ms, base)
        stop = len(times) if not times or times[-1] <= time else bisect_right(times, time, base)
        starts = self._starts(times, base, stop, time)
        if before is not None:
            before(times, kept, starts, stop, base, time, out)
        if after is not None:
            after(times, kept, starts, stop, base, time, out)

    def forget(self, watermark: int) -> None:
        """Forget the keys whose windows are all empty at `watermark`."""
        idle, others = self.idle.passed(watermark, self._newest)
        for key in idle:
            if not self._packed.pop(key):
                del self._logs[key]
        self._changed.update(idle)
        self.evicted_keys += len(idle)
        horizon = watermark - self.width_max_ms
        for key in others:
            log = self._logs.get(key)
            if log is not None and bisect_right(log.times, horizon) > len(log.times) - REPACK_MAX:
                self._pack(key, log)

    def _newest(self, key: str) -> int:
        """Return the time of a key's newest entry."""
        time = self._packed.newest(key)
        return self._logs[key].times[-1] if time is None else time

    # -- the life of one log ----------------------------------------------------------------------------

    def _unpack(self, key: str, time: int) -> KeyLog:
        """Return a new log for `key`, with the entries that it had packed."""
        times, columns, _ = self._entries(key)
        if not self._packed.pop(key):
            self.idle.file(key, time)
        log = self._logs[key] = KeyLog(array("q", times), self._indexed(columns), len(self._widths))
        return log

    def _pack(self, key: str, log: KeyLog) -> None:
        """Pack a key if its log is short and fits."""
        base = self._base(log)
        if len(log.times) - base > self._packed.entries_max:
            return
        if self._packed.put(key, log.times[base:], [column.values[base:] for column in log.columns]):
            del self._logs[key]

    def _make_room(self, key: str, log: KeyLog, watermark: int) -> int:
        """Forget entries that are over or too many, and set when to look again; return how many are left.

        Forgotten entries that are not cut off yet are counted.
        """
        self._changed.add(key)
        times, end = log.times, len(log.times)
        base = bisect_right(times, watermark - self.width_max_ms, log.base)
        if (excess := end - base - self._event_max + 1) > 0:
            base += excess
            self.evicted_events += excess
            log.starts[:] = [max(start, base) for start in log.starts]
        log.base = base
        kept = end - base
        room = min(max(TRIM_MIN, kept // 4), self._event_max - kept)
        if base >= TRIM_MIN and base * 2 >= end:
            self._trim(log)
        for column in log.columns:
            if column.room() < room or (kept >= SPLIT_MIN and column.wants_split):
                self._trim(log)
                log.columns = self._indexed([column.values for column in log.columns])
                room = min(room, *[column.room() for column in log.columns])
                break
        log.room = len(times) + room
        return len(times)

    def _trim(self, log: KeyLog) -> None:
        """Cut the forgotten entries off the lists."""
        count, log.base = log.base, 0
        del log.times[:count]
        log.starts[:] = [max(start - count, 0) for start in log.starts]
        for column in log.columns:
            column.trim(count)
        if any(column.is_wide for column in log.columns):
            log.columns = self._indexed([column.values for column in log.columns])

    def _indexed(self, columns: Sequence[Sequence[Any]]) -> list[Column]:
        """Return columns with their prefix sums and stacks."""
        for offset, (values, derived) in enumerate(zip(columns, self._derived, strict=True)):
            is_summed = derived.sums and not derived.squares
            if is_summed and self._splits[offset] is None and len(values) >= SPLIT_MIN:
                self._splits[offset] = split_for(values)
        return [*map(Column, columns, self._derived, self._splits)]

    def _insert(self, log: KeyLog, position: int, time: int, row: Row) -> None:
        """Insert an entry before later ones."""
        log.times.insert(position, time)
        for column, value in zip(log.columns, row, strict=True):
            column.insert(position, value)

    def _base(self, log: KeyLog) -> int:
        """Return the first entry that was not over at the last change."""
        return bisect_right(log.times, log.watermark - self.width_max_ms, log.base)

    def _entries(self, key: str) -> tuple[Sequence[int], list[Sequence[Any]], int]:
        """Return times, values by column, and the position of the first entry that is kept."""
        log = self._logs.get(key)
        if log is None:
            times, cells = self._packed.entries(key)
            stride = self._packed.stride
            return times, [cells[at::stride] for at in range(1, stride)], 0
        return log.times, [column.values for column in log.columns], self._base(log)

    # -- checkpoints ------------------------------------------------------------------------------------

    def entries(self) -> Iterable[tuple[str, bytes]]:
        """Return every key and its log as bytes."""
        return ((key, self._encode(key)) for key in (*self._logs, *self._packed.keys()))

    def changes(self) -> list[tuple[str, bytes | None]]:
        """Return the keys that changed since the last call, None for those forgotten."""
        found: list[tuple[str, bytes | None]] = []
        for key in self._changed:
            log = self._logs.get(key)
            if log is not None:
                log.room = 0
            found.append((key, self._encode(key) if key in self else None))
        self._changed.clear()
        return found

    def load(self, entries: Iterable[tuple[str, bytes]]) -> None:
        """Replace all logs by those of `entries`."""
        packed = self._packed
        for kept in (self._logs, packed.data, packed.mixed, packed.stored, self._changed, self.idle):
            kept.clear()
        for key, data in entries:
            steps, columns = _decode(data)
            if not steps or [*map(len, columns)] != [len(steps)] * len(self._derived):
                raise ValueError(f"{len(columns)} columns of unequal length")
            self.idle.file(key, sum(steps))
            if len(steps) <= packed.entries_max:
                packed.store(key, data)
            else:
                times = array("q", accumulate(steps))
                self._logs[key] = KeyLog(times, self._indexed(columns), len(self._widths))

    def _encode(self, key: str) -> bytes:
        times, columns, base = self._entries(key)
        times = times[base:]
        steps = [times[0], *(after - before for before, after in pairwise(times))]
        return _encode((steps, [column[base:] for column in columns]))


def _leaves_event_out(target: Target) -> bool:
    """Return whether a window leaves the event itself out; `since_last` always does."""
    return not target.aggregate.include_current or target.aggregate.function == "since_last"


_decode = msgspec.msgpack.Decoder(tuple[list[int], list[list[int | float | bool | str | None]]]).decode
