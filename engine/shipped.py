"""Files that come with Headrace and are no code: the examples, and what a deployment begins with.

Lives here: where they lie.  Never here: what is in them.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["shipped"]

_HOME = Path(__file__).parents[1]


def shipped(folder: str) -> Path:
    """Return where a folder of the repository lies: in a wheel inside `headrace`, in a checkout as it is."""
    packed = _HOME / "headrace" / folder
    return packed if packed.is_dir() else _HOME / folder
