"""The state machine of one events partition: events and labels in, answers and examples out.

Lives here: the order in which a record meets watermark, windows, models, join and logs.
Never here: clocks, sockets, files (the shell hands in the wall clock), what a model learns.

One event walks: decoded (`intake`) -> watermark -> what expires -> seen before? -> features ->
champion scores -> prediction -> [sent by the shell] -> shadows score -> waits for its label.
One label walks: decoded -> joins its prediction -> enters label windows -> example.

A batch of n equals n batches of one: the shell may cut runs wherever it likes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast
from zlib import crc32

from engine.definition.pipeline import Pipeline
from engine.machines.admission import Admission, Admitted, Position, new_join
from engine.machines.checks import Checks
from engine.machines.intake import EventRead, Intake, Run
from engine.machines.joining import Joining
from engine.machines.learner import Learner
from engine.machines.outbox import Outbox, Scored
from engine.machines.prequential import LabelledRun, Prequential
from engine.machines.refusals import Refusals
from operators.claims.rule import Writer
from operators.claims.suppression import Suppression
from operators.join.entries import WaitingAnswer
from operators.join.join import EarlyLabel, Join
from operators.language.plan import FeaturePlan
from operators.models.scoring import Failure, Roster, Scoring
from operators.state import Composite, Operator, StoredEntries
from operators.stopwatch import Stopwatch
from operators.windows.features import Features
from topics.codec import Decoded, Rejected
from topics.messages import Decision, Event, FeatureValues, LabelValue, Outgoing, Prediction, Record

__all__ = ["Scorer"]

_NEVER = 1 << 62


class Scorer(Composite[Position]):
    """Everything one events partition needs to answer and to make examples.

    Examples leave with `step`, and the learner reads them back from the log.  Where labels
    come inside events, it can be given the learner by `learn_with`, which then learns row by row.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        partition: int,
        roster: Roster,
        writer: Writer,
        suppression: Suppression,
        plan: FeaturePlan | None = None,
        stopwatch: Stopwatch | None = None,
        stored: StoredEntries | None = None,
    ) -> None:
        """`plan` is the pipeline's own, or what is left of it where windows are computed elsewhere.

        `stored` reads the join's entries as of the last checkpoint; without it all are in memory.
        """
        self._stopwatch = stopwatch or Stopwatch()
        plan = plan or pipeline.plan
        self.pipeline = pipeline
        self.partition = partition
        threshold = pipeline.threshold if pipeline.task == "binary" else None
        version = pipeline.features_version
        self.outbox = Outbox(pipeline.name, partition, writer, suppression, threshold, version)
        self.counts: Counter[tuple[str, str]] = Counter()
        """What happened, by (metric, label): the shell exports it; no part of the state."""
        self._inside = pipeline.labels.field is not None
        decoders, ahead_ms = (pipeline.event_decoder(), pipeline.label_decoder()), pipeline.max_ahead_ms
        self.intake = Intake(*decoders, max_ahead_ms=ahead_ms, stopwatch=self._stopwatch)
        self.features = Features(plan, self.counts)
        self.join: Join[WaitingAnswer] = new_join(pipeline, self.counts, stored=stored)
        position = Position()
        self.admission = Admission(pipeline, position, self.join)
        self.scoring = Scoring(pipeline.task, roster, pipeline.threshold, self._stopwatch)
        self._checks: Checks | None = None
        parts: dict[str, Operator] = {"features": self.features, "join": self.join}
        if pipeline.rules or pipeline.alerts is not None:
            self._checks = Checks(pipeline, partition, self.outbox, self.counts)
            parts |= self._checks.parts
        super().__init__(position, parts)
        self._label_windows = plan.uses_labels
        self._one_by_one = self._inside and self._label_windows
        self._row_by_row = False
        """Whether labels inside events are learned here, before the next event."""
        self._prequential = Prequential(pipeline, self.outbox, roster, self.counts)
        self._refusals = Refusals(pipeline, partition, self.outbox, self.counts)
        self._joining = Joining(
            self.admission,
            self.join,
            self.features,
            self.outbox,
            self._refusals,
            self.counts,
            enters_windows=self._label_windows,
        )
        self._shadows_sent = pipeline.shadow_predictions
        self._served_by: Counter[str] = Counter()
        self.scored: list[Scored] = []
        """What the last run answered, with every candidate's score."""
        self.label_delays_ms = self._joining.delays_ms
        """Delays of the labels the last run joined; the shell exports them."""
        self._answered: dict[str, tuple[Prediction, Event, int, LabelValue | None]] = {}
        """Answered events that no shadow has scored and the join does not hold yet, by id: each with the
        CRC-32 of its bytes and the label it carried."""
        self._answered_oldest = _NEVER
        """Smallest event time of them, ms."""

    def learn_with(self, learner: Learner | None, decided: Callable[[Sequence[Decision]], object]) -> None:
        """Let `learner` learn labels inside events before the next event; None ends that.

        `decided` gets what it decides.
        """
        self._row_by_row = learner is not None
        self._prequential.learn_with(learner, decided)

    def step(
        self, run: Run, now_ms: int, lookups: Sequence[Mapping[str, object]] | None = None
    ) -> Iterator[list[Outgoing]]:
        """Take one run; yield what can leave at once, answers and dead letters, then what follows from it.

        `now_ms` is the shell's wall clock: it stamps predictions and never enters state.  `lookups` holds
        one mapping per event of the run.  Everything must be taken before the next step.
        """
        self.scored.clear()
        self.label_delays_ms.clear()
        if self.join.entries.away:
            self.join.recall(run.event_ids())
        if run.events:
            with self._stopwatch.step("answer"):
                self._events(run.events, now_ms, lookups)
            self.position.events = run.events[-1].record.offset + 1
            for served_by, count in self._served_by.items():
                self.counts["predictions", served_by] += count
            self._served_by.clear()
            yield self.outbox.drain()
            with self._stopwatch.step("answer"):
                self._open_answers()
        else:
            with self._stopwatch.step("join"):
                for read in run.labels:
                    self._joining.take(read)
            self.position.labels = run.labels[-1].record.offset + 1
        self.features.count_evictions()
        if not self.outbox.suppression.empty:
            self.outbox.suppression.passed(self.position.events, self.position.labels, self.join.waits)
        yield self.outbox.drain()

    # -- events ---------------------------------------------------------------------------------

    def _events(
        self, run: Sequence[EventRead], now_ms: int, lookups: Sequence[Mapping[str, object]] | None
    ) -> None:
        """Admit events one by one; answer them together until one of them must see what another did."""
        if self._checks is not None:
            self._checks.read(run)
        admitted, join, admit = Admitted(), self.join, self.admission.admit
        seen, ids, answered = self.admission.seen, admitted.ids, self._answered
        early = join.early
        watched = early or join.implicit is not None
        for number, read in enumerate(run):
            record, decoded = read.record, read.decoded
            if isinstance(decoded, Rejected):
                self._refusals.refuse(record, decoded.stage, decoded.exception, decoded.message)
                continue
            event_id = decoded.event_id
            if event_id in ids or event_id in answered or seen(event_id) is not None:
                self._answer(admitted, now_ms)
                self._expire(record.offset, admitted, now_ms)
                if self._answered_again(record, decoded):
                    continue
            event = admit(read, decoded)
            if watched:
                # Something may be done about what expires; else once in a run is enough.
                self._expire(record.offset, admitted, now_ms)
            admitted.events.append(event)
            admitted.labels.append(decoded.label)
            admitted.crcs.append(crc32(record.value or b""))
            admitted.late += event.late
            ids.add(event_id)
            if event.event_time < admitted.oldest:  # noqa: PLR1730
                admitted.oldest = event.event_time
            if lookups is not None:
                admitted.lookups.append(lookups[number])
            if self._one_by_one:
                self._answer(admitted, now_ms)
            elif early and join.early_label(event_id):
                # Its label is here already: it enters windows that the next event reads, or is refused.
                self._answer(admitted, now_ms)
                self._open_answers()
        self._answer(admitted, now_ms)
        self._expire(run[-1].record.offset, admitted, now_ms)

    def _answered_again(self, record: Record, decoded: Decoded) -> bool:
        """Answer an event id seen within the horizon once more; nothing else changes."""
        if decoded.event_id in self._answered:
            self._open_answers()
        waiting = self.admission.seen(decoded.event_id)
        if waiting is None:
            return False
        self.counts["events", "duplicate"] += 1
        if waiting.payload_crc != crc32(record.value or b""):
            self._refusals.conflicting(record, decoded.event_id)
        if self.outbox.logged(decoded.event_id, record.offset) is None:
            self.outbox.again(waiting.prediction, record.offset, record.key, record.headers)
            self.counts["predictions", "again"] += 1
        return True

    def _expire(self, at_offset: int, admitted: Admitted, now_ms: int) -> None:
        """Forget what the watermark has passed; where that could be seen by ready events, they go first."""
        join, watermark = self.join, self.admission.watermark
        oldest = min(admitted.oldest, self._answered_oldest)
        first = join.entries.first
        passed = first is not None and first[0] + join.wait_ms < watermark
        if join.early and not passed:
            passed = join.next_deadline is not None and join.next_deadline < watermark
        if not passed and oldest + join.wait_ms >= watermark:
            return
        seen = join.early or oldest + join.wait_ms < watermark
        if seen or (join.implicit is not None and self._label_windows):
            self._answer(admitted, now_ms)
            self._open_answers()
        implicit, unmatched = join.expire(watermark, at_offset=at_offset)
        for joined in implicit:
            self._joining.learnable(joined, "implicit")
        for early in unmatched:
            self._refusals.unmatched(early)

    def _answer(self, admitted: Admitted, now_ms: int) -> None:
        """Compute features of the ready events, answer them, and open their entries."""
        if not admitted.events:
            return
        with self._stopwatch.step("features"):
            rows = self.features.step_events(admitted.events, admitted.lookups or None)
        if self._checks is not None:
            self._checks.admitted(admitted.events, admitted.crcs, rows)
        if self._row_by_row:
            together = self.outbox.suppression.empty
            for part, learnable in admitted.stretches(self.join.wait_ms):
                if learnable and together:
                    self._answer_labelled(admitted, part, rows[part], now_ms)
                    continue
                for at in range(part.start, part.stop):  # what one of them teaches, the next must know
                    self._answer_some(admitted, slice(at, at + 1), rows[at : at + 1], now_ms)
        else:
            self._answer_some(admitted, slice(None), rows, now_ms)
        if wrong := self.admission.misplaced([(event.record_key, event.key) for event in admitted.events]):
            self.counts["key_mismatches", "event"] += wrong
        self.counts["events", "late"] += admitted.late
        self.counts["events", "accepted"] += len(admitted.events) - admitted.late
        admitted.clear()

    def _answer_labelled(
        self, admitted: Admitted, part: slice, rows: Sequence[FeatureValues], now_ms: int
    ) -> None:
        """Answer events that carry their label and learn them; the entries are there for duplicates."""
        events = admitted.events[part]
        keys = [self.features.label_keys(event) if self._label_windows else () for event in events]
        labels = cast("list[LabelValue]", admitted.labels[part])
        run = LabelledRun(events, rows, labels, admitted.crcs[part])
        answered, kept = self._prequential.answer(run, now_ms)
        self.scored += answered
        self.counts["labels", "joined"] += len(answered)
        self.label_delays_ms += [0] * len(answered)
        self._served_by.update([answer.served_by for answer, _, _ in answered])
        for given_up in self.join.answered_all(kept):
            self._refusals.given_up(given_up)
        if self._label_windows:
            for event, label, of in zip(events, labels, keys, strict=True):
                self._joining.enter_windows(of, event.event_time, label)

    def _answer_some(
        self, admitted: Admitted, part: slice, rows: Sequence[FeatureValues], now_ms: int
    ) -> None:
        """Answer events whose labels come later, with what an earlier owner logged where it did."""
        events = admitted.events[part]
        logged = [self.outbox.logged(event.event_id, event.offset) for event in events]
        with self._stopwatch.step("score"):
            unanswered = [row for row, known in zip(rows, logged, strict=True) if known is None]
            served_in_order = iter(self.scoring.serve_all(unanswered))
        columns = (events, rows, admitted.labels[part], admitted.crcs[part], logged)
        for event, features, label, crc, known in zip(*columns, strict=True):
            answer = known
            if answer is None:
                served = next(served_in_order)
                answer = self.outbox.answer(event, features, served, now_ms)
                self._served_by[answer.served_by] += 1
                if served.failures:
                    self._failed(answer, served.failures)
            if not self.admission.waits(event):
                self.counts["events", "beyond_horizon"] += 1
                continue
            self._answered[event.event_id] = (answer, event, crc, label)
            self._answered_oldest = min(self._answered_oldest, event.event_time)
        if self._answered and (self._one_by_one or self._row_by_row):
            self._open_answers()

    # -- shadows and labels -----------------------------------------------------------------------

    def _open_answers(self) -> None:
        """Let every candidate score the answered events, open their entries, and join labels already here."""
        if self._answered:
            answered = list(self._answered.values())
            self._answered.clear()
            self._answered_oldest = _NEVER
            with self._stopwatch.step("shadows"):
                shadowed = self.scoring.shadow_all(
                    [
                        (answer.features, answer.model_name, answer.prediction_score)
                        for answer, _, _, _ in answered
                    ]
                )
            for (answer, event, crc, label), shadows in zip(answered, shadowed, strict=True):
                if shadows.failures:
                    self._failed(answer, shadows.failures)
                scored = (answer, event.key, shadows.scores)
                self.scored.append(scored)
                if self._shadows_sent:
                    self.outbox.shadow(*scored)
                keys = self.features.label_keys(event) if self._label_windows else ()
                self._open_answer(WaitingAnswer.of(answer, event.key, keys, crc, shadows.scores), label)

    def _open_answer(self, waiting: WaitingAnswer, label: LabelValue | None) -> None:
        """Let an answer wait for its label; join it if it is here already."""
        for given_up in self.join.open(waiting):
            self._refusals.given_up(given_up)
        joined = self.join.meet_early(waiting)
        if isinstance(joined, EarlyLabel):
            self._refusals.late(joined)
            joined = None
        if label is not None:
            joined = self.join.close(waiting, label, waiting.event_time)
        if joined is not None:
            self._joining.learnable(joined, "joined")

    def _failed(self, answer: Prediction, failures: Sequence[Failure]) -> None:
        self.counts.update(("model_failures", f"score {failure.name}") for failure in failures)
        self.outbox.quarantine(answer, failures)
