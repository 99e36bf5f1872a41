"""What can be done with each field of an event, by its declared type.

Lives here: the check of an expression against the fields it reads, and every refusal that follows
from a type.  Never here: groups and memory (`plan.py`), values of events.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, Final, Literal

import msgspec
from msgspec import inspect

from operators.language.conditions import Both, Comparison, Condition, Either, IsMissing, Not
from operators.language.expressions import Bucket, Clip, Cyclic, Hashed, Math
from operators.language.fields import (
    Aggregate,
    Arithmetic,
    Constant,
    Default,
    Expression,
    Feature,
    Field,
    LabelSource,
    LabelTerm,
    Lookup,
    Negative,
    TimePart,
    nodes,
    reads_labels,
)
from operators.language.transforms import Apply, Coalesce, Cross, Indicator
from topics.errors import DefinitionError
from topics.messages import Task

__all__ = ["FieldTypes", "ValueType", "event_fields"]

ValueType = Literal["number", "bool", "text", "time", "other"]

_OF_NUMBERS: Final = frozenset(("sum", "mean", "min", "max", "var", "std", "median", "quantile"))
"""Aggregates that need numbers; the other ones take text too."""
_OF_VALUES: Final = frozenset(("first", "last", "mode", "arg_max", "arg_min"))
"""Aggregates whose value is one of the field's."""


def event_fields(event_type: type[msgspec.Struct]) -> dict[str, str]:
    """Return each field's name on the wire, its types and its default, as text; constraints are not in it.

    >>> class Payment(msgspec.Struct, rename="camel"):
    ...     card_id: str
    ...     amount: float | None = None
    >>> event_fields(Payment)
    {'card_id': 'cardId str', 'amount': 'amount float|none = None'}
    """
    info = inspect.type_info(event_type)
    assert isinstance(info, inspect.StructType)
    found = {}
    for known in info.fields:
        types = known.type.types if isinstance(known.type, inspect.UnionType) else (known.type,)
        text = "|".join(sorted(type(one).__name__.removesuffix("Type").lower() for one in types))
        if known.default_factory is not msgspec.NODEFAULT:
            factory = known.default_factory
            default = f" = {getattr(factory, '__qualname__', type(factory).__qualname__)}()"
        else:
            default = "" if known.required else f" = {known.default!r}"
        found[known.name] = f"{known.encode_name} {text}{default}"
    return found


class FieldTypes:
    """The fields of one event type.  Raises DefinitionError if it is no msgspec Struct."""

    def __init__(self, event_type: type[msgspec.Struct], task: Task) -> None:
        info = inspect.type_info(event_type)
        if not isinstance(info, inspect.StructType):
            raise DefinitionError(
                f"{event_type!r} is no msgspec Struct", hint="declare the event as class E(msgspec.Struct)"
            )
        self._type_name = event_type.__name__
        self._texts = event_fields(event_type)
        self._task = task
        self._optional: dict[str, bool] = {}
        self._value_types: dict[str, ValueType] = {}
        self._types: dict[str, str] = {}
        self._is_key: dict[str, bool] = {}
        for known in info.fields:
            parts = known.type.types if isinstance(known.type, inspect.UnionType) else (known.type,)
            present = [part for part in parts if not isinstance(part, inspect.NoneType)]
            value_types = {_value_type(part) for part in present}
            self._optional[known.name] = len(present) < len(parts)
            self._value_types[known.name] = _join(value_types)
            self._is_key[known.name] = value_types == {"text"} or all(map(_is_int, present))
            self._types[known.name] = " | ".join(
                type(part).__name__.removesuffix("Type").lower() for part in parts
            )

    def is_text(self, name: str) -> bool:
        """Return whether the field `name` is text and nothing else."""
        return self._value_types[name] == "text"

    def field_text(self, name: str) -> str:
        """Return the field `name` as `event_fields` has it."""
        return self._texts[name]

    def check(self, expression: Expression, place: str, *, inside: bool = False) -> ValueType:
        """Return what the value of `expression` is; raise DefinitionError if it has none."""
        match expression:
            case Constant(value):
                return "text" if isinstance(value, str) else "number"
            case Field(name):
                return self._check_field(name, place, inside)
            case TimePart(part, Field(name), _):
                if self._known(name, place) not in ("number", "time"):
                    self._refuse(name, place, f"has no {part}", "use a field of int (ms) or datetime")
                return "bool" if part == "is_weekend" else "number"
            case Default(of, value):
                value_type = self.check(of, place, inside=inside)
                if (value_type == "text") != isinstance(value, str):
                    raise DefinitionError(
                        f"{place}: default {value!r} is no {value_type}",
                        hint="give a default of the same kind",
                    )
                return value_type
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
                return self._check_transform(expression, place)

    def _check_transform(self, expression: Expression, place: str) -> ValueType:
        match expression:
            case LabelTerm():
                return self.column(LabelSource(), place)
            case Math(_, of) | Cyclic(_, of, _) | Clip(of, _, _) | Bucket(of, _):
                return self._number(of, place)
            case Hashed(of, _):
                self._category(of, f"{place}: {expression!r}")
                return "text"
            case Cross(inputs):
                for of in inputs:
                    self._category(of, f"{place}: {expression!r}")
                return "text"
            case Coalesce(inputs):
                return self._common(inputs, f"{place}: {expression!r}")
            case Indicator(condition):
                self.check_condition(condition, f"{place}: {expression!r}", own=False)
                return "bool"
            case Apply(_, inputs, returns, _):
                for of in inputs:
                    self.check(of, f"{place}: {expression!r}", inside=True)
                return "text" if returns is str else "bool" if returns is bool else "number"
            case _:
                raise DefinitionError(f"{place}: {expression!r} is unknown", hint="use by, field and lookup")

    def _category(self, expression: Expression, place: str) -> None:
        value_type = self.check(expression, place, inside=True)
        if value_type in ("time", "other"):
            raise DefinitionError(
                f"{place}: {expression!r} is {value_type}, not a category",
                hint="use text, a number or a bool",
            )

    def _common(self, inputs: Sequence[Expression], place: str) -> ValueType:
        """Return the type of any of several values, which must go together."""
        value_types = {self.check(one, place) for one in inputs}
        if len(value_types) > 1 and not value_types <= {"number", "bool"}:
            raise DefinitionError(
                f"{place} may be {' or '.join(sorted(value_types))}", hint="take all text or all numbers"
            )
        return "number" if len(value_types) > 1 else value_types.pop()

    def _number(self, expression: Expression, place: str) -> ValueType:
        value_type = self.check(expression, place, inside=True)
        if value_type not in ("number", "bool"):
            raise DefinitionError(
                f"{place}: {expression!r} is {value_type}, not a number", hint="calculate with numbers only"
            )
        return "number"

    def _check_field(self, name: str, place: str, inside: bool) -> ValueType:
        value_type = self._known(name, place)
        if value_type in ("time", "other") and not inside:
            fix = (
                "use .hour() or .weekday()"
                if value_type == "time"
                else "use a field of bool, int, float or str"
            )
            self._refuse(name, place, "is no feature value", fix)
        return value_type

    def _check_aggregate(self, aggregate: Aggregate, place: str) -> ValueType:
        place = f"{place}: {aggregate!r}"
        for name in aggregate.keys:
            self._check_key(name, place)
        if aggregate.where is not None:
            self.check_condition(aggregate.where, place)
        if aggregate.of is None:
            return "number"
        value_type = self.column(aggregate.of, place)
        if isinstance(aggregate.of, LabelSource) and value_type == "text" and aggregate.kind in _OF_NUMBERS:
            raise DefinitionError(
                f"{place}: a class label is no number",
                hint='use last, first or mode; the share of a class is mean(indicator(label == "a"), "1h")',
            )
        if aggregate.kind in _OF_NUMBERS and value_type not in ("number", "bool"):
            self._refuse_column(aggregate.of, place, "is no number", "aggregate a number, or count")
        if aggregate.is_valued and value_type in ("time", "other"):
            self._refuse_column(
                aggregate.of, place, "is no number and no text", "aggregate a number or text, or count"
            )
        beside = aggregate.argument
        if isinstance(beside, str | Expression) and self.column(beside, place) not in ("number", "bool"):
            self._refuse_column(beside, place, "is no number", "look for the extreme of a number")
        return value_type if aggregate.kind in _OF_VALUES else "number"

    def column(self, of: str | Expression | LabelSource, place: str) -> ValueType:
        """Return what the values of a window's column are.

        It is a field, an expression over the event's fields, labels, or a condition on labels.  Raises
        DefinitionError, naming `place`, for an expression that looks at anything else.
        """
        if isinstance(of, str):
            return self._known(of, place)
        if isinstance(of, LabelSource):
            return "text" if self._task == "multiclass" else "number"
        if reads_labels(of):
            _refuse_among(
                of, (Aggregate, Lookup, Field, Apply), place, "ask for the label alone; fields go into where="
            )
        _refuse_among(
            of,
            (Aggregate, Lookup, Feature),
            place,
            "aggregate what is made of the event's fields alone; windows and look-ups stand outside, as in "
            'by("card").sum("amount", "1h") / by("card").count("1h")',
        )
        return self.check(of, place, inside=True)

    def check_condition(self, condition: Condition, place: str, *, own: bool = True) -> None:
        """Raise DefinitionError if `condition` compares what cannot be compared.

        With `own` it looks at the event's own fields and nothing else.
        """
        look = self._own if own else self._any
        match condition:
            case Comparison(_, Expression() as left, Expression() as right):
                value_types = {look(left, place), look(right, place)}
                if not (value_types <= {"number", "bool"} or value_types == {"text"}):
                    raise DefinitionError(
                        f"{place}: {condition!r} compares {' with '.join(sorted(value_types))}",
                        hint="compare numbers with numbers and text with text",
                    )
            case IsMissing(Expression() as of):
                look(of, place)
            case Both(left, right) | Either(left, right):
                self.check_condition(left, place, own=own)
                self.check_condition(right, place, own=own)
            case Not(of):
                self.check_condition(of, place, own=own)

    def _own(self, expression: Expression, place: str) -> ValueType:
        """Return the type of what a condition looks at: the event's own fields, nothing else."""
        _refuse_among(
            expression,
            (Aggregate, Lookup, Apply, LabelTerm),
            place,
            "conditions look at the event's own fields; the share of a class is "
            'mean(indicator(label == "a"), "1h")',
        )
        return self.check(expression, place, inside=True)

    def _any(self, expression: Expression, place: str) -> ValueType:
        return self.check(expression, place, inside=True)

    def _check_key(self, name: str, place: str) -> None:
        self._known(name, place)
        if not self._is_key[name]:
            self._refuse(name, place, "is no key", "use a field of str or int")
        if self._optional[name]:
            self._refuse(name, place, "may be missing, so it is no key", 'declare a default such as ""')

    def _known(self, name: str, place: str) -> ValueType:
        if (value_type := self._value_types.get(name)) is None:
            near = get_close_matches(name, self._value_types, n=3, cutoff=0.5)
            hint = (
                f"did you mean {' or '.join(map(repr, near))}?"
                if near
                else f"it has {', '.join(self._value_types)}"
            )
            raise DefinitionError(f"{place}: {self._type_name} has no field {name!r}", hint=hint)
        return value_type

    def _refuse(self, name: str, place: str, wrong: str, fix: str) -> None:
        raise DefinitionError(f"{place}: {self._type_name}.{name} ({self._types[name]}) {wrong}", hint=fix)

    def _refuse_column(self, of: str | Expression | LabelSource, place: str, wrong: str, fix: str) -> None:
        if isinstance(of, str):
            self._refuse(of, place, wrong, fix)
        raise DefinitionError(f"{place}: {of!r} {wrong}", hint=fix)


def _refuse_among(expression: Expression, refused: tuple[type, ...], place: str, fix: str) -> None:
    """Raise DefinitionError if a part of `expression` is of a class that is more than the event itself."""
    for part in nodes(expression):
        if isinstance(part, refused):
            raise DefinitionError(f"{place}: {part!r} is not of the event itself", hint=fix)


def _is_int(declared: Any) -> bool:
    return isinstance(declared.type if isinstance(declared, inspect.Metadata) else declared, inspect.IntType)


def _value_type(declared: Any) -> ValueType:
    """Return what can be done with a value of one declared type."""
    match declared:
        case inspect.Metadata():
            return _value_type(declared.type)
        case inspect.BoolType():
            return "bool"
        case inspect.IntType() | inspect.FloatType():
            return "number"
        case inspect.StrType():
            return "text"
        case inspect.LiteralType():
            return _join({"text" if isinstance(value, str) else "number" for value in declared.values})
        case inspect.DateTimeType():
            return "time"
        case _:
            return "other"


def _join(value_types: set[ValueType]) -> ValueType:
    """Return what can be done with a value that is any of `value_types`."""
    if len(value_types) == 1:
        return next(iter(value_types))
    return "number" if value_types == {"number", "bool"} else "other"
