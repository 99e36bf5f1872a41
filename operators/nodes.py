"""The nodes that expressions are made of: frozen values whose repr is the definition text.

Lives here: what an expression is and how it reads.  Never here: the words that users write
(`expressions.py`), types of fields (`plan.py`), values of events.

Equal meaning must give equal text: it is shown by `headrace check` and digested into checkpoints.

>>> (Field("amount") - 1) / Lookup("merchant:{merchant}", "mean", fallback=10.0)
(field("amount") - 1) / lookup("merchant:{merchant}", "mean", default=10.0)
>>> -Field("time").hour().default(12)
-field("time").hour().default(12)
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from string import Formatter
from typing import Literal

from topics.durations import duration_text
from topics.errors import DefinitionError
from topics.messages import FeatureValue

__all__ = [
    "Aggregate",
    "Arithmetic",
    "Constant",
    "Default",
    "Expression",
    "Field",
    "Kind",
    "LabelSource",
    "Lookup",
    "Negative",
    "TimePart",
    "check_value",
    "quote",
]

Kind = Literal["count", "sum", "mean", "min", "max", "var", "std", "first", "last", "since_last", "rate"]
Operation = Literal["+", "-", "*", "/"]


def quote(text: str) -> str:
    """Return `text` as it stands in a definition."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _literal(value: FeatureValue) -> str:
    return quote(value) if isinstance(value, str) else repr(value)


class Expression:
    """Anything that has one value per event, or none (missing)."""

    __slots__ = ()

    def default(self, value: FeatureValue) -> Default:
        """Return this expression with `value` in place of a missing one."""
        return Default(self, value)

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


@dataclass(frozen=True, slots=True)
class Constant(Expression):
    """A number in an arithmetic expression."""

    value: float

    def __repr__(self) -> str:
        return repr(self.value)


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class TimePart(Expression):
    """Hour or weekday of a time field."""

    part: Literal["hour", "weekday"]
    of: Field

    def __repr__(self) -> str:
        return f"{self.of!r}.{self.part}()"


@dataclass(frozen=True, slots=True)
class Arithmetic(Expression):
    """Two numbers made one; missing if either is, by division by zero, or beyond all bounds."""

    operation: Operation
    left: Expression
    right: Expression

    def __repr__(self) -> str:
        return f"{_inner(self.left)} {self.operation} {_inner(self.right)}"


@dataclass(frozen=True, slots=True)
class Negative(Expression):
    """Unary minus."""

    of: Expression

    def __repr__(self) -> str:
        return f"-{_inner(self.of)}"


@dataclass(frozen=True, slots=True)
class Default(Expression):
    """A value in place of a missing one."""

    of: Expression
    value: FeatureValue

    def __post_init__(self) -> None:
        check_value(self.value, f"{_inner(self.of)}.default({self.value!r})")

    def __repr__(self) -> str:
        return f"{_inner(self.of)}.default({_literal(self.value)})"


@dataclass(frozen=True, slots=True)
class Lookup(Expression):
    """A static feature from a store: field `name` of the hash at the key that `template` gives.

    With a number as `fallback`, stored text is read as a number.
    """

    template: str
    name: str
    fallback: FeatureValue | None = None

    def __repr__(self) -> str:
        default = "" if self.fallback is None else f", default={_literal(self.fallback)}"
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


@dataclass(frozen=True, slots=True)
class Aggregate(Expression):
    """One number about the events (or labels) of one key within `(t - window, t]`.

    `of` is a field's name, `label`, or None where no value is needed.
    """

    kind: Kind
    keys: tuple[str, ...]
    of: str | LabelSource | None
    window_ms: int
    include_current: bool = True

    @property
    def source(self) -> Literal["events", "labels"]:
        """Return which log it reads."""
        return "labels" if isinstance(self.of, LabelSource) else "events"

    @property
    def column(self) -> str | None:
        """Return the field whose values it reads, None for labels."""
        return self.of if isinstance(self.of, str) else None

    @property
    def is_valued(self) -> bool:
        """Return whether it is about values, not only about when there were events."""
        return self.kind not in ("count", "rate", "since_last")

    def __repr__(self) -> str:
        source = quote(self.of) if isinstance(self.of, str) else repr(self.of)
        of = "" if self.of is None else f"{source}, "
        current = "" if self.include_current else ", include_current=False"
        keys = ", ".join(map(quote, self.keys))
        return f'by({keys}).{self.kind}({of}"{duration_text(self.window_ms)}"{current})'


def check_value(value: object, place: str) -> None:
    """Raise DefinitionError, naming `place`, if `value` cannot be a feature's value."""
    if not isinstance(value, bool | int | float | str) or (isinstance(value, float) and not isfinite(value)):
        raise DefinitionError(f"{place}: no feature value", hint="give a finite number, a bool or text")


def _operand(value: object) -> Expression:
    if isinstance(value, Expression):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise DefinitionError(
            f"{value!r} cannot be calculated with", hint="use finite numbers and expressions"
        )
    return Constant(value)


def _inner(of: Expression) -> str:
    """Return the text of `of` as a part of a larger expression."""
    compound = isinstance(of, Arithmetic | Negative) or (isinstance(of, Constant) and of.value < 0)
    return f"({of!r})" if compound else repr(of)
