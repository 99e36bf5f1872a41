"""Keyed state: one small value per key, the order in which entries reach it, and when it is forgotten.

Lives here: keys by the time at which they may be forgotten; the map from key to state where that is
one small value (tiles, sessions, decay); how entries wait until none can come before them.  Never here: what
a state is (`tiles.py`, `sessions.py`, `decay.py`), logs (`log.py`), clocks.

Strategy: keys wait in the span of time of their newest entry when they were filed.  A span that is over is
opened once: a key with a newer entry by then is filed again, any other is forgotten.  So each entry pays for
at most one filing, and a key goes at the same watermark whenever it was filed.

    entries     f f f f f f f f f | w   w w     f: folded and gone     w: wait, in order of time
                          watermark             head: all of them folded, for the usual event

An entry waits until the watermark passes it, because until then one before it may come.  Entries are folded
one by one in order of time (ties in log order), so the value does not depend on the order of arrival, on
batches or restores.  Labels that come behind the watermark are folded at once.  Cost: constant for an event
in order; one out of order folds the waiting entries again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec

from topics.messages import Event

__all__ = ["LONG_AGO", "Fold", "IdleKeys", "Kept", "KeyBuffer", "Keyed", "ReorderBuffer", "Row"]

SPANS: Final = 64
"""How often idle keys are looked for within the longest window: memory stays small at no cost."""
LONG_AGO: Final = -(2**62)
"""Before all times."""

State = TypeVar("State")
Folded = TypeVar("Folded")
Row = tuple[Any, ...]
"""The values of one event that a group reads, one per column; None where missing."""


class IdleKeys:
    """Keys, filed by time, whose newest entry may be `width_ms` behind the watermark.

    >>> idle, newest = IdleKeys(width_ms=64), {"a": 0, "b": 5}
    >>> for key, time in newest.items():
    ...     idle.file(key, time)
    >>> idle.due_ms, idle.passed(64, newest.__getitem__)
    (64, (['a'], []))
    """

    __slots__ = ("_keys", "_span_ms", "_width_ms", "due_ms")

    def __init__(self, width_ms: int) -> None:
        self.due_ms = -LONG_AGO
        """Watermark at which `passed` has something to tell."""
        self._width_ms = width_ms
        self._span_ms = max(1, width_ms // SPANS)
        self._keys: dict[int, list[str]] = {}

    def file(self, key: str, time: int) -> None:
        """File a key whose newest entry is at `time`."""
        span = time // self._span_ms
        try:
            self._keys[span].append(key)
        except KeyError:
            self._keys[span] = [key]
            self._set_due()

    def passed(self, watermark: int, newest_of: Callable[[str], int]) -> tuple[list[str], list[str]]:
        """Open the spans that are over at `watermark`; return the keys without a newer entry, and the others.

        `newest_of` returns the time of a key's newest entry.  A key without a newer entry is filed no more.
        """
        idle: list[str] = []
        others: list[str] = []
        span_ms, spans = self._span_ms, self._keys
        while watermark >= self.due_ms:
            span = min(spans)
            for key in spans.pop(span):
                span_now = newest_of(key) // span_ms
                if span_now > span:
                    spans.setdefault(span_now, []).append(key)
                    others.append(key)
                else:
                    idle.append(key)
            self._set_due()
        return idle, others

    def remove(self, key: str) -> None:
        """Remove a key wherever it was filed: all of them are looked at."""
        for keys in self._keys.values():
            if key in keys:
                keys.remove(key)

    def clear(self) -> None:
        """Remove every key."""
        self._keys.clear()
        self._set_due()

    def _set_due(self) -> None:
        spans = self._keys
        self.due_ms = (min(spans) + 1) * self._span_ms - 1 + self._width_ms if spans else -LONG_AGO


class Kept(Protocol[State]):
    """The protocol of a store: how one key's entries are kept and read."""

    reach_ms: int
    """A key whose newest entry lies this far behind the watermark has only empty windows."""

    def new(self) -> State:
        """Return the state of a key without entries."""
        ...

    def enter(self, state: State, time: int, watermark: int, row: Row) -> int:
        """Enter one event or label; return how many entries were removed to make room."""
        ...

    def look(self, state: State, time: int, out: dict[Any, Any]) -> None:
        """Write the windows that leave the event itself out; called before the event enters."""
        ...

    def read(self, state: State, time: int, out: dict[Any, Any]) -> None:
        """Write all other windows that end at `time`; later entries are not seen."""
        ...

    def seen_late(self, state: State, time: int, watermark: int) -> State:
        """Return a copy of the state as a late event may see it; it may hold entries that are over."""
        ...

    def newest(self, state: State) -> int:
        """Return the time of the newest entry."""
        ...

    def dump(self, state: State) -> bytes:
        """Return the state as bytes."""
        ...

    def load(self, data: bytes) -> State:
        """Return the state that `dump` gave."""
        ...


class Keyed(Generic[State]):
    """The states of one group's keys, with the methods of `Logs`.

    A key is forgotten once its newest entry is `reach_ms` behind the watermark, counted in
    `evicted_keys`; `evicted_events` counts entries that made room within their key.
    """

    def __init__(self, kept: Kept[State]) -> None:
        self._kept = kept
        self.width_max_ms = kept.reach_ms
        self._states: dict[str, State] = {}
        self._changed: set[str] = set()
        self.idle = IdleKeys(kept.reach_ms)
        """When `forget` has something to do."""
        self.evicted_events = 0
        self.evicted_keys = 0

    def __len__(self) -> int:
        return len(self._states)

    def __iter__(self) -> Iterator[str]:
        return iter(self._states)

    def __contains__(self, key: str) -> bool:
        return key in self._states

    @property
    def changed(self) -> bool:
        """Return whether any key changed since the last `changes`."""
        return bool(self._changed)

    def erase(self, key: str) -> None:
        """Remove a key that is there, with all that it has."""
        del self._states[key]
        self.idle.remove(key)
        self._changed.add(key)

    def step(self, key: str, event: Event, row: Row, out: dict[Any, Any]) -> None:
        """Enter one event and write its windows into `out`; a late one is not entered."""
        kept, time, watermark = self._kept, event.event_time, event.watermark
        if event.late:
            state = self._seen_late(key, event)
            kept.look(state, time, out)
            kept.enter(state, time, watermark, row)
        else:
            state = self._states.get(key) or kept.new()
            kept.look(state, time, out)
            self._enter(key, state, time, watermark, row)
        kept.read(state, time, out)

    def enter(self, key: str, time: int, watermark: int, row: Row) -> None:
        """Enter what is no event of its own: a label.  One from before all windows changes nothing."""
        if time > watermark - self.width_max_ms:
            self._enter(key, self._states.get(key) or self._kept.new(), time, watermark, row)

    def read(self, key: str, event: Event, out: dict[Any, Any]) -> None:
        """Write the windows that end at `event` into `out`, without entering anything."""
        state = self._seen_late(key, event) if event.late else self._states.get(key) or self._kept.new()
        self._kept.look(state, event.event_time, out)
        self._kept.read(state, event.event_time, out)

    def forget(self, watermark: int) -> None:
        """Forget the keys whose windows are all empty at `watermark`."""
        idle, _ = self.idle.passed(watermark, self._newest)
        for key in idle:
            del self._states[key]
        self._changed.update(idle)
        self.evicted_keys += len(idle)

    def _newest(self, key: str) -> int:
        """Return the time of a key's newest entry."""
        return self._kept.newest(self._states[key])

    def _enter(self, key: str, state: State, time: int, watermark: int, row: Row) -> None:
        self.evicted_events += self._kept.enter(state, time, watermark, row)
        self._changed.add(key)
        if key not in self._states:
            self._states[key] = state
            self.idle.file(key, time)

    def _seen_late(self, key: str, event: Event) -> State:
        state = self._states.get(key) or self._kept.new()
        return self._kept.seen_late(state, event.event_time, event.watermark)

    def entries(self) -> Iterable[tuple[str, bytes]]:
        """Return every key and its state as bytes."""
        dump: Callable[[State], bytes] = self._kept.dump
        return ((key, dump(state)) for key, state in self._states.items())

    def changes(self) -> list[tuple[str, bytes | None]]:
        """Return the keys that changed since the last call, None for those forgotten."""
        found = [(key, self._states.get(key)) for key in self._changed]
        self._changed = set()
        return [(key, None if state is None else self._kept.dump(state)) for key, state in found]

    def load(self, entries: Iterable[tuple[str, bytes]]) -> None:
        """Replace all states by those of `entries`."""
        self._states, self._changed = {}, set()
        self.idle.clear()
        for key, data in entries:
            state = self._states[key] = self._kept.load(data)
            self.idle.file(key, self._kept.newest(state))


# -- entries that are folded, in the order of their times -------------------------------------------------


class Fold(Protocol[Folded]):
    """The protocol of a fold: a value into which entries are folded, and how it is read."""

    reach_ms: int
    """After this long without an entry all windows are empty."""

    def new(self) -> Folded:
        """Return the value of no entries."""
        ...

    def copy(self, folded: Folded) -> Folded:
        """Return a copy of the folded value."""
        ...

    def add(self, folded: Folded, time: int, row: Row) -> None:
        """Fold one entry in; only labels and late events come before what is folded."""
        ...

    def seen_late(self, folded: Folded, time: int) -> Folded:
        """Return a copy of what an event at `time`, before what is folded, may see."""
        ...

    def write(self, folded: Folded, time: int, out: dict[Any, Any], *, before: bool) -> None:
        """Write the values at `time`; `before`: of what leaves the event itself out."""
        ...

    def dump(self, folded: Folded) -> Any:
        """Return plain values."""
        ...

    def load(self, data: Any) -> Folded:
        """Return what `dump` gave."""
        ...


class KeyBuffer(Generic[Folded]):
    """The state of one key: entries folded for good, entries that wait, and a fold of all of them."""

    __slots__ = ("folded", "head", "newest", "rows", "times")

    def __init__(self, folded: Folded, newest: int, times: list[int], rows: list[Row]) -> None:
        self.folded = folded
        self.newest = newest
        self.times = times
        self.rows = rows
        self.head: Folded | None = None
        """Derived: everything folded; None: to be folded again."""


class ReorderBuffer(Generic[Folded]):
    """A `Kept` that folds entries in the order of their times, once the watermark has passed them.

    `event_max` bounds the entries that wait: the oldest are folded before the watermark has passed them,
    counted as having made room.
    """

    def __init__(self, fold: Fold[Folded], event_max: int) -> None:
        self._fold = fold
        self._event_max = event_max
        self.reach_ms = fold.reach_ms

    def new(self) -> KeyBuffer[Folded]:
        """Return a key without entries."""
        return KeyBuffer(self._fold.new(), -1, [], [])

    def enter(self, state: KeyBuffer[Folded], time: int, watermark: int, row: Row) -> int:
        """Keep one entry waiting, or fold it at once; fold the entries that the watermark has passed."""
        add, times, rows = self._fold.add, state.times, state.rows
        if time >= state.newest:
            state.newest = time
            if state.head is not None:
                add(state.head, time, row)
        else:
            state.head = None
        index = bisect_right(times, time)
        times.insert(index, time)
        rows.insert(index, row)
        passed = bisect_right(times, watermark)
        crowded = max(0, len(times) - passed - self._event_max)
        for old in range(passed + crowded):
            add(state.folded, times[old], rows[old])
        del times[: passed + crowded], rows[: passed + crowded]
        return crowded

    def look(self, state: KeyBuffer[Folded], time: int, out: dict[Any, Any]) -> None:
        """Write what leaves the event itself out."""
        self._fold.write(self._seen(state, time), time, out, before=True)

    def read(self, state: KeyBuffer[Folded], time: int, out: dict[Any, Any]) -> None:
        """Write all other windows that end at `time`."""
        self._fold.write(self._seen(state, time), time, out, before=False)

    def _seen(self, state: KeyBuffer[Folded], time: int) -> Folded:
        """Return a fold of the entries up to `time`."""
        if time < state.newest:
            return self._together(state, bisect_right(state.times, time))
        if state.head is None:
            state.head = self._together(state, len(state.times))
        return state.head

    def _together(self, state: KeyBuffer[Folded], waiting: int) -> Folded:
        folded = self._fold.copy(state.folded)
        for index in range(waiting):
            self._fold.add(folded, state.times[index], state.rows[index])
        return folded

    def seen_late(self, state: KeyBuffer[Folded], time: int, _watermark: int) -> KeyBuffer[Folded]:
        """Return a copy of what a late event may see: all that is folded, with entries after its time."""
        waiting = bisect_right(state.times, time)
        folded = self._together(state, waiting)
        return KeyBuffer(self._fold.seen_late(folded, time), -1, [], [])

    def newest(self, state: KeyBuffer[Folded]) -> int:
        """Return the time of the newest entry."""
        return state.newest

    def dump(self, state: KeyBuffer[Folded]) -> bytes:
        """Return the folded value and the waiting entries as bytes."""
        return _pack((self._fold.dump(state.folded), state.newest, state.times, state.rows))

    def load(self, data: bytes) -> KeyBuffer[Folded]:
        """Return the state that `dump` gave."""
        folded, newest, times, rows = _decode(data)
        return KeyBuffer(self._fold.load(folded), newest, times, rows)


_pack = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[Any, int, list[int], list[tuple[Any, ...]]]).decode
