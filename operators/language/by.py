"""The feature language: what a feature is made of, said as immutable values.

Lives here: the words a user's file is written with, and what they refuse at once; the nodes
they build (`fields.py`) are theirs too.  Never here: types of fields (`plan.py` checks them),
values of events, memory.

>>> by("card").mean("amount", "60m").default(0.0)
by("card").mean("amount", "1h").default(0.0)
>>> field("amount") / by("card", "merchant").max("amount", "7d", include_current=False)
field("amount") / by("card", "merchant").max("amount", "7d", include_current=False)
>>> by().count(label, "3h") + 1
by().count(label, "3h") + 1
>>> by("card").quantile("amount", 0.9, "7d", where=(field("amount") > 10) & ~(field("kind") == "refund"))
by("card").quantile("amount", 0.9, "7d", where=(field("amount") > 10) & ~(field("kind") == "refund"))
>>> from operators.language.window_kinds import tiled
>>> by("shop").mean("amount", tiled("90d", step="1d")) - by("shop").mean("amount", "1h", shift="7d")
by("shop").mean("amount", tiled("90d", step="1d")) - by("shop").mean("amount", "1h", shift="7d")
>>> by("card").mean(field("amount").log(), "60m")
by("card").mean(field("amount").log(), "1h")
>>> from operators.language.transforms import indicator
>>> by("host").mean(indicator(label == "smurf"), "1h"), by("host").mode(label, "1h")
(by("host").mean(indicator(label == "smurf"), "1h"), by("host").mode(label, "1h"))
"""

from __future__ import annotations

from dataclasses import dataclass
from string import Formatter
from typing import Final, TypedDict, Unpack

from operators.language.conditions import Condition
from operators.language.expressions import (
    Expression,
    check_value,
    quote,
)
from operators.language.fields import (
    Aggregate,
    Feature,
    Field,
    LabelSource,
    Lookup,
    reads_labels,
    without_descriptions,
)
from operators.language.window_kinds import (
    AggregateFunction,
    Session,
    Span,
    functions_of,
)
from topics.durations import Duration, duration_ms
from topics.errors import DefinitionError
from topics.messages import FeatureValue

__all__ = ["Entering", "Key", "by", "feature", "field", "label", "lookup"]

KEY_FIELDS_MAX: Final = 8
"""Fields in one key: more is a key that never repeats."""

label: Final = LabelSource()
"""In place of a field's name: the labels that have arrived."""

RANK_MAX: Final = 100
"""Ranks that `mode` may ask for."""

_Source = str | Expression | LabelSource
Window = Duration | Span


class Entering(TypedDict, total=False):
    """What enters a window, for every aggregate.

    `include_current`
        Whether the event itself is in its window.
    `where`
        A condition on the event's own fields, or a field of bool: what does not meet it does not enter.
    `shift`
        How long before the event the window ends: `(t - shift - window, t - shift]`.
    """

    include_current: bool
    where: Condition | Field
    shift: Duration


@dataclass(frozen=True, slots=True)
class Key:
    """What events are grouped by.  Every method is one aggregate over a window ending at the event.

    `of` is a field's name, an expression over fields of the event, `label`, or a condition on labels, such
    as `indicator(label == "smurf")`; `window` is a duration such as `"1h"`, or another kind of window
    (`window_kinds.py`); the other arguments are those of `Entering`.
    """

    fields: tuple[str, ...]

    def count(
        self, of: _Source | Window, window: Window | None = None, **entering: Unpack[Entering]
    ) -> Aggregate:
        """Return the number of events: `count("1h")`, or of labels: `count(label, "1h")`."""
        return self._counting("count", of, window, entering)

    def rate(
        self, of: _Source | Window, window: Window | None = None, **entering: Unpack[Entering]
    ) -> Aggregate:
        """Return events (or labels) per second of the window's width."""
        return self._counting("rate", of, window, entering)

    def since_last(
        self, of: _Source | Window, window: Window | None = None, *, where: Condition | Field | None = None
    ) -> Aggregate:
        """Return the ms since the key's previous event (or latest label), if that is in the window."""
        return self._counting("since_last", of, window, {} if where is None else {"where": where})

    def sum(self, of: _Source, window: Window, **entering: Unpack[Entering]) -> Aggregate:
        """Return the sum, 0.0 when empty."""
        return self._aggregate("sum", of, window, entering)

    def mean(self, of: _Source, window: Window, **entering: Unpack[Entering]) -> Aggregate:
        """Return the mean, missing when empty."""
        return self._aggregate("mean", of, window, entering)

    def min(self, of: _Source, window: Window, **entering: Unpack[Entering]) -> Aggregate:
        """Return the smallest value, missing when empty."""
        return self._aggregate("min", of, window, entering)

    def max(self, of: _Source, window: Window, **entering: Unpack[Entering]) -> Aggregate:
        """Return the largest value, missing when empty."""
        return self._aggregate("max", of, window, entering)

    def var(self, of: _Source, window: Window, **entering: Unpack[Entering]) -> Aggregate:
        """Return the variance with n - 1, 0.0 for one value (as River), missing when empty."""
        return self._aggregate("var", of, window, entering)

    def std(self, of: _Source, window: Window, **entering: Unpack[Entering]) -> Aggregate:
        """Return the square root of `var`."""
        return self._aggregate("std", of, window, entering)

    def first(self, of: _Source, window: Window, **entering: Unpack[Entering]) -> Aggregate:
        """Return the oldest value, missing when empty."""
        return self._aggregate("first", of, window, entering)

    def last(self, of: _Source, window: Window, **entering: Unpack[Entering]) -> Aggregate:
        """Return the newest value, missing when empty."""
        return self._aggregate("last", of, window, entering)

    def distinct(self, of: _Source, window: Window, **entering: Unpack[Entering]) -> Aggregate:
        """Return the number of different values, 0 when empty.

        Exact; in tiles and sessions as exact as `summaries.py` says.
        """
        return self._aggregate("distinct", of, window, entering)

    def mode(self, of: _Source, window: Window, *, rank: int = 1, **entering: Unpack[Entering]) -> Aggregate:
        """Return the most frequent value, or the `rank`-th; of equally frequent ones the newest comes first.

        Missing where there are fewer different values.
        """
        if type(rank) is not int or not 1 <= rank <= RANK_MAX:
            raise DefinitionError(f"{self!r}.mode: rank {rank!r}", hint=f"give a rank of 1 to {RANK_MAX}")
        return self._aggregate("mode", of, window, entering, rank if rank > 1 else None)

    def entropy(self, of: _Source, window: Window, **entering: Unpack[Entering]) -> Aggregate:
        """Return the entropy of the values in bits: 0.0 for one value, 1.0 for two equally frequent ones.

        Missing when empty.
        """
        return self._aggregate("entropy", of, window, entering)

    def median(self, of: _Source, window: Window, **entering: Unpack[Entering]) -> Aggregate:
        """Return the median, missing when empty."""
        return self._aggregate("median", of, window, entering)

    def quantile(self, of: _Source, q: float, window: Window, **entering: Unpack[Entering]) -> Aggregate:
        """Return the value that the share `q` of the values are at or below, missing when empty.

        Linear between neighbours (Hyndman and Fan's type 7, as numpy); in tiles and sessions as exact
        as `summaries.py` says.
        """
        if type(q) not in {int, float} or not 0 <= q <= 1:
            raise DefinitionError(f"{self!r}.quantile: {q!r} is no share", hint="give a number from 0 to 1")
        return self._aggregate("quantile", of, window, entering, float(q))

    def arg_max(
        self, of: _Source, by: str | Expression, window: Window, **entering: Unpack[Entering]
    ) -> Aggregate:
        """Return `of` of the event with the largest `by`, the newest of equals; missing when empty.

        An event in which either is missing does not count.
        """
        return self._aggregate("arg_max", of, window, entering, _column("arg_max", by))

    def arg_min(
        self, of: _Source, by: str | Expression, window: Window, **entering: Unpack[Entering]
    ) -> Aggregate:
        """Return `of` of the event with the smallest `by`, the newest of equals; missing when empty."""
        return self._aggregate("arg_min", of, window, entering, _column("arg_min", by))

    def _counting(
        self, function: AggregateFunction, of: _Source | Window, window: Window | None, entering: Entering
    ) -> Aggregate:
        """Build what needs no value: of one argument it is the window; of two, only `label` matters."""
        if window is None:
            if not isinstance(of, str | int | Span):
                raise DefinitionError(
                    f"{function}({of!r}) has no window", hint=f'write {function}({of!r}, "1h")'
                )
            return self._aggregate(function, None, of, entering)
        if not isinstance(of, str | Field | LabelSource):
            raise DefinitionError(
                f"{function}({of!r}, ...) of what?", hint=f'write {function}("1h") or {function}(label, "1h")'
            )
        return self._aggregate(function, of, window, entering)

    def _aggregate(
        self,
        function: AggregateFunction,
        of: _Source | None,
        window: Window,
        entering: Entering,
        argument: float | str | Expression | None = None,
    ) -> Aggregate:
        place = f"{self!r}.{function}"
        include_current, where, shift_ms = _entering(place, **entering)
        span = window if isinstance(window, Span) else None
        if function not in functions_of(span):
            raise DefinitionError(
                f"{place}: {window!r} has no {function}",
                hint=f'use a duration such as "1h", or one of {", ".join(sorted(functions_of(span)))}',
            )
        window_ms = _width_ms(place, window)
        if shift_ms and span is not None:
            raise DefinitionError(
                f"{place}: {window!r} cannot be shifted", hint='shift a sliding window, such as "1h"'
            )
        if shift_ms and not include_current:
            raise DefinitionError(
                f"{place}: a shifted window never includes the event", hint="leave include_current out"
            )
        source = of if of is None or isinstance(of, LabelSource) else _column(function, of)
        is_of_labels = reads_labels(source)
        if is_of_labels and isinstance(argument, str | Expression):
            raise DefinitionError(
                f"{place}: labels have no fields of their own", hint="group them by a field: by(...)"
            )
        include_current |= is_of_labels  # no label is the event itself
        if is_of_labels and isinstance(span, Session):
            raise DefinitionError(f"{place}: sessions are of events", hint="use another kind of window")
        return Aggregate(
            function, self.fields, source, window_ms, include_current, where, shift_ms, span, argument
        )

    def __repr__(self) -> str:
        return f"by({', '.join(map(quote, self.fields))})"


def _width_ms(place: str, window: Window) -> int:
    """Return how far a window reaches back."""
    if isinstance(window, Span):
        return window.window_ms
    try:
        window_ms = duration_ms(window)
    except DefinitionError as error:
        raise DefinitionError(f"{place}: {error.message}", hint=error.hint) from None
    if window_ms == 0:
        raise DefinitionError(
            f"{place}: a window of zero width is empty", hint='give it a width, such as "1h"'
        )
    return window_ms


def _entering(
    place: str,
    *,
    include_current: bool = True,
    where: Condition | Field | None = None,
    shift: Duration = 0,
) -> tuple[bool, Condition | None, int]:
    """Return what enters, checked; a field of bool alone is met where it is true."""
    if isinstance(where, Field):
        where = where.equals(True)
    if where is not None and not isinstance(where, Condition):
        raise DefinitionError(
            f"{place}: where={where!r} is no condition",
            hint='compare a field: field("amount") > 100; two fields: field("a").equals(field("b"))',
        )
    try:
        return include_current, where, duration_ms(shift)
    except DefinitionError as error:
        raise DefinitionError(f"{place}: shift: {error.message}", hint=error.hint) from None


def _column(function: AggregateFunction, of: object) -> str | Expression:
    """Return what to aggregate: the name of a field, or an expression, whose words mean nothing here."""
    if isinstance(of, Expression):
        of = without_descriptions(of)
    if isinstance(of, Field):
        return of.name
    if isinstance(of, str | Expression):
        return of
    fix = f"{function}(indicator(...), ...)" if isinstance(of, Condition) else f'{function}("amount", "1h")'
    raise DefinitionError(
        f"{function} of {of!r}: only a field, an expression over fields, or `label` can be aggregated",
        hint=f"write the field's name or an expression, as in {fix}",
    )


def field(name: str) -> Field:
    """Return a field of the event."""
    return Field(name)


def feature(name: str) -> Feature:
    """Return a feature of the same definition, for rules about its values."""
    return Feature(name)


def by(*fields: str) -> Key:
    """Return what events are grouped by; without a field all events share one key.

    At most 8 fields.  Raises DefinitionError for more, for repeated names and for what is no name.
    """
    text = f"by({', '.join(map(repr, fields))})"
    if not all(type(name) is str and name for name in fields):
        raise DefinitionError(f"{text}: keys are named by text", hint='write by("card")')
    if len(set(fields)) < len(fields) or len(fields) > KEY_FIELDS_MAX:
        raise DefinitionError(f"{text}: repeated or too many fields", hint="name each field once, 8 at most")
    return Key(fields)


def lookup(template: str, name: str, default: FeatureValue | None = None) -> Lookup:
    """Return a static feature: field `name` of the stored hash whose key `template` gives.

    Kept in Redis or SQLite, asked for once per batch; with a number as `default`, text is read as one.

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
