"""Test, then train: what one example does to metrics, detectors, models and the race.

Lives here: the order.  Never here: bytes, offsets to read next (`engine/learner.py`), what any of
the steps does in itself.

Strategy: every step sees the scores served at event time and the state the steps before it left;
only step 3 changes a model, so nothing is judged on an example it has learned.

    1 test    2 detect    3 train    4 weigh    5 decide
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from operators.arena import Arena, Moment
from operators.contract import StateDelta, StateEntries
from operators.drift import Detection, DriftWatch
from operators.evaluation import SERVED, Evaluation
from operators.evidence import Evidence, Verdict
from operators.losses import Loss, ScaledError, loss_of
from operators.roster import Candidate
from operators.scoring import label_of
from topics.messages import Command, Decision, Example, Features, LabelValue, Score, Task

__all__ = ["Learning"]

REASON_CHARS_MAX = 200
"""As in `scoring.py`: a reason is a line, not a model's repr."""


Learn = Callable[[dict[str, Any], Any], None]


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
    >>> from operators.roster import Roster
    >>> from operators.evidence import Promotion
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
    >>> learning.step(example, offset=1)
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
    ) -> None:
        self.examples = 0
        self.time = 0
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
        self._bind()

    def _bind(self) -> None:
        """Bind `learn_one` of every healthy candidate of the present line-up."""
        roster = self._roster
        self._revision = roster.revision
        self._lessons: list[tuple[Candidate, Learn]] = [
            (candidate, candidate.model.learn_one) for candidate in roster.racing()
        ]
        self._racing = {candidate.name for candidate, _ in self._lessons}

    def step(self, example: Example, offset: int) -> list[Decision]:
        """Test and learn one example of the log; return what was decided because of it."""
        roster = self._roster
        if roster.revision != self._revision:
            self._bind()
        champion, label, label_time, loss = roster.champion, example.label, example.label_time, self.loss
        scores, racing = example.scores, self._racing
        losses: dict[str, float | None] = {}
        for name, score in scores.items():
            if name in racing:
                losses[name] = loss(label, score)
        if len(losses) != len(scores):
            # Whoever has left the race since the prediction was made is judged no more.
            scores = {name: scores[name] for name in losses}

        # 1 test
        self._evaluation.update(example, scores, {SERVED: loss(label, example.served_score), **losses})
        # 2 detect
        alarms = self._detect(example, scores.get(champion), losses.get(champion)) if self._watching else []
        # 3 train
        self.examples += 1
        self.time = max(self.time, label_time)
        sick = self._train(example.features, label)
        # 4 weigh
        proven = self._evidence.update(champion, losses, label_time)
        # 5 decide
        if not (sick or alarms or proven):
            return []
        return self._decide(offset, sick, alarms, proven)

    def _detect(self, example: Example, score: Score, loss: float | None) -> list[Detection]:
        """Show the detectors the champion's score and its loss."""
        predicted = label_of(self._task, score, self._threshold)
        return self._watch.update(example, loss, wrong=predicted != example.label)

    def _train(self, x: Features, y: LabelValue) -> list[tuple[str, str]]:
        """Teach every healthy candidate; return (name, reason) of those that raised."""
        sick: list[tuple[str, str]] = []
        for candidate, learn_one in self._lessons:
            try:
                learn_one(x, y)
            except Exception as error:  # noqa: BLE001 a user's model may raise anything; the others learn on
                sick.append((candidate.name, f"learning: {type(error).__name__}: {error}"[:REASON_CHARS_MAX]))
            else:
                candidate.updates += 1
        self._roster.prior.update(y)
        if self._scale is not None:
            self._scale.update(y)
        self._dirty = True
        return sick

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
        self._bind()
