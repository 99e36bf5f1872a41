"""The races of one examples partition: the ones in use in memory, the idle ones in the checkpoint.

Lives here: which races are in memory, and what of them is yet to be stored.  Never here: what happens in a
race (`engine/machines/race.py`), which records are whose (`keyed_learner.py`), where entries lie
(`engine/stores`).

Strategy.  At most `per_max` races are in memory, in the order of their last use.  The one that was used
longest ago leaves when another comes: what it has changed waits, as bytes, for the next checkpoint.  It comes
back at its next record or event, bit for bit, so who is in memory changes nothing but the time that it takes.

    waiting   changes that no delta has had yet ...
    going     ... those of the last delta, until it is committed ...
    stored    ... and everything as of the last checkpoint: a race is read from all three, the newest first

    <key>/<entry>     names of entries; the key is quoted as in a URL
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from engine.machines.race import Race
from operators.models.scoring import Scoring
from operators.state import StateDelta, StateEntries, StoredEntries

__all__ = ["KeyedRace", "Races"]

PLACE = "place"
WAITING_MIN = 100
"""Races that may wait for a delta, as bytes, however few may be in memory: a checkpoint syncs a disk."""
SCANNED_MAX = 500
"""Names of a stored race's entries that are read at once."""


class _Place(msgspec.Struct, array_like=True):
    """What a race keeps of the log that it shares with others."""

    changes: int = 0
    """Changes of the field that it has seen."""
    policy_revision: int = 0


class KeyedRace(Race):
    """A race that shares its log: changes of the field come to it when it is used next."""

    TELLS = False
    WATCHED = False
    changes = 0
    """Changes of the field, of the log's, that it has carried out or begun after."""
    _saved: bytes = b""

    def __init__(self, **named: Any) -> None:
        """The arguments are those of `Race`."""
        super().__init__(**named)
        self.scoring = Scoring(self._task, self.roster, self._stopwatch)
        """What answers the events of its key."""

    def _place(self) -> bytes:
        return msgspec.msgpack.encode(_Place(self.changes, self.policy_revision))

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        return super().snapshot() | {PLACE: self._place()}

    def delta(self) -> StateDelta:
        """Return the entries that changed since the last call."""
        changed, place = super().delta(), self._place()
        if place != self._saved:
            changed[PLACE] = self._saved = place
        return changed

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state."""
        self._saved = entries[PLACE]
        place = msgspec.msgpack.decode(self._saved, type=_Place)
        self.changes, self.policy_revision = place.changes, place.policy_revision
        super().restore(entries)


class Races:
    """The races of one examples partition, by key.

    `make` returns the race of a key as its entries say, or, where there are none, a new one.  `stored` reads
    the entries as of the last
    committed checkpoint; without it what leaves memory stays there, as bytes.
    """

    def __init__(
        self,
        make: Callable[[str, StateEntries | None], KeyedRace],
        per_max: int,
        stored: StoredEntries | None = None,
    ) -> None:
        self.per_max = per_max
        self.resident: dict[str, KeyedRace] = {}
        """The races in memory, the one used longest ago first."""
        self.counts: Counter[tuple[str, str]] = Counter()
        """How often a race began, left memory and came back; no part of the state."""
        self._make = make
        self._stored = stored
        self._used: set[str] = set()
        """Keys of races in memory that may have changed since the last delta."""
        self._waiting: dict[str, StateDelta] = {}
        self._going: dict[str, StateDelta] = {}

    def get(self, key: str) -> KeyedRace | None:
        """Return the race of a key, as the one used last; None if the key has none."""
        race = self.resident.pop(key, None)
        if race is None:
            if not (entries := self._entries_of(key)):
                return None
            race = self._make(key, entries)
            self.counts["races", "restored"] += 1
        self._keep(key, race)
        return race

    def begin(self, key: str) -> KeyedRace:
        """Return a new race of a key that has none."""
        race = self._make(key, None)
        self._keep(key, race)
        self._used.add(key)
        self.counts["races", "begun"] += 1
        return race

    def changed(self, race: KeyedRace) -> None:
        """Take note that a race has changed; it must be in memory."""
        self._used.add(race.key)

    def _keep(self, key: str, race: KeyedRace) -> None:
        """Put a race behind all others in memory; the first of too many leaves."""
        self.resident[key] = race
        while len(self.resident) > self.per_max:
            idlest = next(iter(self.resident))
            self._note(idlest)
            del self.resident[idlest]
            self.counts["races", "evicted"] += 1

    def _note(self, key: str) -> None:
        """Let what a race in memory has changed wait for the next delta."""
        if key in self._used:
            self._used.discard(key)
            self._waiting.setdefault(key, {}).update(self.resident[key].delta())

    # -- what is stored ---------------------------------------------------------------------------

    def _entries_of(self, key: str) -> dict[str, bytes]:
        """Return the entries of a race that is not in memory; none if there is no such race."""
        entries: StateDelta = {**self._stored_of(key)}
        for newer in (self._going, self._waiting):
            entries.update(newer.get(key, {}))
        return {name: data for name, data in entries.items() if data is not None}

    def _stored_of(self, key: str) -> dict[str, bytes]:
        if self._stored is None:
            return {}
        first = _prefix(key)
        after, before, names = first, first[:-1] + "0", list[str]()
        while found := self._stored.scan(after, before, SCANNED_MAX):
            names += found
            after = found[-1]
        return {name[len(first) :]: data for name, data in self._stored.get(names).items()} if names else {}

    def _stored_keys(self) -> Iterator[str]:
        """Yield the keys of the races that are stored."""
        after = ""
        while self._stored is not None and (found := self._stored.scan(after, "\U0010ffff", 1)):
            quoted = found[0].partition("/")[0]
            yield unquote(quoted)
            after = quoted + "0"

    def keys(self) -> set[str]:
        """Return the keys of all races, in memory or not: reads the whole store."""
        return {*self.resident, *self._waiting, *self._going, *self._stored_keys()}

    def peek(self, key: str) -> KeyedRace | None:
        """Return the race of a key without putting it into memory: a copy to look at, where it is stored."""
        if (race := self.resident.get(key)) is not None:
            return race
        entries = self._entries_of(key)
        return self._make(key, entries) if entries else None

    @property
    def overfull(self) -> bool:
        """Return whether more races wait for a delta, as bytes, than may be in memory."""
        return len(self._waiting) > max(self.per_max, WAITING_MIN)

    def committed(self) -> None:
        """Record that every delta so far is stored."""
        if self._stored is not None:
            self._going.clear()

    # -- state ------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, bytes]:
        """Return the entries of all races."""
        entries: dict[str, bytes] = {}
        for key in sorted(self.keys()):
            race = self.resident.get(key)
            held = self._entries_of(key) if race is None else race.snapshot()
            entries |= {_prefix(key) + name: data for name, data in held.items()}
        return entries

    def delta(self) -> StateDelta:
        """Return the entries that changed since the last call."""
        for key in sorted(self._used):
            self._note(key)
        changed: StateDelta = {}
        for key, entries in self._waiting.items():
            changed |= {_prefix(key) + name: data for name, data in entries.items()}
            self._going.setdefault(key, {}).update(entries)
        self._waiting = {}
        return changed

    def restore(self, entries: StateEntries) -> None:
        """Replace the state; races that are stored are not among the entries."""
        self.resident.clear()
        self._used.clear()
        self._waiting, self._going = {}, {}
        for name, data in entries.items():
            quoted, _, entry = name.partition("/")
            self._going.setdefault(unquote(quoted), {})[entry] = data


def _prefix(key: str) -> str:
    return f"{quote(key, safe='')}/"
