"""The outgoing records of a scorer: numbered by its claim, left out where a replay finds them in the log.

Lives here: building the records of predictions, examples, quarantines and alerts; dead letters, with the
words of every refusal of a decoded record.  Never here: when they are due (`scorer.py`), what cannot be
decoded (`topics/codec.py`), which topic they land on (`engine/kafka/sink.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from msgspec.structs import replace

from engine.definition.pipeline import Pipeline
from operators.claims.rule import Suppression, Writer, part_of
from operators.join.join import EARLY_BYTES_MAX, EarlyLabel, Joined, LabelOutcomes
from operators.join.pending import WaitingAnswer
from operators.models.scoring import Failure, Roster, Served, unsure
from operators.race.arena import ACTOR
from topics import headers
from topics.alert_records import alert_records
from topics.codec import Rejected, encode
from topics.erasure import Erase
from topics.messages import (
    AlertRecord,
    Block,
    Decision,
    Event,
    Example,
    FeatureValues,
    Headers,
    LabelValue,
    Outgoing,
    Prediction,
    Quarantine,
    Query,
    Record,
    Score,
)

__all__ = ["Outbox", "Scored"]

ONE_RACE = 0
"""The examples partition of all scorers, where all events have one race."""

Scored = tuple[Prediction, str, dict[str, Score]]
"""An answered event: the answer, the event's key, what every candidate said."""


class Outbox:
    """Outgoing records of one scorer, in order."""

    def __init__(
        self,
        pipeline: Pipeline,
        partition: int,
        writer: Writer,
        suppression: Suppression,
        roster: Roster,
        counts: Counter[tuple[str, str]],
        labels: LabelOutcomes,
    ) -> None:
        """`roster` says from which score on a label is true; `counts` and `labels` get what was refused."""
        self.writer = writer
        self.suppression = suppression
        self._partition = partition
        self._counts, self._outcomes = counts, labels
        self._pipeline = pipeline.name
        self._prefix = f"{pipeline.name}:"
        self.roster = roster
        self._binary = pipeline.task == "binary"
        self._bar = pipeline.abstain_below
        self._events_topic, self._labels_topic = pipeline.events.name, pipeline.labels.topic or ""
        self._labels = pipeline.labels
        self._learns, self._weight = pipeline.learns, 1 / pipeline.learn_share
        source = f"headrace/{pipeline.name}"
        self._prediction_headers = (
            *headers.cloud_event("dev.headrace.prediction", source),
            (headers.FEATURES, pipeline.features_version.encode()),
        )
        self._predictions_log = ("predictions", partition)
        self._keyed = pipeline.per is not None
        self._examples_partition = partition if self._keyed else ONE_RACE
        self._examples_log = ("examples", self._examples_partition)
        self.flags: dict[int, tuple[str, ...]] = {}
        """Flags of the answers to come, by the offset of their event."""
        self.refused: Callable[[str], object] | None = None
        """Is told the stage of every dead letter; None: nobody wants to know."""
        self.fold_at_once: Callable[[Example | Quarantine | Block, Headers], object] | None = None
        """Gets each record of the examples log, and the trace of its event, when it is made; None: the
        learner reads it back."""
        self._out: list[Outgoing] = []

    def drain(self) -> list[Outgoing]:
        """Return the records since the last call, in order for each log."""
        out, self._out = self._out, []
        return out

    def number(
        self, events: Sequence[Event], rows: Sequence[FeatureValues], served: Sequence[Served], now_ms: int
    ) -> list[Prediction]:
        """Return the answers to events, numbered: `send` must follow, with all or the first of them."""
        prefix, first = self._prefix, self.writer.numbered[self._predictions_log]
        claim, threshold = self.writer.claim, self.roster.threshold if self._binary else None
        made = [
            Prediction(  # by position: 0.3 us against 1.6 by keywords, for each event
                prefix + event.event_id,
                event.event_id,
                event.event_time,
                now_ms,
                one.model_name,
                one.model_version,
                one.model_updates,
                "champion",
                one.score,
                one.label,
                one.served_by,
                features,
                event.offset,
                claim,
                sequence,
                threshold,
                one.cold_start,
                event.late,
            )
            for sequence, (event, features, one) in enumerate(zip(events, rows, served, strict=True), first)
        ]
        return self._full(made, served) if self._more(served) else made

    def _more(self, served: Sequence[Served]) -> bool:
        """Return whether answers carry more than they always do."""
        return bool(self._bar or self.flags or self.roster.lineup) or any(a.weights or a.pick for a in served)

    def _full(self, answers: Sequence[Prediction], served: Sequence[Served]) -> list[Prediction]:
        """Return answers with flags of their events, weights of a blend, whose names were whose, the pick."""
        flags, lineup = self.flags, self.roster.lineup
        full = [
            replace(answer, flags=flags.get(answer.event_offset, ()), weights=one.weights, lineup=lineup)
            for answer, one in zip(answers, served, strict=True)
        ]
        if (below := self._bar) is not None:
            full = [
                replace(answer, abstain=unsure(answer.prediction_score, answer.prediction_label, below))
                for answer in full
            ]
        return [
            replace(answer, policy=pick.policy, policy_revision=pick.revision, propensity=pick.propensity)
            if (pick := one.pick) is not None
            else answer
            for answer, one in zip(full, served, strict=True)
        ]

    def alert(self, alert: AlertRecord) -> None:
        """Send an alert, and count it."""
        self._out += alert_records(self._pipeline, [alert], self._counts)

    def query(self, query: Query) -> None:
        """Ask people for a label; under the event's key, as its label will be."""
        self._out.append(Outgoing("queries", None, query.key.encode(), encode(query), (), query.event_time))

    def send(self, answers: Sequence[Prediction], events: Sequence[Event]) -> list[bytes]:
        """Send answers that `number` gave to the partition of their events; return the bytes."""
        self.writer.numbered[self._predictions_log] += len(answers)
        sent = list(map(encode, answers))
        self._out += [
            self._outgoing(answer, data, event.record_key, event.headers)
            for answer, data, event in zip(answers, sent, events, strict=True)
        ]
        return sent

    def count_abstained(self, answers: Iterable[Prediction]) -> None:
        """Count answers that abstain, each when it has been sent."""
        if self._bar is not None:
            self._counts["abstained", "confidence"] += sum(answer.abstain for answer in answers)

    def again(self, answer: Prediction, record: Record) -> None:
        """Send an answer once more, for another record of the same event."""
        claim, sequence = self.writer.claim, self.writer.next(self._predictions_log)
        repeated = replace(answer, event_offset=record.offset, claim=claim, sequence=sequence)
        self._out.append(self._outgoing(repeated, encode(repeated), record.key, record.headers))

    def _outgoing(self, answer: Prediction, data: bytes, key: bytes | None, came: Headers) -> Outgoing:
        """Return an answer's record; `key` and `came` are the key and the headers of its event's."""
        sent_headers = (*self._prediction_headers, ("ce_id", answer.prediction_id.encode()))
        if came:
            sent_headers += headers.traced(came)
        return Outgoing("predictions", self._partition, key, data, sent_headers, answer.event_time)

    def shadow(self, answer: Prediction, key: str, scores: dict[str, Score]) -> None:
        """Send the scores of the other candidates to the topic of shadow predictions, which nobody serves."""
        for name, score in scores.items():
            if name != answer.model_name:
                seen = replace(
                    answer,
                    model_name=name,
                    model_alias="challenger",
                    prediction_score=score,
                    weights=None,
                )
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

    def example(self, joined: Joined[WaitingAnswer]) -> Example | None:
        """Write an example to the training log, unless it stands there or is not of the share to learn.

        Returns the one that an earlier owner has written in its place, if any has.
        """
        waiting, answer = joined.waiting, joined.waiting.prediction
        if self._weight > 1 and not self._learns(answer.event_id):
            self._counts["examples_left_out", "share"] += 1
            return None
        if self.suppression.replaying:
            part = part_of(joined.origin, joined.before, joined.label_offset)
            logged = self.suppression.exampled(answer.event_id, answer.event_offset, part)
            if logged is not None:
                return logged
        examples = self.number_examples(
            [(answer, waiting.key, waiting.scores)],
            [joined.label],
            [joined.label_time],
            joined.label_offset,
            joined.expired_at_offset,
        )
        if self._weight > 1 or not joined.plain:
            examples = [self._with_origin(examples[0], joined)]
        self.write(examples, [waiting.trace])
        if self.fold_at_once is not None:
            self.fold_at_once(examples[0], waiting.trace)
        return None

    def _with_origin(self, example: Example, joined: Joined[WaitingAnswer]) -> Example:
        """Return an example with what its label counts for, where it is from and what it replaces."""
        return replace(
            example,
            weight=self._weight,
            label_weight=joined.weight,
            source=joined.source,
            origin=joined.origin,
            learn=joined.learn,
            before=joined.before,
            before_time=joined.before_time,
        )

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
        sequence = self.writer.numbered[self._examples_log]
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
                    answer.model_version,
                    answer.model_updates,
                    answer.policy,
                    answer.policy_revision,
                    answer.propensity,
                    answer.lineup,
                )
            )
        return examples

    def write(self, examples: Sequence[Example], traces: Sequence[Headers]) -> None:
        """Write the examples that `number_examples` gave, or the first of them, to the training log.

        `traces` are the trace contexts of their events.
        """
        self.writer.numbered[self._examples_log] += len(examples)
        self._out += [
            Outgoing(
                "examples",
                self._examples_partition,
                example.key.encode(),
                encode(example),
                (*headers.EXAMPLE, *trace) if trace else headers.EXAMPLE,
                example.label_time,
            )
            for example, trace in zip(examples, traces, strict=True)
        ]

    def quarantine(self, answer: Prediction, key: str, failures: Sequence[Failure]) -> bool:
        """Report candidates that failed at an event of this key to the log, where the learner acts on it.

        Return whether one of these reports stands there already: it is not written again.
        """
        logged = False
        for failure in failures:
            if self.suppression.replaying and self.suppression.quarantined(failure.name, answer.event_offset):
                logged = True
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
                key=key if self._keyed else "",
            )
            self._out.append(
                Outgoing(
                    "examples",
                    self._examples_partition,
                    failure.name.encode(),
                    encode(report),
                    headers.QUARANTINE,
                    answer.event_time,
                )
            )
            if self.fold_at_once is not None:
                self.fold_at_once(report, ())
        return logged

    def block(self, block: Block, offset: int) -> None:
        """Write a block that the event at `offset` has closed to the log, unless it stands there."""
        if self.suppression.replaying and self.suppression.closed(block.start_ms, block.end_ms):
            return
        numbered = replace(
            block,
            closed_at_offset=offset,
            source_partition=self._partition,
            claim=self.writer.claim,
            sequence=self.writer.next(self._examples_log),
        )
        key = f"block {self._partition}".encode()
        self._out.append(
            Outgoing("examples", self._examples_partition, key, encode(numbered), headers.BLOCK, block.end_ms)
        )
        if self.fold_at_once is not None:
            self.fold_at_once(numbered, ())

    # -- dead letters -----------------------------------------------------------------------------

    def erased(self, record: Record, erase: Erase, *, windows: int, answers: int) -> None:
        """Write down that a key was erased, without the key: who wants to know has the request."""
        decision = Decision(
            f"{self._prefix}erase:{record.partition}:{record.offset}",
            "key.erased",
            erase.time,
            "",
            0,
            0,
            erase.reason,
            erase.actor,
            -1,
            evidence={
                "command_id": erase.command_id,
                "partition": record.partition,
                "event_offset": record.offset,
                "windows": windows,
                "answers": answers,
            },
        )
        self._decided(decision)

    def report_labels(self, record: Record, time: int) -> None:
        """Tell what has become of the labels of this partition, up to the one of `record`, of `time`, ms."""
        self._decided(
            Decision(
                f"{self._prefix}labels:{self._partition}:{record.offset}",
                "labels.reported",
                time,
                "",
                0,
                0,
                "labels",
                ACTOR,
                -1,
                evidence={"partition": self._partition, "label_offset": record.offset},
                labels=self._outcomes.report(),
            )
        )

    def _decided(self, decision: Decision) -> None:
        name = self._prefix[:-1].encode()
        self._out.append(Outgoing("decisions", 0, name, encode(decision), (), decision.time))

    def refuse(self, record: Record, stage: str, exception: str, message: str) -> None:
        """Send a record to the dead letters as it came, with the reason in its headers."""
        self._counts["dead_letters", stage] += 1
        if self.refused is not None:
            self.refused(stage)
        reason = headers.dead_letter(record, stage=stage, exception=exception, message=message)
        self._out.append(Outgoing("dead-letters", None, record.key, record.value, reason, None))

    def refuse_label(self, record: Record, rejected: Rejected) -> None:
        """Refuse a record that is no label, or a label of a time in the future."""
        if rejected.stage == "time":
            self._outcomes.count("ahead")
        self.refuse(record, rejected.stage, rejected.exception, rejected.message)

    def refuse_conflicting(self, record: Record, event_id: str) -> None:
        """Refuse an event whose id came before with other content."""
        self._counts["events", "conflicting"] += 1
        reason = f"event id {event_id} came before with other content; the first one holds"
        self.refuse(record, "duplicate", "ValueError", reason)

    def refuse_unusable(self, record: Record, event_id: str, outcome: str) -> None:
        """Refuse a label that joins nothing."""
        self._outcomes.count(outcome)
        why = {
            "late": f"dated more than {self._labels.wait_ms} ms after it",
            "outdated": "dated before the label that holds",
            "crowded": f"{self._labels.labels_per_event_max} labels of it are kept",
        }.get(outcome, "the first one holds")
        reason = f"{outcome} label for event {event_id}: {why}"
        self.refuse(record, "join", "ValueError", reason)

    def refuse_given_up(self, waiting: WaitingAnswer) -> None:
        """Send a prediction that waits no longer to the dead letters, at its event's offset.

        The event itself has not been kept.
        """
        answer = waiting.prediction
        reason = (
            f"answer {answer.prediction_id} was given up before its label came: "
            f"more than {self._labels.pending_max} wait"
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

    def refuse_no_room(self, record: Record, event_id: str) -> None:
        """Refuse a label whose event has not come, as too many wait for theirs."""
        self._outcomes.count("given_up")
        reason = (
            f"no event {event_id} has come, and no more than {self._labels.early_max} labels, or "
            f"{EARLY_BYTES_MAX:,} bytes of them, wait for their events"
        )
        self.refuse(record, "join", "OverflowError", reason)

    def refuse_met(self, early: EarlyLabel, outcome: str) -> None:
        """Refuse a label that came before its event and joins nothing, as its event shows."""
        self.refuse_unusable(self._record_of(early), early.label.event_id, outcome)

    def refuse_unmatched(self, early: EarlyLabel) -> None:
        """Refuse a label whose event never came, or had been forgotten, its own wait over."""
        self._outcomes.count("unmatched")
        known, wait_ms = early.label.event_id, self._labels.wait_ms
        reason = f"no event {known} waited for this label, nor came within {wait_ms} ms of its time"
        self.refuse(self._record_of(early), "join", "LookupError", reason)

    def _record_of(self, early: EarlyLabel) -> Record:
        label = early.label
        return Record(self._labels_topic, self._partition, label.offset, None, early.key, early.value)
