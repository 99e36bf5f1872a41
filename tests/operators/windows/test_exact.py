"""Sums in two floats against exact ones, over magnitudes from 1e-6 to 1e12."""

from __future__ import annotations

from fractions import Fraction
from math import fsum

from hypothesis import given, settings
from hypothesis import strategies as st

from operators.windows.exact import ExactSplit, split_for

scales = st.integers(-20, 40).map(lambda exponent: 2.0**exponent)
everyday = st.lists(
    st.floats(0.01, 1000.0) | st.integers(-1000, 1000) | st.just(0.1), min_size=1, max_size=40
)


@settings(max_examples=200, deadline=None)
@given(values=everyday, scale=scales, cut=st.integers(0, 39))
def test_any_range_of_two_float_sums_rounds_like_the_exact_sum(
    values: list[float], scale: float, cut: int
) -> None:
    values = [value * scale for value in values]
    split = split_for([1000 * scale])
    sums = [0.0, 0.0]
    for value in values:
        parts = split.parts(value)
        assert parts is not None
        assert Fraction(value) == Fraction(parts[0]) + Fraction(parts[1])
        sums += [sums[-2] + parts[0], sums[-1] + parts[1]]
    cut = min(cut, len(values))
    assert split.holds(sums)
    assert (sums[-2] - sums[2 * cut]) + (sums[-1] - sums[2 * cut + 1]) == fsum(values[cut:])


def worst_case(split: ExactSplit, value: float) -> tuple[float, float]:
    """Return the sums after as many of `value` as there is said to be room for."""
    parts = split.parts(value)
    assert parts is not None
    room = split.room(0.0, 0.0)
    return parts[0] * room, parts[1] * room


@given(value=st.floats(-1e6, 1e6))
def test_room_is_enough_whatever_comes(value: float) -> None:
    """The bounds that make additions exact hold for the longest run of the least favourable value."""
    split = split_for([1000])
    if split.parts(value) is not None:
        assert split.holds([*worst_case(split, value), *worst_case(split, -value)])


def test_what_does_not_fit_is_said_so() -> None:
    split = split_for([1000])
    assert split.parts(1e-6) is split.parts(1e7) is split.parts(float("nan")) is None
    assert split.room(split.high_max, 0.0) == split.room(0.0, -split.low_max) == 0
    assert not split.holds([2 * split.high_max, 0.0])
    assert split_for([]).parts(1) == (1.0, 0.0)
