"""The feature language: what a feature is made of, said as immutable values.

Lives here: the words a user's file is written with, and what they refuse at once; the nodes
they build (`nodes.py`) are theirs too.  Never here: types of fields (`plan.py` checks them),
values of events, memory.

>>> by("card").mean("amount", "60m").default(0.0)
by("card").mean("amount", "1h").default(0.0)
>>> field("amount") / by("card", "merchant").max("amount", "7d", include_current=False)
field("amount") / by("card", "merchant").max("amount", "7d", include_current=False)
>>> by().count(label, "3h") + 1
by().count(label, "3h") + 1
"""

from __future__ import annotations

from dataclasses import dataclass
from string import Formatter
from typing import Final

from operators.nodes import (
    Aggregate,
    Arithmetic,
    Constant,
    Default,
    Expression,
    Field,
    Kind,
    LabelSource,
    Lookup,
    Negative,
    TimePart,
    check_value,
    quote,
)
from topics.durations import Duration, duration_ms
from topics.errors import DefinitionError
from topics.messages import FeatureValue

__all__ = [
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

KEY_FIELDS_MAX: Final = 8
"""Fields in one key: more is a key that never repeats."""

label: Final = LabelSource()
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
        return self._aggregate(kind, of, window, include_current)

    def _aggregate(
        self, kind: Kind, of: _Source | Duration | None, window: Duration, include_current: bool
    ) -> Aggregate:
        try:
            window_ms = duration_ms(window)
        except DefinitionError as error:
            raise DefinitionError(f"{self!r}.{kind}: {error.message}", hint=error.hint) from None
        if window_ms == 0:
            raise DefinitionError(
                f"{self!r}.{kind}: a window of zero width is empty", hint='give it a width, such as "1h"'
            )
        source = of if of is None or isinstance(of, LabelSource) else _source_name(kind, of)
        return Aggregate(kind, self.fields, source, window_ms, include_current)

    def __repr__(self) -> str:
        return f"by({', '.join(map(quote, self.fields))})"


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
        check_value(default, f"lookup({template!r})")
    return Lookup(template, name, default)
