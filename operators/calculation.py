"""Expressions and conditions over one event, as functions.

Lives here: how an expression is computed from the event, its aggregates and looked-up values; how
a condition is decided.  Never here: windows, memory, what a definition may say (`plan.py`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from math import isfinite
from operator import attrgetter
from typing import Any, Final

from operators.conditions import Both, Comparison, Condition, Either, IsMissing, Not
from operators.exact import Number
from operators.nodes import (
    Aggregate,
    Arithmetic,
    Constant,
    Default,
    Expression,
    Feature,
    Field,
    Lookup,
    Negative,
    TimePart,
)
from topics.messages import FeatureValue

__all__ = ["Evaluate", "Out", "calculation", "predicate"]

Out = dict[Any, Any]
Evaluate = Callable[[Any, Out, Mapping[str, object]], FeatureValue | None]
"""(the user's event, aggregates by number, looked-up values by `Lookup.address`) -> value or None.

Expressions over features take the row of features in place of the event."""
Decide = Callable[[Any], bool | None]
"""The user's event -> met, not met, or unknown."""

_HOUR_MS: Final = 3_600_000
_NOTHING: Final[dict[Any, Any]] = {}
_RELATIONS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "==": operator.eq,
    "equals": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def predicate(condition: Condition) -> Decide:
    """Return `condition` as a function of the user's event: True, False, or None where it is unknown.

    >>> from types import SimpleNamespace as Payment
    >>> large = predicate((Field("amount") > 100) & ~(Field("kind") == "refund"))
    >>> [large(Payment(amount=amount, kind="sale")) for amount in (200, 50, None)]
    [True, False, None]
    """
    match condition:
        case Comparison(relation, Expression() as left, Expression() as right):
            return _comparison(_RELATIONS[relation], calculation(left, {}), calculation(right, {}))
        case IsMissing(Expression() as of):
            inner = calculation(of, {})
            return lambda value: inner(value, _NOTHING, _NOTHING) is None
        case Both(left, right):
            return _joined(predicate(left), predicate(right), decisive=False)
        case Either(left, right):
            return _joined(predicate(left), predicate(right), decisive=True)
        case Not(of):
            decide = predicate(of)
            return lambda value: None if (met := decide(value)) is None else not met
        case _:
            raise AssertionError(condition)


def _comparison(relation: Callable[[Any, Any], bool], left: Evaluate, right: Evaluate) -> Decide:
    def compared(value: Any) -> bool | None:
        a, b = left(value, _NOTHING, _NOTHING), right(value, _NOTHING, _NOTHING)
        return None if a is None or b is None else relation(a, b)

    return compared


def _joined(left: Decide, right: Decide, *, decisive: bool) -> Decide:
    """Return both (either) of two: what is decided by one of them needs no other."""

    def joined(value: Any) -> bool | None:
        a = left(value)
        if a is decisive:
            return decisive
        b = right(value)
        if b is decisive:
            return decisive
        return None if a is None or b is None else not decisive

    return joined


def calculation(expression: Expression, numbers: Mapping[Aggregate, int]) -> Evaluate:
    """Return `expression` as a function; `numbers` says under which number each aggregate's value is."""
    match expression:
        case Aggregate():
            number = numbers[expression]
            return lambda _value, out, _looked_up: out.get(number)
        case Constant(constant):
            return lambda *_: constant
        case Field(name):
            get = attrgetter(name)
            return lambda value, _out, _looked_up: _finite(get(value))
        case Feature(name):
            return lambda row, _out, _looked_up: row.get(name)
        case TimePart(part, Field(name)):
            get, read = attrgetter(name), _hour if part == "hour" else _weekday
            return lambda value, _out, _looked_up: read(get(value))
        case Default(of, default):
            inner = calculation(of, numbers)

            def defaulted(value: Any, out: Out, looked_up: Mapping[str, object]) -> FeatureValue:
                found = inner(value, out, looked_up)
                return default if found is None else found

            return defaulted
        case Negative(of):
            return calculation(Arithmetic("*", Constant(-1), of), numbers)
        case Arithmetic(operation, left, right):
            return _calculation(operation, calculation(left, numbers), calculation(right, numbers))
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
