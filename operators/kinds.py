"""Which Python type each feature has: what a made-up event needs to look like a real one.

Lives here: the type of an expression's value.  Never here: whether it may be used so
(`plan.py` refuses), values.
"""

from __future__ import annotations

from typing import Literal, NewType, get_args, get_origin, get_type_hints

import msgspec

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
        case Aggregate(kind=("first" | "last" | "mode" | "arg_max" | "arg_min"), of=str(name)):
            return _declared(hints[name])
        case Lookup(fallback=(bool() | int() | float() | str()) as fallback):
            return type(fallback)
        case _:
            return float


def _declared(hint: object) -> type:
    """Return the first plain type that a field's annotation names; a number where it names none."""
    found = _types(hint)
    for kind in (str, bool, int):
        if any(issubclass(one, kind) for one in found):
            return kind
    return float


def _types(hint: object) -> list[type]:
    """Return the types of which a value may be; a literal's is that of its values.

    >>> _types(Literal["print", 3] | None)
    [<class 'str'>, <class 'int'>, <class 'NoneType'>]
    """
    if get_origin(hint) is Literal:
        return [type(value) for value in get_args(hint)]
    if isinstance(hint, NewType):
        return _types(hint.__supertype__)
    parts = get_args(hint)
    return (
        [one for part in parts for one in _types(part)] if parts else [hint] if isinstance(hint, type) else []
    )
