"""A rule that cannot be meant is refused at load, with its name and a fix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from river import linear_model

from engine import Alert, Labels, Pipeline, Rule, Topic, new_category
from engine.cli.report import describe
from operators import by, feature, field, lookup
from topics.errors import DefinitionError


class Payment(msgspec.Struct):
    event_id: str
    event_time: int
    card: str
    amount: float
    paid: float | None = None
    items: int | None = None
    country: str | None = None
    tags: list[str] = []
    fraud: bool | None = None


def pipeline(*rules: Any, alerts: Sequence[Alert] | None = None) -> Pipeline:
    return Pipeline(
        name="pay",
        events=Topic("pay.events", Payment, key="card"),
        labels=Labels(field="fraud"),
        features={
            "amount": field("amount"),
            "n": by("card").count("1h"),
            "country": field("country"),
            "risk": lookup("card:{card}", "risk"),
        },
        models={"lr": linear_model.LogisticRegression()},
        rules=rules,
        alerts=alerts,
    )


def rule(of: Any, **given: Any) -> Rule:
    return Rule(of, **{"action": "flag", **given})


@pytest.mark.parametrize(
    ("of", "given", "says"),
    [
        (field("amount"), {}, "nothing to check"),
        (field("amount"), {"between": (0, 1), "one_of": (1,)}, "between and one_of to check"),
        (field("amount") > 1, {"required": True}, "a condition and required"),
        (field("amount"), {"between": (2, 1)}, "an empty range"),
        (field("amount"), {"between": (None, None)}, "no range"),
        (field("amount"), {"between": (0, float("nan"))}, "bound nan"),
        (field("amount"), {"between": (0, "9")}, "bound '9'"),
        (field("amount"), {"between": 5}, "between=5"),
        (field("country"), {"one_of": ()}, "one_of="),
        (field("country"), {"one_of": "DE"}, "one_of='DE'"),
        (field("country"), {"matches": "("}, "no regular expression"),
        (field("country"), {"matches": "^D", "action": "clip"}, "clipped"),
        (field("country"), {"required": True, "action": "null"}, "a missing value"),
        ((field("paid") > 1) & (field("paid") < 2), {"action": "null"}, "null makes a value missing"),
        (field("country"), {"matches": "^D", "action": "drop"}, "no action 'drop'"),
        (feature("n"), {"between": (0, 1), "action": "dead_letter"}, "a valid event"),
        (feature("n") > field("amount"), {}, "before there are features"),
        (field("amount") == field("paid"), {}, "cannot be about"),
        ("amount", {"required": True}, "cannot be about"),
    ],
)
def test_what_cannot_be_meant_is_refused_when_it_is_written(of: Any, given: Any, says: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        rule(of, **given)
    assert says in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (rule(field("amonut"), between=(0, 1)), "no field 'amonut'"),
        (rule(field("country"), between=(0, 1)), "is text"),
        (rule(field("tags"), one_of=(1,)), "is other"),
        (rule(field("amount"), matches="1"), "is number"),
        (rule(field("country"), one_of=("DE", 1)), "1 is no value of"),
        (rule(field("amount"), required=True), "never missing"),
        (rule(field("amount"), between=(0, 1), action="null"), "cannot be missing"),
        (rule(field("items"), between=(0.5, 2), action="clip"), "clipped to 0.5"),
        (rule(field("event_time"), between=(0, 1), action="clip"), "the event's time"),
        (rule(field("card"), matches="^c", action="null"), "the event's key"),
        (rule(field("fraud").equals(True), action="null"), "the event's label"),
        (rule(field("paid") < field("country")), "compares number with text"),
        (rule(feature("mean"), between=(0, 1)), "no feature 'mean'"),
        (rule(feature("country"), between=(0, 1)), "is text"),
        (rule(feature("risk"), between=(0, 1)), "is text"),
        (rule(feature("n") > feature("country")), "compares number with text"),
        (rule(feature("country") + 1 > 2), "calculates with text"),
        (rule(by("card").count("1h") > 2), "not of the event itself"),
        ("amount > 0", "no rule"),
    ],
)
def test_what_does_not_fit_the_events_or_features_is_refused_at_load(made: Any, says: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        pipeline(made)
    assert says in str(caught.value)
    assert caught.value.hint


def test_two_rules_need_two_names() -> None:
    low, high = (rule(field("amount"), between=(0, top)) for top in (1, 2))
    with pytest.raises(DefinitionError, match="two rules are called"):
        pipeline(low, high)
    pipeline(low, rule(field("amount"), between=(0, 2), name="amount at most 2"))


@pytest.mark.parametrize(("name", "says"), [("amount", "is no text"), ("contry", "no field 'contry'")])
def test_categories_are_fields_of_text(name: str, says: str) -> None:
    with pytest.raises(DefinitionError, match=says):
        pipeline(alerts=[Alert(when=new_category(name))])


def test_check_lists_rules_in_their_order_and_one_that_only_flags_may_change() -> None:
    rules = [rule(field("amount"), between=(0, None)), rule(field("paid") <= field("amount"), action="null")]
    made = pipeline(*rules)
    assert describe(made, {})["rules"] == [
        {"rule": "amount.between", "must_hold": 'field("amount"), between=(0, None)', "action": "flag"},
        {"rule": "paid <= amount", "must_hold": 'field("paid") <= field("amount")', "action": "null"},
    ]
    other = pipeline(rule(field("amount"), between=(1, None)), rules[1])
    assert made.scorer_definition() == other.scorer_definition()
    assert made.learner_definition() == other.learner_definition()
