"""The race's feed: in slices, at two thirds of a worker's capacity, found from what it says of its time."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.definition.file import load_pipeline
from loadtest.demo.figures import EXAMPLE_FOLDER, read_sample
from loadtest.demo.race import (
    PAGES,
    RATE_FIRST,
    RISE_MAX,
    SHARE,
    STEPS_SHARE,
    Flood,
    TwoThirds,
    next_slice,
)

PAGE_S = 0.5
WORK = SHARE * STEPS_SHARE


def fed(pace: TwoThirds, seconds_of_event: list[float]) -> list[float]:
    """The rates of a worker whose events take so long, one page each, and which answers all it can."""
    answered, busy_s, rates = 0, 0.0, []
    pace.see(0, 0.0)
    for each_s in seconds_of_event:
        count = int(min(pace.rate, 1 / each_s) * PAGE_S)
        answered, busy_s = answered + count, busy_s + count * each_s
        pace.see(answered, busy_s)
        rates.append(pace.rate)
    return rates


@given(st.floats(0.0003, 0.02))
def test_any_worker_is_kept_busy_for_two_thirds(each_s: float) -> None:
    assert fed(TwoThirds(10_000), [each_s] * 40)[-1] * each_s == pytest.approx(WORK)


def test_a_worker_that_becomes_slower_gets_less_within_the_pages_looked_at() -> None:
    rates = fed(TwoThirds(10_000), [0.001] * 20 + [0.004] * PAGES)
    assert rates[19] == pytest.approx(WORK * 1_000)
    assert rates[-1] == pytest.approx(WORK * 250)


@given(st.lists(st.floats(0.0001, 0.05), min_size=1, max_size=60))
def test_the_rate_rises_step_by_step_and_never_above_the_ceiling(seconds: list[float]) -> None:
    rates = [RATE_FIRST, *fed(TwoThirds(1_500), seconds)]
    assert all(after <= RISE_MAX * before for before, after in itertools.pairwise(rates))
    assert max(rates) <= 1_500


def test_a_page_without_news_changes_nothing() -> None:
    pace = TwoThirds(10_000)
    fed(pace, [0.001] * 20)
    rate = pace.rate
    pace = TwoThirds(10_000)
    pace.see(7, 0.5)
    pace.see(7, 0.5)
    assert pace.rate == RATE_FIRST
    assert rate == pytest.approx(WORK * 1_000)


def test_the_feed_waits_for_a_worker_that_is_a_quarter_of_a_second_behind() -> None:
    pace = TwoThirds(10_000)
    fed(pace, [0.001] * 20)
    assert pace.ahead_max == round(WORK * 1_000 / 4)
    assert TwoThirds(1.0).ahead_max > 1


def test_a_flood_heeds_its_ceiling_alone() -> None:
    flood = Flood(5_000)
    flood.see(10, 100.0)
    assert flood.rate == 5_000


def test_slices_hold_everything_and_no_label_comes_behind_an_event_that_is_younger() -> None:
    sample = read_sample(load_pipeline(EXAMPLE_FOLDER / "pipeline.py"), EXAMPLE_FOLDER, 300)
    left = iter(sample.lines)
    slices = []
    while any(part := next_slice(left, 50)):
        slices.append(part)
    for is_label in (True, False):
        sent = [line for labels, events in slices for line in (labels if is_label else events)]
        assert sent == [line for line in sample.lines if line.is_label == is_label]
    assert [len(events) for _, events in slices[:6]] == [50] * 6
    for (_, events), (labels, _) in itertools.pairwise(slices):
        assert not events or not labels or events[-1].time_ms < labels[0].time_ms
