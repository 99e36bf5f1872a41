"""Signed artefacts: a model as bytes and back, without trusting the bytes.

Lives here: what is in an artefact, the restricted unpickler.  Never here: files, the registry, keys and the
MAC (`signing.py`), which model is newest.

Strategy: the MAC first; only then is anything parsed: meta first (River and Python must be those that wrote
it), the pickle last and against an exact allow-list (`allowlist.py`).
"""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
from collections.abc import Callable, Iterable, Mapping
from types import FunctionType, MethodDescriptorType, MethodType
from typing import Any

import msgspec
from river import proba
from river.__version__ import __version__ as river_version
from river.proba.base import Distribution

from operators.models.allowlist import BASE, AllowList, denied
from operators.models.digest import NODES_MAX, children, samples_unseeded
from operators.models.signing import SigningKeys, opened, sealed
from topics.errors import ModelError

__all__ = [
    "allow_for",
    "bound_method",
    "dump",
    "globals_of",
    "load",
    "meta_of",
    "model_codec",
    "static_function",
    "unseeded",
]

TEXT_METHODS = frozenset({"capitalize", "casefold", "lower", "split", "strip", "title", "upper"})
"""Methods of `str` that a stored model may hold; `format` could walk through attributes."""
ANCHOR_LEVELS = 100
"""Python lets pickle recurse through some 900 levels below a server's own calls."""

_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def dump(model: object, *, keys: SigningKeys, meta: Mapping[str, Any]) -> bytes:
    """Return `model` and `meta` (JSON values) as one signed artefact.

    The versions of River and Python are added to meta.  Raises ModelError for a model that
    cannot be pickled and one that is too large.

    >>> from river import linear_model
    >>> keys, model = SigningKeys({"": b"sixteen bytes or more"}), linear_model.LogisticRegression()
    >>> data = dump(model, keys=keys, meta={"name": "linear", "number": 1})
    >>> again, meta = load(data, keys=keys, allowed=allow_for([model]))
    >>> type(again).__name__, meta["name"], meta["number"]
    ('LogisticRegression', 'linear', 1)
    """
    about = msgspec.json.encode({**meta, "river": river_version, "python": _PYTHON})
    return sealed(about, _pickled(model), keys)


def load(data: bytes, *, keys: SigningKeys, allowed: AllowList) -> tuple[Any, dict[str, Any]]:
    """Return the model and meta of an artefact that `dump` signed with one of these keys.

    Raises ModelError, with what to do, for anything else: foreign bytes, another key, a
    changed byte, another River or Python, a class that is not in `allowed`.  Nothing is
    parsed before the MAC was right; no class outside `allowed` is ever imported.
    """
    about, payload = opened(data, keys)
    meta = msgspec.json.decode(about, type=dict[str, Any])
    wrote, reads = (meta.get("river"), meta.get("python")), (river_version, _PYTHON)
    if wrote != reads:
        raise ModelError(
            f"the model was stored by River {wrote[0]} on Python {wrote[1]}, this is River {reads[0]} "
            f"on Python {reads[1]}",
            hint="run the versions that stored it, or learn the model again from the examples log",
        )
    return _Unpickler(payload, allowed).model(), meta


def meta_of(data: bytes, *, keys: SigningKeys) -> dict[str, Any]:
    """Return the meta of an artefact that `dump` signed with one of these keys; its model is not looked at.

    Raises ModelError as `load`, but for another River or Python.
    """
    return msgspec.json.decode(opened(data, keys)[0], type=dict[str, Any])


def allow_for(models: Iterable[object]) -> AllowList:
    """Return the list for pickles of these models at any age: theirs now, and what River builds later.

    `models` are the pipeline's own fresh models (trusted: the user's file made them).  Raises
    ModelError if one needs what no list may hold.
    """
    pairs: set[tuple[str, str]] = set(BASE)
    for model in models:
        for module, name in globals_of(model) - BASE:
            if denied(module, name):
                raise ModelError(
                    f"a {type(model).__name__} holds {module}.{name}, which no stored model may name",
                    hint="wrap it in a function of your own file",
                )
            pairs.add((module, name))
    return frozenset(pairs)


def globals_of(model: object) -> AllowList:
    """Return every class and function that the pickle of a trusted `model` names."""
    recorder = _Recorder(io.BytesIO(_pickled(model)))
    recorder.load()
    return frozenset(recorder.pairs)


def model_codec(
    keys: SigningKeys, models: Iterable[object]
) -> tuple[Callable[[object], bytes], Callable[[bytes], Any]]:
    """Return the two functions by which a checkpoint stores and loads River objects of one pipeline.

    `models` are fresh ones of all that will be stored, in their guards: models, and metrics and
    drift detectors too where they are stored by the same functions.  They settle what may be named.
    """
    allowed = allow_for(models)

    def dump_model(model: object) -> bytes:
        return dump(model, keys=keys, meta={})

    def load_model(data: bytes) -> Any:
        return load(data, keys=keys, allowed=allowed)[0]

    return dump_model, load_model


def _pickled(model: object) -> bytes:
    """Return the pickle of a pair: parts that go first so that nesting stays shallow, and the model."""
    try:
        try:
            return _pickle(((), model))
        except RecursionError:
            return _pickle((_anchors(model), model))
    except ModelError:
        raise
    except Exception as error:  # whatever a foreign class raises, the answer is the same
        raise ModelError(
            f"a {type(model).__name__} cannot be stored: {error}",
            hint="use functions of your own file in models, not lambdas, and no open files or generators",
        ) from error


def _pickle(pair: tuple[object, object]) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream, protocol=5).dump(pair)
    return stream.getvalue()


def _anchors(model: object) -> list[object]:
    """Return objects inside `model`, about `ANCHOR_LEVELS` of nesting apart, the inner ones first.

    Pickle recurses, and a search tree that was fed a growing number (a default
    HoeffdingTreeRegressor with a time among its features) is a list hundreds of nodes deep.
    What has been pickled before is only referred to, so inner parts first bounds the recursion.
    """
    anchors: list[object] = []
    seen: dict[int, object] = {}
    stack: list[tuple[object, int]] = [(model, 0)]
    while stack and len(seen) < NODES_MAX:
        part, levels = stack.pop()
        if id(part) in seen:
            continue
        seen[id(part)] = part
        if levels >= ANCHOR_LEVELS and not isinstance(part, dict | list | tuple | set | frozenset):
            anchors.append(part)
            levels = 0
        stack.extend((child, levels + 1) for child in children(part))
    return anchors[::-1]


def unseeded(class_: type) -> Any:
    """Return an empty River distribution with a new generator of its own, to be filled by the unpickler."""
    if not issubclass(class_, Distribution):
        raise ModelError(f"{class_.__name__} is no distribution", hint="load the version before it")
    made = class_.__new__(class_)
    Distribution.__init__(made, None)
    return made


def _reduce_distribution(distribution: Any) -> tuple[Any, ...]:
    """Return the pickle parts of a distribution without the 2.5 KB of a generator that nobody seeded."""
    if not samples_unseeded(distribution):
        return distribution.__reduce_ex__(5)  # type: ignore[no-any-return]
    state = {name: value for name, value in vars(distribution).items() if name != "_rng"}
    return unseeded, (type(distribution),), state


def bound_method(owner: Any, name: str) -> MethodType:
    """Return the method `name` of a River object or class: `getattr` for that and nothing else."""
    class_ = owner if isinstance(owner, type) else type(owner)
    for base in class_.__mro__:
        attribute = vars(base).get(name)
        function = attribute.__func__ if isinstance(attribute, classmethod) else attribute
        if isinstance(function, FunctionType) and function.__module__.startswith("river."):
            return MethodType(function, owner)
        if attribute is not None:
            break
    raise ModelError(f"{class_.__name__}.{name} is no method of River", hint="load the version before it")


def static_function(class_: type, name: str) -> FunctionType:
    """Return the static method `name` of a River class; pickle would name it with a dot."""
    attribute = vars(class_).get(name)
    if isinstance(attribute, staticmethod) and isinstance(attribute.__func__, FunctionType):
        function = attribute.__func__
        if function.__module__.startswith("river."):
            return function
    raise ModelError(
        f"{class_.__name__}.{name} is no static method of River", hint="load the version before it"
    )


def text_method(name: str) -> Any:
    """Return a method of `str` that takes texts apart or changes their case: BagOfWords holds `lower`."""
    if name in TEXT_METHODS:
        return getattr(str, name)
    raise ModelError(f"str.{name} is not for stored models", hint="wrap it in a function of your own file")


def _reduce_text_method(method: MethodDescriptorType) -> tuple[Any, ...]:
    if method.__objclass__ is not str:
        return method.__reduce__()  # type: ignore[return-value]
    text_method(method.__name__)
    return text_method, (method.__name__,)


def _reduce_method(method: MethodType) -> tuple[Any, ...]:
    owner, name = method.__self__, method.__func__.__name__
    bound_method(owner, name)
    return bound_method, (owner, name)


class _Pickler(pickle.Pickler):
    """A pickler that stores some objects of River without `getattr`, dotted names or unseeded generators."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is FunctionType and "." in obj.__qualname__ and obj.__module__.startswith("river."):
            owner, _, name = obj.__qualname__.rpartition(".")
            return static_function, (getattr(sys.modules[obj.__module__], owner, type), name)
        return NotImplemented

    dispatch_table = copyreg.dispatch_table | {
        MethodDescriptorType: _reduce_text_method,
        MethodType: _reduce_method,
        proba.Beta: _reduce_distribution,
        proba.Gaussian: _reduce_distribution,
        proba.Multinomial: _reduce_distribution,
        proba.MultivariateGaussian: _reduce_distribution,
    }


class _Recorder(pickle.Unpickler):
    """An unpickler that records every class and function that a trusted pickle names."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self.pairs: set[tuple[str, str]] = set()

    def find_class(self, module: str, name: str) -> Any:
        self.pairs.add((module, name))
        return super().find_class(module, name)


class _Unpickler(pickle.Unpickler):
    """An unpickler that imports only the pairs of an allow-list."""

    def __init__(self, payload: bytes, allowed: AllowList) -> None:
        super().__init__(io.BytesIO(payload))
        self._allowed = allowed

    def find_class(self, module: str, name: str) -> Any:
        if "." in name or (module, name) not in self._allowed:
            raise ModelError(
                f"the model names {module}.{name}, which this pipeline's models do not use",
                hint="load it with the pipeline that stored it; if that is this one, do not trust the bytes",
            )
        return super().find_class(module, name)

    def model(self) -> Any:
        try:
            return self.load()[1]
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(
                f"the model's state cannot be rebuilt: {type(error).__name__}: {error}",
                hint="run the code that stored it, or learn the model again from the examples log",
            ) from error
