"""A bounded sample of recent examples, and the champion that is asked about them.

Lives here: which rows stay, how a champion is asked without consequences.  Never here: what it is asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import nsmallest
from zlib import crc32

import msgspec

from operators.models.scoring import Roster, Scoring
from topics.messages import Example, FeatureValues, Score, Task

__all__ = ["STOP_EVERY", "Champion", "RecentRows"]

STOP_EVERY = 1_024
"""Examples between the stops at which models are asked."""


class RecentRows:
    """Those of the examples since the last `clear` whose ids have the smallest hashes.

    Which these are depends on no order and no batch.

    >>> rows = [
    ...     Example(f"e{n}", "k", n, n, True, {}, {}, 0.5, "champion", "a", 0, n, n, 1, n)
    ...     for n in range(9)
    ... ]
    >>> whole, parts = RecentRows(3), RecentRows(3)
    >>> whole.add(rows)
    >>> parts.add(rows[5:])
    >>> parts.add(rows[:5])
    >>> [row.event_id for row in whole.rows] == [row.event_id for row in parts.rows], len(whole.rows)
    (True, 3)
    """

    def __init__(self, rows_max: int) -> None:
        self._rows_max = rows_max
        self.rows: list[Example] = []
        """In order of their hashes."""

    def add(self, examples: Iterable[Example]) -> None:
        """Take examples."""
        self.rows = nsmallest(self._rows_max, [*self.rows, *examples], key=_place)

    def clear(self) -> None:
        """Begin anew."""
        self.rows = []

    def encoded(self) -> bytes:
        """Return the state."""
        return msgspec.msgpack.encode(self.rows)

    def restore(self, data: bytes) -> None:
        """Replace the state."""
        self.rows = msgspec.msgpack.decode(data, type=list[Example])


def _place(example: Example) -> tuple[int, str]:
    return crc32(example.event_id.encode()), example.event_id


class Champion:
    """The champion of a roster as it is now, asked without consequences: nobody leaves for a failure."""

    def __init__(self, task: Task, roster: Roster) -> None:
        self._task, self._roster = task, roster
        self._scoring = Scoring(task, roster)
        racer = roster.racers.get(roster.champion)
        self.name = roster.champion
        self.version = 0 if racer is None else racer.version

    def score(self, x: FeatureValues) -> Score:
        """Return its score; None where it has none, or fails."""
        served = self._scoring.serve(x)
        if served.failures:
            self._scoring = Scoring(self._task, self._roster)  # the one that failed is asked again
        return served.score if served.served_by == "champion" else None
