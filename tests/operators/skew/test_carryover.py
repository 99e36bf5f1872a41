"""A window that two definitions share goes on as if the new one had been there from the start."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import by, cross, decay, field, indicator, label, last_n, session, tiled, tumbling
from operators.features import Features, JoinedLabel
from operators.join.answered import WaitingAnswer
from operators.join.join import Join
from operators.language.catalogue import event_fields
from operators.language.fields import Expression
from operators.language.plan import FeaturePlan, compile_features
from operators.skew.carryover import Layout, carried_over, difference, features_filling, layout_of_plan
from operators.state import named, under
from topics.messages import Event, Label, Prediction

SECOND = 1_000
GRACE_MS = 3 * SECOND


class Payment(msgspec.Struct):
    card: str
    shop: str
    amount: float | None
    fee: int = 0


large = field("amount") > 4
POOL: dict[str, Expression] = {
    "amount": field("amount"),
    "n_10": by("card").count("10s"),
    "sum_10": by("card").sum("amount", "10s"),
    "max_5": by("card").max("fee", "5s"),
    "gap": by("card").since_last("8s"),
    "shops": by("card").distinct("shop", "10s"),
    "median": by("card").median("amount", "10s"),
    "last": by("shop").last("card", last_n(2)),
    "large": by("card").count("10s", where=large),
    "before": by("card").mean("amount", "5s", shift="4s"),
    "tiled": by("card").mean("amount", tiled("8s", step="2s")),
    "tiled_max": by("card").max("fee", tiled("8s", step="2s")),
    "tiled_long": by("card").arg_max("fee", "amount", tiled("12s", step="2s")),
    "tumbled": by("shop").sum("amount", tumbling("4s")),
    "tumbled_first": by("shop").first("fee", tumbling("4s")),
    "session": by("card").sum("amount", session("3s")),
    "session_q": by("card").quantile("amount", 0.9, session("3s")),
    "session_long": by("card").count(session("6s")),
    "tiled_fine": by("card").sum("amount", tiled("8s", step="1s")),
    "before_more": by("card").mean("amount", "5s", shift="2s"),
    "faded": by("card").sum("amount", decay("5s")),
    "faded_mean": by("card").mean("amount", decay("5s")),
    "faded_n": by("card").count(decay("2s")),
    "root": by("card").sum(field("amount").sqrt(), "10s"),
    "root_tiled": by("card").mean(field("amount").sqrt(), tiled("8s", step="2s")),
    "root_faded": by("card").mean(field("amount").sqrt(), decay("5s")),
    "pairs": by("card").distinct(cross(field("shop"), field("fee")), "10s"),
    "best": by("card").arg_max(cross(field("shop"), field("fee")), -field("amount"), session("3s")),
    "all": by().count("10s"),
    "labels": by("card").mean(label, "10s"),
    "labels_all": by().count(label, "6s"),
    "labels_n": by("shop").count(label, "6s"),
    "labels_true": by("card").mean(indicator(label == 1), "10s"),
    "labels_true_tiled": by("card").mean(indicator(label == 1), tiled("8s", step="2s")),
    "labels_tiled": by("card").sum(label, tiled("8s", step="2s")),
    "ratio": by("card").sum("amount", "10s") / by().sum("amount", "10s").default(1.0),
}


def plan_of(names: Any) -> FeaturePlan:
    features = {name: POOL[name] for name in names}
    return compile_features(features, Payment, grace_ms=GRACE_MS, max_events_per_key=50, task="binary")


def layout(plan: FeaturePlan) -> Layout:
    return layout_of_plan(plan, event_fields(Payment))


def carried(before: FeaturePlan, entries: dict[str, bytes], after: FeaturePlan) -> dict[str, bytes]:
    found = carried_over(named({"features": entries}), layout(before), layout(after))
    return under("features", found.entries)


# -- the oracle: the new definition from the start -----------------------------------------------------


@st.composite
def streams(draw: st.DrawFn) -> list[Event]:
    events, time, time_max = [], 100 * SECOND, 0
    for number in range(draw(st.integers(4, 40))):
        time += draw(st.sampled_from([0, 200, 500, 1_500, 4_000]))
        at = time - draw(st.sampled_from([0, 0, 0, 400, 2_500, 9_000]))
        value = Payment(
            draw(st.sampled_from("ab")),
            draw(st.sampled_from("xyz")),
            draw(st.sampled_from([None, 0.1, 2.5, 7.0, 1e6])),
            draw(st.integers(0, 5)),
        )
        time_max = max(time_max, at)
        watermark = time_max - GRACE_MS
        events.append(Event(str(number), at, value.card, value, number, watermark, late=at < watermark))
    return events


def run(features: Features, events: list[Event]) -> list[dict[str, Any]]:
    """Every third event gets a label half a second after its time."""
    rows = []
    for event in events:
        rows += features.step_events([event])
        if event.offset % 3 == 0:
            keys = features.label_keys(event)
            features.step_labels([JoinedLabel(keys, event.event_time + 500, float(event.offset % 2))])
    return rows


names = st.lists(st.sampled_from(sorted(POOL)), min_size=1, max_size=8, unique=True)
some = st.lists(st.sampled_from(sorted(POOL)), max_size=5, unique=True)


@settings(max_examples=80, deadline=None)
@given(names, some, some, streams(), st.data())
def test_windows_that_both_definitions_have_go_on(
    both: list[str], gone: list[str], added: list[str], events: list[Event], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(len(events) // 2, len(events)))
    before = data.draw(st.permutations(sorted({*both, *gone})))
    after = data.draw(st.permutations(sorted({*both, *added})))
    old, new = plan_of(before), plan_of(after)
    first = Features(old)
    run(first, events[:cut])
    changed = Features(new)
    changed.restore(carried(old, first.snapshot(), new))
    always = Features(new)
    run(always, events[:cut])
    shared = set(before) & set(after)
    found = run(changed, events[cut:])
    wanted = run(always, events[cut:])
    for event, one, other in zip(events[cut:], found, wanted, strict=True):
        if not event.late:  # a late one sees what is kept, and longer windows keep more
            assert {name: one.get(name) for name in shared} == {name: other.get(name) for name in shared}
    assert shared.isdisjoint(features_filling(new, event_fields(Payment), layout(old)))


@settings(max_examples=40, deadline=None)
@given(names, streams())
def test_the_same_definition_in_another_order_loses_nothing(features: list[str], events: list[Event]) -> None:
    old, new = plan_of(features), plan_of(reversed(features))
    first = Features(old)
    run(first, events)
    there = carried(old, first.snapshot(), new)
    assert len(there) == len(first.snapshot())
    assert carried(new, there, old) == first.snapshot()
    assert features_filling(new, event_fields(Payment), layout(old)) == ()


# -- what begins empty, what goes ------------------------------------------------------------------


def filled(features: list[str]) -> tuple[FeaturePlan, dict[str, bytes]]:
    plan = plan_of(features)
    made = Features(plan)
    for second in range(5):
        event = Event(str(second), second * SECOND, "a", Payment("a", "x", 2.0), second, second * SECOND)
        made.step_events([event])
    return plan, made.snapshot()


def test_a_new_column_is_missing_in_old_entries_and_fills() -> None:
    old, entries = filled(["n_10"])
    new = plan_of(["n_10", "sum_10", "shops"])
    changed = Features(new)
    changed.restore(carried(old, entries, new))
    event = Event("e", 5 * SECOND, "a", Payment("a", "y", 3.0), 5, 5 * SECOND)
    assert changed.step_events([event]) == [{"n_10": 6, "sum_10": 3.0, "shops": 1}]
    assert features_filling(new, event_fields(Payment), layout(old)) == ("sum_10", "shops")


@pytest.mark.parametrize(
    ("kept", "added", "wanted"),
    [
        ("tiled", "tiled_max", {"tiled": 2.0, "tiled_max": 1}),
        ("session", "session_q", {"session": 12.0, "session_q": 2.0}),
        ("faded_n", "faded_mean", {"faded_mean": 2.0}),
        ("tumbled", "tumbled_first", {"tumbled": 4.0, "tumbled_first": 1}),
    ],
)
def test_a_new_cell_of_what_is_summed_up_begins_empty(kept: str, added: str, wanted: dict[str, Any]) -> None:
    old, entries = filled([kept])
    new = plan_of([kept, added])
    changed = Features(new)
    changed.restore(carried(old, entries, new))
    event = Event("e", 5 * SECOND, "a", Payment("a", "x", 2.0, 1), 5, 5 * SECOND)
    (row,) = changed.step_events([event])
    assert {name: row[name] for name in wanted} == pytest.approx(wanted, rel=0.01)
    assert features_filling(new, event_fields(Payment), layout(old)) == (added,)


def test_what_is_gone_is_dropped_and_counted() -> None:
    old, entries = filled(["n_10", "last", "all"])
    new = plan_of(["all"])
    found = carried_over(named({"features": entries}), layout(old), layout(new))
    assert (found.keys, found.keys_dropped) == (1, 2)
    assert sorted(found.entries) == ["features/0/", "features/meta"]
    delta = difference(named({"features": entries}), found.entries)
    assert {name for name, data in delta.items() if data is None} == {
        "features/0/a",
        "features/1/x",
        "features/2/",
    }


def test_a_longer_window_is_filling_a_shorter_one_is_not() -> None:
    plans = {
        text: compile_features(
            {"n": by("card").count(text)}, Payment, grace_ms=0, max_events_per_key=9, task="binary"
        )
        for text in ("1h", "2h")
    }
    types = event_fields(Payment)
    assert features_filling(plans["2h"], types, layout(plans["1h"])) == ("n",)
    assert features_filling(plans["1h"], types, layout(plans["2h"])) == ()


def test_a_field_of_another_type_begins_a_window_anew() -> None:
    old, entries = filled(["sum_10"])
    types = event_fields(Payment) | {"amount": "amount int"}
    new = layout_of_plan(old, types)
    found = under("features", carried_over(named({"features": entries}), layout(old), new).entries)
    (log,) = (data for name, data in found.items() if name != "meta")
    assert set(msgspec.msgpack.decode(log)[1]) == {None}
    assert features_filling(old, types, layout(old)) == ("sum_10",)


def test_another_calculation_begins_a_column_anew_and_so_does_another_type_below_it() -> None:
    def plan(of: Expression) -> FeaturePlan:
        features = {"x": by("card").sum(of, "10s"), "n": by("card").count("10s")}
        return compile_features(features, Payment, grace_ms=0, max_events_per_key=9, task="binary")

    types = event_fields(Payment)
    old = layout_of_plan(plan(field("amount") * 2), types)
    assert features_filling(plan(field("amount") * 2), types, old) == ()
    assert features_filling(plan(field("amount") * 3), types, old) == ("x",)
    whole = types | {"amount": "amount int"}
    assert features_filling(plan(field("amount") * 2), whole, old) == ("x",)


# -- predictions that wait -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "keys"),
    [
        (["labels", "labels_n"], ["labels_n", "labels"], ("x", "a")),
        (["labels"], ["labels", "labels_n"], ("a", None)),
        (["labels", "labels_n"], ["labels_n"], ("x",)),
        (["labels"], ["labels_tiled"], ("a",)),
        (["labels"], ["n_10"], ()),
        (["labels"], ["labels_all", "labels"], ("", "a")),
    ],
)
def test_waiting_predictions_know_their_keys_where_they_can(
    before: list[str], after: list[str], keys: tuple[str | None, ...]
) -> None:
    old, new = plan_of(before), plan_of(after)
    join = Join(wait_ms=60_000, implicit=None)
    answer = Prediction("p:e", "e", 5, 6, "m", 1, 0, "champion", 0.5, True, "champion", {"x": 1}, 0, 1, 0)
    event = Event("e", 5, "a", Payment("a", "x", 1.0), 0, 5)
    join.open(WaitingAnswer.of(answer, "a", Features(old).label_keys(event), 7, {}))
    entries = named({"features": Features(old).snapshot(), "join": join.snapshot(), "rest": {"x": b"1"}})
    found = carried_over(entries, layout(old), layout(new)).entries
    assert found["rest/x"] == b"1"
    join.restore(under("join", found))
    _, joined = join.label(Label("e", True, 600, 0), key=None, value=None)
    assert joined is not None
    assert (joined.waiting.keys, joined.waiting.prediction) == (keys, answer)
    features = Features(new)
    features.restore(under("features", found))
    features.step_labels([JoinedLabel(joined.waiting.keys, joined.label_time, 1.0)])
    assert features.key_count == sum(key is not None for key in keys)
