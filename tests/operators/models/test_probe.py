"""`operators.models.probe`: which guard River's models need, and that it is enough."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from river import base, compose, ensemble, forest, linear_model, preprocessing, tree
from river_zoo import ZOO, Animal, ask, event, label

from operators.models.digest import digest
from operators.models.guards import Copied, FirstLesson, KnownNames, KnownValues
from operators.models.probe import ProbeReport, guarded, probe, samples_for
from topics.messages import FeatureValues

LOG = 72
SLOW_EVERY = 8
"""Every third event is asked about, of forests every eighth: three digests and a copy take their time."""
NONE, FIRST, NAMES, VALUES, COPY = (), "first lesson", "known names", "known values", "copy"
EXPECTED = {
    "linear_model.LogisticRegression-0": NONE,
    "linear_model.BayesianLinearRegression-0": NONE,
    "naive_bayes.GaussianNB-0": NONE,
    "tree-mixed": NONE,
    "adaptive-mixed": NONE,
    "efdt-mixed": NONE,
    "forest.AMFClassifier-0": NONE,
    "hasher|logistic": NONE,
    "words|bayes": NONE,
    "forest.ARFClassifier-0": (FIRST,),
    "forest.ARFRegressor-0": (FIRST,),
    "ensemble.SRPClassifier-0": (FIRST,),
    "linear_model.AdPredictor-0": (FIRST,),
    "scaler|logistic": (NAMES,),
    "encoder|logistic": (NAMES,),
    "rbf|logistic": (NAMES,),
    "projection|logistic": (NAMES,),
    "facto.FMClassifier-0": (NAMES,),
    "scaler|one-vs-rest": (NAMES,),
    "encoder|bagging": (NAMES,),
    "filter|logistic": (NAMES,),
    "scaler|forest": (FIRST, NAMES),
    "machine-mixed": (VALUES,),
    "target-mean|logistic": (COPY,),
    "active.EntropySampler-0": (COPY,),
    "one-vs-rest(scaler)": (COPY,),
    "bagging(scaler)": (COPY,),
    "adwin-bagging(scaler)": (COPY,),
    "bagging(machine)": (COPY,),
    "retrained(forest)": (COPY,),
    "model_selection.BanditClassifier-0": (COPY,),
}


def odd_event(index: int, animal: Animal) -> FeatureValues:
    """Return an event whose names and texts change as a log's do: new ones come, old ones stay away."""
    x = event(index, animal.kinds)
    if index % 5 == 0:
        x[f"late{index // 20}"] = 1.0 + index % 3
    if index % 7 == 3:
        x.update({name: f"new{index // 20}" for name, value in x.items() if isinstance(value, str)})
    return x


@pytest.mark.parametrize("animal", ZOO, ids=lambda animal: animal.name)
def test_guarded_models_are_left_alone_and_answer_as_river_does(animal: Animal) -> None:
    fresh = animal.make()
    before = digest(fresh)
    report = probe(fresh, samples_for(animal.kinds), animal.task)
    assert digest(fresh) == before
    if animal.name in EXPECTED:
        assert report.guards == EXPECTED[animal.name]
    assert not report.error

    model = guarded(fresh, report)
    compared = 0
    every = SLOW_EVERY if "orest" in animal.name or "SRP" in animal.name else 3
    for index in range(LOG):
        x = odd_event(index, animal)
        if index % every:
            try_to_teach(model, x, index, animal)
            continue
        twin = copy.deepcopy(innermost(model))
        before = digest(model)
        answer = outcome(model, x, animal)
        assert digest(model) == before, f"changed at event {index}"
        river = outcome(twin, x, animal)
        if digest(twin) == digest(innermost(model)) and not untaught(model):
            compared += 1
            assert answer == river, f"event {index}"
        try_to_teach(model, x, index, animal)
    assert compared > LOG // every // 4 or COPY in report.guards


def innermost(model: Any) -> Any:
    """Return the bare model."""
    while isinstance(model, FirstLesson | KnownNames | KnownValues | Copied):
        model = model.model
    return model


def untaught(model: Any) -> bool:
    return isinstance(model, FirstLesson) and not model.taught


def outcome(model: Any, x: FeatureValues, animal: Animal) -> Any:
    """Return the prediction, or the name of what was raised: some models refuse what they never saw."""
    try:
        return ask(model, dict(x), animal.task)
    except Exception as error:  # noqa: BLE001 River's own refusals are compared by name
        return type(error).__name__


def try_to_teach(model: Any, x: FeatureValues, index: int, animal: Animal) -> None:
    y = label(index, animal.task)
    try:
        model.learn_one(dict(x), y)
    except (KeyError, ValueError):
        model.learn_one(event(index, animal.kinds), y)


def test_a_pure_model_costs_nothing() -> None:
    model = tree.HoeffdingTreeClassifier()
    assert guarded(model, probe(model, samples_for({"a": float}), "binary")) is model


def test_a_guard_comes_back_as_it_is() -> None:
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    report = probe(model, samples_for({"a": float}), "binary")
    guard = guarded(model, report)
    guard.learn_one({"a": 1.0}, True)
    assert guarded(guard, report) is guard
    assert probe(guard, samples_for({"a": float}), "binary") == report


def test_features_a_model_cannot_take_are_named() -> None:
    report = probe(linear_model.LogisticRegression(), samples_for({"city": str}), "binary")
    assert report.guards == (COPY,)
    assert "TypeError" in str(report)


def test_the_way_out_of_a_copy() -> None:
    """A scaler inside of bagging forgets; in front of it it does not."""
    inside = ensemble.ADWINBaggingClassifier(
        preprocessing.StandardScaler() | linear_model.LogisticRegression()
    )
    outside = preprocessing.StandardScaler() | ensemble.ADWINBaggingClassifier(
        linear_model.LogisticRegression()
    )
    samples = samples_for({"a": float, "b": float})
    assert probe(inside, samples, "binary").guards == (COPY,)
    assert probe(outside, samples, "binary").guards == (NAMES,)


def test_a_model_of_the_users_own_that_counts_its_predictions() -> None:
    class Counting(base.Classifier):
        def __init__(self) -> None:
            self.asked = 0

        def learn_one(self, x: FeatureValues, y: bool) -> None:
            pass

        def predict_proba_one(self, x: FeatureValues) -> dict[bool, float]:  # noqa: ARG002
            self.asked += 1
            return {True: 1 / self.asked, False: 1 - 1 / self.asked}

    model = Counting()
    report = probe(model, samples_for({"a": int}), "binary")
    assert report == ProbeReport((COPY,), ("before the first lesson", "after lessons", "at a new name"))
    assert model.asked == 0
    assert "slow" in str(report)
    assert [guarded(model, report).predict_proba_one({"a": 1})[True] for _ in range(3)] == [1.0, 1.0, 1.0]


def test_samples_have_the_types_asked_for() -> None:
    kinds: dict[str, type] = {"a": float, "b": int, "c": str, "d": bool}
    for sample in samples_for(kinds):
        assert {name: type(value) for name, value in sample.items()} == kinds


def test_samples_without_numbers_and_without_features() -> None:
    words = compose.Select("s") | preprocessing.OneHotEncoder() | linear_model.LogisticRegression()
    assert probe(words, samples_for({"s": str}), "binary").guards == NONE
    assert probe(forest.ARFClassifier(2, seed=1), samples_for({}), "binary").error == ""
