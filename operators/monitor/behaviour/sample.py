"""A bounded sample of recent examples, and the champion that is asked about them.

Lives here: which rows stay, when they are asked about, how a champion is asked without consequences.  Never
here: what it is asked.

A round is `STOP_EVERY` examples.  The sample of one round is asked about in the next, a part of the questions
every `PART_EVERY` examples: no answer waits for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import nsmallest
from math import ceil
from zlib import crc32

import msgspec

from operators.models.scoring import Roster, Scoring
from topics.messages import Example, FeatureValues, Score, Task

__all__ = ["PART_EVERY", "STOP_EVERY", "Champion", "Questions", "RecentRows"]

STOP_EVERY = 1_024
"""Examples of a round: each question is asked once."""
PART_EVERY = 128
"""Examples between the stops at which some of the questions of a round are asked."""


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


class _QuestionsState(msgspec.Struct):
    rows: list[Example] = []
    due: list[str] = []
    part: int = 0


class Questions:
    """The questions of one round, and the rows that they are about.

    >>> rows, questions = RecentRows(3), Questions()
    >>> rows.add([Example("e", "k", 0, 0, True, {}, {}, 0.5, "champion", "a", 0, 0, 0, 1, 0)])
    >>> questions.begin(rows, list("abcdefghijk"))
    >>> [questions.part() for _ in range(7)]
    [['a', 'b'], ['c', 'd'], ['e', 'f'], ['g', 'h'], ['i', 'j'], ['k'], []]
    """

    def __init__(self) -> None:
        self._state = _QuestionsState()

    @property
    def rows(self) -> Sequence[Example]:
        """Return the rows that are asked about."""
        return self._state.rows

    def begin(self, sample: RecentRows, questions: Sequence[str]) -> None:
        """Begin a round with the rows of a sample, which begins anew."""
        parts = STOP_EVERY // PART_EVERY
        self._state = _QuestionsState(sample.rows, list(questions), ceil(len(questions) / parts))
        sample.clear()

    def part(self) -> list[str]:
        """Return the next questions."""
        state = self._state
        now, state.due = state.due[: state.part], state.due[state.part :]
        if not now:
            state.rows = []
        return now

    def encoded(self) -> bytes:
        """Return the state."""
        return msgspec.msgpack.encode(self._state)

    def restore(self, data: bytes | None) -> None:
        """Replace the state; None: no round has begun."""
        self._state = (
            _QuestionsState() if data is None else msgspec.msgpack.decode(data, type=_QuestionsState)
        )


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
