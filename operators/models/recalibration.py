"""Scores made honest: a candidate's last step that learns how often its scores come true.

Lives here: isotonic regression over bins, Platt scaling by River's logistic regression, the estimator that a
candidate becomes with `recalibrate=`.  Never here: how calibrated anybody is (`operators/monitor`).

    learn_one(x, y)   1 the model scores x as it is   2 the calibrator learns (score, y)   3 the model learns
    predict           the model scores, the calibrator corrects

So the calibrator learns from scores of rows that the model had not learned: test, then train.  With labels
that come at once these are the scores before correction that were served; with delayed ones they are of the
model as it stands when the label comes.  A row that weighs more than one is learned so often, by both.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import log
from typing import Any, Literal

from river import base, linear_model, optim

from topics.errors import DefinitionError
from topics.messages import FeatureValues

__all__ = ["BINS", "Isotonic", "Recalibrate", "Recalibrated", "increasing"]

Recalibrate = Literal["platt", "isotonic"]
BINS = 20
"""Of scores, of equal width: a bin is five percent."""
BELIEF_ROWS = 4.0
"""A bin begins as if so many rows had come true as often as its scores say."""
SCORE_MIN = 1e-6
"""The logit of a score stops here: one sure answer must not throw the slope away."""
PLATT_RATE = 0.05


def increasing(weights: Sequence[float], values: Sequence[float]) -> list[float]:
    """Return the increasing values nearest to `values` by weighted squares.

    Pool adjacent violators (Ayer, Brunk, Ewing, Reid and Silverman, 1955).

    >>> increasing([1, 1, 1], [0.25, 1.0, 0.5])
    [0.25, 0.75, 0.75]
    """
    pools: list[tuple[float, float, int]] = []
    for weight, value in zip(weights, values, strict=True):
        pool = (weight, weight * value, 1)
        while pools and pools[-1][1] * pool[0] >= pool[1] * pools[-1][0]:
            other = pools.pop()
            pool = (other[0] + pool[0], other[1] + pool[1], other[2] + pool[2])
        pools.append(pool)
    return [total / weight for weight, total, count in pools for _ in range(count)]


class Isotonic:
    """How often scores come true, as an increasing line through the bins of the score.

    >>> line = Isotonic()
    >>> for number in range(1_000):
    ...     line.learn(0.9, number % 2 == 0)
    >>> round(line.corrected(0.9), 2), round(line.corrected(0.1), 2)
    (0.51, 0.1)
    """

    def __init__(self) -> None:
        middles = [(number + 0.5) / BINS for number in range(BINS)]
        self.rows = [BELIEF_ROWS] * BINS
        self.scores = [BELIEF_ROWS * middle for middle in middles]
        self.truths = list(self.scores)
        self._line: tuple[list[float], list[float]] | None = None

    def learn(self, score: float, truth: float) -> None:
        """Learn one score and whether it came true."""
        place = min(int(score * BINS), BINS - 1)
        self.rows[place] += 1.0
        self.scores[place] += score
        self.truths[place] += truth
        self._line = None

    def line(self) -> tuple[list[float], list[float]]:
        """Return the mean scores of the bins, and how often scores like these come true."""
        if self._line is None:
            means = [score / rows for score, rows in zip(self.scores, self.rows, strict=True)]
            shares = [truth / rows for truth, rows in zip(self.truths, self.rows, strict=True)]
            self._line = means, increasing(self.rows, shares)
        return self._line

    def corrected(self, score: float) -> float:
        """Return how often a score comes true: straight between the bins, flat beyond the outer ones."""
        means, shares = self.line()
        right = bisect_left(means, score)
        if right in {0, BINS}:
            return shares[min(right, BINS - 1)]
        share = (score - means[right - 1]) / (means[right] - means[right - 1])
        return shares[right - 1] + share * (shares[right] - shares[right - 1])


class _Platt:
    """A logistic regression on the logit of the score (Platt, 1999), which begins as no correction."""

    def __init__(self) -> None:
        self.model = linear_model.LogisticRegression(optim.SGD(PLATT_RATE))
        self.model._weights["logit"] = 1.0

    def learn(self, score: float, truth: float) -> None:
        self.model.learn_one({"logit": _logit(score)}, bool(truth))

    def corrected(self, score: float) -> float:
        return float(self.model.predict_proba_one({"logit": _logit(score)})[True])  # type: ignore[no-untyped-call]


def _logit(score: float) -> float:
    score = min(max(score, SCORE_MIN), 1.0 - SCORE_MIN)
    return log(score / (1.0 - score))


class Recalibrated(base.Wrapper, base.Classifier):  # type: ignore[type-arg]
    """A binary classifier whose scores are corrected by what came of its scores so far.

    Before the model has an opinion there is nothing to correct, and nothing to learn from.

    >>> model = Recalibrated(linear_model.LogisticRegression(), by="platt")
    >>> for number in range(200):
    ...     model.learn_one({"x": 1.0}, number % 4 == 1)
    >>> {label: round(chance, 1) for label, chance in model.predict_proba_one({"x": 1.0}).items()}
    {False: 0.7, True: 0.3}
    """

    def __init__(self, model: Any, by: Recalibrate = "isotonic") -> None:
        """Raises DefinitionError for another `by` than `"platt"` and `"isotonic"`."""
        if by not in {"platt", "isotonic"}:
            raise DefinitionError(f"recalibrate is {by!r}", hint='use "platt" or "isotonic"')
        self.model = model
        self.by = by
        self.calibrator: Isotonic | _Platt = Isotonic() if by == "isotonic" else _Platt()

    @property
    def _wrapped_model(self) -> Any:
        return self.model

    @property
    def _multiclass(self) -> bool:
        return False

    def learn_one(self, x: FeatureValues, y: Any) -> None:  # type: ignore[override]
        """Let the calibrator learn from the score of now, then the model from the row."""
        score = _score_of(self.model.predict_proba_one(x))
        if score is not None:
            self.calibrator.learn(score, float(y))
        self.model.learn_one(x, y)

    def predict_proba_one(self, x: FeatureValues) -> dict[Any, float]:  # type: ignore[override]
        """Return the corrected probabilities; none where the model has none."""
        chances: dict[Any, float] = self.model.predict_proba_one(x)
        score = _score_of(chances)
        if score is None:
            return chances
        corrected = self.calibrator.corrected(score)
        return {False: 1.0 - corrected, True: corrected}


def _score_of(chances: dict[Any, float]) -> float | None:
    """Return the probability of true; None for no opinion and for what is no number."""
    if not chances:
        return None
    score = float(chances.get(True, 0.0))
    return min(max(score, 0.0), 1.0) if score == score else None  # noqa: PLR0124 not a number
