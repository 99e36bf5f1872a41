"""Who else might have answered: rules replayed on the scores of one run, which see labels when they came.

Lives here: the loss and the metric of a row, and the answer that each rule would have given.  Never here: the
product's own rule (the run itself), tables.

    first      the first champion for ever             best    the single candidate of the lowest loss, known
    last       the last label known, as the answer             only in hindsight
    window     whoever's mean loss over the last WINDOW labels is lower by MARGIN takes over: no statistics
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from river import stats

from loadtest.learning.stream_run import StreamRun
from operators.models.scoring import label_of
from operators.race.losses import ERROR_UNIT, brier, multiclass_brier
from topics.messages import LabelValue, Score, Task

__all__ = ["Answers", "Worth", "outcomes"]

WINDOW = 1_024
MARGIN = 0.005
SWAPS = frozenset({"model.promoted", "model.rolled_back"})
METRICS: Mapping[Task, str] = {"binary": "accuracy", "multiclass": "accuracy", "regression": "MAE"}
"""What a user reads."""
Loss = float | None


class Worth(NamedTuple):
    """What one way to answer is worth, over the rows on which all candidates had a score."""

    loss: float
    metric: float
    swaps: tuple[int, ...] = ()
    """Labels known at each change of who answers."""


class Answers(NamedTuple):
    """The outcomes of a run, and of the rules beside it."""

    rows: int
    """Rows that are counted."""
    served: Worth
    first: Worth
    best: Worth
    best_name: str
    last: Worth
    window: Worth
    singles: Mapping[str, Worth]


def outcomes(run: StreamRun, blends: frozenset[str] = frozenset()) -> Answers:
    """Return what was served and what each rule would have come to; `blends` are no single candidates."""
    scales = _scales(run)
    losses = {
        name: [_loss(run.task, *row) for row in zip(run.labels, scores, scales, strict=True)]
        for name, scores in run.scores.items()
    }
    counted = [row for row, each in enumerate(zip(*losses.values(), strict=True)) if None not in each]
    judged = _Judged(run, scales, counted)
    singles = {name: judged.outcome(run.scores[name]) for name in run.candidates if name not in blends}
    best = min(singles, key=lambda name: singles[name].loss)
    window_scores, window_swaps = _window(run, {name: losses[name] for name in singles})
    return Answers(
        len(counted),
        judged.outcome(run.served, _swaps(run)),
        singles[next(iter(singles))],
        singles[best],
        best,
        judged.outcome(_last(run)),
        judged.outcome(window_scores, window_swaps),
        singles,
    )


def _swaps(run: StreamRun) -> tuple[int, ...]:
    """Return the labels known at each swap; where nobody was named, who serves first is no swap."""
    return tuple(decision.examples for decision in run.decisions if decision.type in SWAPS)


class _Judged:
    """The rows that count, and the mean loss and metric of answers to them."""

    def __init__(self, run: StreamRun, scales: Sequence[float], counted: Sequence[int]) -> None:
        self._run, self._scales, self._counted = run, scales, counted

    def outcome(self, scores: Sequence[Score], swaps: tuple[int, ...] = ()) -> Worth:
        """Return the outcome of these answers, one for each row of the run."""
        task, labels = self._run.task, self._run.labels
        losses = [_loss(task, labels[row], scores[row], self._scales[row]) for row in self._counted]
        told = [loss for loss in losses if loss is not None]
        metric = [_metric(task, labels[row], scores[row]) for row in self._counted if scores[row] is not None]
        return Worth(_mean(told), _mean(metric), swaps)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _scales(run: StreamRun) -> list[float]:
    """Return the deviation of the labels known before each row's own; 0 where there is none yet."""
    scales = [1.0] * len(run.labels)
    if run.task == "regression":
        variance = stats.Var()
        for row, known in run.steps:
            if known:
                scales[row] = math.sqrt(max(variance.get(), 0.0))
                variance.update(float(run.labels[row]))
    return scales


def _loss(task: Task, label: LabelValue, score: Score, scale: float) -> Loss:
    """Return Brier's score, half the squared distance for several classes, or the scaled error, uncut."""
    if score is None or not scale:
        return None
    if task == "regression":
        assert isinstance(score, float)
        return abs(float(label) - score) / (ERROR_UNIT * scale)
    return (brier if task == "binary" else multiclass_brier)(label, score)


def _metric(task: Task, label: LabelValue, score: Score) -> float:
    answer = label_of(task, score)
    if task == "regression":
        assert isinstance(answer, float)
        return abs(float(label) - answer)
    return float(answer == label)


def _last(run: StreamRun) -> list[Score]:
    """Return the last label known as the answer to each row; of several classes, as certain."""
    scores: list[Score] = [None] * len(run.labels)
    last: Score = None
    for row, known in run.steps:
        if not known:
            scores[row] = last
        elif run.task == "multiclass":
            last = {str(run.labels[row]): 1.0}
        else:
            last = float(run.labels[row])
    return scores


def _window(run: StreamRun, losses: Mapping[str, Sequence[Loss]]) -> tuple[list[Score], tuple[int, ...]]:
    """Return what would have been served by the rule without statistics, and when it changed its mind."""
    recent: dict[str, deque[float]] = {name: deque(maxlen=WINDOW) for name in losses}
    totals = dict.fromkeys(losses, 0.0)
    scores: list[Score] = [None] * len(run.labels)
    champion = next(iter(losses))
    swaps: list[int] = []
    labels = 0
    for row, known in run.steps:
        if not known:
            scores[row] = run.scores[champion][row]
            continue
        labels += 1
        for name, column in losses.items():
            loss, window = column[row], recent[name]
            if loss is None:
                continue
            if len(window) == WINDOW:
                totals[name] -= window[0]
            window.append(loss)
            totals[name] += loss
        best = min(totals, key=totals.__getitem__)
        full = all(len(window) == WINDOW for window in recent.values())
        if full and totals[best] < totals[champion] - MARGIN * WINDOW:
            champion = best
            swaps.append(labels)
    return scores, tuple(swaps)
