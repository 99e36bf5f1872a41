"""Positions: learned as they were, served as a constant, whoever asks, and again from the log."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from river import linear_model, optim

from engine.offline.backtest import LocalRun
from engine.offline.rerun import past_of, rerun
from engine.worker.assembly import build_learner
from loadtest.learning.positions import WAYS, _lines, clicks_pipeline, positions
from loadtest.learning.stream_run import records_of_lines
from operators import field, position
from operators.language.plan import compile_features
from topics.errors import DefinitionError

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
