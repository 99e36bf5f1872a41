"""How often a matter is logged: the first time at once, then at most once a minute.

Lives here: the interval.  Never here: what is logged, a clock.
"""

from __future__ import annotations

__all__ = ["EVERY_S", "Pace"]

EVERY_S = 60.0
"""Least time between two lines of one matter: a flood of causes is no flood of lines."""


class Pace:
    """The interval between two lines of one matter; every time is of one clock that does not go back.

    >>> pace = Pace()
    >>> pace.allows(5.0), pace.logged(5.0), pace.allows(64.9), pace.allows(65.0)
    (True, None, False, True)
    """

    def __init__(self, every_s: float = EVERY_S) -> None:
        self._every_s = every_s
        self._due_s = float("-inf")

    def allows(self, now_s: float) -> bool:
        """Return whether a line may be logged."""
        return now_s >= self._due_s

    def logged(self, now_s: float) -> None:
        """Begin a new interval."""
        self._due_s = now_s + self._every_s
