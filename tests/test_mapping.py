"""Hashes and crosses: the same everywhere, spread evenly, never ambiguous."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from operators.mapping import bucket_of, crossed

texts = st.text("×\\\\ab", max_size=6)


def test_buckets_are_the_same_for_ever() -> None:
    """A model's weights are learned under these names; a change would silently mix them up."""
    values = ["", "visa", "Café Central", "×", "1", 1, True, 1.0, -7, 2.5, 10**30]
    assert [bucket_of(value, 1_000) for value in values] == [
        756,
        2,
        682,
        620,
        710,
        710,
        710,
        710,
        148,
        191,
        407,
    ]


@given(st.lists(texts, min_size=2, max_size=4), st.lists(texts, min_size=2, max_size=4))
def test_different_categories_make_different_crosses(one: list[str], other: list[str]) -> None:
    assert (crossed(one) == crossed(other)) is (one == other)


def test_a_cross_of_a_cross_is_another_one() -> None:
    assert (
        crossed([crossed(["a", "b"]), "c"]) != crossed(["a", "b", "c"]) != crossed(["a", crossed(["b", "c"])])
    )


def test_buckets_are_filled_evenly() -> None:
    """20,000 alike texts in 100 buckets: chi-square with 99 degrees of freedom is below 149 in 99.9 %."""
    found = Counter(bucket_of(f"merchant-{number:06}", 100) for number in range(20_000))
    assert sum((found[bucket] - 200) ** 2 / 200 for bucket in range(100)) < 149
    assert set(found) == set(range(100))
