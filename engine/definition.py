"""A checkpoint of another definition is refused, with the difference named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from topics.errors import CheckpointError

__all__ = ["check_definition"]

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
