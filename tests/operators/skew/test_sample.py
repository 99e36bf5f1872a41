"""What is kept of sampled keys: as long as a window may look at it, and never more than the limits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from operators import by, session
from operators.language.fields import Aggregate
from operators.skew.recompute import Entry
from operators.skew.sample import SampledGroup, in_sample

CARD = by("card")


def group(aggregate: Aggregate, **limits: Any) -> SampledGroup:
    made = SampledGroup(aggregate.keys, "events", **({"one_in": 1, "entries_max": 100} | limits))
    made.reaches(aggregate)
    return made


def times(of: SampledGroup, key: str = "a") -> list[int]:
    return [entry.time for entry in of.entries[(key,)]]


def test_about_one_key_of_as_many_is_in_the_sample_and_the_key_of_all_always() -> None:
    chosen = sum(in_sample((f"c{number}",), 20) for number in range(20_000))
    assert 850 <= chosen <= 1_150
    assert in_sample((), 10**6)


def test_keys_are_those_of_the_fields() -> None:
    event = SimpleNamespace(card="a", shop=7)
    assert group(CARD.count(10)).key_of(event) == ("a",)
    assert group(by("card", "shop").count(10)).key_of(event) == ("a", 7)
    assert group(by().count(10)).key_of(event) == ()


@given(st.lists(st.integers(0, 200), min_size=1, max_size=30))
def test_what_a_window_may_look_at_is_kept_in_order_of_time(arrivals: list[int]) -> None:
    kept, newest = group(CARD.count(50, shift=10)), 0
    for number, time in enumerate(arrivals):
        newest = max(newest, time)
        kept.enter(("a",), Entry(time, number, None), newest)
    kept.sweep(newest)
    wanted = sorted(time for time in arrivals if time > newest - 60)
    assert (times(kept) if kept.entries else []) == wanted


def test_sessions_are_kept_whole() -> None:
    kept = group(CARD.count(session(5)))
    for time in (0, 1_000):
        kept.enter(("a",), Entry(time, time, None), time)
    assert times(kept) == [0, 1_000]


def test_an_idle_key_is_forgotten() -> None:
    kept = group(CARD.count(50))
    kept.enter(("a",), Entry(0, 0, None), 0)
    kept.sweep(49)
    assert times(kept) == [0]
    kept.sweep(50)
    assert kept.entries == {}


def test_a_key_with_too_many_entries_is_given_up_for_good() -> None:
    kept = group(CARD.count(50), entries_max=3)
    for number in range(5):
        kept.enter(("a",), Entry(0, number, None), 0)
    kept.sweep(10_000)
    assert (kept.entries, kept.given_up) == ({("a",): []}, {("a",)})


def test_a_doubt_lasts_as_long_as_the_window_and_then_the_key_is_forgotten() -> None:
    kept = group(CARD.count(50))
    kept.doubt(("a",), 10)
    kept.sweep(60)
    assert [kept.is_known(("a",), time) for time in (60, 61)] == [False, True]
    assert kept.entries == {("a",): []}  # it counts among the keys, of which there is a limit
    kept.sweep(61)
    assert kept.entries == {}


def test_beyond_the_limit_of_all_entries_the_keys_that_add_to_them_are_given_up() -> None:
    kept = group(CARD.count(50), total_max=3)
    for number, key in enumerate("aabcbc"):  # c would be the fourth, then b
        kept.enter((key,), Entry(0, number, None), 0)
    assert kept.given_up == {("c",), ("b",)}
    assert times(kept, "a") == [0, 0]
    kept.enter(("d",), Entry(0, 7, None), 0)
    assert times(kept, "d") == [0]  # what was given up has made room
