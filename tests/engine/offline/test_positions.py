"""Positions: learned as they were, served as a constant, whoever asks, and again from the log."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
from river import linear_model, optim
from typer.testing import CliRunner

from engine.cli.main import app
from engine.definition.file import load_pipeline
from engine.offline.backtest import LocalRun
from engine.offline.rerun import past_of, rerun
from engine.offline.skew import PartitionSkew, SkewCounts
from engine.worker.assembly import build_learner
from loadtest.learning.positions import WAYS, _lines, clicks_pipeline, positions
from loadtest.learning.stream_run import records_of_lines
from operators import field, position
from operators.language.plan import compile_features
from topics.errors import DefinitionError
from topics.messages import Record

LEARNED = "learned, 0 served"


def test_the_place_is_told_from_the_merit() -> None:
    """The truth is known: the chance of a click at rank 0."""
    found = positions(rows=4_000)
    assert found.keys() == WAYS.keys()
    learned = found.pop(LEARNED)
    assert learned.distance < 0.06
    assert learned.right > 0.95
    assert all(one.distance > 0.2 and one.right < 0.9 for one in found.values())


def test_a_score_is_rivers_of_the_constant_and_a_lesson_rivers_of_the_rank() -> None:
    pipeline = clicks_pipeline(WAYS[LEARNED])
    _, (events, labels) = _lines(300, seed=2)
    run = LocalRun(pipeline, keep_examples=True)
    run.scorer.intake.offer_events(records_of_lines(pipeline.events.name, events))
    run.scorer.intake.offer_labels(records_of_lines(pipeline.labels.topic or "", labels))
    served: list[tuple[dict[str, Any], Any]] = []
    while run.advance() is not None:
        served += [(answer.features, answer.prediction_score) for answer, _, _ in run.scorer.scored]
    model = linear_model.LogisticRegression(optim.SGD(0.02), intercept_lr=0.02)
    for (x, score), event, label in zip(served, events, labels, strict=True):
        assert x["rank"] == msgspec.json.decode(event)["rank"]
        assert score == pytest.approx(model.predict_proba_one(x | {"rank": 0.0})[True], abs=1e-12)
        model.learn_one(x, msgspec.json.decode(label)["label"])

    again = build_learner(pipeline)
    again.fold(run.examples or [])
    assert again.digests() == run.learner.digests()
    past = past_of(pipeline, run.examples or [])
    second = rerun(pipeline, past, past.places, as_recorded=["model"])
    assert second.same == second.compared == len(past.examples) == 300


SOURCE = """
from msgspec import Struct
from river import linear_model, optim
from headrace import Labels, Pipeline, Topic, field, position

class Shown(Struct):
    event_id: str
    event_time: int
    key: str
    merit: float
    rank: float

pipeline = Pipeline(
    name="clicks",
    events=Topic("clicks.events", Shown, key="key"),
    labels=Labels("clicks.labels", wait="1h"),
    features={"merit": field("merit"), "rank": position("rank", serve=0)},
    models={"model": linear_model.LogisticRegression(optim.SGD(0.02))},
    champion="model",
    drift=(),
)
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Return a definition, the recording of its backtest, and its events; a click comes a second later."""
    folder = tmp_path_factory.mktemp("clicks")
    file, events, labels = (folder / name for name in ("clicks.py", "events.jsonl", "labels.jsonl"))
    file.write_text(SOURCE)
    rows = [
        {
            "event_id": f"e{n}",
            "event_time": n * 10_000,
            "key": "all",
            "merit": n % 7 - 3.0,
            "rank": n % 5 + 1.0,
        }
        for n in range(200)
    ]
    clicks = [
        {"event_id": row["event_id"], "key": "all", "label": n % 3 > n % 5, "label_time": n * 10_000 + 1_000}
        for n, row in enumerate(rows)
    ]
    for path, values in ((events, rows), (labels, clicks)):
        path.write_text("\n".join(map(json.dumps, values)))
    place = str(folder / "recorded")
    told = ["backtest", str(file), "--events", str(events), "--labels", str(labels), "--record", place]
    done = CliRunner().invoke(app, told)
    assert done.exit_code == 0, done.output
    return file, Path(place), events


def test_an_explanation_tells_the_rank_and_the_constant_that_the_score_took(
    recorded: tuple[Path, Path, Path],
) -> None:
    file, place, _ = recorded
    asked = ["explain", str(file), "e150", "--recording", str(place)]
    told = json.loads(CliRunner().invoke(app, [*asked, "--json"]).output)
    features = {one["name"]: (one["value"], one["scored_as"]) for one in told["features"]}
    assert features == {"merit": (0.0, 0.0), "rank": (1.0, 0)}
    (score,) = told["contributions"]
    parts = {one["name"]: one for one in score["features"]}
    assert parts["rank"]["weight"] != 0.0, "learned from the true ranks"
    assert parts["rank"]["value"] == parts["rank"]["contribution"] == 0.0
    assert told["answer"]["score"] == pytest.approx(1 / (1 + math.exp(-score["total"])), rel=1e-12)
    assert "1.0, scored as 0" in CliRunner().invoke(app, asked).output
    lesson = told["learned"]["model"]
    assert lesson["before"] == told["answer"]["score"]
    assert lesson["after"] != lesson["before"]


def test_the_check_for_skew_compares_true_ranks_and_finds_a_constant_that_was_logged(
    recorded: tuple[Path, Path, Path],
) -> None:
    file, place, events = recorded
    pipeline = load_pipeline(file)
    lines = [json.loads(line) for line in (place / "predictions.jsonl").read_text().splitlines()]
    answers = [one["value"] for one in lines if "features" in one["value"]]
    assert len(answers) == 200

    def checked(answers: list[dict[str, Any]]) -> SkewCounts:
        counts = SkewCounts(tuple(pipeline.features))
        skew = PartitionSkew(pipeline, 0, counts, one_in=1, is_whole=False)
        skew.is_whole = True  # the claim is not among these
        skew.offer_predictions(
            [Record("p", 0, n, None, None, json.dumps(one).encode()) for n, one in enumerate(answers)]
        )
        skew.intake.offer_events(records_of_lines(pipeline.events.name, events.read_bytes().splitlines()))
        while skew.advance(labels_unread=False):
            pass
        return counts

    right = checked(answers).report()["features"]["rank"]
    assert (right["match"], right["mismatch"]) == (200, 0)
    wrong = [one | {"features": one["features"] | {"rank": 0.0}} for one in answers]
    found = checked(wrong).report()["features"]
    assert (found["rank"]["mismatch"], found["merit"]["mismatch"]) == (200, 0)


class Shown(msgspec.Struct):
    event_id: str
    event_time: int
    item: str
    rank: int | None = None


@pytest.mark.parametrize(
    "made",
    [
        lambda: position("rank", serve=0) + 1,
        lambda: position("rank", serve=0).default(3),
        lambda: position("rank", serve="top"),
        lambda: position("place", serve=0),
        lambda: position("rank", serve=float("nan")),
        lambda: position(field("rank"), serve=0),  # type: ignore[arg-type]
    ],
)
def test_a_position_that_is_none_is_refused_with_a_way_out(made: Any) -> None:
    with pytest.raises(DefinitionError) as refusal:
        compile_features({"rank": made()}, Shown, grace_ms=0, max_events_per_key=9, task="binary")
    assert refusal.value.hint


def test_a_plan_knows_its_constants_and_what_may_be_missing() -> None:
    features = {"rank": position("rank", serve=0).describe("as shown"), "item": field("item")}
    plan = compile_features(features, Shown, grace_ms=0, max_events_per_key=9, task="binary")
    assert plan.constants == {"rank": 0}
    assert plan.feature_types(Shown) == {"rank": int, "item": str}
    assert plan.optional_features(Shown) == {"rank"}
