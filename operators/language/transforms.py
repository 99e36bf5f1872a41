"""Transforms of several expressions: crosses, the first that is there, conditions as features, functions.

Lives here: the words `cross`, `coalesce`, `indicator` and `apply`, their nodes, and what they refuse at once.
Never here: transforms of one expression (`expressions.py`), types (`types.py`), values of events
(`operators/windows/evaluate.py`).

>>> from operators import field
>>> cross(field("origin"), field("carrier")).hashed(512)
cross(field("origin"), field("carrier")).hashed(512)
>>> indicator((field("amount") > 100) & ~field("merchant").is_missing())
indicator((field("amount") > 100) & ~field("merchant").is_missing())
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType
from typing import Final

from operators.language.conditions import Condition
from operators.language.expressions import Expression, quote
from operators.language.fields import Feature
from topics.errors import DefinitionError

__all__ = ["Apply", "Coalesce", "Cross", "Indicator", "apply", "coalesce", "cross", "indicator"]

INPUTS_MAX: Final = 16
"""Expressions that one transform takes: it stands in a definition."""

Returned = type[float] | type[int] | type[bool] | type[str]


@dataclass(frozen=True, slots=True, eq=False)
class Cross(Expression):
    """Several categories as one; missing if any is."""

    inputs: tuple[Expression, ...]

    def __repr__(self) -> str:
        return f"cross({_listed(self.inputs)})"


@dataclass(frozen=True, slots=True, eq=False)
class Coalesce(Expression):
    """The first of several values that is not missing."""

    inputs: tuple[Expression, ...]

    def __repr__(self) -> str:
        return f"coalesce({_listed(self.inputs)})"


@dataclass(frozen=True, slots=True, eq=False)
class Indicator(Expression):
    """Whether a condition is met: True, False, or missing where that is unknown."""

    condition: Condition

    def __repr__(self) -> str:
        return f"indicator({self.condition!r})"


@dataclass(frozen=True, slots=True, eq=False)
class Apply(Expression):
    """What a function of the user's makes of several values; it is its name and version to all but Python."""

    function: Callable[..., object]
    inputs: tuple[Expression, ...]
    returns: Returned
    version: int

    @property
    def name(self) -> str:
        """Return the function's module and name."""
        return f"{self.function.__module__}:{self.function.__qualname__}"

    def _parts(self) -> tuple[object, ...]:
        return (self.name, self.inputs, self.returns, self.version)

    def __repr__(self) -> str:
        returns = f"returns={self.returns.__name__}, version={self.version}"
        return f"apply({', '.join([self.name, *map(repr, self.inputs)])}, {returns})"


def cross(*inputs: Expression | str) -> Cross:
    """Return the categories of two expressions or more as one text; names alone mean features, for slices.

    It is their texts joined by "×", with a backslash before any that they hold themselves, so that different
    pairs never make the same text.  Missing if any of them is.

    >>> from operators import field
    >>> cross(field("origin"), field("hour"))
    cross(field("origin"), field("hour"))
    """
    if all(isinstance(one, str) for one in inputs):
        inputs = tuple(Feature(str(one)) for one in inputs)
    return Cross(_checked("cross", inputs))


def coalesce(*inputs: Expression) -> Coalesce:
    """Return the first of two expressions or more that is not missing; a constant goes to `.default`.

    >>> from operators import by, field
    >>> coalesce(by("card").mean("amount", "1h"), by().mean("amount", "1h")).default(0.0)
    coalesce(by("card").mean("amount", "1h"), by().mean("amount", "1h")).default(0.0)
    """
    return Coalesce(_checked("coalesce", inputs))


def indicator(condition: Condition) -> Indicator:
    """Return a condition as a feature: True, False, or missing where it is unknown.

    Unlike those of `where=` it may look at windows and lookups.

    >>> from operators import by
    >>> indicator(by("card").mean("amount", "1h").is_missing())
    indicator(by("card").mean("amount", "1h").is_missing())
    """
    if not isinstance(condition, Condition):
        raise DefinitionError(
            f"indicator({condition!r}): no condition",
            hint='compare, as in indicator(field("amount") > 100), or indicator(field("shop").is_missing())',
        )
    return Indicator(condition)


def apply(function: Callable[..., object], *inputs: Expression, returns: Returned, version: int = 1) -> Apply:
    """Return what `function` makes of the values of `inputs`, in their order.

    The function must be pure: the same values give the same result, today and in a replay.  What it does is
    known by its module, its name and `version`: raise that whenever results change.  It is called only where
    no input is missing.  A result of None is missing; an exception, a result of another type than `returns`,
    or a number that is not finite is missing and counted.

    >>> from math import hypot
    >>> from operators import field
    >>> apply(hypot, field("x"), field("y"), returns=float, version=2)
    apply(math:hypot, field("x"), field("y"), returns=float, version=2)

    Raises DefinitionError for a function without a name of its own (a lambda, a function inside a function),
    for coroutines, and for inputs that it does not take.
    """
    place = f"apply({getattr(function, '__qualname__', repr(function))})"
    module = getattr(function, "__module__", None)
    if not isinstance(function, FunctionType | BuiltinFunctionType) or not isinstance(module, str):
        raise DefinitionError(f"{place}: no plain function", hint="define one with def in a module")
    if "<" in function.__qualname__:
        raise DefinitionError(
            f"{place} has no name that it could be known by",
            hint="define it with def at the top of a module, and give it in place of a lambda",
        )
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise DefinitionError(f"{place}: features do not wait", hint="use a plain function, or lookup(...)")
    if returns not in (float, int, bool, str):
        raise DefinitionError(f"{place}: returns={returns!r}", hint="give float, int, bool or str")
    if type(version) is not int or version < 1:
        raise DefinitionError(f"{place}: version {version!r}", hint="give a number of 1 or more")
    _checked(place, inputs, least=1)
    try:
        inspect.signature(function).bind(*inputs)
    except TypeError as error:
        raise DefinitionError(
            f"{place} does not take {len(inputs)} inputs: {error}", hint="name one expression per argument"
        ) from None
    except ValueError:  # builtins that have no signature
        pass
    return Apply(function, inputs, returns, version)


def _checked(place: str, inputs: tuple[object, ...], least: int = 2) -> tuple[Expression, ...]:
    expressions = tuple(one for one in inputs if isinstance(one, Expression))
    if len(expressions) < len(inputs):
        wrong = next(one for one in inputs if not isinstance(one, Expression))
        fix = f"field({quote(wrong)})" if isinstance(wrong, str) else 'expressions such as field("amount")'
        raise DefinitionError(
            f"{place}: {wrong!r} is no expression",
            hint=f"write {fix}; a constant in place of a missing value is .default(...)",
        )
    if not least <= len(inputs) <= INPUTS_MAX:
        raise DefinitionError(
            f"{place} of {len(inputs)} expressions", hint=f"give {least} to {INPUTS_MAX} of them"
        )
    return expressions


def _listed(inputs: tuple[Expression, ...]) -> str:
    return ", ".join(map(repr, inputs))
