"""A past raced once more: what is as recorded comes out as recorded, and nothing knows a label too early."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import msgspec
import pytest
from fields import Source
from msgspec.structs import replace
from river import drift, linear_model, optim, preprocessing, tree

from engine import Drift, Labels, Pipeline, Promotion, Topic
from engine.machines.learner import Learner
from engine.offline.backtest import Backtest, LocalRun
from engine.offline.replay import Replay
from engine.offline.rerun import past_of, rerun
from engine.offline.what_if import asked_of
from operators import field
from operators.race.routing import Canary, Split
from topics import headers
from topics.codec import encode
from topics.errors import ModelError
from topics.messages import Command, Entrant, FieldChange, Outgoing, Record

ROW_MS = 60_000
CHANGES = {"model.promoted", "opening.started", "canary.started", "split.decided"}


class Row(msgspec.Struct):
    event_id: str
    event_time: int
    key: str
    a: float
    b: float
    label: bool | None = None


def race(*, inside: bool = False, wait: str = "30d", on_timeout: Any = "drop", **options: Any) -> Pipeline:
    models = {
        "tree": tree.HoeffdingTreeClassifier(grace_period=40),
        "linear": preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.SGD(0.05)),
    }
    given: dict[str, Any] = {
        "models": models,
        "champion": "tree",
        "promotion": Promotion(false_swap_every=2_000, evidence_block=8, min_examples=64, cooldown=64),
        "drift": [Drift(drift.ADWIN(), on="loss")],
    }
    return Pipeline(
        name="rows",
        events=Topic("rows.events", Row, key="key"),
        labels=Labels(field="label") if inside else Labels("rows.labels", wait=wait, on_timeout=on_timeout),
        features={"a": field("a"), "b": field("b")},
        **(given | options),
    )


def stream(rows: int, *, seed: int = 3, late: int = 5) -> tuple[list[Record], list[Record]]:
    """Events whose labels follow a line that turns at two thirds, and labels up to `late` rows late.

    One label in ten never comes, one in twenty before its event.
    """
    draw = random.Random(seed)
    events, labels = [], []
    for n in range(rows):
        a, b = draw.gauss(0, 1), draw.gauss(0, 1)
        truth = (a + b if n < rows * 2 / 3 else a - b) + draw.gauss(0, 0.3) > 0
        row = {"event_id": str(n), "event_time": n * ROW_MS, "key": "k", "a": a, "b": b}
        events.append(row)
        if draw.random() < 0.1:
            continue
        at = n * ROW_MS + draw.choice([-3 * ROW_MS, *[draw.randint(1, late * ROW_MS)] * 19])
        labels.append({"event_id": str(n), "label": truth, "label_time": max(0, at)})
    labels.sort(key=lambda one: one["label_time"])
    return recorded("rows.events", events), recorded("rows.labels", labels)


def recorded(topic: str, rows: Sequence[dict[str, Any]]) -> list[Record]:
    return [Record(topic, 0, n, None, None, json.dumps(row).encode()) for n, row in enumerate(rows)]


def raced(pipeline: Pipeline, events: list[Record], labels: list[Record]) -> Backtest:
    run = Backtest(pipeline, keep_examples=True)
    run.play([events], [labels] if labels else [])
    return run


def assert_same(one: Learner, other: Learner) -> None:
    assert one.digests() == other.digests()
    assert one.roster.champion == other.roster.champion
    assert one.evaluation.served_scores() == other.evaluation.served_scores()
    assert one.evaluation.model_scores() == other.evaluation.model_scores()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"wait": "4m", "on_timeout": False},
        {"wait": "3m"},
        {"inside": True},
        {"champion": None},
        {"champion": None, "opening": "leader"},
        {"serving": Split({"tree": 0.5, "linear": 0.5}, min_examples=100)},
        {"serving": Canary(steps=(0.2, 1.0), hold=20)},
    ],
    ids=str,
)
def test_a_rerun_of_the_same_field_is_the_record_to_the_bit(options: dict[str, Any]) -> None:
    pipeline = race(**options)
    events, labels = stream(700)
    if options.get("inside"):
        truth = {row["event_id"]: row["label"] for row in (json.loads(r.value or b"") for r in labels)}
        rows = [json.loads(record.value or b"") for record in events]
        events = recorded("rows.events", [row | {"label": truth.get(row["event_id"], False)} for row in rows])
        labels = []
    run = raced(pipeline, events, labels)
    assert any(decision.type in CHANGES for decision in run.run.decisions)
    past = past_of(pipeline, run.run.examples or [])
    assert past.decisions == run.run.decisions
    again = rerun(pipeline, past, past.places, as_recorded=list(pipeline.models))
    assert again.decisions == run.run.decisions
    assert again.same == again.compared == len(pipeline.models) * len(past.examples)
    assert_same(again.learner, run.run.learner)


def commanded(pipeline: Pipeline, rows: int, commands: dict[int, Command]) -> LocalRun:
    """A run in which commands are written to the log when so many records lie in it."""
    run, (events, labels) = LocalRun(pipeline, keep_examples=True), stream(rows)
    log, due = run.examples, sorted(commands)
    assert log is not None
    for event in events:
        run.scorer.intake.offer_events([event])
        while labels and json.loads(labels[0].value or b"")["label_time"] <= event.offset * ROW_MS:
            run.scorer.intake.offer_labels([labels.pop(0)])
        while run.advance() is not None:
            pass
        while due and len(log) >= due[0]:
            run._fold([Outgoing("examples", 0, None, encode(commands[due.pop(0)]), headers.COMMAND, 0)])
            while run.learner.reading < len(log):
                run.decisions += run.learner.fold(log[run.learner.reading :])
    return run


@pytest.mark.parametrize("ends", [True, False])
def test_a_pause_of_the_past_holds_in_the_second_race_too(ends: bool) -> None:
    """Events in it were answered by models that learned no more, and by another champion behind a command."""
    pipeline = race()
    commands = {
        120: Command("1", "pause", 0),
        160: Command("2", "promote", 0, model_name="linear"),
        200: Command("3", "resume", 0),
        260: Command("4", "pause", 0),
    }
    if ends:
        commands[261] = Command("5", "resume", 0)
    run = commanded(pipeline, 400, commands)
    past = past_of(pipeline, run.examples or ())
    assert past.decisions == run.decisions
    assert len(past.steps) > len(past.records), "those that were held back are read twice"
    assert past.learner.paused == (not ends)
    again = rerun(pipeline, past, past.places, as_recorded=list(pipeline.models))
    assert again.same == again.compared == len(pipeline.models) * len(past.examples)
    assert again.decisions == run.decisions
    assert [one.model_name for one in again.examples] == [one.model_name for one in past.examples]
    assert_same(again.learner, run.learner)
    later = rerun(pipeline, past, past.withheld(20 * ROW_MS))
    assert [one.type for one in later.decisions if one.type.startswith("learning")] == [
        one.type for one in run.decisions if one.type.startswith("learning")
    ]


def test_a_newcomer_scores_as_if_it_had_raced_from_the_start() -> None:
    """The oracle: a whole backtest that had the newcomer, and another rule, from the first event on."""
    events, labels = stream(600)
    pipeline = race()
    past = past_of(pipeline, raced(pipeline, events, labels).run.examples or [])
    asked = race(
        models={**pipeline.models, "quick": linear_model.Perceptron()},
        promotion=Promotion(false_swap_every=500, evidence_block=4, min_examples=32, cooldown=32),
        champion="linear",
        serving=Canary(steps=(0.2, 1.0), hold=20),
    )
    oracle = raced(asked, events, labels).run
    again = rerun(asked, past, past.places, as_recorded=list(pipeline.models))
    assert again.decisions == oracle.decisions
    assert again.same == again.compared
    assert_same(again.learner, oracle.learner)


def test_a_champion_can_be_asked_of_a_race_that_the_leader_opens() -> None:
    asked = asked_of(race(champion=None, opening="leader"), ["champion=linear"]).pipeline
    assert (asked.champion, asked.opening, asked.field.first_champion) == ("linear", None, "linear")


def test_no_event_is_answered_by_who_has_learned_a_later_label() -> None:
    events, labels = stream(300, late=40)
    pipeline = race()
    past = past_of(pipeline, raced(pipeline, events, labels).run.examples or [])
    for span_ms in (0, 7 * ROW_MS, 3_600_000, 10**9):
        for row, example, place in zip(past.rows, past.examples, past.withheld(span_ms), strict=True):
            known = [
                one.label_time
                for at, one in zip(past.rows, past.examples, strict=True)
                if at < place and one.label_time >= one.event_time
            ]
            assert place <= row
            assert max(known, default=-(10**12)) <= example.event_time - span_ms
    assert set(past.withheld(10**9)) == {0}


@pytest.mark.parametrize("span_ms", [0, 10 * ROW_MS, 100 * ROW_MS])
def test_withheld_lessons_are_those_of_a_loop_over_bare_river(span_ms: int) -> None:
    events, labels = stream(400)
    pipeline = race(promotion=Promotion(min_examples=10**6, opening_error=0), drift=[])
    past = past_of(pipeline, raced(pipeline, events, labels).run.examples or [])
    again = rerun(pipeline, past, past.withheld(span_ms))
    models, learned, scores = pipeline.fresh_models(), 0, {}
    lessons = [(row, example) for row, example in zip(past.rows, past.examples, strict=True)]
    for place, number in sorted((place, n) for n, place in enumerate(past.withheld(span_ms))):
        while learned < len(lessons) and lessons[learned][0] < place:
            _, lesson = lessons[learned]
            for model in models.values():
                model.learn_one(lesson.features, lesson.label)
            learned += 1
        features = past.examples[number].features
        scores[number] = {name: model.predict_proba_one(features) for name, model in models.items()}
    for number, example in enumerate(again.examples):
        expected = {
            name: chances.get(True, 0.0) if chances else None for name, chances in scores[number].items()
        }
        assert example.scores == expected


def with_records(log: Sequence[Record], more: dict[int, FieldChange]) -> list[Record]:
    """The log with changes of the field before records of these numbers; offsets move on."""
    records: list[Record] = []
    for number, record in enumerate(log):
        if number in more:
            change = encode(more[number])
            records.append(Record("t", 0, 0, None, None, change, headers.FIELD))
        records.append(record)
    return [replace(record, offset=offset) for offset, record in enumerate(records)]


class KeptLog:
    """A log in memory, all of it in one batch."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records

    async def read(self, start: int | None = None) -> AsyncGenerator[list[Record]]:
        yield [record for record in self._records if record.offset >= (start or 0)]


def test_what_a_candidate_brought_it_has_here_too() -> None:
    """The first record names the state that a model began with; another change of the field is left out."""
    pipeline = race()
    source = Source(fields=[pipeline.field, race(champion="linear").field])
    brought = raced(pipeline, *stream(200, seed=9)).run.learner.roster.racers["linear"]
    artefact = source.put(pipeline.field, brought.model)
    run = Backtest(pipeline, keep_examples=True)
    racer = run.run.learner.roster.racers["linear"]
    racer.model, racer.updates = source.model(pipeline.field, artefact), brought.updates
    run.run.learner.roster.revision += 1
    events, labels = stream(400)
    run.play([events], [labels])
    entrant = Entrant("linear", "", "artefact x", artefact=artefact, updates=brought.updates)
    log = with_records(
        run.run.examples or (),
        {
            1: FieldChange(pipeline.field.field_id, 0, entering=(entrant,)),
            350: FieldChange(race(champion="linear").field.field_id, 0, before=pipeline.field.field_id),
        },
    )
    past = past_of(pipeline, log, source)
    again = rerun(pipeline, past, past.places, as_recorded=list(pipeline.models), source=source)
    assert past.field_changes == 1
    assert again.same == again.compared > 0
    assert [one.type for one in again.decisions] == [one.type for one in run.run.decisions]
    for updates in (brought.updates, brought.updates + 1):
        found = asyncio.run(Replay(pipeline, KeptLog(log), source=source).to_state(racer.version, updates))
        assert (found.name, found.updates) == ("linear", updates)


def test_a_log_that_began_with_another_field_is_told_by_that_one() -> None:
    pipeline = race()
    now = race(models={**pipeline.models, "new": linear_model.Perceptron()})
    source = Source(fields=[pipeline.field, now.field])
    run = raced(pipeline, *stream(300)).run
    log = with_records(run.examples or (), {1: FieldChange(pipeline.field.field_id, 0)})
    past = past_of(now, log, source)
    assert [one.type for one in past.decisions] == [one.type for one in run.decisions]
    assert past.learner.evaluation.model_scores() == run.learner.evaluation.model_scores()
    again = rerun(now, past, past.places, as_recorded=list(pipeline.models), source=source)
    assert again.same == again.compared == len(pipeline.models) * len(past.examples)
    assert set(again.learner.digests()) == {"tree", "linear", "new"}
    replay = Replay(now, KeptLog(log), source=source)
    asyncio.run(replay.to(2))  # in the first slice, which sends the learner back to its start
    assert (replay.learner.reading, set(replay.learner.digests())) == (2, {"tree", "linear"})


def test_a_log_that_does_not_tell_enough_is_refused() -> None:
    events, labels = stream(100)
    pipeline = race()
    log = raced(pipeline, events, labels).run.examples or []
    with pytest.raises(ModelError, match="begins at offset 3"):
        past_of(pipeline, log[3:])
    with pytest.raises(ModelError, match="no example that counts"):
        past_of(pipeline, [log[0]])
