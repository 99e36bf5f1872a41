"""The state of operators: named entries, what of them changed, and several operators as one.

Lives here: the protocol that every operator keeps, the names of entries under one roof, the record of which
entries a delta must write.  Never here: what an entry holds, where entries are stored.

An operator remembers something between events.  It takes values in log order, returns
values, never reads a clock and never calls the next step.  The suite in
`tests/promises/test_contract.py` finds every class of `operators/` that has the three methods of `Operator`
and checks: equal inputs give equal outputs, inputs are left as they were, and
snapshot -> restore -> continue equals continue, to the bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

import msgspec
from msgspec import Struct

__all__ = [
    "Changes",
    "Composite",
    "Operator",
    "StateDelta",
    "StateEntries",
    "StoredEntries",
    "WholeState",
    "named",
    "under",
]

StateEntries = Mapping[str, bytes]
"""The whole state of an operator: entry name -> bytes."""
StateDelta = dict[str, bytes | None]
"""The changes of an operator's state: entry name -> new bytes, or None where the entry is gone."""


class Operator(Protocol):
    """State as named entries, so that a checkpoint writes only what changed."""

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state.  Changes nothing, `delta()` included."""
        ...

    def delta(self) -> StateDelta:
        """Return the entries that changed since the last `delta()` or `restore()`.

        Applying every delta in order to an empty mapping gives `snapshot()`.
        """
        ...

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state by `entries` (of an operator built with equal arguments)."""
        ...


class StoredEntries(Protocol):
    """The entries of an operator as the last committed checkpoint holds them, for one that has too many.

    Names are ordered by code point.
    """

    def get(self, names: Sequence[str]) -> dict[str, bytes]:
        """Return those of these entries that are there."""
        ...

    def scan(self, after: str, before: str, count: int) -> list[str]:
        """Return the first `count` names between `after` and `before`, both excluded, in order."""
        ...

    def count(self, prefix: str) -> int:
        """Return how many names begin with `prefix`."""
        ...


Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Changes(Generic[Key]):
    """The keys of an operator's entries that its next delta must write or remove.

    An entry that came and went between two deltas is in neither.  Memory is that of the changes, not of the
    entries.

    >>> held, changes = {"a": 1, "b": 2}, Changes[str]()
    >>> changes.change("b")
    >>> changes.add("came and went")
    >>> changes.remove("came and went")
    >>> changes.remove("stored")
    >>> changes.delta(held, name=str.upper, encode=lambda value: b"%d" % value)
    {'STORED': None, 'B': b'2'}
    """

    __slots__ = ("_new", "change", "removed", "written")

    def __init__(self) -> None:
        self.written: set[Key] = set()
        """Keys that are new or changed."""
        self.change: Callable[[Key], None] = self.written.add
        """Record that an entry has another value."""
        self.removed: set[Key] = set()
        """Keys that an earlier delta or the restored state holds, and that are no more."""
        self._new: set[Key] = set()
        """Those of `written` that no earlier delta holds."""

    def __bool__(self) -> bool:
        return bool(self.written or self.removed)

    def add(self, key: Key) -> None:
        """Record an entry that was not there before."""
        self.written.add(key)
        if key in self.removed:
            self.removed.discard(key)
        else:
            self._new.add(key)

    def remove(self, key: Key) -> None:
        """Record that an entry was removed."""
        self.written.discard(key)
        if key in self._new:
            self._new.discard(key)
        else:
            self.removed.add(key)

    def new(self, key: Key) -> bool:
        """Return whether no earlier delta holds the entry."""
        return key in self._new

    def clear(self) -> None:
        """Forget all changes: the present entries are stored."""
        self.written.clear()
        self.removed.clear()
        self._new.clear()

    def delta(
        self, entries: Mapping[Key, Value], name: Callable[[Key], str], encode: Callable[[Value], bytes]
    ) -> StateDelta:
        """Return the delta of `entries` since the last call, and forget all changes."""
        delta: StateDelta = {name(key): None for key in self.removed}
        delta.update((name(key), encode(entries[key])) for key in self.written)
        self.clear()
        return delta


class WholeState(ABC):
    """An operator of few entries, which are written all together or not at all."""

    _dirty = True
    """Whether anything changed since the last `delta` or `restore`: kept up by the operator."""

    @abstractmethod
    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""

    def delta(self) -> StateDelta:
        """Return the whole state if it changed since the last call."""
        if not self._dirty:
            return {}
        self._dirty = False
        return dict(self.snapshot())


Data = TypeVar("Data", bytes, bytes | None)


def named(parts: Mapping[str, Mapping[str, Data]]) -> dict[str, Data]:
    """Return the entries of all parts as one mapping.

    >>> named({"join": {"a": b"1"}, "hold": {"a": b"2"}})
    {'join/a': b'1', 'hold/a': b'2'}
    """
    return {f"{part}/{name}": data for part, entries in parts.items() for name, data in entries.items()}


def under(part: str, entries: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the entries of one part, under the part's own names.

    >>> under("join", {"join/a": b"1", "hold/a": b"2"})
    {'a': b'1'}
    """
    prefix = f"{part}/"
    return {name[len(prefix) :]: data for name, data in entries.items() if name.startswith(prefix)}


Position = TypeVar("Position", bound=Struct)


class Composite(Generic[Position]):
    """An operator made of others, and how far it has read: the entry `position`.

    The entries of each part stand under the part's name.
    """

    def __init__(self, position: Position, parts: Mapping[str, Operator]) -> None:
        self.position = position
        self._parts = parts

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        parts = {name: part.snapshot() for name, part in self._parts.items()}
        return {"position": msgspec.json.encode(self.position), **named(parts)}

    def delta(self) -> StateDelta:
        """Return the entries that changed since the last call."""
        parts = {name: part.delta() for name, part in self._parts.items()}
        return {"position": msgspec.json.encode(self.position), **named(parts)}

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state."""
        restored = msgspec.json.decode(entries["position"], type=type(self.position))
        for field in restored.__struct_fields__:  # in place: parts may hold the position
            setattr(self.position, field, getattr(restored, field))
        for name, part in self._parts.items():
            part.restore(under(name, entries))
