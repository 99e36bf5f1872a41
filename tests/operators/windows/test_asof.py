"""As of a time: the newest value at or before it, and never one of later; against a search of all rows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from operators.windows.asof import AsOf
from topics.stored_features import StaticRow, StoredValue

KEYS, FIELDS, TIMES = st.sampled_from(["a", "b"]), st.sampled_from(["x", "y"]), st.integers(0, 12)
ROWS = st.lists(
    st.builds(StaticRow, KEYS, TIMES, st.dictionaries(FIELDS, st.none() | st.integers(0, 99))), max_size=25
)


def searched(rows: list[StaticRow], key: str, name: str, time_ms: int) -> StoredValue:
    """Look at every row: of those that had happened, the newest, and the last in the file on ties."""
    found: tuple[int, StoredValue] = (-1, None)
    for row in rows:
        if row.key == key and name in row.fields and found[0] <= row.time <= time_ms:
            found = (row.time, row.fields[name])
    return found[1]


@given(ROWS, KEYS, FIELDS, st.integers(-1, 13))
def test_it_equals_a_search_of_all_rows(rows: list[StaticRow], key: str, name: str, time_ms: int) -> None:
    assert AsOf(rows).at(key, name, time_ms) == searched(rows, key, name, time_ms)


@given(ROWS, KEYS, FIELDS, TIMES, ROWS)
def test_the_future_changes_nothing(
    rows: list[StaticRow], key: str, name: str, time_ms: int, later: list[StaticRow]
) -> None:
    future = [StaticRow(row.key, row.time + time_ms + 1, row.fields) for row in later]
    assert AsOf(future + rows).at(key, name, time_ms) == AsOf(rows).at(key, name, time_ms)


@given(ROWS)
def test_the_newest_is_what_holds_at_the_end(rows: list[StaticRow]) -> None:
    known = AsOf(rows)
    assert {(key, name): value for key, name, value in known.newest()} == {
        (row.key, name): searched(rows, row.key, name, 12) for row in rows for name in row.fields
    }
    assert known.rows == len(rows)
