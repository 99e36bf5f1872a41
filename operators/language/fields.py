"""The nodes that have a value by themselves, fields and windows: frozen values whose repr is their text.

Lives here: what such an expression is and how it reads, and the walks over all that one is made of.  Never
here: what can be done with any expression (`expressions.py`), the words that users write (`by.py`),
values of events.

Equal meaning must give equal text: it is shown by `headrace check` and digested into checkpoints.

>>> (Field("amount") - 1) / Lookup("merchant:{merchant}", "mean", fallback=10.0)
(field("amount") - 1) / lookup("merchant:{merchant}", "mean", default=10.0)
>>> -Field("time").hour().default(12)
-field("time").hour().default(12)
>>> (Field("amount") > 100) & ~(Field("kind") == "refund")
(field("amount") > 100) & ~(field("kind") == "refund")
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from string import Formatter
from typing import Any, Literal, NoReturn

from operators.language.conditions import Condition
from operators.language.expressions import (
    Described,
    Expression,
    literal,
    quote,
)
from operators.language.window_kinds import AggregateFunction, Span
from topics.durations import duration_text, offset_minutes, offset_text
from topics.errors import DefinitionError
from topics.messages import FeatureValue

__all__ = [
    "Aggregate",
    "Feature",
    "Field",
    "LabelSource",
    "LabelTerm",
    "Lookup",
    "TimePart",
    "inputs",
    "nodes",
    "parts",
    "reads_labels",
    "rewritten",
    "windows_of",
    "without_descriptions",
]

Part = Literal["minute", "hour", "weekday", "day", "month", "is_weekend"]


@dataclass(frozen=True, slots=True, eq=False)
class Field(Expression):
    """A field of the event as it came."""

    name: str

    def hour(self, *, utc_offset: str = "") -> TimePart:
        """Return the hour of the day, 0 to 23, of a time in ms or a datetime.

        Parts of a time are in UTC, or so far ahead of it as `utc_offset` says, such as "+05:30".
        """
        return self._part("hour", utc_offset)

    def minute(self, *, utc_offset: str = "") -> TimePart:
        """Return the minute of the hour, 0 to 59."""
        return self._part("minute", utc_offset)

    def weekday(self, *, utc_offset: str = "") -> TimePart:
        """Return the day of the week, Monday 0 to Sunday 6."""
        return self._part("weekday", utc_offset)

    def day(self, *, utc_offset: str = "") -> TimePart:
        """Return the day of the month, 1 to 31."""
        return self._part("day", utc_offset)

    def month(self, *, utc_offset: str = "") -> TimePart:
        """Return the month, 1 to 12."""
        return self._part("month", utc_offset)

    def is_weekend(self, *, utc_offset: str = "") -> TimePart:
        """Return whether it is Saturday or Sunday."""
        return self._part("is_weekend", utc_offset)

    def _part(self, part: Part, utc_offset: str) -> TimePart:
        return TimePart(part, self, offset_minutes(utc_offset) if utc_offset else 0)

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
    """Hour, weekday or another part of a time field."""

    part: Part
    of: Field
    offset_min: int = 0
    """Minutes that local time is ahead of UTC."""

    def __repr__(self) -> str:
        offset = f'utc_offset="{offset_text(self.offset_min)}"' if self.offset_min else ""
        return f"{self.of!r}.{self.part}({offset})"


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


@dataclass(frozen=True, slots=True, eq=False)
class LabelTerm(Expression):
    """The value of one label, in a condition that a window over labels takes as 1 or 0."""

    def __repr__(self) -> str:
        return "label"


@dataclass(frozen=True, slots=True, eq=False)
class LabelSource:
    """The sentinel `label`: labels as they arrived, in place of a field of the event.

    Compared with a class or a number it makes a condition: `indicator(label == "smurf")`.

    >>> LabelSource() == "smurf", LabelSource().is_in("smurf", "neptune")
    (label == "smurf", (label == "smurf") | (label == "neptune"))
    """

    def __eq__(self, other: object) -> Any:
        return True if isinstance(other, LabelSource) else LabelTerm() == other

    def __ne__(self, other: object) -> Any:
        return False if isinstance(other, LabelSource) else LabelTerm() != other

    def __hash__(self) -> int:
        return hash(LabelSource)

    def __lt__(self, other: float) -> Condition:
        return LabelTerm() < other

    def __le__(self, other: float) -> Condition:
        return LabelTerm() <= other

    def __gt__(self, other: float) -> Condition:
        return LabelTerm() > other

    def __ge__(self, other: float) -> Condition:
        return LabelTerm() >= other

    def equals(self, value: FeatureValue) -> Condition:
        """Return the condition that a label is `value`."""
        return LabelTerm().equals(value)

    def is_in(self, *values: FeatureValue) -> Condition:
        """Return the condition that a label is one of `values`, at least one."""
        return LabelTerm().is_in(*values)

    def _refuse(self, _: object) -> NoReturn:
        raise DefinitionError(
            "label is no number of the event: it is not calculated with",
            hint='calculate with its windows: by("card").mean(label, "1h") * 2',
        )

    __add__ = __sub__ = __mul__ = __truediv__ = _refuse
    __radd__ = __rsub__ = __rmul__ = __rtruediv__ = _refuse

    def __repr__(self) -> str:
        return "label"


@dataclass(frozen=True, slots=True, eq=False)
class Aggregate(Expression):
    """One number about the events (or labels) of one key within `(t - window, t]`, or within a `span`.

    `of` is a field's name, what is calculated from the event's fields, `label`, or None where no value is
    needed; `argument` is what the function needs besides: the share of a quantile, the rank of a mode, what
    `arg_max` looks at.
    """

    function: AggregateFunction
    keys: tuple[str, ...]
    of: str | Expression | LabelSource | None
    window_ms: int
    include_current: bool = True
    where: Condition | None = None
    shift_ms: int = 0
    span: Span | None = None
    """The window, where it is no sliding one."""
    argument: float | str | Expression | None = None
    column: str | None = field(init=False)
    """The name of the column that it reads: a field's, or an expression's text; None for labels."""
    source: Literal["events", "labels"] = field(init=False)
    """Which log it reads."""

    def __post_init__(self) -> None:
        # Made once: kernels compare them for every aggregate and column.
        object.__setattr__(self, "column", _column_name(self.of))
        object.__setattr__(self, "source", "labels" if reads_labels(self.of) else "events")

    @property
    def by_column(self) -> str | None:
        """Return the name of the column whose extreme `arg_max` and `arg_min` look for."""
        return _column_name(self.argument)

    @property
    def number(self) -> float | None:
        """Return the share of a quantile, the rank of a mode."""
        return self.argument if isinstance(self.argument, int | float) else None

    @property
    def calculated(self) -> tuple[Expression, ...]:
        """Return what it reads that is no field of the event but calculated from some."""
        return tuple(part for part in (self.of, self.argument) if isinstance(part, Expression))

    @property
    def reach_ms(self) -> int:
        """Return how far before an event it looks."""
        return self.window_ms + self.shift_ms

    @property
    def is_valued(self) -> bool:
        """Return whether it is about values, not only about when there were events."""
        return self.function not in ("count", "rate", "since_last")

    @property
    def window_text(self) -> str:
        """Return the window as it stands in a definition."""
        return f'"{duration_text(self.window_ms)}"' if self.span is None else repr(self.span)

    def _parts(self) -> tuple[object, ...]:
        # Columns are kept under their texts: two that are written differently, as 1 and 1.0, are two.
        mine = Expression._parts(self)  # noqa: SLF001 - a class with slots has no super()
        texts = (repr(part) if isinstance(part, Expression) else part for part in mine)
        return tuple(LabelSource if isinstance(part, LabelSource) else part for part in texts)

    def __repr__(self) -> str:
        keys = ", ".join(map(quote, self.keys))
        parts = []
        if self.of is not None:
            parts.append(quote(self.of) if isinstance(self.of, str) else repr(self.of))
        if self.argument is not None and self.function != "mode":
            given = self.argument
            parts.append(repr(given) if isinstance(given, Expression) else literal(given))
        parts.append(self.window_text)
        if self.argument is not None and self.function == "mode":
            parts.append(f"rank={self.argument}")
        if not self.include_current:
            parts.append("include_current=False")
        if self.where is not None:
            parts.append(f"where={self.where!r}")
        if self.shift_ms:
            parts.append(f'shift="{duration_text(self.shift_ms)}"')
        return f"by({keys}).{self.function}({', '.join(parts)})"


def reads_labels(of: object) -> bool:
    """Return whether a window takes this from labels: they themselves, or a condition on them."""
    if isinstance(of, Expression):
        return any(isinstance(part, LabelTerm) for part in nodes(of))
    return isinstance(of, LabelSource)


def _column_name(of: object) -> str | None:
    """Return under which name a window keeps values; no field is called like an expression."""
    return of if isinstance(of, str) else repr(of) if isinstance(of, Expression) else None


def parts(of: Any) -> Iterator[Any]:
    """Return an expression or a condition, and all it is made of: expressions, conditions, spans."""
    yield of
    for one in inputs(of):
        yield from parts(one)


def inputs(of: Any) -> Iterator[Any]:
    """Return what an expression or a condition is made of at first hand."""
    for entry in fields(of):
        part = getattr(of, entry.name)
        yield from (one for one in (part if isinstance(part, tuple) else (part,)) if is_dataclass(one))


def nodes(of: Any) -> Iterator[Expression]:
    """Return the expressions among the parts of `of`, itself first if it is one."""
    return (part for part in parts(of) if isinstance(part, Expression))


def windows_of(of: Any) -> tuple[Aggregate, ...]:
    """Return the aggregates among the parts of `of`, each once, in their order."""
    return tuple(dict.fromkeys(part for part in parts(of) if isinstance(part, Aggregate)))


def without_descriptions(of: Any) -> Any:
    """Return an expression or a condition without `.describe(...)`, at every depth.

    >>> whole = (Field("amount").describe("in EUR") + 1).describe("sum", owner="risk")
    >>> without_descriptions(whole)
    field("amount") + 1
    """
    return rewritten(of, lambda part: without_descriptions(part.of) if isinstance(part, Described) else part)


def rewritten(of: Any, change: Callable[[Any], Any]) -> Any:
    """Return an expression or a condition with `change` applied to it, or else to its parts at every depth.

    `change` returns what stands in place of a part; a part that it returns itself is searched further.
    """
    new = change(of)
    if new is not of:
        return new
    if isinstance(of, tuple):
        parts_of = tuple(rewritten(part, change) for part in of)
        return parts_of if any(a is not b for a, b in zip(parts_of, of, strict=True)) else of
    if not is_dataclass(of) or isinstance(of, type):
        return of
    changed = {}
    for entry in fields(of):
        part = getattr(of, entry.name)
        if entry.init and (new := rewritten(part, change)) is not part:
            changed[entry.name] = new
    return replace(of, **changed) if changed else of
