"""Plain recomputation: worked examples of what is easily said wrong."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from operators import by, cross, decay, field, last_n, session, tiled, tumbling
from operators.language.fields import Aggregate
from operators.skew.recompute import Entry, is_plain, plain_value

CARD = by("card")
TIMES = (0, 10, 20, 30, 40)
ENTRIES = [
    Entry(
        time, number, SimpleNamespace(amount=float(time), kind="sale" if number % 2 else "refund", note=None)
    )
    for number, time in enumerate(TIMES)
]
OWN = SimpleNamespace(amount=45.0, kind="sale", note=None)


@pytest.mark.parametrize(
    ("aggregate", "wanted"),
    [
        (CARD.count("25ms"), 3),  # (20, 45]: 30, 40 and itself
        (CARD.count("25ms", include_current=False), 2),
        (CARD.count("20ms", shift="5ms"), 2),  # (20, 40]
        (CARD.count("100ms", where=field("kind") == "sale"), 3),
        (CARD.since_last("100ms"), 5),
        (CARD.rate("50ms"), 120.0),  # six in (-5, 45], per second
        (CARD.sum("amount", tumbling("40ms")), 85.0),  # from 40 on
        (CARD.max("amount", last_n(2)), 45.0),
        (CARD.first("amount", last_n(2)), 40.0),
        (CARD.count(session("5ms")), 2),  # 40 and 45: 30 is 10 before
        (CARD.count(tiled("20ms", step="10ms")), 4),  # from 20 on
        (CARD.sum("amount", "1ms", include_current=False), 0.0),
        (CARD.mean("amount", "1ms", include_current=False), None),
        (CARD.var("amount", "1ms"), 0.0),
        (CARD.mode("kind", "100ms"), "sale"),  # three each: the newest first
        (CARD.arg_max("kind", "amount", "30ms"), "sale"),
        (CARD.last("note", "100ms"), None),
        (CARD.median("amount", "25ms"), 40.0),
        (CARD.sum(field("amount") * 2, "20ms"), 230.0),  # 30, 40 and 45, twice
        (CARD.max(field("amount") * 1e15, "100ms", include_current=False), 0.0),  # beyond 1e15 is missing
        (CARD.last(field("amount") * 1e-80, "1ms"), 0.0),
        (CARD.distinct(cross(field("kind"), field("amount").bucket([20])), "100ms"), 4),
        (CARD.arg_min("amount", (field("amount") - 21).abs(), "100ms"), 20.0),
    ],
    ids=repr,
)
def test_of_five_entries_and_an_event_at_45(aggregate: Aggregate, wanted: Any) -> None:
    found = plain_value(aggregate, ENTRIES, 45, OWN).value
    assert found == wanted


def test_a_decayed_count_is_the_sum_of_weights() -> None:
    found = plain_value(CARD.count(decay("10ms")), ENTRIES[:2], 10, OWN)
    assert math.isclose(found.value, 0.5 + 1 + 1)
    assert found.slack > 0


def test_what_came_after_the_events_own_time_is_not_seen() -> None:
    assert plain_value(CARD.count("1s"), ENTRIES, 15, OWN).value == 3


def test_counts_have_no_slack_and_sums_have_that_of_their_values() -> None:
    assert plain_value(CARD.count("1s"), ENTRIES, 45, OWN).slack == 0.0
    assert plain_value(CARD.sum("amount", "1s"), ENTRIES, 45, OWN).slack == pytest.approx(145e-9)


def test_a_sketch_is_not_plain() -> None:
    assert is_plain(CARD.median("amount", "1h"))
    assert not is_plain(CARD.median("amount", tiled("1h", step="1m")))
