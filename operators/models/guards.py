"""Guards for models that predicting changes: in River, scoring does not always leave a model as it was.

Lives here: the guards through which a model that predicting changes is taught and scored.
Never here: which model needs which (`probe.py`), scores, decisions.

What River 0.26.1's models do when they only predict, and the lightest guard for each:

    leaves the model as it was             the model itself: no guard, no cost
    changes it before the first lesson     FirstLesson   no opinion until something was learned
    changes it at a name never learned     KnownNames    scored without that feature
    ... at a text value never learned      KnownValues   scored without that feature
    anything else                          Copied        a copy is scored and thrown away; slow

A name never learned has no weight, so leaving it out answers as River does wherever River
is pure itself.  Guards nest: FirstLesson(KnownNames(model)).

One habit of River is mended where it arises (`_cond_proba`), because a guard would cost too much.

A guard must see every lesson, so it *is* the model from then on: teach it, score it, store
it, clone it.  What it knows is pickled with the model.
"""

from __future__ import annotations

import copy
from collections.abc import Set as AbstractSet
from typing import Any

from river.tree.splitter.nominal_splitter_classif import NominalSplitterClassif

from topics.messages import FeatureValue, FeatureValues, LabelValue

__all__ = ["Copied", "FirstLesson", "KnownNames", "KnownValues", "bare", "last_step", "without_guard"]

KNOWN_MAX = 1_000_000
"""Names (or values) a guard knows, about 100 bytes each; the model keeps more for each of them."""


class FirstLesson:
    """A guard that gives no prediction before the model's first lesson.

    For ensembles that settle their members' features at the first event they see: that event
    must be a lesson, not a prediction.
    """

    __slots__ = ("model", "taught")

    def __init__(self, model: Any) -> None:
        self.model = model
        self.taught = False

    def learn_one(self, x: FeatureValues, y: LabelValue, w: float | None = None) -> None:
        """Learn one example, of weight `w` where one is given."""
        if w is None:
            self.model.learn_one(x, y)
        else:
            self.model.learn_one(x, y, w=w)
        self.taught = True

    def predict_one(self, x: FeatureValues) -> Any:
        """Return River's answer, None before the first lesson."""
        return self.model.predict_one(x) if self.taught else None

    def predict_proba_one(self, x: FeatureValues) -> dict[Any, float]:
        """Return River's answer, {} before the first lesson."""
        return self.model.predict_proba_one(x) if self.taught else {}

    def clone(self) -> FirstLesson:
        """Return the same guard around a model that has learned nothing."""
        return FirstLesson(self.model.clone())


class KnownNames:
    """A guard that scores a model with only the features that some lesson had.

    For models that add an entry or draw a weight for a name they have not seen.

    >>> from river import linear_model, preprocessing
    >>> from operators.models.digest import digest
    >>> model = KnownNames(preprocessing.StandardScaler() | linear_model.LogisticRegression())
    >>> model.learn_one({"x": 1.0}, True)
    >>> before = digest(model)
    >>> _ = model.predict_proba_one({"x": 0.5, "new": 9.0})
    >>> digest(model) == before
    True
    """

    __slots__ = ("model", "names")

    def __init__(self, model: Any) -> None:
        self.model = model
        self.names: set[str] = set()

    def learn_one(self, x: FeatureValues, y: LabelValue, w: float | None = None) -> None:
        """Learn one example, of weight `w` where one is given, and its names."""
        if w is None:
            self.model.learn_one(x, y)
        else:
            self.model.learn_one(x, y, w=w)
        if not self.names.issuperset(x) and len(self.names) < KNOWN_MAX:
            self.names.update(x)

    def predict_one(self, x: FeatureValues) -> Any:
        """Return River's answer to the features it knows."""
        return self.model.predict_one(x if self.names.issuperset(x) else self._known(x))

    def predict_proba_one(self, x: FeatureValues) -> dict[Any, float]:
        """Return River's answer to the features it knows."""
        return self.model.predict_proba_one(x if self.names.issuperset(x) else self._known(x))  # type: ignore[no-any-return]

    def clone(self) -> KnownNames:
        """Return the same guard around a model that has learned nothing."""
        return KnownNames(self.model.clone())

    def _known(self, x: FeatureValues) -> FeatureValues:
        names = self.names
        return {name: value for name, value in x.items() if name in names}


class KnownValues:
    """A guard that scores a model with only the features, and text values, that some lesson had.

    For models that make a weight of every text (`carrier=AA`): factorisation machines.
    """

    __slots__ = ("model", "values")

    def __init__(self, model: Any) -> None:
        self.model = model
        self.values: set[tuple[str, str | None]] = set()
        """Name and text; None stands for all values that are no text."""

    def learn_one(self, x: FeatureValues, y: LabelValue, w: float | None = None) -> None:
        """Learn one example, of weight `w` where one is given, its names and its texts."""
        if w is None:
            self.model.learn_one(x, y)
        else:
            self.model.learn_one(x, y, w=w)
        if len(self.values) < KNOWN_MAX:
            self.values.update(map(_pair, x.items()))

    def predict_one(self, x: FeatureValues) -> Any:
        """Return River's answer to the features it knows."""
        return self.model.predict_one(self._known(x))

    def predict_proba_one(self, x: FeatureValues) -> dict[Any, float]:
        """Return River's answer to the features it knows."""
        return self.model.predict_proba_one(self._known(x))  # type: ignore[no-any-return]

    def clone(self) -> KnownValues:
        """Return the same guard around a model that has learned nothing."""
        return KnownValues(self.model.clone())

    def _known(self, x: FeatureValues) -> FeatureValues:
        values = self.values
        return {item[0]: item[1] for item in x.items() if _pair(item) in values}


def _pair(item: tuple[str, FeatureValue]) -> tuple[str, str | None]:
    name, value = item
    return name, value if isinstance(value, str) else None


def without_guard(model: Any, names: AbstractSet[str]) -> Any:
    """Return `model` without the guards that change nothing, lessons included, for features called `names`.

    No other features may come then.

    >>> from river import linear_model
    >>> guarded = KnownNames(linear_model.LogisticRegression())
    >>> without_guard(guarded, {"x"}) is guarded
    True
    >>> guarded.learn_one({"x": 1.0}, True)
    >>> without_guard(guarded, {"x"}) is guarded.model
    True
    """
    unneeded = (isinstance(model, FirstLesson) and model.taught) or (
        isinstance(model, KnownNames) and model.names.issuperset(names)
    )
    return without_guard(model.model, names) if unneeded else model


def bare(model: Any) -> Any:
    """Return a model without its guards, as River knows it.

    >>> from river import linear_model
    >>> type(bare(FirstLesson(KnownNames(linear_model.LinearRegression())))).__name__
    'LinearRegression'
    """
    while isinstance(model, FirstLesson | KnownNames | KnownValues | Copied):
        model = model.model
    return model


def last_step(model: Any) -> Any:
    """Return the estimator that learns the label: the last step of a pipeline, without guards.

    >>> from river import linear_model, preprocessing
    >>> guarded = KnownNames(preprocessing.StandardScaler() | linear_model.LogisticRegression())
    >>> type(last_step(guarded)).__name__
    'LogisticRegression'
    """
    while hasattr(model := bare(model), "steps"):
        model = list(model.steps.values())[-1]
    return model


class Copied:
    """A guard that scores a deep copy of the model, a new one for every prediction.

    Right for every model and slow: from 50 microseconds to many milliseconds.  A copy kept from
    one prediction to the next would let them change one another.
    """

    __slots__ = ("model",)

    def __init__(self, model: Any) -> None:
        self.model = model

    def learn_one(self, x: FeatureValues, y: LabelValue, w: float | None = None) -> None:
        """Learn one example, of weight `w` where one is given."""
        if w is None:
            self.model.learn_one(x, y)
        else:
            self.model.learn_one(x, y, w=w)

    def predict_one(self, x: FeatureValues) -> Any:
        """Return River's answer."""
        return copy.deepcopy(self.model).predict_one(x)

    def predict_proba_one(self, x: FeatureValues) -> dict[Any, float]:
        """Return River's answer."""
        return copy.deepcopy(self.model).predict_proba_one(x)  # type: ignore[no-any-return]

    def clone(self) -> Copied:
        """Return the same guard around a model that has learned nothing."""
        return Copied(self.model.clone())


def _cond_proba(self: Any, att_val: Any, target_val: Any) -> float:
    """Return what River's `NominalSplitterClassif.cond_proba` does, and leave the leaf as it was.

    River looks the class up in a defaultdict: asking a Hoeffding tree about a text feature adds an
    empty entry for every class that the leaf has not met with it.  That changes the order of classes
    in later splits, hence sums in their last bit and ties.  The answer is the same to the bit.
    """
    weights = self._att_dist_per_class.get(target_val)
    if not weights or att_val not in weights:
        return 0.0
    total = sum(weights.values())
    return weights[att_val] / total if total else 0.0


NominalSplitterClassif.cond_proba = _cond_proba  # type: ignore[method-assign]
