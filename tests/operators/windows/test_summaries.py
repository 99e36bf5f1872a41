"""Sketches depend on values alone, and are as exact as they say."""

from __future__ import annotations

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from operators.windows.summaries import (
    DISTINCT_EXACT,
    QUANTILE_ERROR,
    add_hash,
    bucket_of,
    distinct_of,
    histogram_quantile,
    merged_hashes,
    value_hash,
)

numbers = st.floats(-1e15, 1e15).filter(lambda value: value == 0 or abs(value) > 1e-60)


def hashes_of(values: list[object]) -> list[int]:
    hashes: list[int] = []
    for value in values:
        add_hash(hashes, value_hash(value))  # type: ignore[arg-type]
    return hashes


@given(st.lists(st.one_of(st.integers(-50, 50), st.text(max_size=3)), max_size=200), st.integers(0, 200))
def test_few_different_values_are_counted_exactly_in_any_order(values: list[object], cut: int) -> None:
    whole = hashes_of(values)
    assert distinct_of(whole) == len(set(values))
    assert merged_hashes(hashes_of(values[cut:]), hashes_of(values[:cut])) == whole == hashes_of(values[::-1])


def test_many_different_values_are_counted_within_four_standard_errors() -> None:
    for size in (DISTINCT_EXACT - 1, DISTINCT_EXACT, 5_000, 50_000):
        hashes = hashes_of(list(range(size)))
        assert len(hashes) <= DISTINCT_EXACT
        error = abs(distinct_of(hashes) / size - 1)
        assert error == 0 if size < DISTINCT_EXACT else error < 4 * 0.0443
    halves = merged_hashes(hashes_of(list(range(3_000))), hashes_of(list(range(2_000, 5_000))))
    assert halves == hashes_of(list(range(5_000)))


def test_hashes_are_the_same_in_every_process() -> None:
    code = "from operators.windows.summaries import value_hash; print(value_hash('shop'), value_hash(2.5))"
    found = {
        subprocess.check_output([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed})
        for seed in ("1", "2")
    }
    assert found == {f"{value_hash('shop')} {value_hash(2.5)}\n".encode()}


@given(st.lists(numbers, min_size=1, max_size=50), st.floats(0, 1))
def test_a_quantile_is_near_the_value_at_the_nearest_rank(values: list[float], share: float) -> None:
    counts: dict[int, int] = {}
    for value in values:
        counts[bucket_of(value)] = counts.get(bucket_of(value), 0) + 1
    wanted = sorted(values)[int(share * (len(values) - 1) + 0.5)]
    assert abs(histogram_quantile(counts, share) - wanted) <= abs(wanted) * QUANTILE_ERROR


@given(numbers, numbers)
def test_buckets_keep_the_order_of_numbers(one: float, other: float) -> None:
    assert (bucket_of(one) <= bucket_of(other)) if one <= other else (bucket_of(one) >= bucket_of(other))
