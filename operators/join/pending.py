"""Answered events within their horizon: found by id, and by deadline as it passes.

Lives here: their entries, which of them are in memory, what of them changed, the bound on how many there
are.  Never here: what a label or an event does to them (`join.py`).

Strategy.  The last committed checkpoint is the base, memory lies over it:

    memory    what changed since, what is on its way into a checkpoint, and the newest of the rest
    stored    everything as of the last checkpoint: read where memory has no entry

Up to `RESIDENT_MAX` entries nothing is read from there.  Beyond, the oldest that have not changed leave
memory when a checkpoint has been committed.  They are read by id when an event or a label asks for them
(a run's ids at once, `recall`), and in the order of their deadlines when the watermark comes near.

An id that is new, as nearly all are, costs a look at the small entries only, which say where the large ones
are (`entries.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush

from operators.join.entries import (
    END_NAME,
    FIRST_NAME,
    ID_AT,
    Entry,
    EntryPlace,
    decode_entry,
    encode_entry,
    name_of,
    place_at,
    place_digits,
    place_named,
)
from operators.state import Changes, StateDelta, StoredEntries
from topics.errors import CheckpointError

__all__ = ["PENDING_MAX", "RESIDENT_MAX", "Pending", "entries_apart"]

PENDING_MAX = 10_000_000
"""Entries of one partition unless the definition says otherwise, some 2 KB each on disk.  The one with the
earliest deadline goes first."""
RESIDENT_MAX = 100_000
"""Entries in memory, some 2 KB each, beyond which those that are stored leave it, but for half as many."""
HEADS_MAX = 500
"""Stored entries read at once as their deadlines come near."""
GIVEN_UP_MAX = 2
"""Entries given up for a new one: a bound that was lowered is reached step by step."""


class Pending:
    """Answered events of one partition, each until the watermark has passed its time plus `wait_ms`.

    `stored` reads what the last committed checkpoint holds of them; without it all are in memory.
    """

    def __init__(
        self,
        wait_ms: int,
        pending_max: int,
        stored: StoredEntries | None = None,
        resident_max: int = RESIDENT_MAX,
    ) -> None:
        self.wait_ms = wait_ms
        self.pending_max = pending_max
        self.resident_max = resident_max
        self.first: EntryPlace | None = None
        """The place of the entry that expires next."""
        self.away = 0
        """Entries that are stored only."""
        self._entries: dict[str, Entry] = {}
        self.known: Callable[[str], Entry | None] = self._entries.get
        """Return the entry of an event that was answered within the horizon."""
        self._in_order: deque[EntryPlace] = deque()
        """Places in memory, each later than the one before."""
        self._others: list[EntryPlace] = []
        """Heap of the other places in memory."""
        self._changes = Changes[EntryPlace]()
        self._prepared: dict[EntryPlace, bytes] = {}
        """Entries of the next delta that are encoded already."""
        self._stored = stored
        self._going: set[EntryPlace] = set()
        """Places that a delta removes which is not committed yet."""
        self._heads: deque[tuple[EntryPlace, bytes]] = deque()
        """The next places to expire that are stored only, with their entries."""
        self._cursor = FIRST_NAME
        """The name up to which heads were read."""
        self._absent: frozenset[str] = frozenset()
        """Ids last asked for that are not stored."""

    def __len__(self) -> int:
        return len(self._entries) + self.away

    @property
    def overfull(self) -> bool:
        """Return whether more are in memory than should be, once they are stored."""
        return len(self._entries) > self.resident_max

    def add(self, entries: Sequence[Entry]) -> list[Entry]:
        """Take new entries, in log order; return those that had to make room for them.

        Their ids must not be known, and all different.
        """
        held, added, in_order = self._entries, self._changes.add, self._in_order
        newest = in_order[-1] if in_order else _FIRST
        given_up: list[Entry] = []
        crowded = len(held) + self.away + len(entries) > self.pending_max
        for entry in entries:
            if crowded and (excess := len(self) + 1 - self.pending_max) > 0:
                self._look()
                given_up += [self._pop() for _ in range(min(excess, GIVEN_UP_MAX, len(self)))]
            place = _place_of(entry)
            event_id = place[2]
            held[event_id] = entry
            added(place)
            if newest < place:
                in_order.append(place)
                newest = place
            else:
                heappush(self._others, place)
        self._look()
        return given_up

    def change(self, entry: Entry) -> None:
        """Take note that an entry in memory has changed; one that was given up is no more."""
        place = _place_of(entry)
        if self._entries.get(place[2]) is entry:
            self._changes.change(place)

    def expire(self, watermark: int) -> list[Entry]:
        """Forget the entries whose deadline the watermark has passed; return them by deadline."""
        in_order, others = self._in_order, self._others
        due = watermark - self.wait_ms
        # Nothing came out of order and nothing is away, nearly always: then the queue alone says who is next.
        passed: list[EntryPlace] = []
        if not self.away:
            while not others and in_order and in_order[0][0] < due:
                passed.append(in_order.popleft())
        gone = self._drop(passed)
        self._look()
        while self.first is not None and self.first[0] < due:
            gone.append(self._pop())
        return gone

    def _pop(self) -> Entry:
        """Forget the entry that expires next."""
        place = self.first
        assert place is not None
        if place[2] not in self._entries:
            entry: Entry = decode_entry(self._heads.popleft()[1])
            self._changes.remove(place)
            self._count_away(-1)
        else:
            if self._in_order and self._in_order[0] == place:
                self._in_order.popleft()
            else:
                heappop(self._others)
            entry = self._drop((place,))[0]
        self._look()
        return entry

    def _look(self) -> None:
        """Find the entry that expires next."""
        in_order, others = self._in_order, self._others
        first = in_order[0] if in_order else None
        if others and (first is None or others[0] < first):
            first = others[0]
        if self.away:
            head = self._head()
            if first is None or head < first:
                first = head
        self.first = first

    def _drop(self, places: Sequence[EntryPlace]) -> list[Entry]:
        """Forget entries in memory."""
        for place in places:
            self._changes.remove(place)
            self._prepared.pop(place, None)
        forget = self._entries.pop
        return [forget(event_id) for _, _, event_id in places]

    # -- what is stored only ----------------------------------------------------------------------

    def recall(self, event_ids: Sequence[str]) -> None:
        """Read those of these that are stored only, all at once: what is asked of them next costs no read."""
        if not self.away or self._stored is None:
            return
        missing = [event_id for event_id in event_ids if event_id not in self._entries]
        found = self._stored.get(["i/" + event_id for event_id in missing]) if missing else {}
        places = {}
        for name, data in found.items():
            place = place_at(name[2:], data)
            if place not in self._changes.removed and place not in self._going:
                places[name_of(place)] = place
        for name, data in self._read(list(places)) if places else ():
            place = places[name]
            event_id = place[2]
            self._entries[event_id] = decode_entry(data)
            heappush(self._others, place)
            self._count_away(-1)
        self._absent = frozenset(missing).difference(self._entries)

    def _find(self, event_id: str) -> Entry | None:
        """Return the entry of an event, wherever it is."""
        entry = self._entries.get(event_id)
        if entry is None and event_id not in self._absent:
            self.recall((event_id,))
            entry = self._entries.get(event_id)
        return entry

    def _head(self) -> EntryPlace:
        """Return the place of the entry that expires next among those that are stored only."""
        heads = self._heads
        while True:
            while heads:
                if not self._passed_over(heads[0][0]):
                    return heads[0][0]
                heads.popleft()
            assert self._stored is not None
            names = self._stored.scan(self._cursor, END_NAME, HEADS_MAX)
            if not names:
                raise CheckpointError(
                    f"{self.away} answers that wait for labels are not where they were stored",
                    hint="another process has changed the checkpoint file, or it is damaged: start again",
                )
            self._cursor = names[-1]
            places = {name: place for name in names if not self._passed_over(place := place_named(name))}
            heads.extend((places[name], data) for name, data in self._read(list(places)))

    def _passed_over(self, place: EntryPlace) -> bool:
        """Return whether what is stored there is not what holds: it is in memory, or no more."""
        return place[2] in self._entries or place in self._changes.removed or place in self._going

    def _read(self, names: Sequence[str]) -> list[tuple[str, bytes]]:
        """Return stored entries by name, in the order asked for."""
        assert self._stored is not None
        found = self._stored.get(names)
        lost = [name for name in names if name not in found]
        if lost:
            raise CheckpointError(
                f"the answer to event {place_named(lost[0])[2]} is not where it was stored",
                hint="another process has changed the checkpoint file, or it is damaged: start again",
            )
        return [(name, found[name]) for name in names]

    def _count_away(self, by: int) -> None:
        self.away += by
        self.known = self._find if self.away else self._entries.get

    def committed(self) -> None:
        """Take note that every delta so far is stored, so that unchanged entries may leave memory."""
        self._going.clear()
        self._absent = frozenset()
        self._heads.clear()
        self._cursor = FIRST_NAME
        if self._stored is None:
            return
        excess = len(self._entries) - self.resident_max
        if self.away or excess > 0:
            self._leave(excess + self.resident_max - self.resident_max // 2 if excess > 0 else 0)
            self._look()

    def _leave(self, count: int) -> None:
        """Let `count` of the oldest leave memory, and all that stands before the rest; what changed stays."""
        in_order, others = self._in_order, self._others
        leaving = [in_order.popleft() for _ in range(min(count, len(in_order)))]
        first = in_order[0] if in_order else _LAST
        leaving += [place for place in others if place < first]
        stay = [place for place in others if place >= first]
        changed = self._changes.written | self._prepared.keys()
        stay += [place for place in leaving if place in changed]
        heapify(stay)
        self._others = stay
        left = [place[2] for place in leaving if place not in changed]
        for event_id in left:
            del self._entries[event_id]
        self._count_away(len(left))

    # -- state ------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, bytes]:
        """Return all entries."""
        entries: dict[str, bytes] = dict(self._away_entries())
        for entry in self._entries.values():
            place = _place_of(entry)
            entries[name_of(place)] = encode_entry(entry)
            entries["i/" + place[2]] = place_digits(place)
        return entries

    def _away_entries(self) -> Iterator[tuple[str, bytes]]:
        if not self.away or self._stored is None:
            return
        for name, data in entries_apart(self._stored, FIRST_NAME, END_NAME):
            place = place_named(name)
            if not self._passed_over(place):
                yield name, data
                yield "i/" + place[2], place_digits(place)

    def prepare(self, count: int) -> None:
        """Encode up to `count` changed entries for the next `delta`; what changes again is encoded again.

        All at once they would hold the loop for 60 ms for each 1,000 events a second between two checkpoints
        of 5 s: with 2,000 events a second that is 65 ms more at the 99th percentile.
        """
        changed, entries = self._changes.written, self._entries
        for _ in range(min(count, len(changed))):
            place = changed.pop()
            self._prepared[place] = encode_entry(entries[place[2]])

    def delta(self) -> StateDelta:
        """Return what changed since the last call."""
        changes = self._changes
        self.prepare(len(changes.written))
        delta: StateDelta = dict.fromkeys(map(name_of, changes.removed))
        delta.update(dict.fromkeys("i/" + event_id for _, _, event_id in changes.removed))
        if self._stored is not None:
            self._going |= changes.removed
        for place, data in self._prepared.items():
            delta[name_of(place)] = data
            if changes.new(place):
                delta["i/" + place[2]] = place_digits(place)
        self._prepared.clear()
        changes.clear()
        return delta

    def restore(self, entries: Mapping[str, bytes]) -> None:
        """Replace the state.

        Where entries are stored, those given are what the next checkpoint puts in their place.
        """
        for kept in (self._changes, self._prepared, self._going, self._heads):
            kept.clear()
        self._cursor = FIRST_NAME
        self._absent = frozenset()
        self._entries.clear()
        for name, data in entries.items():
            if name[0] == "w":
                self._entries[name[ID_AT:]] = decode_entry(data)
        self._others = []
        self._in_order = deque(sorted(map(_place_of, self._entries.values())))
        self.away = 0
        if self._stored is not None:
            # A snapshot of elsewhere holds entries that are not stored here.
            names = ["i/" + event_id for event_id in self._entries]
            replaced = self._stored.get(names) if names else {}
            self._count_away(self._stored.count("i/") - len(replaced))
        self._look()


def entries_apart(stored: StoredEntries, after: str, before: str) -> Iterator[tuple[str, bytes]]:
    """Yield all entries with names between these two, in order."""
    while names := stored.scan(after, before, HEADS_MAX):
        yield from stored.get(names).items()
        after = names[-1]


def _place_of(entry: Entry) -> EntryPlace:
    return entry.event_time, entry.event_offset, entry.event_id


_FIRST: EntryPlace = (-1 << 62, 0, "")
_LAST: EntryPlace = (1 << 62, 0, "")
"""Before and after every place."""
