"""Texts and numbers that are times, and in which form.

Lives here: the forms, one by one, and which of two forms a column has where both fit.  Never here: which time
is the event's (`roles.py`).

A form is taken only where every value of a column fits it.  Text without an offset from UTC is taken as UTC.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from typing import NamedTuple

__all__ = ["ColumnTimes", "TimeForm", "number_times", "text_times"]

EPOCH_UNITS = {"s": 1_000.0, "ms": 1.0, "µs": 1e-3, "ns": 1e-6}
"""Units of epoch numbers, each with its milliseconds."""
EPOCH_FROM_MS, EPOCH_TO_MS = 631_152_000_000, 4_102_444_800_000
"""1990 to 2100: numbers outside are other things than times."""

_ISO = re.compile(r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:[.,]\d{1,9})?)?)? ?(Z|[+-]\d{2}:?\d{2})?")
_RFC_3339 = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}(\.\d{1,6})?(Z|[+-]\d{2}:\d{2})")
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")
_DATES = {
    "month/day/year": "%m/%d/%Y",
    "day/month/year": "%d/%m/%Y",
    "day.month.year": "%d.%m.%Y",
    "year/month/day": "%Y/%m/%d",
    "month-day-year": "%m-%d-%Y",
    "day-month-year": "%d-%m-%Y",
    "year month day": "%Y%m%d",
}
_SHAPE = re.compile(r"\d{1,4}[/.-]\d{1,2}[/.-]\d{1,4}( .*)?|\d{8}")


class TimeForm(NamedTuple):
    """In which form a column says times."""

    name: str
    """In words."""
    on_wire: bool
    """Whether an event may carry it as it is: whole epoch milliseconds, or RFC 3339 text with an offset."""
    has_clock: bool = True
    """Whether it says the time of day, not only the date."""
    doubt: str = ""
    """Which other form fits as well; empty for none."""


class ColumnTimes(NamedTuple):
    """A column as times."""

    form: TimeForm
    values_ms: tuple[int | None, ...]
    """ms since the epoch; None where the column has no value."""


def number_times(values: Sequence[int | float | None]) -> ColumnTimes | None:
    """Return numbers as epoch times, None where some are out of range in every unit.

    >>> number_times([1357017300, None, 1357018140]).values_ms
    (1357017300000, None, 1357018140000)
    >>> number_times([2011, 2012]) is None
    True
    """
    known = [value for value in values if value is not None]
    if not known:
        return None
    for unit, unit_ms in EPOCH_UNITS.items():
        if all(EPOCH_FROM_MS <= value * unit_ms < EPOCH_TO_MS for value in (min(known), max(known))):
            on_wire = unit == "ms" and all(isinstance(value, int) for value in known)
            times = tuple(None if value is None else _scaled(value, unit) for value in values)
            return ColumnTimes(TimeForm(f"epoch {unit}", on_wire), times)
    return None


def _scaled(value: float, unit: str) -> int:
    """Return an epoch number in whole ms; integers exactly."""
    if isinstance(value, int):
        return {"s": value * 1_000, "ms": value, "µs": value // 1_000, "ns": value // 1_000_000}[unit]
    return round(value * EPOCH_UNITS[unit])


def text_times(values: Sequence[str | None]) -> ColumnTimes | None:
    """Return texts as times, None where some are none or they differ in form.

    >>> text_times(["1/1/2011", "1/13/2011"]).form.name
    'month/day/year'
    >>> text_times(["2011-01-01T00:00:00Z", "soon"]) is None
    True
    """
    known = {value for value in values if value is not None}
    if not known:
        return None
    if found := _iso(values, known):
        return found
    if not all(_SHAPE.fullmatch(value) for value in known):
        return None
    fitting: list[tuple[int, int, str, bool, tuple[int | None, ...]]] = []
    for name, date in _DATES.items():
        for clock in _CLOCKS:
            parsed = _parsed(known, partial(_read, form=date + clock))
            if parsed and all(EPOCH_FROM_MS <= at < EPOCH_TO_MS for at in parsed.values()):
                times = tuple(None if value is None else parsed[value] for value in values)
                fitting.append((_backwards(times), len(fitting), name, bool(clock), times))
    if not fitting:
        return None
    fitting.sort()
    _, _, name, has_clock, best = fitting[0]
    doubt = next((other[2] for other in fitting[1:] if other[4] != best), "")
    return ColumnTimes(TimeForm(name, on_wire=False, has_clock=has_clock, doubt=doubt), best)


def _iso(values: Sequence[str | None], known: Iterable[str]) -> ColumnTimes | None:
    """Return ISO 8601 texts as times, None where one is none."""
    matches = [_ISO.fullmatch(value) for value in known]
    if not all(matches):
        return None
    parsed = _parsed(known, lambda text: datetime.fromisoformat(text.replace(",", ".").replace(" Z", "Z")))
    if parsed is None:
        return None
    zoned = all(match is not None and match[1] for match in matches)
    form = TimeForm(
        "RFC 3339" if zoned else "ISO 8601 without an offset",
        on_wire=all(_RFC_3339.fullmatch(value) for value in known),
        has_clock=any(":" in value for value in known),
    )
    return ColumnTimes(form, tuple(None if value is None else parsed[value] for value in values))


def _read(text: str, form: str) -> datetime:
    return datetime.strptime(text, form).replace(tzinfo=UTC)


def _parsed(known: Iterable[str], parse: Callable[[str], datetime]) -> dict[str, int] | None:
    """Return the time of each text, ms; None where one is none."""
    found = {}
    for text in known:
        try:
            at = parse(text)
        except ValueError:
            return None
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
        found[text] = round(at.timestamp() * 1_000)
    return found


def _backwards(times: Iterable[int | None]) -> int:
    """Return how often a time is below the one before it."""
    known = [time for time in times if time is not None]
    return sum(later < earlier for earlier, later in pairwise(known))
