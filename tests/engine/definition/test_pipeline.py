"""A definition that cannot run is refused when it is made; a checkpoint of another one, by what differs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from river import compose, forest, linear_model, preprocessing, tree

from engine import Candidate, Challenge, Every, Labels, Pipeline, Topic
from engine.definition.candidates import checked_candidates
from engine.definition.file import load_pipeline
from engine.definition.pipeline import CHANGES_NAMED_MAX, Change, check_definition
from operators import by, field
from topics.errors import CheckpointError, DefinitionError

TREE = tree.HoeffdingTreeClassifier()


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


def test_a_copy_keeps_what_is_said_of_each_model() -> None:
    frozen = Candidate(linear_model.LogisticRegression(), learn="never", budget_ms=5.0)
    made = pipeline(models={"lr": frozen, "ht": tree.HoeffdingTreeClassifier()}, champion="ht")
    again = replace(made, name="other")
    assert (again.candidates["lr"].learn, again.candidates["lr"].budget_ms) == ("never", 5.0)
    assert again.field.field_id == made.field.field_id


def test_challenges_that_are_no_list_are_refused() -> None:
    with pytest.raises(DefinitionError, match="no list"):
        pipeline(challenges=Challenge(when=Every(1_000)))


def test_a_file_that_is_no_python_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.txt"
    path.write_text("pipeline = 1")
    with pytest.raises(DefinitionError, match="is no Python file"):
        load_pipeline(path)


def test_what_is_left_out_follows_from_the_rest() -> None:
    made = pipeline()
    assert (made.field.first_champion, made.task, made.implicit_label) == ("blend", "binary", None)
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


@pytest.mark.parametrize("name", ["tree-5", "tree-twin", "blend-3"])
def test_names_that_the_race_makes_are_refused_with_another(name: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        checked_candidates({"tree": TREE, name: TREE, name.replace("-", "_"): TREE}, None)
    assert f"`{name}` has a name that the race gives to a challenger or twin of" in caught.value.message
    renamed = caught.value.hint.split("'")[1]
    assert list(checked_candidates({"tree": TREE, renamed: TREE}, "tree")) == ["tree", renamed]


def test_such_a_name_is_free_where_nobody_is_there_to_make_it_of() -> None:
    assert list(checked_candidates({"arf-10": TREE, "tree-5b": TREE, "x-twin": TREE}, "arf-10"))


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
        ({"champion": "lr", "opening": "leader"}, "opening is 'leader'", "leave one out"),
        ({"champion": "lr", "opening": "blend"}, "said twice", "opening is for when nobody is named"),
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
    assert changed == {"features.n"}
    assert one.field.field_id == pipeline().field.field_id != other.field.field_id
    assert one.field.difference(other.field) == (("lr",), ("lr",), {})


def test_select_type_whose_repr_river_cannot_print_is_no_obstacle() -> None:
    model = compose.SelectType(int, float) | linear_model.LogisticRegression()
    assert "SelectType" in pipeline(models={"m": model}).field.parts()["candidates.m"]


# -- two definitions --------------------------------------------------

PLACE = "state/pay/scorer-0.sqlite"
STORED = {"labels": "a", "features.n": "1a", "features.sum": "2b", "features.gone": "3c"}


def refused(stored: dict[str, str], current: dict[str, str], *, accept: bool = False) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        check_definition(stored, current, PLACE, accept_features=accept)
    return caught.value


def test_the_same_definition_in_another_order_is_the_same() -> None:
    assert check_definition(STORED, dict(reversed(STORED.items())), PLACE) == ()


def test_changed_features_are_named_with_both_versions_and_the_way_on() -> None:
    error = refused(STORED, {"labels": "a", "features.new": "9f", "features.n": "1a", "features.sum": "4d"})
    assert error.message == (
        "state/pay/scorer-0.sqlite was written by another definition: feature new is new, "
        "feature sum changed (2b -> 4d), feature gone is gone"
    )
    assert error.hint.startswith("to go on, `headrace run PIPELINE.py --accept-changed-features`: models")
    assert "go back to the old definition" in error.hint


def test_accepted_features_are_told() -> None:
    current = {"labels": "a", "features.new": "9f", "features.n": "1a", "features.sum": "4d"}
    assert check_definition(STORED, current, PLACE, accept_features=True) == (
        Change("features.new", None, "9f"),
        Change("features.sum", "2b", "4d"),
        Change("features.gone", "3c", None),
    )


@pytest.mark.parametrize("accept", [False, True])
def test_whatever_else_changed_is_refused_in_every_case_and_named_first(accept: bool) -> None:
    error = refused(STORED, {**STORED, "labels": "b", "features.n": "5e"}, accept=accept)
    assert error.message.endswith("another definition: labels changed, feature n changed (1a -> 5e)")
    assert "--accept-changed-features" not in error.hint


def test_a_message_names_only_so_many() -> None:
    stored = {f"features.f{number}": "1" for number in range(CHANGES_NAMED_MAX + 7)}
    error = refused(stored, dict.fromkeys(stored, "2"))
    assert error.message.count("changed") == CHANGES_NAMED_MAX
    assert error.message.endswith(" and 7 more")
