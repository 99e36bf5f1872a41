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

A label that comes before its event waits until the watermark has passed `label_time +
wait_ms`, then it is handed back as unmatched.  If its event comes and shows that it is late, it
is handed back then.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heappop, heappush
from typing import Literal

import msgspec
from msgspec import Struct

from operators.contract import StateDelta
from topics.messages import Label, LabelValue, Prediction, Score

__all__ = ["EarlyLabel", "Join", "Joined", "LabelOutcome", "Waiting"]

PENDING_MAX = 1_000_000
"""Entries of one partition; about 1 KB each.  The one with the earliest deadline is given up first."""

LabelOutcome = Literal["joined", "early", "late", "duplicate", "conflicting"]


class Waiting(Struct, gc=False):
    """One answered event: what was served, and its label once it has come."""

    prediction: Prediction
    """What was served; a duplicate of the event is answered with it again."""
    key: str
    keys: tuple[str, ...]
    """The event's keys in the label windows, in plan order."""
    payload_crc: int
    """CRC-32 of the event's bytes, to tell a repeat from another event under the same id."""
    scores: dict[str, Score] = {}
    label: LabelValue | None = None


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

    def __init__(self, *, wait_ms: int, implicit: LabelValue | None, pending_max: int = PENDING_MAX) -> None:
        self.wait_ms = wait_ms
        self.implicit = implicit
        self.pending_max = pending_max
        self.given_up = 0
        """Entries dropped because `pending_max` was reached."""
        self._waiting: dict[str, Waiting] = {}
        self._early: dict[str, EarlyLabel] = {}
        self._deadlines: list[tuple[int, int, int, str]] = []
        """Heap of (deadline, kind, offset, event id); one per waiting entry or early label."""
        self._changed: set[str] = set()
        """Ids of waiting entries that changed since the last delta."""
        self._changed_early: set[str] = set()
        self._stored: set[str] = set()
        """Entries that earlier deltas hold: what came and went in between was never stored."""

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

    @property
    def next_deadline(self) -> int | None:
        """Return the smallest time that the watermark must pass for something to expire."""
        return self._deadlines[0][0] if self._deadlines else None

    def known(self, event_id: str) -> Waiting | None:
        """Return the entry of an event that was answered within the horizon."""
        return self._waiting.get(event_id)

    def waits(self, event_id: str) -> bool:
        """Return whether an answered event has no label yet."""
        waiting = self._waiting.get(event_id)
        return waiting is not None and waiting.label is None

    def open(self, waiting: Waiting) -> None:
        """Remember an answered event.  Its id must not be known."""
        answer = waiting.prediction
        event_id = answer.event_id
        self._waiting[event_id] = waiting
        self._changed.add(event_id)
        self._push(answer.event_time + self.wait_ms, _WAITING, answer.event_offset, event_id)

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

    def open_labelled(self, waiting: Waiting, label: LabelValue) -> Joined:
        """Remember an answered and scored event that carried its label, and join the two."""
        waiting.label = label
        self.open(waiting)
        answer = waiting.prediction
        return Joined(waiting, label, answer.event_time, -1, -1)

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
            self._push(label.label_time + self.wait_ms, _EARLY, label.offset, label.event_id)
            return "early", None
        if waiting.label is not None:
            return ("duplicate" if waiting.label == label.label else "conflicting"), None
        if label.label_time > waiting.prediction.event_time + self.wait_ms:
            return "late", None
        return "joined", self._close(waiting, label.label, label.label_time, label.offset)

    def expire(self, watermark: int, *, at_offset: int) -> tuple[list[Joined], list[EarlyLabel]]:
        """Forget what the watermark has passed.

        Returns the implicit joins (empty where unlabelled entries are dropped), by deadline, and the
        labels whose event never came.
        """
        implicit: list[Joined] = []
        unmatched: list[EarlyLabel] = []
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] < watermark:
            deadline, kind, offset, event_id = heappop(deadlines)
            if kind == _EARLY:
                if early := self._drop_early(event_id, offset):
                    unmatched.append(early)
            elif (waiting := self._drop(event_id)).label is None and self.implicit is not None:
                implicit.append(Joined(waiting, self.implicit, deadline, -1, at_offset))
        return implicit, unmatched

    def _push(self, deadline: int, kind: int, offset: int, event_id: str) -> None:
        heappush(self._deadlines, (deadline, kind, offset, event_id))
        if self.pending > self.pending_max:
            self._give_up()

    def _give_up(self) -> None:
        """Drop the entry with the earliest deadline: the bound holds whatever the label topic does."""
        while self._deadlines:
            _, kind, offset, event_id = heappop(self._deadlines)
            if kind == _WAITING:
                self._drop(event_id)
            elif not self._drop_early(event_id, offset):
                continue
            self.given_up += 1
            return

    def _drop(self, event_id: str) -> Waiting:
        self._changed.add(event_id)
        return self._waiting.pop(event_id)

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
        entries = {"w/" + event_id: _encode(waiting) for event_id, waiting in self._waiting.items()}
        entries.update(("l/" + event_id, _encode(early)) for event_id, early in self._early.items())
        return entries

    def delta(self) -> StateDelta:
        """Return what changed since the last call."""
        changed: StateDelta = {}
        for event_id in self._changed:
            self._put(changed, "w/" + event_id, self._waiting.get(event_id))
        for event_id in self._changed_early:
            self._put(changed, "l/" + event_id, self._early.get(event_id))
        self._changed.clear()
        self._changed_early.clear()
        return changed

    def _put(self, changed: StateDelta, name: str, entry: Struct | None) -> None:
        if entry is not None:
            changed[name] = _encode(entry)
            self._stored.add(name)
        elif name in self._stored:
            changed[name] = None
            self._stored.discard(name)

    def restore(self, entries: Mapping[str, bytes]) -> None:
        """Replace the state."""
        self._waiting.clear()
        self._early.clear()
        self._changed.clear()
        self._changed_early.clear()
        self._stored = set(entries)
        order: list[tuple[int, int, int, str]] = []
        for name, data in entries.items():
            event_id = name[2:]
            if name[0] == "w":
                waiting = self._waiting[event_id] = _decode_waiting(data)
                answer = waiting.prediction
                order.append((answer.event_time + self.wait_ms, _WAITING, answer.event_offset, event_id))
            else:
                label = (early := _decode_early(data)).label
                self._early[event_id] = early
                order.append((label.label_time + self.wait_ms, _EARLY, label.offset, event_id))
        self._deadlines = sorted(order)


_WAITING, _EARLY = 0, 1
_encode = msgspec.msgpack.Encoder().encode
_decode_waiting = msgspec.msgpack.Decoder(Waiting).decode
_decode_early = msgspec.msgpack.Decoder(EarlyLabel).decode
