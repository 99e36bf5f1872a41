"""Weighted lessons against River's own `w=`, and against lessons that are given again."""

from __future__ import annotations

import copy
import math
import pickle
from itertools import pairwise
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import linear_model, naive_bayes, preprocessing, tree
from river_zoo import ZOO, event, label

from operators.drift.detectors import Detectors
from operators.models.digest import digest
from operators.models.guards import Copied, FirstLesson, KnownNames, KnownValues
from operators.models.scoring import Racer, Roster
from operators.models.weighted import Weight, takes_weight, weighted
from operators.race.arena import Arena
from operators.race.evaluation import Evaluation
from operators.race.evidence import Evidence, Promotion
from operators.race.learning import Learning, are_plain
from topics.messages import Example

WEIGHTED = [animal for animal in ZOO if takes_weight(animal.make())]
OTHERS = [animal for animal in ZOO if not takes_weight(animal.make())]
ROWS = 30
WEIGHTS = [(0.0, 0.25, 1.0, 2.0, 3.5)[n * 7 % 5] for n in range(ROWS)]


def example(number: int, weight: float, animal) -> Example:
    truth = label(number, animal.task)
    x = event(number, animal.kinds)
    return Example(
        f"e{number}", "k", number, number, truth, x, {"a": None}, None, "champion", "a", 0, number, number,
        1, number, label_weight=weight,
    )  # fmt: skip


def taught(animal, weights, model=None):
    model = model or animal.make()
    examples = [example(n, weight, animal) for n, weight in enumerate(weights)]
    learn = weighted(model, model.learn_one, "a", examples)
    for number in range(len(weights)):
        learn(event(number, animal.kinds), label(number, animal.task))
    return digest(model)


@pytest.mark.parametrize("animal", WEIGHTED, ids=lambda animal: animal.name)
def test_a_model_that_takes_weights_learns_as_with_rivers_own(animal) -> None:
    expected = animal.make()
    for number, weight in enumerate(WEIGHTS):
        if weight:
            expected.learn_one(event(number, animal.kinds), label(number, animal.task), w=weight)
    unweighted = taught(animal, [1.0] * ROWS)
    assert taught(animal, WEIGHTS) == digest(expected)
    assert taught(animal, [3.0] * ROWS) != unweighted


@pytest.mark.parametrize("animal", OTHERS, ids=lambda animal: animal.name)
def test_another_model_is_taught_as_often_as_the_weight_says(animal) -> None:
    model = animal.make()
    expected = copy.deepcopy(model)  # a bandit's policy has no seed
    for number, weight in enumerate(WEIGHTS):
        for _ in range(Weight.of(weight, f"e{number}").times):
            expected.learn_one(event(number, animal.kinds), label(number, animal.task))
    assert taught(animal, WEIGHTS, model) == digest(expected)


def test_both_kinds_are_among_rivers() -> None:
    assert len(WEIGHTED) > 15
    assert len(OTHERS) > 30


@pytest.mark.parametrize("guard", [FirstLesson, KnownNames, KnownValues, Copied])
def test_a_guard_hands_the_weight_on(guard) -> None:
    animal = next(animal for animal in WEIGHTED if animal.name == "scaler|logistic")
    guarded = guard(animal.make())
    taught(animal, WEIGHTS, guarded)
    assert digest(guarded.model) == taught(animal, WEIGHTS)


@given(st.floats(0.0, 50.0))
def test_repetitions_teach_as_much_in_the_mean(weight) -> None:
    times = [Weight.of(weight, f"e{n}").times for n in range(2_000)]
    assert {math.floor(weight), math.ceil(weight)} >= set(times)
    assert mean(times) == pytest.approx(weight, abs=4 * 0.5 / math.sqrt(2_000))


def test_weights_are_looked_for_once_a_batch() -> None:
    animal = WEIGHTED[0]
    assert are_plain([example(n, 1.0, animal) for n in range(5)])
    assert not are_plain([example(0, 1.0, animal), example(1, 2.0, animal)])


MODELS = {
    "linear": lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(),
    "tree": lambda: tree.HoeffdingTreeClassifier(grace_period=10, delta=0.1),
    "bayes": naive_bayes.GaussianNB,
}


def learning_of(models) -> tuple[Roster, Learning]:
    roster = Roster(
        "binary",
        [Racer(name, make(), version=n) for n, (name, make) in enumerate(models.items(), 1)],
        "linear",
    )
    parts = (
        Arena("p", 0, roster, Promotion()),
        Evaluation("binary", None, pickle.dumps, pickle.loads),
        Detectors([], pickle.dumps, pickle.loads),
        Evidence(Promotion()),
    )
    return roster, Learning("binary", *parts)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.0, 4.0]), min_size=40, max_size=40),
    st.sets(st.integers(1, 39)),
)
def test_however_batches_are_cut_a_race_learns_by_the_weights(weights, cuts) -> None:
    animal = next(animal for animal in WEIGHTED if animal.name == "scaler|logistic")
    examples = [example(n, weight, animal) for n, weight in enumerate(weights)]
    roster, learning = learning_of(MODELS)
    for start, end in pairwise([0, *sorted(cuts), 40]):
        learning.step(examples[start:end], start)
    for name, make in MODELS.items():
        assert digest(roster.racers[name].model) == taught(animal, weights, make())
    assert learning.examples == 40
    assert roster.prior.updates == 40  # what is measured counts every label once
