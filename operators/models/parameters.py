"""River objects as text: a class and its arguments, all the way down, and what of them is random.

Lives here: the text by which two models, detectors or metrics are the same definition.  Never here: what a
model has learned (`digest.py`), whether it can do its work (`probe.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

__all__ = ["model_text", "parameters_of", "unseeded_parts"]

_CALL = re.compile(r"([A-Za-z_][\w.]*)\((.*)\)", re.DOTALL)
_OPEN, _CLOSE = frozenset("([{"), frozenset(")]}")


def model_text(value: Any) -> str:
    """Return a River object, or a setting that may hold one, as its class and arguments, all the way down.

    A setting's field that came later than its class, marked `untold`, is left out where it has its default:
    texts of before it are still right.

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
        given = (
            (one.name, getattr(value, one.name))
            for one in fields(value)
            if one.init and not (one.metadata.get("untold") and getattr(value, one.name) == one.default)
        )
        return f"{type(value).__name__}({', '.join(f'{name}={model_text(part)}' for name, part in given)})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {model_text(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(model_text, value)) + "]"
    if callable(value):
        return f"{value.__module__}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    return repr(value)


def parameters_of(text: str) -> dict[str, str]:
    """Return the classes and arguments in a text of `model_text`, by where they stand.

    >>> text = "river.compose.pipeline.Pipeline(Scaler=a.Scaler(with_std=True), Log=a.Log(l2=0.0))"
    >>> parameters_of(text)["Scaler.with_std"], parameters_of(text)["class"], parameters_of(text)["Log"]
    ('True', 'river.compose.pipeline.Pipeline', 'a.Log')
    """
    return dict(_placed("", text))


def _placed(path: str, text: str) -> Iterator[tuple[str, str]]:
    """Yield (place, class or value) of every part of a text."""
    inner: list[tuple[str, str]] = []
    if called := _CALL.fullmatch(text):
        text = called[1]
        inner = [(name, value) for name, _, value in (one.partition("=") for one in _items(called[2]))]
    elif text.startswith("[") and len(pair := _items(text[1:-1])) == 2 and pair[1].startswith("{"):
        # A part as River hands it out: its class and its arguments.
        text = pair[0]
        named = (one.partition(": ") for one in _items(pair[1][1:-1]))
        inner = [(name.strip("'\""), value) for name, _, value in named]
    yield path or "class", text
    for name, value in inner:
        yield from _placed(f"{path}.{name}" if path else name, value)


def _items(text: str) -> list[str]:
    """Return what stands between the commas of a text that are in no bracket and no quotes."""
    items, start, depth, quote, escaped = [], 0, 0, "", False
    for at, char in enumerate(text):
        if quote:
            quote = "" if char == quote and not escaped else quote
            escaped = char == "\\" and not escaped
        elif char in "'\"":
            quote = char
        elif char in _OPEN:
            depth += 1
        elif char in _CLOSE:
            depth -= 1
        elif char == "," and not depth:
            items.append(text[start:at].strip())
            start = at + 1
    return [*items, last] if (last := text[start:].strip()) else items


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
