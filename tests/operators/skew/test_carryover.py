"""A window that two definitions share goes on as if the new one had been there from the start."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import by, cross, decay, field, indicator, label, last_n, session, tiled, tumbling
from operators.join.answered import WaitingAnswer
from operators.join.join import Join
from operators.language.catalogue import event_fields
from operators.language.fields import Expression, windows_of
from operators.language.plan import FeaturePlan, compile_features
from operators.skew.carryover import Layout, carried_over, difference, features_filling, layout_of_plan
from operators.state import named, under
from operators.windows.features import Features, JoinedLabel
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


def groups_of(plan: FeaturePlan, name: str) -> set[str]:
    group_of = plan.group_of
    return {group_of[window].name for window in windows_of(POOL[name])}


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
    shared = set(after) - set(features_filling(new, layout(old)))
    found = run(changed, events[cut:])
    wanted = run(always, events[cut:])
    for event, one, other in zip(events[cut:], found, wanted, strict=True):
        if not event.late:  # a late one sees what is kept, and longer windows keep more
            assert {name: one.get(name) for name in shared} == {name: other.get(name) for name in shared}
    assert set(after) - shared <= set(added) | {
        name for name in both if groups_of(old, name) != groups_of(new, name)
    }


@settings(max_examples=40, deadline=None)
@given(names, streams())
def test_the_same_definition_in_another_order_loses_nothing(features: list[str], events: list[Event]) -> None:
    old, new = plan_of(features), plan_of(reversed(features))
    first = Features(old)
    run(first, events)
    there = carried(old, first.snapshot(), new)
    assert len(there) == len(first.snapshot())
    assert carried(new, there, old) == first.snapshot()
    assert features_filling(new, layout(old)) == ()


# -- what begins empty, what goes ------------------------------------------------------------------


def filled(features: list[str]) -> tuple[FeaturePlan, dict[str, bytes]]:
    plan = plan_of(features)
    made = Features(plan)
    for second in range(5):
        event = Event(str(second), second * SECOND, "a", Payment("a", "x", 2.0), second, second * SECOND)
        made.step_events([event])
    return plan, made.snapshot()


@pytest.mark.parametrize(
    ("kept", "added"),
    [
        ("n_10", "sum_10"),
        ("n_10", "before"),
        ("tiled", "tiled_max"),
        ("session", "session_q"),
        ("faded_n", "faded_mean"),
        ("tumbled", "tumbled_first"),
    ],
)
def test_a_group_that_keeps_something_else_begins_empty(kept: str, added: str) -> None:
    old, entries = filled([kept])
    new = plan_of([kept, added])
    changed = Features(new)
    changed.restore(carried(old, entries, new))
    assert changed.key_count == 0
    assert features_filling(new, layout(old)) == (kept, added)


def test_another_window_of_what_is_kept_goes_on() -> None:
    old, entries = filled(["n_10", "sum_10"])
    new = plan_of(["sum_10", "n_10", "gap"])
    changed = Features(new)
    changed.restore(carried(old, entries, new))
    event = Event("e", 5 * SECOND, "a", Payment("a", "y", 3.0), 5, 5 * SECOND)
    assert changed.step_events([event]) == [{"n_10": 6, "sum_10": 13.0, "gap": 1_000}]
    assert features_filling(new, layout(old)) == ()


def test_what_is_gone_is_dropped_and_counted() -> None:
    old, entries = filled(["n_10", "last", "all"])
    new = plan_of(["all"])
    found = carried_over(named({"features": entries}), layout(old), layout(new))
    assert (found.keys, found.keys_dropped) == (1, 2)
    names = {group.keys: group.name for group in old.groups}
    assert sorted(found.entries) == [f"features/{names[()]}/", "features/meta"]
    delta = difference(named({"features": entries}), found.entries)
    assert {name for name, data in delta.items() if data is None} == {
        f"features/{names['card',]}/a",
        f"features/{names['shop',]}/x",
    }


def test_a_window_that_reaches_elsewhere_is_filling() -> None:
    one, two = (
        compile_features(
            {"n": by("card").count(text)}, Payment, grace_ms=0, max_events_per_key=9, task="binary"
        )
        for text in ("1h", "2h")
    )
    assert features_filling(two, layout(one)) == ("n",)
    assert features_filling(one, layout(two)) == ("n",)


class WholePayment(msgspec.Struct):
    card: str
    amount: int


def test_a_field_of_another_type_and_another_calculation_begin_a_group_anew() -> None:
    def plan(of: Expression, of_type: type[msgspec.Struct] = Payment) -> FeaturePlan:
        features = {"x": by("card").sum(of, "10s")}
        return compile_features(features, of_type, grace_ms=0, max_events_per_key=9, task="binary")

    old = layout(plan(field("amount") * 2))
    assert features_filling(plan(field("amount") * 2), old) == ()
    assert features_filling(plan(field("amount") * 3), old) == ("x",)
    assert features_filling(plan(field("amount") * 2, WholePayment), old) == ("x",)


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
