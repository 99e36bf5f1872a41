"""A pipeline called by its steps is the pipeline, to the last bit."""

from typing import Any

import pytest
from river import (
    anomaly,
    compose,
    feature_extraction,
    feature_selection,
    linear_model,
    naive_bayes,
    preprocessing,
    stats,
    tree,
)
from river_zoo import ZOO, Animal, event, label

from operators.models.digest import digest
from operators.models.direct import Direct, direct

SIZE = 150
PIPELINES = [animal for animal in ZOO if isinstance(animal.make(), compose.Pipeline)]


@pytest.mark.parametrize("animal", PIPELINES, ids=lambda animal: animal.name)
def test_predictions_and_models_are_those_of_the_pipeline(animal: Animal) -> None:
    whole, stepped = animal.make(), animal.make()
    called = direct(stepped)
    for n in range(SIZE):
        x = event(n, animal.kinds)
        if n % 7 == 3:
            x.pop(next(iter(x)))
        if animal.task == "regression":
            assert called.predict_one(x) == whole.predict_one(x)
        else:
            assert called.predict_proba_one(x) == whole.predict_proba_one(x)
        y = label(n, animal.task)
        called.learn_one(x, y)
        whole.learn_one(x, y)
    assert digest(stepped) == digest(whole)


def test_most_pipelines_are_called_by_their_steps() -> None:
    assert sum(isinstance(direct(animal.make()), Direct) for animal in PIPELINES) > len(PIPELINES) / 2
    words, numbers = compose.SelectType(str), compose.SelectType(int, float)
    encode = (words | preprocessing.OneHotEncoder()) + (numbers | preprocessing.StandardScaler())
    assert isinstance(direct(encode | linear_model.LogisticRegression()), Direct)


@pytest.mark.parametrize(
    "model",
    [
        linear_model.LogisticRegression(),
        tree.HoeffdingTreeClassifier(),
        feature_extraction.TargetAgg(by="city", how=stats.Mean()) | linear_model.LinearRegression(),
        (feature_extraction.TargetAgg(by="city", how=stats.Mean()) + compose.SelectType(float))
        | linear_model.LinearRegression(),
        anomaly.QuantileFilter(anomaly.HalfSpaceTrees(seed=1), q=0.9) | naive_bayes.GaussianNB(),
        feature_selection.SelectKBest(stats.PearsonCorr(), k=1) | linear_model.LogisticRegression(),
        preprocessing.StandardScaler() | preprocessing.MinMaxScaler(),
        compose.Pipeline(),
    ],
    ids=lambda model: type(model).__name__,
)
def test_what_needs_labels_or_filters_is_left_to_river(model: Any) -> None:
    assert direct(model) is model
