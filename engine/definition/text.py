"""The text of a definition, compared with the one that a checkpoint was written by.

Lives here: a model's parameters in canonical form, the search for missing seeds, the
comparison of two definitions.  Never here: a model's state (`operators/models/digest.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from topics.errors import CheckpointError

__all__ = ["Change", "check_definition", "model_text", "unseeded_parts"]

NAMED_MAX = 20
"""Differences named in one message; another pipeline under the same name differs in all of them."""

FEATURE = "features."
"""Before the names of features among the parts of a definition; their digests are versions."""


class Change(NamedTuple):
    """A part of the definition that differs from the checkpoint's."""

    part: str
    before: str | None
    """Its digest in the checkpoint; None where it is new."""
    after: str | None
    """None where it is gone."""

    @property
    def is_feature(self) -> bool:
        """Return whether it is a feature."""
        return self.part.startswith(FEATURE)

    def __str__(self) -> str:
        name = f"feature {self.part.removeprefix(FEATURE)}" if self.is_feature else self.part
        if self.before is None:
            return f"{name} is new"
        if self.after is None:
            return f"{name} is gone"
        return f"{name} changed" + (f" ({self.before} -> {self.after})" if self.is_feature else "")


def check_definition(
    stored: Mapping[str, str], current: Mapping[str, str], path: Path, *, accept_features: bool = False
) -> tuple[Change, ...]:
    """Return the features that changed, where that is accepted.

    Raises CheckpointError naming what was added, removed or changed: everything but features always, and
    features, with their versions, unless they are accepted.

    >>> check_definition({"features.n": "1a"}, {"features.n": "2b"}, Path(), accept_features=True)
    (Change(part='features.n', before='1a', after='2b'),)
    """
    parts = [*(name for name in current if name not in stored), *stored]
    changes = [Change(name, stored.get(name), current.get(name)) for name in parts]
    changes = [change for change in changes if change.before != change.after]
    others = [change for change in changes if not change.is_feature]
    if not others and (accept_features or not changes):
        return tuple(changes)
    named = [*others, *(change for change in changes if change.is_feature)]
    more = f" and {len(named) - NAMED_MAX} more" if len(named) > NAMED_MAX else ""
    told = ", ".join(map(str, named[:NAMED_MAX]))
    hint = "go back to the old definition, give the pipeline a new name, or set another state_dir"
    if not others:
        hint = (
            "to go on, `headrace run --accept-changed-features`: models keep what they learned, windows that "
            f"are kept as before go on, the others begin empty; or {hint}"
        )
    raise CheckpointError(f"{path} was written by another definition: {told}{more}", hint=hint)


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
