"""Test, then train: what one example does to metrics, detectors, models and the race.

Lives here: the order.  Never here: bytes, offsets to read next (`engine/machines/learner.py`), what any of
the steps does in itself.

Strategy: every step sees the scores served at event time and the state the steps before it left;
only step 3 changes a model, and scores are never taken again, so nothing is judged on an example it
has learned.

    1 test    2 detect    3 train    4 weigh    5 decide

Models are therefore taught first, a run of examples at a time (`lessons.py`), and the run is judged
by the column up to the first example that may decide something: the results are those of row by row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet
from functools import partial

import msgspec

from operators.drift.detectors import Detection, DriftWatch
from operators.models.scoring import label_of, score_function
from operators.race.arena import Arena
from operators.race.decisions import Moment
from operators.race.evaluation import SERVED, Evaluation
from operators.race.evidence import Evidence, Verdict
from operators.race.lessons import Lessons
from operators.race.losses import Loss, ScaledError, loss_of
from operators.state import StateDelta, StateEntries
from operators.stopwatch import Stopwatch
from topics.messages import Command, Decision, Example, Features, LabelValue, Task

__all__ = ["Learning"]


class _State(msgspec.Struct):
    examples: int
    time: int
    scale: tuple[float, float, float] | None = None


class Learning:
    """The one place where an example is tested and learned.

    `examples` counts what was learned, `time` is the largest label time so far, ms.  Decisions act
    at once: when `step` returns, the roster names the champion of the next prediction.

    >>> import pickle
    >>> from river import linear_model, metrics
    >>> from operators.models.roster import Candidate, Roster
    >>> from operators.race.evidence import Promotion
    >>> roster = Roster("binary", [Candidate("a", linear_model.LogisticRegression(), version=1)], "a")
    >>> learning = Learning(
    ...     "binary",
    ...     Arena("flights", 0, roster, Promotion()),
    ...     Evaluation("binary", [metrics.Accuracy()], pickle.dumps, pickle.loads),
    ...     DriftWatch([], pickle.dumps, pickle.loads),
    ...     Evidence(Promotion()),
    ... )
    >>> x, scores = {"delay": 1.0}, {"a": 0.5}
    >>> example = Example("e1", "k", 0, 9, True, x, scores, 0.5, "champion", "a", 0, 0, 0, 1, 0)
    >>> learning.step([example], offset=1)
    []
    >>> learning.examples, roster.candidates["a"].updates, roster.prior.score()
    (1, 1, 1.0)
    """

    def __init__(
        self,
        task: Task,
        arena: Arena,
        evaluation: Evaluation,
        watch: DriftWatch,
        evidence: Evidence,
        loss: Loss | None = None,
        threshold: float = 0.5,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        self._stopwatch = stopwatch or Stopwatch()
        self.examples = 0
        self.time = 0
        self.counts: Counter[tuple[str, str]] = Counter()
        """What happened, by (metric, label): the shell exports it; no part of the state."""
        self.loss = loss or loss_of(task)
        self._task: Task = task
        self._threshold = threshold
        self._arena = arena
        self._roster = arena.roster
        self._evaluation = evaluation
        self._watch = watch
        self._evidence = evidence
        self._watching = bool(watch.detections)
        self._scale = self.loss if isinstance(self.loss, ScaledError) else None
        self._dirty = True

    def lessons(
        self, rows: Sequence[Features], labels: Sequence[LabelValue], names: AbstractSet[str]
    ) -> Lessons:
        """Let every candidate score and learn rows that will be judged next; nothing else changes yet.

        `names` are all that the rows can have.
        """
        with self._stopwatch.step("learn"):
            score_of = partial(score_function, self._task)
            return Lessons(self._roster, rows, labels, score_of, names, self._stopwatch)

    def step(self, examples: Sequence[Example], offset: int) -> list[Decision]:
        """Test and learn examples that lie side by side in the log; return what was decided.

        `offset` is that of the first.
        """
        rows, labels = [example.features for example in examples], [example.label for example in examples]
        decisions: list[Decision] = []
        row = 0
        with self._stopwatch.step("learn"):
            lessons = Lessons(self._roster, rows, labels, None, stopwatch=self._stopwatch)
            while row < len(examples):
                judged, decided = self.judge(examples[row:], offset + row, lessons, row)
                decisions += decided
                row += judged
        return decisions

    def judge(
        self, examples: Sequence[Example], offset: int, lessons: Lessons, row: int
    ) -> tuple[int, list[Decision]]:
        """Do all but train with examples that have been learned already, from `row` of `lessons` on.

        Goes as far as one line-up holds; returns how many were judged and what the last one decided.
        Whoever makes later examples looks at the roster again.
        """
        roster = self._roster
        champion = roster.champion
        names = self._names(examples[0])
        # 1 test
        count = self._alike(examples, lessons.well_until(row) - row + 1, names)
        examples = examples[:count]
        scale = None if self._scale is None else self._scale.state()
        losses = self._losses(examples, names)
        # 2 detect
        alarms: list[Detection] = []
        if self._watching:
            count, alarms = self._detect(examples, losses.get(champion))
            if count < len(examples):
                examples = examples[:count]
                losses = {name: column[:count] for name, column in losses.items()}
                self._rescale(scale, examples)
        self._evaluation.extend(examples, losses)
        # 3 train: `lessons` did
        sick = lessons.sick_at(row + count - 1)
        self._learned(examples, {name for name, _ in sick})
        # 4 weigh
        del losses[SERVED]
        proven = self._evidence.extend(champion, losses, [example.label_time for example in examples])
        # 5 decide
        if not (sick or alarms or proven):
            return count, []
        decisions = self._decide(offset + count - 1, sick, alarms, proven)
        lessons.catch_up(row + count)
        return count, decisions

    def _names(self, example: Example) -> list[str]:
        """Return who is judged: whoever has left the race since the prediction was made is so no more."""
        healthy = self._roster.healthy
        return [name for name in example.scores if healthy(name)]

    def _alike(self, examples: Sequence[Example], count: int, names: Sequence[str]) -> int:
        """Return how many, at most `count`, have scores of the same names, and no verdict but by the last."""
        known = examples[0].scores.keys()
        count = min(count, len(examples))
        count = next((n for n in range(1, count) if examples[n].scores.keys() != known), count)
        return self._evidence.rows_to_verdict(names, [example.label_time for example in examples[:count]])

    def _losses(self, examples: Sequence[Example], names: Sequence[str]) -> dict[str, list[float | None]]:
        """Return the losses by column, those of what was served first."""
        loss, scale = self.loss, self._scale
        if scale is None:
            labels = [example.label for example in examples]
            served = [example.served_score for example in examples]
            losses = {SERVED: list(map(loss, labels, served))}
            for name in names:
                scores = [example.scores[name] for example in examples]
                losses[name] = losses[SERVED] if scores == served else list(map(loss, labels, scores))
            return losses
        losses = {name: [] for name in (SERVED, *names)}
        for example in examples:
            losses[SERVED].append(loss(example.label, example.served_score))
            for name in names:
                losses[name].append(loss(example.label, example.scores[name]))
            scale.update(example.label)
        return losses

    def _rescale(self, scale: tuple[float, float, float] | None, examples: Sequence[Example]) -> None:
        """Set the scale of regression losses back, and on by `examples` only."""
        if self._scale is not None and scale is not None:
            self._scale.restore(scale)
            for example in examples:
                self._scale.update(example.label)

    def _detect(
        self, examples: Sequence[Example], losses: Sequence[float | None] | None
    ) -> tuple[int, list[Detection]]:
        """Show the detectors the champion's scores and losses, up to the first alarm."""
        champion = self._roster.champion

        def wrong(row: int) -> bool:
            example = examples[row]
            predicted = label_of(self._task, example.scores.get(champion), self._threshold)
            return predicted != example.label

        return self._watch.extend(examples, losses, wrong)

    def _learned(self, examples: Sequence[Example], sick: Collection[str]) -> None:
        """Count what every healthy candidate has learned; the last one not, where it made it sick."""
        for candidate in self._roster.racing():
            candidate.updates += len(examples) - (candidate.name in sick)
        self._roster.prior.extend([example.label for example in examples])
        self.examples += len(examples)
        self.time = max(self.time, *[example.label_time for example in examples])
        self._dirty = True

    def _decide(
        self,
        offset: int,
        sick: list[tuple[str, str]],
        alarms: list[Detection],
        proven: list[Verdict],
    ) -> list[Decision]:
        arena, champion = self._arena, self._roster.champion
        at = self.moment(offset)
        decisions = arena.alarms(at, alarms, self._evaluation.recent_loss)
        for name, reason in sick:
            self.counts["model_failures", f"learn {name}"] += 1
            decisions += arena.quarantine(at, name, reason, self._evaluation.recent_loss)
        if self._roster.champion == champion:
            decisions += arena.swap(at, proven)
        return self._settled(champion, decisions)

    def quarantine(self, name: str, reason: str, offset: int) -> list[Decision]:
        """Act on a scorer's report that a candidate failed."""
        champion = self._roster.champion
        at = self.moment(offset)
        return self._settled(champion, self._arena.quarantine(at, name, reason, self._evaluation.recent_loss))

    def command(self, command: Command, offset: int) -> list[Decision]:
        """Do what a person asked for."""
        champion = self._roster.champion
        return self._settled(champion, self._arena.command(self.moment(offset), command))

    def moment(self, offset: int) -> Moment:
        """Return where the learner stands when it takes the record at `offset`."""
        return Moment(offset, self.time, self.examples)

    def _settled(self, champion: str, decisions: list[Decision]) -> list[Decision]:
        """Let comparison and detectors follow the decisions: they are about the present champion."""
        for decision in decisions:
            if decision.type in {"model.quarantined", "challenger.retired"}:
                self._evidence.forget(decision.model_name)
            if decision.type == "challenger.retired":
                self._evaluation.forget(decision.model_name)
            if decision.type == "champion.unpinned":
                self._evidence.start_over()  # what was weighed while nothing could follow decides nothing
        if self._roster.champion != champion:
            self._evidence.start_over()
            self._watch.start_over()
        return decisions

    def snapshot(self) -> dict[str, bytes]:
        """Return what is remembered here: counts, the prior, the scale of regression losses."""
        scale = None if self._scale is None else self._scale.state()
        own = _State(self.examples, self.time, scale)
        return {"learning": msgspec.msgpack.encode(own), **self._roster.prior.snapshot()}

    def delta(self) -> StateDelta:
        """Return the state if it changed since the last call."""
        if not self._dirty:
            return {}
        self._dirty = False
        return dict(self.snapshot())

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state; the line-up has been restored before."""
        own = msgspec.msgpack.decode(entries["learning"], type=_State)
        self.examples, self.time = own.examples, own.time
        if self._scale is not None and own.scale is not None:
            self._scale.restore(own.scale)
        self._roster.prior.restore(entries)
        self._dirty = False
