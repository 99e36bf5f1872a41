"""Hashes and crosses the same everywhere, spread evenly, never ambiguous; circles; parts of times."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st
from window_oracle import value_of

from operators import field
from operators.windows.evaluate import category_bucket, crossed

texts = st.text("×\\\\ab", max_size=6)


def test_buckets_are_the_same_for_ever() -> None:
    """A model's weights are learned under these names; a change would silently mix them up."""
    values = ["", "visa", "Café Central", "×", "1", 1, True, 1.0, -7, 2.5, 10**30]
    assert [category_bucket(value, 1_000) for value in values] == [
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
    found = Counter(category_bucket(f"merchant-{number:06}", 100) for number in range(20_000))
    assert sum((found[bucket] - 200) ** 2 / 200 for bucket in range(100)) < 149
    assert set(found) == set(range(100))


def test_buckets_are_half_open_and_of_any_numbers() -> None:
    expression = field("x").bucket((0, 10.5))
    assert [value_of(expression, x=x) for x in (-0.1, 0, 10.4, 10.5, 10**400)] == [0, 1, 1, 2, 2]


def test_a_circle_has_no_end() -> None:
    """The last minute of a day is as near to the first as any two minutes are."""
    sin, cos = field("m").cyclic_sin(1440), field("m").cyclic_cos(1440)
    place = [(value_of(sin, m=m), value_of(cos, m=m)) for m in (1439, 0, 1, 1440)]
    assert math.isclose(math.dist(place[0], place[1]), math.dist(place[1], place[2]))
    assert place[1] == place[3] == (0.0, 1.0)


OFFSETS = {"": 0, "+05:30": 330, "-08:00": -480, "+14:00": 840}
TIME_PARTS: dict[str, Callable[[datetime], object]] = {
    "minute": lambda t: t.minute,
    "hour": lambda t: t.hour,
    "weekday": lambda t: t.weekday(),
    "day": lambda t: t.day,
    "month": lambda t: t.month,
    "is_weekend": lambda t: t.weekday() >= 5,
}


@given(
    st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)),
    st.integers(-14 * 60, 14 * 60),
    st.sampled_from(sorted(OFFSETS)),
    st.sampled_from(sorted(TIME_PARTS)),
)
def test_parts_of_a_time_are_those_of_the_calendar(time: datetime, zone: int, offset: str, part: str) -> None:
    expression = getattr(field("t"), part)(utc_offset=offset)
    expected = TIME_PARTS[part](time + timedelta(minutes=OFFSETS[offset]))
    ms = (time - datetime(1970, 1, 1)) // timedelta(milliseconds=1)
    aware = time.replace(tzinfo=UTC).astimezone(timezone(timedelta(minutes=zone)))
    for given_as in (ms, time, aware):
        found = value_of(expression, t=given_as)
        assert (found, type(found)) == (expected, type(expected))
    assert value_of(expression, t=None) is None


def test_there_is_no_day_beyond_the_calendar() -> None:
    assert value_of(field("t").day(), t=10**18) is value_of(field("t").month(), t=-(10**18)) is None
    assert value_of(field("t").hour(), t=datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))) is None
