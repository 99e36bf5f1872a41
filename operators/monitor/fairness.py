"""Whether groups of people are answered alike: slices with protected names, and a bound on their difference.

Lives here: the bounds, the groups that are compared, the largest difference.  Never here: the sums of a group
(`slices.py`), what is done about it: nothing is, somebody is told.

`positive_rate` is demographic parity (the share of answers true), `tpr` equal opportunity (the share of what
is true that is answered true: Hardt, Price and Srebro, "Equality of Opportunity in Supervised Learning",
2016), `loss` the objective of the race.  The difference is of the largest and the smallest group figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Any, Literal, get_args

import msgspec

from operators.monitor.bins import MISSING, OTHER
from operators.monitor.monitors import MonitorContext
from operators.monitor.rows import Rows
from operators.monitor.slices import Slices
from operators.race.evaluation import SERVED
from operators.race.losses import loss_max
from operators.state import StateEntries, WholeState
from topics.errors import DefinitionError

__all__ = ["Fair", "FairMetric", "Fairness", "FairnessMonitor"]

FairMetric = Literal["positive_rate", "tpr", "loss"]

DEVIATIONS = 1.96
"""Half the width of a 95 % interval, in standard errors."""
HALVED = 5_000
"""Examples after which what came before counts half: a group that is treated better again is seen to be."""


@dataclass(frozen=True)
class Fair:
    """A bound on the difference between the groups of one protected feature.

    `feature`
        The protected feature, as served: a group for each of its values, of numbers for quantile bins.
    `metric`
        What is compared: `"positive_rate"`, `"tpr"` (both of two classes) or `"loss"`.
    `difference_max`
        How far the largest group may lie above the smallest.
    `rows_min`
        Rows below which a group is not compared; for `"tpr"` rows whose label is true.
    """

    feature: str
    metric: FairMetric = "positive_rate"
    difference_max: float = 0.1
    rows_min: int = 100

    def __post_init__(self) -> None:
        """Refuse bounds that are none.  Raises DefinitionError."""
        place = f"fair: {self.name}"
        if self.metric not in get_args(FairMetric):
            raise DefinitionError(
                f"{place}: metric={self.metric!r}", hint=f"one of {', '.join(get_args(FairMetric))}"
            )
        given: object = self.difference_max
        if (
            isinstance(given, bool)
            or not isinstance(given, int | float)
            or not (given > 0.0 and isfinite(given))
        ):
            raise DefinitionError(
                f"{place}: difference_max={given!r}", hint="give a number above 0, such as 0.1"
            )
        rows: object = self.rows_min
        if type(rows) is not int or not 1 <= rows <= HALVED:
            raise DefinitionError(f"{place}: rows_min={rows!r}", hint=f"give a number from 1 to {HALVED}")

    @property
    def name(self) -> str:
        """Return what reports call it."""
        return f"{self.feature} {self.metric}"


@dataclass(frozen=True)
class Fairness:
    """The bounds of a definition, as the settings of a monitor."""

    bounds: tuple[Fair, ...]

    def monitor(self, context: MonitorContext) -> FairnessMonitor:
        """Return the monitor of these bounds."""
        return FairnessMonitor(self, context)


class FairnessMonitor(WholeState):
    """The figures of every group of what was served lately, and how far they lie apart."""

    stops: Sequence[int] = ()

    def __init__(self, settings: Fairness, context: MonitorContext) -> None:
        self._bounds, self._context = settings.bounds, context
        features = dict.fromkeys(one.feature for one in self._bounds)
        self._slices = Slices(tuple((name,) for name in features)).monitor(context)
        self._seen = 0
        """Examples since sums were halved last."""

    def observe(self, rows: Rows) -> None:
        """Count rows; sums are halved after the same example however rows are cut."""
        self._dirty = True
        start = 0
        while start < len(rows):
            end = min(len(rows), start + HALVED - self._seen)
            part = rows.examples[start:end], rows.tested[start:end]
            self._slices.observe(rows if end - start == len(rows) else Rows(*part, self._context.task))
            self._seen, start = self._seen + end - start, end
            if self._seen == HALVED:
                self._slices.halve()
                self._seen = 0

    def stop(self, at: object) -> None:
        """Do nothing: it reads no model."""

    def forget(self, name: str) -> None:
        """Drop the sums of a candidate that has left."""
        self._dirty = True
        self._slices.forget(name)

    def report(self) -> dict[str, Any]:
        """Return each bound's groups, their difference, and whether it is kept."""
        slices = self._slices.report()
        largest = loss_max(self._context.task, self._context.objective)
        return {one.name: _told(one, slices[one.feature], largest) for one in self._bounds}

    def signals(self) -> Mapping[str, float]:
        """Return how many bounds are broken."""
        return {"broken": float(sum(not told["kept"] for told in self.report().values()))}

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        return self._slices.snapshot() | {"seen": msgspec.msgpack.encode(self._seen)}

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state."""
        self._slices.restore(entries)
        self._seen = msgspec.msgpack.decode(entries["seen"], type=int)
        self._dirty = False


def _told(
    bound: Fair, by_value: Mapping[str, Mapping[str, Mapping[str, float]]], largest: float | None
) -> dict[str, Any]:
    groups: dict[str, float] = {}
    rows_of: dict[str, float] = {}
    for value, by_series in by_value.items():
        figures = by_series.get(SERVED)
        if figures is None or value in {MISSING, OTHER}:
            continue
        rows = figures["rows"] * (figures["label_rate"] if bound.metric == "tpr" else 1.0)
        name = "Recall" if bound.metric == "tpr" else bound.metric
        if rows >= bound.rows_min and name in figures:
            groups[value], rows_of[value] = figures[name], rows
    difference = max(groups.values()) - min(groups.values()) if groups else 0.0
    bounded = bound.metric != "loss" or (largest is not None and largest <= 1.0)
    half = _half(groups, rows_of) if bounded and len(groups) > 1 else None
    return {
        "difference": difference,
        "difference_low": None if half is None else max(difference - half, 0.0),
        "difference_high": None if half is None else min(difference + half, 1.0),
        "difference_max": bound.difference_max,
        "kept": difference <= bound.difference_max,
        "groups": groups,
    }


def _half(groups: Mapping[str, float], rows_of: Mapping[str, float]) -> float:
    """Return half the width of the 95 % interval of the difference of the largest and the smallest figure.

    A share of `n` rows has a variance of p (1 - p) / n, and a mean of losses between 0 and 1 no larger one;
    two rows more, one of either kind, keep it from 0 (Agresti and Caffo, 2000).

    >>> round(_half({"a": 0.5, "b": 0.5}, {"a": 100.0, "b": 100.0}), 2)
    0.14
    """
    total = 0.0
    for of_all in (max, min):
        value = of_all(groups, key=groups.__getitem__)
        rows = rows_of[value] + 2.0
        share = (groups[value] * rows_of[value] + 1.0) / rows
        total += share * (1.0 - share) / rows
    return DEVIATIONS * sqrt(total)
