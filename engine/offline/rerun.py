"""A recorded examples log, raced once more: by other candidates or rules, or with models of an earlier time.

Lives here: where in the log each event was answered, and the fold that scores every event anew at its place,
always before its label is learned.  Never here: reading logs (`replay.py`), what may be asked (`what_if.py`,
`freshness.py`), tables.

Examples lie in the log in the order of their labels, not of their events.  The *place* of an event is the
number of records that the learner had read when the event was answered; what a candidate may score it with is
what it had learned up to there, and never more:

    records      0 e1   1 e2   2 e3   3 e4   4 e5        e4 was answered when two labels were known:
    places       e1 0   e2 0   e3 1   e4 2   e5 2        by models that had learned e1 and e2

A place is known from the record: version and updates of the model that answered name one state, and the fold
of the log (`Past.fold`) meets it.  Where that leaves a choice (a model that does not learn, the prior, an old
log without these fields), it is the newest place at which no label later than the event had come.

In a pause only commands act, and behind its end the records that it held back are read once more, which
counts again.  A second race is paused where the first one was.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from engine.definition.pipeline import Pipeline
from engine.kafka.log_reader import slices
from engine.machines.beside.counted_examples import CountedExamples
from engine.machines.field_records import FieldSource
from engine.machines.learner import Learner
from engine.offline.backtest import Backtest
from engine.offline.replay import recorded_logs, topic_logs
from engine.settings import KafkaSettings, Settings
from engine.stores.places import artefact_store
from engine.worker.assembly import build_learner, known_keys
from engine.worker.model_factory import ModelFactory
from operators.models.scoring import Reply, Scoring, Served
from operators.windows.asof import AsOf
from topics.codec import (
    decode_field,
    decode_quarantine,
    decode_slow,
    encode,
)
from topics.errors import DefinitionError, ModelError, SettingsError
from topics.headers import record_type_of
from topics.messages import Decision, Example, Record, Score

__all__ = [
    "Past",
    "Rerun",
    "check_labels",
    "logged_records",
    "model_factory_of",
    "past_of",
    "past_of_files",
    "rerun",
]

NOBODY = ""
"""No candidate's name."""
State = tuple[int, int]
"""Version of a model and the labels that it has learned."""


class Past(NamedTuple):
    """A recorded log: its records, the examples that count, and what its own fold came to."""

    records: Sequence[Record]
    rows: Sequence[int]
    """Index of each example that counts, in log order."""
    examples: Sequence[Example]
    """These examples."""
    places: Sequence[int]
    """Place of each."""
    steps: Sequence[int]
    """Index of the record that the learner read at each step: one after the other, but those that a pause
    held back are read once more behind its end."""
    times: Sequence[int]
    """Of each step, the largest label time up to it and with it, ms."""
    learner: Learner
    """As the log left it."""
    decisions: Sequence[Decision]

    @property
    def field_changes(self) -> int:
        """Return how often the field changed while this was recorded."""
        return sum(decision.type == "field.changed" for decision in self.decisions)

    def withheld(self, span_ms: int) -> list[int]:
        """Return the places at which events would be answered, were lessons held back for `span_ms`."""
        if not span_ms:
            return list(self.places)
        return [
            min(place, bisect_right(self.times, example.event_time - span_ms))
            for place, example in zip(self.places, self.examples, strict=True)
        ]


class Rerun(NamedTuple):
    """What came of a second race over the same labels."""

    learner: Learner
    decisions: list[Decision]
    examples: list[Example]
    """In log order, with the answers and scores of this race."""
    compared: int
    """Scores that the record has too, by candidates that were to give the same ones ..."""
    same: int
    """... and that came out the same, to the bit."""


# -- what is recorded -----------------------------------------------------------------------------


def past_of_files(
    pipeline: Pipeline,
    events: Path,
    labels: Path | None,
    *,
    static: AsOf | None = None,
    source: ModelFactory | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Past:
    """Return the past of a backtest of these files; see `engine.offline.backtest.backtest`."""
    run = Backtest(pipeline, static=static, keep_examples=True, source=source)
    run.play_files(events, labels, on_progress=on_progress)
    return past_of(pipeline, run.run.examples or (), source)


async def logged_records(
    pipeline: Pipeline, recording: Path | None, kafka: KafkaSettings | None
) -> list[Record]:
    """Return the examples log of a recording, or of the pipeline's topic where `recording` is None.

    The whole log is held in memory.  Raises SettingsError for no log or for several, DefinitionError where
    each key has a race of its own.
    """
    if pipeline.per is not None:
        raise DefinitionError(
            f"this is not offered for a pipeline with per={pipeline.per!r}: each key has a race of its own",
            hint="run it on the same pipeline without `per`, over the events of one key",
        )
    if recording is not None:
        logs = recorded_logs(pipeline, "examples", recording)
    else:
        assert kafka is not None
        logs = await topic_logs(pipeline, "examples", kafka)
    if len(logs) != 1:
        raise SettingsError(
            f"{len(logs)} examples logs are there, one is wanted",
            hint="record it: headrace tail TOPIC --from-beginning --to-end --headers --claims > "
            "FOLDER/examples.jsonl",
        )
    return [record async for records in logs[0].read() for record in records]


def past_of(pipeline: Pipeline, records: Sequence[Record], source: FieldSource | None = None) -> Past:
    """Return the past that these records of one examples partition tell, from the first record on.

    `source` has the fields and states that the log names and this pipeline's file does not.
    Raises ModelError for a log that holds no example that counts, or that begins late.
    """
    check_labels(pipeline)
    if records and records[0].offset:
        raise ModelError(
            f"the examples log begins at offset {records[0].offset}: what was learned before is not known",
            hint="give the log from its first record on",
            topic=records[0].topic,
        )
    rows, examples = _counted(records)
    if not examples:
        raise ModelError(
            f"{len(records):,} records of the examples log hold no example that counts",
            hint="claim records say which do: record with `headrace tail TOPIC --headers --claims`",
        )
    learner = build_learner(pipeline, source=source)
    decisions, stood, steps = _folded(learner, records, {_state(example) for example in examples})
    times = _label_times(steps, rows, examples)
    read_at: dict[int, int] = {}
    for step, row in enumerate(steps):
        read_at.setdefault(row, step)
    places = []
    for row, example in zip(rows, examples, strict=True):
        read = read_at[row]
        first, last = stood.get(_state(example), (0, read))
        by_time = bisect_right(times, example.event_time)
        places.append(min(max(by_time, first), last, read))
    return Past(records, rows, examples, places, steps, times, learner, decisions)


def model_factory_of(
    pipeline: Pipeline, settings: Settings | None = None, *, keep: bool = False
) -> ModelFactory:
    """Return the source of a pipeline's models, with the key, fields and states that this machine has.

    A log may name these where its pipeline's file does not.  With `keep`, what candidates bring is stored
    here, for those who read the log that is written now.
    """
    if settings is None:
        return ModelFactory(pipeline)
    stored = artefact_store(settings, pipeline.name)
    there = keep or stored.there
    return ModelFactory(pipeline, keys=known_keys(settings), stored=stored if there else None)


def check_labels(pipeline: Pipeline) -> None:
    """Raise DefinitionError where what was answered decided what the labels are."""
    if getattr(pipeline.serving, "outcome", "shared") == "served":
        raise DefinitionError(
            'serving has outcome="served": a label is there only for the one who answered, so nobody knows '
            "what would have come of another answer",
            hint="compare the arms by what each was served for: their propensities are on the examples",
        )


def _state(example: Example) -> State:
    """Return the state that answered an event; version 0 where the record does not name one."""
    return example.model_version, example.model_updates


def _counted(records: Iterable[Record]) -> tuple[list[int], list[Example]]:
    """Return index and value of each example that counts and holds a truth."""
    counted = CountedExamples()
    rows, examples = [], []
    for row, record in enumerate(records):
        example = counted.example(record)
        if example is not None and example.measured:
            rows.append(row)
            examples.append(example)
    return rows, examples


def _label_times(steps: Sequence[int], rows: Sequence[int], examples: Sequence[Example]) -> list[int]:
    """Return the largest label time up to each step and with it."""
    own = {row: example.label_time for row, example in zip(rows, examples, strict=True)}
    return list(itertools.accumulate((own.get(row, 0) for row in steps), max))


def _folded(
    learner: Learner, records: Sequence[Record], asked: Collection[State]
) -> tuple[list[Decision], dict[State, tuple[int, int]], list[int]]:
    """Fold the log; return what was decided, first and last place of the asked states, and the steps."""
    decisions: list[Decision] = []
    stood: dict[State, tuple[int, int]] = {}
    steps: list[int] = []

    def note() -> None:
        place = len(steps)
        for racer in learner.roster.racers.values():
            state = racer.version, racer.updates
            if state in asked:
                stood[state] = (stood.get(state, (place, place))[0], place)

    offsets = [record.offset for record in records]
    row = 0
    note()
    while row < len(records):
        for part in slices(learner, records[row:], lambda: 1):
            steps.append(bisect_left(offsets, part[0].offset))
            decisions += learner.fold(part)
            row = bisect_left(offsets, learner.reading)
            if not row:  # the log began with another field than the file's
                decisions.clear()
                stood.clear()
                steps.clear()
            note()
    return decisions, stood, steps


# -- and once more --------------------------------------------------------------------------------


def rerun(
    pipeline: Pipeline,
    past: Past,
    places: Sequence[int],
    *,
    as_recorded: Collection[str] = (),
    source: FieldSource | None = None,
) -> Rerun:
    """Race `pipeline`'s candidates over a past, every event answered at the place given for it.

    `as_recorded` names candidates whose scores should come out as recorded; these are compared.
    """
    learner = build_learner(pipeline, source=source)
    race = _Race(pipeline, learner, past, as_recorded)
    examples = past.examples
    order = sorted(
        range(len(examples)),
        key=lambda at: (places[at], examples[at].source_partition, examples[at].event_offset),
    )
    folded = 0
    for place, group in itertools.groupby(order, key=places.__getitem__):
        race.fold(folded, place)
        race.answer(list(group))
        folded = place
    race.fold(folded, len(past.steps))
    return Rerun(learner, race.decisions, race.examples, race.compared, race.same)


class _Race:
    """One second race: answers by its own models, and their examples in place of those recorded."""

    def __init__(
        self, pipeline: Pipeline, learner: Learner, past: Past, as_recorded: Collection[str]
    ) -> None:
        self._learner, self._past = learner, past
        self._as_recorded = tuple(as_recorded)
        self._scoring = Scoring(pipeline.task, learner.roster)
        self._backup = None if pipeline.deadline is None else pipeline.deadline.backup
        self._records = [self._as_here(record) for record in past.records]
        self.decisions: list[Decision] = []
        self.examples = list(past.examples)
        self.compared = self.same = 0

    def fold(self, start: int, end: int) -> None:
        """Let the learner read what it read in the steps from `start` to `end`: a pause holds here too."""
        steps = self._past.steps
        while start < end:
            first = steps[start]
            after = start + 1
            while after < end and steps[after] == steps[after - 1] + 1:
                after += 1
            self.decisions += self._learner.fold(self._records[first : first + after - start])
            start = after

    def answer(self, numbers: Sequence[int]) -> None:
        """Score events with what has been folded so far and put the answers into their examples."""
        examples = [self._past.examples[number] for number in numbers]
        served = self._served(examples)
        shadowed = self._scoring.shadow_all(
            [
                Reply(example.features, one.model_name, one.score, one.scores)
                for example, one in zip(examples, served, strict=True)
            ]
        )
        for number, example, one, shadows in zip(numbers, examples, served, shadowed, strict=True):
            for failure in (*one.failures, *shadows.failures):
                if not failure.tolerated:
                    self._failed(failure.name, failure.reason)
            for name in self._as_recorded:
                if name in example.scores:
                    self.compared += 1
                    self.same += example.scores[name] == shadows.scores.get(name)
            answered = _answered(example, one, shadows.scores, self._learner.roster.lineup)
            self.examples[number] = answered
            row = self._past.rows[number]
            record = self._records[row]
            self._records[row] = replace(record, value=encode(answered))

    def _served(self, examples: Sequence[Example]) -> list[Served]:
        """Return the answers: by the backup to those that were overdue, which no other race changes."""
        late = [self._backup is not None and example.served_by == "backup" for example in examples]
        overdue = [example.features for example, is_late in zip(examples, late, strict=True) if is_late]
        asked = [example for example, is_late in zip(examples, late, strict=True) if not is_late]
        rows, table = [example.features for example in asked], self._learner.roster.routing
        if table is None:
            in_time = iter(self._scoring.serve_all(rows))
        else:
            picks = [table.pick(one.key, one.event_id, one.event_time) for one in asked]
            in_time = iter(self._scoring.serve_picked(rows, picks))
        by_backup = iter(self._scoring.serve_backup(overdue, self._backup or ""))
        return [next(by_backup if is_late else in_time) for is_late in late]

    def _as_here(self, record: Record) -> Record:
        """Return a record as this race may read it.

        Its field holds from the first record on: that one says so, and which models bring a state; a later
        change is none of this race's.  A quarantine of a model that is another here hits nobody (its record
        stays, since those behind it are numbered), and nobody has measured how slow that is.
        """
        try:
            match record_type_of(record.headers):
                case "field":
                    first = decode_field(record.value or b"")
                    if first.before:
                        return replace(record, value=None)
                    entering = tuple(one for one in first.entering if one.name in self._as_recorded)
                    here = self._learner.fields.own.field_id
                    return replace(record, value=encode(replace(first, field_id=here, entering=entering)))
                case "slow" if decode_slow(record.value or b"").model_name not in self._as_recorded:
                    return replace(record, value=None)
                case "quarantine":
                    report = decode_quarantine(record.value or b"")
                    if report.model_name not in self._as_recorded:
                        return replace(record, value=encode(replace(report, model_name=NOBODY)))
        except msgspec.MsgspecError:
            pass  # the learner counts it as refused
        return record

    def _failed(self, name: str, reason: str) -> None:
        """Let a candidate that failed at an event leave the race, unless the record does so itself."""
        if name in self._as_recorded:
            return
        offset = max(self._learner.position - 1, 0)
        self.decisions += self._learner.learning.quarantine(name, reason, offset)


def _answered(example: Example, one: Served, scores: dict[str, Score], lineup: int) -> Example:
    """Return an example with another answer and other scores, of a line-up."""
    pick = one.pick
    return replace(
        example,
        scores=scores,
        served_score=one.score,
        served_by=one.served_by,
        model_name=one.model_name,
        model_version=one.model_version,
        model_updates=one.model_updates,
        policy="" if pick is None else pick.policy,
        policy_revision=0 if pick is None else pick.revision,
        propensity=None if pick is None else pick.propensity,
        lineup=lineup,
    )
