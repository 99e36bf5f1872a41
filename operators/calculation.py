"""Expressions and conditions over one event, as functions.

Lives here: how an expression is computed from the event, its aggregates and looked-up values; how
a condition is decided.  Never here: windows, memory, what a definition may say (`plan.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from operator import attrgetter
from typing import Any, Final

from operators.exact import Number
from operators.language.conditions import RELATIONS, Both, Comparison, Condition, Either, IsMissing, Not
from operators.language.expressions import Bucket, Clip, Cyclic, Hashed, Math
from operators.language.fields import (
    Aggregate,
    Arithmetic,
    Constant,
    Default,
    Expression,
    Feature,
    Field,
    LabelValue,
    Lookup,
    Negative,
    TimePart,
)
from operators.language.transforms import Apply, Coalesce, Cross, Indicator
from operators.mapping import WHOLE_MAX, crossed, mapped, returned, time_part
from topics.messages import FeatureValue

__all__ = [
    "FUNCTION_FAILURES",
    "NOTHING",
    "Counts",
    "Evaluate",
    "Out",
    "calculation",
    "complete",
    "predicate",
]

Out = dict[Any, Any]
Evaluate = Callable[[Any, Out, Mapping[str, object]], FeatureValue | None]
"""(the user's event, aggregates by number, looked-up values by `Lookup.address`) -> value or None.

Expressions over features take the row of features in place of the event."""
Decide = Callable[..., bool | None]
"""The arguments of `Evaluate` (the event alone will do where nothing else is looked at) -> met, not met, or
unknown."""
Counts = Counter[tuple[str, str]]
"""What happened, by (`FUNCTION_FAILURES`, name of the user's function)."""
FUNCTION_FAILURES: Final = "function_failures"

NOTHING: Final[dict[Any, Any]] = {}
"""In place of aggregates and looked-up values where none are looked at."""


def complete(
    out: Out,
    value: Any,
    looked_up: Mapping[str, object],
    later: Sequence[tuple[str, Evaluate]],
    inner: Sequence[int],
) -> None:
    """Calculate the features that follow from the windows in `out`, and take out what only they needed.

    `inner` are the numbers under which such windows stand.
    """
    for name, evaluate in later:
        if (found := evaluate(value, out, looked_up)) is None:
            del out[name]
        else:
            out[name] = found
    for number in inner:
        out.pop(number, None)


def predicate(condition: Condition, of: Callable[[Expression], Evaluate] | None = None) -> Decide:
    """Return `condition` as a function of the user's event: True, False, or None where it is unknown.

    `of` makes functions of what is compared, where that is more than the event's own fields.

    >>> from types import SimpleNamespace as Payment
    >>> large = predicate((Field("amount") > 100) & ~(Field("kind") == "refund"))
    >>> [large(Payment(amount=amount, kind="sale")) for amount in (200, 50, None)]
    [True, False, None]
    """

    of = _own if of is None else of
    match condition:
        case Comparison(relation, Expression() as left, Expression() as right):
            return _comparison(RELATIONS[relation], of(left), of(right))
        case IsMissing(Expression() as inner):
            find = of(inner)
            return lambda value, out=NOTHING, looked_up=NOTHING: find(value, out, looked_up) is None
        case Both(one, other):
            return _joined(predicate(one, of), predicate(other, of), decisive=False)
        case Either(one, other):
            return _joined(predicate(one, of), predicate(other, of), decisive=True)
        case Not(negated):
            return _negation(predicate(negated, of))
        case _:
            raise AssertionError(condition)


def _own(expression: Expression) -> Evaluate:
    return calculation(expression, {})


def _comparison(relation: Callable[[Any, Any], bool], left: Evaluate, right: Evaluate) -> Decide:
    def compared(value: Any, out: Out = NOTHING, looked_up: Mapping[str, object] = NOTHING) -> bool | None:
        a, b = left(value, out, looked_up), right(value, out, looked_up)
        return None if a is None or b is None else relation(a, b)

    return compared


def _negation(decide: Decide) -> Decide:
    def negated(value: Any, out: Out = NOTHING, looked_up: Mapping[str, object] = NOTHING) -> bool | None:
        return None if (met := decide(value, out, looked_up)) is None else not met

    return negated


def _joined(left: Decide, right: Decide, *, decisive: bool) -> Decide:
    """Return both (either) of two: what is decided by one of them needs no other."""

    def joined(value: Any, out: Out = NOTHING, looked_up: Mapping[str, object] = NOTHING) -> bool | None:
        a = left(value, out, looked_up)
        if a is decisive:
            return decisive
        b = right(value, out, looked_up)
        if b is decisive:
            return decisive
        return None if a is None or b is None else not decisive

    return joined


def calculation(
    expression: Expression, numbers: Mapping[Aggregate, int], counts: Counts | None = None
) -> Evaluate:
    """Return `expression` as a function; `numbers` says under which number each aggregate's value is.

    Failures of the user's functions are counted in `counts`.
    """

    def of(part: Expression) -> Evaluate:
        return calculation(part, numbers, counts)

    match expression:
        case Aggregate():
            number = numbers[expression]
            return lambda _value, out, _looked_up: out.get(number)
        case Constant(constant):
            return lambda *_: constant
        case Field(name):
            get = attrgetter(name)
            return lambda value, _out, _looked_up: _finite(get(value))
        case LabelValue():
            return lambda label, _out, _looked_up: label  # where labels enter, it stands for the event
        case Feature(name):
            return lambda row, _out, _looked_up: row.get(name)
        case TimePart(part, Field(name), offset_min):
            get, read = attrgetter(name), time_part(part, offset_min)
            return _mapping(lambda value, _out, _looked_up: get(value), read)
        case Default(inner, default):
            find = of(inner)

            def defaulted(value: Any, out: Out, looked_up: Mapping[str, object]) -> FeatureValue:
                found = find(value, out, looked_up)
                return default if found is None else found

            return defaulted
        case Negative(inner):
            return of(Arithmetic("*", Constant(-1), inner))
        case Arithmetic(operation, left, right):
            return _calculation(operation, of(left), of(right))
        case Lookup(_, _, fallback):
            address = expression.address
            return lambda _value, _out, looked_up: _stored(looked_up.get(address), fallback)
        case _:
            return _transformation(expression, of, Counter() if counts is None else counts)


def _transformation(expression: Expression, of: Callable[[Expression], Evaluate], counts: Counts) -> Evaluate:
    match expression:
        case Math() | Clip() | Bucket() | Cyclic() | Hashed():
            return _mapping(of(expression.of), mapped(expression))
        case Cross(inputs):
            return _crossing([of(part) for part in inputs])
        case Coalesce(inputs):
            return _first([of(part) for part in inputs])
        case Indicator(condition):
            return predicate(condition, of)
        case Apply(inputs=inputs):
            return _application(expression, [of(part) for part in inputs], counts)
        case _:
            raise AssertionError(expression)


def _mapping(inner: Evaluate, function: Callable[[Any], FeatureValue | None]) -> Evaluate:
    def made(value: Any, out: Out, looked_up: Mapping[str, object]) -> FeatureValue | None:
        if (found := inner(value, out, looked_up)) is None:
            return None
        try:
            return _finite(function(found))
        except (OverflowError, ValueError):  # no result: the logarithm of 0, a date beyond the year 9999
            return None

    return made


def _crossing(inputs: Sequence[Evaluate]) -> Evaluate:
    def made(value: Any, out: Out, looked_up: Mapping[str, object]) -> str | None:
        found = [inner(value, out, looked_up) for inner in inputs]
        return None if None in found else crossed(found)  # type: ignore[arg-type]  # just checked

    return made


def _first(inputs: Sequence[Evaluate]) -> Evaluate:
    def first(value: Any, out: Out, looked_up: Mapping[str, object]) -> FeatureValue | None:
        for inner in inputs:
            if (found := inner(value, out, looked_up)) is not None:
                return found
        return None

    return first


def _application(of: Apply, inputs: Sequence[Evaluate], counts: Counts) -> Evaluate:
    function, kind, name = of.function, of.returns, of.name

    def applied(value: Any, out: Out, looked_up: Mapping[str, object]) -> FeatureValue | None:
        found = [inner(value, out, looked_up) for inner in inputs]
        if None in found:
            return None
        try:
            return returned(function(*found), kind)
        except Exception:  # noqa: BLE001  one event's feature is missing, and counted; the stream goes on
            counts[FUNCTION_FAILURES, name] += 1
            return None

    return applied


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
            return _storable(calculate(a, b))
        except (ZeroDivisionError, OverflowError):
            return None

    return calculated


def _finite(value: Any) -> FeatureValue | None:
    if isinstance(value, float) and not isfinite(value):
        return None
    return value  # type: ignore[no-any-return]


def _storable(value: Any) -> FeatureValue | None:
    """Return a number that checkpoints can hold: a whole one beyond 64 bits as a float.

    Raises OverflowError beyond all floats.
    """
    if type(value) is int and not -WHOLE_MAX <= value <= WHOLE_MAX:
        value = float(value)
    return _finite(value)


def _stored(value: object, fallback: FeatureValue | None) -> FeatureValue | None:
    """Return a stored value as a feature: text is read as a number where the fallback is one."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str) and isinstance(fallback, int | float):
        try:
            value = float(value)
        except ValueError:
            return fallback
    try:
        found = _storable(value) if isinstance(value, bool | int | float | str) else None
    except OverflowError:
        found = None
    return fallback if found is None else found
