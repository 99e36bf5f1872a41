"""What the columns of a sample are: truth values, whole numbers, numbers, times, text.

Lives here: the kind of a column and its values in that kind, which texts mean a missing value.  Never here:
what a column is for (`roles.py`).

A kind is taken where every value that is there fits it; the order is the one below, from narrow to wide.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from engine.project.sample import SampleRows
from engine.project.times import ColumnTimes, TimeForm, number_times, text_times

__all__ = ["Kind", "SampleColumn", "sample_column", "sample_columns"]

Kind = Literal["bool", "int", "float", "text", "nested", "empty"]
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "nil", "?"})
"""Texts of a column of numbers, times or truth values that mean no value.  In text only the empty one does:
`NA` is Namibia as well."""
_TRUTH = {"true": True, "false": False, "yes": True, "no": False}
_INT = re.compile(r"[+-]?(0|[1-9]\d{0,17})")
_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")
_DATE_NAME = re.compile(r"date|day|time|stamp|ts$|_at$|epoch|when", re.IGNORECASE)
"""In the names of columns whose numbers may be times or dates."""


@dataclass(frozen=True)
class SampleColumn:
    """One column of a sample."""

    name: str
    kind: Kind
    values: tuple[Any, ...]
    """In their kind, None where a row has none."""
    times: ColumnTimes | None = None
    """The values as times, where they are some."""
    note: str = ""
    """What was decided about it that a reader should know."""

    @property
    def known(self) -> list[Any]:
        """Return the values that are there."""
        return [value for value in self.values if value is not None]

    @property
    def missing(self) -> int:
        """Return how many rows have no value."""
        return len(self.values) - len(self.known)

    @property
    def distinct(self) -> int:
        """Return how many different values there are; 0 for nested ones."""
        return 0 if self.kind == "nested" else len(set(self.known))

    @property
    def form(self) -> TimeForm | None:
        """Return in which form it says times, None where it says none."""
        return None if self.times is None else self.times.form


def sample_columns(sample: SampleRows) -> dict[str, SampleColumn]:
    """Return the columns of a sample by name."""
    return {
        name: sample_column(name, [row.get(name) for row in sample.rows], is_text=sample.is_text)
        for name in sample.names
    }


def sample_column(name: str, values: Sequence[Any], *, is_text: bool) -> SampleColumn:
    """Return the kind of a column; `is_text` says that its values are text that may mean other kinds.

    >>> sample_column("n", ["3.0", "", "4.0"], is_text=True).values
    (3, None, 4)
    """
    kind, found, note = _of_text(values) if is_text else _of_json(values)
    times = None
    if kind in {"int", "float"}:
        times = number_times(found)
        if times is None and kind == "int" and _DATE_NAME.search(name):
            times = text_times([None if value is None else str(value) for value in found])
        elif times is not None and not _DATE_NAME.search(name) and not _rises(times.values_ms):
            times = None  # a number of ten digits may be anything
    elif kind == "text":
        times = text_times(found)
    return SampleColumn(name, kind, tuple(found), times, note)


def _rises(values: Sequence[int | None]) -> bool:
    """Return whether values never fall, and are more than one."""
    known = [value for value in values if value is not None]
    return known == sorted(known) and len(set(known)) > 1


def _of_text(values: Sequence[str | None]) -> tuple[Kind, list[Any], str]:
    """Return kind and values of a column of a CSV file."""
    trimmed = [None if value is None else value.strip() for value in values]
    given = [None if value is None or value.lower() in MISSING else value for value in trimmed]
    known = {value for value in given if value is not None}
    if not known:
        return "empty", [None] * len(values), "no row has a value"
    if all(value.lower() in _TRUTH for value in known):
        return "bool", [None if value is None else _TRUTH[value.lower()] for value in given], ""
    if all(_INT.fullmatch(value) for value in known):
        return "int", [None if value is None else int(value) for value in given], ""
    if all(_FLOAT.fullmatch(value) and math.isfinite(float(value)) for value in known):
        if any(len(value) > 1 and value[0] == "0" and value.isdigit() for value in known):
            return "text", [value or None for value in trimmed], "numbers with zeros in front are names"
        numbers = [None if value is None else float(value) for value in given]
        if None in given and all(number is None or number.is_integer() for number in numbers):
            whole = [None if number is None else int(number) for number in numbers]
            return "int", whole, "whole numbers, written with .0 where some are missing"
        return "float", numbers, ""
    return "text", [value or None for value in trimmed], ""


def _of_json(values: Sequence[Any]) -> tuple[Kind, list[Any], str]:
    """Return kind and values of a column of JSON lines."""
    known = [value for value in values if value is not None]
    if not known:
        return "empty", list(values), "no row has a value"
    if any(isinstance(value, dict | list) for value in known):
        return "nested", list(values), "objects and lists are no features"
    if all(isinstance(value, bool) for value in known):
        return "bool", list(values), ""
    if all(isinstance(value, str) for value in known):
        return "text", list(values), ""
    if any(isinstance(value, bool | str) for value in known):
        return "nested", list(values), "values of several kinds have no type"
    if all(isinstance(value, int) for value in known):
        return "int", list(values), ""
    return "float", [None if value is None else float(value) for value in values], ""
