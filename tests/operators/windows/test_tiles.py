"""Tiles against their definition, and against the window that they stand for.

tiles of 20            0----20----40----60----80--x 87        an event at 87
tiled(40, step=20)               [40------------x]            87 - 40 = 47: from 40 on
(87 - 40, 87]                      (47----------x]            is always inside
(87 - 60, 87]                (27----------------x]            and never more than this
"""

from __future__ import annotations

import math
import random

from hypothesis import given, settings
from hypothesis import strategies as st
from window_oracle import GRACE, Payment, check, check_restored, expected, features_of, histories

from operators import by, field, label, tiled, tumbling
from operators.language.fields import Aggregate
from operators.language.window_kinds import Span
from operators.windows.features import JoinedLabel
from topics.messages import Event

card, every = by("card"), by()
sale = field("kind") == "sale"
WHERE = {repr(sale): lambda value: value.kind == "sale"}
KINDS = ("sum", "mean", "min", "max", "var", "std", "first", "last", "distinct", "median")


def all_of(span: Span) -> dict[str, Aggregate]:
    return {
        "count": card.count(span),
        "before": every.count(span, include_current=False),
        "sales": card.sum("amount", span, where=sale),
        "largest": card.arg_max("shop", "amount", span),
        "smallest": every.arg_min("fee", "amount", span),
        "last_shop": card.last("shop", span),
        **{kind: getattr(every, kind)("amount", span) for kind in KINDS},
    }


SHORT, LONG, WHOLE = tiled(40, step=20), tiled(600, step=50), tumbling(100)
BOTH = {f"{span}_{name}": found for span in (SHORT, LONG, WHOLE) for name, found in all_of(span).items()}
BOTH["rate"] = every.rate(LONG)
BOTH["quantile"] = card.quantile("amount", 0.9, LONG)


@settings(max_examples=60, deadline=None)
@given(history=histories())
def test_tiled_windows_equal_their_definition(history: list[Event]) -> None:
    check(BOTH, history, WHERE)


@settings(max_examples=40, deadline=None)
@given(history=histories())
def test_a_tiled_window_covers_its_width_and_less_than_a_step_more(history: list[Event]) -> None:
    for width, step in ((40, 20), (600, 50), (600, 600)):
        rows = features_of({"n": card.count(tiled(width, step=step))}).step_events(history)
        least, most = expected(card.count(width), history), expected(card.count(width + step), history)
        for row, low, high in zip(rows, least, most, strict=True):
            assert low is ... or low <= row["n"] <= high


@settings(max_examples=40, deadline=None)
@given(history=histories(), cut=st.integers(0, 50), event_max=st.sampled_from([1, 1000]))
def test_restored_tiles_continue_to_the_bit(history: list[Event], cut: int, event_max: int) -> None:
    check_restored(BOTH, history, cut, event_max)


def test_a_window_that_tiles_have_left_has_the_bits_of_one_put_together_anew() -> None:
    """A restored state has no windows at work: each is put together from its tiles."""
    rng, newest, steady = random.Random(3), 0, features_of(BOTH)
    for number in range(400):
        time = max(0, newest + rng.choice([0, 3, 20, 20, 45, -25, -8]) + 400 * (rng.random() < 0.02))
        newest = max(newest, time)
        amount = rng.choice([None, rng.gauss(0, 1), float(rng.randint(-2, 2))])
        value = Payment(
            rng.choice("aab"), amount, rng.choice("xyz"), rng.choice(["sale", "other"]), number % 5
        )
        event = Event(str(number), time, value.card, value, number, newest - GRACE)
        anew = features_of(BOTH)
        anew.restore(steady.snapshot())
        assert repr(anew.step_events([event])) == repr(steady.step_events([event]))


def test_memory_is_bounded_by_tiles_whatever_the_rate() -> None:
    aggregates = {"n": card.count(tiled("1h", step="5m")), "sd": card.std("amount", tiled("1h", step="5m"))}
    features, sizes = features_of(aggregates), []
    for rate in (1, 20):
        for minute in range(180):
            time = (180 * rate + minute) * 60_000
            value = Payment("a", float(minute))
            features.step_events([Event("e", time, "a", value, 0, time - GRACE)] * rate)
        sizes.append(sum(map(len, features.snapshot().values())))
    assert sizes[1] < sizes[0] * 1.5
    (row,) = features.step_events([Event("e", time, "a", value, 0, time - GRACE)])
    assert row["n"] == 65 * 20 + 1, "from a multiple of 5m, 64 minutes back"


def test_ninety_days_and_a_few_milliseconds() -> None:
    day = 86_400_000
    features = features_of(
        {"long": card.count(tiled("90d", step="1d")), "short": card.count(tiled("4ms", step="2ms"))}
    )
    rows = features.step_events(
        [Event(str(n), n * day // 2 + n % 2, "a", Payment("a"), n, n * day // 2 - GRACE) for n in range(200)]
    )
    assert (rows[-1]["long"], rows[-1]["short"]) == (182, 1)


def test_a_crowd_within_the_grace_is_settled_early_and_counted() -> None:
    features = features_of({"n": card.count(tiled(100, step=50))}, event_max=5)
    rows = features.step_events([Event(str(n), 100 + n, "a", Payment("a"), n, 70 + n) for n in range(12)])
    assert [row["n"] for row in rows] == list(range(1, 13))
    assert features.evicted_events == 12 - 5


@settings(max_examples=40, deadline=None)
@given(history=histories())
def test_a_late_event_sees_its_tiles_and_itself_and_leaves_no_trace(history: list[Event]) -> None:
    features = features_of(BOTH)
    features.step_events(history)
    before, last = features.snapshot(), history[-1]
    for back in (1, 30, 500):
        time, value = max(0, last.watermark - back), Payment("a", 7.0, "w")
        late = Event("l", time, "a", value, 9, last.watermark, late=True)
        (row,) = features.step_events([late])
        assert min(row[f"{span}_count"] for span in (SHORT, LONG, WHOLE)) >= 1
        assert row[f"{WHOLE}_max"] >= 7.0
    assert features.snapshot() == before


labels_in = st.lists(
    st.tuples(st.integers(-200, 100), st.floats(-9, 9).filter(lambda x: x == 0 or abs(x) > 1e-6)), max_size=30
)


@settings(max_examples=40, deadline=None)
@given(labels=labels_in)
def test_labels_in_any_order_are_summed_to_the_bit(labels: list[tuple[int, float]]) -> None:
    span = tiled(200, step=20)
    features = features_of({"n": card.count(label, span), "sum": card.sum(label, span)})
    value = Payment("a")
    features.step_events([Event("1", 1_000, "a", value, 0, 1_000 - GRACE)])
    features.step_labels([JoinedLabel(("a",), 1_000 + time, found) for time, found in labels])
    (row,) = features.step_events([Event("2", 1_100, "a", value, 0, 1_100 - GRACE)])
    inside = [found for time, found in labels if 1_000 + time >= 900]
    assert row == {"n": len(inside), "sum": math.fsum(inside)}
