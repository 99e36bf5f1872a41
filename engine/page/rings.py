"""What a worker remembers for its page: the last decisions, answers and dead letters, and no more.

Lives here: which decisions are marks, how many of each are kept.  Never here: clocks, JSON, who looks.

Strategy: all is kept by reference, as it passes: the loop hands over what it has made anyway, once a run, and
a ring drops its oldest.  Each kind of mark has a ring of its own, so that a hundred alarms push out no swap.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from engine.machines.outbox import Scored
from topics.codec import decode_alert
from topics.headers import Refusal, refusal_of
from topics.messages import AlertRecord, Decision, DecisionType, Outgoing

__all__ = ["ANSWERS_MAX", "MARKS", "MARKS_MAX", "LastLetter", "MarkKind", "RaceMark", "Rings"]

ANSWERS_MAX: Final = 20
"""Answers kept: as many as a screen has lines."""
MARKS_MAX: Final = 32
"""Marks kept of each kind: more marks are no longer told apart on a screen."""
SAMPLE_BYTES_MAX: Final = 1_000
"""Of a dead letter's value."""

MarkKind = Literal[
    "drift", "shift", "swap", "release", "field", "canary", "challenger", "sick", "person", "alert"
]
MARKS: Final[dict[DecisionType, MarkKind]] = {
    "opening.started": "swap",
    "model.promoted": "swap",
    "model.rolled_back": "swap",
    "drift.detected": "drift",
    "shift.found": "shift",
    "shift.updated": "shift",
    "shift.ended": "shift",
    "model.released": "release",
    "version.released": "release",
    "version.held": "release",
    "version.restored": "release",
    "field.changed": "field",
    "field.refused": "field",
    "candidate.entered": "field",
    "candidate.refused": "field",
    "candidate.retired": "field",
    "canary.started": "canary",
    "canary.stepped": "canary",
    "canary.aborted": "canary",
    "canary.done": "canary",
    "split.decided": "canary",
    "switchback.decided": "canary",
    "challenger.started": "challenger",
    "challenger.retired": "challenger",
    "model.quarantined": "sick",
    "model.over_budget": "sick",
    "champion.pinned": "person",
    "champion.unpinned": "person",
    "proposal.opened": "person",
    "proposal.accepted": "person",
    "proposal.refused": "person",
    "proposal.expired": "person",
    "promotion.vetoed": "person",
    "learning.paused": "person",
    "learning.resumed": "person",
}
"""Decisions that are marks; the others are on the decisions topic alone: they are about keys and sources, or
come with every block."""


class RaceMark(NamedTuple):
    """Something that happened to the race."""

    number: int
    """In the order in which they came, from 1; unique."""
    kind: MarkKind
    record: Decision | AlertRecord


class LastLetter(NamedTuple):
    """A dead letter: why, from where, and the beginning of what was refused."""

    refusal: Refusal
    key: bytes | None
    sample: bytes


class Rings:
    """The rings of one worker.

    >>> rings = Rings()
    >>> rings.decided([Decision("f:0:7:0", "model.promoted", 9, "tree", 2, 7, "evidence", "headrace", 7)])
    >>> [(mark.number, mark.kind, mark.record.model_name) for mark in rings.marks()]
    [(1, 'swap', 'tree')]
    """

    def __init__(self) -> None:
        self.answers: deque[Scored] = deque(maxlen=ANSWERS_MAX)
        """The last answers, the newest at the end."""
        self.letters: dict[str, LastLetter] = {}
        """The last dead letter of each stage."""
        self.marked = 0
        """Marks so far."""
        self._marks: defaultdict[MarkKind, deque[RaceMark]] = defaultdict(lambda: deque(maxlen=MARKS_MAX))

    def answered(self, scored: Sequence[Scored]) -> None:
        """Take the answers of a run."""
        self.answers.extend(scored[-ANSWERS_MAX:])

    def decided(self, decisions: Sequence[Decision]) -> None:
        """Take decisions as they are made; one that is made again, in a replay, counts once."""
        for decision in decisions:
            kind = MARKS.get(decision.type)
            if kind is not None and all(known.record != decision for known in self._marks[kind]):
                self._mark(kind, decision)

    def alerted(self, records: Sequence[Outgoing]) -> None:
        """Take alerts as they are written."""
        for record in records:
            self._mark("alert", decode_alert(record.value or b""))

    def _mark(self, kind: MarkKind, record: Decision | AlertRecord) -> None:
        self.marked += 1
        self._marks[kind].append(RaceMark(self.marked, kind, record))

    def refused(self, letters: Sequence[Outgoing]) -> None:
        """Take dead letters as they are written."""
        for letter in letters:
            refusal = refusal_of(letter.headers)
            sample = (letter.value or b"")[:SAMPLE_BYTES_MAX]
            self.letters[refusal.stage] = LastLetter(refusal, letter.key, sample)

    def erased(self, keys: Sequence[str]) -> None:
        """Forget what is about keys that were erased."""
        if keys:
            gone = set(keys)
            self.answers = deque((one for one in self.answers if one[1] not in gone), ANSWERS_MAX)
            coded = {key.encode() for key in keys}
            self.letters = {stage: one for stage, one in self.letters.items() if one.key not in coded}

    def marks(self) -> list[RaceMark]:
        """Return the marks of all kinds in the order in which they came."""
        return sorted(mark for ring in self._marks.values() for mark in ring)
