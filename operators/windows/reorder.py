"""Entries folded into one small value per key, in the order of their times.

Lives here: how long entries wait before they are folded, and what an event out of order sees.  Never
here: what they are folded into (`sessions.py`, `decay.py`), keys (`keys.py`).

    entries     f f f f f f f f f | w   w w     f: folded and gone     w: wait, in order of time
                          watermark             head: all of them folded, for the usual event

Strategy: an entry waits until the watermark passes it, because until then one before it may come.  Entries
are folded one by one in order of time (ties in log order), so the value does not depend on the
order of arrival, on batches or restores.  Labels that come behind the watermark are folded at once.

Cost: constant for an event in order; one out of order folds the waiting entries again.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from operators.windows.keys import Row

__all__ = ["Fold", "KeyBuffer", "ReorderBuffer"]

Folded = TypeVar("Folded")


class Fold(Protocol[Folded]):
    """What entries are folded into, and how it is read."""

    reach_ms: int
    """After so long without an entry there is nothing to show."""

    def new(self) -> Folded:
        """Return the value of no entries."""
        ...

    def copy(self, folded: Folded) -> Folded:
        """Return a value of its own with the same content."""
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
    """What one key keeps: entries folded for good, entries that wait, and all of them together."""

    __slots__ = ("folded", "head", "newest", "rows", "times")

    def __init__(self, folded: Folded, newest: int, times: list[int], rows: list[Row]) -> None:
        self.folded = folded
        self.newest = newest
        self.times = times
        self.rows = rows
        self.head: Folded | None = None
        """Derived: everything folded; None: to be folded again."""


class ReorderBuffer(Generic[Folded]):
    """How the keys of one group are kept and read: a `Kept`.

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
        """Let one entry wait, or fold it at once; fold what the watermark has passed."""
        add, times, rows = self._fold.add, state.times, state.rows
        if time >= state.newest:
            state.newest = time
            if state.head is not None:
                add(state.head, time, row)
        else:
            state.head = None
        place = bisect_right(times, time)
        times.insert(place, time)
        rows.insert(place, row)
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
        """Return the entries up to `time`, folded."""
        if time < state.newest:
            return self._together(state, bisect_right(state.times, time))
        if state.head is None:
            state.head = self._together(state, len(state.times))
        return state.head

    def _together(self, state: KeyBuffer[Folded], waiting: int) -> Folded:
        folded = self._fold.copy(state.folded)
        for place in range(waiting):
            self._fold.add(folded, state.times[place], state.rows[place])
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
        """Return what is folded and what waits."""
        return _pack((self._fold.dump(state.folded), state.newest, state.times, state.rows))

    def load(self, data: bytes) -> KeyBuffer[Folded]:
        """Return the state that `dump` gave."""
        folded, newest, times, rows = _decode(data)
        return KeyBuffer(self._fold.load(folded), newest, times, rows)


_pack = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[Any, int, list[int], list[tuple[Any, ...]]]).decode
