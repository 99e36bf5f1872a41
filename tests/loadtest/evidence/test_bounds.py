"""Bounds of the tables: what a test could do that knows the law, against counting and arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.evidence.bounds import by_law, by_variance, mistaken
from loadtest.evidence.rule import SHORT


@given(
    st.lists(st.lists(st.integers(-4, 4), min_size=12, max_size=12), min_size=1, max_size=4),
    st.integers(1, 5),
)
def test_looking_like_a_collapse_is_counted_without_overlap(rows: list[list[int]], size: int) -> None:
    """Quarters, so that sums are exact: run by run, from left to right, each stretch once."""
    count = 0
    for row in rows:
        at = 0
        while at + size <= len(row):
            if sum(row[at : at + size]) / size >= 1:
                count += 1
                at += size
            else:
                at += 1
    labels = len(rows) * 12 * SHORT
    found = mistaken(np.asarray(rows, float) / 4, size * SHORT, 0.25, labels)
    assert found == pytest.approx(count)


def test_of_independent_blocks_the_variance_bound_is_arithmetic() -> None:
    rng = np.random.default_rng(1)
    change, deviation, shift = 300 * SHORT, 0.5, 0.25
    means = deviation * rng.standard_normal((400, 600))
    means[:, 300:] += shift
    expected = math.log(1_000) * 2.0 * deviation**2 / shift**2 * SHORT
    assert by_variance(means, change, 1_000 * SHORT) == pytest.approx(expected, rel=0.1)


def test_one_who_knows_the_law_sees_at_once_what_never_happens_else() -> None:
    """Blocks of -1 or 1 are passed by nothing but a 2; what equals do all the time is never passed."""
    rng = np.random.default_rng(2)
    equal = rng.choice([-1.0, 1.0], (200, 400))
    collapse = rng.choice([-1.0, 1.0], (200, 400))
    collapse[:, 300:] = 2.0
    assert by_law(equal, collapse, 300 * SHORT, 1_000_000) == SHORT
    assert by_law(equal, equal, 300 * SHORT, 1_000_000) > 50 * SHORT
