"""Expressions compiled to a plan: which logs are kept, which values they need, what is refused.

Lives here: everything that can be known about features before the first event.  Never here:
values of events, memory.

Strategy: (1) every expression is checked against the types of the event's fields, and refused
with its name and a fix; (2) aggregates with the same key and source share one group, which
keeps one log per key; (3) the plan is a value that `Features` runs and `headrace check` prints.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final, Literal, NamedTuple

import msgspec
from msgspec import inspect

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
from topics.errors import DefinitionError
from topics.messages import Task

__all__ = ["FeaturePlan", "FeatureRow", "Group", "compile_features", "nodes"]

FEATURES_MAX: Final = 1_000
"""More is a table, not a definition; every one of them is in every prediction and example."""
EVENT_BYTES: Final = 9
"""One entry of a log: the time, with room to grow."""
VALUE_BYTES: Final = 36
"""One value of an entry: a place in a list and the number."""
INDEX_BYTES: Final = 72
"""One value's exact running sum, on keys with many entries."""

Shape = Literal["number", "bool", "text", "time", "other"]


class FeatureRow(NamedTuple):
    """One line of `headrace check`."""

    name: str
    expression: str
    key: str
    source: str
    window_ms: int | None


@dataclass(frozen=True, slots=True)
class Group:
    """One log per key: all aggregates over the same key fields and source."""

    keys: tuple[str, ...]
    source: Literal["events", "labels"]
    columns: tuple[str | None, ...]
    """Fields whose values are kept; None is the label's value."""
    aggregates: tuple[Aggregate, ...]
    keys_are_text: bool

    @property
    def window_max_ms(self) -> int:
        """Return the longest window."""
        return max(aggregate.window_ms for aggregate in self.aggregates)

    @property
    def entry_bytes(self) -> int:
        """Return about how much memory one kept entry takes."""
        summed = {a.of for a in self.aggregates if a.kind in ("sum", "mean", "var", "std")}
        return EVENT_BYTES + VALUE_BYTES * len(self.columns) + INDEX_BYTES * len(summed)


@dataclass(frozen=True, slots=True)
class FeaturePlan:
    """All that is known of a pipeline's features before the first event."""

    features: tuple[tuple[str, Expression], ...]
    groups: tuple[Group, ...]
    lookups: tuple[Lookup, ...]
    """What is to be looked up, each `address` once."""
    grace_ms: int
    max_events_per_key: int

    @property
    def key_groups(self) -> tuple[tuple[str, ...], ...]:
        """Return the fields of each key, each once, in the order of the definition."""
        return tuple(dict.fromkeys(group.keys for group in self.groups))

    @property
    def label_key_groups(self) -> tuple[tuple[str, ...], ...]:
        """Return the key fields under which labels are kept, in the order of `JoinedLabel.keys`."""
        return tuple(group.keys for group in self.groups if group.source == "labels")

    @property
    def window_max_ms(self) -> int:
        """Return the longest window of all, 0 without windows."""
        return max((group.window_max_ms for group in self.groups), default=0)

    @property
    def uses_labels(self) -> bool:
        """Return whether arrived labels enter windows."""
        return bool(self.label_key_groups)

    @property
    def bytes_per_event(self) -> int:
        """Return about how much memory one event and its label take while they are kept."""
        return sum(group.entry_bytes for group in self.groups)

    def describe(self) -> list[FeatureRow]:
        """Return what each feature reads, in the order of the definition."""
        rows = []
        for name, expression in self.features:
            parts = list(nodes(expression))
            windows = [part for part in parts if isinstance(part, Aggregate)]
            sources = [window.source for window in windows]
            stored = ["lookup" for part in parts if isinstance(part, Lookup)]
            rows.append(
                FeatureRow(
                    name,
                    repr(expression),
                    ", ".join(dict.fromkeys("+".join(window.keys) or "all" for window in windows)),
                    ", ".join(dict.fromkeys([*sources, *stored])) or "event",
                    max((window.window_ms for window in windows), default=None),
                )
            )
        return rows


def nodes(expression: Expression) -> Iterator[Expression]:
    """Return `expression` and all it is made of."""
    yield expression
    match expression:
        case Default(of) | Negative(of) | TimePart(_, of):
            yield from nodes(of)
        case Arithmetic(_, left, right):
            yield from nodes(left)
            yield from nodes(right)


def compile_features(
    features: Mapping[str, Expression],
    event_type: type[msgspec.Struct],
    *,
    grace_ms: int,
    max_events_per_key: int,
    task: Task,
) -> FeaturePlan:
    """Check `features` against the events' type and return the plan that computes them.

    >>> from operators.expressions import by, field
    >>> class Payment(msgspec.Struct):
    ...     card: str
    ...     amount: float
    >>> features = {"amount": field("amount"), "mean_1h": by("card").mean("amount", "1h")}
    >>> plan = compile_features(features, Payment, grace_ms=0, max_events_per_key=100, task="binary")
    >>> plan.describe()[1][1:]
    ('by("card").mean("amount", "1h")', 'card', 'events', 3600000)

    Raises DefinitionError with the feature's name and the fix: an unknown field, a field of the
    wrong type, a key that is no text, a class label used as a number, a limit that cannot be.
    """
    if not features or len(features) > FEATURES_MAX:
        raise DefinitionError(
            f"{len(features)} features", hint=f"define at least one feature and at most {FEATURES_MAX}"
        )
    if grace_ms < 0 or max_events_per_key < 1:
        raise DefinitionError(
            f"grace {grace_ms} ms, max_events_per_key {max_events_per_key}",
            hint="give a grace of 0 or more and room for at least one event per key",
        )
    shapes = _Shapes(event_type, task)
    grouped: dict[tuple[tuple[str, ...], str], dict[Aggregate, None]] = {}
    lookups: dict[str, Lookup] = {}
    for name, expression in features.items():
        place = f"feature {name!r}"
        if not isinstance(expression, Expression):
            raise DefinitionError(
                f"{place}: {expression!r} is no expression",
                hint='write field("...") or by("...").count("1h")',
            )
        shapes.check(expression, place)
        for part in nodes(expression):
            if isinstance(part, Aggregate):
                grouped.setdefault((part.keys, part.source), {})[part] = None
            elif isinstance(part, Lookup):
                lookups.setdefault(part.address, part)
    return FeaturePlan(
        tuple(features.items()),
        tuple(_group(tuple(aggregates), shapes) for aggregates in grouped.values()),
        tuple(lookups.values()),
        grace_ms,
        max_events_per_key,
    )


def _group(aggregates: tuple[Aggregate, ...], shapes: _Shapes) -> Group:
    columns = dict.fromkeys(aggregate.column for aggregate in aggregates if aggregate.is_valued)
    keys, source = aggregates[0].keys, aggregates[0].source
    return Group(keys, source, tuple(columns), aggregates, all(map(shapes.is_text, keys)))


class _Shapes:
    """What can be done with each field of the event, by its declared type."""

    def __init__(self, event_type: type[msgspec.Struct], task: Task) -> None:
        info = inspect.type_info(event_type)
        if not isinstance(info, inspect.StructType):
            raise DefinitionError(
                f"{event_type!r} is no msgspec Struct", hint="declare the event as class E(msgspec.Struct)"
            )
        self._type_name = event_type.__name__
        self._task = task
        self._optional: dict[str, bool] = {}
        self._shapes: dict[str, Shape] = {}
        self._types: dict[str, str] = {}
        self._is_key: dict[str, bool] = {}
        for known in info.fields:
            parts = known.type.types if isinstance(known.type, inspect.UnionType) else (known.type,)
            present = [part for part in parts if not isinstance(part, inspect.NoneType)]
            kinds = {_shape(part) for part in present}
            self._optional[known.name] = len(present) < len(parts)
            self._shapes[known.name] = _join(kinds)
            self._is_key[known.name] = kinds == {"text"} or all(map(_is_int, present))
            self._types[known.name] = " | ".join(
                type(part).__name__.removesuffix("Type").lower() for part in parts
            )

    def is_text(self, name: str) -> bool:
        """Return whether the field `name` is text and nothing else."""
        return self._shapes[name] == "text"

    def check(self, expression: Expression, place: str, *, inside: bool = False) -> Shape:
        """Return what kind of value `expression` has; raise DefinitionError if it has none."""
        match expression:
            case Constant():
                return "number"
            case Field(name):
                return self._check_field(name, place, inside)
            case TimePart(part, Field(name)):
                if self._known(name, place) not in ("number", "time"):
                    self._refuse(name, place, f"has no {part}", "use a field of int (ms) or datetime")
                return "number"
            case Default(of, value):
                shape = self.check(of, place, inside=inside)
                if (shape == "text") != isinstance(value, str):
                    raise DefinitionError(
                        f"{place}: default {value!r} is no {shape}", hint="give a default of the same kind"
                    )
                return shape
            case Negative(of):
                return self._number(of, place)
            case Arithmetic(_, left, right):
                self._number(left, place)
                return self._number(right, place)
            case Aggregate():
                return self._check_aggregate(expression, place)
            case Lookup():
                for name in expression.key_fields:
                    self._check_key(name, f"{place}: {expression!r}")
                return "text" if isinstance(expression.fallback, str | None) else "number"
            case _:
                raise DefinitionError(f"{place}: {expression!r} is unknown", hint="use by, field and lookup")

    def _number(self, expression: Expression, place: str) -> Shape:
        shape = self.check(expression, place, inside=True)
        if shape not in ("number", "bool"):
            raise DefinitionError(
                f"{place}: {expression!r} is {shape}, not a number", hint="calculate with numbers only"
            )
        return "number"

    def _check_field(self, name: str, place: str, inside: bool) -> Shape:
        shape = self._known(name, place)
        if shape in ("time", "other") and not inside:
            fix = "use .hour() or .weekday()" if shape == "time" else "use a field of bool, int, float or str"
            self._refuse(name, place, "is no feature value", fix)
        return shape

    def _check_aggregate(self, aggregate: Aggregate, place: str) -> Shape:
        place = f"{place}: {aggregate!r}"
        for name in aggregate.keys:
            self._check_key(name, place)
        if isinstance(aggregate.of, str):
            if self._known(aggregate.of, place) not in ("number", "bool") and aggregate.is_valued:
                self._refuse(aggregate.of, place, "is no number", "aggregate a number, or count")
        elif aggregate.is_valued and self._task == "multiclass":
            raise DefinitionError(f"{place}: a class label is no number", hint='use .count(label, "...")')
        return "number"

    def _check_key(self, name: str, place: str) -> None:
        self._known(name, place)
        if not self._is_key[name]:
            self._refuse(name, place, "is no key", "use a field of str or int")
        if self._optional[name]:
            self._refuse(name, place, "may be missing, so it is no key", 'declare a default such as ""')

    def _known(self, name: str, place: str) -> Shape:
        if (shape := self._shapes.get(name)) is None:
            near = get_close_matches(name, self._shapes, n=3, cutoff=0.5)
            hint = (
                f"did you mean {' or '.join(map(repr, near))}?"
                if near
                else f"it has {', '.join(self._shapes)}"
            )
            raise DefinitionError(f"{place}: {self._type_name} has no field {name!r}", hint=hint)
        return shape

    def _refuse(self, name: str, place: str, wrong: str, fix: str) -> None:
        raise DefinitionError(f"{place}: {self._type_name}.{name} ({self._types[name]}) {wrong}", hint=fix)


def _is_int(kind: Any) -> bool:
    return isinstance(kind.type if isinstance(kind, inspect.Metadata) else kind, inspect.IntType)


def _shape(kind: Any) -> Shape:
    """Return what can be done with a value of one declared type."""
    match kind:
        case inspect.Metadata():
            return _shape(kind.type)
        case inspect.BoolType():
            return "bool"
        case inspect.IntType() | inspect.FloatType():
            return "number"
        case inspect.StrType():
            return "text"
        case inspect.LiteralType():
            return _join({"text" if isinstance(value, str) else "number" for value in kind.values})
        case inspect.DateTimeType():
            return "time"
        case _:
            return "other"


def _join(kinds: set[Shape]) -> Shape:
    """Return what can be done with a value that is any of `kinds`."""
    if len(kinds) == 1:
        return next(iter(kinds))
    return "number" if kinds == {"number", "bool"} else "other"
