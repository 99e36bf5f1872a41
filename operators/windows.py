"""Exact sliding windows of one key group: one log per key serves all windows and fields.

Lives here: the logs of keys, what they keep, in which order, and for how long.  Never here:
what an aggregate means (`aggregates.py`), which features want it (`features.py`), clocks.

    log of one key      t0  t1  t2  t3  t4          an event at t4; windows end there:
    (t4 - 1h, t4]           [---------------]       from the first entry after t4 - 1h
    (t4 - 1m, t4]                       [---]       half open: an entry at t4 - 1m is out
    watermark - 1h     |                            entries at or before it are forgotten

Strategy: the log is the whole state.  Whatever speeds up reading (`index.py`) is derived
from it and holds exact numbers, so values do not depend on the way they were reached: on
batches, restores, or the order of arrival within the grace.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import msgspec

from operators.aggregates import REDUCERS, Number, as_number
from operators.expressions import Aggregate
from topics.messages import Event

__all__ = ["Row", "Windows"]

Row = tuple[Number | None, ...]
"""The values of one event that a group's windows look at, one per column."""

SPANS: Final = 64
"""Idle keys are looked for this often per longest window: memory stays small and looking is free."""
TRIM_MIN: Final = 16
"""Forgotten entries are cut off a list when they are at least this many and half of it."""
LONG_AGO: Final = -(2**62)
"""Before all times."""


class KeyLog:
    """What one key keeps: times in order, and rows laid end to end; entries before `base` are forgotten."""

    __slots__ = ("base", "times", "values")

    def __init__(self, times: list[int], values: list[Number | None]) -> None:
        self.times = times
        self.values = values
        self.base = 0


_EMPTY: Final = KeyLog([], [])


class _Reading(NamedTuple):
    """All aggregates over one width, and into which slots they go."""

    width_ms: int
    include_current: bool
    counts: tuple[int, ...]
    rates: tuple[int, ...]
    since_lasts: tuple[int, ...]
    columns: tuple[tuple[int, tuple[tuple[int, str], ...]], ...]


def _readings(
    columns: Sequence[str | None], aggregates: Sequence[tuple[int, Aggregate]]
) -> tuple[_Reading, ...]:
    """Sort aggregates by what they read."""
    spans = dict.fromkeys((aggregate.window_ms, aggregate.include_current) for _, aggregate in aggregates)
    readings = []
    for width, current in spans:
        mine = [(s, a) for s, a in aggregates if (a.window_ms, a.include_current) == (width, current)]
        slots = {
            kind: tuple(s for s, a in mine if a.kind == kind) for kind in ("count", "rate", "since_last")
        }
        by_column: dict[int, list[tuple[int, str]]] = {}
        for slot, aggregate in mine:
            if aggregate.kind in REDUCERS:
                name = aggregate.of if isinstance(aggregate.of, str) else None
                by_column.setdefault(columns.index(name), []).append((slot, aggregate.kind))
        readings.append(
            _Reading(
                width,
                current,
                slots["count"],
                slots["rate"],
                slots["since_last"],
                tuple((column, tuple(kinds)) for column, kinds in by_column.items()),
            )
        )
    return tuple(readings)


class Windows:
    """The logs of one key group.

    `columns` name the values of a row (None: the label's), `aggregates` pairs slots with what
    goes into them.  `event_max` bounds a key's entries: the oldest make room, counted in
    `evicted_events`.  A key with nothing left in its longest window is forgotten, counted in
    `evicted_keys`.

    >>> from operators.expressions import by
    >>> hour = Windows(["amount"], [(0, by("card").count("1h")), (1, by("card").sum("amount", "1h"))], 100)
    >>> slots = [None, None]
    >>> for time in (0, 1_000, 3_600_000):
    ...     event = Event("id", time, "alice", None, offset=0, watermark=time)
    ...     hour.step("alice", event, (2.5,), slots)
    ...     print(slots)
    [1, 2.5]
    [2, 5.0]
    [2, 5.0]
    """

    def __init__(
        self, columns: Sequence[str | None], aggregates: Sequence[tuple[int, Aggregate]], event_max: int
    ) -> None:
        self._stride = len(columns)
        self._readings = _readings(columns, aggregates)
        self._events = all(aggregate.source == "events" for _, aggregate in aggregates)
        self.width_max_ms = max(aggregate.window_ms for _, aggregate in aggregates)
        self._span_ms = max(1, self.width_max_ms // SPANS)
        self._event_max = event_max
        self._logs: dict[str, KeyLog] = {}
        self._changed: set[str] = set()
        self._due_keys: dict[int, list[str]] = {}
        self.due_ms = -LONG_AGO
        """Watermark at which `forget` has something to do."""
        self.evicted_events = 0
        self.evicted_keys = 0

    def __len__(self) -> int:
        return len(self._logs)

    @property
    def changed(self) -> bool:
        """Return whether any key changed since the last `delta`."""
        return bool(self._changed)

    def step(self, key: str, event: Event, row: Row, slots: list[object]) -> None:
        """Enter one event and write its windows into `slots`; a missing value leaves its slot as it was.

        A late event sees what is kept and itself, and is not entered.
        """
        time = event.event_time
        if event.late:
            log = self._kept(key, time, event.watermark)
            log.times.append(time)
            log.values.extend(map(as_number, row))
            self._read(log, len(log.times), time, slots)
        else:
            log, position = self._enter(key, time, event.watermark, row)
            self._read(log, position + 1, time, slots)

    def enter(self, key: str, time: int, watermark: int, row: Row) -> None:
        """Enter what is no event of its own: a label.  One from before all windows changes nothing."""
        if time > watermark - self.width_max_ms:
            self._enter(key, time, watermark, row)

    def read(self, key: str, event: Event, slots: list[object]) -> None:
        """Write the windows that end at `event` into `slots`, without entering anything."""
        time = event.event_time
        log = self._logs.get(key, _EMPTY)
        if event.late:
            log = self._kept(key, time, event.watermark)
        self._read(log, bisect_right(log.times, time, log.base), time, slots)

    def forget(self, watermark: int) -> None:
        """Forget the keys that have nothing left in any window at `watermark`.

        Keys wait in the span of time of their newest entry when they were filed.  A span that is
        over is opened once: who has moved on is filed again, the rest is gone.  So each entry
        pays for at most one filing, and a key goes at the same watermark whenever it was filed.
        """
        while watermark >= self.due_ms:
            span = min(self._due_keys)
            for key in self._due_keys.pop(span):
                span_now = self._logs[key].times[-1] // self._span_ms
                if span_now > span:
                    self._due_keys.setdefault(span_now, []).append(key)
                else:
                    del self._logs[key]
                    self._changed.add(key)
                    self.evicted_keys += 1
            self._set_due()

    def _set_due(self) -> None:
        spans = self._due_keys
        self.due_ms = (min(spans) + 1) * self._span_ms - 1 + self.width_max_ms if spans else -LONG_AGO

    def _enter(self, key: str, time: int, watermark: int, row: Row) -> tuple[KeyLog, int]:
        """Put an entry in its place; return its log and its position."""
        self._changed.add(key)
        log = self._logs.get(key)
        if log is None:
            log = self._logs[key] = KeyLog([], [])
            self._file(key, time)
        times, values, stride = log.times, log.values, self._stride
        horizon, base, end = watermark - self.width_max_ms, log.base, len(times)
        while base < end and times[base] <= horizon:
            base += 1
        if end - base >= self._event_max:
            base += 1
            self.evicted_events += 1
        log.base = base
        if base >= TRIM_MIN and base * 2 >= end:
            del times[:base], values[: base * stride]
            log.base = base = 0
        position = bisect_right(times, time, base) if times and time < times[-1] else len(times)
        times.insert(position, time)
        values[position * stride : position * stride] = map(as_number, row)
        return log, position

    def _file(self, key: str, time: int) -> None:
        span = time // self._span_ms
        if (waiting := self._due_keys.get(span)) is None:
            self._due_keys[span] = [key]
            self._set_due()
        else:
            waiting.append(key)

    def _kept(self, key: str, time: int, watermark: int) -> KeyLog:
        """Return a copy of what is kept up to `time`, apart from laziness in forgetting."""
        log = self._logs.get(key, _EMPTY)
        base = bisect_right(log.times, watermark - self.width_max_ms, log.base)
        end = bisect_right(log.times, time, base)
        return KeyLog(log.times[base:end], log.values[base * self._stride : end * self._stride])

    def _read(self, log: KeyLog, end: int, time: int, slots: list[object]) -> None:
        """Write all aggregates of the windows that end at `time`, from the entries before `end`.

        Of events, the last of these entries is the event itself.
        """
        times, values, base = log.times, log.values, log.base
        stride, events = self._stride, self._events
        for width, include_current, counts, rates, since_lasts, columns in self._readings:
            stop = end - 1 if events and not include_current else end
            start = bisect_right(times, time - width, base, stop)
            for slot in counts:
                slots[slot] = stop - start
            for slot in rates:
                slots[slot] = (stop - start) * 1000 / width
            if since_lasts:
                previous = end - 2 if events else end - 1
                if previous >= start:
                    for slot in since_lasts:
                        slots[slot] = time - times[previous]
            for column, kinds in columns:
                present = [
                    value
                    for value in values[start * stride + column : stop * stride : stride]
                    if value is not None
                ]
                for slot, kind in kinds:
                    if present:
                        slots[slot] = REDUCERS[kind](present)
                    elif kind == "sum":
                        slots[slot] = 0.0

    def snapshot(self) -> Iterable[tuple[str, bytes]]:
        """Return every key and its log as bytes."""
        return ((key, self._encode(log)) for key, log in self._logs.items())

    def delta(self) -> list[tuple[str, bytes | None]]:
        """Return the keys that changed since the last call, None for those forgotten."""
        found = [(key, self._logs.get(key)) for key in self._changed]
        self._changed = set()
        return [(key, None if log is None else self._encode(log)) for key, log in found]

    def restore(self, entries: Iterable[tuple[str, bytes]]) -> None:
        """Replace all logs by those of `entries`."""
        self._logs, self._changed, self._due_keys = {}, set(), {}
        for key, data in entries:
            steps, values = _decode(data)
            time = 0
            times = [time := time + step for step in steps]
            self._logs[key] = KeyLog(times, values)
            self._file(key, times[-1])
        self._set_due()

    def _encode(self, log: KeyLog) -> bytes:
        times = log.times[log.base :]
        steps = [times[0], *(after - before for before, after in pairwise(times))]
        return _pack((steps, log.values[log.base * self._stride :]))


_pack = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[list[int], list[int | float | bool | None]]).decode
