"""A run of rows, scored and learned by one candidate after the other: step 3 of `learning.py` for many rows.

Lives here: the tight loops over models, and where one of them stopped.  Never here: who serves,
what the rows do to metrics, detectors and the race (`learning.py` is told of each row afterwards).

A second way beside row by row, for events that carry their labels: without it an event of job J takes a
quarter more processor time (measured beside bare River in one run: 2.3 times River's with it, 2.8 without).

Strategy: candidates do not see one another, so the order

    row 1: a scores, b scores, a learns, b learns      row 2: a scores, b scores, ...

gives the same models and scores as all rows of a, then all rows of b, which keeps each model's
data in the processor's cache.  What is decided at a row changes who serves and who races from the
next row on, never a model; a challenger that starts there catches up with the rows behind it, and a
candidate that failed has stopped where it failed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

from operators.models.guards import without_guard
from operators.models.scoring import Candidate, Failure, Roster, ScoreOf, ServedBy, reason_of
from operators.stopwatch import Stopwatch
from topics.messages import Example, FeatureValues, LabelValue, Score

__all__ = ["Lessons", "Serving", "Sick"]

Sick = tuple[str, str]
"""Name of a candidate that could not learn, and the reason."""


class Serving(NamedTuple):
    """Who answers a row, and who failed at it."""

    candidate: Candidate | None
    """None: nobody is left, the prior answers."""
    served_by: ServedBy
    failures: tuple[Failure, ...]


class _Stop(NamedTuple):
    row: int
    reason: str


class Lessons:
    """Rows and what every candidate made of them.

    `score_of` gives the function that scores for a model.  `names` are all that the rows can have.

    >>> from river import linear_model
    >>> from operators.models.scoring import score_function
    >>> roster = Roster("binary", [Candidate("a", linear_model.LogisticRegression(), version=1)], "a")
    >>> rows, labels = [{"x": 1.0}, {"x": 1.0}], [True, True]
    >>> lessons = Lessons(roster, rows, labels, lambda model: score_function("binary", model), {"x"})
    >>> [round(score, 2) for score in lessons.scores["a"]]
    [0.5, 0.5]
    """

    def __init__(
        self,
        roster: Roster,
        rows: Sequence[FeatureValues],
        labels: Sequence[LabelValue],
        score_of: Callable[[Any], ScoreOf],
        names: AbstractSet[str],
        stopwatch: Stopwatch | None = None,
    ) -> None:
        self._stopwatch = stopwatch or Stopwatch()
        self.rows = rows
        self.labels = labels
        self.scores: dict[str, list[Score]] = {}
        """By candidate, from the row it began at; it ends where the candidate failed."""
        self._begun: dict[str, int] = {}
        self._failed: dict[str, _Stop] = {}
        """Candidates that could not score a row; they have not learned it."""
        self._sick: dict[str, _Stop] = {}
        """Candidates that could not learn a row they had scored."""
        self._roster = roster
        self._score_of = score_of
        self._names = names
        self._racing: list[Candidate] = []
        self._row = 0
        """The next one that `train` accounts for."""
        self.catch_up()

    def catch_up(self) -> None:
        """Look at the line-up again: candidates that race and have not begun do so at the next row."""
        row = self._row
        self._racing = self._roster.racing()
        for candidate in self._racing:
            name = candidate.name
            if name in self._begun:
                continue
            self._begun[name] = row
            rows, labels = self.rows[row:], self.labels[row:]
            model = without_guard(candidate.model, self._names)
            started = self._stopwatch.clock()
            calls = _calls_of(candidate, model, self._score_of)
            scores, learned, error = _score_and_learn(calls.score, calls.learn_one, rows, labels)
            self.scores[name] = scores
            self._stopwatch.models["score_and_learn", name] += self._stopwatch.clock() - started
            if error is not None:
                if len(scores) > learned:
                    self._sick[name] = _Stop(row + learned, f"learning: {reason_of(error)}")
                else:
                    self._failed[name] = _Stop(row + learned, reason_of(error))

    def train(self, _: Example) -> Sequence[Sick]:
        """Account for the training of the next row; return those that could not learn it."""
        row = self._row
        self._row = row + 1
        for candidate in self._racing:
            candidate.updates += 1
        if not self._sick:
            return ()
        sick = [(name, stop.reason) for name, stop in self._sick.items() if stop.row == row]
        for name, _reason in sick:
            self._roster.candidates[name].updates -= 1
        return sick

    def even_until(self, row: int) -> int:
        """Return the first row after `row` that not all have scored who have scored `row`."""
        stops = [stop.row for stop in self._failed.values() if stop.row > row]
        stops += [stop.row + 1 for stop in self._sick.values() if stop.row >= row]
        return min([*stops, len(self.rows)])

    def column(self, name: str, row: int, until: int) -> list[Score]:
        """Return a candidate's scores of the rows from `row` up to `until`."""
        begun = self._begun[name]
        return self.scores[name][row - begun : until - begun]

    def racing_at(self, row: int) -> list[str]:
        """Return who has a score of `row`, in order of start."""
        failed = self._failed
        return [
            candidate.name
            for candidate in self._roster.racing()
            if candidate.name not in failed or failed[candidate.name].row > row
        ]

    def serving(self, row: int) -> Serving:
        """Return who answers `row` by the present line-up: the champion, an earlier one, or nobody.

        Failures stand in the order in which they show: down the chain, then among the shadows.
        """
        roster = self._roster
        healthy = self.racing_at(row)
        found: Candidate | None = None
        failed: list[str] = []
        for name in (roster.champion, *roster.previous):
            if name in healthy:
                found = roster.candidates[name]
                break
            if roster.healthy(name):
                failed.append(name)
        failed += [c.name for c in roster.racing() if c.name not in healthy and c.name not in failed]
        failures = tuple(
            Failure(name, roster.candidates[name].version, self._failed[name].reason) for name in failed
        )
        if found is None:
            return Serving(None, "prior", failures)
        return Serving(found, "champion" if found.name == roster.champion else "previous", failures)


class _Calls(NamedTuple):
    model: Any
    score: ScoreOf
    learn_one: Callable[[Any, Any], None]


def _calls_of(candidate: Candidate, model: Any, score_of: Callable[[Any], ScoreOf]) -> _Calls:
    """Return how `model`, a candidate's own without needless guards, is called.

    Found out once per model: it takes as long as a row.
    """
    calls: _Calls | None = candidate.calls
    if calls is None or calls.model is not model:
        predictor = model if candidate.predictor is candidate.model else candidate.predictor
        calls = candidate.calls = _Calls(model, score_of(predictor), model.learn_one)
    return calls


def _score_and_learn(
    score_of: ScoreOf,
    learn_one: Callable[[Any, Any], None],
    rows: Sequence[FeatureValues],
    labels: Sequence[Any],
) -> tuple[list[Score], int, Exception | None]:
    """Score, then learn row by row; return the scores, how many were learned, and what ended it early."""
    scores: list[Score] = []
    scored = scores.append
    for learned, (row, label) in enumerate(zip(rows, labels, strict=True)):
        try:
            scored(score_of(row))
            learn_one(row, label)
        except Exception as error:  # noqa: BLE001 a user's model may raise anything; the others go on
            return scores, learned, error
    return scores, len(rows), None
