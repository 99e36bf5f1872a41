"""Predict, learn, next: a run of events that carry their labels, where the learner is at hand.

Lives here: answers and examples of such a run, stretch by stretch of one line-up.  Never here:
events whose labels come later (`scorer.py`), what models make of a row (`operators/lessons.py`),
what an example does to the race (`operators/learning.py`).

    lessons    every candidate scores and learns all rows, each on its own
    stretch    rows up to the next failure: answered by whoever serves now, made into examples
    judge      the examples act; where one decides something, the rest of the stretch is made anew
               by the line-up that holds from there

Row by row and run by run give the same bytes.  (A. P. Dawid, "Statistical theory: the prequential
approach", 1984, gave the order its name.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from engine.ahead import Ahead
from engine.outbox import Line, Outbox
from engine.pipeline import Pipeline
from operators.join import Answered, Waiting
from operators.lessons import Lessons, Serving
from operators.roster import Roster
from operators.scoring import labels_of
from topics.messages import Event, Features, LabelValue, Prediction, Score

__all__ = ["LabelledRun", "Prequential"]


class LabelledRun(NamedTuple):
    """Events that carry their labels, as columns of one length."""

    events: Sequence[Event]
    rows: Sequence[Features]
    labels: Sequence[LabelValue]
    crcs: Sequence[int]
    keys: Sequence[tuple[str, ...]]
    """Each event's keys in the label windows."""


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

    def answer(self, run: LabelledRun, now_ms: int, ahead: Ahead) -> tuple[list[Waiting], list[Answered]]:
        """Answer and learn all of `run`; return what was answered, and what repeats of it need.

        The answers have every candidate's score and their label.
        """
        lessons = ahead.lessons(run.rows, run.labels)
        answered: list[Waiting] = []
        kept: list[Answered] = []
        while (row := len(answered)) < len(run.events):
            answered += self._stretch(run, row, now_ms, lessons, ahead)
            kept += self._send(run, row, answered[row:])
        return answered, kept

    def _stretch(
        self, run: LabelledRun, row: int, now_ms: int, lessons: Lessons, ahead: Ahead
    ) -> list[Waiting]:
        """Answer and learn from `row` on, as far as the present line-up holds."""
        outbox, roster = self._outbox, self._roster
        serving = lessons.serving(row)
        alone = serving.failures or serving.candidate is None
        until = row + 1 if alone else lessons.even_until(row)
        answers = self._answers(run, row, until, now_ms, serving, lessons)
        if serving.failures:
            self._counts["models", "failed"] += len(serving.failures)
            outbox.quarantine(answers[0], serving.failures)
            outbox.tell()
        waiting = self._waiting(run, row, answers, lessons)
        times = [answer.event_time for answer in answers]
        examples = outbox.number_examples(waiting, run.labels[row:until], times)
        revision = roster.revision
        judged = 0
        while judged < len(examples) and roster.revision == revision:
            judged += ahead.judge(examples[judged:], lessons, row + judged)
        outbox.write(examples[:judged])
        return waiting[:judged]

    def _send(self, run: LabelledRun, row: int, answered: Sequence[Waiting]) -> list[Answered]:
        """Send the answers to `run` from `row` on."""
        part = slice(row, row + len(answered))
        sent = self._outbox.send([waiting.prediction for waiting in answered], run.events[part])
        if self._shadows_sent:
            for waiting in answered:
                self._outbox.shadow(waiting.prediction, waiting.key, waiting.scores)
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

    def _waiting(
        self, run: LabelledRun, row: int, answers: Sequence[Prediction], lessons: Lessons
    ) -> list[Waiting]:
        """Return the answers with what every candidate said, and their labels."""
        until = row + len(answers)
        names = lessons.racing_at(row)
        if len(names) == 1:
            name = names[0]
            scores = [{name: score} for score in lessons.column(name, row, until)]
        else:
            columns = [lessons.column(name, row, until) for name in names]
            scores = [dict(zip(names, found, strict=True)) for found in zip(*columns, strict=True)]
            scores = scores or [{} for _ in answers]
        return [
            Waiting(answer, event.key, keys, crc, found, label)
            for answer, event, keys, crc, found, label in zip(
                answers,
                run.events[row:until],
                run.keys[row:until],
                run.crcs[row:until],
                scores,
                run.labels[row:until],
                strict=True,
            )
        ]
