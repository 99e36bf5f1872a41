"""Definitions that are refused, each with its name and a fix, and what a plan says of good ones."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
import pytest

from operators import (
    by,
    cross,
    decay,
    feature,
    field,
    indicator,
    label,
    last_n,
    lookup,
    session,
    tiled,
    tumbling,
)
from operators.language.expressions import Expression
from operators.language.plan import FeaturePlan, compile_features
from topics.errors import DefinitionError
from topics.messages import Task


class Payment(msgspec.Struct):
    card: str
    amount: Annotated[float, msgspec.Meta(ge=0)]
    merchant_id: int
    when: datetime
    kind: Literal["in", "out"]
    foreign: bool
    fee: float | None = None
    shop: str | None = None
    tags: list[str] = []
    either: int | str = 0


PAIR = cross(field("kind"), field("card"))
HOURLY = by("card").count("1h")


def plan_of(task: Task = "binary", **features: object) -> FeaturePlan:
    return compile_features(features, Payment, grace_ms=0, max_events_per_key=9, task=task)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "said", "fix"),
    [
        (field("amuont"), "Payment has no field 'amuont'", "'amount'"),
        (by("crad").count("1h"), "no field 'crad'", "'card'"),
        (by("card").mean("amuont", "1h"), "no field 'amuont'", "'amount'"),
        (by("card").count("nothing", "1h"), "no field 'nothing'", ""),
        (by("card").mean("kind", "1h"), "Payment.kind (literal) is no number", "count"),
        (by("card").last("when", "1h"), "Payment.when (datetime) is no number", ""),
        (by("amount").count("1h"), "Payment.amount (float) is no key", "str or int"),
        (by("shop").count("1h"), "may be missing", "default"),
        (by("either").count("1h"), "is no key", ""),
        (field("when"), "is no feature value", ".hour()"),
        (field("tags"), "is no feature value", ""),
        (field("either"), "is no feature value", ""),
        (field("card").hour(), "has no hour", "datetime"),
        (field("card") + 1, "is text, not a number", ""),
        (-field("when"), "is time, not a number", ""),
        (field("amount").default("none"), "default 'none' is no number", ""),
        (field("card").default(0), "default 0 is no text", ""),
        (lookup("shop:{shop}", "risk"), "may be missing", ""),
        (lookup("shop:{nobody}", "risk"), "no field 'nobody'", ""),
        (by("card").quantile("kind", 0.5, "1h"), "Payment.kind (literal) is no number", "number"),
        (by("card").arg_max("kind", "card", "1h"), "Payment.card (str) is no number", "extreme"),
        (by("card").mode("tags", "1h"), "is no number and no text", "text"),
        (by("card").distinct("when", tumbling("1h")), "is no number and no text", ""),
        (by("card").count("1h", where=field("amuont") > 1), "no field 'amuont'", "'amount'"),
        (by("card").count("1h", where=field("kind") > 1), "compares number with text", ""),
        (by("card").count("1h", where=~(field("when") == 1)), "compares number with time", ""),
        (by("card").count("1h", where=by("card").count("1h") > 1), "not of the event itself", "own fields"),
        (by("card").count("1h", where=lookup("m:{card}", "r") == "x"), "not of the event itself", ""),
        (by("card").mode("kind", "1h").default(0), "default 0 is no text", ""),
        (by("card").last("kind", "1h") + 1, "is text, not a number", ""),
        (by("card").mean(field("amuont").log(), "1h"), "no field 'amuont'", "'amount'"),
        (by("card").mean(cross(PAIR, field("shop")), "1h"), "is no number", "or count"),
        (by("card").mean(PAIR.default("none"), "1h"), ').default("none") is no number', "or count"),
        (by("card").sum(field("card").log(), "1h"), "is text, not a number", "numbers only"),
        (by("card").last(field("when").default(0), "1h"), "is no number and no text", "count"),
        (by("card").arg_max("kind", PAIR, "1h"), f"{PAIR!r} is no number", "extreme"),
        (by("card").sum(HOURLY, "1d"), f"{HOURLY!r} is not of the event itself", "outside"),
        (by("card").mean(field("amount") / HOURLY, "1d"), f": {HOURLY!r} is not of the event", "outside"),
        (by("card").max(indicator(by().count(label, "1h") > 1), "1d"), "is not of the event itself", "alone"),
        (by("card").mean(lookup("m:{card}", "r", 0.0) * 2, "1h"), "is not of the event itself", "look-ups"),
        (by("card").arg_max("kind", HOURLY, "1h"), "is not of the event itself", "outside"),
        (by("card").mean(feature("good"), "1h"), "is not of the event itself", "fields alone"),
        (3.0, "is no expression", "field"),
        (by("card"), "is no expression", ""),
    ],
)
def test_a_wrong_feature_is_refused_by_name(wrong: object, said: str, fix: str) -> None:
    with pytest.raises(DefinitionError) as refusal:
        plan_of(good=field("amount"), bad=wrong)
    assert "feature 'bad'" in refusal.value.message
    assert said in refusal.value.message
    assert refusal.value.hint
    assert fix in refusal.value.hint


def test_class_labels_can_only_be_counted() -> None:
    assert plan_of("multiclass", n=by("card").count(label, "1h")).uses_labels
    assert plan_of("regression", m=by("card").mean(label, "1h")).uses_labels
    with pytest.raises(DefinitionError, match="class label is no number"):
        plan_of("multiclass", m=by("card").mean(label, "1h"))


@pytest.mark.parametrize(
    ("features", "event_type", "limits"),
    [
        ({}, Payment, {}),
        ({"a": field("amount")}, dict, {}),
        ({"a": field("amount")}, Payment, {"grace_ms": -1}),
        ({"a": field("amount")}, Payment, {"max_events_per_key": 0}),
        ({f"f{n}": field("amount") for n in range(1001)}, Payment, {}),
    ],
)
def test_impossible_plans_are_refused(
    features: dict[str, Expression], event_type: type, limits: dict[str, int]
) -> None:
    limits = {"grace_ms": 0, "max_events_per_key": 9} | limits
    with pytest.raises(DefinitionError) as refusal:
        compile_features(features, event_type, task="binary", **limits)
    assert refusal.value.hint


def test_a_plan_describes_itself() -> None:
    plan = plan_of(
        amount=field("amount"),
        ratio=field("amount") / by("card").mean("amount", "1h"),
        both=by("card", "merchant_id").count("1m") - by().count(label, "7d"),
        risk=lookup("merchant:{merchant_id}", "risk", default=0.1),
        late=by("card").mean(label, "1d").default(0.0),
    )
    assert [row[2:5] for row in plan.describe()] == [
        ("", "event", None),
        ("card", "events", 3_600_000),
        ("card+merchant_id, all", "events, labels", 604_800_000),
        ("", "lookup", None),
        ("card", "labels", 86_400_000),
    ]
    assert plan.describe()[1].expression == 'field("amount") / by("card").mean("amount", "1h")'
    assert plan.key_groups == (("card",), ("card", "merchant_id"), ())
    assert plan.label_key_groups == ((), ("card",))
    assert plan.window_max_ms == 604_800_000
    assert plan.lookups[0].key_fields == ("merchant_id",)


def test_one_group_serves_all_windows_and_fields_of_a_key() -> None:
    card = by("card")
    plan = plan_of(
        a=card.sum("amount", "1h"), b=card.max("fee", "1d"), c=card.count("1m"), d=card.sum("amount", "1m")
    )
    (group,) = plan.groups
    assert group.columns == ("amount", "fee")
    assert plan.bytes_per_event == group.entry_bytes > plan_of(c=card.count("1m")).bytes_per_event > 0


def test_what_is_kept_alike_shares_one_group() -> None:
    card, large = by("card"), field("amount") > 10
    plan = plan_of(
        a=card.count("1h"),
        b=card.count("1h", where=large),
        c=card.sum("amount", "1d", where=large),
        d=card.distinct("kind", "1h"),
        e=card.count("1h", shift="7d"),
        f=card.mean("amount", "2h", shift="7d"),
        g=card.count(tumbling("1h")),
        h=card.count(tiled("1d", step="1h")),
        i=card.count(tiled("1d", step="2h")),
        j=card.count(session("30m")),
        k=card.count(decay("1h")) + card.count(decay("1d")),
        l=card.entropy("kind", last_n(9)),
        m=card.last("kind", "1h"),
        n=card.mean(label, tiled("7d", step="1h")),
        o=card.arg_max("kind", "amount", "1h"),
    )
    assert [(group.store, len(group.aggregates), group.unit_ms) for group in plan.groups] == [
        ("log", 7, 0),
        ("log", 2, 0),
        ("tiles", 2, 3_600_000),
        ("tiles", 1, 7_200_000),
        ("sessions", 1, 1_800_000),
        ("decay", 2, 0),
        ("tiles", 1, 3_600_000),
    ]
    assert plan.label_key_groups == (("card",),)
    costs = {row.name: row.cost for row in plan.describe()}
    assert costs["a"] == costs["b"] == costs["j"] == costs["k"] == "constant"
    assert costs["d"] == costs["e"] == costs["m"] == "constant"
    assert (costs["f"], costs["l"], costs["o"]) == ("constant", "different values", "entries in the window")
    assert costs["h"] == "constant, tiles once a step"
    assert plan.bytes_per_key >= 25 * 120


def test_equal_conditions_are_one_window() -> None:
    card = by("card")
    plan = plan_of(
        a=card.count("1h", where=field("amount") > 10), b=card.count("60m", where=field("amount") > 10)
    )
    assert len(plan.groups) == 1
    assert len(plan.groups[0].aggregates) == 1
