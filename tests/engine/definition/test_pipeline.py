"""A definition that cannot run is refused when it is made, with the place and the fix."""

from typing import Any

import msgspec
import pytest
from river import compose, forest, linear_model, preprocessing, tree

from engine import Labels, Pipeline, Topic
from operators import by, field
from topics.errors import DefinitionError


class Payment(msgspec.Struct):
    event_id: str
    event_time: int
    card: str
    shop: str
    amount: float
    fraud: bool | None = None
    kind: str = "a"


def pipeline(**changes: Any) -> Pipeline:
    given: dict[str, Any] = {
        "name": "pay",
        "events": Topic("pay.events", Payment, key="card"),
        "labels": Labels("pay.labels", wait="1d"),
        "features": {"amount": field("amount"), "n": by("card").count("1h")},
        "models": {"lr": linear_model.LogisticRegression(), "ht": tree.HoeffdingTreeClassifier()},
    }
    return Pipeline(**{**given, **changes})


def test_what_is_left_out_follows_from_the_rest() -> None:
    made = pipeline()
    assert (made.champion, made.task, made.implicit_label) == ("lr", "binary", None)
    assert (made.grace_ms, made.max_ahead_ms, made.labels.wait_ms) == (60_000, 60_000, 86_400_000)
    assert made.catalog["examples"] == "pay.examples"


@pytest.mark.parametrize(
    ("models", "labels", "task"),
    [
        ({"m": linear_model.LinearRegression()}, Labels("l", wait="1d"), "regression"),
        ({"m": tree.HoeffdingTreeClassifier()}, Labels("l", wait="1d"), "binary"),
        ({"m": tree.HoeffdingTreeClassifier()}, Labels(field="kind"), "multiclass"),
        (
            {"m": preprocessing.StandardScaler() | linear_model.LinearRegression()},
            Labels("l", wait=5),
            "regression",
        ),
    ],
)
def test_the_task_follows_from_the_models(models: Any, labels: Labels, task: str) -> None:
    assert pipeline(models=models, labels=labels).task == task


def test_models_are_cloned_and_share_nothing() -> None:
    scaler = preprocessing.StandardScaler()
    one, two = scaler | linear_model.LogisticRegression(), scaler | linear_model.PAClassifier()
    made = pipeline(models={"one": one, "two": two})
    fresh = made.fresh_models()
    fresh["one"].learn_one({"amount": 3.0}, True)
    assert fresh["two"].steps["StandardScaler"].counts == {}
    assert scaler.counts == {}


@pytest.mark.parametrize(
    ("changes", "said", "fix"),
    [
        ({"champion": "best"}, "`best` is no model", "lr, ht"),
        ({"models": {}}, "without models", "River model"),
        ({"models": {"m": object()}}, "not a River estimator", "LogisticRegression"),
        ({"models": {"served": linear_model.LogisticRegression()}}, "`served`", "rename"),
        ({"models": {"m": preprocessing.StandardScaler()}}, "neither a classifier nor a regressor", "end"),
        ({"models": {"m": forest.ARFClassifier()}}, "random without a seed (ARFClassifier.seed)", "seed=42"),
        (
            {"models": {"c": linear_model.LogisticRegression(), "r": linear_model.LinearRegression()}},
            "cannot race",
            "two pipelines",
        ),
        ({"features": {"a": field("amuont")}}, "amuont", "amount"),
        ({"features": {}}, "0 features", "at least one"),
        ({"events": Topic("pay.events", Payment, key="cart")}, "no field `cart`", "card"),
        ({"events": Topic("pay.events", Payment, key="card", time="when")}, "no field `when`", "event_time"),
        ({"events": Topic("pay.events", Payment, key="card", grace="soon")}, "soon", ""),
        ({"labels": Labels("l", wait="1d", on_timeout="no")}, "on_timeout", "drop"),
        ({"topics": {"predictions": "pay.events"}}, "share the topic", ""),
        ({"name": "pay events"}, "pay events", ""),
    ],
)
def test_refusals_name_the_place_and_the_fix(changes: dict[str, Any], said: str, fix: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        pipeline(**changes)
    assert said in caught.value.message
    assert fix in caught.value.hint
    assert caught.value.hint


@pytest.mark.parametrize(
    "wrong", [{}, {"topic": "t", "field": "f"}, {"topic": "t"}, {"field": "f", "on_timeout": 0}]
)
def test_labels_come_from_one_place_and_wait_a_bounded_time(wrong: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError):
        Labels(**wrong)


def test_definitions_differ_where_they_differ() -> None:
    one = pipeline()
    assert one.scorer_definition() == pipeline().scorer_definition()
    assert one.learner_definition() == pipeline().learner_definition()
    other = pipeline(
        features={"amount": field("amount"), "n": by("card").count("2h")},
        models={"lr": linear_model.LogisticRegression(l2=0.1), "ht": tree.HoeffdingTreeClassifier()},
    )
    changed = {
        name for name, part in one.scorer_definition().items() if other.scorer_definition()[name] != part
    }
    assert changed == {"features.n"}
    changed = {
        name for name, part in one.learner_definition().items() if other.learner_definition()[name] != part
    }
    assert changed == {"features.n", "models.lr"}


def test_select_type_whose_repr_river_cannot_print_is_no_obstacle() -> None:
    model = compose.SelectType(int, float) | linear_model.LogisticRegression()
    assert "models.m" in pipeline(models={"m": model}).learner_definition()
