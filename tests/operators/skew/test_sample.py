"""The windows of sampled keys: never more than the limits, and what is beyond them is known to be missing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from window_oracle import Payment, features_of

from operators import by, label, session
from operators.language.fields import Aggregate
from operators.skew.sample import UNREAD, SampledLabel, SampledWindows, in_sample
from operators.windows.features import JoinedLabel
from topics.messages import Event

CARD = by("card")


def windows_of(aggregate: Aggregate, *, event_max: int = 1000, **limits: Any) -> SampledWindows:
    plan = features_of({"x": aggregate}, event_max).plan
    return SampledWindows(plan, aggregate.keys, aggregate.source, {aggregate: 0}, **({"one_in": 1} | limits))


def event(card: str, time: int, watermark: int | None = None) -> Event:
    seen_to = time if watermark is None else watermark
    return Event(f"{card}{time}", time, card, Payment(card, 1.0), time, seen_to)


def enter(windows: SampledWindows, card: str, time: int) -> Any:
    """Enter an event of a card; return the value of its window, and whether it is known."""
    values = windows.take((card,), event(card, time))
    return values.get(0), windows.is_complete((card,), time)


def test_about_one_key_of_as_many_is_in_the_sample_and_the_key_of_all_always() -> None:
    chosen = sum(in_sample((f"c{number}",), 20) for number in range(20_000))
    assert 850 <= chosen <= 1_150
    assert in_sample((), 10**6)


def test_keys_are_those_of_the_fields() -> None:
    value = SimpleNamespace(card="a", kind="sale")
    assert windows_of(CARD.count(10)).key_of(value) == ("a",)
    assert windows_of(by("card", "kind").count(10)).key_of(value) == ("a", "sale")
    assert windows_of(by().count(10)).key_of(value) == ()


def test_a_key_with_too_many_entries_is_in_doubt_until_those_that_made_room_are_over() -> None:
    windows = windows_of(CARD.count(50), event_max=3)
    assert [enter(windows, "a", time) for time in range(3)] == [(1, True), (2, True), (3, True)]
    assert enter(windows, "a", 4) == (3, False)
    assert enter(windows, "b", 5) == (1, True)
    assert [windows.is_complete(("a",), time) for time in (54, 55)] == [False, True]
    assert enter(windows, "a", 60) == (1, True)


def test_a_doubt_lasts_as_long_as_the_window() -> None:
    windows = windows_of(CARD.count(50))
    windows.doubt(("a",), 10)
    windows.sweep(60)
    assert [windows.is_complete(("a",), time) for time in (60, 61)] == [False, True]


def test_a_session_in_doubt_is_never_known_again() -> None:
    windows = windows_of(CARD.count(session(5)))
    windows.doubt(("a",), 10)
    windows.sweep(1_000_000)
    assert not windows.is_complete(("a",), 1_000_000)


def test_beyond_the_limit_of_all_entries_the_keys_that_add_to_them_are_in_doubt() -> None:
    windows = windows_of(CARD.count(50), total_max=3)
    assert [enter(windows, key, 0) for key in "aab"] == [(1, True), (2, True), (1, True)]
    assert [enter(windows, key, 1)[1] for key in "ca"] == [False, False]
    assert windows.is_complete(("b",), 2)
    assert enter(windows, "b", 60) == (1, True)  # what was over has made room
    assert enter(windows, "a", 60) == (1, True)


def test_beyond_the_limit_of_keys_a_new_one_is_known_once_all_its_entries_were_looked_at() -> None:
    windows = windows_of(CARD.count(50), keys_max=1)
    enter(windows, "a", 0)
    assert enter(windows, "b", 10) == (None, False)
    assert enter(windows, "c", 11) == (None, False)
    windows.sweep(55)  # `a` is idle, so there is room again
    assert enter(windows, "c", 55) == (1, False)
    assert windows.is_complete(("c",), 62)


@pytest.mark.parametrize(("offset", "count"), [(0, 1), (1, 2), (7, 3), (8, 4)])
def test_labels_are_read_as_they_were_before_an_offset(offset: int, count: int) -> None:
    windows = windows_of(CARD.count(label, 50))
    for time, number in enumerate([UNREAD, 0, 5, 7]):
        keys = windows.label_keys(event("a", time))
        windows.enter(("a",), SampledLabel(number, time, JoinedLabel(keys, time, 1.0)))
    assert windows.read(event("a", 3)) == {0: 4}
    assert windows.read_before(("a",), event("a", 3), offset) == {0: count}
    assert windows.offsets(("a",), 2) == {0, 5}
