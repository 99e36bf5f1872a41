"""The state machine of one events partition: events and labels in, answers and examples out.

Lives here: the order in which a record meets watermark, windows, models, join and logs.
Never here: clocks, sockets, files (the shell hands in the wall clock), what a model learns.

One event walks: decoded (`admission.py`) -> watermark -> what expires -> seen before? -> features ->
champion scores -> prediction -> [sent by the shell] -> shadows score -> waits for its label.
One label walks: decoded -> joins its prediction -> enters label windows -> example.

A batch of n equals n batches of one: the shell may cut runs wherever it likes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from zlib import crc32

from engine.definition.pipeline import Pipeline
from engine.machines.admission import Admission, EventRead, Intake, LabelRead, Position, Run, voting_join
from engine.machines.asking import Asking
from engine.machines.blocks import Blocks
from engine.machines.checks import Checks
from engine.machines.learner import Learner
from engine.machines.outbox import Outbox, Scored
from engine.machines.prequential import Decided, Prequential
from operators.claims.rule import Suppression, Writer
from operators.join.completeness import Completeness
from operators.join.join import Joined, LabelOutcomes
from operators.join.pending import WaitingAnswer
from operators.language.plan import FeaturePlan
from operators.models.scoring import Failure, Reply, Roster, Scoring, Served, Shadowed
from operators.models.table import Table
from operators.state import Composite, Operator, StoredEntries
from operators.stopwatch import Stopwatch
from operators.windows.features import Features, JoinedLabel, label_entry
from topics.codec import Decoded, Rejected
from topics.erasure import Erase, erase_in, erase_of
from topics.headers import traced
from topics.messages import (
    UNMEASURED,
    Event,
    Example,
    FeatureValues,
    Label,
    LabelValue,
    Outgoing,
    Prediction,
    Record,
    Score,
)
from topics.watermarks import Move

__all__ = ["Given", "Scorer"]

_NEVER = 1 << 62
_NOTHING_TAKEN: Mapping[str, Score] = {}
Given = tuple[Prediction, Mapping[str, Score]]
"""An answer, and the scores that a blend took for it."""


class Scorer(Composite[Position]):
    """The state machine that answers the events of one partition and makes their examples.

    Examples leave with `step`, and the learner reads them back from the log.  Where labels
    come inside events, it can be given the learner by `learn_with`, which then learns row by row.
    """

    moves = 0
    """Records taken since the start that moved the watermark; no part of the state."""

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
        self.counts: Counter[tuple[str, str]] = Counter()
        """Counts by (metric, label), which the shell exports; no part of the state."""
        self.labels = LabelOutcomes(pipeline.report_every, self.counts)
        self.outbox = Outbox(pipeline, partition, writer, suppression, roster, self.counts, self.labels)
        self._suppression = suppression
        self._all: Table | None = None
        """The table with which the champion answers all."""
        self._inside = pipeline.labels.field is not None
        self.intake = Intake(
            pipeline.event_decoder(),
            pipeline.label_decoder(),
            max_ahead_ms=pipeline.max_ahead_ms,
            stopwatch=self._stopwatch,
        )
        self.join, self._weak = voting_join(pipeline, self.counts, self.labels, stored)
        self.admission = Admission(pipeline, position := Position(), self.join, self.counts)
        self.scoring = Scoring(pipeline.task, roster, self._stopwatch)
        self._checks: Checks | None = None
        self.features = Features(plan, self.counts)
        self.completeness = Completeness(self.join.wait_ms, pipeline.grace_ms, self.counts)
        self._blocks = Blocks(pipeline, self.outbox, self._stopwatch)
        self._asking = Asking(pipeline, partition, self.outbox, self.join, self.counts)
        parts: dict[str, Operator] = {"features": self.features, "join": self.join, "blocks": self._blocks}
        parts |= {"completeness": self.completeness, "labels": self.labels, **self._asking.parts}
        if pipeline.rules or pipeline.novelty is not None:
            self._checks = Checks(pipeline, partition, self.outbox, self.counts)
            parts |= self._checks.parts
        super().__init__(position, parts)
        self._label_windows = plan.uses_labels
        self._one_by_one = self._inside and self._label_windows
        self._row_by_row = False  # whether labels inside events are learned here, before the next event
        self._assumes = pipeline.labels.learn == "corrected"  # negative until their labels come
        self._prequential = Prequential(pipeline, self.outbox, roster, self.counts)
        self._shadows_sent = pipeline.shadow_predictions
        self.scored: list[Scored] = []
        """The answers of the last run, with every candidate's score."""
        self.command_keys: Mapping[str, bytes] = {}
        """By whose signatures keys may be erased; empty: nobody signs."""
        self.erased: list[str] = []
        """Keys that the last run erased; the shell erases what it has written of them elsewhere."""
        self.label_delays_ms: list[int] = []
        """Delays of the labels the last run joined; the shell exports them."""
        self._admitted: dict[str, Event] = {}
        """Events that wait to be answered together, by id."""
        self._lookups: list[Mapping[str, object]] = []
        """One for each of them."""
        self._answered: dict[str, tuple[Prediction, Event, Mapping[str, Score]]] = {}
        """Answered events that no shadow has scored and the join does not hold yet, by id, with the scores
        that a blend's answer took."""
        self._oldest = _NEVER
        """Smallest event time of all these, ms: the first entry to expire, once they are open."""

    @property
    def next_deadline(self) -> int | None:
        """Return the watermark, ms, from which on something happens that waits for it; None: nothing does."""
        deadlines = (self.join.next_deadline, self._blocks.next_deadline, self._asking.next_deadline)
        return min((one for one in deadlines if one is not None), default=None)

    def learn_with(self, learner: Learner | None, decided: Decided) -> None:
        """Set the learner that learns labels inside events before the next event; None for none.

        `decided` gets what it decides, and the trace context of the event that led to it.
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
        clock, seconds = self._stopwatch.clock, self._stopwatch.steps
        for made in (self.scored, self.erased, self.label_delays_ms):
            made.clear()
        if self.join.entries.away:
            self.join.recall(run.event_ids())
        started = clock() - sum(seconds.values())
        if run.events:
            self._events(run.events, now_ms, lookups)
            self.position.events = run.events[-1].record.offset + 1
            seconds["answer"] += clock() - sum(seconds.values()) - started
            yield self.outbox.drain()
            started = clock() - sum(seconds.values())
            self._follow_up()
            seconds["answer"] += clock() - sum(seconds.values()) - started
        else:
            for read in run.labels:
                self._label(read)
            self.position.labels = run.labels[-1].record.offset + 1
            seconds["join"] += clock() - sum(seconds.values()) - started
        self.features.count_evictions()
        if self._suppression.replaying:
            self._suppression.passed(self.position.events, self.position.labels, self.join.waits)
        yield self.outbox.drain()

    # -- events ---------------------------------------------------------------------------------

    def _events(
        self, run: Sequence[EventRead], now_ms: int, lookups: Sequence[Mapping[str, object]] | None
    ) -> None:
        """Admit events one by one; answer them together until one of them must see what another did."""
        if self._checks is not None:
            self._checks.read(run)
        join, admit, seen = self.join, self.admission.admit, self.join.entries.known
        admitted, answered, early = self._admitted, self._answered, join.early
        watched = early or join.emits
        for number, read in enumerate(run):
            decoded = read.decoded
            if not isinstance(decoded, Decoded):
                self._no_event(read.record, decoded, now_ms)
                continue
            event_id = decoded.event_id
            if event_id in admitted or event_id in answered or seen(event_id) is not None:
                self._answer(now_ms)
                self._expire(read.record.offset, now_ms)
                if self._answered_again(read.record, decoded):
                    continue
            event = admit(read, decoded)
            if event.watermark >= self._blocks.closes_at:
                self._close_blocks(event.offset, now_ms)
            if watched:
                # Something may be done about what expires; else once in a run is enough.
                self._expire(event.offset, now_ms)
            admitted[event_id] = event
            if event.event_time < self._oldest:  # noqa: PLR1730  a call takes three times as long
                self._oldest = event.event_time
            if lookups is not None:
                self._lookups.append(lookups[number])
            if self._one_by_one:
                self._answer(now_ms)
            elif early and join.early_label(event_id):
                # Its label is here already: it enters windows that the next event reads, or is refused.
                self._answer(now_ms)
                self._open_answers()
        self._answer(now_ms)
        self._expire(run[-1].record.offset, now_ms)

    def _no_event(self, record: Record, rejected: Rejected | Move, now_ms: int) -> None:
        """Refuse a record that is no valid event, or do what it asks for: move time on, erase a key."""
        if isinstance(rejected, Move):
            self.moves += 1
            self.counts["watermarks", "moved"] += 1
            self._answer(now_ms)
            self._open_answers()
            self.admission.move(rejected)
            if self.admission.watermark >= self._blocks.closes_at:
                self._close_blocks(record.offset, now_ms)
            self._asking.close(self.admission.watermark)
            self._expire(record.offset, now_ms)
            return
        if not erase_in(record):
            self.outbox.refuse(record, rejected.stage, rejected.exception, rejected.message)
            return
        try:
            erase = erase_of(record, self.command_keys)
        except ValueError as error:  # msgspec's errors are ValueErrors
            self.outbox.refuse(record, "erase", type(error).__name__, str(error))
        else:
            self._erase(record, erase, now_ms)

    def _erase(self, record: Record, erase: Erase, now_ms: int) -> None:
        """Forget all that is kept of a key, of the events before this place in their log."""
        self._answer(now_ms)
        self._open_answers()
        windows = self.features.erase(self.pipeline.events.key, erase.key)
        answers = self.join.erase(erase.key)
        self._blocks.take(self.scored)
        self._blocks.erase(erase.key)
        self._asking.erase(erase.key)
        self.scored = [one for one in self.scored if one[1] != erase.key]
        self._blocks.taken = len(self.scored)
        self.erased.append(erase.key)
        self.counts["erasures", "done"] += 1
        self.outbox.erased(record, erase, windows=windows, answers=answers)

    def _follow_up(self) -> None:
        """Do with the answers of a run what need not be done before they leave."""
        self._open_answers()
        self.completeness.passed(self.admission.watermark)
        self._blocks.take(self.scored)
        self._blocks.taken = 0

    def _close_blocks(self, at_offset: int, now_ms: int) -> None:
        """Close the blocks that the watermark has passed, once all that was admitted before is in them."""
        self._answer(now_ms)
        self._open_answers()
        self._blocks.take(self.scored)
        self._blocks.close(self.admission.watermark, at_offset)

    def _answered_again(self, record: Record, decoded: Decoded) -> bool:
        """Answer a repeated event again, if its id was seen within the horizon; nothing else changes."""
        if decoded.event_id in self._answered:
            self._open_answers()
        waiting = self.join.entries.known(decoded.event_id)
        if waiting is None:
            return False
        self.counts["events", "duplicate"] += 1
        if waiting.payload_crc != crc32(record.value or b""):
            self.outbox.refuse_conflicting(record, decoded.event_id)
        if self._suppression.answered(decoded.event_id, record.offset) is None:
            self.outbox.again(waiting.prediction, record)
            self.counts["predictions", "again"] += 1
        return True

    def _expire(self, at_offset: int, now_ms: int) -> None:
        """Expire entries that the watermark has passed, after the admitted events that could see them."""
        join, watermark = self.join, self.admission.watermark
        first = join.entries.first
        passed = first is not None and first[0] + join.wait_ms < watermark
        passed = passed or (join.early > 0 and (join.next_deadline or 0) < watermark)
        overtaken = self._oldest + join.wait_ms < watermark
        if not passed and not overtaken:
            return
        if join.early or overtaken or (join.emits and self._label_windows):
            self._answer(now_ms)
            self._open_answers()
        emitted, unmatched = join.expire(watermark, at_offset=at_offset)
        for joined in emitted:
            self._learnable(joined, joined.origin or "combined")
        for early in unmatched:
            self.outbox.refuse_unmatched(early)

    def _answer(self, now_ms: int) -> None:
        """Compute features of the admitted events, answer them, and keep them until they are opened."""
        if not self._admitted:
            return
        events, lookups = list(self._admitted.values()), self._lookups or None
        self._admitted.clear()
        self._lookups = []
        started = self._stopwatch.clock()
        rows = self.features.step_events(events, lookups)
        self._stopwatch.steps["features"] += self._stopwatch.clock() - started
        if self._checks is not None:
            self._checks.admitted(events, rows)
        if self._row_by_row or self._suppression.replaying:
            for part, learnable in self._stretches(events):
                answer = self._answer_labelled if learnable else self._answer_unlabelled
                answer(events[part], rows[part], now_ms)
        else:
            self._answer_unlabelled(events, rows, now_ms)
        self._oldest = min([event.event_time for _, event, _ in self._answered.values()], default=_NEVER)
        late = sum([event.late for event in events])
        self.counts.update({("events", "late"): late, ("events", "accepted"): len(events) - late})

    def _stretches(self, events: Sequence[Event]) -> Iterator[tuple[slice, bool]]:
        """Yield the events in stretches that can be learned at once, as they carry a label, and singly.

        A label that comes more than the wait after its event, by the watermark, is not learned.  What may be
        logged already is answered one by one: what one event teaches, the next must know.
        """
        waits, at_once = self.admission.waits, self._row_by_row and not self._suppression.replaying
        start = 0
        for learnable, same in groupby(
            at_once and event.label is not None and (not event.late or waits(event)) for event in events
        ):
            end = start + sum(1 for _ in same)
            if learnable:
                yield slice(start, end), True
            else:
                for at in range(start, end):
                    yield slice(at, at + 1), False
            start = end

    def _answer_labelled(self, events: Sequence[Event], rows: Sequence[FeatureValues], now_ms: int) -> None:
        """Answer events that carry their label and learn them; their entries only serve duplicates."""
        answered, kept = self._prequential.answer(events, rows, now_ms)
        self.scored += answered
        self.labels.count("joined", len(answered))
        self.label_delays_ms += [0] * len(answered)
        self.counts.update([("predictions", answer.served_by) for answer, _, _ in answered])
        for given_up in self.join.answered_all(kept):
            self.outbox.refuse_given_up(given_up)
        if self._label_windows:
            for event in events:
                assert event.label is not None
                self._enter_windows(self.features.label_keys(event), event.event_time, event.label)

    def _answer_unlabelled(self, events: Sequence[Event], rows: Sequence[FeatureValues], now_ms: int) -> None:
        """Answer events whose labels come later; in a replay a single event, as an earlier owner may have."""
        logged = None
        if self._suppression.replaying:
            logged = self._suppression.answered(events[0].event_id, events[0].offset)
        answers = self._serve(events, rows, now_ms) if logged is None else [(logged, _NOTHING_TAKEN)]
        for event, (answer, taken) in zip(events, answers, strict=True):
            if self.admission.waits(event):
                self._answered[event.event_id] = (answer, event, taken)
            else:
                self.counts["events", "beyond_horizon"] += 1
        if self._one_by_one or self._row_by_row:
            self._open_answers()

    def _serve(self, events: Sequence[Event], rows: Sequence[FeatureValues], now_ms: int) -> list[Given]:
        """Send the answer to each event; return the answers, each with the scores that a blend took."""
        plain = self.scoring.roster.routing is self._all
        served = self.scoring.serve_all(rows) if plain else self._pick(events, rows)
        answers = self.outbox.number(events, rows, served, now_ms)
        self.outbox.send(answers, events)
        for answer, event, one in zip(answers, events, served, strict=True):
            self.counts["predictions", one.served_by] += 1
            if one.failures:
                self._failed(answer, event.key, one.failures)
        return [(answer, one.scores) for answer, one in zip(answers, served, strict=True)]

    def _pick(self, events: Sequence[Event], rows: Sequence[FeatureValues]) -> list[Served]:
        """Return the answers by whom the serving policy picks."""
        table = self.scoring.roster.routing
        assert table is not None
        picks = [table.pick(event.key, event.event_id, event.event_time) for event in events]
        served = self.scoring.serve_picked(rows, picks)
        self.counts.update(("arms", one.pick.name) for one in served if one.pick and one.pick.propensity)
        return served

    # -- shadows and labels -----------------------------------------------------------------------

    def _open_answers(self) -> None:
        """Score the answered events with all candidates, open their entries, join labels that came before."""
        if not self._answered:
            return
        answered = list(self._answered.values())
        self._answered.clear()
        self._oldest = _NEVER
        self.outbox.count_abstained(answer for answer, _, _ in answered)
        shadowed = self._shadow(
            [
                Reply(answer.features, answer.model_name, answer.prediction_score, taken)
                for answer, _, taken in answered
            ],
            [event.key for _, event, _ in answered],
        )
        for (answer, event, _), shadows in zip(answered, shadowed, strict=True):
            if shadows.failures:
                self._failed(answer, event.key, shadows.failures)
            scored = (answer, event.key, shadows.scores)
            self.scored.append(scored)
            if self._shadows_sent:
                self.outbox.shadow(*scored)
            keys = self.features.label_keys(event) if self._label_windows else ()
            waiting = WaitingAnswer.of(
                answer, event.key, keys, event.payload_crc, shadows.scores, traced(event.headers)
            )
            self._open_answer(waiting, event.label)
            if self._asking.windows is not None:
                self._asking.opened(waiting, event.watermark)

    def _shadow(self, replies: Sequence[Reply], _keys: Sequence[str]) -> list[Shadowed]:
        """Return every candidate's score of answered events, of which these are the keys."""
        return self.scoring.shadow_all(replies)

    def _open_answer(self, waiting: WaitingAnswer, label: LabelValue | None) -> None:
        """Open the entry of an answer; join its label if that came before."""
        for given_up in self.join.open(waiting):
            self.outbox.refuse_given_up(given_up)
        if not self._inside:  # a label that comes with its event has no age
            self.completeness.opened(waiting.event_time)
        if self._assumes:
            self._learnable(self.join.assumed(waiting), "assumed")
        for outcome, joined, early in self.join.meet_early(waiting):
            if joined is not None:
                self._learnable(joined, outcome)
            elif outcome == "collected":
                self._collected(early.label)
            elif outcome == "corrected":
                self.labels.count(outcome)
            else:
                self.outbox.refuse_met(early, outcome)
        if label is not None:
            self._learnable(self.join.close(waiting, label, waiting.event_time), "joined")

    def _label(self, read: LabelRead) -> None:
        """Join a label to its answer, or refuse it; tell what became of all so far, where that is due."""
        if isinstance(read.decoded, Rejected):
            self.outbox.refuse_label(read.record, read.decoded)
        else:
            self._meet(read.record, read.decoded)
        if self.labels.read():
            self.outbox.report_labels(read.record, max(0, read.time))

    def _meet(self, record: Record, decoded: Label) -> None:
        outcome, joined = self.join.label(decoded, key=record.key, value=record.value)
        if joined is not None:
            if self.admission.is_misplaced(record.key, joined.waiting.key):
                self.counts["key_mismatches", "label"] += 1
            self._learnable(joined, outcome)
        elif outcome == "collected":
            self._collected(decoded)
        elif outcome in {"early", "corrected"}:
            self.labels.count(outcome)
        elif outcome == "given_up":
            self.outbox.refuse_no_room(record, decoded.event_id)
        else:
            self.outbox.refuse_unusable(record, decoded.event_id, outcome)

    def _collected(self, label: Label) -> None:
        """Count a label that is kept until the horizon of its event."""
        self.labels.count("collected")
        waiting = self.join.known(label.event_id)
        assert isinstance(waiting, WaitingAnswer)
        if len(waiting.labels) == 1:
            self.completeness.labelled((waiting.event_time, label.label_time))
        self.label_delays_ms.append(label.label_time - waiting.event_time)

    def _learnable(self, joined: Joined[WaitingAnswer], outcome: str) -> None:
        """Enter a joined label into the windows, where it is the event's first, and write its example."""
        self.labels.count(outcome)
        truth = joined.before is None and joined.origin not in UNMEASURED
        if truth and not joined.origin:
            if outcome != "combined" and not self._inside:
                self.completeness.labelled((joined.waiting.event_time, joined.label_time))
            if self._weak is not None:
                self._weak.compare(joined.waiting.prediction.features, joined.label)
        if outcome not in {"assumed", "combined", "weak"}:
            self.label_delays_ms.append(joined.label_time - joined.waiting.event_time)
        if truth and self._label_windows:
            self._enter_windows(joined.waiting.keys, joined.label_time, joined.label)
        logged = self.outbox.example(joined)
        if logged is not None and truth and self.join.policy.correct is not None:
            self._learned_before(joined, logged)

    def _learned_before(self, joined: Joined[WaitingAnswer], logged: Example) -> None:
        """Go on from the label that an earlier owner's example holds; a later one corrects it."""
        held = Label(logged.event_id, logged.label, logged.label_time, logged.label_offset)
        self.join.learned_as(joined.waiting, held)
        if logged.label_offset < joined.label_offset:
            label = Label(
                logged.event_id,
                joined.label,
                joined.label_time,
                joined.label_offset,
                weight=joined.weight,
                source=joined.source,
            )
            outcome, corrected = self.join.label(label, key=None, value=None)
            if corrected is not None:
                self._learnable(corrected, outcome)

    def _enter_windows(self, keys: tuple[str | None, ...], label_time: int, label: LabelValue) -> None:
        self.features.step_labels([JoinedLabel(keys, label_time, label_entry(label))])

    def _failed(self, answer: Prediction, key: str, failures: Sequence[Failure]) -> None:
        self.counts.update(("model_failures", f"score {failure.name}") for failure in failures)
        logged = self.outbox.quarantine(answer, key, [one for one in failures if not one.tolerated])
        if logged:  # in a replay: the learner has acted on it, so who is asked here was released since
            self.scoring.rebind()
