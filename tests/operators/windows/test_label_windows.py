"""Windows over labels are what recomputing them gives: of classes, of numbers, of conditions on both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import linear_model, tree
from test_skew_comparison import Sale, checked, played, records
from window_oracle import GRACE, Entry, Payment, histories, tolerance, value_at

from engine import Labels, Pipeline, Topic
from operators import by, decay, field, indicator, label, last_n, tiled, tumbling
from operators.language.expressions import Expression
from operators.language.fields import Aggregate
from operators.language.plan import compile_features
from operators.language.window_kinds import Decay
from operators.windows.features import Features, JoinedLabel
from topics.errors import DefinitionError
from topics.messages import Event, Task

CARD, ALL = by("card"), by()
SMURF = indicator(label == "smurf")
DEAR = field("amount") > 1

CLASSES: dict[str, Aggregate] = {
    "n": CARD.count(label, "500ms"),
    "first": CARD.first(label, "500ms"),
    "last": CARD.last(label, "500ms"),
    "last_short": ALL.last(label, "60ms"),
    "mode": CARD.mode(label, "500ms"),
    "second": CARD.mode(label, "2s", rank=2),
    "distinct": CARD.distinct(label, "500ms"),
    "entropy": CARD.entropy(label, "2s"),
    "shifted": CARD.last(label, "500ms", shift="40ms"),
    "of_dear": CARD.mode(label, "500ms", where=DEAR),
    "tumbling_last": CARD.last(label, tumbling("500ms")),
    "tumbling_mode": CARD.mode(label, tumbling("500ms")),
    "newest": CARD.mode(label, last_n(3, within="2s")),
    "tiled_first": CARD.first(label, tiled("300ms", step="100ms")),
    "share": CARD.mean(SMURF, "500ms"),
    "share_of_dear": CARD.mean(SMURF, "500ms", where=DEAR),
    "share_all": ALL.mean(SMURF, "60ms"),
    "smurfs": CARD.sum(SMURF, "2s"),
    "other": CARD.mean(indicator((label != "smurf") & ~label.is_in("ipsweep")), "500ms"),
    "share_shifted": CARD.mean(SMURF, "500ms", shift="40ms"),
    "share_tumbling": CARD.mean(SMURF, tumbling("500ms")),
    "share_tiled": CARD.mean(SMURF, tiled("300ms", step="100ms")),
    "share_newest": CARD.mean(SMURF, last_n(3, within="2s")),
    "share_fading": CARD.mean(SMURF, decay("100ms")),
}
NUMBERS: dict[str, Aggregate] = {
    "mean": CARD.mean(label, "500ms"),
    "high": CARD.mean(indicator(label > 2), "500ms"),
    "high_of_dear": CARD.sum(indicator(label > 2), "500ms", where=DEAR),
    "last": CARD.last(label, "500ms"),
    "last_tiled": CARD.last(label, tiled("300ms", step="100ms")),
    "high_tiled": CARD.mean(indicator(label > 2), tiled("300ms", step="100ms")),
    "median": CARD.median(label, "500ms"),
}
MEANINGS: dict[str, Any] = {
    repr(DEAR): lambda payment: payment.amount is not None and payment.amount > 1,
    repr(SMURF): lambda value: float(value == "smurf"),
    repr(CLASSES["other"].of): lambda value: float(value not in ("smurf", "ipsweep")),
    repr(NUMBERS["high"].of): lambda value: float(value > 2),
}


def features_of(definition: Mapping[str, Expression], task: Task) -> Features:
    return Features(compile_features(definition, Payment, grace_ms=GRACE, max_events_per_key=1000, task=task))


@st.composite
def stories(draw: st.DrawFn, values: st.SearchStrategy[Any]) -> list[Event | tuple[Event, int, Any]]:
    """Return events and, somewhere behind each or before its watermark's next, labels of some of them."""
    story: list[Any] = []
    for event in draw(histories()):
        story.append(event)
        if draw(st.booleans()):
            story.append((event, event.event_time + draw(st.integers(0, 120)), draw(values)))
    return story


def check(definition: Mapping[str, Aggregate], task: Task, story: list[Any], cut: int) -> None:
    """Assert that all windows are what the joined labels say; go on from a snapshot at `cut`."""
    features = features_of(definition, task)
    joined: list[tuple[Event, int, Any]] = []
    for number, item in enumerate(story):
        if number == cut:
            restored = features_of(definition, task)
            restored.restore(features.snapshot())
            assert restored.snapshot() == features.snapshot()
            features = restored
        if isinstance(item, tuple):
            of, time, value = item
            features.step_labels([JoinedLabel(features.label_keys(of), time, value)])
            joined.append(item)
            continue
        (row,) = features.step_events([item])
        if not item.late:
            for name, aggregate in definition.items():
                compare(row.get(name), aggregate, item, joined)


def compare(found: Any, aggregate: Aggregate, event: Event, joined: list[tuple[Event, int, Any]]) -> None:
    def of_key(of: Event) -> bool:
        return not aggregate.keys or of.value.card == event.value.card

    if aggregate.where is None:
        met = [(time, value) for of, time, value in joined if of_key(of)]
    else:
        meets = MEANINGS[repr(aggregate.where)]
        met = [(time, value) for of, time, value in joined if of_key(of) and meets(of.value)]
    in_order = sorted(met, key=lambda pair: pair[0])
    entries = [Entry(time, value) for time, value in in_order if time <= event.event_time]
    bare = Aggregate(
        aggregate.function, aggregate.keys, aggregate.of, aggregate.window_ms,
        shift_ms=aggregate.shift_ms, span=aggregate.span, argument=aggregate.argument,
    )  # fmt: skip
    newest = entries[-1].time if entries else 0
    if (
        found is None
        and isinstance(aggregate.span, Decay)
        and newest <= event.event_time - aggregate.window_ms
    ):
        return  # an idle key is forgotten after so many half-lives
    wanted = value_at(bare, entries, event.event_time, MEANINGS)
    relative, absolute = tolerance(aggregate)
    if wanted is None or found is None or isinstance(wanted, str) or not (relative or absolute):
        assert found == wanted, aggregate
    else:
        assert math.isclose(found, wanted, rel_tol=relative, abs_tol=absolute), aggregate


@settings(max_examples=50, deadline=None)
@given(stories(st.sampled_from(["smurf", "neptune", "ipsweep", "normal"])), st.integers(0, 60))
def test_windows_over_classes_are_what_the_labels_say(story: list[Any], cut: int) -> None:
    check(CLASSES, "multiclass", story, cut)


@settings(max_examples=50, deadline=None)
@given(stories(st.sampled_from([0.0, 1.5, 2.5, 7.0])), st.integers(0, 60))
def test_windows_over_numbers_stay_as_they_are(story: list[Any], cut: int) -> None:
    check(NUMBERS, "regression", story, cut)


def test_a_long_class_counts_by_its_first_256_characters() -> None:
    definition = {"last": CARD.last(label, "1s"), "n": CARD.distinct(label, "1s")}
    features = features_of(definition, "multiclass")
    for tail in "xy":
        features.step_labels([JoinedLabel(("a",), 5, "c" * 256 + tail)])
    (row,) = features.step_events([Event("e", 9, "a", Payment("a"), 0, 9)])
    assert row == {"last": "c" * 256, "n": 1}


def test_the_types_of_class_windows_are_known() -> None:
    definition = {name: CLASSES[name] for name in ("last", "mode", "n", "entropy", "share")}
    types = features_of(definition, "multiclass").plan.feature_types(Payment)
    assert types == {"last": str, "mode": str, "n": int, "entropy": float, "share": float}
    assert features_of({"last": CARD.last(label, "1s")}, "binary").plan.feature_types(Payment) == {
        "last": float
    }


@pytest.mark.parametrize(
    ("expression", "task", "reason"),
    [
        (CARD.mean(label, "1h"), "multiclass", "a class label is no number"),
        (CARD.last(label, "1h").default(0.0), "multiclass", "default 0.0 is no text"),
        (CARD.mean(indicator(label == 3), "1h"), "multiclass", "compares number with text"),
        (CARD.mean(indicator(label == "a"), "1h"), "binary", "compares number with text"),
        (CARD.mean(indicator((label == "a") & DEAR), "1h"), "multiclass", "is not of the event itself"),
        (CARD.count(label, "1h", where=label == "a"), "multiclass", "label is not of the event itself"),
        (indicator(label == "a"), "multiclass", "the label of the event is not known yet"),
        (indicator(label == "a").default(False), "multiclass", "the label of the event is not known yet"),
    ],
    ids=repr,
)
def test_what_cannot_be_is_refused_with_the_place(expression: Any, task: Task, reason: str) -> None:
    with pytest.raises(DefinitionError, match=r"feature .x.: ") as refused:
        features_of({"x": expression}, task)
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    "write",
    [
        lambda: CARD.arg_max(indicator(label == "a"), "amount", "1h"),
        lambda: label * 2,
        lambda: bool(label == "a"),
    ],
)
def test_what_means_nothing_is_refused_at_once(write: Any) -> None:
    with pytest.raises(DefinitionError):
        write()


def test_a_field_called_label_is_another_thing() -> None:
    assert CARD.mean("label", "1h") != CARD.mean(label, "1h")
    assert CARD.mean(label, "1h") == CARD.mean(label, "1h")
    assert len({CARD.mean("label", "1h"), CARD.mean(label, "1h"), CARD.mean(label, "1h")}) == 2


def sales(*, classes: bool) -> Pipeline:
    """A pipeline whose labels, true or false, are two classes or a number."""
    of_task: dict[str, Any] = {
        True: {"task": "multiclass", "models": {"tree": tree.HoeffdingTreeClassifier()}},
        False: {"models": {"linear": linear_model.LogisticRegression()}},
    }[classes]
    is_true = indicator(label == "True") if classes else indicator(label == 1)
    return Pipeline(
        name="sales",
        events=Topic("sales.events", Sale, key="card", grace="1m"),
        labels=Labels("sales.labels", wait="10m"),
        features={
            "last": CARD.last(label, "30m"),
            "usual": CARD.mode(label, "1h"),
            "share": CARD.mean(is_true, "30m").default(0.0),
            "dear": by().mean(is_true, "1h", where=field("amount") > 2),
        },
        **of_task,
    )


drawn_sales = st.lists(
    st.tuples(st.integers(0, 90_000), st.sampled_from("ab"), st.integers(-70_000, 700_000), st.booleans()),
    min_size=1,
    max_size=25,
)


@settings(max_examples=50, deadline=None)
@given(st.booleans(), drawn_sales, st.integers(0, 3))
def test_skew_recomputes_windows_over_classes(classes: bool, drawn: Any, held: int) -> None:
    of = sales(classes=classes)
    events, labels = records(of, drawn)
    counts = checked(of, played(of, events, labels, held), events, labels)
    assert counts.skewed == 0, counts.report()


def test_the_class_seen_last_is_served_and_checked() -> None:
    of = sales(classes=True)
    events, labels = records(of, [(60_000, "a", 30_000, True)] * 6)
    counts = checked(of, played(of, events, labels, 0), events, labels)
    assert counts.features["last", "match"] == 6
    assert counts.skewed == 0
