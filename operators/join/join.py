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

Where several labels of an event are combined, or every example is due at its horizon, labels are kept and one
example is made of them when the watermark passes it (`combine.py`); where labels may be corrected, each one
that differs from the label before it, and is not older, is handed back with that.

A label that comes before its event waits until the watermark has passed `label_time +
wait_ms`, then it is handed back as unmatched.  If its event comes and shows that it is late, it
is handed back then.  Such labels have a bound of their own: one that finds no room is not kept, whatever its
time, so labels of events that never come push nothing out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import chain
from typing import Generic, Literal, NamedTuple

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from operators.join.combine import LabelPolicy, combined
from operators.join.pending import PENDING_MAX, RESIDENT_MAX, Answered, Open, Pending
from operators.state import Changes, StateDelta, StateEntries, StoredEntries, WholeState
from topics.messages import Label, LabelValue

__all__ = ["EARLY_MAX", "EarlyLabel", "Join", "Joined", "LabelOutcome", "LabelOutcomes", "Met"]

EARLY_MAX = 100_000
"""Labels of one partition that wait for their events unless the definition says otherwise, in memory, some
500 bytes each."""
EARLY_BYTES_MAX = 134_217_728
"""Bytes of their records: a label message may have 64 KB."""
PASSED_MAX = 1_000
"""Deadlines of early labels that have met their events, beyond as many as there are labels."""

_NEVER_DUE = 1 << 62
"""Labels that nobody reads."""

LabelOutcome = Literal[
    "joined",
    "early",
    "late",
    "duplicate",
    "conflicting",
    "given_up",
    "collected",
    "revised",
    "corrected",
    "outdated",
    "crowded",
]
"""What became of a label; the last three mean something where labels may be corrected or are kept."""


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
    """A label that met its event, one that was made of several, or one that was assumed."""

    waiting: Open
    label: LabelValue
    label_time: int
    label_offset: int
    """Of several labels the newest; -1 without one."""
    expired_at_offset: int
    """Offset of the event whose watermark ended the wait, where that made it; else -1."""
    weight: float = 1.0
    """What the label weighs when models learn it."""
    origin: str = ""
    """As in the example: empty for a label that came."""
    learn: bool = True
    """Whether models learn it, or it is measured only."""
    before: LabelValue | None = None
    """Of a correction: the label that it replaces ..."""
    before_time: int = 0
    """... and its label time, ms."""
    source: str = ""
    """Who says so, as in the label."""

    @property
    def plain(self) -> bool:
        """Return whether it is a label like any other."""
        return self.weight == 1 and not self.source and not self.origin and self.learn and self.before is None


class Met(NamedTuple, Generic[Open]):
    """What became of a label that came before its event, when that came."""

    outcome: LabelOutcome
    joined: Joined[Open] | None
    early: EarlyLabel


class LabelOutcomes(WholeState):
    """What became of the labels of one partition since its first.

    `counts` gets each outcome too, as it comes; it is no part of the state.

    >>> outcomes = LabelOutcomes(every=2)
    >>> outcomes.count("joined")
    >>> outcomes.read(), outcomes.read()
    (False, True)
    >>> outcomes.report()
    {'read': 2, 'joined': 1}
    """

    def __init__(self, every: int | None, counts: Counter[tuple[str, str]] | None = None) -> None:
        """`every` is how many labels are read between two reports; None: there are none."""
        self._counts: Counter[tuple[str, str]] = Counter() if counts is None else counts
        self._every = every or _NEVER_DUE
        self._read = 0
        self._totals: dict[str, int] = {}

    def count(self, outcome: str, labels: int = 1) -> None:
        """Count labels of one outcome."""
        if not labels:
            return
        self._dirty = True
        self._counts["labels", outcome] += labels
        self._totals[outcome] = self._totals.get(outcome, 0) + labels

    def expired(self, answers: int) -> None:
        """Count answers to which no label came, which are not learned; the join exports them."""
        if not answers:
            return
        self._dirty = True
        self._totals["expired"] = self._totals.get("expired", 0) + answers

    def read(self) -> bool:
        """Count one label that came and that has met what it meets; return whether a report is due."""
        self._dirty = True
        self._read += 1
        return self._read % self._every == 0

    def report(self) -> dict[str, int]:
        """Return how many labels were read, and what became of them and of those that did not come."""
        return {"read": self._read} | dict(sorted(self._totals.items()))

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        return {"all": msgspec.msgpack.encode((self._read, dict(sorted(self._totals.items()))))}

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state; without an entry, as in checkpoints of earlier versions, it begins."""
        self._read, self._totals = 0, {}
        if data := entries.get("all"):
            self._read, self._totals = msgspec.msgpack.decode(data, type=tuple[int, dict[str, int]])
        self._dirty = False


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
        policy: LabelPolicy | None = None,
        outcomes: LabelOutcomes | None = None,
    ) -> None:
        """`counts` and `outcomes` get what was forgotten without a label or for want of room; not as state.

        `stored` reads what the last committed checkpoint holds; without it all are in memory.
        """
        self.wait_ms = wait_ms
        self.implicit = implicit
        self.early_max = early_max
        self.policy = policy or LabelPolicy()
        self._at_horizon, self._corrects = self.policy.at_horizon, self.policy.correct is not None
        self._weak: Callable[[Open], tuple[LabelValue, float] | None] | None = None
        self.emits = implicit is not None or self._at_horizon
        """Whether examples may be made when the watermark passes a horizon."""
        self.counts: Counter[tuple[str, str]] = Counter() if counts is None else counts
        self.outcomes = LabelOutcomes(None) if outcomes is None else outcomes
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
        self._early: dict[str, tuple[EarlyLabel, ...]] = {}
        """By event id; several where more than the first means anything."""
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
        return len(self.entries) + self.early

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

    def vote_with(self, vote: Callable[[Open], tuple[LabelValue, float] | None]) -> None:
        """Ask `vote` for a label, and its weight, at the horizon of each entry that has none."""
        self._weak = vote
        self.emits = True

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

    def meet_early(self, waiting: Open) -> list[Met[Open]]:
        """Return what becomes of the labels that came before an event just opened, in the order they came.

        One that is too late for the event's horizon joins nothing.
        """
        if waiting.event_id not in self._early:
            return []
        return [
            Met(*self._meet(waiting, early.label), early) for early in self._forget_early(waiting.event_id)
        ]

    def close(self, waiting: Open, label: LabelValue, label_time: int) -> Joined[Open]:
        """Join the label that the event itself carried."""
        return self._close(waiting, Label(waiting.event_id, label, label_time))

    def label(
        self, label: Label, *, key: bytes | None, value: bytes | None
    ) -> tuple[LabelOutcome, Joined[Open] | None]:
        """Take one label in log order; return what became of it."""
        waiting = self.entries.known(label.event_id)
        if waiting is None:
            return self._keep_early(EarlyLabel(label, key, value)), None
        if isinstance(waiting, Answered):
            return ("duplicate" if waiting.label == label.label else "conflicting"), None
        return self._meet(waiting, label)

    def _meet(self, waiting: Open, label: Label) -> tuple[LabelOutcome, Joined[Open] | None]:
        """Let a label meet its open event."""
        if self._at_horizon:
            return self._collect(waiting, label)
        if waiting.label is None:
            if label.label_time > waiting.event_time + self.wait_ms:
                return "late", None
            return "joined", self._close(waiting, label)
        if self._corrects and waiting.labels and label.offset <= waiting.labels[-1].offset:
            return "corrected", None  # by an earlier owner, or before its correction
        if waiting.label == label.label:
            return "duplicate", None
        return self._correct(waiting, label) if self._corrects else ("conflicting", None)

    def _collect(self, waiting: Open, label: Label) -> tuple[LabelOutcome, Joined[Open] | None]:
        """Keep a label until the horizon; where negatives are assumed at once, hand back the positive."""
        held = waiting.labels
        if label.label_time > waiting.event_time + self.wait_ms:
            return "late", None
        if any(_same(label, other) for other in held):
            return "duplicate", None
        if len(held) >= self.policy.labels_max:
            return "crowded", None
        waiting.labels = (*held, label)
        self.entries.change(waiting)
        if self.policy.learn != "corrected" or not self._turns(held, waiting.labels):
            return "collected", None
        return "revised", replace(_joined_by(waiting, label), origin="revised")

    def _turns(self, before: Sequence[Label], after: Sequence[Label]) -> bool:
        """Return whether an event turns positive by its last label."""
        combine = self.policy.combine
        was = bool(before) and bool(combined(combine, before)[0])
        return not was and bool(combined(combine, after)[0])

    def _correct(self, waiting: Open, label: Label) -> tuple[LabelOutcome, Joined[Open] | None]:
        """Let a label take the place of the one that holds, unless it is older or too late."""
        held = waiting.labels
        if label.label_time > waiting.event_time + self.wait_ms:
            return "late", None
        if not held or label.label_time < held[-1].label_time:
            return "outdated", None
        if len(held) >= self.policy.labels_max:
            return "crowded", None
        replaced = held[-1]
        waiting.label, waiting.labels = label.label, (*held, label)
        self.entries.change(waiting)
        return "corrected", replace(
            _joined_by(waiting, label),
            learn=self.policy.correct == "relearn",
            before=replaced.label,
            before_time=replaced.label_time,
        )

    def learned_as(self, waiting: Open, label: Label) -> None:
        """Set the label that an earlier owner has written of an event: later corrections are of it."""
        waiting.label = label.label
        waiting.labels = (label,)
        self.entries.change(waiting)

    def assumed(self, waiting: Open) -> Joined[Open]:
        """Return the negative that an answered event is taken for until its label comes."""
        return Joined(waiting, False, waiting.event_time, -1, -1, origin="assumed")

    def _keep_early(self, early: EarlyLabel) -> LabelOutcome:
        label = early.label
        held = self._early.get(label.event_id, ())
        if held:
            if not self.policy.several:
                return "duplicate" if held[0].label.label == label.label else "conflicting"
            if any(_same(label, other.label) for other in held):
                return "duplicate"
            if len(held) >= self.policy.labels_max:
                return "crowded"
        size = self._early_bytes + early.size
        if self.early >= self.early_max or size > EARLY_BYTES_MAX:
            return "given_up"
        self._early[label.event_id] = (*held, early)
        self.early += 1
        self._early_bytes = size
        changes = self._early_changes
        (changes.change if held else changes.add)(label.event_id)
        heappush(self._early_due, self._due(early))
        return "early"

    def _forget_early(self, event_id: str, offset: int | None = None) -> tuple[EarlyLabel, ...]:
        """Forget the early labels of an event, or the one at `offset`; return those."""
        held = self._early.pop(event_id)
        kept = () if offset is None else tuple(early for early in held if early.label.offset != offset)
        gone = held if offset is None else tuple(early for early in held if early.label.offset == offset)
        self.early -= len(gone)
        self._early_bytes -= sum(early.size for early in gone)
        if kept:
            self._early[event_id] = kept
            self._early_changes.change(event_id)
        else:
            self._early_changes.remove(event_id)
        if len(self._early_due) > 2 * self.early + PASSED_MAX:
            self._early_due = list(map(self._due, chain.from_iterable(self._early.values())))
            heapify(self._early_due)
        return gone

    def _due(self, early: EarlyLabel) -> tuple[int, int, str]:
        label = early.label
        return label.label_time + self.wait_ms, label.offset, label.event_id

    def expire(self, watermark: int, *, at_offset: int) -> tuple[list[Joined[Open]], list[EarlyLabel]]:
        """Remove the entries and early labels whose deadline the watermark has passed.

        Returns what is joined now, implicit labels and those of several (empty where neither is wanted),
        by deadline, and the labels whose event never came.
        """
        unlabelled = self._unlabelled(self.entries.expire(watermark))
        unmatched: list[EarlyLabel] = []
        while self._early_due and self._early_due[0][0] < watermark:
            _, offset, event_id = heappop(self._early_due)
            # One that met its event is gone already, and its deadline is passed over.
            if any(early.label.offset == offset for early in self._early.get(event_id, ())):
                unmatched += self._forget_early(event_id, offset)
        emitted = [joined for one in unlabelled if (joined := self._emitted(one, at_offset)) is not None]
        if expired := len(unlabelled) - len(emitted):
            self.counts["predictions_dropped", "expired"] += expired
            self.outcomes.expired(expired)
        return emitted, unmatched

    def _emitted(self, waiting: Open, at_offset: int) -> Joined[Open] | None:
        """Return what is joined at the horizon of an entry without a joined label; None: it is dropped."""
        due, learn = waiting.event_time + self.wait_ms, self.policy.learn != "corrected"
        if labels := waiting.labels:
            label, weight = combined(self.policy.combine, labels)
            newest = max(one.offset for one in labels)
            source = next((one.source for one in labels if one.label == label), "")
            return Joined(waiting, label, due, newest, at_offset, weight, learn=learn, source=source)
        if self._weak is not None and (vote := self._weak(waiting)) is not None:
            return Joined(waiting, vote[0], due, -1, at_offset, vote[1], "weak")
        if self.implicit is None:
            return None
        return Joined(waiting, self.implicit, due, -1, at_offset, origin="implicit", learn=learn)

    def held_of(self, key: str) -> Iterator[tuple[str, dict[str, object]]]:
        """Yield what is held of all events of `key`, as plain values."""
        for entry in self.entries.of(key):
            label = "waits for its label" if entry.label is None else "labelled, held for repeats"
            yield f"answer, {label}", msgspec.to_builtins(entry.prediction) | {"label": entry.label}
        for early in chain.from_iterable(self._early.values()):
            if early.key == key.encode():
                yield "label, waits for its event", msgspec.to_builtins(early.label)

    def erase(self, key: str) -> int:
        """Remove the answers to all events of `key`, and labels under it that came early; return how many."""
        early = [one.label for one in chain.from_iterable(self._early.values()) if one.key == key.encode()]
        for label in early:
            self._forget_early(label.event_id, label.offset)
        return self.entries.erase(key) + len(early)

    def _unlabelled(self, entries: Sequence[Open | Answered]) -> list[Open]:
        """Return the entries that still wait for their label."""
        return [entry for entry in entries if not isinstance(entry, Answered) and entry.label is None]

    def _close(self, waiting: Open, label: Label) -> Joined[Open]:
        waiting.label = label.label
        if self._corrects:
            waiting.labels = (label,)
        self.entries.change(waiting)
        return _joined_by(waiting, label)

    def snapshot(self) -> dict[str, bytes]:
        """Return two entries per waiting prediction, one per early label."""
        entries = self.entries.snapshot()
        entries.update(
            (_early_name(event_id), _encode_early(early)) for event_id, early in self._early.items()
        )
        return entries

    def delta(self) -> StateDelta:
        """Return what changed since the last call."""
        return self.entries.delta() | self._early_changes.delta(self._early, _early_name, _encode_early)

    def restore(self, entries: Mapping[str, bytes]) -> None:
        """Replace the state; what is stored is read when it is asked for."""
        self.entries.restore(entries)
        self._early_changes.clear()
        self._early = {name[2:]: _decode_early(data) for name, data in entries.items() if name[0] == "l"}
        all_early = list(chain.from_iterable(self._early.values()))
        self.early = len(all_early)
        self._early_bytes = sum(early.size for early in all_early)
        self._early_due = list(map(self._due, all_early))
        heapify(self._early_due)


def _same(one: Label, other: Label) -> bool:
    """Return whether a label is a repeat of another one of the same event."""
    return (one.label, one.label_time, one.kind) == (other.label, other.label_time, other.kind)


def _joined_by(waiting: Open, label: Label) -> Joined[Open]:
    """Return the join of an event with one label that came."""
    return Joined(waiting, label.label, label.label_time, label.offset, -1, label.weight, source=label.source)


def _early_name(event_id: str) -> str:
    return "l/" + event_id


def _encode_early(early: tuple[EarlyLabel, ...]) -> bytes:
    """Return a label as the struct that it is, several as their array."""
    return _encode(early[0] if len(early) == 1 else early)


def _decode_early(data: bytes) -> tuple[EarlyLabel, ...]:
    early = _decode(data)
    return early if isinstance(early, tuple) else (early,)


_encode = msgspec.msgpack.Encoder().encode
_decode: Callable[[bytes], EarlyLabel | tuple[EarlyLabel, ...]] = msgspec.msgpack.Decoder(
    EarlyLabel | tuple[EarlyLabel, ...]
).decode
