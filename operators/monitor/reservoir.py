"""A bounded sample of labelled examples, so many of each class and slice, and the nearest of them to a row.

Lives here: which examples are kept, how far apart two rows are.  Never here: figures (`slices.py`).

Of each stratum (a label, and the values of the features in `by`) those examples are kept whose event ids have
the smallest hashes: a uniform sample without replacement, whatever the order, and the same in a replay.  So
rare classes are there as well as common ones:

    label   origin       seen     kept (per_class_max 100)
    false   JFK       120,000     100
    true    JFK         3,400     100
    true    HNL            12      12
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, Final

import msgspec
from msgspec import Struct

from operators.models.table import number_of
from operators.monitor.bins import OTHER
from operators.monitor.monitors import MonitorContext
from operators.monitor.rows import Rows
from operators.race.arena import Moment
from operators.state import StateEntries, WholeState
from topics.errors import DefinitionError
from topics.messages import Example, FeatureValue, FeatureValues, LabelValue, Score

__all__ = ["KeptRow", "Reservoir", "ReservoirMonitor"]

PER_CLASS_MAX: Final = 100
ROWS_MAX: Final = 10_000
STRATA_MAX: Final = 200
"""Strata with rows of their own; an example of a further one counts to its class alone, and where there are
more classes than that, to the rest."""
NEAR: Final = 5
SALT: Final = "reservoir"


@dataclass(frozen=True)
class Reservoir:
    """How many labelled examples are kept for reports, and for `headrace explain --like`.

    `per_class_max`
        Examples of each class, in each slice; of a regression, of each slice.
    `by`
        Features as served whose values part examples into slices; of numbers every value is one.
    """

    per_class_max: int = PER_CLASS_MAX
    by: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Raise DefinitionError for a bound that keeps nothing, or too much."""
        if not 1 <= self.per_class_max <= ROWS_MAX:
            raise DefinitionError(
                f"a reservoir keeps {self.per_class_max} examples of a class",
                hint=f"give 1 to {ROWS_MAX:,}: each is kept with its features",
            )
        object.__setattr__(self, "by", tuple(self.by))

    def monitor(self, context: MonitorContext) -> ReservoirMonitor:
        """Return the monitor that keeps them."""
        return ReservoirMonitor(self, by_class=context.task != "regression")


class KeptRow(Struct, frozen=True, array_like=True):
    """One example of the sample."""

    number: int
    """Hash of its event id."""
    event_id: str
    event_time: int
    label: LabelValue
    score: Score
    """As served."""
    features: FeatureValues


class _State(Struct, array_like=True):
    strata: list[tuple[str, int, list[KeptRow]]]


class ReservoirMonitor(WholeState):
    """The sample of a race's examples, by stratum.

    >>> from topics.messages import Example
    >>> monitor = ReservoirMonitor(Reservoir(per_class_max=2), by_class=True)
    >>> examples = [
    ...     Example(f"e{n}", "k", n, n, n % 4 == 0, {"x": float(n)}, {}, 0.5, "champion", "m", 0, n, n, 1, n)
    ...     for n in range(8)
    ... ]
    >>> monitor.observe(Rows(examples, [(None, {})] * 8, "binary"))
    >>> {name: (told["seen"], told["kept"]) for name, told in monitor.report()["strata"].items()}
    {'False': (6, 2), 'True': (2, 2)}
    >>> [one["event_id"] for one in monitor.near({"x": 4.2}, count=1)]
    ['e4']
    """

    stops: Sequence[int] = ()

    def __init__(self, settings: Reservoir, *, by_class: bool) -> None:
        self._most, self._by, self._by_class = settings.per_class_max, settings.by, by_class
        self._seen: dict[str, int] = {}
        self._kept: dict[str, list[KeptRow]] = {}
        """By stratum, the smallest hash first."""

    def observe(self, rows: Rows) -> None:
        """See examples that were learned, in the order of the log."""
        self._dirty = self._dirty or len(rows) > 0
        for example in rows.examples:
            self._see(example)

    def correct(self, was: Rows, now: Rows) -> None:
        """Move an example to the stratum of its new label; a later one may take the place that it leaves."""
        self._dirty = True
        (before,), (example,) = was.examples, now.examples
        stratum = self._stratum(before.label, before.features)
        if self._seen.get(stratum):
            self._seen[stratum] -= 1
            self._kept[stratum] = [row for row in self._kept[stratum] if row.event_id != example.event_id]
            self._see(example)

    def _see(self, example: Example) -> None:
        stratum = self._stratum(example.label, example.features)
        self._seen[stratum] = self._seen.get(stratum, 0) + 1
        kept = self._kept.setdefault(stratum, [])
        number = number_of(SALT, example.event_id)
        if len(kept) == self._most and number >= kept[-1].number:
            return
        if any(one.event_id == example.event_id for one in kept):
            return  # an id that has come again after its horizon
        row = KeptRow(
            number,
            example.event_id,
            example.event_time,
            example.label,
            example.served_score,
            example.features,
        )
        insort(kept, row, key=_number)
        del kept[self._most :]

    def _stratum(self, label: LabelValue, features: Mapping[str, FeatureValue]) -> str:
        values = [str(features.get(name)) for name in self._by]
        parts = [str(label), *values] if self._by_class else values
        stratum = " ".join(parts)
        if stratum in self._seen or len(self._seen) < STRATA_MAX:
            return stratum
        of_class = f"{label} {OTHER}"
        room = of_class in self._seen or len(self._seen) < 2 * STRATA_MAX
        return of_class if self._by_class and room else OTHER

    def stop(self, at: Moment) -> None:
        """Do nothing: it reads no models."""

    def forget(self, name: str) -> None:
        """Do nothing: it keeps what was served."""

    def report(self) -> dict[str, Any]:
        """Return how many examples of each stratum were seen, and how many are kept."""
        return {
            "strata": {
                stratum: {"seen": seen, "kept": len(self._kept[stratum])}
                for stratum, seen in sorted(self._seen.items())
                if seen
            }
        }

    def signals(self) -> dict[str, float]:
        """Return nothing: an alert can be about none of it."""
        return {}

    # -- what is like a row -----------------------------------------------------------------------

    def near(self, features: Mapping[str, FeatureValue], count: int = NEAR) -> list[dict[str, Any]]:
        """Return the kept examples that are most like a row, the nearest first, with their distance.

        The distance is the root of the mean over features of a squared difference: of numbers in standard
        deviations of the kept rows, of anything else 0 or 1; 1 where one of the two misses it.
        """
        rows = [row for kept in self._kept.values() for row in kept]
        names = sorted({name for row in rows for name in row.features} | set(features))
        spreads = {name: _spread([row.features.get(name) for row in rows]) for name in names}
        told = [(_distance(features, row.features, spreads), row) for row in rows]
        told.sort(key=lambda one: (one[0], one[1].number))
        return [
            {
                "event_id": row.event_id,
                "event_time": row.event_time,
                "distance": round(distance, 6),
                "label": row.label,
                "score": row.score,
                "features": row.features,
            }
            for distance, row in told[:count]
        ]

    # -- state ------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        strata = [(name, seen, self._kept[name]) for name, seen in sorted(self._seen.items())]
        return {"all": msgspec.msgpack.encode(_State(strata))}

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state."""
        state = msgspec.msgpack.decode(entries["all"], type=_State)
        self._seen = {name: seen for name, seen, _ in state.strata}
        self._kept = {name: kept for name, _, kept in state.strata}
        self._dirty = False


def _number(row: KeptRow) -> int:
    return row.number


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _spread(values: Sequence[Any]) -> float:
    """Return the standard deviation of the numbers among values; 0 without two different ones."""
    numbers = [float(value) for value in values if _is_number(value)]
    if not numbers:
        return 0.0
    mean = sum(numbers) / len(numbers)
    return sqrt(sum((number - mean) ** 2 for number in numbers) / len(numbers))


def _distance(
    one: Mapping[str, FeatureValue], other: Mapping[str, FeatureValue], spreads: Mapping[str, float]
) -> float:
    """Return how far apart two rows are, per feature of `spreads`."""
    total = 0.0
    for name, spread in spreads.items():
        here: Any = one.get(name)
        there: Any = other.get(name)
        if here == there:
            continue
        numbers = _is_number(here) and _is_number(there) and spread > 0
        total += ((here - there) / spread) ** 2 if numbers else 1.0
    return sqrt(total / len(spreads)) if spreads else 0.0
