"""Exact sliding windows of one key group: one log per key serves all windows and fields.

Lives here: the logs of keys, what they keep, in which order, and for how long.  Never here:
how a log is read (`kernels.py`), which features want it (`features.py`), clocks.

    log of one key      t0  t1  t2  t3  t4          an event at t4; windows end there:
    (t4 - 1h, t4]           [---------------]       from the first entry after t4 - 1h
    (t4 - 1m, t4]                       [---]       half open: an entry at t4 - 1m is out
    watermark - 1h     |                            entries at or before it are forgotten
    arrival t0 t2 t1                                not behind the watermark, t1 is put in its place;
                                                    behind it t1 sees what is kept, and is not entered

Strategy: the log is the whole state.  Whatever makes reading fast (`index.py`) is derived
from it and holds exact numbers, so values do not depend on the way they were reached: on
batches, restores, or the order of arrival within the grace.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Any, Final

import msgspec

from operators.batches import BatchRun
from operators.columns import ColumnLogs
from operators.exact import Number, Split, split_for
from operators.fused import Layout, Output, compile_enter, compile_run, hot_parts
from operators.idle import LONG_AGO, IdleKeys
from operators.index import ROOM_MAX, ColumnIndex
from operators.kernels import Kernels, Target, build, kinds_of
from operators.quiet import QUIET_MAX, QuietLogs
from topics.messages import Event

__all__ = ["Row", "Windows"]

Row = tuple[Number | None, ...]
"""The values of one event that a group's windows look at, one per column, as `exact.as_number` gives them."""

INDEX_MIN: Final = 8
"""A log of this many entries gets an index; a shorter one is sliced as fast and is far smaller."""
TRIM_MIN: Final = 8
"""Forgotten entries are cut off a list when they are this many and half of it."""
CALM_MAX: Final = 4
"""A log that has shrunk to fewer entries is a quiet key again: to half of one, so that it stays one."""


class KeyLog:
    """What one key keeps: times in order, and rows laid end to end; entries before `base` are forgotten.

    `base` follows what is over at `watermark`, that of the last change, only when there are `room` entries.
    """

    __slots__ = ("base", "changed", "hot", "index", "room", "starts", "times", "values", "watermark")

    def __init__(self, times: array[int], values: list[Number | None], widths: int = 0) -> None:
        self.times = times
        self.values = values
        self.base = 0
        self.room = 0
        self.watermark = LONG_AGO
        self.changed = False
        self.index: list[ColumnIndex] | None = None
        self.hot: tuple[Any, ...] | None = None
        """What a usual event touches: `fused.hot_parts`."""
        self.starts = [0] * widths
        """No window of the newest entry or a later one starts before these, the longest first."""


class Windows:
    """The logs of one key group.

    `columns` name the values of a row (None: the label's), `targets` pairs names with the aggregates
    that go under them.  `event_max` bounds a key's entries: the oldest make room, counted in
    `evicted_events`.  A key with nothing left in its longest window is forgotten, counted in
    `evicted_keys`.

    >>> from operators.language.by import by
    >>> count, total = by("card").count("1h"), by("card").sum("amount", "1h")
    >>> hour = Windows(["amount"], [Target("n", count), Target("sum", total)], event_max=100)
    >>> for time in (0, 1_000, 3_600_000):
    ...     out = {}
    ...     event = Event("id", time, "alice", None, offset=0, watermark=time)
    ...     hour.step("alice", event, (2.5,), out)
    ...     print(out)
    {'n': 1, 'sum': 2.5}
    {'n': 2, 'sum': 5.0}
    {'n': 2, 'sum': 5.0}
    """

    def __init__(
        self,
        columns: Sequence[str | None],
        targets: Sequence[Target],
        event_max: int,
        compiled: ColumnLogs | None = None,
    ) -> None:
        self._columns = tuple(columns)
        self._stride = len(columns)
        self._targets = tuple(targets)
        self.is_sparse = False
        """Whether a value was ever missing."""
        self._logs: dict[str, KeyLog] = {}
        quiet = QuietLogs(stride=self._stride, entries_max=min(QUIET_MAX, event_max))
        self._calm_logs = quiet if compiled is None else compiled
        self._changed: set[str] = set()
        self._splits: list[Split | None] = [None] * self._stride
        self._quick = [(0.0, 0.0, 0.0)] * self._stride
        self._output: Output | None = None
        self.width_max_ms = max(target.aggregate.window_ms for target in targets)
        self.idle = IdleKeys(self.width_max_ms)
        """When `forget` has something to do."""
        self._compile()
        self._event_max = event_max
        self.evicted_events = 0
        self.evicted_keys = 0

    def __len__(self) -> int:
        return len(self._logs) + len(self._calm_logs)

    @property
    def changed(self) -> bool:
        """Return whether any key changed since the last `changes`."""
        return bool(self._changed)

    def step(self, key: str, event: Event, row: Row, out: dict[Any, Any]) -> None:
        """Enter one event and write its windows into `out`.

        A late event sees what is kept and itself, and is not entered.
        """
        time, watermark = event.event_time, event.watermark
        if not event.late and self._before is None:
            log = self._logs.get(key)
            if log is None:
                if self._calm(key, time, watermark, row, out):
                    return
            elif self._enter(key, log, time, watermark, row, out):
                return
        self._step_any(key, event, row, out)

    def _step_any(self, key: str, event: Event, row: Row, out: dict[Any, Any]) -> None:
        """Do what `step` says, whatever the event."""
        time = event.event_time
        log = self._kept(key, event) if event.late else self._log(key, time, event.watermark)
        end = bisect_right(log.times, time, log.base)
        if self._before is not None:
            self._read(self._before, log, end, time, out)
        self._insert(log, end, time, row)
        self._read(self._after, log, end + 1, time, out)
        if log.index is None and not event.late:
            self._settle(key, log)

    def enter(self, key: str, time: int, watermark: int, row: Row) -> None:
        """Enter what is no event of its own: a label.  One from before all windows changes nothing."""
        if time > watermark - self.width_max_ms:
            if self._before is None and key not in self._logs and self._calm(key, time, watermark, row, {}):
                return
            log = self._log(key, time, watermark)
            self._insert(log, bisect_right(log.times, time, log.base), time, row)
            if log.index is None:
                self._settle(key, log)

    def read(self, key: str, event: Event, out: dict[Any, Any]) -> None:
        """Write the windows that end at `event` into `out`, without entering anything."""
        time = event.event_time
        log = self._kept(key, event) if event.late else self._found(key)
        times = log.times
        end = len(times) if not times or times[-1] <= time else bisect_right(times, time, log.base)
        self._read(self._after, log, end, time, out)

    def forget(self, watermark: int) -> None:
        """Forget the keys that have nothing left in any window at `watermark`."""
        horizon = watermark - self.width_max_ms
        for key, moved_on in self.idle.passed(watermark, self._newest):
            if not moved_on:
                self._logs.pop(key, None)
                self._calm_logs.pop(key)
                self._changed.add(key)
                self.evicted_keys += 1
                continue
            log = self._logs.get(key)
            if log is not None and bisect_right(log.times, horizon) > len(log.times) - CALM_MAX:
                self._settle(key, log)

    def _newest(self, key: str) -> int:
        """Return the time of a key's newest entry."""
        log = self._logs.get(key)
        return self._calm_logs.newest(key) if log is None else log.times[-1]

    def fuse(self, output: Output) -> None:
        """Make `run` for feature dicts like `output`."""
        self._output = output
        self._compile_run()

    def _compile(self) -> None:
        """Build the kernels: what leaves the event itself out is read before it is entered."""
        before = [target for target in self._targets if not target.aggregate.include_current]
        after = [target for target in self._targets if target.aggregate.include_current]
        self._before = build(self._columns, before, sparse=self.is_sparse) if before else None
        self._after = build(self._columns, after, sparse=self.is_sparse)
        presence = {"present"} if self.is_sparse else set()
        self._wanted = [presence | kinds_of(self._targets, column) for column in self._columns]
        layout = self._layout = Layout(self._columns, self._targets, self.is_sparse)
        self._widths_ms = layout.widths_ms
        self._names = {
            "changed": self._changed,
            "file": self.idle.file,
            "idle": self.idle,
            "logs": self._logs,
            "make_room": self._make_room,
            "quick": self._quick,
            "windows": self,
        }
        if self._before is None:
            self._calm = self._calm_logs.calm(self._columns, after, self._names)
            self._enter = compile_enter(layout, self._names)
        self._compile_run()

    def _compile_run(self) -> None:
        """Build `run` where it is wanted and no window leaves the event out."""
        self.run: Callable[..., Any] | None = None
        """`fused.compile_run`, where there is one."""
        if self._output is not None and self._before is None:
            self.run = compile_run(self._layout, self._output, self._names | {"calm": self._calm})
            if isinstance(self._calm_logs, ColumnLogs):
                self.run = BatchRun(self._calm_logs, self._output, self._names, self.run).run

    def _read(self, kernels: Kernels, log: KeyLog, end: int, time: int, out: dict[Any, Any]) -> None:
        (kernels.plain if log.index is None else kernels.indexed)(log, end, time, out)

    def _become_sparse(self) -> None:
        """From the first missing value on, read with kernels that expect them; indexes are built again."""
        self.is_sparse = True
        self._compile()
        for log in self._logs.values():
            log.index, log.hot, log.room = None, None, 0

    def _log(self, key: str, time: int, watermark: int) -> KeyLog:
        """Return the log of `key`, which is about to get an entry."""
        log = self._logs.get(key)
        if log is None:
            times, values = self._calm_logs.times_and_values(key)
            if not self._calm_logs.pop(key):
                self.idle.file(key, time)
            log = self._logs[key] = KeyLog(times, values, len(self._widths_ms))
        if not log.changed:
            log.changed = True
            self._changed.add(key)
        log.watermark = watermark
        if len(log.times) >= log.room:
            self._make_room(log, watermark)
        return log

    def _make_room(self, log: KeyLog, watermark: int) -> int:
        """Forget what is over or too much, and say when to come again; return the number of entries."""
        times, end = log.times, len(log.times)
        base = bisect_right(times, watermark - self.width_max_ms, log.base)
        if end - base >= self._event_max:
            base += 1
            self.evicted_events += 1
        log.base = base
        log.starts[:] = [max(start, base) for start in log.starts]
        kept = end - base
        spare = min(max(TRIM_MIN, kept // 4), self._event_max - kept)
        if base >= TRIM_MIN and base * 2 >= end:
            self._trim(log)
        if log.index is None:
            if kept >= INDEX_MIN:
                self._index(log)
            else:
                spare = min(spare, INDEX_MIN - kept)
        if log.index is not None:
            exact = min([index.room() for index in log.index], default=ROOM_MAX)
            if exact < spare:
                self._trim(log)
                self._index(log)
                exact = min([index.room() for index in log.index])
            spare = min(spare, exact)
        log.room = len(times) + spare
        return len(times)

    def _trim(self, log: KeyLog) -> None:
        """Cut what is forgotten off the lists."""
        count, log.base = log.base, 0
        del log.times[:count], log.values[: count * self._stride]
        log.starts[:] = [start - count for start in log.starts]
        if log.index is not None:
            for index in log.index:
                index.trim(count)
            if any(index.is_wide for index in log.index):
                self._index(log)

    def _index(self, log: KeyLog) -> None:
        """Give a log that has grown its index."""
        log.index = []
        for offset, wanted in enumerate(self._wanted):
            split = self._splits[offset]
            if split is None and not wanted & {"var", "std"}:
                split = self._splits[offset] = split_for(log.values[offset :: self._stride])
                self._quick[offset] = split[:3]
            index = ColumnIndex(wanted, stride=self._stride, offset=offset, split=split)
            index.extend(log.values)
            log.index.append(index)
        log.hot = hot_parts(self._layout, log)

    def _insert(self, log: KeyLog, position: int, time: int, row: Row) -> None:
        """Put an entry in its place."""
        times, values, index = log.times, log.values, log.index or ()
        if position == len(times):
            times.append(time)
            values += row
            for column in index:
                column.append(values, position)
        else:
            times.insert(position, time)
            values[position * self._stride : position * self._stride] = row
            for column in index:
                column.insert(values, position)
        if any(column.is_wide for column in index):
            log.hot = None  # its lists are changed in place; this one is no more
        if None in row and not self.is_sparse:
            self._become_sparse()

    def _found(self, key: str) -> KeyLog:
        """Return the log of `key`, to be read."""
        return self._logs.get(key) or KeyLog(*self._calm_logs.times_and_values(key))

    def _kept(self, key: str, event: Event) -> KeyLog:
        """Return a copy of what is kept up to a late event, apart from laziness in forgetting."""
        log = self._found(key)
        base = bisect_right(log.times, event.watermark - self.width_max_ms, log.base)
        end = bisect_right(log.times, event.event_time, base)
        return KeyLog(log.times[base:end], log.values[base * self._stride : end * self._stride])

    def _settle(self, key: str, log: KeyLog) -> None:
        """Make a key quiet if its log is short and fits."""
        base = self._base(log)
        if self._calm_logs.put(key, log.times[base:], log.values[base * self._stride :]):
            del self._logs[key]

    def _base(self, log: KeyLog) -> int:
        """Return the first entry that was not over at the last change."""
        return bisect_right(log.times, log.watermark - self.width_max_ms, log.base)

    def entries(self) -> Iterable[tuple[str, bytes]]:
        """Return every key and its log as bytes."""
        return ((key, self._encode(self._found(key))) for key in (*self._logs, *self._calm_logs))

    def changes(self) -> list[tuple[str, bytes | None]]:
        """Return the keys that changed since the last call, None for those forgotten."""
        found: list[tuple[str, bytes | None]] = []
        for key in self._changed:
            log = self._found(key)
            log.changed = False
            found.append((key, self._encode(log) if log.times else None))
        self._changed.clear()
        return found

    def load(self, entries: Iterable[tuple[str, bytes]]) -> None:
        """Replace all logs by those of `entries`."""
        for kept in (self._logs, self._calm_logs, self._changed, self.idle):
            kept.clear()
        for key, data in entries:
            steps, values = _decode(data)
            times = array("q", accumulate(steps))
            self.idle.file(key, times[-1])
            if not self._calm_logs.put(key, times, values):
                self._logs[key] = KeyLog(times, values, len(self._widths_ms))
            if None in values and not self.is_sparse:
                self._become_sparse()

    def _encode(self, log: KeyLog) -> bytes:
        base = self._base(log)
        times = log.times[base:]
        steps = [times[0], *(after - before for before, after in pairwise(times))]
        return _pack((steps, log.values[base * self._stride :]))


_pack = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[list[int], list[int | float | bool | None]]).decode
