"""Stored values read as they were written; lines of static features are rows or say what is wrong."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topics.stored_features import StaticRow, decode_static_row, parsed, stored_text


@given(st.integers(-(10**15), 10**15) | st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_come_back_as_they_were(number: float) -> None:
    assert parsed(stored_text(number)) == number


@given(st.text())
def test_no_text_becomes_a_number_that_is_not_finite(text: str) -> None:
    value = parsed(text)
    assert isinstance(value, str) or abs(value or 0) < float("inf")


@pytest.mark.parametrize("text", ["nan", "inf", "1e999", "007", "1_000", "0x10", " 1", "１", "9" * 5_000])
def test_what_only_looks_like_a_number_stays_text(text: str) -> None:
    assert parsed(text) == text


@given(st.one_of(st.booleans(), st.integers(-(10**15), 10**15), st.floats(-1e15, 1e15), st.text(max_size=40)))
def test_a_file_gives_the_value_that_a_store_would(value: bool | float | str) -> None:
    line = json.dumps({"key": "k", "time": 0, "fields": {"x": value}}).encode()
    found = decode_static_row(line).fields["x"]
    assert found == parsed(stored_text(value))
    assert type(found) is not bool


def test_times_are_milliseconds_or_text_with_an_offset() -> None:
    line = b'{"key": "k", "time": "2025-01-01T00:00:00Z", "fields": {"x": null}, "note": "ignored"}'
    assert decode_static_row(line) == StaticRow("k", 1_735_689_600_000, {"x": None})


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"no json", "malformed"),
        (b'{"key": "k", "fields": {"x": 1}}', "time"),
        (b'{"key": "", "time": 0, "fields": {}}', "empty key"),
        (b'{"key": "k", "time": 1735689600, "fields": {}}', "looks like seconds"),
        (b'{"key": "k", "time": -1, "fields": {}}', "1970"),
        (b'{"key": "k", "time": 0, "fields": {"x": [1]}}', r"\$.fields"),
        (b'{"key": "k", "time": 0, "fields": {"x": 1e16}}', r"beyond 1e\+15 - at `\$.fields.x`"),
        (b'{"key": "k", "time": 0, "fields": {"x": NaN}}', "malformed"),
        (b'{"key": "' + b"k" * 70_000 + b'", "time": 0, "fields": {}}', "longer than 65536"),
    ],
)
def test_what_is_no_row_says_why(line: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        decode_static_row(line)
