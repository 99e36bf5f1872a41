"""The nodes that expressions are made of: frozen values whose repr is the definition text.

Lives here: what an expression or a condition is and how it reads.  Never here: the words that users write
(`expressions.py`), types of fields (`plan.py`), values of events.

Equal meaning must give equal text: it is shown by `headrace check` and digested into checkpoints.

>>> (Field("amount") - 1) / Lookup("merchant:{merchant}", "mean", fallback=10.0)
(field("amount") - 1) / lookup("merchant:{merchant}", "mean", default=10.0)
>>> -Field("time").hour().default(12)
-field("time").hour().default(12)
>>> (Field("amount") > 100) & ~(Field("kind") == "refund")
(field("amount") > 100) & ~(field("kind") == "refund")
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from string import Formatter
from typing import Any, Literal

from operators.conditions import Comparison, Condition, IsMissing, any_of, inner_text
from operators.literals import check_value, literal, quote
from operators.spans import Kind, Span
from topics.durations import duration_text
from topics.errors import DefinitionError
from topics.messages import FeatureValue

__all__ = [
    "Aggregate",
    "Arithmetic",
    "Constant",
    "Default",
    "Described",
    "Expression",
    "Feature",
    "Field",
    "Kind",
    "LabelSource",
    "Lookup",
    "Negative",
    "TimePart",
    "nodes",
]

Operation = Literal["+", "-", "*", "/"]


class Expression:
    """Anything that has one value per event, or none (missing).

    Compared with a constant it makes a condition; two expressions are equal if their texts are
    (`equals` makes the condition).
    """

    __slots__ = ()

    @property
    def is_compound(self) -> bool:
        """Return whether it needs parentheses as a part of a larger expression."""
        return False

    def _parts(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__match_args__)  # type: ignore[attr-defined]

    def __eq__(self, other: object) -> Any:
        if isinstance(other, Expression):
            return type(self) is type(other) and self._parts() == other._parts()
        return Comparison("==", self, _compared(other))

    def __ne__(self, other: object) -> Any:
        if isinstance(other, Expression):
            return not self == other
        return Comparison("!=", self, _compared(other))

    def __hash__(self) -> int:
        return hash((type(self), self._parts()))

    def __lt__(self, other: Expression | float) -> Comparison:
        return Comparison("<", self, _compared(other))

    def __le__(self, other: Expression | float) -> Comparison:
        return Comparison("<=", self, _compared(other))

    def __gt__(self, other: Expression | float) -> Comparison:
        return Comparison(">", self, _compared(other))

    def __ge__(self, other: Expression | float) -> Comparison:
        return Comparison(">=", self, _compared(other))

    def equals(self, other: Expression | FeatureValue) -> Comparison:
        """Return the condition that this and `other` are equal."""
        return Comparison("equals" if isinstance(other, Expression) else "==", self, _compared(other))

    def is_in(self, *values: FeatureValue) -> Condition:
        """Return the condition that this is one of `values`, at least one."""
        if not values:
            raise DefinitionError(f"{self!r}.is_in() is never true", hint="name at least one value")
        return any_of([self.equals(value) for value in values])

    def is_missing(self) -> IsMissing:
        """Return the condition that this has no value."""
        return IsMissing(self)

    def default(self, value: FeatureValue) -> Default:
        """Return this expression with `value` in place of a missing one."""
        return Default(self, value)

    def describe(self, text: str, *, owner: str = "") -> Described:
        """Return this expression with words for the catalogue, which change neither value nor version."""
        return Described(self, text, owner)

    def __add__(self, other: Expression | float) -> Arithmetic:
        return Arithmetic("+", self, _operand(other))

    def __radd__(self, other: float) -> Arithmetic:
        return Arithmetic("+", _operand(other), self)

    def __sub__(self, other: Expression | float) -> Arithmetic:
        return Arithmetic("-", self, _operand(other))

    def __rsub__(self, other: float) -> Arithmetic:
        return Arithmetic("-", _operand(other), self)

    def __mul__(self, other: Expression | float) -> Arithmetic:
        return Arithmetic("*", self, _operand(other))

    def __rmul__(self, other: float) -> Arithmetic:
        return Arithmetic("*", _operand(other), self)

    def __truediv__(self, other: Expression | float) -> Arithmetic:
        return Arithmetic("/", self, _operand(other))

    def __rtruediv__(self, other: float) -> Arithmetic:
        return Arithmetic("/", _operand(other), self)

    def __neg__(self) -> Negative:
        return Negative(self)


@dataclass(frozen=True, slots=True, eq=False)
class Constant(Expression):
    """A number in an arithmetic expression; any value in a comparison."""

    value: FeatureValue

    @property
    def is_compound(self) -> bool:
        """Return whether it is a negative number."""
        return not isinstance(self.value, str) and self.value < 0

    def __repr__(self) -> str:
        return literal(self.value)


@dataclass(frozen=True, slots=True, eq=False)
class Field(Expression):
    """A field of the event as it came."""

    name: str

    def hour(self) -> TimePart:
        """Return the hour of the day, 0 to 23, UTC, of a time in ms or a datetime."""
        return TimePart("hour", self)

    def weekday(self) -> TimePart:
        """Return the day of the week, Monday 0 to Sunday 6, UTC, of a time in ms or a datetime."""
        return TimePart("weekday", self)

    def __repr__(self) -> str:
        return f"field({quote(self.name)})"


@dataclass(frozen=True, slots=True, eq=False)
class Feature(Expression):
    """A feature of the definition, by its name; for rules."""

    name: str

    def __repr__(self) -> str:
        return f"feature({quote(self.name)})"


@dataclass(frozen=True, slots=True, eq=False)
class TimePart(Expression):
    """Hour or weekday of a time field."""

    part: Literal["hour", "weekday"]
    of: Field

    def __repr__(self) -> str:
        return f"{self.of!r}.{self.part}()"


@dataclass(frozen=True, slots=True, eq=False)
class Arithmetic(Expression):
    """Two numbers made one; missing if either is, by division by zero, or beyond all bounds."""

    operation: Operation
    left: Expression
    right: Expression

    @property
    def is_compound(self) -> bool:
        """Return True."""
        return True

    def __repr__(self) -> str:
        return f"{inner_text(self.left)} {self.operation} {inner_text(self.right)}"


@dataclass(frozen=True, slots=True, eq=False)
class Negative(Expression):
    """Unary minus."""

    of: Expression

    @property
    def is_compound(self) -> bool:
        """Return True."""
        return True

    def __repr__(self) -> str:
        return f"-{inner_text(self.of)}"


@dataclass(frozen=True, slots=True, eq=False)
class Default(Expression):
    """A value in place of a missing one."""

    of: Expression
    value: FeatureValue

    def __post_init__(self) -> None:
        check_value(self.value, f"{inner_text(self.of)}.default({self.value!r})")

    def __repr__(self) -> str:
        return f"{inner_text(self.of)}.default({literal(self.value)})"


@dataclass(frozen=True, slots=True, eq=False)
class Described(Expression):
    """Words about an expression; it reads like the expression, and `words.py` takes them off."""

    of: Expression
    text: str
    owner: str

    @property
    def is_compound(self) -> bool:
        """Return whether the expression needs parentheses."""
        return self.of.is_compound

    def __repr__(self) -> str:
        return repr(self.of)


@dataclass(frozen=True, slots=True, eq=False)
class Lookup(Expression):
    """A static feature from a store: field `name` of the hash at the key that `template` gives.

    With a number as `fallback`, stored text is read as a number.
    """

    template: str
    name: str
    fallback: FeatureValue | None = None

    def __repr__(self) -> str:
        default = "" if self.fallback is None else f", default={literal(self.fallback)}"
        return f"lookup({quote(self.template)}, {quote(self.name)}{default})"

    @property
    def key_fields(self) -> tuple[str, ...]:
        """Return the event's fields that the key is made of."""
        return tuple(name for _, name, _, _ in Formatter().parse(self.template) if name is not None)

    @property
    def address(self) -> str:
        """Return what is looked up, whatever the fallback: the name of its value in `step_events`."""
        return f"{self.template}#{self.name}"

    def store_key(self, value: object) -> str:
        """Return the store's key for one event of the user's type.

        >>> from types import SimpleNamespace
        >>> Lookup("merchant:{merchant_id}", "risk").store_key(SimpleNamespace(merchant_id=7))
        'merchant:7'
        """
        return self.template.format(**{name: getattr(value, name) for name in self.key_fields})


@dataclass(frozen=True, slots=True)
class LabelSource:
    """The sentinel `label`: labels as they arrived, in place of a field of the event."""

    def __repr__(self) -> str:
        return "label"


@dataclass(frozen=True, slots=True, eq=False)
class Aggregate(Expression):
    """One number about the events (or labels) of one key within `(t - window, t]`, or within a `span`.

    `of` is a field's name, `label`, or None where no value is needed; `argument` is what the kind
    needs besides: the share of a quantile, the rank of a mode, the field that `arg_max` looks at.
    """

    kind: Kind
    keys: tuple[str, ...]
    of: str | LabelSource | None
    window_ms: int
    include_current: bool = True
    where: Condition | None = None
    shift_ms: int = 0
    span: Span | None = None
    """Another kind of window than a sliding one."""
    argument: float | str | None = None

    @property
    def source(self) -> Literal["events", "labels"]:
        """Return which log it reads."""
        return "labels" if isinstance(self.of, LabelSource) else "events"

    @property
    def column(self) -> str | None:
        """Return the field whose values it reads, None for labels."""
        return self.of if isinstance(self.of, str) else None

    @property
    def by_column(self) -> str | None:
        """Return the field whose extreme `arg_max` and `arg_min` look for."""
        return self.argument if isinstance(self.argument, str) else None

    @property
    def reach_ms(self) -> int:
        """Return how far before an event it looks."""
        return self.window_ms + self.shift_ms

    @property
    def is_valued(self) -> bool:
        """Return whether it is about values, not only about when there were events."""
        return self.kind not in ("count", "rate", "since_last")

    @property
    def window_text(self) -> str:
        """Return the window as it stands in a definition."""
        return f'"{duration_text(self.window_ms)}"' if self.span is None else repr(self.span)

    def __repr__(self) -> str:
        keys = ", ".join(map(quote, self.keys))
        parts = []
        if self.of is not None:
            parts.append(quote(self.of) if isinstance(self.of, str) else repr(self.of))
        if self.argument is not None and self.kind != "mode":
            parts.append(literal(self.argument))
        parts.append(self.window_text)
        if self.argument is not None and self.kind == "mode":
            parts.append(f"rank={self.argument}")
        if not self.include_current:
            parts.append("include_current=False")
        if self.where is not None:
            parts.append(f"where={self.where!r}")
        if self.shift_ms:
            parts.append(f'shift="{duration_text(self.shift_ms)}"')
        return f"by({keys}).{self.kind}({', '.join(parts)})"


def nodes(expression: Expression) -> Iterator[Expression]:
    """Return `expression` and all it is made of."""
    yield expression
    match expression:
        case Default(of) | Negative(of) | TimePart(_, of):
            yield from nodes(of)
        case Arithmetic(_, left, right):
            yield from nodes(left)
            yield from nodes(right)


def _operand(value: object) -> Expression:
    if isinstance(value, Expression):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise DefinitionError(
            f"{value!r} cannot be calculated with", hint="use finite numbers and expressions"
        )
    return Constant(value)


def _compared(value: object) -> Expression:
    """Return the other side of a comparison."""
    if isinstance(value, Expression):
        return value
    check_value(value, f"a comparison with {value!r}")
    return Constant(value)  # type: ignore[arg-type]  # just checked
