"""Decayed sums against their definition, summed anew from all events."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st
from window_oracle import GRACE, Payment, check, check_restored, features_of, histories

from operators import by, decay, field, label
from operators.language.fields import Aggregate
from operators.windows.features import JoinedLabel
from topics.messages import Event

card, every = by("card"), by()
sale = field("kind") == "sale"
WHERE = {repr(sale): lambda value: value.kind == "sale"}
FADING: dict[str, Aggregate] = {
    "count": card.count(decay(50)),
    "sum": card.sum("amount", decay(50)),
    "slow": every.sum("amount", decay("1s")),
    "before": card.count(decay(50), include_current=False),
    "sales": every.sum("amount", decay(50), where=sale),
}


@settings(max_examples=60, deadline=None)
@given(history=histories())
def test_fading_sums_equal_their_definition(history: list[Event]) -> None:
    check(FADING, history, WHERE)


@settings(max_examples=40, deadline=None)
@given(history=histories())
def test_a_fading_mean_is_one_sum_over_the_other(history: list[Event]) -> None:
    present = ~field("amount").is_missing()
    definition = {
        "mean": card.mean("amount", decay(50)),
        "sum": card.sum("amount", decay(50)),
        "weight": card.count(decay(50), where=present),
    }
    for row in features_of(definition).step_events([event for event in history if not event.late]):
        if row["weight"] < 1e-6:  # forgotten by one group, as good as forgotten by the other
            assert abs(row["sum"]) < 1e3
        else:
            assert math.isclose(row["mean"], row["sum"] / row["weight"], rel_tol=1e-9, abs_tol=1e-6)


@settings(max_examples=40, deadline=None)
@given(times=st.lists(st.integers(0, GRACE - 1), unique=True, max_size=12))
def test_the_order_of_arrival_within_the_grace_leaves_no_trace(times: list[int]) -> None:
    """The same entries, in order of time and not, show the same bits to what follows."""
    found = set()
    for order in (sorted(times), times):
        features = features_of(FADING)
        for time in order:
            features.step_events([Event("e", time, "a", Payment("a", time / 7), 0, 0)])
        found.add(repr(features.step_events([Event("ask", 2 * GRACE, "a", Payment("a", 1.0), 0, GRACE)])))
    assert len(found) == 1


@settings(max_examples=40, deadline=None)
@given(history=histories(), cut=st.integers(0, 50), event_max=st.sampled_from([1, 1000]))
def test_restored_sums_continue_to_the_bit(history: list[Event], cut: int, event_max: int) -> None:
    check_restored(FADING, history, cut, event_max)


def test_a_long_stream_neither_overflows_nor_drifts() -> None:
    """A value every 10 ms for a hundred thousand half-lives tends to the sum of the geometric series."""
    features = features_of({"sum": card.sum("amount", decay(1))})
    for number in range(10_000):
        time = number * 10
        (row,) = features.step_events([Event("e", time, "a", Payment("a", 3.0), 0, time)])
    assert math.isclose(row["sum"], 3.0 / (1 - 2.0**-10), rel_tol=1e-12)


def test_a_key_idle_for_sixty_four_half_lives_is_forgotten() -> None:
    features = features_of({"n": card.count(decay(10))})
    for time, key in ((0, "a"), (639, "b"), (700, "b")):
        features.step_events([Event("e", time, key, Payment(key), 0, time)])
    assert (features.key_count, features.evicted_keys) == (1, 1)


@settings(max_examples=40, deadline=None)
@given(times=st.lists(st.integers(-300, 60), max_size=20))
def test_labels_fade_from_their_own_times_whenever_they_come(times: list[int]) -> None:
    features = features_of({"n": card.count(label, decay(50)), "sum": card.sum(label, decay(50))})
    features.step_events([Event("1", 1_000, "a", Payment("a"), 0, 1_000 - GRACE)])
    features.step_labels([JoinedLabel(("a",), 1_000 + time, 2.0) for time in times])
    (row,) = features.step_events([Event("2", 1_070, "a", Payment("a"), 0, 1_070 - GRACE)])
    wanted = math.fsum(2.0 ** -((70 - time) / 50) for time in times)
    assert math.isclose(row["n"], wanted, rel_tol=1e-12)
    assert math.isclose(row["sum"], 2 * wanted, rel_tol=1e-12)
