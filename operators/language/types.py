"""The types of fields and of features, which of them may be missing, and what is refused for its type.

Lives here: the check of an expression against the fields that it reads.  Never here: groups and memory
(`plan.py`), values of events.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from difflib import get_close_matches
from typing import Final

import msgspec
from msgspec import inspect

from operators.language.conditions import Both, Comparison, Condition, Either, IsMissing, Not
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
)
from operators.language.fields import (
    Aggregate,
    Feature,
    Field,
    LabelSource,
    LabelTerm,
    Lookup,
    TimePart,
    inputs,
    nodes,
    parts,
    reads_labels,
)
from operators.language.position import Positional
from operators.language.transforms import Apply, Coalesce, Cross, Indicator
from operators.language.window_kinds import Decay
from topics.errors import DefinitionError
from topics.messages import Task

__all__ = ["FieldTypes", "event_fields", "type_text"]

_TEXTS: Final[dict[type, str]] = {
    str: "text",
    bool: "bool",
    int: "number",
    float: "number",
    datetime: "time",
    object: "other",
}
"""How messages call the types that an expression may have; of the last two no feature is."""
_NUMBERS: Final = frozenset((int, float))
_COUNTABLE: Final = frozenset((bool, int, float))
"""Types that can be calculated with."""

_OF_NUMBERS: Final = frozenset(("sum", "mean", "min", "max", "var", "std", "median", "quantile"))
"""Aggregates that need numbers; the other ones take text too."""
_OF_VALUES: Final = frozenset(("first", "last", "mode", "arg_max", "arg_min"))
"""Aggregates whose value is one of the field's."""
_WHOLE: Final = frozenset(("count", "since_last", "distinct"))
"""Aggregates that are whole numbers."""
_NEVER_EMPTY: Final = frozenset(("count", "sum", "rate", "distinct"))
"""Aggregates that have a value of an empty window."""


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
    texts = {}
    for field in info.fields:
        types = "|".join(sorted(_names(_alternatives(field.type))))
        if field.default_factory is not msgspec.NODEFAULT:
            factory = field.default_factory
            default = f" = {getattr(factory, '__qualname__', type(factory).__qualname__)}()"
        else:
            default = "" if field.required else f" = {field.default!r}"
        texts[field.name] = f"{field.encode_name} {types}{default}"
    return texts


def type_text(of: type) -> str:
    """Return how messages call the type of an expression: `number`, `bool`, `text`, `time` or `other`."""
    return _TEXTS[of]


class FieldTypes:
    """The types of one event type's fields, and of expressions over them: bool, int, float or str.

    Of a field that is no feature as it stands, the type is datetime, or object for anything else.
    Raises DefinitionError if the event type is no msgspec Struct.
    """

    def __init__(self, event_type: type[msgspec.Struct], task: Task) -> None:
        info = inspect.type_info(event_type)
        if not isinstance(info, inspect.StructType):
            raise DefinitionError(
                f"{event_type!r} is no msgspec Struct", hint="declare the event as class E(msgspec.Struct)"
            )
        self._type_name = event_type.__name__
        self._texts = event_fields(event_type)
        self._label_type = str if task == "multiclass" else float
        self._types: dict[str, type] = {}
        self._optional: dict[str, bool] = {}
        self._is_key: dict[str, bool] = {}
        self._declared: dict[str, str] = {}
        for field in info.fields:
            alternatives = _alternatives(field.type)
            present = [one for one in alternatives if not isinstance(one, inspect.NoneType)]
            types = {plain for one in present for plain in _plain_types(one)}
            self._types[field.name] = _common_type(types)
            self._optional[field.name] = len(present) < len(alternatives)
            self._is_key[field.name] = types == {str} or all(map(_is_int, present))
            self._declared[field.name] = " | ".join(_names(alternatives))

    def is_text(self, name: str) -> bool:
        """Return whether the field `name` is text and nothing else."""
        return self._types[name] is str

    def field_text(self, name: str) -> str:
        """Return the field `name` as `event_fields` has it."""
        return self._texts[name]

    def check(self, expression: Expression, place: str, *, inside: bool = False) -> type:
        """Return the type of `expression`; raise DefinitionError, naming `place`, if it has none.

        Fields of a time or of another type are refused, unless the expression stands `inside` another one.
        """
        match expression:
            case Constant(value):
                return type(value)
            case Field(name):
                return self._check_field(name, place, inside)
            case TimePart(part, Field(name), _):
                if self._type_of(name, place) not in _NUMBERS | {datetime}:
                    self._refuse(name, place, f"has no {part}", "use a field of int (ms) or datetime")
                return bool if part == "is_weekend" else int
            case Default(of, value):
                of_type = self.check(of, place, inside=inside)
                if (of_type is str) != isinstance(value, str):
                    raise DefinitionError(
                        f"{place}: default {value!r} is no {type_text(of_type)}",
                        hint="give a default of the same type",
                    )
                return of_type
            case Negative(of):
                self._number(of, place)
                return float
            case Arithmetic(_, left, right):
                self._number(left, place)
                self._number(right, place)
                return float
            case Aggregate():
                return self._check_aggregate(expression, place)
            case Lookup(fallback=fallback):
                for name in expression.key_fields:
                    self._check_key(name, f"{place}: {expression!r}")
                return str if fallback is None else type(fallback)
            case _:
                return self._check_transform(expression, place)

    def _check_transform(self, expression: Expression, place: str) -> type:
        match expression:
            case LabelTerm():
                return self._label_type
            case Positional(name, serve):
                return self.check(Default(Field(name), serve), place)
            case Math("abs", of) | Clip(of) if self._number(of, place) is not float:
                bounds = (expression.low, expression.high) if isinstance(expression, Clip) else ()
                return float if any(isinstance(bound, float) for bound in bounds) else int
            case Math(_, of) | Cyclic(_, of, _) | Clip(of) | Bucket(of, _):
                self._number(of, place)
                return int if isinstance(expression, Bucket) else float
            case Hashed(of, _):
                self._category(of, f"{place}: {expression!r}")
                return str
            case Cross(crossed):
                for of in crossed:
                    self._category(of, f"{place}: {expression!r}")
                return str
            case Coalesce(values):
                return self._common(values, f"{place}: {expression!r}")
            case Indicator(condition):
                self.check_condition(condition, f"{place}: {expression!r}", own=False)
                return bool
            case Apply(_, arguments, returns, _):
                for of in arguments:
                    self.check(of, f"{place}: {expression!r}", inside=True)
                return returns
            case _:
                raise DefinitionError(f"{place}: {expression!r} is unknown", hint="use by, field and lookup")

    def _category(self, expression: Expression, place: str) -> None:
        of_type = self.check(expression, place, inside=True)
        if of_type in (datetime, object):
            raise DefinitionError(
                f"{place}: {expression!r} is {type_text(of_type)}, not a category",
                hint="use text, a number or a bool",
            )

    def _common(self, values: Sequence[Expression], place: str) -> type:
        """Return the type of any of several values, which must go together."""
        types = {self.check(one, place) for one in values}
        if len(types) > 1 and not types <= _COUNTABLE:
            raise DefinitionError(
                f"{place} may be {' or '.join(sorted(set(map(type_text, types))))}",
                hint="take all text or all numbers",
            )
        return types.pop() if len(types) == 1 else float

    def _number(self, expression: Expression, place: str) -> type:
        of_type = self.check(expression, place, inside=True)
        if of_type not in _COUNTABLE:
            raise DefinitionError(
                f"{place}: {expression!r} is {type_text(of_type)}, not a number",
                hint="calculate with numbers only",
            )
        return of_type

    def _check_field(self, name: str, place: str, inside: bool) -> type:
        of_type = self._type_of(name, place)
        if of_type in (datetime, object) and not inside:
            fix = (
                "use .hour() or .weekday()"
                if of_type is datetime
                else "use a field of bool, int, float or str"
            )
            self._refuse(name, place, "is no feature value", fix)
        return of_type

    def _check_aggregate(self, aggregate: Aggregate, place: str) -> type:
        place = f"{place}: {aggregate!r}"
        for name in aggregate.keys:
            self._check_key(name, place)
        if aggregate.where is not None:
            self.check_condition(aggregate.where, place)
        if aggregate.of is not None:
            of_type = self._check_aggregated(aggregate, aggregate.of, place)
            if aggregate.function in _OF_VALUES:
                return of_type
        is_whole = aggregate.function in _WHOLE and not isinstance(aggregate.span, Decay)
        return int if is_whole else float

    def _check_aggregated(self, aggregate: Aggregate, of: str | Expression | LabelSource, place: str) -> type:
        """Return the type of the values `of` that a window aggregates."""
        of_type = self.column(of, place)
        if isinstance(of, LabelSource) and of_type is str and aggregate.function in _OF_NUMBERS:
            raise DefinitionError(
                f"{place}: a class label is no number",
                hint='use last, first or mode; the share of a class is mean(indicator(label == "a"), "1h")',
            )
        if aggregate.function in _OF_NUMBERS and of_type not in _COUNTABLE:
            self._refuse_column(of, place, "is no number", "aggregate a number, or count")
        if aggregate.is_valued and of_type in (datetime, object):
            self._refuse_column(of, place, "is no number and no text", "aggregate a number or text, or count")
        beside = aggregate.argument
        if isinstance(beside, str | Expression) and self.column(beside, place) not in _COUNTABLE:
            self._refuse_column(beside, place, "is no number", "look for the extreme of a number")
        return of_type

    def column(self, of: str | Expression | LabelSource, place: str) -> type:
        """Return the type of the values of a window's column.

        It is a field, an expression over the event's fields, labels, or a condition on labels.  Raises
        DefinitionError, naming `place`, for an expression that reads anything else.
        """
        if isinstance(of, str):
            return self._type_of(of, place)
        if isinstance(of, LabelSource):
            return self._label_type
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
        """Raise DefinitionError if `condition` compares values of types that do not go together.

        With `own` it may read the event's own fields only.
        """
        look = self._own if own else self._any
        match condition:
            case Comparison(_, Expression() as left, Expression() as right):
                types = {look(left, place), look(right, place)}
                if not (types <= _COUNTABLE or types == {str}):
                    compared = " with ".join(sorted(set(map(type_text, types))))
                    raise DefinitionError(
                        f"{place}: {condition!r} compares {compared}",
                        hint="compare numbers with numbers and text with text",
                    )
            case IsMissing(Expression() as of):
                look(of, place)
            case Both(left, right) | Either(left, right):
                self.check_condition(left, place, own=own)
                self.check_condition(right, place, own=own)
            case Not(of):
                self.check_condition(of, place, own=own)

    def may_be_missing(self, expression: Expression) -> bool:
        """Return whether some event may lack a value of `expression`, which was checked.

        What only some numbers lack (a division by zero, the logarithm of one below it) is not counted.
        """
        match expression:
            case Field(name) | Positional(name):
                return self._optional[name]
            case Default():
                return False
            case Lookup(fallback=fallback):
                return fallback is None
            case Coalesce(values):
                return all(map(self.may_be_missing, values))
            case Aggregate():
                return self._may_be_empty(expression)
            case Indicator(condition):
                compared = [part for part in parts(condition) if isinstance(part, Comparison)]
                return any(self._any_missing((one.left, one.right)) for one in compared)
            case _:
                return self._any_missing(inputs(expression))

    def _may_be_empty(self, aggregate: Aggregate) -> bool:
        """Return whether a window may hold no value: the event itself is in it, unless it is kept out."""
        if aggregate.function in _NEVER_EMPTY:
            return False
        if aggregate.function == "since_last" or (
            aggregate.function == "mode" and aggregate.argument is not None
        ):
            return True
        kept_out = aggregate.where is not None or aggregate.shift_ms > 0 or not aggregate.include_current
        if kept_out or aggregate.source == "labels":
            return True
        read = [Field(of) if isinstance(of, str) else of for of in (aggregate.of, aggregate.argument)]
        return self._any_missing(read)

    def _any_missing(self, values: Iterable[object]) -> bool:
        return any(isinstance(one, Expression) and self.may_be_missing(one) for one in values)

    def _own(self, expression: Expression, place: str) -> type:
        """Return the type of a side of a condition that reads the event's own fields and nothing else."""
        _refuse_among(
            expression,
            (Aggregate, Lookup, Apply, LabelTerm),
            place,
            "conditions look at the event's own fields; the share of a class is "
            'mean(indicator(label == "a"), "1h")',
        )
        return self.check(expression, place, inside=True)

    def _any(self, expression: Expression, place: str) -> type:
        return self.check(expression, place, inside=True)

    def _check_key(self, name: str, place: str) -> None:
        self._type_of(name, place)
        if not self._is_key[name]:
            self._refuse(name, place, "is no key", "use a field of str or int")
        if self._optional[name]:
            self._refuse(name, place, "may be missing, so it is no key", 'declare a default such as ""')

    def _type_of(self, name: str, place: str) -> type:
        """Return the type of the field `name`; raise DefinitionError if there is none."""
        if (of_type := self._types.get(name)) is None:
            near = get_close_matches(name, self._types, n=3, cutoff=0.5)
            hint = (
                f"did you mean {' or '.join(map(repr, near))}?"
                if near
                else f"it has {', '.join(self._types)}"
            )
            raise DefinitionError(f"{place}: {self._type_name} has no field {name!r}", hint=hint)
        return of_type

    def _refuse(self, name: str, place: str, wrong: str, fix: str) -> None:
        raise DefinitionError(f"{place}: {self._type_name}.{name} ({self._declared[name]}) {wrong}", hint=fix)

    def _refuse_column(self, of: str | Expression | LabelSource, place: str, wrong: str, fix: str) -> None:
        if isinstance(of, str):
            self._refuse(of, place, wrong, fix)
        raise DefinitionError(f"{place}: {of!r} {wrong}", hint=fix)


def _refuse_among(expression: Expression, refused: tuple[type, ...], place: str, fix: str) -> None:
    """Raise DefinitionError if a part of `expression` is of a class in `refused`."""
    for part in nodes(expression):
        if isinstance(part, refused):
            raise DefinitionError(f"{place}: {part!r} is not of the event itself", hint=fix)


def _alternatives(declared: inspect.Type) -> tuple[inspect.Type, ...]:
    """Return the members of a union, or the one type that was declared."""
    return declared.types if isinstance(declared, inspect.UnionType) else (declared,)


def _names(types: Iterable[inspect.Type]) -> list[str]:
    """Return what each declared type is called: `str`, `float`, `none`, `literal`."""
    return [type(one).__name__.removesuffix("Type").lower() for one in types]


def _is_int(declared: inspect.Type) -> bool:
    return isinstance(declared.type if isinstance(declared, inspect.Metadata) else declared, inspect.IntType)


def _plain_types(declared: inspect.Type) -> set[type]:
    """Return the Python types of the values of one declared type; object where they are no feature.

    >>> from typing import Literal
    >>> _plain_types(inspect.type_info(Literal["print", 3])) == {str, int}
    True
    """
    match declared:
        case inspect.Metadata():
            return _plain_types(declared.type)
        case inspect.LiteralType():
            return {type(value) for value in declared.values}
        case _:
            return {_PLAIN.get(type(declared), object)}


_PLAIN: Final[dict[type, type]] = {
    inspect.BoolType: bool,
    inspect.IntType: int,
    inspect.FloatType: float,
    inspect.StrType: str,
    inspect.DateTimeType: datetime,
}


def _common_type(types: set[type]) -> type:
    """Return the type of a value that is of any of `types`."""
    if len(types) == 1:
        return next(iter(types))
    if types and types <= _COUNTABLE:
        return int if int in types else float
    return object
