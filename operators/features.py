"""Events to feature dicts: the plan of `plan.py`, run.

Lives here: the order of things for one event, and expressions over its values.  Never here:
what a window holds (`windows.py`), what a definition may say (`plan.py`), who predicts.

Strategy: an event fills in a copy of the template, which has every feature's name in the
order of the definition: first its windows, then the expressions over fields and other
aggregates.  What is missing and has no default is taken out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from math import isfinite
from operator import attrgetter
from typing import Any, Final, NamedTuple

import msgspec

from operators.contract import StateDelta, StateEntries
from operators.exact import VALUE_MAX, Number, as_number
from operators.kernels import Target
from operators.nodes import (
    Aggregate,
    Arithmetic,
    Constant,
    Default,
    Expression,
    Field,
    Lookup,
    Negative,
    TimePart,
)
from operators.plan import FeaturePlan, Group, nodes
from operators.windows import LONG_AGO, Row, Windows
from topics.errors import CheckpointError
from topics.messages import Event, FeatureValue

__all__ = ["Features", "JoinedLabel"]

Out = dict[Any, Any]
Evaluate = Callable[[Any, Out, Mapping[str, object]], FeatureValue | None]
"""(the user's event, aggregates by number, looked-up values by `Lookup.address`) -> value or None."""

_META: Final = "meta"
_HOUR_MS: Final = 3_600_000
_NOTHING: Final[Mapping[str, object]] = {}


class JoinedLabel(NamedTuple):
    """A label that has met its event."""

    keys: tuple[str, ...]
    """The event's `Features.label_keys`."""
    label_time: int
    value: float | None
    """Binary: 1.0 or 0.0; regression: the value; None where a label is no number."""


class _Meta(msgspec.Struct, frozen=True, array_like=True):
    """What is remembered besides the logs."""

    watermark: int
    evicted: tuple[tuple[int, int], ...]


class _GroupRun(NamedTuple):
    """A group at work: its windows, and how an event's key and row are read."""

    windows: Windows
    key_of: Callable[[Any], str]
    row_of: Callable[[Any], Row]


class Features:
    """Features of events in log order, with all their windows.

    >>> from operators import by
    >>> from operators.plan import compile_features
    >>> class Payment(msgspec.Struct):
    ...     card: str
    ...     amount: float
    >>> definition = {"n": by("card").count("1h"), "mean": by("card").mean("amount", "1h")}
    >>> plan = compile_features(definition, Payment, grace_ms=0, max_events_per_key=100, task="binary")
    >>> features = Features(plan)
    >>> events = [
    ...     Event(str(n), n * 60_000, "a", Payment("a", amount), offset=n, watermark=n * 60_000)
    ...     for n, amount in enumerate([1.0, 4.0])
    ... ]
    >>> features.step_events(events)
    [{'n': 1, 'mean': 1.0}, {'n': 2, 'mean': 2.5}]
    """

    def __init__(self, plan: FeaturePlan) -> None:
        self.plan = plan
        targets: dict[Aggregate, list[Target]] = {}
        self._template: Out = {}
        later: list[tuple[str, Expression]] = []
        for name, expression in plan.features:
            self._template[name] = default = expression.value if isinstance(expression, Default) else None
            of = expression.of if isinstance(expression, Default) else expression
            if isinstance(of, Aggregate):
                targets.setdefault(of, []).append(Target(name, of, default is not None))
            else:
                later.append((name, expression))
        # Aggregates inside other expressions go under numbers, which are taken out at the end.
        inner = dict.fromkeys(
            part for _, expression in later for part in nodes(expression) if isinstance(part, Aggregate)
        )
        numbers = {aggregate: number for number, aggregate in enumerate(inner)}
        for aggregate, number in numbers.items():
            targets.setdefault(aggregate, []).append(Target(number, aggregate))
        self._numbers = tuple(numbers.values())
        self._later = [(name, _compile(expression, numbers)) for name, expression in later]
        self._event_groups: list[_GroupRun] = []
        self._label_groups: list[_GroupRun] = []
        for group in plan.groups:
            mine = [target for aggregate in group.aggregates for target in targets[aggregate]]
            run = _GroupRun(
                Windows(group.columns, mine, plan.max_events_per_key), _key_of(group), _row_of(group)
            )
            (self._event_groups if group.source == "events" else self._label_groups).append(run)
        self._windows = [run.windows for run in (*self._event_groups, *self._label_groups)]
        self._watermark = LONG_AGO
        self._meta_changed = True

    @property
    def evicted_events(self) -> int:
        """Return how many entries made room for newer ones of their key."""
        return sum(windows.evicted_events for windows in self._windows)

    @property
    def evicted_keys(self) -> int:
        """Return how many idle keys were forgotten."""
        return sum(windows.evicted_keys for windows in self._windows)

    @property
    def key_count(self) -> int:
        """Return how many keys are kept, over all groups."""
        return sum(map(len, self._windows))

    def step_events(
        self, events: Sequence[Event], lookups: Sequence[Mapping[str, object]] | None = None
    ) -> list[dict[str, FeatureValue]]:
        """Enter `events` one after the other and return each one's features, as of its own time.

        `lookups` has one mapping per event, from `Lookup.address` to the stored value.
        """
        return [
            self._step(event, _NOTHING if lookups is None else lookups[place])
            for place, event in enumerate(events)
        ]

    def step_labels(self, labels: Sequence[JoinedLabel]) -> None:
        """Enter labels that have joined their events."""
        for keys, label_time, value in labels:
            for run, key in zip(self._label_groups, keys, strict=True):
                run.windows.enter(key, label_time, self._watermark, run.row_of(value))

    def label_keys(self, event: Event) -> tuple[str, ...]:
        """Return the keys under which the label of `event` will be kept, to be stored with its prediction."""
        return tuple(run.key_of(event.value) for run in self._label_groups)

    def _step(self, event: Event, looked_up: Mapping[str, object]) -> dict[str, FeatureValue]:
        value, watermark = event.value, event.watermark
        if watermark > self._watermark:
            self._watermark = watermark
            self._meta_changed = True
            for windows in self._windows:
                if watermark >= windows.due_ms:
                    windows.forget(watermark)
        out = self._template.copy()
        for windows, key_of, row_of in self._event_groups:
            windows.step(key_of(value), event, row_of(value), out)
        for windows, key_of, _ in self._label_groups:
            windows.read(key_of(value), event, out)
        for name, evaluate in self._later:
            if (found := evaluate(value, out, looked_up)) is None:
                del out[name]
            else:
                out[name] = found
        for number in self._numbers:
            out.pop(number, None)
        return out

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state: one entry per group and key, and one for all."""
        entries = {_META: self._encode_meta()}
        for number, windows in enumerate(self._windows):
            entries.update((f"{number}/{key}", data) for key, data in windows.entries())
        return entries

    def delta(self) -> StateDelta:
        """Return what changed since the last call."""
        changes: StateDelta = {}
        if self._meta_changed or any(windows.changed for windows in self._windows):
            changes[_META] = self._encode_meta()
            self._meta_changed = False
        for number, windows in enumerate(self._windows):
            changes.update((f"{number}/{key}", data) for key, data in windows.changes())
        return changes

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state.  Raises CheckpointError if `entries` are not of this plan."""
        logs: list[list[tuple[str, bytes]]] = [[] for _ in self._windows]
        try:
            for name, data in entries.items():
                number, slash, key = name.partition("/")
                if slash:
                    logs[int(number)].append((key, data))
            meta = msgspec.msgpack.decode(entries[_META], type=_Meta)
            for windows, found, (events, keys) in zip(self._windows, logs, meta.evicted, strict=True):
                windows.load(found)
                windows.evicted_events, windows.evicted_keys = events, keys
        except (KeyError, ValueError, IndexError) as error:
            raise CheckpointError(
                f"feature state cannot be read: {error}", hint="restore it with the definition that wrote it"
            ) from error
        self._watermark = meta.watermark
        self._meta_changed = False

    def _encode_meta(self) -> bytes:
        evicted = tuple((windows.evicted_events, windows.evicted_keys) for windows in self._windows)
        return msgspec.msgpack.encode(_Meta(self._watermark, evicted))


def _key_of(group: Group) -> Callable[[Any], str]:
    """Return how an event's key is read.

    One field is its own text.  Several are joined with the length of each but the last, so that
    different values never make the same key.
    """
    if not group.keys:
        return lambda _: ""
    get: Callable[[Any], Any] = attrgetter(*group.keys)
    if len(group.keys) == 1:
        return get if group.keys_are_text else lambda value: str(get(value))

    def joined(value: Any) -> str:
        *head, last = map(str, get(value))
        return "".join([f"{len(part)}:{part}," for part in head]) + last

    return joined


def _row_of(group: Group) -> Callable[[Any], Row]:
    """Return how an event's values (a label's value) for a group's columns are read."""
    if not group.columns:
        return lambda _: ()
    if group.source == "labels":
        return lambda value: (as_number(value),)
    get: Callable[[Any], Any] = attrgetter(*(name or "" for name in group.columns))
    if len(group.columns) > 1:
        return lambda value: tuple(map(as_number, get(value)))

    def one(value: Any) -> Row:
        number = get(value)
        # The usual number first: a call of `as_number` costs as much as all else here.
        return (number,) if number is not None and 1 <= number <= VALUE_MAX else (as_number(number),)

    return one


def _compile(expression: Expression, numbers: Mapping[Aggregate, int]) -> Evaluate:
    """Return `expression` as a function."""
    match expression:
        case Aggregate():
            number = numbers[expression]
            return lambda _value, out, _looked_up: out.get(number)
        case Constant(constant):
            return lambda *_: constant
        case Field(name):
            get = attrgetter(name)
            return lambda value, _out, _looked_up: _finite(get(value))
        case TimePart(part, Field(name)):
            get, read = attrgetter(name), _hour if part == "hour" else _weekday
            return lambda value, _out, _looked_up: read(get(value))
        case Default(of, default):
            inner = _compile(of, numbers)

            def defaulted(value: Any, out: Out, looked_up: Mapping[str, object]) -> FeatureValue:
                found = inner(value, out, looked_up)
                return default if found is None else found

            return defaulted
        case Negative(of):
            return _compile(Arithmetic("*", Constant(-1), of), numbers)
        case Arithmetic(operation, left, right):
            return _calculation(operation, _compile(left, numbers), _compile(right, numbers))
        case Lookup(_, _, fallback):
            address = expression.address
            return lambda _value, _out, looked_up: _stored(looked_up.get(address), fallback)
        case _:
            raise AssertionError(expression)


def _calculation(operation: str, left: Evaluate, right: Evaluate) -> Evaluate:
    calculate: Callable[[Any, Any], Number] = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "*": lambda a, b: a * b,
        "/": lambda a, b: a / b,
    }[operation]

    def calculated(value: Any, out: Out, looked_up: Mapping[str, object]) -> FeatureValue | None:
        a, b = left(value, out, looked_up), right(value, out, looked_up)
        if a is None or b is None:
            return None
        try:
            return _finite(calculate(a, b))
        except (ZeroDivisionError, OverflowError):
            return None

    return calculated


def _finite(value: Any) -> FeatureValue | None:
    if isinstance(value, float) and not isfinite(value):
        return None
    return value  # type: ignore[no-any-return]


def _stored(value: object, fallback: FeatureValue | None) -> FeatureValue | None:
    """Return a stored value as a feature: text is read as a number where the fallback is one."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str) and isinstance(fallback, int | float):
        try:
            value = float(value)
        except ValueError:
            return fallback
    found = _finite(value) if isinstance(value, bool | int | float | str) else None
    return fallback if found is None else found


def _hour(time: int | datetime | None) -> int | None:
    if isinstance(time, datetime):
        return _utc(time).hour
    return None if time is None else time // _HOUR_MS % 24


def _weekday(time: int | datetime | None) -> int | None:
    """Return Monday 0 to Sunday 6; the first of January 1970 was a Thursday."""
    if isinstance(time, datetime):
        return _utc(time).weekday()
    return None if time is None else (time // (24 * _HOUR_MS) + 3) % 7


def _utc(time: datetime) -> datetime:
    return time if time.tzinfo is None else time.astimezone(UTC)
