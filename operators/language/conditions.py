"""Conditions on one event's own fields: what `where=` takes, said as immutable values.

Lives here: what a condition is and how it reads.  Never here: expressions (`fields.py` compares
them), how a condition is decided (`operators/windows/evaluate.py`).

Conditions have three values, as in SQL: a comparison with a missing value is unknown, and so is
its negation; an event enters a window only where the condition is known to be met.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NoReturn, Protocol

from topics.errors import DefinitionError

__all__ = [
    "RELATIONS",
    "Both",
    "Comparison",
    "Condition",
    "Either",
    "IsMissing",
    "Not",
    "Operand",
    "Relation",
    "any_of",
    "inner_text",
    "leaves_of",
]

Relation = Literal["==", "!=", "<", "<=", ">", ">=", "equals"]
"""`equals` is `==` between two expressions."""
RELATIONS: Final[Mapping[Relation, Callable[[Any, Any], bool]]] = {
    "==": operator.eq,
    "equals": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
"""The function of two values for each relation."""


class Operand(Protocol):
    """What is compared: an expression."""

    @property
    def is_compound(self) -> bool:
        """Return whether it needs parentheses as a part of a larger expression."""
        ...


class Condition:
    """A statement about an event that is true, false or unknown."""

    __slots__ = ()

    def __and__(self, other: Condition) -> Both:
        return Both(self, _checked(other))

    def __or__(self, other: Condition) -> Either:
        return Either(self, _checked(other))

    def __invert__(self) -> Not:
        return Not(self)

    def __bool__(self) -> NoReturn:
        raise DefinitionError(
            f"{self!r} is not true or false before there is an event",
            hint="join conditions with & | ~ and parentheses, not with and, or, not, or chains (1 < a < 2)",
        )


@dataclass(frozen=True, slots=True)
class Comparison(Condition):
    """Two values compared; unknown where one is missing."""

    relation: Relation
    left: Operand
    right: Operand

    def __repr__(self) -> str:
        if self.relation == "equals":
            return f"{inner_text(self.left)}.equals({self.right!r})"
        return f"{inner_text(self.left)} {self.relation} {inner_text(self.right)}"


@dataclass(frozen=True, slots=True)
class IsMissing(Condition):
    """A value that is not there; never unknown."""

    of: Operand

    def __repr__(self) -> str:
        return f"{inner_text(self.of)}.is_missing()"


@dataclass(frozen=True, slots=True)
class Both(Condition):
    """Two conditions, both met."""

    left: Condition
    right: Condition

    def __repr__(self) -> str:
        return f"{_clause(self.left)} & {_clause(self.right)}"


@dataclass(frozen=True, slots=True)
class Either(Condition):
    """Two conditions, one or both met."""

    left: Condition
    right: Condition

    def __repr__(self) -> str:
        return f"{_clause(self.left)} | {_clause(self.right)}"


@dataclass(frozen=True, slots=True)
class Not(Condition):
    """A condition that is known not to be met."""

    of: Condition

    def __repr__(self) -> str:
        return f"~{_clause(self.of)}"


def any_of(conditions: Sequence[Condition]) -> Condition:
    """Return the condition that one or more of `conditions`, at least one, are met."""
    joined = conditions[0]
    for condition in conditions[1:]:
        joined |= condition
    return joined


def leaves_of(condition: Condition) -> Iterator[Comparison | IsMissing]:
    """Return the comparisons, and the looks for what is missing, that a condition is made of."""
    match condition:
        case Comparison() | IsMissing():
            yield condition
        case Both(left, right) | Either(left, right):
            yield from leaves_of(left)
            yield from leaves_of(right)
        case Not(of):
            yield from leaves_of(of)


def inner_text(of: Operand) -> str:
    """Return the text of `of` as a part of a larger expression."""
    return f"({of!r})" if of.is_compound else repr(of)


def _clause(of: Condition) -> str:
    """Return the text of `of` as a part of a larger condition."""
    return repr(of) if isinstance(of, IsMissing | Not) else f"({of!r})"


def _checked(value: object) -> Condition:
    if not isinstance(value, Condition):
        raise DefinitionError(
            f"{value!r} is no condition", hint='compare a field, as in (field("amount") > 100) & ...'
        )
    return value
