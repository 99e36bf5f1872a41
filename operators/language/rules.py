"""Rules for fields and features: what a definition says of valid values, and what it refuses.

Lives here: `Rule` as users write it, and what it refuses at once.  Never here: types (`check.py` checks
them), values of events (`apply.py`), what has been seen (`novelty.py`), alerts (`alerts.py`).

A rule says what must hold; it is broken where that is known not to hold.  As in SQL's CHECK, a missing
value breaks no rule but `required`.

>>> from operators import field
>>> Rule(field("amount"), between=(0, 10_000), action="clip")
Rule(field("amount"), between=(0, 10000), action="clip")
>>> Rule(field("paid") <= field("amount"), action="flag").name
'paid <= amount'
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from math import isfinite
from typing import Any, Final, Literal, get_args

from operators.language.conditions import Comparison, Condition
from operators.language.expressions import Expression, check_value, quote
from operators.language.fields import Feature, Field, nodes
from topics.codec import TEXT_MAX
from topics.errors import DefinitionError
from topics.messages import FeatureValue

__all__ = ["Action", "Rule"]

Action = Literal["dead_letter", "clip", "null", "flag"]

_CHECKS: Final = ("between", "one_of", "matches", "required")
_NAME_OF: Final = re.compile(r'(?:field|feature)\("([^"]*)"\)')


@dataclass(frozen=True, eq=False)
class Rule:
    """What must hold of a field, a feature, or between several; and what is done where it does not.

    Exactly one of `between`, `one_of`, `matches` and `required`; or a condition in place of the field:
    `Rule(field("paid") <= field("amount"), ...)`.  Raises DefinitionError for what cannot be meant.

    `of`
        The field, the feature or the condition.
    `action`
        `"dead_letter"` (the event is refused; for fields only), `"clip"` (to the nearest bound of
        `between`), `"null"` (the value becomes missing; of a condition, its left side) or `"flag"` (the
        prediction carries the rule's name).
    `between`
        `(low, high)`, both included, None for open.
    `one_of`
        The values that are allowed.
    `matches`
        A regular expression found anywhere in the text, as in msgspec's `pattern`: anchor it with ^ and $.
    `required`
        Whether the value must be there.
    `name`
        What metrics, flags and dead letters call it; made from the check where it is left out.
    """

    of: Field | Feature | Condition
    _: KW_ONLY
    action: Action
    between: tuple[float | None, float | None] | None = None
    one_of: Sequence[FeatureValue] | None = None
    matches: str | None = None
    required: bool = False
    name: str = ""

    def __post_init__(self) -> None:
        """Check what needs no event type."""
        if not isinstance(self.of, Field | Feature | Condition):
            raise DefinitionError(
                f"a rule cannot be about {self.of!r}",
                hint='write Rule(field("amount"), between=(0, 100), action="flag"), or a condition such as '
                'field("a") <= field("b"); two fields that must be equal: field("a").equals(field("b"))',
            )
        if not self.name:
            object.__setattr__(self, "name", self._made_name()[:TEXT_MAX])
        if len(self.name) > TEXT_MAX:
            raise DefinitionError(f"rule name {self.name!r}", hint=f"give text of 1 to {TEXT_MAX} characters")
        if self.action not in get_args(Action):
            raise DefinitionError(
                f"{self.place}: there is no action {self.action!r}",
                hint=f"use one of {', '.join(get_args(Action))}",
            )
        given = [check for check in _CHECKS if getattr(self, check) not in (None, False)]
        if isinstance(self.of, Condition):
            if given:
                raise DefinitionError(
                    f"{self.place}: a condition and {given[0]}", hint="make two rules of them"
                )
        elif len(given) != 1:
            raise DefinitionError(
                f"{self.place}: {' and '.join(given) or 'nothing'} to check",
                hint=f"give exactly one of {', '.join(_CHECKS)}; more checks are more rules",
            )
        self._check_values()
        self._check_action()

    @property
    def place(self) -> str:
        """Return the name of the rule as messages show it."""
        return f"rule `{self.name}`"

    @property
    def check(self) -> str:
        """Return the name of the check: `between`, `one_of`, `matches`, `required` or `condition`."""
        if isinstance(self.of, Condition):
            return "condition"
        return next(check for check in _CHECKS if getattr(self, check) not in (None, False))

    @property
    def target(self) -> Field | Feature | None:
        """Return the field or feature that `clip` and `null` change: of a condition its left side."""
        of: object = self.of
        if isinstance(of, Comparison):
            of = of.left
        return of if isinstance(of, Field | Feature) else None

    @property
    def on_features(self) -> bool:
        """Return whether it is about features, not fields."""
        return any(isinstance(part, Feature) for part in self.parts())

    def parts(self) -> Iterator[Expression]:
        """Return all expressions that the rule reads."""
        return nodes(self.of)

    @property
    def demand(self) -> str:
        """Return the condition of the rule as text, as it stands in a definition."""
        if isinstance(self.of, Condition):
            return repr(self.of)
        value = getattr(self, self.check)
        shown = tuple(value) if self.check == "one_of" else value
        return f"{self.of!r}, {self.check}={quote(shown) if isinstance(shown, str) else shown!r}"

    def _made_name(self) -> str:
        if isinstance(self.of, Condition):
            return _NAME_OF.sub(r"\1", repr(self.of))
        check = next((check for check in _CHECKS if getattr(self, check) not in (None, False)), "")
        return f"{'feature.' * isinstance(self.of, Feature)}{self.of.name}.{check}"

    def _check_values(self) -> None:
        if self.between is not None:
            self._check_range(self.between)
        if self.one_of is not None:
            if isinstance(self.one_of, str) or not self.one_of:
                raise DefinitionError(
                    f"{self.place}: one_of={self.one_of!r}", hint='list the values, as in one_of=("DE", "FR")'
                )
            object.__setattr__(self, "one_of", tuple(self.one_of))
            for value in self.one_of:
                check_value(value, self.place)
        if self.matches is not None:
            try:
                re.compile(self.matches)
            except (re.error, TypeError) as error:
                raise DefinitionError(
                    f"{self.place}: {self.matches!r} is no regular expression: {error}",
                    hint=r'write it as Python does, as in matches=r"^c-\d+$"',
                ) from None

    def _check_range(self, between: Any) -> None:
        if not isinstance(between, tuple | list) or len(between) != 2:
            raise DefinitionError(
                f"{self.place}: between={between!r}", hint="give (low, high), None for open"
            )
        bounds = [bound for bound in between if bound is not None]
        for bound in bounds:
            if type(bound) not in {int, float} or not isfinite(bound):
                raise DefinitionError(f"{self.place}: bound {bound!r}", hint="give finite numbers, or None")
        if not bounds or (len(bounds) == 2 and bounds[0] > bounds[1]):
            wrong = "no range" if not bounds else "an empty range"
            raise DefinitionError(
                f"{self.place}: {wrong}, {tuple(between)!r}", hint="give (low, high) with low <= high"
            )
        object.__setattr__(self, "between", tuple(between))

    def _check_action(self) -> None:
        if self.action == "clip" and self.between is None:
            raise DefinitionError(
                f"{self.place}: only a number outside a range can be clipped",
                hint='give between=(low, high), or use action="null" or "flag"',
            )
        if self.action == "null" and (self.required or self.target is None):
            wrong = "a missing value" if self.required else repr(self.of)
            raise DefinitionError(
                f"{self.place}: null makes a value missing; {wrong} names none",
                hint='use action="flag", or one comparison whose left side is the field',
            )
        if self.on_features:
            self._check_feature_rule()

    def _check_feature_rule(self) -> None:
        if any(isinstance(part, Field) for part in self.parts()):
            raise DefinitionError(
                f"{self.place}: fields are checked before there are features",
                hint='define the field as a feature too, and compare feature("...") with feature("...")',
            )
        if self.action == "dead_letter":
            raise DefinitionError(
                f"{self.place}: an event whose features look odd is a valid event and gets its answer",
                hint='use clip, null or flag; refuse events by rules on field("...")',
            )

    def __repr__(self) -> str:
        name = "" if self.name == self._made_name() else f", name={quote(self.name)}"
        return f"Rule({self.demand}, action={quote(self.action)}{name})"
