"""River's models, all of them that one event at a time can teach, for tests that must hold for each.

`ZOO` has every public classifier and regressor of River with its own test parameters, and the
pipelines users write.  Events are made by arithmetic on their index: the same in every process.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import river
from river import (
    anomaly,
    base,
    compose,
    drift,
    ensemble,
    facto,
    feature_extraction,
    forest,
    linear_model,
    multiclass,
    naive_bayes,
    neighbors,
    optim,
    preprocessing,
    stats,
    tree,
)

from topics.messages import FeatureValues, LabelValue, Task

ROOMS_LEFT_OUT = {"api", "checks", "compat", "datasets", "imblearn", "stream", "test"}
"""Not models, or wrappers of other libraries."""
NOT_SINGLE = {"ISOUPTreeRegressor", "ZstdClassifier", "SuccessiveHalvingClassifier"}
"""Several targets at once; Python 3.14; a test parameter missing in River."""
NUMBERS: dict[str, type] = {"amount": float, "count": int, "price": float, "known": bool}
MIXED: dict[str, type] = {"amount": float, "city": str, "count": int, "device": str}


class Animal(NamedTuple):
    """One kind of model: how to make a fresh one and what to feed it."""

    name: str
    make: Callable[[], Any]
    task: Task
    kinds: dict[str, type]


def event(index: int, kinds: dict[str, type]) -> FeatureValues:
    """Return the features of event number `index`."""
    x: FeatureValues = {}
    for place, (name, kind) in enumerate(kinds.items()):
        noise = (index * 2654435761 + place * 40503) % 1009 / 1009
        if kind is str:
            x[name] = f"{'ab'[index % 2]}{int(noise * 4)}"
        elif kind is bool:
            x[name] = noise > 0.5
        else:
            x[name] = index % 2 + int(noise * 3) if kind is int else index % 2 + noise
    return x


def label(index: int, task: Task) -> LabelValue:
    """Return the label of event number `index`; classes turn round every 64 events."""
    turned = index // 64 % 2
    if task == "binary":
        return (index + turned) % 2 == 1
    return (
        "abc"[(index + turned) % 3] if task == "multiclass" else index % 2 * (1 - 2 * turned) + index % 7 / 10
    )


def teach(model: Any, animal: Animal, begin: int, end: int) -> None:
    """Teach `model` the events from `begin` to before `end`."""
    for index in range(begin, end):
        model.learn_one(event(index, animal.kinds), label(index, animal.task))


def ask(model: Any, x: FeatureValues, task: Task) -> Any:
    """Return the prediction as scoring asks for it."""
    if task == "regression":
        return model.predict_one(x)
    try:
        return model.predict_proba_one(x)
    except NotImplementedError:
        return model.predict_one(x)


def _discovered() -> Iterator[Animal]:
    seen: set[type] = set()
    for room in pkgutil.iter_modules(river.__path__):
        if room.name in ROOMS_LEFT_OUT or room.name.startswith("_"):
            continue
        for name, kind in inspect.getmembers(importlib.import_module(f"river.{room.name}"), inspect.isclass):
            one = issubclass(kind, base.Classifier | base.Regressor) and not inspect.isabstract(kind)
            if not one or issubclass(kind, base.MultiLabelClassifier) or name in NOT_SINGLE or kind in seen:
                continue
            seen.add(kind)
            yield from _of_class(room.name, kind)


def _of_class(room: str, kind: Any) -> Iterator[Animal]:
    needed = [p for p in inspect.signature(kind).parameters.values() if p.default is p.empty]
    for number, parameters in enumerate(kind._unit_test_params()):
        if any(p.name not in parameters and p.kind is p.POSITIONAL_OR_KEYWORD for p in needed):
            continue
        if "seed" in inspect.signature(kind).parameters:
            parameters.setdefault("seed", 42)

        def make(parameters: dict[str, Any] = parameters) -> Any:
            return kind(**parameters).clone()

        task: Task = "regression" if issubclass(kind, base.Regressor) else "binary"
        yield Animal(f"{room}.{kind.__name__}-{number}", make, task, NUMBERS)


def _encoded() -> Any:
    words, numbers = compose.SelectType(str), compose.SelectType(int, float)
    return (words | preprocessing.OneHotEncoder()) + (numbers | preprocessing.StandardScaler())


def _scaled(model: Any) -> Any:
    return preprocessing.StandardScaler() | model


LR = linear_model.LogisticRegression
PIPELINES = [
    Animal("scaler|logistic", lambda: _scaled(LR()), "binary", NUMBERS),
    Animal("scaler|logistic-adam", lambda: _scaled(LR(optim.Adam())), "binary", NUMBERS),
    Animal("scaler|logistic-ftrl", lambda: _scaled(LR(optim.FTRLProximal())), "binary", NUMBERS),
    Animal(
        "window-scaler|logistic",
        lambda: preprocessing.StandardScaler(window_size=20) | LR(),
        "binary",
        NUMBERS,
    ),
    Animal(
        "minmax|alma", lambda: preprocessing.MinMaxScaler() | linear_model.ALMAClassifier(), "binary", NUMBERS
    ),
    Animal(
        "robust|perceptron",
        lambda: preprocessing.RobustScaler() | linear_model.Perceptron(),
        "binary",
        NUMBERS,
    ),
    Animal("adaptive|logistic", lambda: preprocessing.AdaptiveStandardScaler() | LR(), "binary", NUMBERS),
    Animal("encoder|logistic", lambda: _encoded() | LR(), "binary", MIXED),
    Animal("encoder|softmax", lambda: _encoded() | linear_model.SoftmaxRegression(), "multiclass", MIXED),
    Animal("encoder|linear", lambda: _encoded() | linear_model.LinearRegression(), "regression", MIXED),
    Animal(
        "encoder|bagging",
        lambda: _encoded() | ensemble.LeveragingBaggingClassifier(LR(), 3, seed=1),
        "binary",
        MIXED,
    ),
    Animal(
        "ordinal|tree",
        lambda: preprocessing.OrdinalEncoder() | tree.HoeffdingTreeClassifier(),
        "binary",
        MIXED,
    ),
    Animal("hasher|logistic", lambda: preprocessing.FeatureHasher(8, seed=1) | LR(), "binary", MIXED),
    Animal(
        "polynomial|logistic",
        lambda: feature_extraction.PolynomialExtender() | _scaled(LR()),
        "binary",
        NUMBERS,
    ),
    Animal("rbf|logistic", lambda: feature_extraction.RBFSampler(8, seed=1) | LR(), "binary", NUMBERS),
    Animal(
        "projection|logistic",
        lambda: preprocessing.GaussianRandomProjector(2, seed=1) | LR(),
        "binary",
        NUMBERS,
    ),
    Animal(
        "sparse|logistic", lambda: preprocessing.SparseRandomProjector(2, seed=1) | LR(), "binary", NUMBERS
    ),
    Animal(
        "words|bayes",
        lambda: feature_extraction.BagOfWords(on="city") | naive_bayes.MultinomialNB(),
        "binary",
        MIXED,
    ),
    Animal(
        "target-mean|logistic",
        lambda: feature_extraction.TargetAgg(by="city", how=stats.Mean()) | LR(),
        "binary",
        MIXED,
    ),
    Animal(
        "filter|logistic",
        lambda: _scaled(anomaly.QuantileFilter(anomaly.OneClassSVM(), q=0.9)) | LR(),
        "binary",
        NUMBERS,
    ),
    Animal(
        "scaler|one-vs-rest", lambda: _scaled(multiclass.OneVsRestClassifier(LR())), "multiclass", NUMBERS
    ),
    Animal(
        "one-vs-rest(scaler)", lambda: multiclass.OneVsRestClassifier(_scaled(LR())), "multiclass", NUMBERS
    ),
    Animal(
        "scaler|target-scaler",
        lambda: _scaled(preprocessing.TargetStandardScaler(linear_model.LinearRegression())),
        "regression",
        NUMBERS,
    ),
    Animal("scaler|forest", lambda: _scaled(forest.ARFClassifier(3, seed=1)), "binary", NUMBERS),
    Animal("forest-mixed", lambda: forest.ARFClassifier(3, seed=1), "multiclass", MIXED),
    Animal(
        "tree-mixed", lambda: tree.HoeffdingTreeClassifier(grace_period=20, delta=0.1), "multiclass", MIXED
    ),
    Animal(
        "adaptive-mixed",
        lambda: tree.HoeffdingAdaptiveTreeClassifier(grace_period=20, delta=0.1, seed=1),
        "binary",
        MIXED,
    ),
    Animal(
        "efdt-mixed",
        lambda: tree.ExtremelyFastDecisionTreeClassifier(grace_period=20, delta=0.1),
        "binary",
        MIXED,
    ),
    Animal("machine-mixed", lambda: facto.FMClassifier(seed=1), "binary", MIXED),
    Animal(
        "scaler|neighbours",
        lambda: _scaled(neighbors.KNNClassifier(engine=neighbors.LazySearch(50))),
        "binary",
        NUMBERS,
    ),
    Animal(
        "retrained(forest)",
        lambda: drift.DriftRetrainingClassifier(forest.ARFClassifier(3, seed=1), drift.binary.DDM()),
        "binary",
        NUMBERS,
    ),
    Animal(
        "bagging(scaler)", lambda: ensemble.BaggingClassifier(_scaled(LR()), 3, seed=1), "binary", NUMBERS
    ),
    Animal(
        "adwin-bagging(scaler)",
        lambda: ensemble.ADWINBaggingClassifier(_scaled(LR()), 3, seed=1),
        "binary",
        NUMBERS,
    ),
    Animal(
        "bagging(machine)",
        lambda: ensemble.BaggingClassifier(facto.FMClassifier(seed=1), 3, seed=1),
        "binary",
        NUMBERS,
    ),
]

ZOO = [*_discovered(), *PIPELINES]
