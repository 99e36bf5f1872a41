"""What leaves a scorer: numbered by its claim, left out where a replay finds it in the log.

Lives here: building the records of predictions, examples, quarantines and dead letters.
Never here: when they are due (`scorer.py`), which topic they land on (`kafka.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from operators.claims.rule import Writer
from operators.claims.suppression import Suppression
from operators.join.entries import WaitingAnswer
from operators.join.join import Joined
from operators.models.scoring import Failure, Served
from topics import headers
from topics.codec import encode
from topics.messages import (
    Alert,
    Event,
    Example,
    FeatureValues,
    Headers,
    LabelValue,
    Outgoing,
    Prediction,
    Quarantine,
    Record,
    Score,
)

__all__ = ["EXAMPLES_PARTITION", "Line", "Outbox", "Scored"]

EXAMPLES_PARTITION = 0
"""One global model: every scorer writes to one examples partition."""


Scored = tuple[Prediction, str, dict[str, Score]]
"""An answered event: the answer, the event's key, what every candidate said."""


class Line(NamedTuple):
    """Who answers, and what it knew at the first event."""

    model_name: str
    model_version: int
    model_updates: int
    served_by: str


class Outbox:
    """Outgoing records of one scorer, in order."""

    def __init__(
        self,
        pipeline_name: str,
        partition: int,
        writer: Writer,
        suppression: Suppression,
        threshold: float | None,
        features_version: str,
    ) -> None:
        self.writer = writer
        self.suppression = suppression
        self._partition = partition
        self._prefix = f"{pipeline_name}:"
        self._threshold = threshold
        self._source = f"headrace/{pipeline_name}"
        self._prediction_headers = (
            *headers.cloud_event("dev.headrace.prediction", self._source),
            (headers.FEATURES, features_version.encode()),
        )
        self._alert_headers = headers.cloud_event("dev.headrace.alert", self._source)
        self._predictions_log = ("predictions", partition)
        self._examples_log = ("examples", EXAMPLES_PARTITION)
        self.flags: dict[int, tuple[str, ...]] = {}
        """Flags of the answers to come, by the offset of their event."""
        self.fold_at_once: Callable[[Example | Quarantine], object] | None = None
        """Gets each record of the examples log when it is made; None: the learner reads it back."""
        self._out: list[Outgoing] = []

    def drain(self) -> list[Outgoing]:
        """Return what has gathered since the last call, in order for each log."""
        out, self._out = self._out, []
        return out

    def logged(self, event_id: str, event_offset: int) -> Prediction | None:
        """Return, once, the answer that an earlier owner logged for this event record."""
        return None if self.suppression.empty else self.suppression.answered(event_id, event_offset)

    def answer(self, event: Event, features: FeatureValues, served: Served, now_ms: int) -> Prediction:
        """Send what was served to the partition of its event, numbered, and return it."""
        by = Line(served.model_name, served.model_version, served.model_updates, served.served_by)
        answers = self.number(
            [event], [features], now_ms, by, [served.score], [served.label], [served.cold_start]
        )
        self.send(answers, [event])
        return answers[0]

    def number(
        self,
        events: Sequence[Event],
        rows: Sequence[FeatureValues],
        now_ms: int,
        by: Line,
        scores: Sequence[Score],
        labels: Sequence[LabelValue | None],
        cold_starts: Sequence[bool],
    ) -> list[Prediction]:
        """Return answers by one candidate that learns each event before the next; `send` must follow.

        The others are columns, an entry per event.
        """
        prefix, threshold = self._prefix, self._threshold
        claim, sequence = self.writer.claim, self.writer.sent(self._predictions_log)
        name, version, updates, served_by = by
        answers = [
            Prediction(  # by position: 0.3 us against 1.6 by keywords, for each event
                prefix + event.event_id,
                event.event_id,
                event.event_time,
                now_ms,
                name,
                version,
                updates + number,
                "champion",
                score,
                label,
                served_by,
                features,
                event.offset,
                claim,
                sequence + number,
                threshold,
                cold_start,
                event.late,
            )
            for number, (event, features, score, label, cold_start) in enumerate(
                zip(events, rows, scores, labels, cold_starts, strict=True)
            )
        ]
        return self._flagged(answers)

    def _flagged(self, answers: list[Prediction]) -> list[Prediction]:
        """Return the answers with the flags of their events."""
        flags = self.flags
        if not flags:
            return answers
        return [
            replace(answer, flags=found) if (found := flags.get(answer.event_offset)) else answer
            for answer in answers
        ]

    def alert(self, alert: Alert) -> None:
        """Tell of something new."""
        sent = (*self._alert_headers, ("ce_id", alert.alert_id.encode()))
        self._out.append(Outgoing("alerts", None, alert.alert_id.encode(), encode(alert), sent, alert.time))

    def _send(
        self, answers: Sequence[Prediction], keys: Sequence[bytes | None], found: Sequence[Headers]
    ) -> list[bytes]:
        """Encode answers for the partition of their events; return the bytes.

        `keys` and `found` are the keys and headers of the events' records.
        """
        partition, fixed, traced = self._partition, self._prediction_headers, headers.traced
        sent = [encode(answer) for answer in answers]
        self._out += [
            Outgoing(
                "predictions",
                partition,
                key,
                data,
                (*fixed, ("ce_id", answer.prediction_id.encode()), *(traced(came) if came else ())),
                answer.event_time,
            )
            for answer, key, came, data in zip(answers, keys, found, sent, strict=True)
        ]
        return sent

    def send(self, answers: Sequence[Prediction], events: Sequence[Event]) -> list[bytes]:
        """Send the answers that `number` gave, or the first of them; return the bytes."""
        self.writer.advance(self._predictions_log, len(answers))
        return self._send(
            answers, [event.record_key for event in events], [event.headers for event in events]
        )

    def again(self, answer: Prediction, event_offset: int, key: bytes | None, found: Headers) -> None:
        """Send an answer once more, for another record of the same event."""
        claim, sequence = self.writer.claim, self.writer.next(self._predictions_log)
        repeated = replace(answer, event_offset=event_offset, claim=claim, sequence=sequence)
        self._send([repeated], [key], [found])

    def shadow(self, answer: Prediction, key: str, scores: dict[str, Score]) -> None:
        """Send what the other candidates would have answered, for looking only."""
        for name, score in scores.items():
            if name != answer.model_name:
                seen = replace(answer, model_name=name, model_alias="challenger", prediction_score=score)
                self._out.append(
                    Outgoing(
                        "shadow-predictions",
                        self._partition,
                        key.encode(),
                        encode(seen),
                        self._prediction_headers,
                        answer.event_time,
                    )
                )

    def example(self, joined: Joined[WaitingAnswer]) -> None:
        """Write an example to the training log, unless it stands there."""
        answer = joined.waiting.prediction
        if not self.suppression.empty and self.suppression.exampled(answer.event_id, answer.event_offset):
            return
        waiting = joined.waiting
        examples = self.number_examples(
            [(answer, waiting.key, waiting.scores)],
            [joined.label],
            [joined.label_time],
            joined.label_offset,
            joined.expired_at_offset,
        )
        self.write(examples)
        if self.fold_at_once is not None:
            self.fold_at_once(examples[0])

    def number_examples(
        self,
        scored: Sequence[Scored],
        labels: Sequence[LabelValue],
        label_times: Sequence[int],
        label_offset: int = -1,
        expired_at_offset: int = -1,
    ) -> list[Example]:
        """Return the examples of answers and their labels; `write` must follow."""
        partition, claim = self._partition, self.writer.claim
        sequence = self.writer.sent(self._examples_log)
        examples = []
        for number, ((answer, key, scores), label, label_time) in enumerate(
            zip(scored, labels, label_times, strict=True), sequence
        ):
            examples.append(
                Example(  # by position, as predictions
                    answer.event_id,
                    key,
                    answer.event_time,
                    label_time,
                    label,
                    answer.features,
                    scores,
                    answer.prediction_score,
                    answer.served_by,
                    answer.model_name,
                    partition,
                    answer.event_offset,
                    label_offset,
                    claim,
                    number,
                    expired_at_offset,
                )
            )
        return examples

    def write(self, examples: Sequence[Example]) -> None:
        """Write the examples that `number_examples` gave, or the first of them, to the training log."""
        self.writer.advance(self._examples_log, len(examples))
        self._out += [
            Outgoing(
                "examples",
                EXAMPLES_PARTITION,
                example.key.encode(),
                encode(example),
                headers.EXAMPLE,
                example.label_time,
            )
            for example in examples
        ]

    def quarantine(self, answer: Prediction, failures: Sequence[Failure]) -> None:
        """Report candidates that failed to the log, where the learner acts on it."""
        for failure in failures:
            if not self.suppression.empty and self.suppression.quarantined(failure.name, answer.event_offset):
                continue
            report = Quarantine(
                event_id=answer.event_id,
                model_name=failure.name,
                model_version=failure.version,
                reason=failure.reason,
                source_partition=self._partition,
                event_offset=answer.event_offset,
                claim=self.writer.claim,
                sequence=self.writer.next(self._examples_log),
            )
            self._out.append(
                Outgoing(
                    "examples",
                    EXAMPLES_PARTITION,
                    failure.name.encode(),
                    encode(report),
                    headers.QUARANTINE,
                    answer.event_time,
                )
            )
            if self.fold_at_once is not None:
                self.fold_at_once(report)

    def refuse(self, record: Record, *, stage: str, exception: str, message: str) -> None:
        """Send a record to the dead letters as it came, with the reason in its headers."""
        reason = headers.dead_letter(record, stage=stage, exception=exception, message=message)
        self._out.append(Outgoing("dead-letters", None, record.key, record.value, reason, None))
