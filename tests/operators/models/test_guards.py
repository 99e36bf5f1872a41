"""`operators.models.guards`: each guard by itself, and that what it knows outlives a restart."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import pytest
from river import facto, forest, linear_model, preprocessing
from river.tree import HoeffdingTreeClassifier
from river.tree.splitter import nominal_splitter_classif
from river.tree.splitter.nominal_splitter_classif import NominalSplitterClassif

from operators.models.artefacts import allow_for, dump, load
from operators.models.digest import digest
from operators.models.guards import Copied, FirstLesson, KnownNames, KnownValues
from operators.models.signing import SigningKeys
from topics.messages import FeatureValues

KEYS = SigningKeys({"": b"a key of thirty-two bytes, about"})


def scaler() -> Any:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


def machine() -> Any:
    return facto.FMClassifier(seed=1)


def test_no_opinion_before_the_first_lesson() -> None:
    model = FirstLesson(forest.ARFClassifier(3, seed=1))
    fresh = digest(model)
    assert model.predict_one({"a": 1.0}) is None
    assert model.predict_proba_one({"a": 1.0}) == {}
    assert digest(model) == fresh
    model.learn_one({"a": 1.0}, True)
    assert model.predict_proba_one({"a": 1.0}) == {True: 1.0}


def test_scaler_and_logistic_answer_as_river_does() -> None:
    """With names never learned too: River scales them to 0.0 and has no weight for them."""
    guard, bare = KnownNames(scaler()), scaler()
    for index in range(200):
        x: FeatureValues = {"a": index % 7 / 3, "b": float(index % 2)}
        if index % 3:
            x[f"n{index // 40}"] = index / 10
        assert guard.predict_proba_one(x) == bare.predict_proba_one(x)
        assert guard.predict_one(x) == bare.predict_one(x)
        guard.learn_one(x, index % 5 > 1)
        bare.learn_one(x, index % 5 > 1)


def test_names_count_from_their_first_lesson() -> None:
    model = KnownNames(machine())
    model.learn_one({"a": 1.0}, True)
    assert model.predict_proba_one({"a": 1.0, "b": 5.0}) == model.predict_proba_one({"a": 1.0})
    model.learn_one({"a": 1.0, "b": 5.0}, False)
    assert model.predict_proba_one({"a": 1.0, "b": 5.0}) != model.predict_proba_one({"a": 1.0})


def test_texts_count_from_their_first_lesson() -> None:
    model = KnownValues(machine())
    model.learn_one({"a": 1.0, "city": "Bern"}, True)
    before = digest(model)
    assert model.predict_proba_one({"a": 9.0, "city": "Rome"}) == model.predict_proba_one({"a": 9.0})
    assert digest(model) == before
    model.learn_one({"a": 1.0, "city": "Rome"}, False)
    assert model.predict_proba_one({"a": 9.0, "city": "Rome"}) != model.predict_proba_one({"a": 9.0})


def test_a_copy_is_scored() -> None:
    model = Copied(machine())
    model.learn_one({"a": 1.0}, True)
    before = digest(model)
    assert model.predict_proba_one({"b": 1.0}) == model.predict_proba_one({"b": 1.0})
    assert model.predict_one({"b": 1.0}) in (True, False)
    assert digest(model) == before


@pytest.mark.parametrize(
    "guard", [FirstLesson, KnownNames, KnownValues, Copied, lambda m: FirstLesson(KnownNames(m))]
)
def test_what_a_guard_knows_is_stored_with_the_model(guard: Any) -> None:
    model = guard(machine())
    allowed = allow_for([model])
    model.learn_one({"a": 1.0, "city": "Bern"}, True)
    again, _ = load(dump(model, keys=KEYS, meta={}), keys=KEYS, allowed=allowed)
    assert digest(again) == digest(model)
    x: FeatureValues = {"a": 2.0, "city": "Bern", "new": 1}
    assert again.predict_proba_one(x) == model.predict_proba_one(x)
    again.learn_one(x, False)
    model.learn_one(x, False)
    assert digest(again) == digest(model)


@pytest.mark.parametrize(
    "guard", [FirstLesson, KnownNames, KnownValues, Copied, lambda m: FirstLesson(KnownNames(m))]
)
def test_a_clone_has_learned_nothing(guard: Any) -> None:
    model = guard(scaler())
    fresh = digest(model)
    model.learn_one({"a": 1.0}, True)
    assert digest(model) != fresh
    assert digest(model.clone()) == fresh


def as_installed(module: ModuleType) -> Any:
    """Return `cond_proba` as River's file has it."""
    spec = importlib.util.spec_from_file_location(f"{module.__package__}.as_installed", str(module.__file__))
    assert spec is not None
    assert spec.loader is not None
    original = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(original)
    return original.NominalSplitterClassif.cond_proba


def test_asking_a_tree_about_texts_leaves_it_as_it_was() -> None:
    """River 0.26.1 adds an entry per class to a leaf; when it no longer does, `_cond_proba` can go."""
    tree = HoeffdingTreeClassifier(leaf_prediction="nb")
    tree.learn_one({"city": "Bern"}, True)
    tree.learn_one({"size": 1.0}, False)
    before = digest(tree)
    answer = tree.predict_proba_one({"city": "Bern"})
    assert digest(tree) == before
    splitter = tree._root.splitters["city"]
    assert splitter.cond_proba("Bern", True) == 1.0
    assert splitter.cond_proba("Rome", True) == splitter.cond_proba("Bern", False) == 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NominalSplitterClassif, "cond_proba", as_installed(nominal_splitter_classif))
        assert tree.predict_proba_one({"city": "Bern"}) == answer
        assert digest(tree) != before


def test_a_guard_leaves_the_event_as_it_was() -> None:
    for guard in (KnownNames(machine()), KnownValues(machine())):
        x: FeatureValues = {"a": 1.0, "city": "Bern"}
        guard.predict_proba_one(x)
        guard.learn_one(x, True)
        assert x == {"a": 1.0, "city": "Bern"}
