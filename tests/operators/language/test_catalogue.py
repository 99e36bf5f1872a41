"""A version changes when, and only when, the values of a feature may be others; words are only words."""

from __future__ import annotations

from math import hypot
from typing import Any

import msgspec
import pytest
from river import linear_model

from engine import Labels, Pipeline, Rule, Topic
from operators import (
    apply,
    by,
    coalesce,
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
from operators.language.catalogue import CatalogueEntry
from operators.language.types import event_fields
from topics.errors import DefinitionError

LATE = by("card").mean(label, "3h")
SPENT = by("card").sum("amount", "1h")


class Payment(msgspec.Struct):
    event_id: str
    event_time: int
    card: str
    shop: str
    amount: float
    paid: float | None = None
    kind: str = "sale"


class Wider(msgspec.Struct):
    event_id: str
    event_time: int
    card: str
    shop: str
    amount: float
    country: str = ""
    paid: float | None = None
    kind: str = "sale"


class Renamed(msgspec.Struct, rename={"amount": "value"}):
    event_id: str
    event_time: int
    card: str
    shop: str
    amount: float
    kind: str = "sale"


class WholeAmounts(msgspec.Struct):
    event_id: str
    event_time: int
    card: str
    shop: str
    amount: int
    kind: str = "sale"


class OtherDefault(Payment):
    kind: str = "other"


def book(features: Any, **changes: Any) -> dict[str, CatalogueEntry]:
    given: dict[str, Any] = {
        "name": "pay",
        "events": Topic("pay.events", Payment, key="card"),
        "labels": Labels("pay.labels", wait="1d"),
        "models": {"lr": linear_model.LogisticRegression()},
    }
    made = Pipeline(features=features, **{**given, **changes})
    return {entry.name: entry for entry in made.book}


def version(expression: Any, **changes: Any) -> str:
    return book({"x": expression}, **changes)["x"].version


def events(event_type: Any = Payment, **changes: Any) -> dict[str, Any]:
    return {"events": Topic("pay.events", event_type, key="card", **changes)}


CLIP = Rule(field("amount"), between=(0, 100), action="clip")
SAME = [
    ("spelling of a duration", (SPENT, {}), (by("card").sum(field("amount"), "60m"), {})),
    ("words", (SPENT, {}), (SPENT.describe("spent in an hour", owner="risk"), {})),
    ("other words", (SPENT.describe("a", owner="b"), {}), (SPENT.describe("c"), {})),
    ("words inside", (SPENT / 2, {}), (SPENT.describe("spent") / 2, {})),
    ("words in a cross", (cross(field("shop"), field("kind")), {}),
     (cross(field("shop").describe("where"), field("kind")), {})),
    ("words in a condition", (by("card").count("1h", where=field("amount") > 5), {}),
     (by("card").count("1h", where=field("amount").describe("EUR") > 5), {})),
    ("words in a column", (by("card").mean(field("amount").log(), "1h"), {}),
     (by("card").mean(field("amount").describe("EUR").log(), "60m"), {})),
    ("a column that is a field", (SPENT, {}), (by("card").sum(field("amount").describe("EUR"), "1h"), {})),
    ("a field that it does not read", (SPENT, {}), (SPENT, events(Wider))),
    ("another default of one", (SPENT, {}), (SPENT, events(OtherDefault))),
    ("grace without windows", (field("amount"), {}), (field("amount"), events(grace="5m"))),
    ("entries without windows", (field("amount"), {}), (field("amount"), {"max_events_per_key": 5})),
    ("labels, of event windows", (SPENT, {}), (SPENT, {"labels": Labels("l", wait="2d")})),
    ("the topics' names", (LATE, {}), (LATE, {"labels": Labels("other", wait="1d")})),
    ("the pipeline and its models", (SPENT, {}),
     (SPENT, {"name": "other", "models": {"m": linear_model.Perceptron()}})),
    ("a rule about another field", (SPENT, {}),
     (SPENT, {"rules": [Rule(field("paid"), between=(0, 9), action="clip")]})),
    ("a rule that changes no value", (SPENT, {}),
     (SPENT, {"rules": [Rule(field("amount"), between=(0, 9), action="flag")]})),
    ("the name of a rule", (SPENT, {"rules": [CLIP]}),
     (SPENT, {"rules": [Rule(field("amount"), between=(0, 100), action="clip", name="sane")]})),
]  # fmt: skip
OTHER = [
    ("field", (field("amount"), {}), (field("paid"), {})),
    ("width", (SPENT, {}), (by("card").sum("amount", "2h"), {})),
    ("key", (SPENT, {}), (by("shop").sum("amount", "1h"), {})),
    ("keys", (SPENT, {}), (by("card", "shop").sum("amount", "1h"), {})),
    ("kind", (SPENT, {}), (by("card").mean("amount", "1h"), {})),
    ("source", (by("card").count("3h"), {}), (by("card").count(label, "3h"), {})),
    ("the event itself", (SPENT, {}), (by("card").sum("amount", "1h", include_current=False), {})),
    ("condition", (SPENT, {}), (by("card").sum("amount", "1h", where=field("kind") == "sale"), {})),
    ("shift", (SPENT, {}), (by("card").sum("amount", "1h", shift="1d"), {})),
    ("kind of window", (SPENT, {}), (by("card").sum("amount", tumbling("1h")), {})),
    ("step", (by("card").sum("amount", tiled("1h", step="10m")), {}),
     (by("card").sum("amount", tiled("1h", step="5m")), {})),
    ("number", (by("card").sum("amount", last_n(2)), {}), (by("card").sum("amount", last_n(3)), {})),
    ("half-life", (by("card").sum("amount", decay("1h")), {}), (by("card").sum("amount", decay("2h")), {})),
    ("share", (by("card").quantile("amount", 0.9, "1h"), {}),
     (by("card").quantile("amount", 0.95, "1h"), {})),
    ("default", (LATE.default(0.0), {}), (LATE.default(0.5), {})),
    ("no default", (LATE, {}), (LATE.default(0.0), {})),
    ("operation", (field("amount") + 1, {}), (field("amount") - 1, {})),
    ("buckets", (field("shop").hashed(64), {}), (field("shop").hashed(128), {})),
    ("boundaries", (field("amount").bucket([1, 2]), {}), (field("amount").bucket([1, 3]), {})),
    ("local time", (field("event_time").hour(), {}), (field("event_time").hour(utc_offset="+01:00"), {})),
    ("column", (by("card").mean(field("amount").log(), "1h"), {}),
     (by("card").mean(field("amount").log1p(), "1h"), {})),
    ("field or what is calculated from it", (SPENT, {}), (by("card").sum(field("amount") * 1, "1h"), {})),
    ("what the largest is of", (by("card").arg_max("shop", field("amount").abs(), "1h"), {}),
     (by("card").arg_max("shop", -field("amount"), "1h"), {})),
    ("version of a function in a column",
     (by("card").max(apply(hypot, field("amount"), field("paid"), returns=float), "1h"), {}),
     (by("card").max(apply(hypot, field("amount"), field("paid"), returns=float, version=2), "1h"), {})),
    ("type of a field in a column", (by("card").mean(field("amount").log(), "1h"), {}),
     (by("card").mean(field("amount").log(), "1h"), events(WholeAmounts))),
    ("rule about a field in a column", (by("card").mean(field("amount").log(), "1h"), {}),
     (by("card").mean(field("amount").log(), "1h"), {"rules": [CLIP]})),
    ("version of a function", (apply(hypot, field("amount"), field("paid"), returns=float), {}),
     (apply(hypot, field("amount"), field("paid"), returns=float, version=2), {})),
    ("condition as a feature", (indicator(field("amount") > 1), {}), (indicator(field("amount") > 2), {})),
    ("type of a field in a cross", (cross(field("shop"), field("kind")), {}),
     (cross(field("shop"), field("kind")), events(OtherDefault))),
    ("part of a time", (field("event_time").hour(), {}), (field("event_time").weekday(), {})),
    ("looked-up field", (lookup("m:{shop}", "risk", 0.0), {}), (lookup("m:{shop}", "mean", 0.0), {})),
    ("its default", (lookup("m:{shop}", "risk", 0.0), {}), (lookup("m:{shop}", "risk", 1.0), {})),
    ("type of a field", (SPENT, {}), (SPENT, events(WholeAmounts))),
    ("name on the wire", (SPENT, {}), (SPENT, events(Renamed))),
    ("default of a field", (field("kind"), {}), (field("kind"), events(OtherDefault))),
    ("of one in a condition", (by("card").count("1h", where=field("kind") == "sale"), {}),
     (by("card").count("1h", where=field("kind") == "sale"), events(OtherDefault))),
    ("grace", (SPENT, {}), (SPENT, events(grace="5m"))),
    ("bound of entries", (SPENT, {}), (SPENT, {"max_events_per_key": 5})),
    ("wait", (LATE, {}), (LATE, {"labels": Labels("pay.labels", wait="2d")})),
    ("label assumed", (LATE, {}), (LATE, {"labels": Labels("pay.labels", wait="1d", on_timeout=False)})),
    ("rule about a field", (SPENT, {}), (SPENT, {"rules": [CLIP]})),
    ("bound of a rule", (SPENT, {"rules": [CLIP]}),
     (SPENT, {"rules": [Rule(field("amount"), between=(0, 99), action="clip")]})),
    ("rule about the feature", (SPENT, {}),
     (SPENT, {"rules": [Rule(feature("x"), between=(0, 9), action="null")]})),
    ("rule behind a rule",
     (field("paid"), {"rules": [Rule(field("paid") <= field("amount"), action="null")]}),
     (field("paid"), {"rules": [CLIP, Rule(field("paid") <= field("amount"), action="null")]})),
]  # fmt: skip


@pytest.mark.parametrize(("one", "two"), [pair[1:] for pair in SAME], ids=[pair[0] for pair in SAME])
def test_the_version_stays(one: Any, two: Any) -> None:
    assert version(one[0], **one[1]) == version(two[0], **two[1])


@pytest.mark.parametrize(("one", "two"), [pair[1:] for pair in OTHER], ids=[pair[0] for pair in OTHER])
def test_the_version_changes(one: Any, two: Any) -> None:
    assert version(one[0], **one[1]) != version(two[0], **two[1])


def test_a_rule_between_features_makes_one_version_depend_on_the_other() -> None:
    rules = [Rule(feature("x") <= feature("y"), action="null")]

    def both(y: Any) -> dict[str, str]:
        features = {"x": field("amount"), "y": y, "z": SPENT}
        return {name: entry.version for name, entry in book(features, rules=rules).items()}

    one, two = both(field("paid")), both(field("amount") * 2)
    assert {name for name in one if one[name] != two[name]} == {"x", "y"}


def test_names_and_neighbours_change_no_version() -> None:
    alone, among = version(SPENT), book({"n": by("card").count("9h"), "spent": SPENT})
    assert among["spent"].version == alone
    made = {name: Pipeline(
        name="p", events=Topic("e", Payment, key="card"), labels=Labels("l", wait="1d"), features=features,
        models={"lr": linear_model.LogisticRegression()},
    ).features_version for name, features in {
        "one": {"a": SPENT, "b": LATE}, "order": {"b": LATE, "a": SPENT},
        "name": {"a": SPENT, "c": LATE}, "swapped": {"a": LATE, "b": SPENT},
    }.items()}  # fmt: skip
    assert made["one"] == made["order"]
    assert len(set(made.values())) == 3


def test_an_entry_says_where_a_value_comes_from() -> None:
    where = field("kind") == "sale"
    found = book(
        {
            "hour": field("event_time").hour(),
            "late": LATE.default(0.0).describe("late lately", owner="ops"),
            "top": by("card", "shop").arg_max("kind", "amount", "1d", where=where),
            "risk": lookup("shop:{shop}", "risk", default=0.0),
            "share": (by("card").count("1h", shift="1d") / by().count(tiled("1h", step="10m"))).describe("s"),
            "session": by("card").count(session("30m")),
            "pair": cross(field("shop"), field("kind")).hashed(64).describe("where and what"),
            "paid": by("card").mean(field("paid") / field("amount"), "1h"),
            "pairs": by("card").arg_max(cross(field("shop"), field("kind")), -field("amount"), "1h"),
            "either": coalesce(by("card").mean("amount", "1h"), by("shop").mean("amount", "2h")).default(0.0),
        }
    )
    shown = {name: entry[2:10] for name, entry in found.items()}
    hour_ms = 3_600_000
    many = "100,000 entries"
    assert shown == {
        "hour": ("int", "hour", "event", ("event_time",), "", "", None, ""),
        "late": ("float", "mean", "labels", ("card",), "card", "3h", 3 * hour_ms, many),
        "top": ("str", "arg_max", "events", ("card", "shop", "kind", "amount"), "card+shop", "1d",
                24 * hour_ms, many),
        "risk": ("float", "lookup", "lookup", ("shop",), "", "", None, ""),
        "share": ("float", "calculation", "events", ("card",), "card, all",
                  '1h, 1d before, tiled("1h", step="10m")', 25 * hour_ms, f"{many}, 7 tiles"),
        "session": ("int", "count", "events", ("card",), "card", 'session("30m")', hour_ms // 2, "1 session"),
        "pair": ("str", "hashed", "event", ("shop", "kind"), "", "", None, ""),
        "paid": ("float", "mean", "events", ("card", "paid", "amount"), "card", "1h", hour_ms, many),
        "pairs": ("str", "arg_max", "events", ("card", "shop", "kind", "amount"), "card", "1h", hour_ms,
                  many),
        "either": ("float", "coalesce", "events", ("card", "amount", "shop"), "card, shop", "1h, 2h",
                   2 * hour_ms, many),
    }  # fmt: skip
    late = found["late"]
    assert (late.expression, late.default) == ('by("card").mean(label, "3h").default(0.0)', 0.0)
    assert (late.description, late.owner) == ("late lately", "ops")
    assert found["share"].description == "s"
    assert found["paid"].expression == 'by("card").mean(field("paid") / field("amount"), "1h")'


@pytest.mark.parametrize("words", [{"text": "x" * 1_001}, {"text": 3}, {"text": "", "owner": "x" * 201}])
def test_words_have_limits(words: Any) -> None:
    with pytest.raises(DefinitionError) as caught:
        book({"spent": SPENT.describe(**words)})
    assert "'spent'" in caught.value.message


def test_defaults_of_fields_are_text_that_does_not_change_between_runs() -> None:
    class Made(msgspec.Struct):
        tags: list[str] = []
        other: dict[str, int] = msgspec.field(default_factory=lambda: {"a": 1})

    assert all(" at 0x" not in text for text in event_fields(Made).values())


def test_the_version_is_this_one() -> None:
    """Were it another, every running pipeline would refuse its checkpoints: raise `SEMANTICS` on purpose."""
    assert version(SPENT) == "e19f9d467f2f"
