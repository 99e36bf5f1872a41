"""The state machine of one examples partition: the training log in, decisions out.

Lives here: which record of the log means what, and which one is next.  Never here: what an
example does (`operators/race/learning.py`), what a race is made of (`race.py`), reading the log, publishing
models, clocks.

The learner is a pure function of its log: same records, same models, same decisions, however
the records are cut into batches.  Records of these types change it, each at its own offset
(examples, quarantines and blocks only if they count, `operators/claims/rule.py`):

    example ──> test, then train     quarantine ──> a sick candidate leaves
    claim ────> who may write        command ─────> promote, rollback, pin, unpin, pause, resume
    field ────> who races, and by which settings (`field_records.py`)
    block ────> what was answered in a span of time, labelled or not

A pause holds everything back but commands, and skips nothing (`positions.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from engine.machines.positions import Positions
from engine.machines.race import Race
from operators.claims.rule import Reader
from operators.race.commands import UNSIGNED
from operators.race.learning import Lessons
from operators.state import StateDelta, StateEntries
from topics.codec import (
    command_id,
    decode_block,
    decode_claim,
    decode_example,
    decode_field,
    decode_quarantine,
    decode_slow,
)
from topics.errors import ClaimError, ModelError
from topics.headers import REFUSED, record_type_of, text_of
from topics.messages import Block, Decision, Example, FieldChange, Quarantine, Record, RecordType
from topics.signatures import admitted_command

__all__ = ["Learner"]

READER = "reader/"


class _Progress(Positions):
    """How far the log is folded."""

    refused: int = 0
    """Records of the log that were no valid messages."""
    policy_revision: int = 0
    """Of the last table of a serving policy that has ended: tables after it have higher ones."""


class Learner(Race):
    """A race, and the one examples partition whose log it folds.

    The log may have begun with another field than our file's, and end with a third.
    """

    def __init__(self, **named: Any) -> None:
        """The arguments are those of `Race`."""
        self.reader = Reader()
        self._progress = _Progress()
        super().__init__(**named)

    @property
    def position(self) -> int:
        """Return the next offset to fold: every model has learned all before it."""
        return self._progress.position

    @property
    def reading(self) -> int:
        """Return the next offset to hand to `fold`; where it is not the end of the last batch, seek."""
        return self._progress.reading

    @property
    def progress(self) -> tuple[int, int]:
        """Return how far all has come: it grows with every record that may have changed something.

        During a pause `position` stands and commands act, each once, however often they are read.
        """
        return self._progress.position, max(self._progress.reading, self._progress.commands_done)

    @property
    def time(self) -> int:
        """Return the largest label time so far, ms."""
        return self.learning.time

    @property
    def paused(self) -> bool:
        """Return whether learning is paused, by a command or an alarm."""
        return self.arena.paused

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
            if progress.position < progress.commands_done <= record.offset:
                raise progress.skipped(record)
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
            if self.detectors.pauses or self.sources.pauses:
                decisions += self._step(examples)  # what comes behind an alarm is not to be learned
        return decisions + self._step(examples)

    def _step(self, examples: list[Example]) -> list[Decision]:
        """Learn the listed examples, which end at `reading`, and clear the list."""
        if not examples:
            return []
        decisions = self._learn(examples, self._progress.reading - len(examples))
        examples.clear()
        return decisions

    def _learn(self, examples: Sequence[Example], offset: int) -> list[Decision]:
        """Learn examples of the log from `offset` on; return what was decided."""
        learn = self.learn_trusted if self.sources.active else self.learning.step
        return learn(examples, offset)

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
        waiting = progress.look_ahead(record.offset)
        decisions = self._command(record) if record_type_of(record.headers) == "command" else []
        if not self.paused:
            progress.go_back()
        elif waiting:
            decisions.append(self.arena.backlog(self.learning.moment(record.offset), waiting))
        return decisions

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
                case "block":
                    return self.block(decode_block(value), record.offset)
                case "slow":
                    return self.too_slow(decode_slow(value), record.offset)
                case "field":
                    change = decode_field(value)
                    return (
                        self._first_field(change)
                        if self.fields.first
                        else self.change_field(change, record.offset)
                    )
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
            command = admitted_command(record)
        except ValueError as error:
            self._progress.refused += 1
            return [self.commands.refuse(at, str(error), command_id(value))]
        return self.learning.act(record.offset, lambda at: self.commands.act(at, command))

    def _first_field(self, change: FieldChange) -> list[Decision]:
        """Fold the record that says with which field the log began; if it was another, fold all again."""
        if change.field_id != self.fields.field_id:
            self.start_over(self.fields.found(change.field_id))
            self._gone |= dict.fromkeys(READER + name for name in self.reader.snapshot())
            self._progress, self.reader = _Progress(), Reader()
        else:
            self.begin_with(change)
        return []

    def quarantined(self, report: Quarantine, offset: int) -> list[Decision]:
        """Fold a scorer's report of a failed candidate, if it counts; return the decisions."""
        if not self.reader.counts(report.source_partition, report.claim, report.sequence):
            return []
        return self.quarantine(report, offset)

    def block(self, block: Block, offset: int) -> list[Decision]:
        """Fold what a partition has answered in a span of time, if it counts; return the decisions."""
        if not self.reader.counts(block.source_partition, block.claim, block.sequence):
            return []
        return self.watched(block, offset, self.reader.sources)

    # -- labels inside events (`prequential.py`) --------------------------------------------------

    def fold_at_once(self, value: Example | Quarantine | Block) -> Sequence[Decision]:
        """Fold a message that this process writes to the log next, at the next offset.

        Raises ModelError during a pause, ClaimError for an example that does not count.
        """
        if isinstance(value, Example):
            self._count([value])
            return self._learn([value], self._pass(1))
        self._check_going()
        if isinstance(value, Block):
            return self.block(value, self._pass(1))
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

    def _place(self) -> bytes:
        self._progress.policy_revision = self.policy_revision
        return msgspec.msgpack.encode(self._progress)

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state: an entry per model, and one or more per part."""
        read = {READER + name: data for name, data in self.reader.snapshot().items()}
        return super().snapshot() | {"place": self._place()} | read

    def delta(self) -> StateDelta:
        """Return the entries that changed since the last call; a model only if it has learned."""
        changed = super().delta() | {"place": self._place()}
        return changed | {READER + name: data for name, data in self.reader.delta().items()}

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state; the roster stays the same object, with other models in it."""
        self._progress = msgspec.msgpack.decode(entries["place"], type=_Progress)
        self.policy_revision = self._progress.policy_revision
        super().restore(entries)
        self.reader.restore(
            {name.removeprefix(READER): data for name, data in entries.items() if name.startswith(READER)}
        )
