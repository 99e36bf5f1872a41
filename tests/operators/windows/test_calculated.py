"""Windows over calculated values against their definition, and against events that carry them as fields.

event             card  amount  fee            its row in the windows of the card
calculated   by("card").sum(AMOUNT * FEE)      amount * fee
carried      by("card").sum("product")         the field `product`, which somebody else has calculated
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from window_oracle import (
    GRACE,
    Payment,
    check,
    check_restored,
    features_of,
    histories,
    value_of,
)

from operators import apply, by, coalesce, cross, decay, field, indicator, last_n, session, tiled, tumbling
from operators.language.expressions import Expression
from operators.language.fields import Aggregate
from operators.language.plan import compile_features
from operators.windows.evaluate import FUNCTION_FAILURES
from operators.windows.exact import VALUE_MAX
from operators.windows.features import Features
from topics.messages import Event

AMOUNT, SHOP, FEE, KIND = field("amount"), field("shop"), field("fee"), field("kind")
card, every = by("card"), by()
large = FEE > 1


def per_fee(amount: float, fee: int) -> float:
    return amount / fee


COLUMNS: dict[str, Expression] = {
    "log": AMOUNT.log(),
    "product": AMOUNT * FEE,
    "pair": cross(SHOP, KIND),
    "share": apply(per_fee, AMOUNT, FEE, returns=float),
    "positive": indicator(AMOUNT > 0),
    "either": coalesce(AMOUNT, FEE).default(-1.0),
}
MEANINGS: dict[str, Any] = {
    repr(COLUMNS["log"]): lambda p: math.log(p.amount) if p.amount is not None and p.amount > 0 else None,
    repr(COLUMNS["product"]): lambda p: None if None in (p.amount, p.fee) else p.amount * p.fee,
    repr(COLUMNS["pair"]): lambda p: None if p.shop is None else f"{p.shop}×{p.kind}",
    repr(COLUMNS["share"]): lambda p: p.amount / p.fee if p.amount is not None and p.fee else None,
    repr(COLUMNS["positive"]): lambda p: None if p.amount is None else p.amount > 0,
    repr(COLUMNS["either"]): lambda p: next((v for v in (p.amount, p.fee) if v is not None), -1.0),
    repr(large): lambda p: p.fee is not None and p.fee > 1,
}


def windows_over(columns: Mapping[str, Any]) -> dict[str, Aggregate]:
    """Return windows of every kind over these columns."""
    log, product, pair, share, positive, either = columns.values()
    return {
        "mean": card.mean(log, 90),
        "sum": card.sum(product, 400),
        "max": every.max(share, 90),
        "min_before": card.min(share, 400, include_current=False),
        "std": card.std(either, 400),
        "met": card.mean(positive, 90),
        "first": card.first(product, 90),
        "last": every.last(log, 400),
        "plain": card.sum("amount", 90),
        "n": card.count(90),
        "where": card.sum(product, 400, where=large),
        "where_before": card.mean(share, 90, where=large, include_current=False),
        "shifted": card.mean(either, 90, shift=60),
        "different": card.distinct(pair, 400),
        "usual": every.mode(pair, 90),
        "surprise": card.entropy(pair, 400),
        "middle": card.median(product, 400),
        "last_pair": card.last(pair, 90, include_current=False),
        "top": card.arg_max(pair, product, 400),
        "top_fee": every.arg_min("fee", share, 90),
        "top_plain": card.arg_max(pair, "amount", 90),
        "hourly": card.mean(log, tumbling(100)),
        "hourly_top": card.arg_max(pair, share, tumbling(100)),
        "tiled": card.var(either, tiled(100, step=20)),
        "tiled_pairs": every.distinct(pair, tiled(400, step=20)),
        "visit": card.sum(product, session(50)),
        "latest": card.mean(share, last_n(3)),
        "faded": card.mean(either, decay(100)),
    }


CALCULATED = windows_over(COLUMNS)


class Carried(Payment):
    """A payment that carries what is calculated."""

    log: float | None = None
    product: float | None = None
    pair: str | None = None
    share: float | None = None
    positive: bool | None = None
    either: float = 0.0


def carrying(event: Event) -> Event:
    fields = msgspec.structs.asdict(event.value)
    made = {name: value_of(expression, **fields) for name, expression in COLUMNS.items()}
    return msgspec.structs.replace(event, value=Carried(**fields, **made))


@settings(max_examples=60, deadline=None)
@given(history=histories())
def test_windows_over_calculated_values_equal_their_definition(history: list[Event]) -> None:
    check(CALCULATED, history, MEANINGS)


def kept(features: Features) -> Any:
    """Return what every key keeps, whatever its groups and columns are called, and so in which order."""
    entries = features.snapshot()
    del entries["meta"]
    found = (
        (name.partition("/")[2], msgspec.msgpack.decode(data, strict=False)) for name, data in entries.items()
    )
    return sorted((key, sorted(map(repr, leaves(data)))) for key, data in found)


def leaves(data: Any) -> Iterator[Any]:
    if isinstance(data, list | dict):
        for part in data.values() if isinstance(data, dict) else data:
            yield from leaves(part)
    else:
        yield data


@settings(max_examples=60, deadline=None)
@given(history=histories(), cut=st.integers(0, 50), event_max=st.sampled_from([3, 1000]))
def test_they_are_to_the_bit_those_over_a_field_that_carries_the_value(
    history: list[Event], cut: int, event_max: int
) -> None:
    """In any batches, late events included, and in what is kept of them."""
    calculated = features_of(CALCULATED, event_max)
    carried = features_of(windows_over({name: name for name in COLUMNS}), event_max, of=Carried)
    rows = calculated.step_events(history[:cut]) + calculated.step_events(history[cut:])
    assert repr(rows) == repr([carried.step_events([carrying(event)])[0] for event in history])
    assert kept(calculated) == kept(carried)
    assert calculated.evicted_events == carried.evicted_events


@settings(max_examples=40, deadline=None)
@given(history=histories(), cut=st.integers(0, 50), event_max=st.sampled_from([2, 1000]))
def test_restored_windows_continue_to_the_bit(history: list[Event], cut: int, event_max: int) -> None:
    check_restored(CALCULATED, history, cut, event_max)


def line(values: list[Payment]) -> list[Event]:
    return [Event(str(n), n, value.card, value, n, n - GRACE) for n, value in enumerate(values)]


def run(definition: Mapping[str, Expression], values: list[Payment]) -> list[dict[str, Any]]:
    return features_of(definition).step_events(line(values))


def test_a_calculated_value_meets_the_same_limits_as_a_field() -> None:
    """What is beyond 1e15 is missing, what is next to nothing is 0, and a text has 256 characters."""
    square, pair = AMOUNT * AMOUNT, cross(SHOP, KIND)
    definition = {
        "n": card.count(90),
        "square": card.last(square, 90),
        "squares": card.distinct(square, 90),
        "pair": card.last(pair, 90),
    }
    rows = run(
        definition,
        [
            Payment("a", 2 * math.sqrt(VALUE_MAX), "x"),
            Payment("a", 1e-40, "y" * 300),
            Payment("a", 3.0, None),
        ],
    )
    assert rows == [
        {"n": 1, "squares": 0, "pair": "x×sale"},
        {"n": 2, "square": 0.0, "squares": 1, "pair": "y" * 256},
        {"n": 3, "square": 9.0, "squares": 2, "pair": "y" * 256},
    ]


CALLS: list[float] = []


def watched(amount: float) -> float | None:
    CALLS.append(amount)
    if amount < 0:
        raise ValueError(amount)
    return amount if amount < 10 else None


SEEN = apply(watched, AMOUNT, returns=float)


def test_a_function_is_called_once_for_an_event_and_all_windows_of_a_key() -> None:
    CALLS.clear()
    definition = {"sum": card.sum(SEEN, 90), "max": card.max(SEEN, 400), "again": card.mean(SEEN, 90)}
    (group,) = features_of(definition).plan.groups
    assert group.columns == (repr(SEEN),)
    run(definition, [Payment("a", 1.0), Payment("a", None), Payment("b", 2.0)])
    assert CALLS == [1.0, 2.0]


def test_a_function_that_raises_is_counted_and_its_value_missing() -> None:
    counts: Counter[tuple[str, str]] = Counter()
    features = features_of({"sum": card.sum(SEEN, 90), "n": card.count(90)}, counts=counts)
    amounts = [1.0, -1.0, 11.0, 4.0]
    rows = features.step_events(line([Payment("a", amount) for amount in amounts]))
    assert [row["sum"] for row in rows] == [1.0, 1.0, 1.0, 5.0]
    assert rows[-1]["n"] == 4
    assert counts == {(FUNCTION_FAILURES, f"{__name__}:watched"): 1}


@pytest.mark.parametrize("kind", ["sum", "distinct"])
def test_a_function_is_not_called_for_what_does_not_enter(kind: str) -> None:
    CALLS.clear()
    counts: Counter[tuple[str, str]] = Counter()
    window = getattr(card, kind)(SEEN, 90, where=AMOUNT >= 0)
    features = features_of({"x": window}, counts=counts)
    rows = features.step_events(line([Payment("a", amount) for amount in (1.0, -1.0, None, 2.0)]))
    assert [row["x"] for row in rows] == {"sum": [1.0, 1.0, 1.0, 3.0], "distinct": [1, 1, 1, 2]}[kind]
    assert CALLS == [1.0, 2.0]
    assert not counts


def test_the_plan_names_the_columns_by_their_text() -> None:
    plan = features_of({"a": card.sum(AMOUNT * 2, "60m"), "b": card.mean("amount", "1h")}).plan
    (group,) = plan.groups
    assert group.columns == ('field("amount") * 2', "amount")
    assert group.calculated == {'field("amount") * 2': AMOUNT * 2}
    row = plan.describe()[0]
    assert row[1:5] == ('by("card").sum(field("amount") * 2, "1h")', "card", "events", 3_600_000)


def test_constants_that_are_written_differently_are_two_columns() -> None:
    """1 and 1.0 are equal numbers, but the last value of the one is an int where that of the other is not."""
    (row,) = run({"a": card.last(FEE * 1, 90), "b": card.last(FEE * 1.0, 90)}, [Payment("a", fee=3)])
    assert repr(row) == "{'a': 3, 'b': 3.0}"


def test_a_feature_that_is_a_value_of_a_column_has_its_type() -> None:
    definition = {
        "pair": card.last(cross(SHOP, KIND), 90),
        "positive": card.first(indicator(AMOUNT > 0), 90),
        "size": card.mode(AMOUNT.bucket([1, 10]), 90),
        "top": card.arg_max("fee", AMOUNT.abs(), 90),
        "mean": card.mean(FEE * 2, 90),
    }
    plan = compile_features(definition, Payment, grace_ms=0, max_events_per_key=9, task="binary")
    types = plan.feature_types(Payment)
    assert types == {"pair": str, "positive": bool, "size": int, "top": int, "mean": float}
    (row,) = Features(plan).step_events(line([Payment("a", 2.0, "x", fee=4)]))
    assert {name: type(value) for name, value in row.items()} == types
