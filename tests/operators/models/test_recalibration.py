"""A recalibrated candidate: the order of test and train, and scores that come true as often as they say."""

from __future__ import annotations

import math
import pickle
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import linear_model, naive_bayes, preprocessing

from engine.definition.candidates import checked_candidates
from operators.models.artefacts import model_codec
from operators.models.digest import digest
from operators.models.recalibration import Isotonic, Recalibrate, Recalibrated, increasing
from operators.models.signing import SigningKeys
from operators.race.blend import Blend
from operators.race.candidates import Candidate
from topics.errors import DefinitionError

Pair = tuple[float, float]


def rows(count: int, seed: int = 5) -> list[tuple[dict[str, float], bool]]:
    """Two copies of one noisy sign: naive Bayes counts it twice, so it is surer than it should be."""
    rng, made = random.Random(seed), []
    for _ in range(count):
        label = rng.random() < 0.4
        x = (1.0 if label else -1.0) + rng.gauss(0, 1.5)
        made.append(({f"x{copy}": x + rng.gauss(0, 0.01) for copy in range(4)}, label))
    return made


def run(model: Any, count: int = 4_000) -> list[Pair]:
    pairs = []
    for x, label in rows(count):
        if chances := model.predict_proba_one(x):
            pairs.append((chances.get(True, 0.0), float(label)))
        model.learn_one(x, label)
    return pairs[500:]


def error(pairs: list[Pair]) -> float:
    bins: dict[int, float] = {}
    for score, label in pairs:
        bins[min(9, int(score * 10))] = bins.get(min(9, int(score * 10)), 0.0) + label - score
    return sum(map(abs, bins.values())) / len(pairs)


@pytest.mark.parametrize("by", ["platt", "isotonic"])
def test_a_sure_model_becomes_an_honest_one(by: Recalibrate) -> None:
    before = error(run(naive_bayes.GaussianNB()))
    after = error(run(Recalibrated(naive_bayes.GaussianNB(), by=by)))
    assert before > 0.08
    assert after < before / 3


def test_the_calibrator_learns_the_score_that_was_served_and_then_the_model_learns() -> None:
    told: list[str] = []

    class Told(naive_bayes.GaussianNB):
        def predict_proba_one(self, *_: Any) -> Any:
            told.append("score")
            return {True: 0.7, False: 0.3}

        def learn_one(self, *_: Any) -> None:
            told.append("learn")

    class Calibrator(Isotonic):
        def learn(self, score: float, truth: float) -> None:
            told.append(f"calibrate {score} {truth}")

    model = Recalibrated(Told(), by="isotonic")
    model.calibrator = Calibrator()
    model.learn_one({"x": 1.0}, True)
    assert told == ["score", "calibrate 0.7 1.0", "learn"]


@pytest.mark.parametrize("by", ["platt", "isotonic"])
def test_it_goes_through_a_checkpoint(by: Recalibrate) -> None:
    model = Recalibrated(preprocessing.StandardScaler() | linear_model.LogisticRegression(), by=by)
    dump, load = model_codec(SigningKeys({"": b"k" * 32}), [model.clone()])
    run(model, 600)
    again = load(dump(model))
    assert digest(again) == digest(model)
    assert run(again, 700) == run(model, 700)
    assert digest(again) == digest(model)
    assert digest(model.clone()) == digest(Recalibrated(model.model.clone(), by=by)), "a clone knows nothing"


def test_scoring_leaves_it_as_it_was() -> None:
    model = Recalibrated(naive_bayes.GaussianNB(), by="isotonic")
    run(model, 600)
    before = pickle.dumps(model.calibrator.rows)  # type: ignore[union-attr]
    model.predict_proba_one({"x0": 0.3})
    assert pickle.dumps(model.calibrator.rows) == before  # type: ignore[union-attr]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 100)), min_size=1, max_size=12))
def test_increasing_is_the_nearest_increasing_line(points: list[tuple[int, int]]) -> None:
    """The minimax form: at each place the largest over starts of the least over ends of the means between."""
    weights, values = zip(*points, strict=True)

    def mean(start: int, end: int) -> float:
        part = slice(start, end + 1)
        total = sum(w * v for w, v in zip(weights[part], values[part], strict=True))
        return float(total / sum(weights[part]))

    count = len(points)
    wanted = [
        max(min(mean(start, end) for end in range(at, count)) for start in range(at + 1))
        for at in range(count)
    ]
    assert increasing(weights, values) == pytest.approx(wanted)


def test_a_line_never_falls() -> None:
    rng, line = random.Random(0), Isotonic()
    for _ in range(2_000):
        line.learn(rng.random(), float(rng.random() < 0.5))
    corrected = [line.corrected(number / 1_000) for number in range(1_001)]
    assert corrected == sorted(corrected)
    assert all(math.isfinite(one) and 0.0 <= one <= 1.0 for one in corrected)


def test_a_candidate_carries_its_calibrator_as_a_part_of_its_model() -> None:
    told = checked_candidates({"nb": Candidate(naive_bayes.GaussianNB(), recalibrate="platt")}, "nb")
    assert isinstance(told["nb"].model, Recalibrated)
    assert isinstance(told["nb"].model.model, naive_bayes.GaussianNB), "once"


@pytest.mark.parametrize(
    "write",
    [
        lambda: Candidate(naive_bayes.GaussianNB(), recalibrate="beta"),  # type: ignore[arg-type]
        lambda: Candidate(linear_model.LinearRegression(), recalibrate="platt"),
        lambda: Candidate(Blend(), recalibrate="platt"),
        lambda: Candidate(start="champion", recalibrate="platt"),
    ],
)
def test_what_cannot_be_recalibrated_is_refused(write: Any) -> None:
    with pytest.raises(DefinitionError) as refusal:
        write()
    assert refusal.value.hint
