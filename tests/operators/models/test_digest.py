"""`operators.models.digest`: equal states, equal digests, and no others."""

from __future__ import annotations

import math
import os
import pickle
import random
import subprocess
import sys
from collections import OrderedDict, deque
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import compose, drift, linear_model, preprocessing, proba
from river_zoo import ZOO, Animal, event, label, teach

from operators.models.digest import digest
from topics.errors import ModelError

LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary()
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner),
        st.dictionaries(st.text(), inner),
        st.tuples(inner, inner),
        st.frozensets(st.integers()),
    ),
    max_leaves=20,
)
ACROSS = """
import sys
from river_zoo import ZOO, teach
from operators.models.digest import digest
for name in sys.argv[1:]:
    animal = next(animal for animal in ZOO if animal.name == name)
    model = animal.make()
    teach(model, animal, 0, 60)
    print(digest(model))
print(digest({"ab", "cd", "ef", ("g", 1), frozenset({"h", "i"})}))
"""
ACROSS_NAMES = [
    "linear_model.LogisticRegression-0",
    "linear_model.ALMAClassifier-0",
    "naive_bayes.GaussianNB-0",
    "encoder|softmax",
    "tree-mixed",
    "adaptive-mixed",
    "efdt-mixed",
    "forest-mixed",
    "ensemble.SRPClassifier-0",
    "tree.HoeffdingTreeRegressor-0",
    "scaler|neighbours",
    "machine-mixed",
]


@pytest.mark.parametrize("animal", ZOO, ids=lambda animal: animal.name)
def test_survives_pickling_and_tells_what_was_learned(animal: Animal) -> None:
    model = animal.make()
    digests = [digest(model)]
    for begin in (0, 30):
        teach(model, animal, begin, begin + 30)
        digests.append(digest(model))
        for _ in range(3):
            model = pickle.loads(pickle.dumps(model))
            assert digest(model) == digests[-1]
    if "Bandit" not in animal.name:  # their policies draw a seed
        assert digest(animal.make()) == digests[0]
    assert len(set(digests)) == (2 if "NoChange" in animal.name else 3)


def test_same_in_a_process_of_another_hash_seed() -> None:
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    surroundings = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", ACROSS, *ACROSS_NAMES]
    there = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=True).stdout
    by_name = {animal.name: animal for animal in ZOO}
    here = []
    for name in ACROSS_NAMES:
        model = by_name[name].make()
        teach(model, by_name[name], 0, 60)
        here.append(digest(model))
    here.append(digest({"ab", "cd", "ef", ("g", 1), frozenset({"h", "i"})}))
    assert there.split() == here


def test_one_ulp_of_one_weight_shows() -> None:
    model = linear_model.LogisticRegression()
    for index in range(20):
        model.learn_one(event(index, {"a": float, "b": float}), bool(label(index, "binary")))
    before = digest(model)
    for name in ("a", "b"):
        weight = model.weights[name]
        model._weights[name] = math.nextafter(weight, 9.0)
        assert digest(model) != before
        model._weights[name] = weight
        assert digest(model) == before


@pytest.mark.parametrize(
    "detector", [drift.ADWIN, drift.KSWIN, drift.PageHinkley, drift.binary.DDM, drift.binary.HDDMW]
)
def test_detectors(detector: type) -> None:
    one = detector(seed=1) if detector is drift.KSWIN else detector()
    for index in range(300):
        one.update(
            index * 7919 % 101 > 50 if detector.__module__.startswith("river.drift.binary") else index % 11
        )
        if index % 100 == 50:
            again = pickle.loads(pickle.dumps(one))
            assert digest(again) == digest(one)
            again.update(True)
            assert digest(again) != digest(one)


def test_first_prediction_builds_a_plan_that_does_not_count() -> None:
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    before = digest(model)
    model.predict_one({})
    assert digest(model) == before


def test_generator_of_a_distribution_counts_if_it_is_seeded() -> None:
    assert digest(proba.Gaussian()) == digest(proba.Gaussian())
    assert digest(proba.Gaussian(seed=1)) != digest(proba.Gaussian(seed=2))
    seeded = proba.Gaussian(seed=1)
    seeded.update(1.0)
    before = digest(seeded)
    seeded.sample()
    assert digest(seeded) != before
    assert digest(random.Random(1)) != digest(random.Random(2))


@given(TREES)
def test_a_pickled_value_is_the_same_value(value: object) -> None:
    assert digest(pickle.loads(pickle.dumps(value))) == digest(value)


@given(TREES, TREES)
def test_other_values_have_other_digests(one: object, other: object) -> None:
    assert (digest(one) == digest(other)) == (_canonical(one) == _canonical(other))


def _canonical(value: object) -> object:
    """Return a text that is equal for equal values of equal types only."""
    if isinstance(value, dict):
        return "dict", sorted((repr(key), repr(_canonical(item))) for key, item in value.items())
    if isinstance(value, frozenset):
        return "set", sorted(map(repr, value))
    if isinstance(value, list | tuple):
        return type(value).__name__, [_canonical(item) for item in value]
    return type(value).__name__, value.hex() if isinstance(value, float) else repr(value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        (0.0, -0.0),
        ("1", b"1"),
        ([1], (1,)),
        ([1, "a"], (1, "a")),
        ([], ()),
        (["ab", "c"], ["a", "bc"]),
        ({"a": "b"}, {"b": "a"}),
        ([[1], 2, "x"], [[1, 2], "x"]),
        ({1, 2}, frozenset({1, 2})),
        (OrderedDict(a=1, b=2), OrderedDict(b=2, a=1)),
        (deque([1], maxlen=2), deque([1], maxlen=3)),
        (np.float64(1.0), 1.0),
        (np.zeros(4), np.zeros((2, 2))),
        (np.zeros(2), np.zeros(2, dtype="f4")),
        (np.array(["a", None], dtype=object), np.array(["b", None], dtype=object)),
        (lambda x: x + 1, lambda x: x + 2),
        (math.sin, math.cos),
        ("x" * 100, "x" * 101),
    ],
    ids=lambda value: getattr(value, "__name__", repr(value)),
)
def test_these_differ(one: object, other: object) -> None:
    assert digest(one) != digest(other)
    assert digest([one, "x"]) != digest([other, "x"])


def test_order_of_entries_and_sharing_do_not_count() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    part = ["x", 1]
    assert digest([part, part]) == digest([["x", 1], ["x", 1]])
    assert digest({"x": part, "y": {"z": part}}) == digest({"y": {"z": ["x", 1]}, "x": ["x", 1]})


def test_pipelines_that_share_a_step_digest_as_those_that_do_not() -> None:
    def twins(scalers: list[preprocessing.StandardScaler]) -> list[compose.Pipeline]:
        for scaler in scalers:
            scaler.learn_one({"a": 2.0})
        return [scalers[place % len(scalers)] | linear_model.LogisticRegression() for place in range(2)]

    shared, own = (
        twins([preprocessing.StandardScaler()]),
        twins([preprocessing.StandardScaler() for _ in range(2)]),
    )
    assert digest(shared) == digest(own)


def test_cycles_end_and_count_by_their_shape() -> None:
    def ring(names: str) -> list[object]:
        parts: list[list[object]] = [[name] for name in names]
        for part, following in zip(parts, parts[1:] + parts[:1], strict=True):
            part.append(following)
        return parts[0]

    assert digest(ring("abc")) == digest(ring("abc"))
    assert digest(ring("abc")) != digest(ring("abd"))
    assert digest(ring("ab")) != digest(ring("abab"))
    loop = ring("ab")
    assert digest([loop, loop]) == digest([ring("ab"), ring("ab")])


def test_a_part_of_a_cycle_is_not_mistaken_for_the_same_part_elsewhere() -> None:
    """`inner` says "one level up" in both places and means two different lists."""

    def pair(first: str, second: str) -> list[object]:
        one: list[object] = [first]
        one.append([one])
        two: list[object] = [second]
        two.append([two])
        return [one, two, one[1], two[1]]

    assert digest(pair("a", "b")) == digest(pair("a", "b"))
    assert digest(pair("a", "b")) != digest(pair("a", "a"))
    assert digest(pair("a", "b")[2:]) != digest(pair("a", "a")[2:])


def test_depth_beyond_recursion() -> None:
    def nested(depth: int) -> list[object]:
        value: list[object] = ["end"]
        for _ in range(depth):
            value = [value]
        return value

    assert digest(nested(5_000)) == digest(nested(5_000))
    assert digest(nested(5_000)) != digest(nested(5_001))


def test_parts_made_anew_at_every_look_are_not_confused() -> None:
    """Freed temporaries lend their identity to the next ones; a walk that forgot them would mix them up."""

    class Fresh:
        def __init__(self, value: int) -> None:
            self.value = value

        def __reduce__(self) -> tuple[object, ...]:
            return Fresh, ([str(self.value), "x"],)

    assert digest([Fresh(n) for n in range(200)]) == digest([Fresh(n) for n in range(200)])
    assert len({digest([Fresh(m), Fresh(n)]) for m in range(12) for n in range(12)}) == 144


def test_what_cannot_be_stored_is_refused_by_name(tmp_path: Path) -> None:
    with (tmp_path / "open").open("w") as file, pytest.raises(ModelError, match="TextIOWrapper") as caught:
        digest({"log": file})
    assert "open files" in caught.value.hint
