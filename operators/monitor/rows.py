"""Labelled examples side by side as columns: made once, read by every monitor.

Lives here: which scores of an example count, and what truth and score are in each task.  Never here: sums.

Sums over columns are taken with `numpy.add.at`, which adds one row after the other: a sum has the same bits
however examples are cut into batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from math import nan
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from operators.race.evaluation import SERVED
from operators.race.losses import Losses
from topics.messages import Example, FeatureValue, LabelValue, Score, Task

__all__ = ["FloatArray", "Rows", "Series", "served_first"]

FloatArray = NDArray[np.float64]


Value = TypeVar("Value")


def served_first(by_name: Mapping[str, Value]) -> dict[str, Value]:
    """Return the values by series in one order, however they came: what was served, then candidates by name.

    >>> list(served_first({"b": 1, "served": 2, "a": 3}))
    ['served', 'a', 'b']
    """
    return {name: by_name[name] for name in sorted(by_name, key=lambda name: (name != SERVED, name))}


class Series(NamedTuple):
    """What one candidate, or what was served, said of some of the rows."""

    rows: NDArray[np.intp]
    """Numbers of the rows on which it has a score."""
    scores: FloatArray
    """Binary: probability of true.  Multiclass: of the answered class.  Regression: the value."""
    truths: FloatArray
    """Binary: the label as 1 or 0.  Multiclass: whether the answer is right.  Regression: the label."""
    losses: FloatArray
    """Not a number where the loss has no opinion yet."""


class Rows:
    """Examples with their losses, of what was served and of every candidate in the race.

    >>> example = Example("e", "k", 0, 9, True, {"x": 1.0}, {"a": 0.8}, 0.7, "champion", "a", 0, 0, 0, 1, 0)
    >>> rows = Rows([example], [(0.09, {"a": 0.04})], "binary")
    >>> list(rows.series), rows.series["a"].scores.tolist(), rows.values("x")
    (['served', 'a'], [0.8], [1.0])
    """

    def __init__(self, examples: Sequence[Example], tested: Sequence[Losses], task: Task) -> None:
        self.examples = examples
        self.tested = tested
        self._task: Task = task

    def __len__(self) -> int:
        return len(self.examples)

    @cached_property
    def series(self) -> dict[str, Series]:
        """Return what was served, under `SERVED`, and then every candidate that has a score and a loss."""
        served: list[tuple[int, LabelValue, Score, float | None]] = []
        columns: dict[str, list[tuple[int, LabelValue, Score, float | None]]] = {SERVED: served}
        for number, (example, (of_served, of_each)) in enumerate(
            zip(self.examples, self.tested, strict=True)
        ):
            label, scores = example.label, example.scores
            if example.served_score is not None:
                served.append((number, label, example.served_score, of_served))
            for name, loss in of_each.items():
                if (score := scores[name]) is not None:
                    columns.setdefault(name, []).append((number, label, score, loss))
        return {name: self._series(column) for name, column in columns.items() if column}

    def _series(self, column: Sequence[tuple[int, LabelValue, Any, float | None]]) -> Series:
        numbers, labels, answered, losses = zip(*column, strict=True)
        truths: Sequence[Any] = labels
        scores: Sequence[Any] = answered
        if self._task == "multiclass":
            answers = [max(chances, key=chances.__getitem__) for chances in scores]
            truths = [str(label) == answer for label, answer in zip(labels, answers, strict=True)]
            scores = [chances[answer] for chances, answer in zip(scores, answers, strict=True)]
        return Series(
            np.array(numbers, np.intp),
            np.array(scores, np.float64),
            np.array(truths, np.float64),
            np.array([nan if loss is None else loss for loss in losses], np.float64),
        )

    def values(self, feature: str) -> list[FeatureValue | None]:
        """Return a feature as served with each row; None where it was missing."""
        return [example.features.get(feature) for example in self.examples]
