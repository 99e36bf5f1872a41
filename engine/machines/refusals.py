"""What one events partition refuses, and how it is told: counted, and kept as a dead letter with the reason.

Lives here: the words of every refusal of a decoded record.  Never here: what cannot be decoded
(`topics/codec.py`), the clock that runs ahead (`intake.py`), rules (`checks.py`), when something is refused
(`scorer.py`).
"""

from __future__ import annotations

from collections import Counter

from engine.definition.pipeline import Pipeline
from engine.machines.outbox import Outbox
from operators.join.entries import WaitingAnswer
from operators.join.join import EARLY_BYTES_MAX, EarlyLabel
from topics.codec import Rejected, encode
from topics.messages import Record

__all__ = ["Refusals"]


class Refusals:
    """Dead letters of one events partition; `counts` gets how many of each."""

    def __init__(
        self,
        pipeline: Pipeline,
        partition: int,
        outbox: Outbox,
        counts: Counter[tuple[str, str]],
    ) -> None:
        self._partition = partition
        self._outbox = outbox
        self._counts = counts
        self._events_topic = pipeline.events.name
        self._labels_topic = pipeline.labels.topic or ""
        self._pending_max = pipeline.labels.pending_max
        self._early_max = pipeline.labels.early_max
        self._wait_ms = pipeline.labels.wait_ms

    def refuse(self, record: Record, stage: str, exception: str, message: str) -> None:
        """Send a record to the dead letters as it came."""
        self._counts["dead_letters", stage] += 1
        self._outbox.refuse(record, stage=stage, exception=exception, message=message)

    def label(self, record: Record, rejected: Rejected) -> None:
        """Refuse what is no label, or one of a time that nobody can know yet."""
        if rejected.stage == "time":
            self._counts["labels", "ahead"] += 1
        self.refuse(record, rejected.stage, rejected.exception, rejected.message)

    def conflicting(self, record: Record, event_id: str) -> None:
        """Refuse an event whose id came before with other content."""
        self._counts["events", "conflicting"] += 1
        reason = f"event id {event_id} came before with other content; the first one holds"
        self.refuse(record, "duplicate", "ValueError", reason)

    def unusable(self, record: Record, event_id: str, outcome: str) -> None:
        """Refuse a label that joins nothing."""
        self._counts["labels", outcome] += 1
        why = f"dated more than {self._wait_ms} ms after it" if outcome == "late" else "the first one holds"
        reason = f"{outcome} label for event {event_id}: {why}"
        self.refuse(record, "join", "ValueError", reason)

    def given_up(self, waiting: WaitingAnswer) -> None:
        """Tell that an answer waits no longer: its dead letter is the prediction, at its event's offset.

        The event itself has not been kept.
        """
        answer = waiting.prediction
        reason = (
            f"answer {answer.prediction_id} was given up before its label came: "
            f"more than {self._pending_max} wait"
        )
        record = Record(
            self._events_topic,
            self._partition,
            answer.event_offset,
            None,
            waiting.key.encode(),
            encode(answer),
        )
        self.refuse(record, "join", "OverflowError", reason)

    def no_room(self, record: Record, event_id: str) -> None:
        """Refuse a label whose event has not come, as too many wait for theirs."""
        self._counts["labels", "given_up"] += 1
        reason = (
            f"no event {event_id} has come, and no more than {self._early_max} labels, or "
            f"{EARLY_BYTES_MAX:,} bytes of them, wait for their events"
        )
        self.refuse(record, "join", "OverflowError", reason)

    def late(self, early: EarlyLabel) -> None:
        """Refuse a label that came before its event and was late, as its event shows."""
        self.unusable(self._record_of(early), early.label.event_id, "late")

    def unmatched(self, early: EarlyLabel) -> None:
        """Refuse a label whose event never came, or had been forgotten, its own wait over."""
        self._counts["labels", "unmatched"] += 1
        known, wait_ms = early.label.event_id, self._wait_ms
        reason = f"no event {known} waited for this label, nor came within {wait_ms} ms of its time"
        self.refuse(self._record_of(early), "join", "LookupError", reason)

    def _record_of(self, early: EarlyLabel) -> Record:
        label = early.label
        return Record(self._labels_topic, self._partition, label.offset, None, early.key, early.value)
