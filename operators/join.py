"""Log and wait: what was served waits here, by event id, for what turned out to be true.

Lives here: which predictions are open, which are closed, which labels came before their
event.  Never here: scoring, windows, topics.  Time is event time; wall clocks play no part.

One entry per event id lives from its event until the watermark has passed `event_time +
wait_ms`, labelled or not, because until then a duplicate of the event must get the same
answer and a second label must be recognised:

    event_time                                   event_time + wait_ms
    |------------- label joins: one example --------------|
    |---- duplicate event: answered again, no change -----|--- forgotten; an unlabelled entry
                                                               expires: dropped, or learned
                                                               with its implicit label

Deadlines mostly come in the order in which they pass: those stand in a queue, only the others in
a heap.

A label that comes before its event waits until the watermark has passed `label_time +
wait_ms`, then it is handed back as unmatched.  If its event comes and shows that it is late, it
is handed back then.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Literal

import msgspec
from msgspec import Struct

from operators.contract import StateDelta
from topics.codec import decode_prediction
from topics.messages import Label, LabelValue, Prediction, Score

__all__ = ["Answered", "EarlyLabel", "Join", "Joined", "LabelOutcome", "Waiting"]

PENDING_MAX = 1_000_000
"""Entries of one partition, 1.7 KB each with 13 features (0.8 KB where labels come inside events and are
learned at once).  The one with the earliest deadline goes first."""

LabelOutcome = Literal["joined", "early", "late", "duplicate", "conflicting"]


class Waiting(Struct, gc=False, tag="waiting"):
    """One answered event: what was served, and its label once it has come."""

    prediction: Prediction
    """What was served; a duplicate of the event is answered with it again."""
    key: str
    keys: tuple[str | None, ...]
    """The event's keys in the label windows, in plan order; None where a changed definition added one."""
    payload_crc: int
    """CRC-32 of the event's bytes, to tell a repeat from another event under the same id."""
    scores: dict[str, Score] = {}
    label: LabelValue | None = None


class Answered(Struct, frozen=True, gc=False, tag="answered"):
    """One answered event that has its label and was learned: no more than a repeat of it needs."""

    event_id: str
    event_time: int
    event_offset: int
    payload_crc: int
    label: LabelValue
    answer: bytes
    """The prediction as it was sent."""

    @property
    def prediction(self) -> Prediction:
        """Return what was served."""
        return decode_prediction(self.answer)


class EarlyLabel(Struct, frozen=True, gc=False):
    """A label whose event has not come, with its record for the case that it never does."""

    label: Label
    key: bytes | None
    value: bytes | None


class Joined(Struct, frozen=True, gc=False):
    """A label that met its prediction."""

    waiting: Waiting
    label: LabelValue
    label_time: int
    label_offset: int
    expired_at_offset: int


class Join:
    """Predictions waiting for labels, and labels waiting for predictions.

    >>> join = Join(wait_ms=1000, implicit=None)
    >>> answer = Prediction("p:e1", "e1", 100, 101, "m", 1, 0, "champion", 0.7, True, "champion", {}, 0, 1, 0)
    >>> join.open(Waiting(answer, "k", (), 0))
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
    ) -> None:
        """`counts` gets what was forgotten without a label or for want of room; no part of the state."""
        self.wait_ms = wait_ms
        self.implicit = implicit
        self.pending_max = pending_max
        self.counts: Counter[tuple[str, str]] = Counter() if counts is None else counts
        self.next_deadline: int | None = None
        """Smallest time that the watermark must pass for something to expire."""
        self._waiting: dict[str, Waiting | Answered] = {}
        self.known: Callable[[str], Waiting | Answered | None] = self._waiting.get
        """Return the entry of an event that was answered within the horizon."""
        self._early: dict[str, EarlyLabel] = {}
        self._in_order: deque[tuple[int, int, str]] = deque()
        """(event time, offset, event id) of entries, each later than the one before."""
        self._others: list[tuple[int, int, int, str]] = []
        """Heap of (deadline, kind, offset, event id): early labels, and entries that came out of order."""
        self._changed: set[str] = set()
        """Ids of waiting entries that changed since the last delta."""
        self._changed_early: set[str] = set()
        self._prepared: StateDelta = {}
        """The next delta, as far as it is encoded."""
        self._stored: set[str] = set()
        """Ids of the entries that earlier deltas hold: what came and went in between was never stored."""
        self._stored_early: set[str] = set()
        """The same for early labels."""

    @property
    def pending(self) -> int:
        """Return how many predictions and early labels are held."""
        return len(self._waiting) + len(self._early)

    @property
    def early(self) -> int:
        """Return how many labels wait for their event."""
        return len(self._early)

    def early_label(self, event_id: str) -> bool:
        """Return whether the label of an event that has not come is here."""
        return event_id in self._early

    def waits(self, event_id: str) -> bool:
        """Return whether an answered event has no label yet."""
        waiting = self._waiting.get(event_id)
        return waiting is not None and waiting.label is None

    def open(self, waiting: Waiting) -> None:
        """Remember an answered event.  Its id must not be known."""
        self._remember((waiting,))

    def answered_all(self, events: Sequence[Answered]) -> None:
        """Remember events that carried their labels, in order.  Their ids must be new, and all different."""
        self._remember(events)

    def _remember(self, answered: Sequence[Waiting | Answered]) -> None:
        entries, changed, in_order = self._waiting, self._changed, self._in_order
        newest = in_order[-1] if in_order else _FIRST
        for entry in answered:
            place = _place(entry)
            time, offset, event_id = place
            entries[event_id] = entry
            changed.add(event_id)
            if newest < place:
                in_order.append(place)
                newest = place
            else:
                heappush(self._others, (time + self.wait_ms, _WAITING, offset, event_id))
            if len(entries) + len(self._early) > self.pending_max:
                self._look()
                self._give_up()
        self._look()

    def settle(self, waiting: Waiting, scores: dict[str, Score]) -> Joined | EarlyLabel | None:
        """Add every candidate's score; return the join if the label was here before its event.

        A label that was here but is late, as its event now shows, is handed back: it joins nothing.
        """
        waiting.scores = scores
        event_id = waiting.prediction.event_id
        self._changed.add(event_id)
        early = self._early.pop(event_id, None) if self._early else None
        if early is None:
            return None
        self._changed_early.add(event_id)
        label = early.label
        if label.label_time > waiting.prediction.event_time + self.wait_ms:
            return early
        return self._close(waiting, label.label, label.label_time, label.offset)

    def close(self, waiting: Waiting, label: LabelValue, label_time: int) -> Joined:
        """Join the label that the event itself carried."""
        return self._close(waiting, label, label_time, -1)

    def label(
        self, label: Label, *, key: bytes | None, value: bytes | None
    ) -> tuple[LabelOutcome, Joined | None]:
        """Take one label in log order and say what became of it."""
        waiting = self._waiting.get(label.event_id)
        if waiting is None:
            first = self._early.get(label.event_id)
            if first is not None:
                return ("duplicate" if first.label.label == label.label else "conflicting"), None
            self._early[label.event_id] = EarlyLabel(label, key, value)
            self._changed_early.add(label.event_id)
            deadline = label.label_time + self.wait_ms
            heappush(self._others, (deadline, _EARLY, label.offset, label.event_id))
            self._look()
            if self.pending > self.pending_max:
                self._give_up()
            return "early", None
        if isinstance(waiting, Answered) or waiting.label is not None:
            return ("duplicate" if waiting.label == label.label else "conflicting"), None
        if label.label_time > waiting.prediction.event_time + self.wait_ms:
            return "late", None
        return "joined", self._close(waiting, label.label, label.label_time, label.offset)

    def expire(self, watermark: int, *, at_offset: int) -> tuple[list[Joined], list[EarlyLabel]]:
        """Forget what the watermark has passed.

        Returns the implicit joins (empty where unlabelled entries are dropped), by deadline, and the
        labels whose event never came.
        """
        expired: list[tuple[int, Waiting | Answered]] = []
        unmatched: list[EarlyLabel] = []
        in_order, others, timeout = self._in_order, self._others, self.implicit
        due = watermark - self.wait_ms
        # Nothing came out of order, nearly always: then the queue alone says who is next.
        passed: list[tuple[int, int, str]] = []
        while not others and in_order and in_order[0][0] < due:
            passed.append(in_order.popleft())
        gone = self._drop_all([event_id for _, _, event_id in passed])
        expired += [(time + self.wait_ms, entry) for (time, _, _), entry in zip(passed, gone, strict=True)]
        self._look()
        while self.next_deadline is not None and self.next_deadline < watermark:
            deadline, kind, offset, event_id = self._pop()
            if kind == _WAITING:
                expired.append((deadline, self._drop(event_id)))
            elif early := self._drop_early(event_id, offset):
                unmatched.append(early)
        unlabelled = [(at, one) for at, one in expired if isinstance(one, Waiting) and one.label is None]
        if timeout is None:
            if unlabelled:
                self.counts["predictions_dropped", "expired"] += len(unlabelled)
            return [], unmatched
        return [Joined(waiting, timeout, at, -1, at_offset) for at, waiting in unlabelled], unmatched

    def _pop(self) -> tuple[int, int, int, str]:
        """Take the earliest deadline out of the queue or the heap."""
        first = None
        if self._in_order:
            time, offset, event_id = self._in_order[0]
            first = (time + self.wait_ms, _WAITING, offset, event_id)
        if first is None or (self._others and self._others[0] < first):
            first = heappop(self._others)
        else:
            self._in_order.popleft()
        self._look()
        return first

    def _look(self) -> None:
        """Find the next deadline."""
        in_order, others = self._in_order, self._others
        found = in_order[0][0] + self.wait_ms if in_order else None
        if others and (found is None or others[0][0] < found):
            found = others[0][0]
        self.next_deadline = found

    def _give_up(self) -> None:
        """Drop the entry with the earliest deadline: the bound holds whatever the label topic does."""
        while self.next_deadline is not None:
            _, kind, offset, event_id = self._pop()
            if kind == _WAITING:
                self._drop(event_id)
                self.counts["predictions_dropped", "given_up"] += 1
            elif self._drop_early(event_id, offset):
                self.counts["labels", "given_up"] += 1
            else:
                continue
            return

    def _drop(self, event_id: str) -> Waiting | Answered:
        return self._drop_all((event_id,))[0]

    def _drop_all(self, event_ids: Sequence[str]) -> list[Waiting | Answered]:
        stored = self._stored.intersection(event_ids) if self._stored else ()
        self._changed.difference_update(event_ids)  # the others came and went between two deltas
        self._changed.update(stored)
        if self._prepared:
            for event_id in set(event_ids).difference(stored):
                self._prepared.pop("w/" + event_id, None)
        forget = self._waiting.pop
        return [forget(event_id) for event_id in event_ids]

    def _drop_early(self, event_id: str, offset: int) -> EarlyLabel | None:
        """An early label that met its event is gone already; its deadline is passed over."""
        early = self._early.get(event_id)
        if early is None or early.label.offset != offset:
            return None
        self._changed_early.add(event_id)
        return self._early.pop(event_id)

    def _close(self, waiting: Waiting, label: LabelValue, label_time: int, offset: int) -> Joined:
        waiting.label = label
        self._changed.add(waiting.prediction.event_id)
        return Joined(waiting, label, label_time, offset, -1)

    def snapshot(self) -> dict[str, bytes]:
        """Return one entry per waiting prediction and early label."""
        entries = {"w/" + event_id: _encode(entry) for event_id, entry in self._waiting.items()}
        entries.update(("l/" + event_id, _encode(early)) for event_id, early in self._early.items())
        return entries

    def prepare(self, count: int) -> None:
        """Encode up to `count` entries that have changed, for the next `delta`.

        A delta of 15,000 entries takes 100 ms at once.  What changes again is encoded again.
        """
        prepared, waiting, changed, stored = self._prepared, self._waiting, self._changed, self._stored
        for _ in range(min(count, len(changed))):
            event_id = changed.pop()
            entry = waiting.get(event_id)
            if entry is not None:
                prepared["w/" + event_id] = _encode(entry)
            elif event_id in stored:
                prepared["w/" + event_id] = None

    def delta(self) -> StateDelta:
        """Return what changed since the last call."""
        self.prepare(len(self._changed))
        changed, self._prepared = self._prepared, {}
        for name, data in changed.items():
            (self._stored.discard if data is None else self._stored.add)(name[2:])
        for event_id in self._changed_early:
            early = self._early.get(event_id)
            if early is not None:
                changed["l/" + event_id] = _encode(early)
                self._stored_early.add(event_id)
            elif event_id in self._stored_early:
                changed["l/" + event_id] = None
                self._stored_early.discard(event_id)
        self._changed_early.clear()
        return changed

    def restore(self, entries: Mapping[str, bytes]) -> None:
        """Replace the state."""
        self._waiting.clear()
        self._early.clear()
        self._changed.clear()
        self._changed_early.clear()
        self._prepared.clear()
        self._stored = {name[2:] for name in entries if name[0] == "w"}
        self._stored_early = {name[2:] for name in entries if name[0] == "l"}
        self._others.clear()
        for name, data in entries.items():
            event_id = name[2:]
            if name[0] == "w":
                self._waiting[event_id] = _decode_waiting(data)
            else:
                self._early[event_id] = early = _decode_early(data)
                label = early.label
                self._others.append((label.label_time + self.wait_ms, _EARLY, label.offset, event_id))
        heapify(self._others)
        self._in_order = deque(sorted(map(_place, self._waiting.values())))
        self._look()


def _place(entry: Waiting | Answered) -> tuple[int, int, str]:
    event = entry if isinstance(entry, Answered) else entry.prediction
    return event.event_time, event.event_offset, event.event_id


_WAITING, _EARLY = 0, 1
_FIRST = (-1 << 62, 0, "")
"""A place before all others."""
_encode = msgspec.msgpack.Encoder().encode
_decode_waiting = msgspec.msgpack.Decoder(Waiting | Answered).decode
_decode_early = msgspec.msgpack.Decoder(EarlyLabel).decode
