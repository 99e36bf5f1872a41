"""Several labels of one event: how they become one, when that is learned, and what a later one corrects.

Lives here: what a definition may ask for, what of it makes sense for a task, the value and the weight of
labels that are taken together.  Never here: which labels an event has (`join.py`), where they are kept
(`pending.py`).

    combine    "first" as it came, "last" of the newest label time (of equals, as it came), "sum", "mean",
               "median" of numbers, "max" and "min" of numbers or of yes and no: any, and all
    learn      "when_joined"  the first label that comes, at once
               "uniform"      every example at its horizon, whatever its label: those that come early do not
                              come first
               "corrected"    a negative at once, the positive when it comes, weighted by `delayed.py`; the
                              truth at the horizon, to be measured
    correct    a later, differing label of an event that has been learned: "record" corrects what was
               measured, "relearn" is learned as well
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import fsum
from statistics import median
from typing import Final, Literal

from msgspec import Struct

from topics.messages import Label, LabelValue, Task

__all__ = [
    "LABELS_PER_EVENT_MAX",
    "Combine",
    "Correct",
    "LabelPolicy",
    "LearnWhen",
    "combinable",
    "combined",
]

LABELS_PER_EVENT_MAX = 100
"""Labels of one event that are kept unless the definition says otherwise, some 100 bytes each."""

Combine = Literal["first", "last", "sum", "mean", "max", "min", "median"]
LearnWhen = Literal["when_joined", "uniform", "corrected"]
Correct = Literal["record", "relearn"]

_COMBINES: Final[dict[Task, tuple[Combine, ...]]] = {
    "binary": ("first", "last", "max", "min"),
    "multiclass": ("first", "last"),
    "regression": ("first", "last", "sum", "mean", "max", "min", "median"),
}


def combinable(task: Task) -> tuple[Combine, ...]:
    """Return the ways in which labels of a task can be combined."""
    return _COMBINES[task]


class LabelPolicy(Struct, frozen=True):
    """What becomes of several labels of one event."""

    combine: Combine = "first"
    learn: LearnWhen = "when_joined"
    correct: Correct | None = None
    labels_max: int = LABELS_PER_EVENT_MAX
    """Labels of one event that are kept; beyond, they are refused."""

    @property
    def at_horizon(self) -> bool:
        """Return whether examples are made at the horizon, of all labels that have come."""
        return self.combine != "first" or self.learn != "when_joined"

    @property
    def several(self) -> bool:
        """Return whether more than the first label of an event means anything."""
        return self.at_horizon or self.correct is not None


def combined(combine: Combine, labels: Sequence[Label]) -> tuple[LabelValue, float]:
    """Return the value and the weight of labels of one event, one or more, in the order they came.

    A value that is one of the labels' own has the weight of that label, of several equal ones the largest; a
    calculated one has their mean weight.  Sums are exact to the last rounding, so order changes no bit.

    >>> clicks = [Label("e", 2.0, 10), Label("e", 7.0, 30), Label("e", 3.0, 20)]
    >>> [combined(how, clicks)[0] for how in combinable("regression")]
    [2.0, 7.0, 12.0, 4.0, 7.0, 2.0, 3.0]
    >>> combined("max", [Label("e", False, 10), Label("e", True, 20)])
    (True, 1.0)
    """
    if combine == "first":
        return _own(labels[0])
    if combine == "last":
        newest = max(range(len(labels)), key=lambda at: (labels[at].label_time, at))
        return _own(labels[newest])
    values = [one.label for one in labels]
    if combine in {"max", "min"}:
        value = (max if combine == "max" else min)(values)
        return value, max(one.weight for one in labels if one.label == value)
    calculate = _CALCULATED[combine]
    return calculate([float(value) for value in values]), fsum(one.weight for one in labels) / len(labels)


def _mean(values: Sequence[float]) -> float:
    return fsum(values) / len(values)


_CALCULATED: Final[dict[Combine, Callable[[Sequence[float]], float]]] = {
    "sum": fsum,
    "mean": _mean,
    "median": median,
}


def _own(label: Label) -> tuple[LabelValue, float]:
    return label.label, label.weight
