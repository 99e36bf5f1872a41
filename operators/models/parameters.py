"""River objects as text: a class and its arguments, all the way down, and what of them is random.

Lives here: the text by which two models, detectors or metrics are the same definition.  Never here: what a
model has learned (`digest.py`), whether it can do its work (`probe.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

__all__ = ["model_text", "unseeded_parts"]


def model_text(value: Any) -> str:
    """Return a River object, or a setting that may hold one, as its class and arguments, all the way down.

    `repr` will not do: River cuts long ones, and raises for some (`SelectType(int, float)` in 0.26.1).

    >>> from river import optim
    >>> model_text(optim.SGD(0.01))
    "river.optim.sgd.SGD(lr=[river.optim.schedulers.Constant, {'learning_rate': 0.01}])"
    """
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if (parts := _parts(value)) is not None:
        inner = ", ".join(f"{name}={model_text(part)}" for name, part in parts.items())
        return f"{model_text(type(value))}({inner})"
    if is_dataclass(value):
        given = ((one.name, getattr(value, one.name)) for one in fields(value) if one.init)
        return f"{type(value).__name__}({', '.join(f'{name}={model_text(part)}' for name, part in given)})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {model_text(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(model_text, value)) + "]"
    if callable(value):
        return f"{value.__module__}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    return repr(value)


def unseeded_parts(value: Any, path: str = "") -> Iterator[str]:
    """Yield the path of each part of a model that draws random numbers without a seed.

    >>> from river import forest, preprocessing
    >>> list(unseeded_parts(preprocessing.StandardScaler() | forest.ARFClassifier()))
    ['Pipeline.ARFClassifier.seed']
    """
    parts = _parts(value)
    if parts is not None:
        path = f"{path}{type(value).__name__}."
    elif isinstance(value, Mapping):
        parts = value
    elif isinstance(value, list | tuple):
        # A part as River's `_get_params` hands it out: its class and its arguments.
        if len(value) == 2 and isinstance(value[0], type):
            path, value = f"{path}{value[0].__name__}.", value[1:]
        for part in value:
            yield from unseeded_parts(part, path)
        return
    for name, part in (parts or {}).items():
        if name == "seed" and part is None:
            yield f"{path}seed"
        yield from unseeded_parts(part, path)


def _parts(value: Any) -> Mapping[str, Any] | None:
    """Return the parts of a River object: its steps, its members, or its arguments."""
    if isinstance(value, type):
        return None
    for members in ("steps", "transformers"):
        if isinstance(getattr(value, members, None), Mapping):
            return {str(name): part for name, part in getattr(value, members).items()}
    return value._get_params() if hasattr(value, "_get_params") else None
