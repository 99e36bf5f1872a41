"""Prequential learning: a run of events that carry their labels, predicted and learned one after the other.

Lives here: answers and examples of such a run, stretch by stretch of one line-up.  Never here:
events whose labels come later (`scorer.py`), what models make of a row and what an example does to the race
(`operators/race/learning.py`).

    lessons    every candidate scores and learns all rows, each on its own
    stretch    rows up to the next failure: answered by whoever serves now, made into examples
    examples   act one by one; where one decides something, the rest of the stretch is made anew by
               the line-up that holds from there

Row by row and run by run give the same bytes.  (A. P. Dawid, "Statistical theory: the prequential
approach", 1984, gave the order its name.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from typing import cast

from msgspec.structs import replace

from engine.definition.pipeline import Pipeline
from engine.machines.learner import Learner
from engine.machines.outbox import Outbox, Scored
from operators.join.pending import Answered
from operators.models.mixture import Blended
from operators.models.scoring import Racer, Roster, Served, labels_of, served_as_picked, unfollowed
from operators.race.learning import Lessons, Serving
from topics.headers import traced
from topics.messages import (
    Block,
    Decision,
    Event,
    Example,
    FeatureValues,
    Headers,
    LabelValue,
    Quarantine,
    Score,
)

__all__ = ["Decided", "Prequential", "nothing_follows"]

Decided = Callable[[Sequence[Decision], Headers], object]
"""Gets what was decided, and the trace context of the event that led to it."""


def nothing_follows(decisions: Sequence[Decision], trace: Headers) -> None:
    """Take decisions where nobody learns row by row."""


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
        self._outbox = outbox
        self._roster = roster
        self._counts = counts
        self._shadows_sent = pipeline.shadow_predictions
        self._names = frozenset(name for name, _ in pipeline.plan.features)
        self._learner: Learner | None = None
        self._decided: Decided = nothing_follows

    def learn_with(self, learner: Learner | None, decided: Decided) -> None:
        """Set the learner that folds each record of the examples log before it is sent; None for none.

        `decided` is called after every step, with what was decided, mostly nothing, and the trace of the
        event that led to it.  Nobody else may write to the examples log meanwhile.
        """
        self._learner, self._decided = learner, decided
        self._outbox.fold_at_once = None if learner is None else self._fold

    def _fold(self, value: Example | Quarantine | Block, trace: Headers) -> None:
        """Fold one message that was made here with the learner."""
        assert self._learner is not None
        self._decided(self._learner.fold_at_once(value), trace)

    def answer(
        self, events: Sequence[Event], rows: Sequence[FeatureValues], now_ms: int
    ) -> tuple[list[Scored], list[Answered]]:
        """Answer events that all carry labels, and learn them; return answers, and entries for repeats."""
        assert self._learner is not None
        labels = cast("list[LabelValue]", [event.label for event in events])
        lessons = self._learner.learning.lessons(rows, labels, self._names)
        answered: list[Scored] = []
        kept: list[Answered] = []
        while (row := len(answered)) < len(events):
            answered += self._stretch(events, row, now_ms, lessons, self._learner)
            part = slice(row, len(answered))
            kept += self._send(events[part], labels[part], answered[part])
        return answered, kept

    def _stretch(
        self, events: Sequence[Event], row: int, now_ms: int, lessons: Lessons, learner: Learner
    ) -> list[Scored]:
        """Answer and learn the rows from `row` on, up to a change of the line-up."""
        outbox = self._outbox
        serving = lessons.serving()
        alone = serving.failures or serving.candidate is None
        until = row + 1 if alone else lessons.even_until()
        events = events[row:until]
        rows = self._scores(until, lessons)
        blended = lessons.blend(rows) if lessons.blends else {}
        served = self._served(until, serving, lessons, blended)
        if self._roster.routing is not None:
            served = self._picked(events, served, rows, blended)
        answers = outbox.number(events, lessons.rows[row:until], served, now_ms)
        if serving.failures:
            self._counts.update(("model_failures", f"score {failure.name}") for failure in serving.failures)
            outbox.quarantine(answers[0], events[0].key, serving.failures)
        scored = [
            (answer, event.key, scores) for answer, event, scores in zip(answers, events, rows, strict=True)
        ]
        labels, times = lessons.labels[row:until], [event.event_time for event in events]
        examples = outbox.number_examples(scored, labels, times)
        folded, decisions = learner.fold_taught(examples, lessons)
        traces = [traced(event.headers) for event in events[:folded]]
        if decisions:
            self._decided(decisions, traces[-1])
        outbox.write(examples[:folded], traces)
        return scored[:folded]

    def _send(
        self, events: Sequence[Event], labels: Sequence[LabelValue], answered: Sequence[Scored]
    ) -> list[Answered]:
        sent = self._outbox.send([answer for answer, _, _ in answered], events)
        self._outbox.count_abstained(answer for answer, _, _ in answered)
        if self._shadows_sent:
            for scored in answered:
                self._outbox.shadow(*scored)
        return [
            Answered(
                event.event_id, event.event_time, event.offset, event.payload_crc, label, answer, event.key
            )
            for event, label, answer in zip(events, labels, sent, strict=True)
        ]

    def _served(
        self, until: int, serving: Serving, lessons: Lessons, blended: Mapping[str, Sequence[Blended]]
    ) -> list[Served]:
        """Return the answer to each row by one candidate, which learns each row before the next."""
        candidate, served_by, _ = serving
        if candidate is None:
            prior = self._roster.prior
            score = prior.score()
            (label,) = labels_of(self._task, [score], self._roster.threshold)
            return [Served(score, label, served_by, "prior", 0, prior.updates, not prior.updates)]
        name, version = candidate.name, candidate.version
        said = blended.get(name)
        scores = lessons.column(name, until) if said is None else [one.score for one in said]
        labels = labels_of(self._task, scores, self._roster.threshold)
        served = [
            Served(score, label, served_by, name, version, updates, score is None)
            for updates, score, label in zip(_updates(candidate, len(scores)), scores, labels, strict=True)
        ]
        if said is None:
            return served
        return [replace(one, weights=by.weights or None) for one, by in zip(served, said, strict=True)]

    def _picked(
        self,
        events: Sequence[Event],
        served: Sequence[Served],
        rows: Sequence[Mapping[str, Score]],
        blended: Mapping[str, Sequence[Blended]],
    ) -> list[Served]:
        """Return the answers by whom the serving policy picks; `served` are those of the chain."""
        table, roster, picked = self._roster.routing, self._roster, []
        assert table is not None
        for number, (event, one, scores) in enumerate(zip(events, served, rows, strict=True)):
            pick = table.pick(event.key, event.event_id, event.event_time)
            if pick.name not in scores:
                picked.append(replace(one, pick=unfollowed(pick)))
                continue
            racer, said = roster.racers[pick.name], blended.get(pick.name)
            updates = racer.updates + (number if racer.learns else 0)
            answer = served_as_picked(self._task, roster, racer, updates, scores[pick.name], pick)
            picked.append(answer if said is None else replace(answer, weights=said[number].weights or None))
        self._counts.update(("arms", one.pick.name) for one in picked if one.pick and one.pick.propensity)
        return picked

    def _scores(self, until: int, lessons: Lessons) -> list[dict[str, Score]]:
        """Return the score of each row of every candidate that has one of its own."""
        names = lessons.healthy()
        if len(names) == 1:
            name = names[0]
            return [{name: score} for score in lessons.column(name, until)]
        columns = [lessons.column(name, until) for name in names]
        rows = [dict(zip(names, scores, strict=True)) for scores in zip(*columns, strict=True)]
        return rows or [{} for _ in range(lessons.row, until)]


def _updates(candidate: Racer, rows: int) -> Iterable[int]:
    """Return how many labels a candidate has learned before each of the next rows."""
    first = candidate.updates
    return range(first, first + rows) if candidate.learns else repeat(first, rows)
