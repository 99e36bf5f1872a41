"""The new pipeline: its fields, features, windows and models, and the sample in the form of its messages.

Lives here: what is made of columns and their roles.  Never here: the guesses (`roles.py`), the text of the
files (`writing.py`).
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from engine.project.columns import Kind, SampleColumn, sample_columns
from engine.project.roles import CLASSES_MAX, AskedRoles, Roles, roles_of
from engine.project.sample import SampleRows
from topics.durations import duration_ms
from topics.errors import SettingsError
from topics.messages import Task

__all__ = ["LabelTimes", "ProjectField", "ProjectPlan", "plan_of"]

SPANS = ("1m", "10m", "1h", "6h", "1d", "7d", "30d")
"""Widths of windows that people read at a glance."""
EVENTS_PER_WINDOW = 10
"""Events of one key that the narrow window should hold: of fewer a mean says little."""
WAITS = ("1m", "10m", "1h", "6h", "1d", "3d", "7d", "14d", "30d", "90d", "365d")
MADE_TIME, MADE_ID = "event_time", "event_id"
MADE_FROM_MS = 1_704_067_200_000
"""2024-01-01: where rows without a time begin, one second apart."""
_CLASS = re.compile(r"(^|_)(class|label|category|type)$", re.IGNORECASE)
"""In the names of labels whose whole numbers are classes."""
_TYPES: Mapping[Kind, str] = {"bool": "bool", "int": "int", "float": "float", "text": "str"}


_ANNOTATIONS = frozenset({*_TYPES.values(), "datetime"})
"""A field of such a name with a default would stand in the way of the types of those behind it."""


class ProjectField(NamedTuple):
    """A field of the event's Struct."""

    name: str
    """In Python."""
    wire: str
    """In messages: the column's own name."""
    type: str
    optional: bool
    """Whether some row has no value."""


class LabelTimes(NamedTuple):
    """When labels are known: labels come on a topic of their own."""

    delay: str | None = None
    """So long after the event; give this or `column`."""
    column: str | None = None
    """At the time in this column."""


@dataclass(frozen=True)
class ProjectPlan:
    """What `writing.py` writes down."""

    name: str
    task: Task
    roles: Roles
    fields: tuple[ProjectField, ...]
    id: str
    time: str
    key: str
    label: str
    """Fields by their Python names."""
    label_kind: Kind
    numbers: tuple[str, ...]
    """Fields that are features as they are, numbers and truth values."""
    words: tuple[str, ...]
    """Fields that are features as they are, categories."""
    time_parts: tuple[str, ...]
    """`hour`, `weekday`: where the sample's times differ in them."""
    spans: tuple[str, ...]
    """Widths of the windows."""
    wait: str | None
    """How long a prediction waits for its label; None where events carry theirs."""
    label_id: str
    """The field of a label message with the id."""
    notes: tuple[str, ...]
    """What was left out or made up, and why."""
    events: tuple[dict[str, Any], ...]
    """The sample as event messages, oldest first."""
    labels: tuple[dict[str, Any], ...] = ()
    """The sample's label messages, in the order of their times; empty where events carry theirs."""


def plan_of(name: str, sample: SampleRows, asked: AskedRoles, known: LabelTimes | None = None) -> ProjectPlan:
    """Return the pipeline that fits a sample; `known` says when its labels are known, None at once.

    Raises SettingsError where a role cannot be filled.
    """
    columns = sample_columns(sample)
    if len(sample.rows) < 2:
        raise SettingsError("a sample of one row says nothing", hint="give some hundred rows or more")
    roles = roles_of(columns, asked)
    times, made_time = _times(columns, roles, len(sample.rows))
    notes = list(_notes(sample, columns, roles, known, made_time=made_time))
    label_column = columns[str(roles.label.column)]
    if label_column.missing and known is None:
        raise SettingsError(
            f"the label `{label_column.name}` has no value in {label_column.missing:,} rows",
            hint="labels that come later have a topic of their own: say when, --label-delay 1h",
        )
    fields = _fields(columns, roles, asked, made_time=made_time, known=known)
    by_wire = {field.wire: field for field in fields}
    order = sorted(range(len(times)), key=times.__getitem__)  # stable
    wire_id = roles.id.column or _unused(MADE_ID, columns)
    wire_time = _unused(MADE_TIME, columns) if made_time else str(roles.time.column)
    rows = _rows(columns, fields, len(times))
    for index, row in enumerate(rows):
        if roles.id.column is None:
            row[wire_id] = f"{index + 1}"
        if made_time:
            row[wire_time] = times[index]
    numbers, words = _features(columns, by_wire, roles, asked, notes)
    labels, wait = _labels(columns, roles, rows, times, known, wire_id)
    gap_ms = _gap(times, order, columns[roles.key.column].values if roles.key.column else None)
    return ProjectPlan(
        name=name,
        task=_task(label_column),
        roles=roles,
        fields=fields,
        id=by_wire[wire_id].name,
        time=by_wire[wire_time].name,
        key=by_wire[roles.key.column or wire_id].name,
        label=by_wire[label_column.name].name if known is None else "label",
        label_kind=label_column.kind,
        numbers=numbers,
        words=words,
        time_parts=() if roles.time.column is None else _time_parts(times),
        spans=_spans(gap_ms, times[order[-1]] - times[order[0]]),
        wait=wait,
        label_id=wire_id,
        notes=tuple(notes),
        events=tuple(rows[index] for index in order),
        labels=labels,
    )


# -- times --------------------------------------------------------------------------------------------


def _times(columns: Mapping[str, SampleColumn], roles: Roles, rows: int) -> tuple[list[int], bool]:
    """Return the time of every row, ms, and whether events need a field for it that no column is."""
    if roles.time.column is None:
        return [MADE_FROM_MS + 1_000 * index for index in range(rows)], True
    column = columns[roles.time.column]
    assert column.times is not None
    times = [time for time in column.times.values_ms if time is not None]
    if roles.hour is None:
        return times, not column.times.form.on_wire
    hours = columns[roles.hour].values
    return [time + 3_600_000 * hour for time, hour in zip(times, hours, strict=True)], True


def _gap(times: Sequence[int], order: Sequence[int], keys: Sequence[Any] | None) -> float:
    """Return the median time between two events of one key, ms; of all events where there is no key."""
    last: dict[Any, int] = {}
    gaps = []
    for index in order:
        key = None if keys is None else keys[index]
        if key in last:
            gaps.append(times[index] - last[key])
        last[key] = times[index]
    return median(gaps) if gaps else 0.0


def _spans(gap_ms: float, whole_ms: int) -> tuple[str, ...]:
    """Return two widths of windows: the first that holds some events of a key, and the next."""
    fitting = [span for span in SPANS if duration_ms(span) >= EVENTS_PER_WINDOW * gap_ms] or [SPANS[-1]]
    fitting = [span for span in fitting if duration_ms(span) <= whole_ms] or fitting[:1]
    return tuple(fitting[:2])


def _time_parts(times: Sequence[int]) -> tuple[str, ...]:
    """Return the parts of a time that differ in these."""
    hours = {time % 86_400_000 // 3_600_000 for time in times}
    days = {time // 86_400_000 for time in times}
    return (*(("hour",) if len(hours) > 1 else ()), *(("weekday",) if len(days) > 1 else ()))


# -- fields and features ------------------------------------------------------------------------------


def _fields(
    columns: Mapping[str, SampleColumn],
    roles: Roles,
    asked: AskedRoles,
    *,
    made_time: bool,
    known: LabelTimes | None,
) -> tuple[ProjectField, ...]:
    """Return the fields of an event: made ones first, then the columns that are any use, in their order."""
    left_out: set[str | None] = {*roles.leaks, *asked.without}
    left_out -= {roles.id.column, roles.time.column, roles.key.column}
    if made_time:
        left_out |= {roles.time.column, roles.hour}
    if known is not None:
        left_out |= {roles.label.column, known.column}
    wires: list[tuple[str, str, bool]] = []
    if roles.id.column is None:
        wires.append((_unused(MADE_ID, columns), "str", False))
    if made_time:
        wires.append((_unused(MADE_TIME, columns), "int", False))
    for column in columns.values():
        if column.name in left_out or column.kind not in _TYPES:
            continue
        is_time = column.name == roles.time.column
        in_wire = "datetime" if is_time and column.kind == "text" else _TYPES[column.kind]
        wires.append((column.name, in_wire, column.missing > 0))
    names: dict[str, str] = {}
    for wire, _, _ in wires:
        names[wire] = _identifier(wire, names.values())
    # Fields with a default come last, as in every Struct.
    return tuple(
        ProjectField(names[wire], wire, type_, optional)
        for wire, type_, optional in sorted(wires, key=lambda one: one[2])
    )


def _rows(
    columns: Mapping[str, SampleColumn], fields: Iterable[ProjectField], count: int
) -> list[dict[str, Any]]:
    """Return the rows as event messages, without made fields; what a row lacks is left out."""
    kept = [(field.wire, columns[field.wire].values) for field in fields if field.wire in columns]
    return [
        {wire: values[index] for wire, values in kept if values[index] is not None} for index in range(count)
    ]


def _features(
    columns: Mapping[str, SampleColumn],
    fields: Mapping[str, ProjectField],
    roles: Roles,
    asked: AskedRoles,
    notes: list[str],
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the fields that are features as they are: numbers, then categories."""
    others = {roles.id.column, roles.time.column, roles.label.column, *asked.without}
    numbers, words = [], []
    for wire, field in fields.items():
        column = columns.get(wire)
        if column is None or wire in others:
            continue
        if column.distinct < 2:
            notes.append(f"`{wire}` is no feature: it has one value")
        elif column.times is not None:
            notes.append(f"`{wire}` is no feature: it is another time")
        elif column.kind != "text":
            numbers.append(field.name)
        elif column.distinct <= CLASSES_MAX:
            words.append(field.name)
        else:
            notes.append(f"`{wire}` is no feature as it is: {column.distinct:,} different texts")
    return tuple(numbers), tuple(words)


def _identifier(wire: str, taken: Iterable[str]) -> str:
    """Return a column's name as a name in Python that no other column has.

    >>> _identifier("Sensor 1 (°C)", ()), _identifier("class", ()), _identifier("2nd", ())
    ('Sensor_1_C', 'class_', 'n2nd')
    """
    name = re.sub(r"[^A-Za-z0-9_]+", "_", wire).strip("_") or "column"
    name = f"n{name}" if name[0].isdigit() else name
    name += "_" if keyword.iskeyword(name) or name in _ANNOTATIONS else ""
    while name in set(taken):
        name += "_"
    return name


def _unused(name: str, columns: Mapping[str, SampleColumn]) -> str:
    """Return a name for a field that is made, which no column has."""
    while name in columns:
        name = f"headrace_{name}"
    return name


# -- the label ----------------------------------------------------------------------------------------


def _task(label: SampleColumn) -> Task:
    """Return what is predicted: one of two, one of several, or a number."""
    if label.kind == "bool" or (label.kind in {"int", "float"} and set(label.known) == {0, 1}):
        return "binary"
    is_class = label.kind == "int" and label.distinct <= CLASSES_MAX and _CLASS.search(label.name)
    return "multiclass" if label.kind == "text" or is_class else "regression"


def _labels(
    columns: Mapping[str, SampleColumn],
    roles: Roles,
    rows: Sequence[Mapping[str, Any]],
    times: Sequence[int],
    known: LabelTimes | None,
    wire_id: str,
) -> tuple[tuple[dict[str, Any], ...], str | None]:
    """Return label messages in the order of their times, and how long a prediction must wait for one."""
    if known is None:
        return (), None
    values = columns[str(roles.label.column)].values
    if known.column is not None:
        column = columns.get(known.column)
        if column is None or column.times is None:
            raise SettingsError(
                f"`{known.column}` is no column of times",
                hint="--label-time COLUMN says when labels are known",
            )
        at: list[int | None] = list(column.times.values_ms)
    else:
        delay_ms = duration_ms(str(known.delay))
        at = [time + delay_ms for time in times]
    found: list[dict[str, Any]] = []
    waits = [0]
    for row, value, known_ms, time in zip(rows, values, at, times, strict=True):
        if value is None or known_ms is None:
            continue
        waits.append(known_ms - time)
        key = {roles.key.column: row[roles.key.column]} if roles.key.column is not None else {}
        found.append({wire_id: row[wire_id], "label": value, "label_time": known_ms, **key})
    found.sort(key=lambda label: label["label_time"])
    longest = max(waits)
    return tuple(found), next((wait for wait in WAITS if duration_ms(wait) > longest), WAITS[-1])


# -- what is told -------------------------------------------------------------------------------------


def _notes(
    sample: SampleRows,
    columns: Mapping[str, SampleColumn],
    roles: Roles,
    known: LabelTimes | None,
    *,
    made_time: bool,
) -> Iterable[str]:
    if sample.malformed:
        yield f"{sample.malformed:,} lines are no rows and were left out"
    if not sample.is_whole:
        yield f"only the first {len(sample.rows):,} rows were read"
    if roles.id.column is None:
        yield "no column is an id: give each event one, `event_id`; the sample's are the numbers of its rows"
    if made_time and roles.time.column is not None:
        parts = f"`{roles.time.column}`" + (f" and `{roles.hour}`" if roles.hour else "")
        yield f"`event_time` is {parts} in ms since 1970, UTC: events must carry it so"
    elif made_time:
        yield "no column is a time: give each event one, `event_time`, in ms since 1970"
    for name in roles.label_times if known is None else ():
        yield f"`{name}` is never before the event: if labels are known then, say --label-time {name}"
    for name, how in roles.leaks.items():
        yield f"`{name}` is left out: {how}, so it is known no earlier"
    for column in columns.values():
        if column.kind in {"nested", "empty"}:
            yield f"`{column.name}` is left out: {column.note}"
        elif column.note:
            yield f"`{column.name}`: {column.note}"
