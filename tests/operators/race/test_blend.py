"""What a definition may say of a blend, and who it lets serve first."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from river import dummy, linear_model, tree

from headrace import Blend, Labels, Pipeline, Topic, field
from operators.models.mixture import Mixture
from operators.race.candidates import Candidate, Release
from topics.errors import DefinitionError


class Reading(msgspec.Struct):
    event_id: str
    event_time: int
    sensor: str
    value: float
    wet: bool


def definition(**changes: Any) -> Pipeline:
    settings: dict[str, Any] = {
        "name": "rain",
        "events": Topic("rain.readings", Reading, key="sensor"),
        "labels": Labels(field="wet"),
        "features": {"value": field("value")},
        "models": {"lr": linear_model.LogisticRegression(), "ht": tree.HoeffdingTreeClassifier()},
    }
    return Pipeline(**settings | changes)


MODELS = definition().models


def test_a_blend_joins_and_opens_where_nobody_is_named() -> None:
    pipeline = definition()
    assert list(pipeline.models) == ["lr", "ht", "blend"]
    assert pipeline.estimators["blend"] == Blend()
    assert (pipeline.field.first_champion, pipeline.field.opens) == ("blend", "blend")
    assert isinstance(pipeline.fresh_models()["blend"], Mixture)
    assert pipeline.task == "binary"


def test_a_blend_of_the_user_opens_under_its_own_name() -> None:
    models = {"lr": MODELS["lr"], "mix": Blend(eta=2.0), "ht": MODELS["ht"]}
    pipeline = definition(models=models)
    assert list(pipeline.models) == ["lr", "mix", "ht"]
    assert (pipeline.field.first_champion, pipeline.field.opens) == ("mix", "blend")


@pytest.mark.parametrize(
    ("changes", "first", "opens"),
    [
        ({"champion": "ht"}, "ht", None),
        ({"opening": "leader"}, "lr", "leader"),
        ({"models": {"lr": linear_model.LogisticRegression()}}, "lr", None),
        ({"models": {"lr": linear_model.LogisticRegression()}, "opening": "leader"}, "lr", None),
    ],
)
def test_no_blend_joins_where_it_is_not_wanted(
    changes: dict[str, Any], first: str, opens: str | None
) -> None:
    field_of = definition(**changes).field
    assert (field_of.first_champion, field_of.opens) == (first, opens)
    assert "blend" not in field_of.candidates


def test_the_field_says_how_it_opens_and_blends() -> None:
    told = definition().field.parts()
    assert told["opening"] == "blend"
    assert told["candidates.blend"] == "Blend(eta=0.5, share=0.01, of=None, weights=None)"


MIX = Blend()


@pytest.mark.parametrize(
    ("changes", "said", "fix"),
    [
        ({"opening": "first"}, "opening is 'first'", '"blend" or "leader"'),
        ({"models": {"mix": MIX}}, "`mix` blends the scores of others", "add models"),
        ({"models": {"lr": MODELS["lr"], "mix": Blend(of=["ht"])}}, "is of `ht`", "name some of: lr"),
        ({"models": {**MODELS, "two": Blend(of=["blend"])}}, "is of `blend`", "lr, ht"),
        ({"models": {"blend": MODELS["lr"], "ht": MODELS["ht"]}}, "`blend`", "rename"),
        ({"models": {**MODELS, "blend": Candidate(MIX, start="log")}}, "start='log'", "leave it out"),
        ({"models": {**MODELS, "blend": Candidate(MIX, release=Release())}}, "a release", "leave it out"),
        ({"models": {**MODELS, "blend": Candidate(MIX, budget_ms=2.0)}}, "budget_ms=2.0", "a budget each"),
        ({"models": {**MODELS, "copy": Candidate(start="champion")}}, "`copy`", "River estimator"),
    ],
)
def test_refusals_name_the_place_and_the_fix(changes: dict[str, Any], said: str, fix: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        definition(**changes)
    assert said in str(refused.value)
    assert fix in str(refused.value)


@pytest.mark.parametrize(
    "told",
    [
        {"eta": 0.0},
        {"eta": float("nan")},
        {"share": 1.0},
        {"share": -0.1},
        {"of": "tree"},
        {"weights": {}},
        {"weights": {"a": -1.0, "b": 2.0}},
        {"weights": {"a": 0.0}},
        {"weights": {"a": 1.0}, "of": ["a", "b"]},
    ],
)
def test_numbers_that_cannot_work_are_refused(told: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError):
        Blend(**told)


def test_a_baseline_serves_where_it_is_named() -> None:
    pipeline = definition(models={"floor": dummy.NoChangeClassifier(), "lr": MODELS["lr"]}, champion="floor")
    assert pipeline.field.first_champion == "floor"
