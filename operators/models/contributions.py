"""Contributions of features to the score of a linear model: weight x value as the model sees it.

Lives here: the way through River's pipelines to the linear step, and the path that an event takes through a
tree.  Never here: what was served (`scoring.py`), which state the model was in.

    score = link(intercept + sum of weight x scaled value)        link: sigmoid, softmax, or none

Values are those behind scalers and encoders, so a contribution is in the units of the linear predictor.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

from river import multiclass

from operators.models.guards import bare, last_step
from topics.messages import FeatureValues

__all__ = ["Contribution", "LinearScore", "linear_scores", "tree_path"]

LINEAR = "river.linear_model."
"""Where River keeps models whose weights are all there is to them."""


class Contribution(NamedTuple):
    """What one input of a linear step adds to its predictor."""

    name: str
    weight: float
    value: float
    """As the step gets it: scaled, encoded."""
    contribution: float


class LinearScore(NamedTuple):
    """The linear predictor of one label, taken apart."""

    label: str
    """The class; empty where there is one predictor."""
    intercept: float
    contributions: tuple[Contribution, ...]
    """The largest first, by their amount."""

    @property
    def total(self) -> float:
        """Return the predictor: intercept and contributions together."""
        return self.intercept + sum(one.contribution for one in self.contributions)


def linear_scores(model: Any, features: FeatureValues) -> list[LinearScore]:
    """Return the predictors of a linear model, one a class; none where the model is not linear.

    The model, guards and pipeline included, stays as it is: a copy is asked.

    >>> from river import linear_model, preprocessing
    >>> model = preprocessing.StandardScaler() | linear_model.LinearRegression()
    >>> for value in range(9):
    ...     model.learn_one({"x": value}, 2.0 * value)
    >>> (score,) = linear_scores(model, {"x": 4})
    >>> score.total == model.predict_one({"x": 4}), [one.name for one in score.contributions]
    (True, ['x'])
    """
    step = last_step(model)
    if isinstance(step, multiclass.OneVsRestClassifier):
        linear = {str(label): one for label, one in step.classifiers.items()}
        if not linear or not all(_is_linear(last_step(one)) for one in linear.values()):
            return []
    elif _is_linear(step):
        linear = {"": step}
    else:
        return []
    values = _inputs(copy.deepcopy(model), features)
    return [
        score
        for label, one in linear.items()
        for score in _taken_apart(label, last_step(one), _inputs(copy.deepcopy(one), values))
    ]


def tree_path(model: Any, features: FeatureValues) -> str:
    """Return the branches that an event takes through a single tree, as River tells them; else empty."""
    step = last_step(model)
    tell = getattr(step, "debug_one", None)
    if tell is None or not hasattr(step, "n_leaves"):
        return ""
    copied = copy.deepcopy(model)
    return str(last_step(copied).debug_one(_inputs(copied, features)) or "").strip()


def _is_linear(step: Any) -> bool:
    of_river = any(base.__module__.startswith(LINEAR) for base in type(step).__mro__)
    return of_river and isinstance(getattr(step, "weights", None), Mapping)


def _inputs(model: Any, features: FeatureValues) -> dict[str, Any]:
    """Return what the last step of a model gets."""
    values: dict[str, Any] = dict(features)
    while hasattr(model := bare(model), "steps"):
        *before, model = model.steps.values()
        for step in before:
            values = step.transform_one(values)
    return values


def _taken_apart(label: str, step: Any, values: Mapping[str, Any]) -> list[LinearScore]:
    weights: Mapping[Any, Any] = step.weights
    by_label = {label: weights}
    if any(isinstance(one, Mapping) for one in weights.values()):
        by_label = {str(one): of_one for one, of_one in weights.items()}  # softmax: weights of each class
    intercept = float(getattr(step, "intercept", 0.0))
    scores = []
    for name, of_label in by_label.items():
        parts = []
        for input_, value in values.items():
            weight = float(of_label.get(input_, 0.0))  # a name never learned has none
            parts.append(Contribution(str(input_), weight, float(value), weight * float(value)))
        parts.sort(key=lambda one: -abs(one.contribution))
        scores.append(LinearScore(name, intercept, tuple(parts)))
    return scores
