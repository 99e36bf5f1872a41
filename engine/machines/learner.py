"""The state machine of one examples partition: the training log in, decisions out.

Lives here: which record of the log means what, and which one is next.  Never here: what an
example does (`operators/race/learning.py`), reading the log, publishing models, clocks.

The learner is a pure function of its log: same records, same models, same decisions, however
the records are cut into batches.  Records of five types change it, each at its own offset
(examples and quarantines only if they count, `operators/claims/rule.py`):

    example ──> test, then train     quarantine ──> a sick candidate leaves
    claim ────> who may write        command ─────> promote, rollback, pin, unpin, pause, resume
    field ────> who races, and by which settings (`field_records.py`)

Pause.  `position` is the next offset to fold, `reading` the next offset the shell must hand in.
They are equal but for a pause: then `position` stands still behind the pause command while
`reading` runs ahead and only commands act (a rollback during a pause is not put off), each once:

    offset     0  1  2  3  4  5  6  7  8
    record     e  e  P  e  c  e  R  e  e       P pause   R resume   c rollback   e examples
    folded     0  1  2 .  .  4 . .  6          then `reading` goes back to 3:
                                 3     5     7  8

Nothing is queued and nothing skipped: after the resume the log is read again from `position`,
and commands up to the resume, which have acted, are passed over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from engine.machines.field_records import FieldRecords, FieldSource, about_change, refusal
from operators.claims.rule import Reader
from operators.drift.detectors import DriftWatch
from operators.models.digest import digest
from operators.models.mixture import Mixture
from operators.models.parameters import model_text
from operators.models.scoring import Prior, Racer, Roster
from operators.race.approval import Approvals
from operators.race.arena import THE_FILE, Arena, Objection
from operators.race.commands import UNSIGNED, Commands
from operators.race.evaluation import Evaluation
from operators.race.evidence import Evidence
from operators.race.field import FieldStep, RaceField
from operators.race.good_versions import GoodVersions
from operators.race.learning import Learning, Lessons, Observer
from operators.race.losses import loss_of
from operators.race.opening import Opening
from operators.serving.policy_machine import Setting
from operators.serving.routes import routing_of
from operators.state import Operator, StateDelta, StateEntries
from operators.stopwatch import Stopwatch
from operators.versions.challenges import Challenges
from operators.versions.release import Releases, with_twins
from topics.codec import (
    command_id,
    decode_claim,
    decode_command,
    decode_example,
    decode_field,
    decode_quarantine,
    decode_slow,
)
from topics.errors import ClaimError, ModelError
from topics.headers import REFUSED, SIGNER, record_type_of, text_of
from topics.messages import Decision, Example, FieldChange, Quarantine, Record, RecordType, Slow, Task

__all__ = ["Learner"]

BACKLOGS_TOLD = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
"""Records logged during a pause at which a decision says that they wait."""
MODEL = "model/"
READER = "reader/"


class _Progress(msgspec.Struct):
    """The positions of the learner in its log."""

    position: int = 0
    """Next offset to fold."""
    reading: int = 0
    """Next offset to be handed in."""
    commands_done: int = 0
    """Commands before this offset have acted, during a pause."""
    refused: int = 0
    """Records of the log that were no valid messages."""
    policy_revision: int = 0
    """Of the last table of a serving policy that has ended: tables after it have higher ones."""


class Learner:
    """All candidates of one examples partition, and the race between them.

    `field` is that of our file; the log may have begun with another, and end with a third.  `source` has the
    models of each.  `roster` is live, the same object all the time: a scorer of the same process may read it.
    """

    def __init__(
        self,
        *,
        pipeline: str,
        task: Task,
        field: RaceField,
        source: FieldSource,
        partition: int = 0,
        warmup_offset: int = 0,
        wait_ms: int = 0,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        """`wait_ms` is how long after its event a label may come."""
        self._pipeline, self._task, self._partition = pipeline, task, partition
        self._warmup_offset, self._wait_ms = warmup_offset, wait_ms
        self._stopwatch = stopwatch or Stopwatch()
        self._source = source
        self.fields = FieldRecords(field, source)
        """Which field holds."""
        self.roster = Roster(task, (), field.first_champion)
        self.reader = Reader()
        self._progress = _Progress()
        self._stored: dict[str, tuple[int, int, bool, tuple[str, ...]]] = {}
        """Models as of the last delta: name -> (version, updates, quarantined, whom it weighs)."""
        self._keeps = True
        """Whether good versions are kept."""
        self._gone: StateDelta = {}
        """Entries of parts that were there before all was folded again."""
        self._begin(field)

    def _begin(self, field: RaceField) -> None:
        """Build every part anew, for a race that begins with this field."""
        roster, promotion = self.roster, field.promotion
        self._codec = self._source.codec(field)
        racers = [
            Racer(name, self._source.fresh(field, name), version=number, learns=candidate.learns)
            for number, (name, candidate) in enumerate(field.candidates.items(), 1)
        ]
        copied = lambda model: self._load(self._dump(model))  # noqa: E731
        roster.racers = {racer.name: racer for racer in with_twins(racers, field.candidates, copied)}
        roster.champion, roster.previous, roster.quarantined = field.first_champion, (), set()
        roster.prior = Prior(self._task)
        roster.threshold = field.threshold
        roster.revision += 1
        self.arena = Arena(self._pipeline, self._partition, roster, promotion, field.challenges)
        self.evaluation = Evaluation(
            self._task,
            field.metrics,
            self._dump,
            self._load,
            threshold=field.threshold,
            warmup_offset=self._warmup_offset,
        )
        self.watch = DriftWatch(field.drift, self._dump, self._load)
        self.good = GoodVersions(self._dump, self._load, roster)
        self.approvals = Approvals(promotion, self.arena, self._task, field.threshold, self.evaluation.churn)
        self.commands = Commands(self.arena, self.good, self.approvals)
        self.releases = Releases(self.arena, field.candidates, self.good.copied)
        self.challenges = Challenges(
            self.arena, field.challenges, self.good.copied, self.evaluation.recent_loss
        )
        self.evidence = Evidence(promotion, opening=field.champion is not None)
        self.opening = None if field.opens is None else Opening(field.opens)
        self.learning = Learning(
            self._task,
            self.arena,
            self.evaluation,
            self.watch,
            self.evidence,
            loss_of(self._task, promotion.loss, field.threshold),
            field.threshold,
            self._stopwatch,
            opening=self.opening,
        )
        self._accompany()
        self._route(field)

    def _route(self, field: RaceField) -> None:
        """Answer by the field's policy from here on; its tables have higher revisions than those before."""
        self.routing = self.learning.routing = routing_of(
            field.serving,
            Setting(self._pipeline, self.arena, self._wait_ms, self._progress.policy_revision),
            task=self._task,
            threshold=field.threshold,
            objective=field.promotion.loss,
            dump=self._dump,
            load=self._load,
        )
        parts = (
            self.arena,
            self.learning,
            self.evaluation,
            self.watch,
            self.evidence,
            self.good,
            self.commands,
            self.releases,
            self.routing,
            self.fields,
            self.challenges,
            self.opening,
            self.approvals,
        )
        self._parts: tuple[Operator, ...] = tuple(part for part in parts if part is not None)

    def _accompany(self) -> None:
        """Let those go along with the race whom the field asks for."""
        observers: list[Observer] = [part for part in (self.releases, self.challenges) if part.stops]
        self.arena.approval = self.approvals if self.approvals.asks else None
        if self.approvals.asks or self.approvals.stops:
            observers.append(self.approvals)
        self.learning.accompany((self.good,) if self._keeps else (), observers)

    def keep_no_versions(self) -> None:
        """Keep no good versions from here on: for a log without commands, which would ask for them.

        To keep a model is to look into it, which makes its attributes slower for good (CPython 3.11: a tenth
        of a small model's time).
        """
        self._keeps = False
        self._accompany()

    def _dump(self, value: Any) -> bytes:
        return self._codec[0](value)

    def _load(self, data: bytes) -> Any:
        return self._codec[1](data)

    @property
    def position(self) -> int:
        """Return the next offset to fold: every model has learned all before it."""
        return self._progress.position

    @property
    def reading(self) -> int:
        """Return the next offset to hand to `fold`; where it is not the end of the last batch, seek."""
        return self._progress.reading

    @property
    def field(self) -> RaceField:
        """Return the field that holds: who races, and how."""
        return self.fields.field

    @property
    def paused(self) -> bool:
        """Return whether learning is paused by a command."""
        return self.arena.paused

    @property
    def pinned(self) -> bool:
        """Return whether the champion is pinned by a command."""
        return self.arena.pinned

    @property
    def counts(self) -> Counter[tuple[str, str]]:
        """Return the counts by (metric, label), which the shell exports and clears."""
        return self.learning.counts

    @property
    def examples(self) -> int:
        """Return the number of examples learned."""
        return self.learning.examples

    @property
    def refused(self) -> int:
        """Return the number of log records that were no valid messages; they change nothing else."""
        return self._progress.refused

    # -- the log ----------------------------------------------------------------------------------

    def fold(self, records: Sequence[Record]) -> list[Decision]:
        """Fold records of the log, in offset order; return what was decided.

        Records before `reading` are passed over.  After each call the shell compares `reading` with
        the end of what it handed in: a resume ends the call and sends the shell back to `position`, and so
        does a first field record of another field than our file's, back to the start.
        Raises ModelError if it does not go back.
        """
        decisions: list[Decision] = []
        progress = self._progress
        examples: list[Example] = []
        for record in records:
            if record.offset < progress.reading:
                continue
            if self.paused:
                decisions += self._look_ahead(record)
                if progress.reading <= record.offset:
                    break  # a resume sends the shell back
                continue
            self._check_nothing_skipped(record)
            record_type = None if record.value is None else record_type_of(record.headers)
            example = self._example(record) if record_type == "example" else None
            if example is None or record.offset != progress.reading:
                decisions += self._step(examples)
            if example is not None:
                examples.append(example)
            elif record_type is not None:
                decisions += self._fold_other(record_type, record)
                if progress is not self._progress:
                    return []  # the log began with another field: all is folded again
            progress.position = progress.reading = record.offset + 1
        return decisions + self._step(examples)

    def _step(self, examples: list[Example]) -> list[Decision]:
        """Learn the listed examples, which end at `reading`, and clear the list."""
        if not examples:
            return []
        decisions = self.learning.step(examples, self._progress.reading - len(examples))
        examples.clear()
        return decisions

    def _example(self, record: Record) -> Example | None:
        """Return an example of the log, None if it does not count."""
        try:
            example = decode_example(record.value or b"")
        except msgspec.MsgspecError:
            self._progress.refused += 1
            return None
        counts = self.reader.counts(example.source_partition, example.claim, example.sequence)
        return example if counts else None

    def _look_ahead(self, record: Record) -> list[Decision]:
        """Carry out a command during a pause; every other record waits for the resume and is counted."""
        progress = self._progress
        waited = progress.reading - progress.position
        progress.reading = record.offset + 1
        waiting = progress.reading - progress.position
        decisions = self._command(record) if record_type_of(record.headers) == "command" else []
        if not self.paused:
            progress.commands_done, progress.reading = progress.reading, progress.position
        elif any(waited < told <= waiting for told in BACKLOGS_TOLD):
            decisions.append(self.arena.backlog(self.learning.moment(record.offset), waiting))
        return decisions

    def _check_nothing_skipped(self, record: Record) -> None:
        """Raise ModelError if records between a pause and its resume were skipped."""
        if self._progress.position < self._progress.commands_done <= record.offset:
            raise ModelError(
                f"records from offset {self._progress.position} on have not been folded",
                hint="seek to `reading` after each fold",
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
            )

    def _fold_other(self, record_type: RecordType, record: Record) -> list[Decision]:
        """Fold a record that is no example; return the decisions."""
        value = record.value or b""
        try:
            match record_type:
                case "claim":
                    claim = decode_claim(value)
                    self.reader.claim(claim.source_partition, claim.claim)
                case "quarantine":
                    return self.quarantined(decode_quarantine(value), record.offset)
                case "slow":
                    return self._too_slow(decode_slow(value), record.offset)
                case "field":
                    return self._change_field(decode_field(value), record.offset)
                case "command":
                    if record.offset >= self._progress.commands_done:
                        return self._command(record)
        except msgspec.MsgspecError:
            self._progress.refused += 1
        return []

    def _command(self, record: Record) -> list[Decision]:
        value, at = record.value or b"", self.learning.moment(record.offset)
        if unsigned := text_of(record.headers, REFUSED):
            self._progress.refused += 1
            return [self.commands.refuse(at, unsigned, command_id(value), UNSIGNED)]
        try:
            command = decode_command(value)
        except ValueError as error:
            self._progress.refused += 1
            return [self.commands.refuse(at, str(error), command_id(value))]
        if signer := text_of(record.headers, SIGNER):
            command = replace(command, actor=signer)
        return self.learning.act(record.offset, lambda at: self.commands.act(at, command))

    def _too_slow(self, report: Slow, offset: int) -> list[Decision]:
        routing = self.routing
        if report.guard:
            return (
                [] if routing is None else self.learning.act(offset, lambda at: routing.too_slow(at, report))
            )
        recent_loss = self.evaluation.recent_loss
        return self.learning.act(offset, lambda at: self.arena.over_budget(at, report, recent_loss))

    def _change_field(self, change: FieldChange, offset: int) -> list[Decision]:
        """Fold a change of the field; return the decisions, none for a repeat."""
        fields = self.fields
        if fields.first:
            self._first_field(change)
            return []
        step = fields.step(change, self.roster, self._codec)
        fields.count()
        if step is None:
            return []
        about = about_change(step)
        if refused := self.refusal_of(step):
            at, champion = self.learning.moment(offset), self.roster.champion
            about |= refused.evidence
            return [self.arena.write(at, "field.refused", champion, refused.why, evidence=about)]
        decisions = self.learning.change_field(step, offset, about)
        fields.done(step)
        self._codec = self._source.codec(step.after)
        self.releases.follow(step.after.candidates)
        self.challenges.follow(step.after.challenges)
        self.approvals.follow(step.after.promotion, step.after.threshold)
        self._accompany()
        judged = [model_text(field.promotion.loss) for field in (step.before, step.after)]
        if "serving" in step.settings or "threshold" in step.settings or judged[0] != judged[1]:
            decisions += self._change_policy(step.after, offset)
        return decisions

    def _change_policy(self, field: RaceField, offset: int) -> list[Decision]:
        """Answer by another policy, or judged otherwise; return what ends with the one before."""
        decisions: list[Decision] = []
        if (before := self.routing) is not None:
            decisions = self.learning.act(offset, lambda at: before.end(at, THE_FILE))
            self._gone |= dict.fromkeys(before.snapshot())
            self._progress.policy_revision = before.revision
        self._route(field)
        return decisions

    def refusal_of(self, step: FieldStep) -> Objection | None:
        """Return why a change of the field cannot be carried out; None if it can."""
        return refusal(step, self.roster) or self.arena.field_refusal(step.leaving, step.champion)

    def planned(self, change: FieldChange) -> FieldStep | None:
        """Return what a change of the field would do here and now; None where it is a repeat."""
        return self.fields.step(change, self.roster, self._codec)

    def _first_field(self, change: FieldChange) -> None:
        """Fold the record that says with which field the log began; if it was another, fold all again."""
        fields, roster = self.fields, self.roster
        if change.field_id != fields.field.field_id:
            self._gone = dict.fromkeys((*self._entries_of_parts(), *(MODEL + name for name in self._stored)))
            self._stored.clear()  # a model of the same name and version may be another one
            fields.begin(fields.found(change.field_id))
            self._progress, self.reader = _Progress(), Reader()
            self._begin(fields.field)
            return
        fields.count()
        begun = fields.begun(change)
        for racer in roster.racers.values():
            if (name := racer.twin_of or racer.name) in begun:
                model, updates = begun[name]
                racer.model = self.good.copied(model) if racer.twin_of else model
                racer.updates = updates
                self._stored.pop(racer.name, None)
        roster.revision += 1

    def quarantined(self, report: Quarantine, offset: int) -> list[Decision]:
        """Fold a scorer's report of a failed candidate, if it counts; return the decisions."""
        if not self.reader.counts(report.source_partition, report.claim, report.sequence):
            return []
        return self.learning.quarantine(report.model_name, report.reason, offset)

    # -- labels inside events (`prequential.py`) --------------------------------------------------

    def fold_at_once(self, value: Example | Quarantine) -> Sequence[Decision]:
        """Fold a message that this process writes to the log next, at the next offset.

        Raises ModelError during a pause, ClaimError for an example that does not count.
        """
        if isinstance(value, Example):
            self._count([value])
            return self.learning.step([value], self._pass(1))
        self._check_going()
        return self.quarantined(value, self._pass(1))

    def fold_taught(self, examples: Sequence[Example], lessons: Lessons) -> tuple[int, Sequence[Decision]]:
        """Fold examples of the next rows of `lessons`, up to one after which something is decided.

        Returns how many, and what was decided.  Raises as `fold_at_once`.
        """
        self._check_going()
        folded, decisions = self.learning.learn(examples, self._progress.position, lessons)
        self._count(examples[:folded])
        self._pass(folded)
        return folded, decisions

    def _count(self, examples: Sequence[Example]) -> None:
        self._check_going()
        first = examples[0]
        if not self.reader.count_all(first.source_partition, first.claim, first.sequence, len(examples)):
            raise ClaimError(
                f"example {first.sequence} of claim {first.claim} does not count: another owner writes",
                hint="nothing to do: a restart goes on from the checkpoint",
            )

    def _check_going(self) -> None:
        if self.paused:
            raise ModelError("learning is paused", hint="wait for resume", offset=self._progress.reading)

    def _pass(self, count: int) -> int:
        """Advance the positions by `count` offsets; return the first of them."""
        first = self._progress.position
        self._progress.position = self._progress.reading = first + count
        return first

    # -- state ------------------------------------------------------------------------------------

    def digests(self) -> dict[str, str]:
        """Return the structural digest of every candidate's model, by name."""
        return {name: digest(candidate.model) for name, candidate in self.roster.racers.items()}

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state: an entry per model, and one or more per part."""
        entries = {MODEL + name: self._dump(c.model) for name, c in self.roster.racers.items()}
        entries["place"] = msgspec.msgpack.encode(self._progress)
        return entries | self._entries_of_parts()

    def _entries_of_parts(self) -> dict[str, bytes]:
        entries = {READER + name: data for name, data in self.reader.snapshot().items()}
        for part in self._parts:
            entries.update(part.snapshot())
        return entries

    def delta(self) -> StateDelta:
        """Return the entries that changed since the last call; a model only if it has learned."""
        candidates, sick = self.roster.racers, self.roster.quarantined
        changed, self._gone = self._gone, {}
        changed |= {MODEL + name: None for name in self._stored if name not in candidates}
        changed["place"] = msgspec.msgpack.encode(self._progress)
        for name, candidate in candidates.items():
            # A lesson that failed may have half changed its model: quarantine is a change of its own.
            now = (candidate.version, candidate.updates, name in sick, _names_of(candidate))
            if self._stored.get(name) != now:
                changed[MODEL + name] = self._dump(candidate.model)
                self._stored[name] = now
        for name in self._stored.keys() - candidates.keys():
            del self._stored[name]
        for part in self._parts:
            changed.update(part.delta())
        changed.update({READER + name: data for name, data in self.reader.delta().items()})
        return changed

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state; the roster stays the same object, with other models in it."""
        self._progress = msgspec.msgpack.decode(entries["place"], type=_Progress)
        self.fields.restore(entries)
        self._begin(self.field)
        self.arena.restore(entries)
        for name, candidate in self.roster.racers.items():
            candidate.model = self._load(entries[MODEL + name])
        for part in self._parts[1:]:
            part.restore(entries)
        self._accompany()  # what is open of another field's settings has its looks too
        self.reader.restore(
            {name.removeprefix(READER): data for name, data in entries.items() if name.startswith(READER)}
        )
        self._stored = {
            name: (
                candidate.version,
                candidate.updates,
                name in self.roster.quarantined,
                _names_of(candidate),
            )
            for name, candidate in self.roster.racers.items()
        }


def _names_of(racer: Racer) -> tuple[str, ...]:
    """Return whom a blend weighs: one that leaves takes its weight along, whatever was learned since."""
    return tuple(racer.model.weights) if isinstance(racer.model, Mixture) else ()
