"""Columns of a sample: whatever is written as text comes back as it was, in its kind."""

from __future__ import annotations

import csv
import gzip
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.project.columns import MISSING, sample_column
from engine.project.sample import SAMPLE_ROWS_MAX, read_rows
from engine.project.times import number_times, text_times
from topics.errors import SettingsError

MOMENTS = st.datetimes(datetime(1990, 1, 2), datetime(2099, 12, 30))
WORDS = st.text("abcxyzé ,;\"'\n", min_size=1).filter(
    lambda text: text.strip().lower() not in {*MISSING, "yes", "no", "true", "false"}
)


def ms(moment: datetime) -> int:
    since = moment.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000 + since.microseconds // 1_000


def column(values: list[str | None]) -> Any:
    return sample_column("c", values, is_text=True)


# -- kinds --------------------------------------------------------------------------------------------


@given(st.lists(st.none() | st.integers(-(10**17), 10**17), min_size=1), st.sampled_from(sorted(MISSING)))
def test_whole_numbers_with_gaps_come_back(numbers: list[int | None], gap: str) -> None:
    found = column([gap if number is None else str(number) for number in numbers])
    assert found.kind == ("int" if any(number is not None for number in numbers) else "empty")
    assert list(found.values) == numbers
    assert found.missing == numbers.count(None)


@given(st.lists(st.integers(-(10**6), 10**6), min_size=1))
def test_whole_numbers_written_as_pandas_writes_them_beside_gaps(numbers: list[int]) -> None:
    found = column([*(f"{number}.0" for number in numbers), ""])
    assert (found.kind, list(found.values)) == ("int", [*numbers, None])
    assert column([f"{number}.0" for number in numbers]).kind == "float"


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_numbers_come_back(numbers: list[float]) -> None:
    found = column([*map(repr, numbers), "0.5"])
    assert (found.kind, list(found.values)) == ("float", [*numbers, 0.5])


@given(st.lists(st.booleans(), min_size=1), st.sampled_from(["true false", "True False", "yes no", "YES NO"]))
def test_truth_values_come_back(values: list[bool], words: str) -> None:
    yes, no = words.split()
    found = column([yes if value else no for value in values])
    assert (found.kind, list(found.values)) == ("bool", values)


@given(st.lists(st.none() | WORDS, min_size=1))
def test_text_stays_text(texts: list[str | None]) -> None:
    found = column([text or "" for text in texts])
    stripped = [text.strip() or None if text is not None else None for text in texts]
    assert list(found.values) == stripped
    assert found.kind == ("text" if any(stripped) else "empty")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["007", "012"], "text"),  # names, not numbers
        (["1e400", "1"], "text"),  # no number that a message may hold
        (["inf", "1.5"], "text"),
        (["NA", "NAMIBIA"], "text"),
        (["1", "x"], "text"),
        (["12345678901234567890"], "float"),  # no whole number of 64 bits
    ],
)
def test_what_is_none_of_the_narrow_kinds(values: list[str | None], kind: str) -> None:
    assert column(values).kind == kind
    assert column(values).missing == 0


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([True, None], "bool"),
        ([1, None], "int"),
        ([1, 2.5], "float"),
        (["1", "2"], "text"),
        ([1, "1"], "nested"),
        ([True, 1], "nested"),
        ([{"a": 1}], "nested"),
        ([None], "empty"),
    ],
)
def test_json_says_its_kinds_itself(values: list[Any], kind: str) -> None:
    assert sample_column("c", values, is_text=False).kind == kind


# -- times --------------------------------------------------------------------------------------------


@given(st.lists(MOMENTS, min_size=1), st.sampled_from(["s", "ms", "µs", "ns"]))
def test_epoch_numbers_come_back_to_the_unit(moments: list[datetime], unit: str) -> None:
    per_ms = {"s": 0, "ms": 1, "µs": 1_000, "ns": 1_000_000}[unit]
    wanted = [ms(moment) // 1_000 * 1_000 if unit == "s" else ms(moment) for moment in moments]
    found = number_times([at // 1_000 if unit == "s" else at * per_ms for at in wanted])
    assert found is not None
    assert found.form.name == f"epoch {unit}"
    assert found.form.on_wire == (unit == "ms")
    assert list(found.values_ms) == wanted


FORMS = {
    "%Y-%m-%dT%H:%M:%SZ": "RFC 3339",
    "%Y-%m-%d %H:%M:%S": "ISO 8601 without an offset",
    "%Y-%m-%d": "ISO 8601 without an offset",
    "%d.%m.%Y %H:%M": "day.month.year",
    "%Y/%m/%d %H:%M:%S": "year/month/day",
    "%m/%d/%Y %I:%M %p": "month/day/year",
    "%d/%m/%Y": "day/month/year",
    "%Y%m%d": "year month day",
}


@given(st.lists(MOMENTS, min_size=1), st.sampled_from(sorted(FORMS)))
def test_dates_come_back_in_their_form(moments: list[datetime], form: str) -> None:
    moments.append(datetime(2024, 12, 31))  # the 31st is no month: it decides between the two orders
    found = text_times([*(moment.strftime(form) for moment in moments), None])
    assert found is not None
    assert (found.form.name, found.form.doubt) == (FORMS[form], "")
    assert found.form.on_wire == form.endswith("Z")
    assert found.form.has_clock == ("%M" in form)
    wanted = [ms(datetime.strptime(moment.strftime(form), form)) for moment in moments]
    assert list(found.values_ms) == [*wanted, None]


def test_of_two_orders_that_fit_the_one_that_runs_forward_is_taken_and_the_other_told() -> None:
    days = [f"{day:02}/03/2024" for day in range(1, 13)]
    forward = text_times(days)
    assert forward is not None
    assert (forward.form.name, forward.form.doubt) == ("month/day/year", "day/month/year")
    both = text_times(["09/03/2024", "10/03/2024", "01/04/2024"])
    assert both is not None
    assert (both.form.name, both.form.doubt) == ("day/month/year", "month/day/year")


@pytest.mark.parametrize("text", ["2024-13-01", "31/31/2024", "soon", "1/1/24", "20241301", "2024-01-01x"])
def test_what_is_no_time_is_none(text: str) -> None:
    assert text_times(["2024-01-01", text]) is None
    assert text_times([text]) is None


def test_numbers_that_only_look_like_times_are_none() -> None:
    assert number_times([2011, 2012]) is None
    assert number_times([1_700_000_000, 5]) is None
    assert sample_column("amount", ["1700000000", "1600000000"], is_text=True).times is None
    assert sample_column("sent_at", ["1700000000", "1600000000"], is_text=True).times is not None
    assert sample_column("amount", ["20240101"], is_text=True).times is None
    assert sample_column("date", ["20240101"], is_text=True).times is not None


# -- files --------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(WORDS, st.integers()), min_size=1), st.sampled_from(",;\t|"), st.booleans())
def test_a_csv_file_comes_back_whatever_its_separator(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int]], separator: str, packed: bool
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=separator)
    writer.writerows([("word", "number"), *rows])
    path = tmp_path_factory.mktemp("csv") / ("s.csv.gz" if packed else "s.csv")
    data = b"\xef\xbb\xbf" + text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if packed else data)
    sample = read_rows(path)
    assert sample.names == ("word", "number")
    assert [(row["word"], int(row["number"])) for row in sample.rows] == rows
    assert (sample.malformed, sample.is_text, sample.is_whole) == (0, True, True)


def test_json_lines_and_lines_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text('{"a": 1}\n\nnot json\n[1]\n{"b": null, "a": 2}\n')
    sample = read_rows(path)
    assert (sample.names, sample.malformed, sample.is_text) == (("a", "b"), 2, False)
    assert sample.rows == ({"a": 1}, {"b": None, "a": 2})


def test_no_more_rows_than_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text("n\n" + "".join(f"{n}\n" for n in range(SAMPLE_ROWS_MAX + 1)))
    sample = read_rows(path)
    assert (len(sample.rows), sample.is_whole) == (SAMPLE_ROWS_MAX, False)
    path.write_text("n\n" + "".join(f"{n}\n" for n in range(SAMPLE_ROWS_MAX)))
    assert read_rows(path).is_whole


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "cannot read"),
        (b"", "has no rows"),
        (b"a,b\n", "has no rows"),
        (b"a,a\n1,2\n", "no header"),
        (b"a,\n1,2\n", "no header"),
        (b"a\n\xff\n", "no UTF-8"),
        (json.dumps({f"c{n}": n for n in range(501)}).encode(), "501 columns"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, data: bytes | None, said: str) -> None:
    path = tmp_path / "s.csv"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(SettingsError) as caught:
        read_rows(path)
    assert said in caught.value.message
    assert caught.value.hint
