"""The keys of one group, whatever is kept for each: who changed, who is forgotten, what is stored.

Lives here: the map from key to state, and its life.  Never here: what one key's state is and how
it is read (`slices.py`, `tiles.py`, `chains.py`, `fading.py` each have one way), clocks.

Strategy: each way of keeping is a `Kept`: functions of one key's state.  A late event is shown a copy,
into which it is entered, so nothing of it remains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, Protocol, TypeVar

from operators.idle import IdleKeys
from topics.messages import Event

__all__ = ["Kept", "Keyed", "Row"]

State = TypeVar("State")
Row = tuple[Any, ...]
"""The values of one event that a group looks at, one per column; None where missing."""


class Kept(Protocol[State]):
    """How one key's entries are kept and read."""

    reach_ms: int
    """A key whose newest entry lies so far behind the watermark has nothing to show."""

    def new(self) -> State:
        """Return the state of a key without entries."""
        ...

    def enter(self, state: State, time: int, watermark: int, row: Row) -> int:
        """Enter one event or label; return how many entries made room for it."""
        ...

    def look(self, state: State, time: int, out: dict[Any, Any]) -> None:
        """Write what leaves the event itself out; called before the event enters."""
        ...

    def read(self, state: State, time: int, out: dict[Any, Any]) -> None:
        """Write all other windows that end at `time`; later entries are not seen."""
        ...

    def seen_late(self, state: State, time: int, watermark: int) -> State:
        """Return a copy of what a late event may see, apart from laziness in forgetting."""
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
    """The states of one group's keys, with the methods of `Windows`.

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

    @property
    def changed(self) -> bool:
        """Return whether any key changed since the last `changes`."""
        return bool(self._changed)

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
        """Forget the keys that have nothing left at `watermark`."""
        for key, moved_on in self.idle.passed(watermark, self._newest):
            if not moved_on:
                del self._states[key]
                self._changed.add(key)
                self.evicted_keys += 1

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
