"""Artefacts and the allow-list: models come back as they were, nothing else comes in."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import importlib
import os
import pickle
import random
import struct
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import compose, drift, ensemble, forest, linear_model, metrics, preprocessing, proba, tree
from river_zoo import MIXED, NUMBERS, ZOO, Animal, ask, event, teach

from operators.models import artefacts
from operators.models.allowlist import BASE, denied
from operators.models.artefacts import (
    allow_for,
    bound_method,
    dump,
    globals_of,
    load,
    model_codec,
    static_function,
    text_method,
    unseeded,
)
from operators.models.digest import digest
from operators.models.guards import KnownNames
from operators.models.signing import SigningKeys
from topics.errors import ModelError

KEY = b"a key of thirty-two bytes, about"
KEYS = SigningKeys({"": KEY})
HEAD = struct.Struct(">4sH8sIQ")


def signed(payload: bytes, about: dict[str, Any] | None = None, key: bytes = KEY) -> bytes:
    """Return what an owner of the key could write: any payload, rightly signed."""
    versions = {"river": artefacts.river_version, "python": artefacts._PYTHON}
    meta = msgspec.json.encode({**versions, **(about or {})})
    key_id = hmac.digest(key, b"headrace model key id", "sha256")[:8]
    body = HEAD.pack(b"HDRC", 1, key_id, len(meta), len(payload)) + meta + payload
    return body + hmac.digest(key, body, hashlib.sha256)


def logistic() -> Any:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


# -- models come back as they were ------------------------------------------------------------


@pytest.mark.parametrize("animal", ZOO, ids=lambda animal: animal.name)
def test_restored_models_go_on_as_if_nothing_had_happened(animal: Animal) -> None:
    model = animal.make()
    allowed = allow_for([animal.make()])
    for begin in (0, 40, 80):
        again, meta = load(dump(model, keys=KEYS, meta={"learned_to": begin}), keys=KEYS, allowed=allowed)
        assert meta["learned_to"] == begin
        assert digest(again) == digest(model)
        teach(model, animal, begin, begin + 40)
        teach(again, animal, begin, begin + 40)
        assert digest(again) == digest(model)
        x = event(begin, animal.kinds)
        assert ask(again, dict(x), animal.task) == ask(model, dict(x), animal.task)
        model = again


def test_trees_that_split_and_drift_come_back_too() -> None:
    """What only a long run builds: branches of every kind, alternate trees, background members."""
    fast: dict[str, Any] = {"grace_period": 20, "delta": 0.3}
    models: list[tuple[Any, str]] = [
        (tree.HoeffdingAdaptiveTreeClassifier(seed=1, drift_window_threshold=10, **fast), "binary"),
        (tree.HoeffdingTreeClassifier(binary_split=True, **fast), "multiclass"),
        (tree.HoeffdingAdaptiveTreeRegressor(seed=1, **fast), "regression"),
        (forest.ARFClassifier(2, seed=1, **fast), "binary"),
        (ensemble.LeveragingBaggingClassifier(tree.HoeffdingTreeClassifier(**fast), 2, seed=1), "binary"),
    ]
    for model, task in models:
        animal = Animal(type(model).__name__, model.clone, task, NUMBERS if task == "regression" else MIXED)  # type: ignore[arg-type]
        allowed = allow_for([model.clone()])
        teach(model, animal, 0, 400)
        again, _ = load(dump(model, keys=KEYS, meta={}), keys=KEYS, allowed=allowed)
        teach(model, animal, 400, 460)
        teach(again, animal, 400, 460)
        assert digest(again) == digest(model)


def test_a_tree_deeper_than_pickle_recurses() -> None:
    model = tree.HoeffdingTreeRegressor(grace_period=10_000)
    for index in range(1_500):
        model.learn_one({"time": float(index)}, float(index % 2))
    with pytest.raises(RecursionError):
        pickle.dumps(model)
    again, _ = load(dump(model, keys=KEYS, meta={}), keys=KEYS, allowed=allow_for([model.clone()]))
    assert digest(again) == digest(model)
    for one in (model, again):
        one.learn_one({"time": -1.0}, 1.0)
    assert digest(again) == digest(model)


def test_generators_nobody_seeded_are_left_out_and_new_ones_work() -> None:
    gaussian = proba.Gaussian()
    gaussian.update(1.0)
    gaussian.update(2.0)
    data = dump(gaussian, keys=KEYS, meta={})
    assert len(data) < 600 < 2_000 < len(pickle.dumps(gaussian))
    again, _ = load(data, keys=KEYS, allowed=allow_for([gaussian]))
    assert (again.mu, again.sigma, again.n_samples) == (gaussian.mu, gaussian.sigma, gaussian.n_samples)
    assert isinstance(again.sample(), float)


def test_seeded_generators_go_on_where_they_were() -> None:
    for seeded in (proba.Gaussian(seed=3), random.Random(3)):
        draw = (
            (lambda one: one.sample()) if isinstance(seeded, proba.Gaussian) else (lambda one: one.random())
        )
        draw(seeded)
        again, _ = load(dump(seeded, keys=KEYS, meta={}), keys=KEYS, allowed=allow_for([seeded]))
        assert [draw(again) for _ in range(3)] == [draw(seeded) for _ in range(3)]


def test_codec_stores_models_in_guards_metrics_and_detectors() -> None:
    fresh = [KnownNames(logistic()), metrics.LogLoss(), drift.PageHinkley()]
    dump_model, load_model = model_codec(KEYS, fresh)
    fresh[0].learn_one({"a": 1.0}, True)
    for one in fresh:
        assert digest(load_model(dump_model(one))) == digest(one)


# -- what is not right is refused -------------------------------------------------------------


@given(st.data())
def test_any_changed_byte_is_refused(data: st.DataObject) -> None:
    good = dump(logistic(), keys=KEYS, meta={"name": "a"})
    place = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ModelError) as caught:
        load(bytes(bad), keys=KEYS, allowed=allow_for([logistic()]))
    assert caught.value.hint


@given(st.integers(0, 2_000), st.binary(max_size=3))
def test_cut_short_or_added_to(size: int, more: bytes) -> None:
    good = dump(logistic(), keys=KEYS, meta={})
    if (bad := good[:size] + more) == good:
        return
    with pytest.raises(ModelError, match=r"cut short|no model artefact|changed"):
        load(bad, keys=KEYS, allowed=allow_for([logistic()]))


def test_another_key_is_named_and_secret() -> None:
    other = b"another key that is as long as it"
    with pytest.raises(ModelError, match="signed with key") as caught:
        load(dump(logistic(), keys=SigningKeys({"": other}), meta={}), keys=KEYS, allowed=BASE)
    assert "same signing keys" in caught.value.hint
    assert other.decode() not in str(caught.value)
    assert other.hex()[:16] not in str(caught.value)


def test_nothing_is_parsed_before_the_mac_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    touched: list[object] = []
    monkeypatch.setattr(artefacts.msgspec.json, "decode", lambda *a, **_: touched.append(a))
    monkeypatch.setattr(artefacts, "_Unpickler", lambda *a: touched.append(a))
    bad = bytearray(dump(logistic(), keys=KEYS, meta={}))
    bad[-1] ^= 1
    with pytest.raises(ModelError, match="changed after it was signed"):
        load(bytes(bad), keys=KEYS, allowed=BASE)
    assert not touched


@pytest.mark.parametrize(("part", "version"), [("river", "0.25.0"), ("python", "3.9")])
def test_other_versions_are_named(part: str, version: str) -> None:
    data = signed(pickle.dumps(((), logistic()), 5), {part: version})
    with pytest.raises(ModelError) as caught:
        load(data, keys=KEYS, allowed=allow_for([logistic()]))
    assert version in caught.value.message
    assert artefacts.river_version in caught.value.message


def test_other_format() -> None:
    data = bytearray(dump(logistic(), keys=KEYS, meta={}))
    data[5] = 9
    with pytest.raises(ModelError, match="format 9"):
        load(bytes(data), keys=KEYS, allowed=BASE)


# -- a payload signed by somebody who should not have the key ---------------------------------

BROKEN = Path(tempfile.gettempdir()) / f"headrace-broken-{os.getpid()}"
COMMAND = f"touch {BROKEN}"


class Planted:
    """Pickles as a call of something."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        (pickle.dumps(Planted(os.system, COMMAND)), "posix.system"),
        (pickle.dumps(Planted(eval, "1")), "builtins.eval"),
        (pickle.dumps(Planted(getattr, "x", "upper")), "builtins.getattr"),
        (b"\x80\x05\x8c\x13river.datasets.base\x8c\x09os.system\x93.", "river.datasets.base.os.system"),
        (b"\x80\x05\x8c\x11collections.abc.x\x8c\x01y\x93.", "collections.abc.x.y"),
        (b"\x80\x05\x8c\x0bcollections\x8c\x0fdeque.copy.a.bc\x93.", "collections.deque.copy.a.bc"),
        (b"cos\nsystem\n(S'true'\ntR.", "os.system"),
        (b"c__builtin__\neval\n.", "builtins.eval"),
        (b"\x80\x05\x8c\x08builtins\x8c\x07__class\x93.", "builtins.__class"),
    ],
    ids=lambda value: value if isinstance(value, str) else "payload",  # some bytes are of this process alone
)
def test_planted_calls_are_refused_by_name(payload: bytes, named: str) -> None:
    with pytest.raises(ModelError) as caught:
        load(signed(payload), keys=KEYS, allowed=allow_for([logistic()]))
    assert named in caught.value.message or named.replace("builtins", "__builtin__") in caught.value.message
    assert not BROKEN.exists()


def test_models_of_another_pipeline_are_refused() -> None:
    data = dump(tree.HoeffdingTreeClassifier(), keys=KEYS, meta={})
    with pytest.raises(ModelError, match="HoeffdingTreeClassifier"):
        load(data, keys=KEYS, allowed=allow_for([logistic()]))


@given(st.binary(max_size=60))
def test_any_signed_payload_gives_a_model_or_a_model_error(payload: bytes) -> None:
    with contextlib.suppress(ModelError):
        load(signed(b"\x80\x05" + payload), keys=KEYS, allowed=BASE)


def test_methods_come_from_river_classes_only() -> None:
    model = linear_model.PAClassifier()
    assert bound_method(model, "_calc_tau_1")({"a": 1.0}, 1.0) == model._calc_tau_1({"a": 1.0}, 1.0)
    for owner, name in (
        (model, "__class__"),
        (model, "nothing"),
        ([], "append"),
        ("", "format"),
        (os, "system"),
    ):
        with pytest.raises(ModelError):
            bound_method(owner, name)
    with pytest.raises(ModelError):
        static_function(tree.HoeffdingTreeClassifier, "learn_one")
    with pytest.raises(ModelError):
        unseeded(list)
    assert text_method("lower")("AB") == "ab"
    with pytest.raises(ModelError):
        text_method("format")


# -- the lists ---------------------------------------------------------------------------------


def test_every_name_of_the_base_list_exists_and_none_is_dotted() -> None:
    for module, name in BASE:
        assert hasattr(importlib.import_module(module), name), f"{module}.{name}"
        assert "." not in name


@pytest.mark.parametrize(
    "pair",
    [
        ("os", "system"),
        ("posix", "system"),
        ("subprocess", "Popen"),
        ("builtins", "getattr"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("builtins", "__import__"),
        ("builtins", "open"),
        ("importlib", "import_module"),
        ("operator", "attrgetter"),
        ("operator", "methodcaller"),
        ("pickle", "loads"),
        ("types", "FunctionType"),
        ("numpy", "load"),
        ("numpy.f2py", "compile"),
        ("river.datasets", "Phishing"),
        ("river.stream.cache", "Cache"),
        ("river.linear_model.log_reg", "os.system"),
    ],
)
def test_never_on_a_list(pair: tuple[str, str]) -> None:
    assert denied(*pair)
    assert pair not in BASE


def whisper(x: dict[str, Any]) -> dict[str, Any]:
    return {name: value / 2 for name, value in x.items()}


def test_functions_of_the_users_file_are_allowed_for_that_pipeline() -> None:
    model = compose.FuncTransformer(whisper) | linear_model.LogisticRegression()
    assert (__name__, "whisper") in allow_for([model]) - BASE
    again, _ = load(dump(model, keys=KEYS, meta={}), keys=KEYS, allowed=allow_for([model]))
    assert digest(again) == digest(model)


def test_a_model_that_needs_what_no_list_may_hold_is_named_when_the_pipeline_is_loaded() -> None:
    with pytest.raises(ModelError, match=r"posix\.system") as caught:
        allow_for([compose.FuncTransformer(os.system)])
    assert "function of your own file" in caught.value.hint


def test_lambdas_are_refused_with_the_way_out() -> None:
    model = compose.FuncTransformer(lambda x: x) | linear_model.LogisticRegression()
    with pytest.raises(ModelError) as caught:
        allow_for([model])
    assert "not lambdas" in caught.value.hint


def test_globals_of_names_what_the_pickle_names() -> None:
    assert ("river.linear_model.log_reg", "LogisticRegression") in globals_of(
        linear_model.LogisticRegression()
    )
    assert globals_of([1, "a"]) == frozenset()
