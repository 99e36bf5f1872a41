"""What a look at the surroundings has found.

Lives here: a finding and its levels.  Never here: looking.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = ["DoctorFinding", "Level"]

Level = Literal["ok", "warn", "fail"]
"""`warn` works, and is likely not meant; `fail` ends a worker, or loses what it needs."""


class DoctorFinding(NamedTuple):
    """One line of `headrace doctor`."""

    check: str
    """What was looked at, in one or two words."""
    level: Level
    said: str
    """What was found."""
    fix: str = ""
    """What to do; empty where it is `ok`."""
