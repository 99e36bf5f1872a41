"""Versions of a log in which the field has changed, asked with the file of today; blends and twins too."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from msgspec.structs import replace
from river import linear_model, naive_bayes, tree

from engine import Labels, Pipeline, Topic
from engine.lineage.explanation import explained, replayed
from engine.lineage.history import first_line_up, history_of
from engine.lineage.sources import PipelineLogs
from engine.offline.backtest import LocalRun
from engine.offline.recording import Recording
from engine.offline.replay import recorded_line
from engine.settings import Settings
from engine.stores.artefacts import ArtefactFiles, dump_field
from engine.worker.assembly import build_learner
from engine.worker.model_factory import ModelFactory
from operators import field
from operators.models.signing import SigningKeys
from operators.race.candidates import Candidate, Release
from topics import headers
from topics.codec import encode
from topics.errors import ModelError
from topics.messages import Decision, Entrant, FieldChange, Record

EVENTS, START = 120, 1_700_000_000_000
KEY = "sixteen bytes or more"
KEYS = SigningKeys({"": KEY.encode()})


class Trip(Struct):
    event_id: str
    event_time: int
    city: str
    distance: float


def pipeline(models: dict[str, Any], **options: Any) -> Pipeline:
    return Pipeline(
        name="trips",
        events=Topic("trips.events", Trip, key="city"),
        labels=Labels("trips.labels", wait="1d"),
        features={"distance": field("distance")},
        models=models,
        **options,
    )


def first() -> Pipeline:
    models = {
        "tree": tree.HoeffdingTreeClassifier(grace_period=20),
        "linear": linear_model.LogisticRegression(),
    }
    return pipeline(models, champion="tree")


def second() -> Pipeline:
    models = {
        "tree": tree.HoeffdingTreeClassifier(grace_period=20),
        "linear": linear_model.LogisticRegression(l2=0.1),
        "bayes": naive_bayes.GaussianNB(),
    }
    return pipeline(models, champion="tree")


def examples_of(run: LocalRun) -> list[Record]:
    for number in range(EVENTS):
        time, distance = START + number * 60_000, float(number % 13)
        event = {"event_id": f"e{number}", "event_time": time, "city": "a", "distance": distance}
        label = {"event_id": f"e{number}", "label": distance > 6, "label_time": time + 30_000}
        intake = run.scorer.intake
        intake.offer_events([Record("trips.events", 0, number, None, None, json.dumps(event).encode())])
        intake.offer_labels([Record("trips.labels", 0, number, None, None, json.dumps(label).encode())])
        while run.advance() is not None:
            pass
    return run.examples or []


def changed_log() -> list[Record]:
    """A log that begins with the first field and goes over to the second in the middle."""
    before, after = first().field, second().field
    entering = tuple(Entrant(name, f"text of {name}", "fresh") for name in before.difference(after).entering)
    begun = FieldChange(before.field_id, START)
    changed = FieldChange(after.field_id, START, before.field_id, entering, ("linear",))
    claim, *examples = examples_of(LocalRun(first(), keep_examples=True))
    field_records = [
        Record("trips.examples", 0, 0, START, b"f", encode(one), headers.FIELD) for one in (begun, changed)
    ]
    half = EVENTS // 2
    records = [claim, field_records[0], *examples[:half], field_records[1], *examples[half:]]
    return [replace(record, offset=offset) for offset, record in enumerate(records)]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    lines = [recorded_line(record) + b"\n" for record in changed_log()]
    (tmp_path / "examples.jsonl").write_bytes(b"".join(lines))
    return tmp_path


def settings_with_artefacts(folder: Path) -> Settings:
    settings = Settings(state_dir=folder / "state", signing_key=KEY)
    stored = ArtefactFiles(settings.state_dir, "trips")
    for one in (first(), second()):
        stored.put(one.field.field_id, dump_field(one.field, KEYS))
    return settings


def test_a_log_whose_field_has_changed_is_asked_with_the_file_of_today(recording: Path) -> None:
    settings = settings_with_artefacts(recording)
    logs = PipelineLogs(second(), settings, recording)
    history = asyncio.run(logs.history(fold=True))
    told = {number: (one.name, one.state) for number, one in history.versions.items()}
    assert told == {
        1: ("tree", "champion"),
        2: ("linear", "retired"),
        3: ("linear", "challenger"),
        4: ("bayes", "challenger"),
    }
    assert history.versions[2].parameters["l2"] == "0.0"
    assert history.versions[3].definition == "text of linear"
    assert history.versions[4].started is not None
    # A worker that had the first file all the time, and found the second by the record.
    stored = ArtefactFiles(settings.state_dir, "trips")
    factory = ModelFactory(first(), keys=KEYS, stored=stored)
    learner = build_learner(first(), source=factory)
    records = changed_log()
    decisions = learner.fold(records)
    assert history.decisions == decisions
    assert {one.name: one.states[-1].digest for one in history.versions.values() if one.states} == (
        learner.digests()
    )


def test_a_field_that_is_nowhere_is_named(recording: Path) -> None:
    logs = PipelineLogs(second(), Settings(state_dir=recording / "none"), recording)
    with pytest.raises(ModelError, match="cannot read artefact"):
        asyncio.run(logs.history())
    assert not (recording / "none").exists()


def test_an_answer_of_a_blend_is_explained_with_its_weights(tmp_path: Path) -> None:
    made = pipeline(
        {
            "tree": tree.HoeffdingTreeClassifier(grace_period=20),
            "linear": linear_model.LogisticRegression(),
        }
    )
    with Recording(tmp_path, made) as recording:
        examples_of(LocalRun(made, recording=recording))
    logs = PipelineLogs(made, Settings(state_dir=tmp_path / "none"), tmp_path)

    async def ask() -> dict[str, Any]:
        answer = await logs.prediction("e100")
        example = await logs.example(answer.message)
        told = explained(made, await logs.history(), answer, example)
        return told | await replayed(await logs.replay(), answer.message, example)

    told = asyncio.run(ask())
    assert told["served"]["model"] == "blend"
    assert set(told["served"]["weights"]) == {"tree", "linear"}
    assert told["contributions"] == []
    lesson = told["learned"]
    assert set(lesson) == {"tree", "linear", "blend"}
    assert all(lesson[name]["before"] != lesson[name]["after"] for name in ("linear", "blend"))
    # A label comes before the next event here, so what was served is what stood before the lesson.
    assert {name: one["before"] for name, one in lesson.items()} == told["scores"]


def test_proposals_that_wait_are_told() -> None:
    def decided(number: int, kind: Any, **evidence: str) -> Decision:
        return Decision(f"d{number}", kind, 0, "linear", 2, 0, "why", "kim", number, evidence=dict(evidence))

    opened = [decided(number, "proposal.opened") for number in (1, 2, 3, 4)]
    ended = [
        decided(5, "proposal.refused", proposal_id="d1"),
        decided(6, "proposal.expired", proposal_id="d2"),
        decided(7, "proposal.accepted", proposal_id="d4"),
    ]
    assert history_of(first(), [*opened, *ended]).open_proposals == [opened[2]]


@pytest.mark.parametrize(
    "made",
    [
        first(),
        pipeline({"tree": tree.HoeffdingTreeClassifier(), "linear": linear_model.LogisticRegression()}),
        pipeline(
            {
                "tree": Candidate(tree.HoeffdingTreeClassifier(), release=Release(every=32)),
                "linear": linear_model.LogisticRegression(),
            },
            champion="tree",
        ),
    ],
    ids=["named", "blend", "twin"],
)
def test_the_line_up_of_a_first_start_is_the_learners(made: Pipeline) -> None:
    roster = build_learner(made).roster
    expected = [(one.name, one.version, one.twin_of) for one in roster.racers.values()]
    assert [(one.name, one.version, one.twin_of) for one in first_line_up(made.field)] == expected
    assert made.field.first_champion == roster.champion


def test_an_answer_that_is_not_to_be_learned_says_so(tmp_path: Path) -> None:
    made = pipeline({"linear": linear_model.LogisticRegression()}, learn_share=0.5)
    with Recording(tmp_path, made) as recording:
        run = LocalRun(made, recording=recording)
        examples_of(run)
    logs = PipelineLogs(made, Settings(state_dir=tmp_path / "none"), tmp_path)

    async def ask(event_id: str) -> dict[str, Any]:
        answer = await logs.prediction(event_id)
        return explained(made, await logs.history(), answer, await logs.example(answer.message))

    for event_id in ("e100", "e101", "e102", "e103", "e104"):
        told = asyncio.run(ask(event_id))
        assert told["left_out"] == (told["label"] is None) == (not made.learns(event_id))
    left_out = sum(not made.learns(f"e{number}") for number in range(100, 105))
    assert 0 < left_out < 5
