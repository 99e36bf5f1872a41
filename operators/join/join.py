"""Log and wait: the join of labels with what was served, by event id.

Lives here: which predictions are open, which are closed, which labels came before their
event.  Never here: where open predictions are kept, and how many (`pending.py`), scoring, windows,
topics.  Time is event time; wall clocks play no part.

One entry per event id lives from its event until the watermark has passed `event_time +
wait_ms`, labelled or not, because until then a duplicate of the event must get the same
answer and a second label must be recognised:

    event_time                                   event_time + wait_ms
    |------------- label joins: one example --------------|
    |---- duplicate event: answered again, no change -----|--- forgotten; an unlabelled entry
                                                               expires: dropped, or learned
                                                               with its implicit label

A label that comes before its event waits until the watermark has passed `label_time +
wait_ms`, then it is handed back as unmatched.  If its event comes and shows that it is late, it
is handed back then.  Such labels have a bound of their own: one that finds no room is not kept, whatever its
time, so labels of events that never come push nothing out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Generic, Literal

import msgspec
from msgspec import Struct

from operators.join.pending import PENDING_MAX, RESIDENT_MAX, Answered, Open, Pending
from operators.state import Changes, StateDelta, StoredEntries
from topics.messages import Label, LabelValue

__all__ = ["EARLY_MAX", "EarlyLabel", "Join", "Joined", "LabelOutcome"]

EARLY_MAX = 100_000
"""Labels of one partition that wait for their events unless the definition says otherwise, in memory, some
500 bytes each."""
EARLY_BYTES_MAX = 134_217_728
"""Bytes of their records: a label message may have 64 KB."""
PASSED_MAX = 1_000
"""Deadlines of early labels that have met their events, beyond as many as there are labels."""

LabelOutcome = Literal["joined", "early", "late", "duplicate", "conflicting", "given_up"]


class EarlyLabel(Struct, frozen=True, gc=False):
    """A label whose event has not come, with its record, which becomes a dead letter if it never does."""

    label: Label
    key: bytes | None
    value: bytes | None

    @property
    def size(self) -> int:
        """Return the bytes of the record."""
        return len(self.key or b"") + len(self.value or b"")


class Joined(Struct, Generic[Open], frozen=True, gc=False):
    """A label that met its event."""

    waiting: Open
    label: LabelValue
    label_time: int
    label_offset: int
    expired_at_offset: int


class Join(Generic[Open]):
    """Events waiting for labels, and labels waiting for events.

    >>> from operators.join.pending import Waiting
    >>> join: Join[Waiting] = Join(wait_ms=1000, implicit=None)
    >>> join.open(Waiting("e1", event_time=100, event_offset=0, keys=()))
    []
    >>> outcome, joined = join.label(Label("e1", True, 600, 5), key=None, value=b"")
    >>> outcome, joined.label_time
    ('joined', 600)
    >>> join.label(Label("e1", True, 700, 6), key=None, value=b"")[0]
    'duplicate'
    >>> expired, unmatched = join.expire(1101, at_offset=9)
    >>> join.known("e1") is None
    True
    """

    def __init__(
        self,
        counts: Counter[tuple[str, str]] | None = None,
        *,
        wait_ms: int,
        implicit: LabelValue | None,
        pending_max: int = PENDING_MAX,
        early_max: int = EARLY_MAX,
        stored: StoredEntries | None = None,
        resident_max: int = RESIDENT_MAX,
    ) -> None:
        """`counts` gets what was forgotten without a label or for want of room; no part of the state.

        `stored` reads what the last committed checkpoint holds; without it all are in memory.
        """
        self.wait_ms = wait_ms
        self.implicit = implicit
        self.early_max = early_max
        self.counts: Counter[tuple[str, str]] = Counter() if counts is None else counts
        self.entries: Pending[Open] = Pending(wait_ms, pending_max, stored, resident_max)
        """The entries that were opened and have not expired."""
        self.early = 0
        """How many labels wait for their event."""
        self.recall = self.entries.recall
        """Read the answers to these events at once, where they are stored only: before each is asked for."""
        self.prepare = self.entries.prepare
        """Encode up to so many changed entries for the next `delta`."""
        self.committed = self.entries.committed
        """Record that every delta so far is stored."""
        self._early: dict[str, EarlyLabel] = {}
        self._early_due: list[tuple[int, int, str]] = []
        """Heap of (deadline, offset, event id)."""
        self._early_bytes = 0
        self._early_changes = Changes[str]()

    @property
    def known(self) -> Callable[[str], Open | Answered | None]:
        """Return the look-up of an event's entry by its id, which gives None after the horizon."""
        return self.entries.known

    @property
    def pending(self) -> int:
        """Return how many predictions and early labels are held, in memory or stored."""
        return len(self.entries) + len(self._early)

    @property
    def away(self) -> int:
        """Return how many predictions are stored and not in memory."""
        return self.entries.away

    @property
    def overfull(self) -> bool:
        """Return whether memory holds more predictions than RESIDENT_MAX, and they can be stored."""
        return self.entries.overfull

    @property
    def next_deadline(self) -> int | None:
        """Return the watermark, in ms, from which on the next entry expires."""
        first, early = self.entries.first, self._early_due
        if first is None:
            return early[0][0] if early else None
        deadline = first[0] + self.wait_ms
        return min(deadline, early[0][0]) if early else deadline

    def early_label(self, event_id: str) -> bool:
        """Return whether a label waits for this event, which has not come."""
        return event_id in self._early

    def waits(self, event_id: str) -> bool:
        """Return whether an answered event has no label yet."""
        waiting = self.entries.known(event_id)
        return waiting is not None and waiting.label is None

    def open(self, waiting: Open) -> list[Open]:
        """Add the entry of an answered event, of a new id; return the entries that had to be given up."""
        return self._remember((waiting,))

    def answered_all(self, events: Sequence[Answered]) -> list[Open]:
        """Add entries of events that carried their labels, in order; return those that had to be given up.

        Their ids must be new, and all different.
        """
        return self._remember(events)

    def _remember(self, entries: Sequence[Open | Answered]) -> list[Open]:
        gone = self.entries.add(entries)
        if not gone:
            return []
        given_up = self._unlabelled(gone)
        self.counts["predictions_dropped", "given_up"] += len(given_up)
        self.counts["predictions_dropped", "forgotten"] += len(gone) - len(given_up)
        return given_up

    def meet_early(self, waiting: Open) -> Joined[Open] | EarlyLabel | None:
        """Return the join of an event just opened with the label that came before it.

        A label that is too late for the event's horizon joins nothing and is returned as it came.
        """
        event_id = waiting.event_id
        early = self._forget_early(event_id) if event_id in self._early else None
        if early is None:
            return None
        label = early.label
        if label.label_time > waiting.event_time + self.wait_ms:
            return early
        return self._close(waiting, label.label, label.label_time, label.offset)

    def close(self, waiting: Open, label: LabelValue, label_time: int) -> Joined[Open]:
        """Join the label that the event itself carried."""
        return self._close(waiting, label, label_time, -1)

    def label(
        self, label: Label, *, key: bytes | None, value: bytes | None
    ) -> tuple[LabelOutcome, Joined[Open] | None]:
        """Take one label in log order; return what became of it."""
        waiting = self.entries.known(label.event_id)
        if waiting is None:
            first = self._early.get(label.event_id)
            if first is not None:
                return ("duplicate" if first.label.label == label.label else "conflicting"), None
            return self._keep_early(EarlyLabel(label, key, value)), None
        if isinstance(waiting, Answered) or waiting.label is not None:
            return ("duplicate" if waiting.label == label.label else "conflicting"), None
        if label.label_time > waiting.event_time + self.wait_ms:
            return "late", None
        return "joined", self._close(waiting, label.label, label.label_time, label.offset)

    def _keep_early(self, early: EarlyLabel) -> Literal["early", "given_up"]:
        size = self._early_bytes + early.size
        if len(self._early) >= self.early_max or size > EARLY_BYTES_MAX:
            return "given_up"
        label = early.label
        self._early[label.event_id] = early
        self.early += 1
        self._early_bytes = size
        self._early_changes.add(label.event_id)
        heappush(self._early_due, (label.label_time + self.wait_ms, label.offset, label.event_id))
        return "early"

    def _forget_early(self, event_id: str) -> EarlyLabel:
        early = self._early.pop(event_id)
        self.early -= 1
        self._early_bytes -= early.size
        self._early_changes.remove(event_id)
        if len(self._early_due) > 2 * len(self._early) + PASSED_MAX:
            self._early_due = list(map(self._due, self._early.values()))
            heapify(self._early_due)
        return early

    def _due(self, early: EarlyLabel) -> tuple[int, int, str]:
        label = early.label
        return label.label_time + self.wait_ms, label.offset, label.event_id

    def expire(self, watermark: int, *, at_offset: int) -> tuple[list[Joined[Open]], list[EarlyLabel]]:
        """Remove the entries and early labels whose deadline the watermark has passed.

        Returns the implicit joins (empty where unlabelled entries are dropped), by deadline, and the
        labels whose event never came.
        """
        unlabelled = self._unlabelled(self.entries.expire(watermark))
        unmatched: list[EarlyLabel] = []
        while self._early_due and self._early_due[0][0] < watermark:
            _, offset, event_id = heappop(self._early_due)
            early = self._early.get(event_id)
            # One that met its event is gone already, and its deadline is passed over.
            if early is not None and early.label.offset == offset:
                unmatched.append(self._forget_early(event_id))
        timeout = self.implicit
        if timeout is None:
            if unlabelled:
                self.counts["predictions_dropped", "expired"] += len(unlabelled)
            return [], unmatched
        return [
            Joined(waiting, timeout, waiting.event_time + self.wait_ms, -1, at_offset)
            for waiting in unlabelled
        ], unmatched

    def held_of(self, key: str) -> Iterator[tuple[str, dict[str, object]]]:
        """Yield what is held of all events of `key`, as plain values."""
        for entry in self.entries.of(key):
            label = "waits for its label" if entry.label is None else "labelled, held for repeats"
            yield f"answer, {label}", msgspec.to_builtins(entry.prediction) | {"label": entry.label}
        for early in self._early.values():
            if early.key == key.encode():
                yield "label, waits for its event", msgspec.to_builtins(early.label)

    def erase(self, key: str) -> int:
        """Remove the answers to all events of `key`, and labels under it that came early; return how many."""
        early = [event_id for event_id, one in self._early.items() if one.key == key.encode()]
        for event_id in early:
            self._forget_early(event_id)
        return self.entries.erase(key) + len(early)

    def _unlabelled(self, entries: Sequence[Open | Answered]) -> list[Open]:
        """Return the entries that still wait for their label."""
        return [entry for entry in entries if not isinstance(entry, Answered) and entry.label is None]

    def _close(self, waiting: Open, label: LabelValue, label_time: int, offset: int) -> Joined[Open]:
        waiting.label = label
        self.entries.change(waiting)
        return Joined(waiting, label, label_time, offset, -1)

    def snapshot(self) -> dict[str, bytes]:
        """Return two entries per waiting prediction, one per early label."""
        entries = self.entries.snapshot()
        entries.update((_early_name(event_id), _encode(early)) for event_id, early in self._early.items())
        return entries

    def delta(self) -> StateDelta:
        """Return what changed since the last call."""
        return self.entries.delta() | self._early_changes.delta(self._early, _early_name, _encode)

    def restore(self, entries: Mapping[str, bytes]) -> None:
        """Replace the state; what is stored is read when it is asked for."""
        self.entries.restore(entries)
        self._early_changes.clear()
        self._early = {name[2:]: _decode_early(data) for name, data in entries.items() if name[0] == "l"}
        self.early = len(self._early)
        self._early_bytes = sum(early.size for early in self._early.values())
        self._early_due = list(map(self._due, self._early.values()))
        heapify(self._early_due)


def _early_name(event_id: str) -> str:
    return "l/" + event_id


_encode = msgspec.msgpack.Encoder().encode
_decode_early = msgspec.msgpack.Decoder(EarlyLabel).decode
