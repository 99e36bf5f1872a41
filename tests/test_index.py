"""The index against slices of the column it follows, and what its exact sums are for."""

from __future__ import annotations

from math import fsum

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.exact import UNIT
from operators.index import ColumnIndex
from operators.kernels import Target
from operators.language.by import by
from operators.windows import Windows
from topics.messages import Event

WANTED = {"sum", "var", "present", "max", "min"}
numbers = st.one_of(
    st.none(), st.integers(-3, 3), st.floats(-1e15, 1e15).filter(lambda x: not 0 < abs(x) < 1e-60)
)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_the_index_follows_appends_inserts_and_trims(data: st.DataObject) -> None:
    index, column = ColumnIndex(WANTED, stride=2, offset=1), []
    for number in data.draw(st.lists(numbers, min_size=1, max_size=30)):
        change = data.draw(st.sampled_from(["append", "append", "insert", "trim"]))
        if change == "append" or not column:
            column.append(number)
            index.append(rows(column), len(column) - 1)
        elif change == "insert":
            place = data.draw(st.integers(0, len(column) - 1))
            column.insert(place, number)
            index.insert(rows(column), place)
        else:
            count = data.draw(st.integers(0, len(column)))
            del column[:count]
            index.trim(count)
    fresh = ColumnIndex(WANTED, stride=2, offset=1)
    fresh.extend(rows(column))
    assert (index.peaks, index.dips) == (fresh.peaks, fresh.dips)
    start = data.draw(st.integers(0, len(column)))
    end = data.draw(st.integers(start, len(column)))
    inside = [number for number in column[start:end] if number is not None]
    assert index.present[end] - index.present[start] == len(inside)
    assert float(index.totals[end] - index.totals[start]) * UNIT == fsum(inside)


def rows(column: list[float | None]) -> list[float | None]:
    """Return `column` as the second of two."""
    return [value for number in column for value in (None, number)]


def test_a_rising_series_keeps_one_peak_and_a_falling_one_all() -> None:
    index = ColumnIndex({"max", "min"}, stride=1, offset=0)
    index.extend([1.0, 2.0, 3.0, 3.0])
    assert (index.peaks, index.dips) == ([3], [0, 1, 3])


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
    windows = Windows(["a", "b"], [Target(n, a) for n, a in enumerate(wanted)], event_max=10_000)
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
