"""The learner of one examples partition in which every key has a race of its own.

Lives here: which key's race a record of the log acts in, and when a race hears of a changed field.  Never
here: what a record does to a race (`engine/machines/race.py`), which races are in memory (`races.py`), the
log of one race alone (`engine/machines/learner.py`).

As there, same log, same models, same decisions, however the records are cut into batches:

    example ──> the race of its key, which begins with its first record       quarantine, command ──> the same
    claim ────> who may write, for all of them
    field ────> all of them, as of its offset; each carries it out when it is used next

A race sees a changed field before its next example, score or command, which is the same as at once: nothing
has happened in it meanwhile.  So a change costs nothing for the thousands of races that are not in memory.
A race that begins later begins with the field that then holds.  A race that cannot follow (its champion would
leave, and nobody is named) refuses, in a decision of its own, and goes on with the field it has.

A pause is one of all races of the partition, and so of no key; every other command names one, or is refused.
A pause holds everything back but commands, and skips nothing (`engine/machines/positions.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from engine.machines.field_records import Codec, FieldRecords, FieldSource, about_change, refusal
from engine.machines.keyed.races import KeyedRace, Races
from engine.machines.keyed.totals import Totals
from engine.machines.positions import Positions
from operators.claims.rule import Reader
from operators.models.digest import digest
from operators.models.scoring import Racer, Roster
from operators.race.arena import DecisionLog, Evidenced, Moment, Objection
from operators.race.commands import NO_COMMAND, NOT_PAUSED, OF_ALL_RACES, PAUSED_ALREADY, UNSIGNED
from operators.race.field import FieldStep, RaceField
from operators.state import StateDelta, StateEntries, StoredEntries, named, under
from operators.stopwatch import Stopwatch
from topics.codec import (
    command_id,
    decode_claim,
    decode_example,
    decode_field,
    decode_quarantine,
)
from topics.errors import ModelError
from topics.headers import REFUSED, record_type_of, text_of
from topics.messages import (
    Command,
    Decision,
    DecisionType,
    Example,
    FeatureValue,
    FieldChange,
    Record,
    RecordType,
    Task,
)
from topics.signatures import admitted_command

__all__ = ["RACES", "KeyedLearner"]

RACES = "races/"
"""Before the names of the entries of all races: they are kept apart."""
CHANGE = "change/"
NOBODY = Racer("", None, version=0)
"""Whom a decision is about that is about no race."""
PLACE = "place"


class _Progress(Positions):
    """How far the log is folded, and what counts over all races."""

    refused: int = 0
    """Records of the log that were no valid messages."""
    examples: int = 0
    """Examples learned, in all races."""
    races: int = 0
    """Races that have begun."""
    time: int = 0
    """Largest label time so far, ms."""
    numbered: tuple[int, int] = (-1, 0)
    """Offset and number of the last decision that is about no race."""
    paused: bool = False
    asked: str = ""
    """Id of the last command that was about a pause ..."""
    asked_ms: int = 0
    """... and the largest time of one, ms."""


class _Change(NamedTuple):
    """A change of the field, where it lies in the log."""

    offset: int
    value: bytes


class _SharedCodecs:
    """A source of models that makes the codec of a field once: a race asks for it when it is restored."""

    def __init__(self, source: FieldSource) -> None:
        self._source = source
        self._codecs: dict[int, tuple[RaceField, Codec]] = {}
        """By the field's identity; it is kept, so that its identity stays its own."""
        self.fresh, self.model = source.fresh, source.model
        self._fields: dict[str, RaceField] = {}

    def codec(self, field: RaceField) -> Codec:
        """Return the functions that store and load the models, metrics and detectors of a field."""
        if id(field) not in self._codecs:
            self._codecs[id(field)] = field, self._source.codec(field)
        return self._codecs[id(field)][1]

    def field(self, field_id: str) -> RaceField:
        """Return the field that was stored under its id.  Raises ModelError where there is none."""
        if field_id not in self._fields:
            self._fields[field_id] = self._source.field(field_id)
        return self._fields[field_id]


class KeyedLearner:
    """The races of one examples partition, by key.

    `field` is that of our file; the log may have begun with another, and end with a third.  At most `per_max`
    races are in memory; `stored` reads the others as of the last checkpoint.
    """

    def __init__(
        self,
        *,
        pipeline: str,
        task: Task,
        field: RaceField,
        source: FieldSource,
        per_max: int,
        partition: int = 0,
        warmup_offset: int = 0,
        wait_ms: int = 0,
        stopwatch: Stopwatch | None = None,
        stored: StoredEntries | None = None,
        constants: Mapping[str, FeatureValue] | None = None,
    ) -> None:
        """`wait_ms` is how long after its event a label may come; `constants` as of a `Race`."""
        self._source: FieldSource = _SharedCodecs(source)
        self._task, self.partition = task, partition
        self._arguments: dict[str, Any] = {
            "pipeline": pipeline,
            "task": task,
            "field": field,
            "source": self._source,
            "partition": partition,
            "warmup_offset": warmup_offset,
            "wait_ms": wait_ms,
            "stopwatch": stopwatch or Stopwatch(),
            "constants": constants,
        }
        self.counts: Counter[tuple[str, str]] = Counter()
        """Counts by (metric, label), which the shell exports and clears."""
        self.fields = FieldRecords(field, self._source)
        """Which field holds: with it a race begins."""
        self.reader = Reader()
        self.races = Races(self._make, per_max, stored)
        self._keeps = True
        self._progress = _Progress()
        self._changes: list[_Change] = []
        self._told = 0
        """Changes that the last delta had."""
        self._log = DecisionLog(pipeline, partition)
        self._late: list[Decision] = []
        """What was decided when a race was used to answer an event: changes of the field."""
        self.totals = Totals(pipeline, task, self.field, self._source.codec(self.field), warmup_offset)
        """What all races have scored together."""
        self._arguments["observers"] = (self.totals,)
        self.unborn = self._make("")
        """What answers the events of a key without examples: a race of the field that holds."""

    def _make(self, key: str, entries: StateEntries | None = None) -> KeyedRace:
        race = KeyedRace(**self._arguments, key=key, begins=self.field, entries=entries)
        if entries is None:
            race.fields.count()
            race.changes = len(self._changes)
        if not self._keeps:
            race.keep_no_versions()
        return race

    def keep_no_versions(self) -> None:
        """Keep no good versions from here on: for a log without commands, which would ask for them."""
        self._keeps = False
        for race in self.races.resident.values():
            race.keep_no_versions()

    @property
    def position(self) -> int:
        """Return the next offset to fold."""
        return self._progress.position

    @property
    def reading(self) -> int:
        """Return the next offset to hand to `fold`; where it is not the end of the last batch, seek."""
        return self._progress.reading

    @property
    def field(self) -> RaceField:
        """Return the field that holds."""
        return self.fields.field

    @property
    def examples(self) -> int:
        """Return the number of examples learned, in all races."""
        return self._progress.examples

    @property
    def begun(self) -> int:
        """Return how many races have begun."""
        return self._progress.races

    @property
    def paused(self) -> bool:
        """Return whether learning is paused, in all races, by a command."""
        return self._progress.paused

    @property
    def time(self) -> int:
        """Return the largest label time so far, ms."""
        return self._progress.time

    @property
    def refused(self) -> int:
        """Return the number of log records that were no valid messages; they change nothing else."""
        return self._progress.refused

    # -- which race -------------------------------------------------------------------------------

    def race(self, key: str) -> KeyedRace | None:
        """Return the race of a key, which has seen every change of the field; None if it has none yet."""
        race = self.races.get(key)
        if race is not None and race.changes < len(self._changes):
            for change in self._changes[race.changes :]:
                self._late += race.change_field(decode_field(change.value), change.offset)
            race.changes = len(self._changes)
            self.races.changed(race)
            self._count(race)
        return race

    def take_late(self) -> list[Decision]:
        """Return what races have decided since the last call, or fold, as they were used to answer events."""
        late, self._late = self._late, []
        return late

    def answering(self, key: str) -> KeyedRace:
        """Return the race that answers an event of a key; it is not to be changed."""
        race = self.race(key)
        if race is None:
            race = self.unborn
            race.roster.revision += 1  # what failed at an event of one key is asked again by the next
        return race

    def _race_of_record(self, key: str) -> KeyedRace:
        """Return the race of a key, to be changed; it begins here if there is none."""
        race = self.race(key)
        if race is None:
            race = self.races.begin(key)
            self._progress.races += 1
        self.races.changed(race)
        return race

    def _count(self, race: KeyedRace) -> None:
        """Take over what a race has counted."""
        self.counts.update(race.counts)
        race.counts.clear()

    # -- the log ----------------------------------------------------------------------------------

    def fold(self, records: Sequence[Record]) -> list[Decision]:
        """Fold records of the log, in offset order; return what was decided.

        Records before `reading` are passed over.  After each call the shell compares `reading` with the end
        of what it handed in: a resume ends the call and sends the shell back to `position`.
        Raises ModelError if it does not go back.
        """
        decisions, self._late = self._late, []
        progress = self._progress
        examples: list[Example] = []
        for record in records:
            if record.offset < progress.reading:
                continue
            if progress.paused:
                decisions += self._look_ahead(record)
                if progress.reading <= record.offset:
                    break  # a resume sends the shell back
                continue
            if progress.position < progress.commands_done <= record.offset:
                raise progress.skipped(record)
            kind = None if record.value is None else record_type_of(record.headers)
            example = self._example(record) if kind == "example" else None
            if examples and (
                example is None or example.key != examples[0].key or record.offset != progress.position
            ):
                decisions += self._learn(examples)
            if example is not None:
                examples.append(example)
            elif kind is not None:
                decisions += self._fold_other(kind, record)
            progress.position = progress.reading = record.offset + 1
        return decisions + self._learn(examples)

    def _look_ahead(self, record: Record) -> list[Decision]:
        """Carry out a command during a pause; every other record waits for the resume and is counted."""
        progress = self._progress
        waiting = progress.look_ahead(record.offset)
        command = record.value is not None and record_type_of(record.headers) == "command"
        decisions = self._command(record) if command else []
        if not progress.paused:
            progress.go_back()
        elif waiting:
            decisions.append(self._log.backlog(self._moment(record.offset), NOBODY, waiting))
        return decisions

    def _learn(self, examples: list[Example]) -> list[Decision]:
        """Learn examples of one key, which end at `position`, and clear the list."""
        if not examples:
            return []
        progress = self._progress
        race = self._race_of_record(examples[0].key)
        decisions, self._late = self._late, []
        decisions += race.learning.step(examples, progress.position - len(examples))
        self._count(race)
        progress.examples += len(examples)
        progress.time = max(progress.time, race.learning.time)
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

    def _fold_other(self, kind: RecordType, record: Record) -> list[Decision]:
        """Fold a record that is no example; return the decisions."""
        value = record.value or b""
        try:
            match kind:
                case "claim":
                    claim = decode_claim(value)
                    self.reader.claim(claim.source_partition, claim.claim)
                case "quarantine":
                    report = decode_quarantine(value)
                    if self.reader.counts(report.source_partition, report.claim, report.sequence):
                        race = self._race_of_record(report.key)
                        decisions, self._late = self._late, []
                        decisions += race.quarantine(report, record.offset)
                        self._count(race)
                        return decisions
                case "field":
                    return self._change_field(decode_field(value), record)
                case "command":
                    if record.offset >= self._progress.commands_done:
                        return self._command(record)
        except msgspec.MsgspecError:
            self._progress.refused += 1
        return []

    # -- commands ---------------------------------------------------------------------------------

    def _command(self, record: Record) -> list[Decision]:
        if unsigned := text_of(record.headers, REFUSED):
            return self._refuse(record, unsigned, UNSIGNED)
        try:
            command = admitted_command(record)
        except ValueError as error:
            return self._refuse(record, str(error), NO_COMMAND)
        if command.command in OF_ALL_RACES:
            return self._pause(record, command)
        if command.command == "ack":
            why = "what is said of alerts is not kept where each key has a race of its own"
            return self._refuse(record, why, "nothing to do: the alert ends by itself", command)
        race = self.race(command.key) if command.key else None
        if race is None:
            why = f"no race of `{command.key}` has begun here" if command.key else "the command names no key"
            fix = "send it with `headrace models ... --for KEY`, KEY being the key of an example"
            return self._refuse(record, why, fix, command)
        self.races.changed(race)
        decisions, self._late = self._late, []
        decisions += race.learning.act(record.offset, lambda at: race.commands.act(at, command))
        self._count(race)
        return decisions

    def _pause(self, record: Record, command: Command) -> list[Decision]:
        """Begin or end a pause of all races; a repeat does nothing."""
        progress, word = self._progress, command.command
        if command.command_id == progress.asked:
            return []
        if command.key:
            fix = "leave --for out; `pin` keeps the champion of a key"
            return self._refuse(record, f"`{word}` is of all races, not of one", fix, command)
        if command.time < progress.asked_ms:
            why = f"its time, {command.time}, is before that of the last `pause` or `resume`: a repeat?"
            return self._refuse(record, why, "send it with the time of now", command)
        progress.asked, progress.asked_ms = command.command_id, command.time
        if progress.paused == (word == "pause"):
            refused = PAUSED_ALREADY if progress.paused else NOT_PAUSED
            return self._refuse(record, refused.why, refused.fix, command)
        progress.paused = word == "pause"
        decided: DecisionType = "learning.paused" if progress.paused else "learning.resumed"
        return [self._tell(record, decided, command.reason or word, {}, command)]

    def _refuse(self, record: Record, why: str, fix: str, command: Command | None = None) -> list[Decision]:
        """Refuse a command that is about no race."""
        asked = command_id(record.value or b"")
        evidence = Objection(why, fix).evidence | ({"command_id": asked} if asked else {})
        if command is None:
            self._progress.refused += 1
        return [self._tell(record, "command.refused", why, evidence, command)]

    def _tell(
        self,
        record: Record,
        decided: DecisionType,
        why: str,
        evidence: Evidenced,
        command: Command | None = None,
    ) -> Decision:
        """Return a decision that is about no race."""
        progress, log = self._progress, self._log
        log.numbered = progress.numbered
        told = log.write(self._moment(record.offset), decided, NOBODY, why, command, evidence)
        progress.numbered = log.numbered
        return told

    def _moment(self, offset: int) -> Moment:
        return Moment(offset, self._progress.time, self._progress.examples)

    # -- the field --------------------------------------------------------------------------------

    def _change_field(self, change: FieldChange, record: Record) -> list[Decision]:
        """Take a change of the field, which each race carries out when it is used next."""
        fields = self.fields
        if fields.first:
            self._first_field(change, record)
            return []
        step = self.planned(change)
        fields.count()
        if step is None:
            return []
        if refused := self.refusal_of(step):
            return [self._tell(record, "field.refused", refused.why, about_change(step) | refused.evidence)]
        self._changes.append(_Change(record.offset, record.value or b""))
        fields.done(step)
        self._follow()
        return []

    def _first_field(self, change: FieldChange, record: Record) -> None:
        """Take the record that says with which field the log begins."""
        fields = self.fields
        if change.field_id != fields.field_id:
            if self._progress.races:
                raise ModelError(
                    f"field `{change.field_id}` begins the log after its first examples",
                    hint="fold with the file of the log's first field",
                    topic=record.topic,
                    partition=record.partition,
                    offset=record.offset,
                )
            fields.begin(fields.found(change.field_id))
            self._follow()
        fields.count()

    def _follow(self) -> None:
        """Let races begin with the field that now holds."""
        self.totals.follow(self.field, self._source.codec(self.field), self._progress.time)
        self.unborn = self._make("")

    def planned(self, change: FieldChange) -> FieldStep | None:
        """Return what a change of the field would do to a race that has learned nothing; None: a repeat."""
        return self.fields.step(change, self.roster, self._source.codec(self.field))

    def refusal_of(self, step: FieldStep) -> Objection | None:
        """Return why a change of the field cannot be carried out by any race; None if it can."""
        return refusal(step, self.roster) or self.unborn.arena.field_refusal(step.leaving, step.champion)

    @property
    def roster(self) -> Roster:
        """Return the line-up with which a race begins."""
        return self.unborn.roster

    # -- state ------------------------------------------------------------------------------------

    def digests(self) -> dict[str, dict[str, str]]:
        """Return the structural digest of every model, by key and name; reads all that is stored."""
        return {
            key: {name: digest(racer.model) for name, racer in race.roster.racers.items()}
            for key in sorted(self.races.keys())
            if (race := self.races.peek(key)) is not None
        }

    def _own(self) -> dict[str, bytes]:
        return {PLACE: msgspec.msgpack.encode(self._progress)} | self.fields.snapshot()

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state, stored races too."""
        changes = {_change_name(n): msgspec.msgpack.encode(one) for n, one in enumerate(self._changes)}
        parts = named(
            {
                "reader": self.reader.snapshot(),
                "races": self.races.snapshot(),
                "totals": self.totals.snapshot(),
            }
        )
        return self._own() | changes | parts

    def delta(self) -> StateDelta:
        """Return the entries that changed since the last call."""
        changed: StateDelta = {**self._own()}
        for number in range(self._told, len(self._changes)):
            changed[_change_name(number)] = msgspec.msgpack.encode(self._changes[number])
        self._told = len(self._changes)
        return changed | named(
            {
                "reader": self.reader.delta(),
                "races": self.races.delta(),
                "totals": self.totals.delta(),
            }
        )

    def committed(self) -> None:
        """Record that every delta so far is stored."""
        self.races.committed()

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state; races that are kept apart are not among the entries."""
        self._progress = progress = msgspec.msgpack.decode(entries[PLACE], type=_Progress)
        progress.reading = max(progress.reading, progress.position)  # older checkpoints know no pause
        self.fields.restore(entries)
        changes = under("change", entries)
        self._changes = [msgspec.msgpack.decode(changes[name], type=_Change) for name in sorted(changes)]
        self._told = len(self._changes)
        self._late = []
        self.reader.restore(under("reader", entries))
        self.races.restore(under("races", entries))
        self._follow()
        self.totals.restore(under("totals", entries))


def _change_name(number: int) -> str:
    return f"{CHANGE}{number:08}"
