"""A position at which something is shown: models learn where it was, and are asked as if it were elsewhere.

Lives here: the word `position`, its node, where it may stand.  Never here: scoring (`operators/models`).

What stands at the top is clicked for standing there.  A model that learns the true position knows how much of
a click is due to it; one that is asked about every item at one and the same position leaves that out (the
positional feature of M. Zinkevich, "Rules of Machine Learning", rule 36).

    the event, the log, examples     the position as it was
    every score                      `serve` in its place, also where the event has none
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from operators.language.expressions import Expression, check_value, literal, quote
from operators.language.fields import nodes
from topics.errors import DefinitionError
from topics.messages import FeatureValue

__all__ = ["Positional", "constants_of", "position"]


@dataclass(frozen=True, slots=True, eq=False)
class Positional(Expression):
    """A field that is learned as it is, and scored as `serve`."""

    name: str
    serve: FeatureValue

    def __repr__(self) -> str:
        return f"position({quote(self.name)}, serve={literal(self.serve)})"


def position(name: str, *, serve: FeatureValue) -> Positional:
    """Return the field `name` as a feature that models learn as it is and that every score takes for `serve`.

    >>> position("rank", serve=0)
    position("rank", serve=0)

    Raises DefinitionError for a name that is no text, and a constant that is no value of a feature.
    """
    if not isinstance(name, str):
        raise DefinitionError(f"position of {name!r}", hint='name a field: position("rank", serve=0)')
    check_value(serve, f"position({quote(name)}): serve={serve!r}")
    return Positional(name, serve)


def constants_of(features: Mapping[str, Expression]) -> dict[str, FeatureValue]:
    """Return the features that every score takes for a constant, and the constants.

    Raises DefinitionError for a position that is a part of something else: what is made of it would be
    learned and scored from two values, which nobody could tell from the log.
    """
    constants: dict[str, FeatureValue] = {}
    for name, expression in features.items():
        if isinstance(expression, Positional):
            constants[name] = expression.serve
        elif inner := [part for part in nodes(expression) if isinstance(part, Positional)]:
            raise DefinitionError(
                f"feature {name!r}: {inner[0]!r} is a part of {expression!r}",
                hint=f"let it be a feature by itself: {inner[0].name}={inner[0]!r}",
            )
    return constants
