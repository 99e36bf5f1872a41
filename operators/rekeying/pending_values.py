"""Feature values that other partitions computed for events of this one, until an event has all of its values.

Lives here: the values of each event that have come back, and which events still wait for some.
Never here: sending events out, answering them.

An event waits from its reading until a set of values has come from each part: its own
partition's windows first, when its turn has come, then each stage's.  Sets may come before the
event is read again, in a replay.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import Struct

from operators.state import Changes, StateDelta, StateEntries
from topics.messages import FeatureValue

__all__ = ["PendingValues"]


class _Pending(Struct):
    """The values of one event so far."""

    missing: int
    """Sets yet to come; below 0 while sets have come and the event has not been read."""
    sent: bool = False
    """Whether its own partition's values are in, and it is on its way to the others."""
    late: bool = False
    values: dict[str, FeatureValue] = {}


class PendingValues:
    """Values of events by offset; `parts` sets make an event complete.

    >>> pending = PendingValues(parts=2)
    >>> pending.expect(7)
    >>> pending.sent(7, {"0": 3}, late=False)
    >>> pending.complete(7), pending.outstanding
    (False, 1)
    >>> pending.put(7, {"1": 0.5}, late=False)
    >>> pending.complete(7), pending.outstanding
    (True, 0)
    >>> pending.take(7)
    ({'0': 3, '1': 0.5}, False)
    """

    def __init__(self, *, parts: int) -> None:
        self._parts = parts
        self._pending: dict[int, _Pending] = {}
        self._out: set[int] = set()
        self._changes = Changes[int]()

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def outstanding(self) -> int:
        """Return how many events are on their way to other partitions and not complete."""
        return len(self._out)

    def expect(self, offset: int) -> None:
        """Add an event that must wait for its values."""
        entry = self._entry(offset)
        entry.missing += self._parts
        self._count(offset, entry)

    def sent(self, offset: int, values: Mapping[str, FeatureValue], *, late: bool) -> None:
        """Add the set of the event's own partition; the others follow."""
        self._entry(offset).sent = True
        self.put(offset, values, late=late)

    def put(self, offset: int, values: Mapping[str, FeatureValue], *, late: bool) -> None:
        """Add one set of values of another partition."""
        entry = self._entry(offset)
        entry.missing -= 1
        entry.late |= late
        entry.values.update(values)
        self._count(offset, entry)

    def complete(self, offset: int) -> bool:
        """Return whether the event has all its values, or waits for none."""
        entry = self._pending.get(offset)
        return entry is None or entry.missing == 0

    def take(self, offset: int) -> tuple[dict[str, FeatureValue], bool]:
        """Remove a complete event; return its values and whether any part was late."""
        entry = self._pending.pop(offset, None)
        if entry is None:
            return {}, False
        self._changes.remove(offset)
        return entry.values, entry.late

    def _count(self, offset: int, entry: _Pending) -> None:
        if entry.sent and entry.missing:
            self._out.add(offset)
        else:
            self._out.discard(offset)

    def _entry(self, offset: int) -> _Pending:
        entry = self._pending.get(offset)
        if entry is None:
            entry = self._pending[offset] = _Pending(0)
            self._changes.add(offset)
        else:
            self._changes.change(offset)
        return entry

    def snapshot(self) -> dict[str, bytes]:
        """Return one entry per event."""
        return {str(offset): _encode(entry) for offset, entry in self._pending.items()}

    def delta(self) -> StateDelta:
        """Return what changed since the last call."""
        return self._changes.delta(self._pending, str, _encode)

    def restore(self, entries: StateEntries) -> None:
        """Replace the state."""
        self._pending = {int(name): _decode(data) for name, data in entries.items()}
        self._out = {offset for offset, entry in self._pending.items() if entry.sent and entry.missing}
        self._changes.clear()


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Pending).decode
