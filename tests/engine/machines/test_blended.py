"""A blend that serves: its answer from the others' scores, each taken once; the same models from the log."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar

import msgspec
import pytest
from river import base, linear_model, naive_bayes, preprocessing, tree

from engine import Blend, Labels, Pipeline, Promotion, Topic
from engine.offline.backtest import LocalRun
from engine.worker.assembly import build_learner
from operators import field
from operators.models.signing import SigningKeys
from topics.codec import decode_example, decode_prediction, encode_json
from topics.messages import Decision, Prediction, Record, Task

ROWS, DELAY = 400, 7
START_MS = 1_700_000_000_000


class Reading(msgspec.Struct):
    event_id: str
    event_time: int
    sensor: str
    value: float
    other: float


MODELS: dict[Task, dict[str, Any]] = {
    "binary": {
        "lr": preprocessing.StandardScaler() | linear_model.LogisticRegression(),
        "nb": naive_bayes.GaussianNB(),
        "ht": tree.HoeffdingTreeClassifier(grace_period=20),
    },
    "multiclass": {
        "nb": naive_bayes.GaussianNB(),
        "ht": tree.HoeffdingTreeClassifier(grace_period=20),
    },
    "regression": {
        "lr": preprocessing.StandardScaler() | linear_model.LinearRegression(),
        "ht": tree.HoeffdingTreeRegressor(grace_period=20),
    },
}


def definition(task: Task, **changes: Any) -> Pipeline:
    given: dict[str, Any] = {
        "name": "rain",
        "events": Topic("rain.readings", Reading, key="sensor"),
        "labels": Labels("rain.labels", wait="1h"),
        "features": {"value": field("value"), "other": field("other")},
        "models": MODELS[task],
        "task": task,
        "promotion": Promotion(false_swap_every=300, min_examples=100, cooldown=100, evidence_block=8),
    }
    return Pipeline(**given | changes)


def records(task: Task, seed: int) -> tuple[list[Record], list[Record]]:
    """Return events, and labels that come DELAY rows later; the world turns half-way."""
    rng = random.Random(seed)
    events, labels = [], []
    for n in range(ROWS):
        value, other = rng.gauss(0, 1), rng.gauss(0, 1)
        level = (value if n < ROWS // 2 else -value) + 0.3 * other + rng.gauss(0, 0.3)
        label: Any = level > 0
        if task == "multiclass":
            label = "low" if level < -0.5 else "high" if level > 0.5 else "mid"
        elif task == "regression":
            label = level
        time = START_MS + n * 1_000
        event = {"event_id": f"e{n}", "event_time": time, "sensor": "a", "value": value, "other": other}
        told = {"event_id": f"e{n}", "label": label, "label_time": time + DELAY * 1_000 + 500}
        events.append(Record("rain.readings", 0, n, None, b"a", encode_json(event)))
        labels.append(Record("rain.labels", 0, n, None, b"a", encode_json(told)))
    return events, labels


def played(pipeline: Pipeline, task: Task, seed: int = 1) -> tuple[LocalRun, list[Prediction]]:
    run = LocalRun(pipeline, keep_examples=True)
    events, labels = records(task, seed)
    run.scorer.intake.offer_events(events)
    run.scorer.intake.offer_labels(labels)
    answers: list[Prediction] = []
    while (out := run.advance()) is not None:
        answers += [decode_prediction(r.value or b"") for r in out if r.target == "predictions"]
    return run, answers


def cuts(count: int, seed: int) -> Iterator[slice]:
    rng, start = random.Random(seed), 0
    while start < count:
        end = start + rng.choice([1, 2, 5, 64])
        yield slice(start, end)
        start = end


@pytest.mark.parametrize("task", MODELS)
def test_a_blend_folded_from_the_log_in_any_batches_restored_half_way_is_the_same(task: Task) -> None:
    pipeline = definition(task)
    run, _ = played(pipeline, task)
    assert run.examples is not None
    assert run.learner.roster.racers["blend"].updates == ROWS
    learner = build_learner(pipeline, keys=SigningKeys({"": b"k" * 32}))
    decisions: list[Decision] = []
    state: dict[str, bytes] = {}
    for part in cuts(len(run.examples), 2):
        decisions += learner.fold(run.examples[part])
        for name, data in learner.delta().items():
            state.pop(name, None)
            if data is not None:
                state[name] = data
        if part.start < ROWS // 2 <= part.stop:
            learner = build_learner(pipeline, keys=SigningKeys({"": b"k" * 32}))
            learner.restore(state)
    assert decisions == run.decisions
    assert learner.digests() == run.learner.digests()


@pytest.mark.parametrize("task", MODELS)
def test_an_answer_is_the_mean_of_the_scores_in_its_example_by_its_own_weights(task: Task) -> None:
    run, answers = played(definition(task, promotion=Promotion(min_examples=10 * ROWS)), task)
    assert run.examples is not None
    lessons = [decode_example(r.value) for r in run.examples[1:] if r.value]
    of_event = {lesson.event_id: lesson for lesson in lessons}
    weights_seen = set()
    for answer in answers:
        scores = of_event[answer.event_id].scores
        assert (answer.model_name, answer.served_by) == ("blend", "champion")
        assert scores["blend"] == answer.prediction_score
        if answer.weights is None:
            assert answer.cold_start
            continue
        assert set(answer.weights) == {
            name for name, score in scores.items() if score is not None and name != "blend"
        }
        assert sum(answer.weights.values()) == pytest.approx(1.0)
        weights_seen.add(tuple(answer.weights.values()))
        if task == "multiclass":
            for label, chance in answer.prediction_score.items():  # type: ignore[union-attr]
                parts = [w * scores[k].get(label, 0.0) for k, w in answer.weights.items()]  # type: ignore[union-attr]
                assert chance == pytest.approx(sum(parts))
        else:
            parts = [w * scores[k] for k, w in answer.weights.items()]  # type: ignore[operator]
            assert answer.prediction_score == pytest.approx(sum(parts))
    assert len(weights_seen) > ROWS / 2


class Counted(base.Classifier):
    """Counts what it is asked; `breaks_at` is the value at which it raises."""

    asked: ClassVar[Counter[str]] = Counter()

    def __init__(self, name: str, breaks_at: float = 9e9) -> None:
        self.name = name
        self.breaks_at = breaks_at

    def learn_one(self, x: dict[str, Any], y: bool) -> None: ...

    def predict_proba_one(self, x: dict[str, Any]) -> dict[bool, float]:
        self.asked[f"{self.name} {x['value']}"] += 1
        if x["value"] == self.breaks_at:
            raise ArithmeticError("sick")
        chance = 0.5 + 0.1 * (x["value"] > 0)
        return {True: chance, False: 1 - chance}


@pytest.mark.parametrize("champion", ["blend", "b"])
def test_no_score_is_taken_twice_and_a_sick_shadow_costs_only_its_own_say(champion: str) -> None:
    events, _ = records("binary", 1)
    values = [msgspec.json.decode(r.value or b"")["value"] for r in events]
    models = {"a": Counted("a", values[100]), "b": Counted("b"), "blend": Blend()}
    pipeline = definition("binary", models=models, champion=champion)
    run = LocalRun(pipeline, keep_examples=True)
    Counted.asked.clear()
    run.scorer.intake.offer_events(events)
    run.scorer.intake.offer_labels(records("binary", 1)[1])
    answers = []
    while (out := run.advance()) is not None:
        answers += [decode_prediction(r.value or b"") for r in out if r.target == "predictions"]
    assert set(Counted.asked.values()) == {1}
    assert run.learner.roster.quarantined == {"a"}
    assert len(answers) == ROWS
    assert {answer.served_by for answer in answers} == {"champion"}
    assert all(answer.prediction_score is not None for answer in answers)
    if champion == "blend":
        weights = [set(answer.weights or ()) for answer in answers]
        assert weights[99] == {"a", "b"}
        assert all(one == {"b"} for one in weights[100:])
