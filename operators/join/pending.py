"""Answered events within their horizon: found by id, and by deadline as it passes.

Lives here: the entry of an event that waits for its label, answered or not, its bytes and its name in a
checkpoint; which entries are in memory, what of them changed, the bound on how many there are.  Never here:
what a label or an event does to them (`join.py`).

Strategy.  The last committed checkpoint is the base, memory lies over it:

    memory    what changed since, what is on its way into a checkpoint, and the newest of the rest
    stored    everything as of the last checkpoint: read where memory has no entry

Up to `RESIDENT_MAX` entries nothing is read from there.  Beyond, the oldest that have not changed leave
memory when a checkpoint has been committed.  They are read by id when an event or a label asks for them
(a run's ids at once, `recall`), and in the order of their deadlines when the watermark comes near.

An id that is new, as nearly all are, costs a look at the small entries only, which say where the large ones
are:

    w/<event time><offset><event id>   the value; twelve hexadecimal digits each, so names stand by deadline
    i/<event id>                       <event time><offset>: where it is
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import chain
from typing import Any, Final, Generic, TypeVar

import msgspec
from msgspec import Struct

from operators.state import Changes, StateDelta, StoredEntries
from topics.codec import decode_prediction
from topics.errors import CheckpointError
from topics.messages import Headers, Label, LabelValue, Prediction, Score

__all__ = [
    "END_NAME",
    "FIRST_NAME",
    "PENDING_MAX",
    "RESIDENT_MAX",
    "SPILLED",
    "Answered",
    "Entry",
    "Open",
    "Pending",
    "Waiting",
    "WaitingAnswer",
    "decode_entry",
    "encode_entry",
    "entries_apart",
    "with_keys",
]

PENDING_MAX = 10_000_000
"""Entries of one partition unless the definition says otherwise, some 2 KB each on disk.  The one with the
earliest deadline goes first."""
RESIDENT_MAX = 100_000
"""Entries in memory, some 2 KB each, beyond which those that are stored leave it, but for half as many."""
HEADS_MAX = 500
"""Stored entries read at once as their deadlines come near."""
GIVEN_UP_MAX = 2
"""Entries given up for a new one: a bound that was lowered is reached step by step."""


# -- entries -----------------------------------------------------------------------------------------


class Opened(Struct, gc=False, array_like=True):
    """One event, and its label once that is joined: what every open entry has."""

    event_id: str
    event_time: int
    event_offset: int
    keys: tuple[str | None, ...]
    """The event's keys in the label windows, in plan order; None where a changed definition added one."""
    label: LabelValue | None = None


class Waiting(Opened, gc=False, array_like=True, tag="waiting"):
    """One event that is known by its keys alone."""

    labels: tuple[Label, ...] = ()
    """Labels that have come, in their order, where more than the first one means anything."""


class WaitingAnswer(Opened, gc=False, array_like=True, kw_only=True, tag="answer"):
    """One answered event: what was served, and its label once that is joined."""

    prediction: Prediction
    """What was served; a duplicate of the event is answered with it again."""
    key: str
    payload_crc: int
    """CRC-32 of the event's bytes, to tell a repeat from another event under the same id."""
    scores: dict[str, Score]
    trace: Headers = ()
    """W3C trace context that the event came with, for its example."""
    labels: tuple[Label, ...] = ()
    """Labels that have come, in their order, where more than the first one means anything."""

    @classmethod
    def of(
        cls,
        prediction: Prediction,
        key: str,
        keys: tuple[str | None, ...],
        payload_crc: int,
        scores: dict[str, Score],
        trace: Headers = (),
    ) -> WaitingAnswer:
        """Return the entry of an answer to an event of this key, with every candidate's score."""
        return cls(
            prediction.event_id,
            prediction.event_time,
            prediction.event_offset,
            keys,
            prediction=prediction,
            key=key,
            payload_crc=payload_crc,
            scores=scores,
            trace=trace,
        )


class Answered(Struct, frozen=True, gc=False, array_like=True, tag="answered"):
    """One answered event that has its label and was learned: only what a repeat of the event needs."""

    event_id: str
    event_time: int
    event_offset: int
    payload_crc: int
    label: LabelValue
    answer: bytes
    """The prediction as it was sent."""
    key: str = ""
    """The event's key; empty in what an earlier version wrote."""

    @property
    def prediction(self) -> Prediction:
        """Return what was served."""
        return decode_prediction(self.answer)


Entry = Waiting | WaitingAnswer | Answered
Open = TypeVar("Open", bound=Waiting | WaitingAnswer)
"""What is opened when an event is answered."""
_Expiry = tuple[int, int, str]
"""(event time, offset, event id): the order in which entries expire."""

_TIME_END: Final = 14
_ID_AT: Final = 26
"""Where the id begins in a name."""
FIRST_NAME: Final = "w/"
END_NAME: Final = "w0"
"""Before and after the name of every value."""
SPILLED: Final = (FIRST_NAME, "i/")
"""Prefixes of the names of the entries that may leave memory: values, and their places in the order."""

encode_entry = msgspec.msgpack.Encoder().encode
decode_entry: Callable[[bytes], Any] = msgspec.msgpack.Decoder(Entry).decode


def with_keys(data: bytes, before: Sequence[str], after: Sequence[str]) -> bytes:
    """Return the value of an entry whose label goes to the windows of another definition.

    `before` and `after` say what each key is made of, there and here; empty: the key is empty.  A key that
    the entry does not know is None.
    """
    entry = decode_entry(data)
    if not isinstance(entry, Waiting | WaitingAnswer):
        return data
    keys_of = dict(zip(before, entry.keys, strict=True)) | {"": ""}
    entry.keys = tuple(keys_of.get(made_of) for made_of in after)
    return encode_entry(entry)


def _name_of(expiry: _Expiry) -> str:
    """Return the name of the value.

    >>> _name_of((1700000000000, 42, "e1"))
    'w/018bcfe5680000000000002ae1'
    """
    time, offset, event_id = expiry
    return f"w/{time:012x}{offset:012x}{event_id}"


def _expiry_digits(expiry: _Expiry) -> bytes:
    """Return the value of the entry under the event's id."""
    return b"%012x%012x" % expiry[:2]


def _expiry_in_name(name: str) -> _Expiry:
    """Return the expiry that the name of a value holds.

    >>> _expiry_in_name("w/018bcfe5680000000000002ae1")
    (1700000000000, 42, 'e1')
    """
    return int(name[2:_TIME_END], 16), int(name[_TIME_END:_ID_AT], 16), name[_ID_AT:]


def _expiry_at(event_id: str, digits: bytes) -> _Expiry:
    """Return the expiry that the entry under the event's id holds."""
    return int(digits[:12], 16), int(digits[12:], 16), event_id


# -- which of them are where ------------------------------------------------------------------------


class Pending(Generic[Open]):
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
        self.first: _Expiry | None = None
        """The expiry of the entry that expires next."""
        self.away = 0
        """Entries that are stored only."""
        self._entries: dict[str, Open | Answered] = {}
        self.known: Callable[[str], Open | Answered | None] = self._entries.get
        """Return the entry of an event that was answered within the horizon."""
        self._in_order: deque[_Expiry] = deque()
        """Places in memory, each later than the one before."""
        self._others: list[_Expiry] = []
        """Heap of the other expiries in memory."""
        self._changes = Changes[_Expiry]()
        self._prepared: dict[_Expiry, bytes] = {}
        """Entries of the next delta that are encoded already."""
        self._stored = stored
        self._going: set[_Expiry] = set()
        """Places that a delta removes which is not committed yet."""
        self._heads: deque[tuple[_Expiry, bytes]] = deque()
        """The next expiries among entries that are not in memory, with those entries."""
        self._cursor = FIRST_NAME
        """The name up to which heads were read."""
        self._absent: frozenset[str] = frozenset()
        """Ids last asked for that are not stored."""

    def __len__(self) -> int:
        return len(self._entries) + self.away

    @property
    def overfull(self) -> bool:
        """Return whether more entries are in memory than RESIDENT_MAX, and they can be stored."""
        return len(self._entries) > self.resident_max

    def add(self, entries: Sequence[Open | Answered]) -> list[Open | Answered]:
        """Add new entries, in log order; return the entries that were removed to make room.

        Their ids must be new, and all different.
        """
        held, added, in_order = self._entries, self._changes.add, self._in_order
        newest = in_order[-1] if in_order else _FIRST
        given_up: list[Open | Answered] = []
        crowded = len(held) + self.away + len(entries) > self.pending_max
        for entry in entries:
            if crowded and (excess := len(self) + 1 - self.pending_max) > 0:
                self._look()
                given_up += [self._pop() for _ in range(min(excess, GIVEN_UP_MAX, len(self)))]
            expiry = _expiry_of(entry)
            event_id = expiry[2]
            held[event_id] = entry
            added(expiry)
            if newest < expiry:
                in_order.append(expiry)
                newest = expiry
            else:
                heappush(self._others, expiry)
        self._look()
        return given_up

    def change(self, entry: Open) -> None:
        """Record that an entry in memory has changed; does nothing for one that was removed."""
        expiry = _expiry_of(entry)
        if self._entries.get(expiry[2]) is entry:
            self._changes.change(expiry)

    def expire(self, watermark: int) -> list[Open | Answered]:
        """Remove the entries whose deadline the watermark has passed; return them by deadline."""
        in_order, others = self._in_order, self._others
        due = watermark - self.wait_ms
        # Nothing came out of order and nothing is away, nearly always: then the queue alone says who is next.
        passed: list[_Expiry] = []
        if not self.away:
            while not others and in_order and in_order[0][0] < due:
                passed.append(in_order.popleft())
        gone = self._drop(passed)
        self._look()
        while self.first is not None and self.first[0] < due:
            gone.append(self._pop())
        return gone

    def of(self, key: str) -> list[WaitingAnswer | Answered]:
        """Return the entries of all events of `key`, those that are stored only too.

        All are looked at, 25 us for each that is not in memory.
        """
        away = (decode_entry(data) for _, data in self._away_values())
        return [
            entry
            for entry in chain(self._entries.values(), away)
            if isinstance(entry, WaitingAnswer | Answered) and entry.key == key
        ]

    def erase(self, key: str) -> int:
        """Remove the entries of all events of `key`, as `of` finds them; return how many."""
        gone = [_expiry_of(entry) for entry in self.of(key)]
        in_memory = {expiry for expiry in gone if expiry[2] in self._entries}
        away = [expiry for expiry in gone if expiry not in in_memory]
        self._drop(list(in_memory))
        self._in_order = deque(expiry for expiry in self._in_order if expiry not in in_memory)
        self._others = [expiry for expiry in self._others if expiry not in in_memory]
        heapify(self._others)
        for expiry in away:
            self._changes.remove(expiry)
        self._count_away(-len(away))
        self._look()
        return len(gone)

    def _pop(self) -> Open | Answered:
        """Remove the entry that expires next and return it."""
        expiry = self.first
        assert expiry is not None
        if expiry[2] not in self._entries:
            entry: Open | Answered = decode_entry(self._heads.popleft()[1])
            self._changes.remove(expiry)
            self._count_away(-1)
        else:
            if self._in_order and self._in_order[0] == expiry:
                self._in_order.popleft()
            else:
                heappop(self._others)
            entry = self._drop((expiry,))[0]
        self._look()
        return entry

    def _look(self) -> None:
        """Set `first` to the entry that expires next."""
        in_order, others = self._in_order, self._others
        first = in_order[0] if in_order else None
        if others and (first is None or others[0] < first):
            first = others[0]
        if self.away:
            head = self._head()
            if first is None or head < first:
                first = head
        self.first = first

    def _drop(self, expiries: Sequence[_Expiry]) -> list[Open | Answered]:
        """Remove entries from memory and return them."""
        for expiry in expiries:
            self._changes.remove(expiry)
            self._prepared.pop(expiry, None)
        forget = self._entries.pop
        return [forget(event_id) for _, _, event_id in expiries]

    # -- what is stored only ----------------------------------------------------------------------

    def recall(self, event_ids: Sequence[str]) -> None:
        """Load the stored entries of these ids in one read, so that a later look-up costs none."""
        if not self.away or self._stored is None:
            return
        missing = [event_id for event_id in event_ids if event_id not in self._entries]
        stored = self._stored.get(["i/" + event_id for event_id in missing]) if missing else {}
        expiries = {}
        for name, data in stored.items():
            expiry = _expiry_at(name[2:], data)
            if expiry not in self._changes.removed and expiry not in self._going:
                expiries[_name_of(expiry)] = expiry
        for name, data in self._read(list(expiries)) if expiries else ():
            expiry = expiries[name]
            event_id = expiry[2]
            self._entries[event_id] = decode_entry(data)
            heappush(self._others, expiry)
            self._count_away(-1)
        self._absent = frozenset(missing).difference(self._entries)

    def _find(self, event_id: str) -> Open | Answered | None:
        """Return the entry of an event, from memory or as stored; None if there is none."""
        entry = self._entries.get(event_id)
        if entry is None and event_id not in self._absent:
            self.recall((event_id,))
            entry = self._entries.get(event_id)
        return entry

    def _head(self) -> _Expiry:
        """Return the next expiry among entries that are not in memory, of which there must be some."""
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
            expiries = {
                name: expiry for name in names if not self._passed_over(expiry := _expiry_in_name(name))
            }
            heads.extend((expiries[name], data) for name, data in self._read(list(expiries)))

    def _passed_over(self, expiry: _Expiry) -> bool:
        """Return whether the stored entry is outdated: a newer one is in memory, or it was removed."""
        return expiry[2] in self._entries or expiry in self._changes.removed or expiry in self._going

    def _read(self, names: Sequence[str]) -> list[tuple[str, bytes]]:
        """Return stored entries by name, in the order asked for."""
        assert self._stored is not None
        stored = self._stored.get(names)
        lost = [name for name in names if name not in stored]
        if lost:
            raise CheckpointError(
                f"the answer to event {_expiry_in_name(lost[0])[2]} is not where it was stored",
                hint="another process has changed the checkpoint file, or it is damaged: start again",
            )
        return [(name, stored[name]) for name in names]

    def _count_away(self, by: int) -> None:
        self.away += by
        self.known = self._find if self.away else self._entries.get

    def committed(self) -> None:
        """Record that every delta so far is stored, so that unchanged entries may leave memory."""
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
        """Remove the `count` oldest unchanged entries, and unchanged ones before the rest, from memory."""
        in_order, others = self._in_order, self._others
        leaving = [in_order.popleft() for _ in range(min(count, len(in_order)))]
        first = in_order[0] if in_order else _LAST
        leaving += [expiry for expiry in others if expiry < first]
        stay = [expiry for expiry in others if expiry >= first]
        changed = self._changes.written | self._prepared.keys()
        stay += [expiry for expiry in leaving if expiry in changed]
        heapify(stay)
        self._others = stay
        left = [expiry[2] for expiry in leaving if expiry not in changed]
        for event_id in left:
            del self._entries[event_id]
        self._count_away(len(left))

    # -- state ------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, bytes]:
        """Return all entries."""
        entries: dict[str, bytes] = dict(self._away_entries())
        for entry in self._entries.values():
            expiry = _expiry_of(entry)
            entries[_name_of(expiry)] = encode_entry(entry)
            entries["i/" + expiry[2]] = _expiry_digits(expiry)
        return entries

    def _away_entries(self) -> Iterator[tuple[str, bytes]]:
        for name, data in self._away_values():
            yield name, data
            expiry = _expiry_in_name(name)
            yield "i/" + expiry[2], _expiry_digits(expiry)

    def _away_values(self) -> Iterator[tuple[str, bytes]]:
        """Yield names and bytes of the entries that are stored only."""
        if not self.away or self._stored is None:
            return
        for name, data in entries_apart(self._stored, FIRST_NAME, END_NAME):
            if not self._passed_over(_expiry_in_name(name)):
                yield name, data

    def prepare(self, count: int) -> None:
        """Encode up to `count` changed entries for the next `delta`; what changes again is encoded again.

        Between two checkpoints of 5 s, 2,000 events a second change 10,000 entries: with 100,000 waiting,
        `delta` holds the loop for 51 ms of processor time, and for 18 ms where all are encoded already.
        """
        changed, entries = self._changes.written, self._entries
        for _ in range(min(count, len(changed))):
            expiry = changed.pop()
            self._prepared[expiry] = encode_entry(entries[expiry[2]])

    def delta(self) -> StateDelta:
        """Return what changed since the last call."""
        changes = self._changes
        self.prepare(len(changes.written))
        delta: StateDelta = dict.fromkeys(map(_name_of, changes.removed))
        delta.update(dict.fromkeys("i/" + event_id for _, _, event_id in changes.removed))
        if self._stored is not None:
            self._going |= changes.removed
        for expiry, data in self._prepared.items():
            delta[_name_of(expiry)] = data
            if changes.new(expiry):
                delta["i/" + expiry[2]] = _expiry_digits(expiry)
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
                self._entries[name[_ID_AT:]] = decode_entry(data)
        self._others = []
        self._in_order = deque(sorted(map(_expiry_of, self._entries.values())))
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


def _expiry_of(entry: Entry) -> _Expiry:
    return entry.event_time, entry.event_offset, entry.event_id


_FIRST: _Expiry = (-1 << 62, 0, "")
_LAST: _Expiry = (1 << 62, 0, "")
"""Before and after every expiry."""
