"""What a definition is, as text: to be compared with the one a checkpoint was written by.

Lives here: a model's parameters in canonical form, the search for missing seeds, the
comparison of two definitions.  Never here: a model's state (`operators/digest.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from topics.errors import CheckpointError

__all__ = ["check_definition", "model_text", "unseeded"]

NAMED_MAX = 5
"""Differences named in one message; a renamed pipeline file differs in all of them."""


def check_definition(stored: Mapping[str, str], current: Mapping[str, str], path: Path) -> None:
    """Raise CheckpointError naming the parts that were added, removed or changed."""
    if stored == current:
        return
    differences = [f"{name} is new" for name in current if name not in stored]
    differences += [f"{name} is gone" for name in stored if name not in current]
    differences += [f"{name} changed" for name in current if name in stored and stored[name] != current[name]]
    more = f" and {len(differences) - NAMED_MAX} more" if len(differences) > NAMED_MAX else ""
    raise CheckpointError(
        f"{path} was written by another definition: {', '.join(differences[:NAMED_MAX])}{more}",
        hint="go back to the old definition, give the pipeline a new name, or set another state_dir",
    )


def model_text(value: Any) -> str:
    """Return a River object as its class and constructor arguments, all the way down.

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
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {model_text(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(model_text, value)) + "]"
    if callable(value):
        return f"{value.__module__}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    return repr(value)


def unseeded(value: Any, path: str = "") -> Iterator[str]:
    """Yield where a model, or a part of it, draws random numbers without a seed.

    >>> from river import forest, preprocessing
    >>> list(unseeded(preprocessing.StandardScaler() | forest.ARFClassifier()))
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
            yield from unseeded(part, path)
        return
    for name, part in (parts or {}).items():
        if name == "seed" and part is None:
            yield f"{path}seed"
        yield from unseeded(part, path)


def _parts(value: Any) -> Mapping[str, Any] | None:
    """Return what a River object is made of: its steps, its members, or its arguments."""
    if isinstance(value, type):
        return None
    for members in ("steps", "transformers"):
        if isinstance(getattr(value, members, None), Mapping):
            return {str(name): part for name, part in getattr(value, members).items()}
    return value._get_params() if hasattr(value, "_get_params") else None
