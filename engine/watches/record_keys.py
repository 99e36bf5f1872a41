"""Whether records lie under their own keys: what a worker says while some do not.

Lives here: how often it is said, and what to do.  Never here: counting (`scorer.py`), comparing, clocks.

A record under another key than its own is taken all the same.  Where there is one partition it changes
nothing; where there are several, windows of the key and the label of an event may lie on another one, and
then the label joins nothing and is told as `unmatched`.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import structlog

__all__ = ["KeyWatch", "Misplaced"]

EVERY_S = 60.0
"""Least time between two warnings."""
FIX = "send every event, and its label, with the key field's value as the record's key: `headrace send --key`"

log = structlog.get_logger("headrace")


class Misplaced(NamedTuple):
    """Records under other keys since the last warning."""

    events: int
    labels: int
    fix: str = FIX


class KeyWatch:
    """Looks at a worker's counts and says something at the first such record, then once in a while.

    >>> watch, counts = KeyWatch(), Counter({("key_mismatches", "event"): 2})
    >>> watch.look(0.0, counts)[:2], watch.look(99.0, counts)
    ((2, 0), None)
    """

    def __init__(self, every_s: float = EVERY_S) -> None:
        self._every_s = every_s
        self._due_s = float("-inf")
        self._told = (0, 0)

    def tell(self, counts: Counter[tuple[str, str]], now_s: float) -> None:
        """Log what `look` finds."""
        if (found := self.look(now_s, counts)) is not None:
            log.warning("records lie under other keys than their own", **found._asdict())

    def look(self, now_s: float, counts: Counter[tuple[str, str]]) -> Misplaced | None:
        """Return what is to be said; `counts` grow, `now_s` is any clock that does not go back."""
        found = counts["key_mismatches", "event"], counts["key_mismatches", "label"]
        if found == self._told or now_s < self._due_s:
            return None
        events, labels = (now - before for now, before in zip(found, self._told, strict=True))
        self._told, self._due_s = found, now_s + self._every_s
        return Misplaced(events, labels)
