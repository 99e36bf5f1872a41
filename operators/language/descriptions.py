"""Words about features: what a person says of them, apart from what they are.

Lives here: taking `.describe(...)` off expressions.  Never here: what an expression means (`plan.py`), the
catalogue (`catalogue.py`).

Words may stand anywhere: on a feature, or on an expression that several features are made of.  A feature
has the outermost ones; `.default(...)` may come before or after them.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, Final, NamedTuple

from operators.language.fields import Default, Described, Expression
from topics.errors import DefinitionError

__all__ = ["Words", "bare", "words_of"]

TEXT_MAX: Final = 1_000
"""Characters of a description: it is one cell of a table."""
OWNER_MAX: Final = 200
"""Characters of an owner: a team, or an address."""


class Words(NamedTuple):
    """What a person says of a feature; empty where nothing was said."""

    description: str = ""
    owner: str = ""


def words_of(expression: Expression, place: str) -> Words:
    """Return the words of a feature; `place` names it.

    >>> from operators.language.by import by
    >>> words_of(by("card").mean("amount", "1h").describe("spent lately", owner="risk").default(0.0), "")
    Words(description='spent lately', owner='risk')

    Raises DefinitionError for what is no text or too long.
    """
    of = expression
    while isinstance(of, Default):
        of = of.of
    if not isinstance(of, Described):
        return Words()
    given: tuple[tuple[str, object, int], ...] = (
        ("description", of.text, TEXT_MAX),
        ("owner", of.owner, OWNER_MAX),
    )
    for name, said, most in given:
        if not isinstance(said, str) or len(said) > most:
            raise DefinitionError(
                f"{place}: {name} {str(said)[:40]!r}", hint=f"give text of at most {most:,} characters"
            )
    return Words(of.text, of.owner)


def bare(expression: Any) -> Any:
    """Return an expression without words, all the way down.

    >>> from operators.language.by import by, field
    >>> bare(by("card").count("1h", where=field("amount").describe("in EUR") > 5).describe("n") + 1)
    by("card").count("1h", where=field("amount") > 5) + 1
    """
    if isinstance(expression, Described):
        return bare(expression.of)
    if isinstance(expression, tuple):
        found = tuple(map(bare, expression))
        return found if any(a is not b for a, b in zip(found, expression, strict=True)) else expression
    if not is_dataclass(expression) or isinstance(expression, type):
        return expression
    changed = {}
    for entry in fields(expression):
        part = getattr(expression, entry.name)
        if (found := bare(part)) is not part:
            changed[entry.name] = found
    return replace(expression, **changed) if changed else expression
