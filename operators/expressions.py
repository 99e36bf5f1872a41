"""The feature language: what a feature is made of, said as immutable values.

Lives here: the words a user's file is written with and their text form.  Never here: types
of fields (`plan.py` checks them), values of events, memory.

Strategy: every word builds a frozen node; a node's repr is the definition text, shown by
`headrace check` and digested into the checkpoint, so equal meaning must give equal text.

>>> by("card").mean("amount", "60m").default(0.0)
by("card").mean("amount", "1h").default(0.0)
>>> field("amount") / by("card", "merchant").max("amount", "7d", include_current=False)
field("amount") / by("card", "merchant").max("amount", "7d", include_current=False)
>>> by().count(label, "3h") + 1
by().count(label, "3h") + 1
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from string import Formatter
from typing import Final, Literal

from topics.durations import Duration, duration_ms, duration_text
from topics.errors import DefinitionError
from topics.messages import FeatureValue

__all__ = [
    "LABEL",
    "Aggregate",
    "Arithmetic",
    "Constant",
    "Default",
    "Expression",
    "Field",
    "Key",
    "Kind",
    "LabelSource",
    "Lookup",
    "Negative",
    "TimePart",
    "by",
    "field",
    "label",
    "lookup",
]

Kind = Literal["count", "sum", "mean", "min", "max", "var", "std", "first", "last", "since_last", "rate"]
Operation = Literal["+", "-", "*", "/"]
KEY_FIELDS_MAX: Final = 8
"""Fields in one key: more is a key that never repeats."""


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _literal(value: FeatureValue) -> str:
    return _quote(value) if isinstance(value, str) else repr(value)


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
        return f"field({_quote(self.name)})"


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
        _check_value(self.value, f"{_inner(self.of)}.default({self.value!r})")

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
        return f"lookup({_quote(self.template)}, {_quote(self.name)}{default})"

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
        >>> lookup("merchant:{merchant_id}", "risk").store_key(SimpleNamespace(merchant_id=7))
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

    `of` is a field's name, LABEL, or None where no value is needed.
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
        source = _quote(self.of) if isinstance(self.of, str) else repr(self.of)
        of = "" if self.of is None else f"{source}, "
        current = "" if self.include_current else ", include_current=False"
        keys = ", ".join(map(_quote, self.keys))
        return f'by({keys}).{self.kind}({of}"{duration_text(self.window_ms)}"{current})'


LABEL: Final = LabelSource()
label: Final = LABEL
"""In place of a field's name: the labels that have arrived."""

_Source = str | Field | LabelSource


@dataclass(frozen=True, slots=True)
class Key:
    """What events are grouped by.  Every method is one aggregate over a window ending at the event.

    `of` is a field's name or `label`; `window` is a duration such as `"1h"`;
    `include_current=False` leaves the event itself out.
    """

    fields: tuple[str, ...]

    def count(
        self, of: _Source | Duration, window: Duration | None = None, *, include_current: bool = True
    ) -> Aggregate:
        """Return the number of events: `count("1h")`, or of labels: `count(label, "1h")`."""
        return self._counting("count", of, window, include_current)

    def rate(
        self, of: _Source | Duration, window: Duration | None = None, *, include_current: bool = True
    ) -> Aggregate:
        """Return events (or labels) per second of the window's width."""
        return self._counting("rate", of, window, include_current)

    def since_last(self, of: _Source | Duration, window: Duration | None = None) -> Aggregate:
        """Return the ms since the key's previous event (or latest label), if that is in the window."""
        return self._counting("since_last", of, window, include_current=True)

    def sum(self, of: _Source, window: Duration, *, include_current: bool = True) -> Aggregate:
        """Return the sum, 0.0 when empty."""
        return self._aggregate("sum", of, window, include_current)

    def mean(self, of: _Source, window: Duration, *, include_current: bool = True) -> Aggregate:
        """Return the mean, missing when empty."""
        return self._aggregate("mean", of, window, include_current)

    def min(self, of: _Source, window: Duration, *, include_current: bool = True) -> Aggregate:
        """Return the smallest value, missing when empty."""
        return self._aggregate("min", of, window, include_current)

    def max(self, of: _Source, window: Duration, *, include_current: bool = True) -> Aggregate:
        """Return the largest value, missing when empty."""
        return self._aggregate("max", of, window, include_current)

    def var(self, of: _Source, window: Duration, *, include_current: bool = True) -> Aggregate:
        """Return the variance with n - 1, 0.0 for one value (as River), missing when empty."""
        return self._aggregate("var", of, window, include_current)

    def std(self, of: _Source, window: Duration, *, include_current: bool = True) -> Aggregate:
        """Return the square root of `var`."""
        return self._aggregate("std", of, window, include_current)

    def first(self, of: _Source, window: Duration, *, include_current: bool = True) -> Aggregate:
        """Return the oldest value, missing when empty."""
        return self._aggregate("first", of, window, include_current)

    def last(self, of: _Source, window: Duration, *, include_current: bool = True) -> Aggregate:
        """Return the newest value, missing when empty."""
        return self._aggregate("last", of, window, include_current)

    def _counting(
        self, kind: Kind, of: _Source | Duration, window: Duration | None, include_current: bool
    ) -> Aggregate:
        """Build what needs no value: of one argument it is the window; of two, only `label` matters."""
        if window is None:
            if not isinstance(of, str | int):
                raise DefinitionError(f"{kind}({of!r}) has no window", hint=f'write {kind}({of!r}, "1h")')
            return self._aggregate(kind, None, of, include_current)
        source = of if isinstance(of, LabelSource) else _source_name(kind, of)
        return self._aggregate(kind, source, window, include_current)

    def _aggregate(
        self, kind: Kind, of: _Source | None, window: Duration, include_current: bool
    ) -> Aggregate:
        try:
            window_ms = duration_ms(window)
        except DefinitionError as error:
            raise DefinitionError(f"{self!r}.{kind}: {error.message}", hint=error.hint) from None
        if window_ms == 0:
            raise DefinitionError(
                f"{self!r}.{kind}: a window of zero width is empty", hint='give it a width, such as "1h"'
            )
        if of is not None and not isinstance(of, LabelSource):
            of = _source_name(kind, of)
        return Aggregate(kind, self.fields, of, window_ms, include_current)

    def __repr__(self) -> str:
        return f"by({', '.join(map(_quote, self.fields))})"


def _source_name(kind: Kind, of: object) -> str:
    """Return the name of the field to aggregate."""
    if isinstance(of, Field):
        return of.name
    if isinstance(of, str):
        return of
    raise DefinitionError(
        f"{kind} of {of!r}: only a field or `label` can be aggregated",
        hint=f'write the field\'s name, as in {kind}("amount", "1h")',
    )


def _check_value(value: object, place: str) -> None:
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


def field(name: str) -> Field:
    """Return a field of the event."""
    return Field(name)


def by(*fields: str) -> Key:
    """Return what events are grouped by; without a field all events share one key.

    Raises DefinitionError for what is no name, for repeated names and for more than KEY_FIELDS_MAX.
    """
    text = f"by({', '.join(map(repr, fields))})"
    if not all(type(name) is str and name for name in fields):
        raise DefinitionError(f"{text}: keys are named by text", hint='write by("card")')
    if len(set(fields)) < len(fields) or len(fields) > KEY_FIELDS_MAX:
        raise DefinitionError(f"{text}: repeated or too many fields", hint="name each field once, 8 at most")
    return Key(fields)


def lookup(template: str, name: str, default: FeatureValue | None = None) -> Lookup:
    """Return a static feature: field `name` of the stored hash whose key `template` gives.

    The engine resolves it per batch from Redis or SQLite.

    >>> lookup("merchant:{merchant_id}", "risk", default=0.0).key_fields
    ('merchant_id',)

    Raises DefinitionError if the template names no field of the event or holds more than names.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise DefinitionError(
            f"lookup({template!r}): {error}", hint='write a key such as "merchant:{merchant_id}"'
        ) from None
    names = [(part, spec, turn) for _, part, spec, turn in parts if part is not None]
    if not names or any(not part.isidentifier() or spec or turn for part, spec, turn in names):
        raise DefinitionError(
            f"lookup({template!r}): the key must name fields of the event in braces, and nothing else there",
            hint='write a key such as "merchant:{merchant_id}"',
        )
    if default is not None:
        _check_value(default, f"lookup({template!r})")
    return Lookup(template, name, default)
