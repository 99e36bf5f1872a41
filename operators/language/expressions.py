"""What can be done with any expression, and the nodes that it makes: frozen values whose repr is their text.

Lives here: the base of all expressions, arithmetic, and transforms of one value.  Never here: what has a
value by itself (`fields.py`), transforms of several expressions (`transforms.py`), values of events.

Equal meaning must give equal text: it is shown by `headrace check` and digested into checkpoints.

>>> from operators import field
>>> (1 + field("amount").clip(0, None).log1p()) * field("time").hour().cyclic_sin(24)
(1 + field("amount").clip(0, None).log1p()) * field("time").hour().cyclic_sin(24)
>>> field("merchant").hashed(1_000), field("age").bucket([18, 30.0, 65])
(field("merchant").hashed(1000), field("age").bucket([18, 30, 65]))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from math import isfinite
from typing import Any, Final, Literal

from operators.language.conditions import Comparison, Condition, IsMissing, any_of, inner_text
from topics.errors import DefinitionError
from topics.messages import FeatureValue

__all__ = [
    "Arithmetic",
    "Bucket",
    "Clip",
    "Constant",
    "Cyclic",
    "Default",
    "Described",
    "Expression",
    "Hashed",
    "Math",
    "Negative",
    "Transform",
    "check_value",
    "literal",
    "quote",
]

Operation = Literal["+", "-", "*", "/"]

BUCKETS_MAX: Final = 1 << 24
"""Buckets of a hash: models keep weights for each, and more would hardly collide less."""
BOUNDARIES_MAX: Final = 1_000
"""Boundaries of a bucketing: it stands in a definition."""


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

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        return f"<code>{escape(repr(self))}</code>"

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

    def log(self) -> Math:
        """Return the natural logarithm; missing at zero and below."""
        return Math("log", self)

    def log1p(self) -> Math:
        """Return the natural logarithm of 1 + this, for counts; missing at -1 and below."""
        return Math("log1p", self)

    def sqrt(self) -> Math:
        """Return the square root; missing below zero."""
        return Math("sqrt", self)

    def abs(self) -> Math:
        """Return the distance from zero."""
        return Math("abs", self)

    def clip(self, low: float | None, high: float | None) -> Clip:
        """Return this, not below `low` and not above `high`; None is no bound."""
        return Clip(self, low, high)

    def bucket(self, boundaries: Sequence[float]) -> Bucket:
        """Return how many of the increasing `boundaries` are at or below this, as an int.

        `bucket([0, 10])` is 0 below 0, 1 in [0, 10), 2 from 10 on.
        """
        return Bucket(self, tuple(boundaries))

    def cyclic_sin(self, period: float) -> Cyclic:
        """Return the sine of this as a part of `period`: beside `cyclic_cos`, 23 h is near 0 h."""
        return Cyclic("sin", self, period)

    def cyclic_cos(self, period: float) -> Cyclic:
        """Return the cosine of this as a part of `period`."""
        return Cyclic("cos", self, period)

    def hashed(self, buckets: int) -> Hashed:
        """Return one of `buckets` names, "0", "1", ..., for a text or whole number, seen before or not.

        Text, so that models take it for a category.  The same in every process and version.  Of n values
        about one in `buckets / n` shares its bucket with another, which a model cannot tell from it.
        """
        return Hashed(self, buckets)

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
    """An expression and what a person says of it; it reads like the expression alone."""

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
class Math(Expression):
    """A function of one number; missing where it has no finite value."""

    function: Literal["log", "log1p", "sqrt", "abs"]
    of: Expression

    def __repr__(self) -> str:
        return f"{inner_text(self.of)}.{self.function}()"


@dataclass(frozen=True, slots=True, eq=False)
class Clip(Expression):
    """A number within bounds."""

    of: Expression
    low: float | None
    high: float | None

    def __post_init__(self) -> None:
        given = [bound for bound in (self.low, self.high) if bound is not None]
        if not given or not all(map(_is_number, given)) or given[0] > given[-1]:
            raise DefinitionError(
                f"{self!r}: bounds of what?",
                hint="give finite numbers, the lower first; None is no bound, as in clip(0, None)",
            )

    def __repr__(self) -> str:
        return f"{inner_text(self.of)}.clip({self.low!r}, {self.high!r})"


@dataclass(frozen=True, slots=True, eq=False)
class Bucket(Expression):
    """How many boundaries are at or below a number."""

    of: Expression
    boundaries: tuple[float, ...]

    def __post_init__(self) -> None:
        given = self.boundaries
        rising = all(map(_is_number, given)) and all(a < b for a, b in pairwise(given))
        if not rising or not 1 <= len(given) <= BOUNDARIES_MAX:
            raise DefinitionError(
                f"{inner_text(self.of)}.bucket: {len(given)} boundaries, not all finite and increasing",
                hint=f"give 1 to {BOUNDARIES_MAX:,} increasing numbers, as in bucket([0, 10, 100])",
            )
        object.__setattr__(self, "boundaries", tuple(map(_plain, given)))

    def __repr__(self) -> str:
        return f"{inner_text(self.of)}.bucket([{', '.join(map(repr, self.boundaries))}])"


@dataclass(frozen=True, slots=True, eq=False)
class Cyclic(Expression):
    """A place on a circle, by one of its two coordinates."""

    function: Literal["sin", "cos"]
    of: Expression
    period: float

    def __post_init__(self) -> None:
        if not _is_number(self.period) or self.period <= 0:
            raise DefinitionError(
                f"{inner_text(self.of)}.cyclic_{self.function}: period {self.period!r}",
                hint="give how many there are in a round, as in hour().cyclic_sin(24)",
            )
        object.__setattr__(self, "period", _plain(self.period))

    def __repr__(self) -> str:
        return f"{inner_text(self.of)}.cyclic_{self.function}({self.period!r})"


@dataclass(frozen=True, slots=True, eq=False)
class Hashed(Expression):
    """A category's bucket."""

    of: Expression
    buckets: int

    def __post_init__(self) -> None:
        if type(self.buckets) is not int or not 2 <= self.buckets <= BUCKETS_MAX:
            raise DefinitionError(
                f"{inner_text(self.of)}.hashed: {self.buckets!r} buckets",
                hint=f"give 2 to {BUCKETS_MAX:,}, some times as many as there are frequent values",
            )

    def __repr__(self) -> str:
        return f"{inner_text(self.of)}.hashed({self.buckets})"


Transform = Math | Clip | Bucket | Cyclic | Hashed
"""What is made of one value alone."""


def quote(text: str) -> str:
    r"""Return `text` as it stands in a definition.

    >>> print(quote('a "b"'))
    "a \"b\""
    """
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def literal(value: FeatureValue) -> str:
    """Return a constant as it stands in a definition."""
    return quote(value) if isinstance(value, str) else repr(value)


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


def _compared(value: object) -> Expression:
    """Return the other side of a comparison."""
    if isinstance(value, Expression):
        return value
    check_value(value, f"a comparison with {value!r}")
    return Constant(value)  # type: ignore[arg-type]  # just checked


def _is_number(value: object) -> bool:
    return type(value) is int or (type(value) is float and isfinite(value))


def _plain(value: float) -> float:
    """Return a number that is only compared or divided by in its shorter form: 30, not 30.0."""
    return int(value) if value == int(value) else value
