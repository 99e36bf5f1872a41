"""How wrong one score was, as the number that curves, detectors and evidence compare.

Lives here: the objectives that a definition can name, each as a function of one label and one score.  Never
here: sums over rows (`evaluation.py`), who is better (`evidence.py`).

Losses of classification lie in [0, 1].  The error of a regression is not cut: a model that is off by 1e6 once
in 200 rows is a disaster, and a cut would hide it.  That is safe to compare, for two absolute errors of one
label never differ by more than the two predictions do: an odd label, however far out, decides nothing.
Evidence bounds what one block can win, not what a loss can show.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from river import metrics, stats

from operators.models.scoring import label_of
from topics.errors import DefinitionError
from topics.messages import LabelValue, Score, Task

__all__ = [
    "GuardLosses",
    "Loss",
    "LossByName",
    "LossName",
    "Losses",
    "Objective",
    "Quantile",
    "ScaledError",
    "brier",
    "check_objective",
    "judged_by",
    "loss_max",
    "loss_of",
    "multiclass_brier",
    "objective_name",
]

LossName = Literal["brier", "log", "zero_one"]
"""The objectives that have a name; regression has one, the scaled error, whatever the name."""
Loss = Callable[[LabelValue, Score], float | None]
"""(label, score) -> loss, or None where the score holds no opinion."""
LossByName = Mapping[str, float | None]
"""Each candidate's loss of one example, by name; None without a score."""
Losses = tuple[float | None, LossByName]
"""Of one example: the loss of what was served, and by name those of the candidates in the race."""

PROBABILITY_MIN = 1e-3
"""Log loss is cut here: one confident mistake must not outweigh a thousand good answers."""
ERROR_UNIT = 4.0
"""A regression error of this many standard deviations of the label is a loss of 1."""
MEAN_DIGITS = 1e-9
"""How near a metric of several rows must come to the mean of the rows' own values."""
_LOG_WORST = -math.log(PROBABILITY_MIN)


@dataclass(frozen=True)
class Quantile:
    """The objective of a forecast that `q` of the labels should lie at or below: the pinball loss.

    R. Koenker and G. Bassett, "Regression quantiles" (1978).  River's `optim.losses.Quantile` weighs errors
    the other way round when it is called, so it is not taken here.

    `q`
        The share of labels that the forecast should not be below, between 0 and 1.

    >>> loss = loss_of("regression", Quantile(0.9))
    >>> for label in (1.0, 2.0, 3.0):
    ...     loss.update(label)
    >>> round(loss(4.0, 2.0), 2), round(loss(2.0, 4.0), 2)
    (0.9, 0.1)
    """

    q: float

    def __post_init__(self) -> None:
        """Refuse what is no share.  Raises DefinitionError."""
        if not 0.0 < self.q < 1.0:
            raise DefinitionError(f"Quantile(q={self.q!r})", hint="give a share between 0 and 1, such as 0.9")


Costs = Mapping[tuple[LabelValue, LabelValue], float]
"""A cost matrix: (truth, answer) -> cost; what is not in it costs nothing."""
Objective = LossName | Quantile | Costs | metrics.base.Metric
"""What a definition can ask to be judged by."""


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
    """Absolute error of a regression in units of `ERROR_UNIT` running deviations of the labels, not cut.

    The scale is of the labels *before* the one at hand, so it cannot be chosen by it.
    The first two labels have no scale: their loss is None.  With a quantile `q`, an error below the label
    weighs 2 q and one above it 2 (1 - q): for the median it is the absolute error.

    >>> loss = ScaledError()
    >>> for label in (1.0, 2.0, 3.0):
    ...     loss.update(label)
    >>> loss(4.0, 2.0), loss(4.0, 1_000_004.0)
    (0.5, 250000.0)
    """

    def __init__(self, q: float = 0.5) -> None:
        self.deviation = stats.Var()
        self._below, self._above = 2.0 * q, 2.0 * (1.0 - q)

    def update(self, label: LabelValue) -> None:
        """Add one label to the scale, after its losses have been computed."""
        self.deviation.update(float(label))

    def __call__(self, label: LabelValue, score: Score) -> float | None:
        """Return the loss, or None where there is no score or no scale yet."""
        variance = self.deviation.get()
        if score is None or variance <= 0.0:
            return None
        missing = float(label) - cast("float", score)
        weighed = missing * self._below if missing > 0.0 else -missing * self._above
        return weighed / (ERROR_UNIT * math.sqrt(variance))

    def state(self) -> tuple[float, float, float]:
        """Return (count, mean, sum of squared deviations)."""
        return self.deviation.mean.n, self.deviation.mean.get(), self.deviation._S

    def restore(self, state: tuple[float, float, float]) -> None:
        """Replace the state, to the bit (River's own `_from_state` rounds)."""
        count, mean, squares = state
        self.deviation.mean = stats.Mean._from_state(count, mean)
        self.deviation._S = squares


class _MetricLoss:
    """A River metric's value of one row alone; one that is better when larger counts from 1 down."""

    def __init__(self, task: Task, metric: metrics.base.Metric, threshold: float) -> None:
        self._task: Task = task
        self._metric = metric
        self._threshold = threshold

    def __call__(self, label: LabelValue, score: Score) -> float | None:
        if score is None:
            return None
        value = self.of([(label, score)])
        return 1.0 - value if self._metric.bigger_is_better else value

    def of(self, rows: list[tuple[Any, Any]]) -> float:
        """Return the metric's value of several rows."""
        metric = self._metric.clone()
        for label, score in rows:
            labelled = getattr(metric, "requires_labels", False)
            answer = label_of(self._task, score, self._threshold) if labelled else score
            metric.update(label, answer)
        return float(metric.get())


_ROWS: dict[Task, list[tuple[Any, Any]]] = {
    "binary": [(True, 0.9), (False, 0.3), (True, 0.2), (False, 0.7), (False, 0.1), (True, 0.6), (True, 0.8)],
    "multiclass": [
        (truth, {"a": first, "b": second, "c": 1.0 - first - second})
        for truth, first, second in (
            ("a", 0.6, 0.3),
            ("b", 0.5, 0.2),
            ("c", 0.1, 0.2),
            ("a", 0.3, 0.4),
            ("b", 0.1, 0.8),
            ("a", 0.8, 0.1),
        )
    ],
    "regression": [(1.0, 2.0), (3.0, 2.5), (-2.0, 1.0), (5.0, 5.5), (0.5, 4.0)],
}
"""Rows on which a mean over rows is told from other metrics."""

_CLASSIFICATION: dict[tuple[Task, LossName], Loss] = {
    ("binary", "brier"): brier,
    ("binary", "log"): _log,
    ("multiclass", "brier"): multiclass_brier,
    ("multiclass", "log"): _multiclass_log,
    ("multiclass", "zero_one"): _multiclass_zero_one,
}
_NAMES = {"brier": "Brier score", "log": "log loss, cut", "zero_one": "share of wrong answers"}


def check_objective(objective: Any, where: str = "promotion.loss") -> None:
    """Refuse what is no objective of any task, by the setting `where`.  Raises DefinitionError."""
    hint = 'use "brier", "log", "zero_one", Quantile(q), {(truth, answer): cost} or a River metric'
    if isinstance(objective, Mapping):
        for pair, cost in objective.items():
            if not (isinstance(pair, tuple) and len(pair) == 2):
                raise DefinitionError(f"{where} has the key {pair!r}", hint="a key is (truth, answer)")
            if not (isinstance(cost, int | float) and math.isfinite(cost) and cost >= 0.0):
                raise DefinitionError(
                    f"{where}[{pair!r}] is {cost!r}", hint="a cost is a finite number, 0 or more"
                )
        if not any(objective.values()):
            raise DefinitionError(f"{where} costs nothing anywhere", hint="give some pair a cost")
    elif not isinstance(objective, Quantile | metrics.base.Metric) and objective not in _NAMES:
        raise DefinitionError(f"{where} is {objective!r}", hint=hint)


def loss_of(
    task: Task, objective: Objective = "brier", threshold: float = 0.5, where: str = "promotion.loss"
) -> Loss:
    """Return the loss that an objective means for a task; of a regression, one with a scale of its own.

    `threshold` is where a binary score becomes the label True, `where` the setting that names the objective.
    Raises DefinitionError for what the task cannot be judged by.

    >>> loss_of("binary", "zero_one", threshold=0.2)(True, 0.3)
    0.0
    >>> loss_of("binary", {(True, False): 10.0, (False, True): 1.0})(True, 0.3)
    10.0
    """
    check_objective(objective, where)
    if isinstance(objective, metrics.base.Metric):
        return _mean_over_rows(task, objective, threshold, where)
    if isinstance(objective, Quantile):
        if task != "regression":
            raise DefinitionError(f"{where} is {objective!r}", hint=f"a {task} task has no quantiles")
        return ScaledError(objective.q)
    if isinstance(objective, Mapping):
        if task == "regression":
            raise DefinitionError(f"{where} is a cost matrix", hint="a regression has no classes")
        return _cost_of(task, objective, threshold)
    if task == "regression":
        return ScaledError()
    if (task, objective) == ("binary", "zero_one"):
        return _zero_one_at(threshold)
    return _CLASSIFICATION[task, objective]


def _cost_of(task: Task, costs: Costs, threshold: float) -> Loss:
    """Return the cost of the label that a score stands for."""

    def cost(label: LabelValue, score: Score) -> float | None:
        answer = label_of(task, score, threshold)
        return None if answer is None else float(costs.get((label, answer), 0.0))

    return cost


def _mean_over_rows(task: Task, metric: metrics.base.Metric, threshold: float, where: str) -> Loss:
    """Return a metric as a loss of single rows; refuse one that is no mean over rows."""
    loss, rows, name = _MetricLoss(task, metric, threshold), _ROWS[task], type(metric).__name__
    hint = "a loss is a mean over rows, as Accuracy, LogLoss, CrossEntropy, MAE or MSE are"
    try:
        whole = loss.of(rows)
        mean = math.fsum(loss.of([row]) for row in rows) / len(rows)
    except Exception as error:
        raise DefinitionError(f"{where}: {name} does not take a {task} task's scores", hint=hint) from error
    if not abs(whole - mean) <= MEAN_DIGITS * (1.0 + abs(mean)):
        raise DefinitionError(f"{where}: {name} of rows is not the mean of its rows", hint=hint)
    return loss


def judged_by(task: Task, objective: Objective = "brier", threshold: float = 0.5) -> str:
    """Return an objective as a report names it.

    >>> judged_by("binary", "zero_one", 0.15), judged_by("regression"), judged_by("regression", metrics.MAE())
    ('share of wrong answers at 0.15', 'absolute error, in 4 deviations of the label', 'MAE')
    """
    match objective:
        case metrics.base.Metric():
            return type(objective).__name__
        case Quantile(q):
            return f"pinball loss of the {q:g} quantile, in {ERROR_UNIT:g} deviations of the label"
        case Mapping():
            return f"cost of the answer at {threshold:g}" if task == "binary" else "cost of the answer"
    if task == "regression":
        return f"absolute error, in {ERROR_UNIT:g} deviations of the label"
    at = f" at {threshold:g}" if (task, objective) == ("binary", "zero_one") else ""
    return _NAMES[objective] + at


def loss_max(task: Task, objective: Objective) -> float | None:
    """Return the most by which two losses of one row may count as apart; None where nothing says it.

    An error of a regression that is further out counts as 1, a River metric of probabilities or numbers has
    no largest value.

    >>> loss_max("binary", {(True, False): 10.0}), loss_max("binary", metrics.Accuracy())
    (10.0, 1.0)
    >>> loss_max("regression", Quantile(0.9)), loss_max("regression", metrics.MAE())
    (1.0, None)
    """
    match objective:
        case metrics.base.Metric():
            return 1.0 if task != "regression" and getattr(objective, "requires_labels", False) else None
        case Mapping():
            return max(objective.values())
    return 1.0


def objective_name(objective: Objective | None) -> str:
    """Return a few words for an objective; None is the one of the race.

    >>> objective_name(None), objective_name(metrics.MAE()), objective_name(Quantile(0.9))
    ('loss', 'MAE', 'quantile 0.9')
    """
    match objective:
        case metrics.base.Metric():
            return type(objective).__name__
        case Quantile(q):
            return f"quantile {q:g}"
        case Mapping():
            return "cost"
    return objective or "loss"


class GuardLosses:
    """The losses that guards compare by, beside the one of the race.

    Those of a regression have scales of their own, which are a part of whoever asks.

    >>> losses = GuardLosses("binary", [None, "zero_one"], 0.5)
    >>> of_race, scores = {"a": 0.04, "b": 0.36}, {"a": 0.8, "b": 0.4}
    >>> [losses.of(number, True, scores, of_race) for number in (0, 1)]
    [{'a': 0.04, 'b': 0.36}, {'a': 0.0, 'b': 1.0}]
    """

    def __init__(self, task: Task, objectives: Sequence[Objective | None], threshold: float) -> None:
        """The objectives are those of the guards, in order; None is the one of the race."""
        self._losses: list[Loss | None] = [
            None if one is None else loss_of(task, one, threshold, "guard.loss") for one in objectives
        ]
        self._scaled = [loss for loss in self._losses if isinstance(loss, ScaledError)]

    def of(
        self, number: int, label: LabelValue, scores: Mapping[str, Score], of_race: LossByName
    ) -> LossByName:
        """Return the loss of each candidate of `of_race`, by the guard of this number."""
        loss = self._losses[number]
        return of_race if loss is None else {name: loss(label, scores[name]) for name in of_race}

    @property
    def scaled(self) -> bool:
        """Return whether a loss has a scale of its own."""
        return bool(self._scaled)

    def update(self, label: LabelValue) -> None:
        """Add one label to the scales, after its losses have been computed."""
        for loss in self._scaled:
            loss.update(label)

    def scales(self) -> list[tuple[float, float, float]]:
        """Return the scales, as `ScaledError.state` does."""
        return [loss.state() for loss in self._scaled]

    def restore(self, scales: Sequence[tuple[float, float, float]]) -> None:
        """Replace the scales."""
        for loss, state in zip(self._scaled, scales, strict=True):
            loss.restore(state)
