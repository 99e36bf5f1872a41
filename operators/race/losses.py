"""How wrong a score was, as one number in [0, 1], so that models can be compared fairly.

Lives here: the bounded losses behind curves, drift detectors and champion swaps.  Never
here: what users read as quality (River's metrics, `evaluation.py`), models, time.

Strategy: evidence and detectors need bounded values; each loss is one pure function of
label and score.  Regression needs a scale first, so it remembers the labels' deviation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, cast

from river import stats

from topics.errors import DefinitionError
from topics.messages import LabelValue, Score, Task

__all__ = ["Loss", "LossName", "ScaledError", "brier", "loss_of", "multiclass_brier"]

LossName = Literal["brier", "log", "zero_one"]
"""The comparisons a classification task can choose from; regression has one, the scaled error."""
Loss = Callable[[LabelValue, Score], float | None]
"""(label, score) -> loss in [0, 1], or None where the score holds no opinion."""

PROBABILITY_MIN = 1e-3
"""Log loss is cut here: one confident mistake must not outweigh a thousand good answers."""
DEVIATIONS_MAX = 4.0
"""A regression error of this many standard deviations of the label counts as wholly wrong."""
_LOG_WORST = -math.log(PROBABILITY_MIN)


def brier(label: LabelValue, score: Score) -> float | None:
    """Return the squared distance of P(True) from the truth, the Brier score of one answer.

    >>> brier(True, 0.5)
    0.25
    >>> brier(True, None) is None
    True
    """
    if score is None:
        return None
    error = (1.0 if label else 0.0) - score  # type: ignore[operator]  # a binary score is a number
    return 1.0 if error > 1.0 or error < -1.0 else error * error


def _log(label: LabelValue, score: Score) -> float | None:
    if score is None:
        return None
    truth = cast("float", score) if label else 1.0 - cast("float", score)
    return -math.log(min(max(truth, PROBABILITY_MIN), 1.0)) / _LOG_WORST


def _zero_one_at(threshold: float) -> Loss:
    """Return the loss of a binary answer, which is True above `threshold`."""

    def zero_one(label: LabelValue, score: Score) -> float | None:
        if score is None:
            return None
        return 0.0 if (cast("float", score) > threshold) == bool(label) else 1.0

    return zero_one


def multiclass_brier(label: LabelValue, score: Score) -> float | None:
    """Return half the squared distance between the class probabilities and the truth.

    Half, so that it lies in [0, 1] (Brier, 1950, whose own form reaches 2).

    >>> multiclass_brier("cat", {"cat": 1.0, "dog": 0.0})
    0.0
    >>> multiclass_brier("ant", {"cat": 1.0})
    1.0
    """
    if score is None:
        return None
    chances = cast("dict[str, float]", score)
    total = 0.0 if label in chances else 1.0
    for name, chance in chances.items():
        error = (1.0 if name == label else 0.0) - chance
        total += error * error
    return min(total / 2.0, 1.0)


def _multiclass_log(label: LabelValue, score: Score) -> float | None:
    if score is None:
        return None
    return _log(True, cast("dict[str, float]", score).get(cast("str", label), 0.0))


def _multiclass_zero_one(label: LabelValue, score: Score) -> float | None:
    if score is None:
        return None
    chances = cast("dict[str, float]", score)
    return 0.0 if max(chances, key=chances.__getitem__) == label else 1.0


class ScaledError:
    """Absolute error of a regression in units of the labels' running deviation, cut at `DEVIATIONS_MAX`.

    The scale is of the labels *before* the one at hand, so it cannot be chosen by it.
    The first two labels have no scale: their loss is None.

    >>> loss = ScaledError()
    >>> for label in (1.0, 2.0, 3.0):
    ...     loss.update(label)
    >>> loss(4.0, 2.0)
    0.5
    """

    def __init__(self) -> None:
        self.deviation = stats.Var()

    def update(self, label: LabelValue) -> None:
        """Remember one label, after its losses have been taken."""
        self.deviation.update(float(label))

    def __call__(self, label: LabelValue, score: Score) -> float | None:
        """Return the loss, or None where there is no score or no scale yet."""
        variance = self.deviation.get()
        if score is None or variance <= 0.0:
            return None
        error = abs(float(label) - cast("float", score))
        return min(error / (DEVIATIONS_MAX * math.sqrt(variance)), 1.0)

    def state(self) -> tuple[float, float, float]:
        """Return (count, mean, sum of squared deviations)."""
        return self.deviation.mean.n, self.deviation.mean.get(), self.deviation._S

    def restore(self, state: tuple[float, float, float]) -> None:
        """Replace the state, to the bit (River's own `_from_state` rounds)."""
        count, mean, squares = state
        self.deviation.mean = stats.Mean._from_state(count, mean)
        self.deviation._S = squares


_CLASSIFICATION: dict[tuple[Task, LossName], Loss] = {
    ("binary", "brier"): brier,
    ("binary", "log"): _log,
    ("multiclass", "brier"): multiclass_brier,
    ("multiclass", "log"): _multiclass_log,
    ("multiclass", "zero_one"): _multiclass_zero_one,
}


def loss_of(task: Task, name: LossName = "brier", threshold: float = 0.5) -> Loss:
    """Return the loss of a classification task by name, or a fresh `ScaledError` for regression.

    `threshold` is where a binary score becomes the label True.  Raises DefinitionError for a name that is
    none.

    >>> loss_of("binary", "zero_one", threshold=0.2)(True, 0.3)
    0.0
    """
    if task == "regression":
        return ScaledError()
    if (task, name) == ("binary", "zero_one"):
        return _zero_one_at(threshold)
    if (task, name) not in _CLASSIFICATION:
        raise DefinitionError(f"there is no loss `{name}`", hint="use one of: brier, log, zero_one")
    return _CLASSIFICATION[task, name]
