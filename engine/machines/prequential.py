"""Predict, learn, next: a run of events that carry their labels, where the learner is at hand.

Lives here: answers and examples of such a run, stretch by stretch of one line-up.  Never here:
events whose labels come later (`scorer.py`), what models make of a row (`operators/race/lessons.py`),
what an example does to the race (`operators/race/learning.py`).

    lessons    every candidate scores and learns all rows, each on its own
    stretch    rows up to the next failure: answered by whoever serves now, made into examples
    examples   act one by one; where one changes the line-up, the rest of the stretch is made anew
               by the one that holds from there

Row by row and run by run give the same bytes.  (A. P. Dawid, "Statistical theory: the prequential
approach", 1984, gave the order its name.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from engine.definition.pipeline import Pipeline
from engine.machines.learner import Learner
from engine.machines.outbox import Line, Outbox, Scored
from operators.join.entries import Answered
from operators.models.roster import Roster
from operators.models.scoring import labels_of
from operators.race.lessons import Lessons, Serving
from topics.messages import Decision, Event, Example, FeatureValues, LabelValue, Prediction, Quarantine, Score

__all__ = ["LabelledRun", "Prequential"]


class LabelledRun(NamedTuple):
    """Events that carry their labels, as columns of one length."""

    events: Sequence[Event]
    rows: Sequence[FeatureValues]
    labels: Sequence[LabelValue]
    crcs: Sequence[int]


class Prequential:
    """Answers and examples of one events partition, labels inside."""

    def __init__(
        self,
        pipeline: Pipeline,
        outbox: Outbox,
        roster: Roster,
        counts: Counter[tuple[str, str]],
    ) -> None:
        self._task = pipeline.task
        self._threshold = pipeline.threshold
        self._outbox = outbox
        self._roster = roster
        self._counts = counts
        self._shadows_sent = pipeline.shadow_predictions
        self._names = frozenset(name for name, _ in pipeline.plan.features)
        self._learner: Learner | None = None
        self._decided: Callable[[Sequence[Decision]], object] = len

    def learn_with(self, learner: Learner | None, decided: Callable[[Sequence[Decision]], object]) -> None:
        """Let `learner` fold each record of the examples log before it is sent; None ends that.

        `decided` is called after every step, with what was decided, mostly nothing.  Nobody else may
        write to the examples log meanwhile.
        """
        self._learner, self._decided = learner, decided
        self._outbox.fold_at_once = None if learner is None else self._fold

    def _fold(self, value: Example | Quarantine) -> None:
        """Let the learner fold one record that was made."""
        assert self._learner is not None
        self._decided(self._learner.fold_at_once(value))

    def answer(self, run: LabelledRun, now_ms: int) -> tuple[list[Scored], list[Answered]]:
        """Answer and learn all of `run`; return what was answered, and what repeats of it need."""
        assert self._learner is not None
        lessons = self._learner.learning.lessons(run.rows, run.labels, self._names)
        answered: list[Scored] = []
        kept: list[Answered] = []
        while (row := len(answered)) < len(run.events):
            answered += self._stretch(run, row, now_ms, lessons, self._learner)
            kept += self._send(run, row, answered[row:])
        return answered, kept

    def _stretch(
        self, run: LabelledRun, row: int, now_ms: int, lessons: Lessons, learner: Learner
    ) -> list[Scored]:
        """Answer and learn from `row` on, as far as the present line-up holds."""
        outbox = self._outbox
        serving = lessons.serving(row)
        alone = serving.failures or serving.candidate is None
        until = row + 1 if alone else lessons.even_until(row)
        answers = self._answers(run, row, until, now_ms, serving, lessons)
        if serving.failures:
            self._counts.update(("model_failures", f"score {failure.name}") for failure in serving.failures)
            outbox.quarantine(answers[0], serving.failures)
            lessons.catch_up()
        events = run.events[row:until]
        keys, times = [event.key for event in events], [event.event_time for event in events]
        scored = list(zip(answers, keys, self._scores(row, until, lessons), strict=True))
        examples = outbox.number_examples(scored, run.labels[row:until], times)
        folded, decisions = learner.fold_taught(examples, lessons)
        if decisions:
            self._decided(decisions)
        outbox.write(examples[:folded])
        return scored[:folded]

    def _send(self, run: LabelledRun, row: int, answered: Sequence[Scored]) -> list[Answered]:
        """Send the answers to `run` from `row` on."""
        part = slice(row, row + len(answered))
        sent = self._outbox.send([answer for answer, _, _ in answered], run.events[part])
        if self._shadows_sent:
            for scored in answered:
                self._outbox.shadow(*scored)
        return [
            Answered(event.event_id, event.event_time, event.offset, crc, label, answer)
            for event, crc, label, answer in zip(
                run.events[part], run.crcs[part], run.labels[part], sent, strict=True
            )
        ]

    def _answers(
        self, run: LabelledRun, row: int, until: int, now_ms: int, serving: Serving, lessons: Lessons
    ) -> list[Prediction]:
        """Return the answers of `row` up to `until`, numbered but not sent."""
        candidate, served_by, _ = serving
        scores: Sequence[Score]
        if candidate is None:
            prior = self._roster.prior
            by, scores = Line("prior", 0, prior.updates, served_by), [prior.score()]
            cold_starts = [not prior.updates]
        else:
            by = Line(candidate.name, candidate.version, candidate.updates, served_by)
            scores = lessons.column(candidate.name, row, until)
            cold_starts = [score is None for score in scores]
        labels = labels_of(self._task, scores, self._threshold)
        return self._outbox.number(
            run.events[row:until], run.rows[row:until], now_ms, by, scores, labels, cold_starts
        )

    def _scores(self, row: int, until: int, lessons: Lessons) -> list[dict[str, Score]]:
        """Return what every candidate said of each row."""
        names = lessons.racing_at(row)
        if len(names) == 1:
            name = names[0]
            return [{name: score} for score in lessons.column(name, row, until)]
        columns = [lessons.column(name, row, until) for name in names]
        found = [dict(zip(names, scores, strict=True)) for scores in zip(*columns, strict=True)]
        return found or [{} for _ in range(row, until)]
