"""Which Python type each feature has, and which may be missing: what a made-up event needs to look real.

Lives here: the type of an expression's value, and whether there always is one.  Never here: whether it may
be used so (`plan.py` refuses), values.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, get_type_hints

import msgspec
from msgspec import inspect

from operators.language.by import (
    Aggregate,
    Default,
    Expression,
    Field,
    Lookup,
    TimePart,
)
from operators.language.conditions import Comparison
from operators.language.expressions import Bucket, Clip, Hashed, Math
from operators.language.fields import LabelSource, inputs, parts
from operators.language.plan import FeaturePlan
from operators.language.transforms import Apply, Coalesce, Cross, Indicator
from operators.language.window_kinds import Decay

__all__ = ["feature_types", "optional_features"]

NEVER_EMPTY = ("count", "sum", "rate", "distinct")
"""Aggregates that have a value of an empty window."""

LABEL: Final = ""
"""Where the label's type stands among those of fields, which have names."""


def feature_types(plan: FeaturePlan, event_type: type[msgspec.Struct]) -> dict[str, type]:
    """Return bool, int, float or str for every feature of the plan, by name.

    >>> from operators.language.by import by, field
    >>> from operators.language.plan import compile_features
    >>> class Payment(msgspec.Struct):
    ...     card: str
    ...     amount: float
    >>> features = {"card": field("card"), "n": by("card").count("1h"), "twice": field("amount") * 2}
    >>> plan = compile_features(features, Payment, grace_ms=0, max_events_per_key=9, task="binary")
    >>> feature_types(plan, Payment)
    {'card': <class 'str'>, 'n': <class 'int'>, 'twice': <class 'float'>}
    """
    hints = get_type_hints(event_type)
    hints[LABEL] = str if plan.task == "multiclass" else float
    return {name: _type_of(expression, hints) for name, expression in plan.features}


def _type_of(expression: Expression, hints: dict[str, object]) -> type:
    match expression:
        case Field(name):
            return _declared(hints[name])
        case Default(of):
            return _type_of(of, hints)
        case Aggregate(kind="count", span=Decay()):
            return float
        case TimePart(part="is_weekend") | Indicator():
            return bool
        case Aggregate(kind=("count" | "since_last" | "distinct")) | TimePart() | Bucket():
            return int
        case Hashed() | Cross():
            return str
        case Math("abs", of) | Clip(of) if _type_of(of, hints) in (bool, int):
            bounds = (expression.low, expression.high) if isinstance(expression, Clip) else ()
            return float if any(isinstance(bound, float) for bound in bounds) else int
        case Apply():
            return expression.returns
        case Coalesce(values):
            types = {_type_of(one, hints) for one in values}
            return types.pop() if len(types) == 1 else float
        case Aggregate(
            kind=("first" | "last" | "mode" | "arg_max" | "arg_min"),
            of=(str() | Expression() | LabelSource()) as of,
        ):
            return _type_in_window(of, hints)
        case Lookup(fallback=(bool() | int() | float() | str()) as fallback):
            return type(fallback)
        case _:
            return float


def _type_in_window(of: str | Expression | LabelSource, hints: dict[str, object]) -> type:
    """Return the type of a window's values."""
    if isinstance(of, Expression):
        return _type_of(of, hints)
    return _declared(hints[of if isinstance(of, str) else LABEL])


def optional_features(plan: FeaturePlan, event_type: type[msgspec.Struct]) -> frozenset[str]:
    """Return the features that some event may lack: windows may be empty, look-ups and fields without value.

    What only some numbers lack (a division by zero, the logarithm of one below it) is not counted.

    >>> from operators.language.by import by, field, label
    >>> from operators.language.plan import compile_features
    >>> class Payment(msgspec.Struct):
    ...     card: str
    ...     amount: float
    ...     shop: str | None = None
    >>> card = by("card")
    >>> features = {
    ...     "shop": field("shop"),
    ...     "mean": card.mean("amount", "1h"),
    ...     "before": card.mean("amount", "1h", include_current=False),
    ...     "frauds": card.mean(label, "1d"),
    ...     "filled": card.mean(label, "1d").default(0.0),
    ... }
    >>> plan = compile_features(features, Payment, grace_ms=0, max_events_per_key=9, task="binary")
    >>> sorted(optional_features(plan, Payment))
    ['before', 'frauds', 'shop']
    """
    hints = get_type_hints(event_type)
    return frozenset(name for name, expression in plan.features if _may_be_missing(expression, hints))


def _may_be_missing(expression: Expression, hints: dict[str, object]) -> bool:
    match expression:
        case Field(name):
            return _allows_none(inspect.type_info(hints[name]))
        case Default():
            return False
        case Lookup(fallback=fallback):
            return fallback is None
        case Coalesce(values):
            return all(_may_be_missing(one, hints) for one in values)
        case Aggregate():
            return _may_be_empty(expression, hints)
        case Indicator(condition):
            compared = [part for part in parts(condition) if isinstance(part, Comparison)]
            return any(_any_missing((one.left, one.right), hints) for one in compared)
        case _:
            return _any_missing(inputs(expression), hints)


def _may_be_empty(aggregate: Aggregate, hints: dict[str, object]) -> bool:
    """Return whether a window may hold no value: the event itself is in it, unless something keeps it out."""
    if aggregate.kind in NEVER_EMPTY:
        return False
    if aggregate.kind == "since_last" or (aggregate.kind == "mode" and aggregate.argument is not None):
        return True
    kept_out = aggregate.where is not None or aggregate.shift_ms > 0 or not aggregate.include_current
    if kept_out or aggregate.source == "labels":
        return True
    read = [Field(of) if isinstance(of, str) else of for of in (aggregate.of, aggregate.argument)]
    return _any_missing(read, hints)


def _any_missing(values: Iterable[object], hints: dict[str, object]) -> bool:
    return any(isinstance(one, Expression) and _may_be_missing(one, hints) for one in values)


def _allows_none(declared: inspect.Type) -> bool:
    match declared:
        case inspect.Metadata():
            return _allows_none(declared.type)
        case inspect.UnionType():
            return any(isinstance(part, inspect.NoneType) for part in declared.types)
        case _:
            return False


def _declared(hint: object) -> type:
    """Return the first plain type that a field's annotation names; a number where it names none."""
    found = _types(inspect.type_info(hint))
    return next((one for one in (str, bool, int) if one in found), float)


def _types(declared: inspect.Type) -> set[type]:
    """Return the plain types of which a value may be; a literal's are those of its values.

    >>> from typing import Literal
    >>> _types(inspect.type_info(Literal["print", 3] | None)) == {str, int}
    True
    """
    match declared:
        case inspect.Metadata():
            return _types(declared.type)
        case inspect.UnionType():
            return {one for part in declared.types for one in _types(part)}
        case inspect.LiteralType():
            return {type(value) for value in declared.values}
        case _:
            return {_PLAIN[type(declared)]} if type(declared) in _PLAIN else set()


_PLAIN: dict[type, type] = {inspect.StrType: str, inspect.BoolType: bool, inspect.IntType: int}
