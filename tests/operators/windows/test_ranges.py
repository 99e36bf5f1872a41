"""Exact windows over any values against their definition: conditions, shifts, counted and tumbling windows.

t - shift - w      t - shift             t
-----(-----------------]-----------------|      shift="60ms" ends the window 60 ms before the event
"""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from window_oracle import Payment, check, check_restored, expected, features_of, histories

from operators import by, field, last_n, tumbling
from operators.language.expressions import Expression
from operators.language.fields import Aggregate
from operators.windows import aggregates as module
from operators.windows.holistic import entropy_of, mode_of, quantile_of
from topics.messages import Event

card, every = by("card"), by()
large = (field("amount") > 0) & ~(field("kind") == "refund")
odd = field("shop").is_in("x", "y") | field("amount").is_missing()
WHERE = {
    repr(large): lambda value: value.amount is not None and value.amount > 0 and value.kind != "refund",
    repr(odd): lambda value: value.shop in ("x", "y") or value.amount is None,
}
RICH = {
    "distinct": card.distinct("shop", 90),
    "numbers": every.distinct("fee", 400),
    "mode": card.mode("shop", 90),
    "second": every.mode("shop", 400, rank=2),
    "entropy": every.entropy("shop", 90),
    "median": card.median("amount", 400),
    "q": every.quantile("amount", 0.9, 90),
    "largest": card.arg_max("shop", "amount", 90),
    "smallest": every.arg_min("fee", "amount", 400),
    "before": every.distinct("shop", 90, include_current=False),
    "first_shop": card.first("shop", 400),
    "last_shop": card.last("shop", 400, include_current=False),
}
CONDITIONAL = {
    "count": card.count(90, where=large),
    "odd": every.count(90, where=odd),
    "rate": card.rate(90, where=odd),
    "sum": card.sum("amount", 400, where=large),
    "max": card.max("amount", 400, where=odd),
    "mean_before": card.mean("amount", 90, where=large, include_current=False),
    "gap": card.since_last(90, where=large),
    "shops": every.distinct("shop", 90, where=large),
    "std": every.std("amount", 400, where=odd),
}
SHIFTED = {
    "count": card.count(90, shift=60),
    "sum": card.sum("amount", 400, shift=60),
    "mean": every.mean("amount", 90, shift="1s"),
    "std": every.std("amount", 400, shift=60),
    "usual": card.mode("shop", 90, shift=60),
    "both": card.count(400, where=large, shift=60),
}
OTHER_SPANS = {
    "tumbling_shops": card.distinct("shop", tumbling(100)),
    "tumbling_median": every.median("amount", tumbling(40)),
    "tumbling_gap": card.since_last(tumbling(100)),
    "last_mean": card.mean("amount", last_n(3)),
    "last_count": every.count(last_n(5, within=100)),
    "last_std": card.std("amount", last_n(4, within="1s"), include_current=False),
    "last_large": card.sum("amount", last_n(2), where=large),
    "last_min": every.min("amount", last_n(4)),
    "last_max": every.max("amount", last_n(4)),
    "last_var": every.var("amount", last_n(4)),
}


@pytest.fixture(params=[1, 4, 64], ids=["followed", "some", "sliced"], autouse=True)
def _threshold(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Follow every window, some, and none."""
    monkeypatch.setattr(module, "FOLLOW_MIN", request.param)


@settings(max_examples=25, deadline=None)
@given(history=histories())
@pytest.mark.parametrize(
    "definition", [RICH, CONDITIONAL, SHIFTED, OTHER_SPANS], ids=["rich", "where", "shift", "spans"]
)
def test_windows_equal_their_definition(definition: dict[str, Aggregate], history: list[Event]) -> None:
    check(definition, history, WHERE)


ALL = {
    f"{number}_{name}": aggregate
    for number, definition in enumerate([RICH, CONDITIONAL, SHIFTED, OTHER_SPANS])
    for name, aggregate in definition.items()
}


@settings(max_examples=30, deadline=None)
@given(history=histories(), cut=st.integers(0, 50), event_max=st.sampled_from([2, 1000]))
def test_restored_windows_continue_to_the_bit(history: list[Event], cut: int, event_max: int) -> None:
    check_restored(ALL, history, cut, event_max)


@settings(max_examples=30, deadline=None)
@given(history=histories())
def test_a_late_event_is_shown_its_own_time_and_leaves_no_trace(history: list[Event]) -> None:
    features = features_of(RICH | CONDITIONAL | OTHER_SPANS)
    features.step_events(history)
    last = history[-1]
    before = features.snapshot()
    late = Event("late", last.watermark - 1, "a", Payment("a", 7.0, "w"), 99, last.watermark, late=True)
    (row,) = features.step_events([late])
    assert features.snapshot() == before
    assert row["first_shop"] is not None
    assert row["last_count"] >= 1
    assert row["distinct"] >= 1


def test_a_shift_shows_only_what_was_long_enough_ago() -> None:
    """Events at 0, 10, 20, 30; a window of 15 that ends 10 before the event.

    0    10   20   30
    [----]         .          at 20: (-5, 10]
         [----]         .     at 30: (5, 20]
    """
    features = features_of({"n": card.count(15, shift=10), "sum": card.sum("amount", 15, shift=10)})
    rows = features.step_events(
        [Event(str(t), t, "a", Payment("a", float(t)), t, t - 30) for t in (0, 10, 20, 30)]
    )
    assert [tuple(row.values()) for row in rows] == [(0, 0.0), (1, 0.0), (2, 10.0), (2, 30.0)]


def test_two_windows_make_a_ratio() -> None:
    """The share of a card's hour that came in its last minute, and of a shop in a card's day."""
    definition: dict[str, Expression] = {
        "burst": card.count("1m") / card.count("1h"),
        "habit": by("card", "shop").count("1d") / card.count("1d"),
    }
    plain: dict[str, Aggregate] = {"m": card.count("1m"), "h": card.count("1h")}

    class Shopped(Payment):
        shop: str = ""

    events = [
        Event(str(n), n * 40_000, "a", Shopped("a", shop="xyx"[n % 3]), n, n * 40_000) for n in range(9)
    ]
    from operators.language.plan import compile_features
    from operators.windows.features import Features

    plan = compile_features(definition, Shopped, grace_ms=0, max_events_per_key=99, task="binary")
    rows = Features(plan).step_events(events)
    counts = zip(expected(plain["m"], events), expected(plain["h"], events), strict=True)
    assert [row["burst"] for row in rows] == [minute / hour for minute, hour in counts]
    assert [row["habit"] for row in rows][:3] == [1.0, 0.5, 2 / 3]


def test_a_key_keeps_a_bounded_number_of_entries() -> None:
    features = features_of({"n": card.distinct("amount", "1d")}, event_max=50)
    events = [Event(str(n), n, "a", Payment("a", float(n)), n, n) for n in range(300)]
    assert features.step_events(events)[-1] == {"n": 50}
    assert features.evicted_events == 250
    (entry,) = (data for name, data in features.snapshot().items() if "/" in name)
    assert len(entry) < 50 * 12


def test_idle_keys_are_forgotten() -> None:
    features = features_of({"n": card.distinct("shop", 640)})
    features.step_events(
        [Event("1", 5, "a", Payment("a"), 0, 5), Event("2", 9_000, "b", Payment("b"), 1, 9_000)]
    )
    assert (features.key_count, features.evicted_keys) == (1, 1)


@pytest.mark.parametrize(
    ("values", "share", "wanted"),
    [([1.0], 0.3, 1.0), ([3, 1], 0.5, 2.0), ([1, 2, 3, 4], 1.0, 4.0), ([1, 2, 3, 4], 0.0, 1.0)],
)
def test_quantiles_at_the_edges(values: list[float], share: float, wanted: float) -> None:
    assert quantile_of(values, share) == wanted


def test_ties_go_to_the_newest_and_one_value_has_no_entropy() -> None:
    assert [mode_of(list("abcab"), rank) for rank in (1, 2, 3, 4)] == ["b", "a", "c", None]
    assert str(entropy_of([3, 3, 3])) == "0.0"
    assert math.isclose(entropy_of(list("aaab")), 0.811278, rel_tol=1e-6)


def test_a_followed_window_has_the_bits_of_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long history with ties, out of order and missing values, room for 150 entries."""
    rng, newest, events = random.Random(5), 0, []
    for number in range(1_500):
        time = newest + rng.choice([0, 0, 1, 3, -20, -7])
        newest = max(newest, time)
        amount = rng.choice([None, 0.0, -0.0, rng.gauss(0, 1), rng.gauss(0, 1), float(rng.randint(0, 3))])
        value = Payment("a", amount, rng.choice("xxyzw"), "sale", rng.choice([None, 0, 1, 2]))
        late = time < newest - 30
        events.append(Event(str(number), max(0, time), "a", value, number, newest - 30, late))
    found = []
    for least in (1, 20, 10**9):
        monkeypatch.setattr(module, "FOLLOW_MIN", least)
        features = features_of(RICH | SHIFTED | OTHER_SPANS, event_max=150)
        found.append(repr(features.step_events(events)))
        assert features.evicted_events > 100
    assert found[0] == found[1] == found[2]
