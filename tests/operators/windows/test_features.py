"""From events to feature dicts: batches, restores, labels, missing values and the order of names."""

from __future__ import annotations

import math
import random
from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import by, field, label, lookup
from operators.language.expressions import Expression
from operators.language.plan import compile_features
from operators.windows.features import Features, JoinedLabel
from topics.errors import CheckpointError
from topics.messages import Event


class Payment(msgspec.Struct):
    card: str
    merchant_id: int
    amount: float
    fee: float | None
    when: datetime | None = None
    at: int = 0


DEFINITION: dict[str, Expression] = {
    "fee": field("fee"),
    "n": by("card").count("40ms"),
    "mean": by("card").mean("amount", "1s"),
    "fee_max": by("card").max("fee", "1s"),
    "fee_sd": by("card", "merchant_id").std("fee", "300ms").default(-1.0),
    "ratio": field("amount") / by("merchant_id").mean("amount", "300ms", include_current=False),
    "first": by().first("amount", "100ms"),
    "again": by().first("amount", "100ms").default(0),
    "gap": by("card").since_last("1s"),
    "late_rate": by("card").mean(label, "500ms").default(0.0),
    "labels": by().count(label, "1s"),
    "label_gap": by("card", "merchant_id").since_last(label, "1s"),
    "dear_rate": by("card").mean(label, "500ms", where=field("amount") > 20),
}


def features_of(definition: dict[str, Expression], event_max: int = 1000) -> Features:
    return Features(
        compile_features(definition, Payment, grace_ms=30, max_events_per_key=event_max, task="binary")
    )


def event_of(number: int, time: int, watermark: int, value: Payment, *, late: bool = False) -> Event:
    return Event(str(number), time, value.card, value, offset=number, watermark=watermark, late=late)


@st.composite
def histories(draw: st.DrawFn) -> list[Event | JoinedLabel]:
    """Return events in and out of order, late ones, and labels of earlier events."""
    random_of, newest, history = draw(st.randoms(use_true_random=False)), 1000, []
    keys = features_of(DEFINITION).label_keys
    events: list[Event] = []
    for number in range(draw(st.integers(1, 80))):
        time = newest + random_of.choice([0, 1, 5, 40, -10, -25, -60, 200])
        late, newest = time < newest - 30, max(newest, time)
        fee = random_of.choice([None, random_of.gauss(0, 10.0 ** random_of.randint(-6, 12))])
        value = Payment(random_of.choice("aab"), random_of.randint(1, 2), random_of.lognormvariate(3, 2), fee)
        events.append(event_of(number, time, newest - 30, value, late=late))
        history.append(events[-1])
        if random_of.random() < 0.4:
            of = random_of.choice(events)
            history.append(
                JoinedLabel(keys(of), newest - random_of.randint(-20, 50), random_of.choice([0.0, 1.0]))
            )
    return history


def run(features: Features, history: list[Any], *, cuts: set[int] = frozenset()) -> list[dict[str, Any]]:  # type: ignore[assignment]
    """Step through `history` in the largest batches that order and `cuts` allow."""
    found: list[dict[str, Any]] = []
    batch: list[Any] = []
    for place, item in enumerate([*history, None]):
        if batch and (item is None or place in cuts or type(item) is not type(batch[0])):
            if isinstance(batch[0], Event):
                found += features.step_events(batch)
            else:
                features.step_labels(batch)
            batch = []
        batch.append(item)
    return found


@settings(max_examples=40, deadline=None)
@given(history=histories(), cuts=st.sets(st.integers(0, 120)))
def test_a_batch_equals_batches_of_one_to_the_bit(history: list[Any], cuts: set[int]) -> None:
    one, many, some = (features_of(DEFINITION, event_max=20) for _ in range(3))
    expected = run(one, history, cuts=set(range(200)))
    assert repr(run(many, history)) == repr(run(some, history, cuts=cuts)) == repr(expected)
    assert one.snapshot() == many.snapshot() == some.snapshot()
    assert one.delta() == many.delta() == some.delta()


@settings(max_examples=40, deadline=None)
@given(history=histories(), cut=st.integers(0, 120), event_max=st.sampled_from([3, 1000]))
def test_restored_features_continue_to_the_bit(history: list[Any], cut: int, event_max: int) -> None:
    steady, restored = features_of(DEFINITION, event_max), features_of(DEFINITION, event_max)
    run(steady, history[:cut])
    restored.restore(steady.snapshot())
    assert restored.delta() == {}
    assert repr(run(restored, history[cut:])) == repr(run(steady, history[cut:]))
    assert restored.snapshot() == steady.snapshot()
    assert (restored.evicted_events, restored.evicted_keys) == (steady.evicted_events, steady.evicted_keys)


@settings(max_examples=40, deadline=None)
@given(history=histories(), cuts=st.lists(st.integers(0, 120), max_size=4))
def test_deltas_fold_to_the_snapshot(history: list[Any], cuts: list[int]) -> None:
    features, folded, done = features_of(DEFINITION), {}, 0
    for cut in [0, *sorted(cuts), len(history)]:
        run(features, history[done:cut])
        done = max(done, cut)
        for name, data in features.delta().items():
            folded.pop(name, None) if data is None else folded.update({name: data})
        assert folded == features.snapshot()
        assert features.delta() == {}


def test_groups_do_not_see_each_other() -> None:
    """Every aggregate alone gives what it gives among the others."""
    chance = random.Random(5)
    values = [Payment(chance.choice("ab"), chance.randint(1, 2), chance.random(), None) for _ in range(200)]
    events = [event_of(n, 10 * n, 10 * n, value) for n, value in enumerate(values)]
    together = features_of(DEFINITION).step_events(events)
    for name, expression in DEFINITION.items():
        alone = features_of({name: expression}).step_events(events)
        assert [row.get(name) for row in alone] == [row.get(name) for row in together]


def test_missing_features_are_left_out_and_order_is_the_definition() -> None:
    features = features_of(DEFINITION)
    (row,) = features.step_events([event_of(0, 0, 0, Payment("a", 1, 2.0, None))])
    assert row == {
        "n": 1,
        "mean": 2.0,
        "fee_sd": -1.0,
        "first": 2.0,
        "again": 2.0,
        "late_rate": 0.0,
        "labels": 0,
    }
    assert list(row) == [name for name in DEFINITION if name in row]
    (row,) = features.step_events([event_of(1, 5, 5, Payment("a", 1, 3.0, 0.5))])
    assert list(row) == [name for name in DEFINITION if name in row]
    assert (row["fee"], row["fee_sd"], row["ratio"], row["gap"]) == (0.5, 0.0, 1.5, 5)


def test_a_label_enters_the_windows_of_its_events_keys_at_its_own_time() -> None:
    """Events at 0 and 100 (card a) and 100 (card b); the label of the first arrives as of 60."""
    features = features_of(DEFINITION)
    a, b = Payment("a", 1, 1.0, None), Payment("b", 1, 1.0, None)
    first = event_of(0, 0, 0, a)
    features.step_events([first])
    assert features.label_keys(first) == ("a", "", "1:a,1", None)
    features.step_labels([JoinedLabel(features.label_keys(first), 60, 1.0)])
    rows = features.step_events([event_of(1, 50, 50, a), event_of(2, 100, 100, a), event_of(3, 100, 100, b)])
    assert [(row["late_rate"], row["labels"], row.get("label_gap")) for row in rows] == [
        (0.0, 0, None),
        (1.0, 1, 40),
        (0.0, 1, None),
    ]


@settings(max_examples=40, deadline=None)
@given(history=histories())
def test_labels_enter_conditional_windows_by_what_their_event_met(history: list[Any]) -> None:
    kept: list[tuple[int, str, float]] = []
    features = features_of(DEFINITION)
    for item in history:
        if isinstance(item, JoinedLabel):
            features.step_labels([item])
            kept += [(item.label_time, item.keys[3], item.value)] if item.keys[3] is not None else []  # type: ignore[list-item]
            continue
        (key,) = features.label_keys(item)[3:]
        assert (key is not None) == (20 < item.value.amount < math.inf)
        (row,) = features.step_events([item])
        time = item.event_time
        seen = [y for at, card, y in kept if card == item.value.card and time - 500 < at <= time]
        if not item.late:
            expected = pytest.approx(sum(seen) / len(seen)) if seen else None
            assert row.get("dear_rate") == expected


def test_labels_that_are_no_numbers_are_counted() -> None:
    features = features_of({"n": by("card").count(label, "1s"), "m": by("card").mean(label, "1s")})
    value = Payment("a", 1, 1.0, None)
    features.step_labels([JoinedLabel(("a",), 5, None)])
    assert features.step_events([event_of(0, 9, 9, value)]) == [{"n": 1}]


def test_arithmetic_is_missing_where_it_has_no_result() -> None:
    amount, fee = field("amount"), field("fee")
    definition = {
        "by_zero": amount / (fee - fee),
        "over": amount * 1e300 * 1e300,
        "sum": 1 + amount - 2,
        "minus": -amount,
        "whole": 2 * field("merchant_id"),
        "filled": (amount / fee).default(9),
        "huge": field("merchant_id") / fee,
    }
    (row,) = features_of(definition).step_events([event_of(0, 0, 0, Payment("a", 10**400, 3.0, 0.0))])
    # A whole number beyond 64 bits is a float, and this one is beyond those as well.
    assert row == {"sum": 2.0, "minus": -3.0, "filled": 9}
    (row,) = features_of(definition).step_events([event_of(0, 0, 0, Payment("a", 10**20, 3.0, 0.0))])
    assert (row["whole"], type(row["whole"])) == (2e20, float)
    (row,) = features_of(definition).step_events([event_of(0, 0, 0, Payment("a", 1, 3.0, 0.5))])
    assert row == {"sum": 2.0, "minus": -3.0, "whole": 2, "filled": 6.0, "huge": 2.0}


def test_hours_and_weekdays_are_utc() -> None:
    definition = {
        f"{of}_{part}": getattr(field(of), part)() for of in ("when", "at") for part in ("hour", "weekday")
    }
    when = datetime(2024, 2, 29, 23, 30, tzinfo=timezone(timedelta(hours=-2)))
    at = int(when.timestamp() * 1000)
    value = Payment("a", 1, 1.0, None, when, at)
    assert features_of(definition).step_events([event_of(0, at, at, value)]) == [
        {"when_hour": 1, "when_weekday": 4, "at_hour": 1, "at_weekday": 4}
    ]
    value = Payment("a", 1, 1.0, None, None, -1)
    assert features_of(definition).step_events([event_of(0, 0, 0, value)]) == [
        {"at_hour": 23, "at_weekday": 2}
    ]


@pytest.mark.parametrize(
    ("stored", "found"),
    [
        (
            {"shop:{merchant_id}#risk": b"0.25", "shop:{merchant_id}#town": "Ulm"},
            {"risk": 0.25, "town": "Ulm"},
        ),
        (
            {"shop:{merchant_id}#risk": "n/a", "shop:{merchant_id}#town": b"01234"},
            {"risk": 0.5, "town": "01234"},
        ),
        ({"shop:{merchant_id}#risk": "nan", "shop:{merchant_id}#town": None}, {"risk": 0.5}),
        ({}, {"risk": 0.5}),
    ],
)
def test_looked_up_values_follow_their_default(stored: dict[str, object], found: dict[str, object]) -> None:
    features = features_of(
        {
            "risk": lookup("shop:{merchant_id}", "risk", default=0.5),
            "town": lookup("shop:{merchant_id}", "town"),
        }
    )
    event = event_of(0, 0, 0, Payment("a", 7, 1.0, None))
    assert features.step_events([event], [stored]) == [found]
    assert features.step_events([event]) == [{"risk": 0.5}]
    assert [spec.store_key(event.value) for spec in features.plan.lookups] == ["shop:7", "shop:7"]


def test_keys_of_several_fields_never_collide() -> None:
    class Pair(msgspec.Struct):
        a: str
        b: str

    plan = compile_features(
        {"n": by("a", "b").count("1d")}, Pair, grace_ms=0, max_events_per_key=9, task="binary"
    )
    pairs = [Pair(a, b) for a in ("", "x", "1:", "1:x,") for b in ("", "x", ",x", "1:x,")]
    rows = Features(plan).step_events(
        [Event(str(n), n, "k", pair, offset=n, watermark=0) for n, pair in enumerate(pairs)]
    )
    assert rows == [{"n": 1}] * len(pairs)


def test_state_of_another_definition_is_refused() -> None:
    features = features_of({"n": by("card").count("1h")})
    features.step_events([event_of(0, 0, 0, Payment("a", 1, 1.0, None))])
    for wrong in (
        {},
        {"meta": b"\xc1"},
        features_of(DEFINITION).snapshot(),
        features.snapshot() | {"0/a": b"x"},
    ):
        with pytest.raises(CheckpointError) as refusal:
            features_of({"n": by("card").count("1h")}).restore(wrong)
        assert refusal.value.hint
