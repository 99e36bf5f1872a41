"""Weighted lessons: how the weight of a label reaches a model of River's.

Lives here: which models take a weight, and what is done with the others.  Never here: where a weight comes
from (`topics/codec.py`, `operators/join`), what is measured, which counts every label once.

    the last step's `learn_one` names `w`     taught once, with w = weight
    it does not                               taught again and again: as often as the weight says

A part of a repetition is left to a hash of the event's id: of weight 2.3, seven in ten are learned twice and
three in ten three times, the same ones in every replay.  So both teach as much in the mean.  A wrapper that
takes any keyword is of the second kind: some of River's pass `w` on, others (the adaptive random forest) drop
it without a word.

A lesson of weight 0 is none.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cache
from inspect import Parameter, signature
from itertools import repeat
from typing import Any, NamedTuple, cast

from operators.models.guards import bare
from operators.models.table import share_of
from topics.messages import ASSUMED, Example, FeatureValues, LabelValue, Score

__all__ = ["Teach", "Weight", "fake_negative_weight", "takes_weight", "weight_of", "weighted"]

Teach = Callable[[FeatureValues, LabelValue], object]
"""How a model is taught one row."""
_SALT = "headrace/label_weight"


class Weight(NamedTuple):
    """The weight of one lesson."""

    of_lesson: float
    """As the label has it: 0 or more, finite."""
    times: int
    """How often a model is taught that takes no weights."""

    @classmethod
    def of(cls, weight: float, event_id: str) -> Weight:
        """Return the weight of the lesson of an event.

        >>> Weight.of(3.0, "e1"), [Weight.of(1.5, f"e{n}").times for n in range(8)]
        (Weight(of_lesson=3.0, times=3), [1, 2, 1, 2, 2, 2, 1, 1])
        """
        whole = int(weight)
        rest = weight - whole
        return cls(weight, whole + (rest > 0.0 and share_of(_SALT, event_id) < rest))


def weight_of(name: str, example: Example) -> float:
    """Return what an example weighs when the candidate of this name learns it."""
    if not example.learn:
        return 0.0
    if example.origin not in ASSUMED:
        return example.label_weight
    return example.label_weight * fake_negative_weight(example.label, example.scores.get(name))


def fake_negative_weight(label: LabelValue, score: Score) -> float:
    """Return what a negative that is assumed at once weighs, and the positive that comes after it.

    A positive is in the log twice, once as a negative.  With `p` the model's own probability when it
    answered, weights of (1 - p)(1 + p) and 1 + p let it learn the true odds: of `n` events of the true
    probability `q`, these are `n q (1 + p)` to `n (1 - p)(1 + p)`, that is q : 1 - q where p has come to q.
    And it comes to it: one that lies beside it by d is followed by one that lies beside it by q d.

    S. I. Ktena et al., "Addressing Delayed Feedback for Continuous Training with Neural Networks in CTR
    prediction" (RecSys 2019, arXiv 1907.06558), fake negative weighted loss.

    >>> fake_negative_weight(True, 0.2), round(fake_negative_weight(False, 0.2), 2)
    (1.2, 0.96)
    >>> fake_negative_weight(False, None)
    1.0
    """
    p = score if isinstance(score, float) else 0.0
    return 1.0 + p if label else (1.0 - p) * (1.0 + p)


def takes_weight(model: Any) -> bool:
    """Return whether a model takes weights: whether its last step names `w` among what it learns by.

    A pipeline offers the weight to every step, and one that takes any keyword hands it on to who knows whom
    (an anomaly filter to its detector, which fails): such a pipeline takes none.

    >>> from river import anomaly, compose, forest, linear_model, naive_bayes, preprocessing, tree
    >>> scaled = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    >>> takes_weight(scaled), takes_weight(tree.HoeffdingTreeClassifier())
    (True, True)
    >>> takes_weight(naive_bayes.GaussianNB()), takes_weight(forest.ARFClassifier(seed=1))
    (False, False)
    >>> takes_weight(anomaly.QuantileFilter(anomaly.OneClassSVM(), q=0.9) | linear_model.LogisticRegression())
    False
    """
    before, last = [], bare(model)
    while hasattr(last, "steps"):
        *steps, last = last.steps.values()
        before += steps
        last = bare(last)
    return "w" in _learned_by(last) and not any(map(_takes_any, before))


def _learned_by(step: Any) -> Mapping[str, Parameter]:
    return _parameters(cast("Hashable", type(step)))


@cache
def _parameters(kind: Any) -> Mapping[str, Parameter]:
    return signature(kind.learn_one).parameters


def _takes_any(step: Any) -> bool:
    """Return whether a step, or one beside it or inside it, takes any keyword."""
    inside = getattr(step, "transformers", None) or getattr(step, "steps", None)
    if inside is not None:
        return any(map(_takes_any, inside.values()))
    return any(one.kind is Parameter.VAR_KEYWORD for one in _learned_by(step).values())


def weighted(model: Any, learn_one: Callable[..., object], name: str, examples: Sequence[Example]) -> Teach:
    """Return a function that teaches a candidate these examples, each with its weight, in order.

    `learn_one` is that of the model, or of its guard.

    >>> from river import stats
    >>> class Mean:
    ...     def __init__(self):
    ...         self.mean = stats.Mean()
    ...     def learn_one(self, x, y):
    ...         self.mean.update(y)
    >>> def example(event_id, weight):
    ...     places = (None, "champion", "m", 0, 0, 0, 1, 0)
    ...     return Example(event_id, "k", 0, 9, 1.0, {}, {}, *places, label_weight=weight)
    >>> model = Mean()
    >>> examples = [example("a", 3.0), example("b", 0.0), example("c", 1.0)]
    >>> teach = weighted(model, model.learn_one, "m", examples)
    >>> for label in (2.0, 99.0, 6.0):
    ...     teach({}, label)
    >>> model.mean.get()
    3.0
    """
    following = iter([Weight.of(weight_of(name, example), example.event_id) for example in examples])
    if takes_weight(model):

        def learn_weighted(features: FeatureValues, label: LabelValue) -> None:
            weight = next(following).of_lesson
            if weight == 1.0:
                learn_one(features, label)
            elif weight > 0.0:
                learn_one(features, label, w=weight)

        return learn_weighted

    def learn_repeated(features: FeatureValues, label: LabelValue) -> None:
        for _ in repeat(None, next(following).times):
            learn_one(features, label)

    return learn_repeated
