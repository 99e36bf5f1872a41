"""Which column of a sample is the id, the time, the key, the label: guesses, reasons, other candidates.

Lives here: what speaks for a column, in points, and what was said by the user, which comes first.
Never here: kinds (`columns.py`), what is made of the guess (`plan.py`).

A guess is only taken where something speaks for it.  A label that is not sure is not guessed: the wrong one
makes every figure of a race a lie.  An id, a time or a key that no column is, is made up, and said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from engine.project.columns import SampleColumn
from topics.errors import SettingsError

__all__ = ["AskedRoles", "Choice", "Roles", "roles_of"]

LABEL_POINTS = 2
"""What must speak for a label that is not named: a telling name; or the last place and two values."""
CLASSES_MAX = 50
"""Different texts, or whole numbers that are classes, beyond which a column is no label of classes."""
CANDIDATES_SHOWN = 4

_ID = re.compile(r"(^|_)(id|uuid|guid|key|instant|index|row|nr|no|number)$", re.IGNORECASE)
_TIME = re.compile(
    r"(^|_)(event|created|sched|start|occurred|transaction|tx)?_?(time|timestamp|datetime|ts|at)$"
)
_KEY = re.compile(
    r"_id$|^(user|customer|client|account|card|device|sensor|machine|store|shop|station|host|origin|product|item"
    r"|city|region|country|merchant|terminal|symbol|carrier|site|zone|line|vehicle|patient|player|tenant)s?$",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"^(label|target|y|class|outcome|response|result|is_(fraud|spam|late|bad|churn\w*|default\w*)|cnt|count|demand|sales|price|amount_due|churn(ed)?"
    r"|fraud|tx_fraud|clicked|click|converted|default(ed)?|survived|failure|failed|delayed\d*|late|rain|spam)$",
    re.IGNORECASE,
)
_HOUR = re.compile(r"^(hr|hour|hours|hour_of_day)$", re.IGNORECASE)


@dataclass(frozen=True)
class Choice:
    """A column for one role."""

    column: str | None
    """None: no column is it."""
    reason: str
    others: tuple[str, ...] = ()
    """Other candidates, the likeliest first."""


@dataclass(frozen=True)
class AskedRoles:
    """What the user says of the columns; None leaves it to a guess."""

    id: str | None = None
    time: str | None = None
    key: str | None = None
    label: str | None = None
    without: tuple[str, ...] = ()
    """Columns that no feature is made of."""


@dataclass(frozen=True)
class Roles:
    """What the columns of a sample are for."""

    label: Choice
    time: Choice
    hour: str | None
    """The column with the hour of a time that is only a date."""
    id: Choice
    key: Choice
    label_times: tuple[str, ...] = ()
    """Columns of times that are never before the event's: one may say when the label was known."""
    leaks: Mapping[str, str] = field(default_factory=dict)
    """Columns that give the label away, and how."""


def roles_of(columns: Mapping[str, SampleColumn], asked: AskedRoles) -> Roles:
    """Return what each column is for.

    Raises SettingsError where a named column is not there or cannot be it, and where no label is found.
    """
    for name in (asked.id, asked.time, asked.key, asked.label, *asked.without):
        if name is not None and name not in columns:
            raise SettingsError(
                f"the sample has no column `{name}`", hint=f"its columns: {', '.join(columns)}"
            )
    time, hour = _time(columns, asked.time)
    taken = {name for name in (time.column, hour, asked.key) if name is not None}
    label = _label(columns, asked.label, taken | {name for name in (asked.id,) if name is not None})
    taken.add(label.column or "")
    id_ = _id(columns, asked.id, taken)
    key = _key(columns, asked.key, (taken - {asked.key}) | {id_.column or ""})
    later = _later(columns, time.column) if time.column is not None and hour is None else ()
    return Roles(label, time, hour, id_, key, later, _leaks(columns, columns[label.column or ""], taken))


# -- the time -----------------------------------------------------------------------------------------


def _time(columns: Mapping[str, SampleColumn], asked: str | None) -> tuple[Choice, str | None]:
    """Return the time of the event, and the column with its hour where it is only a date."""
    if asked is not None and columns[asked].times is None:
        raise SettingsError(
            f"column `{asked}` is no time: {_shown(columns[asked])}",
            hint="times are epoch numbers since 1990, ISO 8601 text, or dates such as 31/12/2024",
        )
    if asked is not None and columns[asked].missing:
        raise SettingsError(
            f"column `{asked}` has no value in {columns[asked].missing} rows",
            hint="every event has a time: leave those rows out, or name another column",
        )

    def points(column: SampleColumn) -> list[tuple[int, str]]:
        assert column.times is not None
        known = [time for time in column.times.values_ms if time is not None]
        return [
            (2, "its name") if _TIME.search(column.name.lower()) else (0, ""),
            (1, "it never falls") if known == sorted(known) else (0, ""),
            (1, "it has the time of day") if column.times.form.has_clock else (0, ""),
        ]

    usable = [column for column in columns.values() if column.times is not None and not column.missing]
    chosen = _best(usable, points, asked, "you said so")
    if chosen.column is None:
        return Choice(None, "no column is a time in every row: rows are taken as one second apart"), None
    times = columns[chosen.column].times
    assert times is not None
    doubt = f"; {times.form.doubt} fits as well" if times.form.doubt else ""
    chosen = Choice(chosen.column, f"{times.form.name}{doubt}; {chosen.reason}", chosen.others)
    return chosen, None if times.form.has_clock else _hour(columns)


def _later(columns: Mapping[str, SampleColumn], time: str) -> tuple[str, ...]:
    """Return the columns of times that are never before the event's."""
    times = columns[time].times
    assert times is not None
    return tuple(
        column.name
        for column in columns.values()
        if column.name != time
        and column.times is not None
        and all(
            later is None or earlier is None or later >= earlier
            for earlier, later in zip(times.values_ms, column.times.values_ms, strict=True)
        )
    )


def _hour(columns: Mapping[str, SampleColumn]) -> str | None:
    """Return the column of whole numbers that is the hour of the day, None for none."""
    for column in columns.values():
        if column.kind == "int" and not column.missing and _HOUR.match(column.name) and _is_hour(column):
            return column.name
    return None


def _is_hour(column: SampleColumn) -> bool:
    return all(0 <= value < 24 for value in column.known)


# -- the label ----------------------------------------------------------------------------------------


def _label(columns: Mapping[str, SampleColumn], asked: str | None, taken: set[str]) -> Choice:
    """Return the label.  Raises SettingsError where none is sure."""
    last = list(columns)[-1]
    usable = [
        column
        for column in columns.values()
        if column.name not in taken
        and column.kind not in {"nested", "empty"}
        and column.distinct > 1
        and not (column.kind == "text" and (column.distinct > CLASSES_MAX or column.times is not None))
    ]
    if asked is not None and columns[asked] not in usable:
        raise SettingsError(
            f"column `{asked}` cannot be a label: {_shown(columns[asked])}",
            hint=f"a label is a truth value, a number, or one of at most {CLASSES_MAX} texts, and not"
            " the time or the id",
        )

    def points(column: SampleColumn) -> list[tuple[int, str]]:
        two = column.distinct == 2
        return [
            (2, "its name") if _LABEL.match(column.name) else (0, ""),
            (1, "it is the last column") if column.name == last else (0, ""),
            (1, "it has two values") if two else (0, ""),
        ]

    chosen = _best(usable, points, asked, "you said so", least=LABEL_POINTS)
    if chosen.column is None:
        likely = ", ".join(chosen.others) or "none"
        raise SettingsError(
            f"no column is surely the label; the likeliest: {likely}",
            hint="say which one is to be predicted: --label COLUMN",
        )
    return chosen


def _leaks(columns: Mapping[str, SampleColumn], label: SampleColumn, taken: set[str]) -> dict[str, str]:
    """Return columns that give the label away: equal to it, or two whose sum it is."""
    if label.kind not in {"int", "float"} or label.missing:
        return {}
    numbers = [
        column
        for column in columns.values()
        if column.kind in {"int", "float"} and column.name not in taken and not column.missing
    ]
    found = {one.name: f"it equals `{label.name}`" for one in numbers if one.values == label.values}
    for index, one in enumerate(numbers):
        rest = [value - other for value, other in zip(label.values, one.values, strict=True)]
        if not any(rest):
            continue
        for other in numbers[index + 1 :]:
            # The first rows rule out nearly every pair.
            if all(abs(a - b) < 1e-9 for a, b in zip(rest, other.values, strict=True)):
                told = f"`{one.name}` + `{other.name}` is `{label.name}`"
                found |= {one.name: told, other.name: told}
    return found


# -- id and key ---------------------------------------------------------------------------------------


def _id(columns: Mapping[str, SampleColumn], asked: str | None, taken: set[str]) -> Choice:
    """Return the id; none where no column has another value in every row and looks like one."""
    if asked is not None and not _is_unique(columns[asked]):
        raise SettingsError(
            f"column `{asked}` is no id: {_shown(columns[asked])}",
            hint="an id is text or a whole number, in every row another one",
        )

    def points(column: SampleColumn) -> list[tuple[int, str]]:
        counts = column.kind == "int" and column.values == tuple(
            range(column.values[0], column.values[0] + len(column.values))
        )
        return [
            (2, "its name") if _ID.search(column.name) else (0, ""),
            (1, "it counts rows") if counts else (0, ""),
            (1, "it is text") if column.kind == "text" else (0, ""),
        ]

    usable = [one for one in columns.values() if _is_unique(one) and one.name not in taken]
    chosen = _best(usable, points, asked, "you said so", least=1)
    if chosen.column is None:
        return Choice(None, "no column is one: the number of the row is", chosen.others)
    return Choice(chosen.column, f"in every row another value; {chosen.reason}", chosen.others)


def _is_unique(column: SampleColumn) -> bool:
    return (
        column.kind in {"text", "int"}
        and not column.missing
        and column.distinct == len(column.values) > 1
        and (column.kind == "text" or min(column.known) >= 0)
    )


def _key(columns: Mapping[str, SampleColumn], asked: str | None, taken: set[str]) -> Choice:
    """Return whom or what an event is about; none where no column says so."""
    rows = len(next(iter(columns.values())).values)
    if asked is not None and (columns[asked].kind not in {"text", "int"} or columns[asked].missing):
        raise SettingsError(
            f"column `{asked}` is no key: {_shown(columns[asked])}",
            hint="a key is text or a whole number, in every row",
        )

    def points(column: SampleColumn) -> list[tuple[int, str]]:
        return [
            (2, "its name") if _KEY.search(column.name) else (0, ""),
            (1, "it is text") if column.kind == "text" else (0, ""),
        ]

    usable = [
        column
        for column in columns.values()
        if column.name not in taken
        and column.kind in {"text", "int"}
        and column.times is None
        and not column.missing
        and 1 < column.distinct <= rows // 2
    ]
    chosen = _best(usable, points, asked, "you said so", least=2)
    if chosen.column is None:
        return Choice(None, "no column says whom events are about: the id is the key", chosen.others)
    return Choice(
        chosen.column, f"{columns[chosen.column].distinct:,} values; {chosen.reason}", chosen.others
    )


# -- how a guess is made ------------------------------------------------------------------------------


def _best(
    usable: Iterable[SampleColumn],
    points: Callable[[SampleColumn], list[tuple[int, str]]],
    asked: str | None,
    asked_reason: str,
    *,
    least: int = 0,
) -> Choice:
    """Return the column of the most points, the first of equals; none where it has fewer than `least`."""
    scored = [(column.name, [one for one in points(column) if one[0]]) for column in usable]
    ranked = sorted(scored, key=lambda one: -sum(point for point, _ in one[1]))  # stable
    if asked is not None:
        others = [name for name, _ in ranked if name != asked]
        return Choice(asked, asked_reason, tuple(others[:CANDIDATES_SHOWN]))
    if not ranked or sum(point for point, _ in ranked[0][1]) < least:
        return Choice(None, "", tuple(name for name, _ in ranked[:CANDIDATES_SHOWN]))
    name, told = ranked[0]
    others = [other for other, for_it in ranked[1:] if sum(point for point, _ in for_it) >= max(least, 1)]
    reason = ", ".join(reason for _, reason in told) or "the only candidate"
    return Choice(name, reason, tuple(others[:CANDIDATES_SHOWN]))


def _shown(column: SampleColumn) -> str:
    """Return what a column holds, in a few words."""
    shown = ", ".join(repr(value) for value in column.known[:3])
    return f"{column.kind}, {column.distinct:,} different values, {column.missing:,} missing, such as {shown}"
