"""Prefix sums and stacks against the values they follow, and what exact sums are for."""

from __future__ import annotations

from math import fsum

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.language.by import by
from operators.windows.aggregates import Target
from operators.windows.exact import split_for, variance_of
from operators.windows.log import Logs
from operators.windows.prefix_sums import Column, Derived
from topics.messages import Event

WANTED = Derived(squares=True, peaks=True, dips=True)
numbers = st.one_of(
    st.none(), st.integers(-3, 3), st.floats(-1e15, 1e15).filter(lambda x: not 0 < abs(x) < 1e-60)
)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), is_split=st.booleans())
def test_a_column_follows_appends_inserts_and_trims(data: st.DataObject, is_split: bool) -> None:
    wanted = Derived(sums=True, peaks=True, dips=True) if is_split else WANTED
    split = split_for([1.0]) if is_split else None
    column, values = Column([], wanted, split), []
    for number in data.draw(st.lists(numbers, min_size=1, max_size=30)):
        change = data.draw(st.sampled_from(["append", "append", "insert", "trim"]))
        if change == "append" or not values:
            values.append(number)
            column.append(number)
        elif change == "insert":
            place = data.draw(st.integers(0, len(values) - 1))
            values.insert(place, number)
            column.insert(place, number)
        else:
            count = data.draw(st.integers(0, len(values)))
            del values[:count]
            column.trim(count)
    fresh = Column(values[:], wanted, split)
    assert column.values == values
    assert (column.peaks, column.dips) == (fresh.peaks, fresh.dips)
    start = data.draw(st.integers(0, len(values)))
    stop = data.draw(st.integers(start, len(values)))
    inside = [number for number in values[start:stop] if number is not None]
    assert column.count(start, stop) == len(inside)
    assert column.sum(start, stop) == fsum(inside)
    if inside:
        assert (column.first(start, stop), column.last(start, stop)) == (inside[0], inside[-1])
        if not is_split:
            assert column.variance(start, stop) == variance_of(inside)


def test_a_rising_series_keeps_one_peak_and_a_falling_one_all() -> None:
    column = Column([1.0, 2.0, 3.0, 3.0], Derived(peaks=True, dips=True))
    assert (column.peaks, column.dips) == ([3], [0, 1, 3])


def test_a_million_events_leave_no_drift() -> None:
    """Values from 1e-6 to 1e12 pass through one key; sums of what is left are as if they had never been.

    Wanted: 1e-9 of sum |x|, and of sum x^2 for variances.  Kept: equal to the last bit.
    """
    size, width = 1_000_000, 500
    random = np.random.default_rng(11)
    values = (random.normal(size=size) * 10.0 ** random.integers(-6, 13, size=size)).tolist()
    prices = np.round(random.lognormal(3.0, 1.0, size=9_999), 2).tolist()
    card = by("card")
    wanted = [card.sum("a", width), card.var("a", width), card.max("a", width), card.count(width)]
    wanted += [card.sum("b", width), card.mean("b", width)]
    windows = Logs(["a", "b"], [Target(n, a) for n, a in enumerate(wanted)], event_max=10_000)
    event_step, out = windows.step, {}
    for time in range(size):
        row = (values[time], prices[time % 9_999])
        event_step("x", Event("", time, "x", None, offset=0, watermark=time), row, out)
        if time % 9_973 == 0 or time == size - 1:
            inside = values[max(0, time - width + 1) : time + 1]
            assert out[0] == fsum(inside)
            assert out[2] == max(inside)
            assert out[3] == len(inside)
            assert out[1] == pytest.approx(np.var(inside, ddof=1) if time else 0.0, rel=1e-9)
            paid = [prices[place % 9_999] for place in range(max(0, time - width + 1), time + 1)]
            assert (out[4], out[5]) == (fsum(paid), fsum(paid) / len(paid))
