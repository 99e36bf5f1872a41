"""Expressions and conditions over one event, as functions.

Lives here: how an expression is computed from the event, its aggregates and looked-up values; how a condition
is decided.  Never here: which values enter a window (`features.py`), windows, memory, what a
definition may say (`operators/language`).

Missing is None.  Logarithms, sines and cosines are the platform's: another C library may round the last bit
otherwise.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import blake2b
from math import cos, isfinite, log, log1p, sin, sqrt, tau
from operator import attrgetter
from typing import Any, Final

from operators.language.conditions import RELATIONS, Both, Comparison, Condition, Either, IsMissing, Not
from operators.language.expressions import (
    Arithmetic,
    Bucket,
    Clip,
    Constant,
    Cyclic,
    Default,
    Expression,
    Hashed,
    Math,
    Negative,
    Transform,
)
from operators.language.fields import Aggregate, Feature, Field, LabelTerm, Lookup, Part, TimePart
from operators.language.position import Positional
from operators.language.transforms import Apply, Coalesce, Cross, Indicator
from operators.windows.exact import WINDOW_TEXT_MAX, Number
from topics.messages import FeatureValue

__all__ = [
    "FUNCTION_FAILURES",
    "NOTHING",
    "Counts",
    "Evaluate",
    "Out",
    "calculation",
    "category_bucket",
    "crossed",
    "mapped",
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
"""Counts by (`FUNCTION_FAILURES`, name of the user's function)."""
FUNCTION_FAILURES: Final = "function_failures"

NOTHING: Final[dict[Any, Any]] = {}
"""In place of aggregates and looked-up values where none are read."""


HASH_BYTES: Final = 8
"""Of a digest: with at most 2**24 buckets the remainder favours none by more than 2**-40."""
WHOLE_MAX: Final = 2**63 - 1
"""The largest whole number that a checkpoint holds."""

_MINUTE_MS: Final = 60_000
_DAY_MS: Final = 86_400_000
_EPOCH: Final = datetime(1970, 1, 1)
_FUNCTIONS: Final[dict[str, Callable[[Any], Any]]] = {"log": log, "log1p": log1p, "sqrt": sqrt, "abs": abs}


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
    """Return both (either) of two conditions as a function: where one decides, the other is not needed."""

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
        case Field(name) | Positional(name):
            return _field(attrgetter(name))
        case LabelTerm():
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


def _field(get: Callable[[Any], Any]) -> Evaluate:
    def found(value: Any, _out: Out, _looked_up: Mapping[str, object]) -> FeatureValue | None:
        field = get(value)
        return None if isinstance(field, float) and not isfinite(field) else field

    return found


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
    function, returns, name = of.function, of.returns, of.name

    def applied(value: Any, out: Out, looked_up: Mapping[str, object]) -> FeatureValue | None:
        found = [inner(value, out, looked_up) for inner in inputs]
        if None in found:
            return None
        try:
            return returned(function(*found), returns)
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


# -- values made of values --------------------------------------------------------------------------------


def mapped(transform: Transform) -> Callable[[Any], FeatureValue | None]:
    """Return a transform as a function of a value that is not missing.

    >>> from operators import field
    >>> mapped(field("n").bucket([0]))(0), mapped(field("n").clip(None, 3))(7), mapped(field("n").abs())(-1)
    (1, 3, 1)

    It raises ValueError and OverflowError where there is no value.
    """
    match transform:
        case Math(name, _):
            return _FUNCTIONS[name]
        case Clip(_, low, high):
            return _clip(low, high)
        case Bucket(_, boundaries):
            return partial(bisect_right, boundaries)
        case Cyclic(name, _, period):
            turn = sin if name == "sin" else cos
            return lambda value: turn(tau * (value % period / period))
        case Hashed(_, buckets):
            return lambda value: str(category_bucket(value, buckets))


def _clip(low: float | None, high: float | None) -> Callable[[Any], FeatureValue]:
    def clipped(value: Any) -> Any:
        if low is not None and value < low:
            return low
        return high if high is not None and value > high else value

    return clipped


def category_bucket(value: FeatureValue, buckets: int) -> int:
    """Return the bucket of a category: BLAKE2b of its text as UTF-8, first 8 bytes, little-endian, modulo.

    >>> category_bucket("Café Central", 1_000), category_bucket(7, 1_000) == category_bucket(7.0, 1_000)
    (682, True)
    """
    text = _text(value).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=HASH_BYTES).digest(), "little") % buckets


def crossed(values: Sequence[FeatureValue]) -> str:
    r"""Return several categories as one, so that different ones make different texts.

    >>> crossed(["JFK", "AA", 7]), crossed(["a×b", "c"])
    ('JFK×AA×7', 'a\\×b×c')
    """
    return "×".join([_escaped(_text(value)) for value in values])


def _text(value: FeatureValue) -> str:
    """Return a category as text; equal numbers are one category."""
    if isinstance(value, str):
        return value
    return str(int(value)) if value == int(value) else repr(value)


def _escaped(text: str) -> str:
    if "×" not in text and "\\" not in text:
        return text
    return text.replace("\\", "\\\\").replace("×", "\\×")


def returned(value: object, returns: type) -> FeatureValue | None:
    """Return what a function of the user's gave as `returns`; None is missing.

    >>> returned(3, float), returned(None, int)
    (3.0, None)

    Raises ValueError for another type, a number that is not finite or beyond 64 bits, or too long a text.
    """
    if value is None:
        return None
    if returns is float and isinstance(value, int | float) and not isinstance(value, bool):
        value = float(value)
        if isfinite(value):
            return value
    elif returns is bool and isinstance(value, bool):
        return value
    elif returns is int and isinstance(value, int) and not isinstance(value, bool):
        if -WHOLE_MAX <= value <= WHOLE_MAX:
            return int(value)
    elif returns is str and isinstance(value, str) and len(value) <= WINDOW_TEXT_MAX:
        return str(value)
    raise ValueError(f"{type(value).__name__}, not {returns.__name__}, or not finite, or too large")


def time_part(part: Part, offset_min: int) -> Callable[[Any], FeatureValue | None]:
    """Return how a part is read from a time in ms or a datetime, `offset_min` ahead of UTC.

    >>> time_part("weekday", 0)(0), time_part("month", -60)(0), time_part("is_weekend", 0)(None)
    (3, 12, None)
    """
    offset_ms = offset_min * _MINUTE_MS
    read = _PARTS[part]

    def found(time: float | datetime | None) -> FeatureValue | None:
        if time is None:
            return None
        if isinstance(time, datetime):
            if time.tzinfo is not None:
                time = time.astimezone(UTC).replace(tzinfo=None)
            time = (time - _EPOCH) // timedelta(milliseconds=1)
        return read(time + offset_ms)

    return found


def _date(time: float) -> datetime:
    """Return the day of a time in ms; beyond the years 1 to 9999 there is none (OverflowError)."""
    return _EPOCH + timedelta(days=time // _DAY_MS)


_PARTS: Final[dict[Part, Callable[[Any], FeatureValue]]] = {
    "minute": lambda time: time // _MINUTE_MS % 60,
    "hour": lambda time: time // (60 * _MINUTE_MS) % 24,
    "weekday": lambda time: (time // _DAY_MS + 3) % 7,  # the first of January 1970 was a Thursday
    "is_weekend": lambda time: (time // _DAY_MS + 3) % 7 >= 5,
    "day": lambda time: _date(time).day,
    "month": lambda time: _date(time).month,
}
