"""Which Python type each feature has: what a made-up event needs to look like a real one.

Lives here: the type of an expression's value.  Never here: whether it may be used so
(`plan.py` refuses), values.
"""

from __future__ import annotations

from typing import get_type_hints

import msgspec
from msgspec import inspect

from operators.algebra import Bucket, Clip, Hashed, Math
from operators.expressions import (
    Aggregate,
    Default,
    Expression,
    Field,
    Lookup,
    TimePart,
)
from operators.plan import FeaturePlan
from operators.spans import Decay
from operators.transforms import Apply, Coalesce, Cross, Indicator

__all__ = ["feature_kinds"]


def feature_kinds(plan: FeaturePlan, event_type: type[msgspec.Struct]) -> dict[str, type]:
    """Return bool, int, float or str for every feature of the plan, by name.

    >>> from operators.expressions import by, field
    >>> from operators.plan import compile_features
    >>> class Payment(msgspec.Struct):
    ...     card: str
    ...     amount: float
    >>> features = {"card": field("card"), "n": by("card").count("1h"), "twice": field("amount") * 2}
    >>> plan = compile_features(features, Payment, grace_ms=0, max_events_per_key=9, task="binary")
    >>> feature_kinds(plan, Payment)
    {'card': <class 'str'>, 'n': <class 'int'>, 'twice': <class 'float'>}
    """
    hints = get_type_hints(event_type)
    return {name: _kind(expression, hints) for name, expression in plan.features}


def _kind(expression: Expression, hints: dict[str, object]) -> type:
    match expression:
        case Field(name):
            return _declared(hints[name])
        case Default(of):
            return _kind(of, hints)
        case Aggregate(kind="count", span=Decay()):
            return float
        case TimePart(part="is_weekend") | Indicator():
            return bool
        case Aggregate(kind=("count" | "since_last" | "distinct")) | TimePart() | Bucket():
            return int
        case Hashed() | Cross():
            return str
        case Math("abs", of) | Clip(of) if _kind(of, hints) in (bool, int):
            bounds = (expression.low, expression.high) if isinstance(expression, Clip) else ()
            return float if any(isinstance(bound, float) for bound in bounds) else int
        case Apply():
            return expression.returns
        case Coalesce(inputs):
            kinds = {_kind(one, hints) for one in inputs}
            return kinds.pop() if len(kinds) == 1 else float
        case Aggregate(
            kind=("first" | "last" | "mode" | "arg_max" | "arg_min"), of=(str() | Expression()) as of
        ):
            return _kind(Field(of) if isinstance(of, str) else of, hints)
        case Lookup(fallback=(bool() | int() | float() | str()) as fallback):
            return type(fallback)
        case _:
            return float


def _declared(hint: object) -> type:
    """Return the first plain type that a field's annotation names; a number where it names none."""
    found = _types(inspect.type_info(hint))
    return next((kind for kind in (str, bool, int) if kind in found), float)


def _types(kind: inspect.Type) -> set[type]:
    """Return the plain types of which a value may be; a literal's are those of its values.

    >>> from typing import Literal
    >>> _types(inspect.type_info(Literal["print", 3] | None)) == {str, int}
    True
    """
    match kind:
        case inspect.Metadata():
            return _types(kind.type)
        case inspect.UnionType():
            return {one for part in kind.types for one in _types(part)}
        case inspect.LiteralType():
            return {type(value) for value in kind.values}
        case _:
            return {_PLAIN[type(kind)]} if type(kind) in _PLAIN else set()


_PLAIN: dict[type, type] = {inspect.StrType: str, inspect.BoolType: bool, inspect.IntType: int}
