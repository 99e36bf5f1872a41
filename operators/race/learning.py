"""Test, then train: what one example does to metrics, detectors, models and the race.

Lives here: the order.  Never here: bytes, offsets to read next (`engine/machines/learner.py`), what any of
the steps does in itself.

Strategy: every step sees the scores served at event time and the state the steps before it left;
only step 3 changes a model, and scores are never taken again, so nothing is judged on an example it
has learned.

    1 test    2 detect    3 train    4 weigh    5 decide

`Learning.learn` is this order, one example at a time.  What it is given for step 3 is the training itself
or, for a run of events that carry their labels, the account of a training that went before (`lessons.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from functools import partial

import msgspec

from operators.drift.detectors import Detection, DriftWatch
from operators.models.scoring import Candidate, label_of, reason_of, score_function
from operators.race.arena import Arena, Moment
from operators.race.evaluation import Evaluation, Loss, ScaledError, loss_of
from operators.race.evidence import Evidence, Verdict
from operators.race.lessons import Lessons, Sick
from operators.state import StateEntries, WholeState
from operators.stopwatch import Stopwatch
from topics.messages import Command, Decision, Example, FeatureValues, LabelValue, Task

__all__ = ["Learning"]

Train = Callable[[Example], Sequence[Sick]]
"""Lets the candidates of the race learn an example, and returns those that failed at it."""


class _State(msgspec.Struct):
    examples: int
    time: int
    scale: tuple[float, float, float] | None = None


class Learning(WholeState):
    """The one place where an example is tested and learned.

    `examples` counts what was learned, `time` is the largest label time so far, ms.  Decisions act
    at once: when `step` returns, the roster names the champion of the next prediction.

    >>> import pickle
    >>> from river import linear_model, metrics
    >>> from operators.models.scoring import Candidate, Roster
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
        self._revision = -1
        """Of the line-up that `_learners` are of."""
        self._learners: list[tuple[Candidate, Callable[[FeatureValues, LabelValue], object]]] = []

    def lessons(
        self, rows: Sequence[FeatureValues], labels: Sequence[LabelValue], names: AbstractSet[str]
    ) -> Lessons:
        """Let every candidate score and learn rows, of which `learn` is told next; nothing else changes yet.

        `names` are all that the rows can have.
        """
        started = self._stopwatch.clock()
        score_of = partial(score_function, self._task)
        lessons = Lessons(self._roster, rows, labels, score_of, names, self._stopwatch)
        self._stopwatch.steps["learn"] += self._stopwatch.clock() - started
        return lessons

    def step(self, examples: Sequence[Example], offset: int) -> list[Decision]:
        """Test and learn examples that lie side by side in the log; return what was decided.

        `offset` is that of the first.
        """
        started = self._stopwatch.clock()
        decisions: list[Decision] = []
        for at, example in enumerate(examples, offset):
            decisions += self.learn(example, at, self._train)
        self._stopwatch.steps["learn"] += self._stopwatch.clock() - started
        return decisions

    def learn(self, example: Example, offset: int, train: Train) -> Sequence[Decision]:
        """Test and learn the example at `offset` of the log; return what was decided, mostly nothing.

        `train` lets the candidates learn it.  The roster may be another afterwards: whoever makes the next
        example looks at it again.
        """
        champion = self._roster.champion
        # 1 test
        losses = self._test(example)
        # 2 detect
        alarms = self._detect(example, losses.get(champion)) if self._watching else ()
        # 3 train
        sick = train(example)
        self._learned(example)
        # 4 weigh
        proven = self._evidence.update(champion, losses, example.label_time)
        # 5 decide
        if not (sick or alarms or proven):
            return ()
        return self._decide(offset, sick, alarms, proven)

    def _test(self, example: Example) -> dict[str, float | None]:
        """Count the scores served at event time; return the losses of who is still in the race."""
        label, served, loss = example.label, example.served_score, self.loss
        candidates, quarantined = self._roster.candidates, self._roster.quarantined
        of_served = loss(label, served)
        losses = {
            name: of_served if score is served else loss(label, score)
            for name, score in example.scores.items()
            if name in candidates and name not in quarantined
        }
        self._evaluation.add(example, of_served, losses)
        if self._scale is not None:
            self._scale.update(label)
        return losses

    def _detect(self, example: Example, loss: float | None) -> list[Detection]:
        """Show the detectors the champion's score and its loss."""
        score = example.scores.get(self._roster.champion)
        wrong = label_of(self._task, score, self._threshold) != example.label
        return self._watch.update(example, loss, wrong=wrong)

    def _train(self, example: Example) -> list[Sick]:
        """Let every healthy candidate learn; return those that failed at it."""
        if self._roster.revision != self._revision:
            self._bind()
        features, label, clock = example.features, example.label, self._stopwatch.clock
        sick: list[Sick] = []
        for candidate, learn_one in self._learners:
            started = clock()
            try:
                learn_one(features, label)
            except Exception as error:  # noqa: BLE001 a user's model may raise anything; the others go on
                sick.append((candidate.name, f"learning: {reason_of(error)}"))
            else:
                candidate.updates += 1
            self._stopwatch.models["learn", candidate.name] += clock() - started
        return sick

    def _learned(self, example: Example) -> None:
        """Count an example that every candidate has learned, and let the prior learn it."""
        self._roster.prior.update(example.label)
        self.examples += 1
        self.time = max(self.time, example.label_time)
        self._dirty = True

    def _bind(self) -> None:
        """Look up how each candidate of the present line-up learns."""
        self._revision = self._roster.revision
        self._learners = [(candidate, candidate.model.learn_one) for candidate in self._roster.racing()]

    def _decide(
        self,
        offset: int,
        sick: Sequence[Sick],
        alarms: Sequence[Detection],
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
        return self._follow(champion, decisions)

    def quarantine(self, name: str, reason: str, offset: int) -> list[Decision]:
        """Act on a scorer's report that a candidate failed."""
        champion = self._roster.champion
        at = self.moment(offset)
        return self._follow(champion, self._arena.quarantine(at, name, reason, self._evaluation.recent_loss))

    def command(self, command: Command, offset: int) -> list[Decision]:
        """Do what a person asked for."""
        champion = self._roster.champion
        return self._follow(champion, self._arena.command(self.moment(offset), command))

    def moment(self, offset: int) -> Moment:
        """Return where the learner stands when it takes the record at `offset`."""
        return Moment(offset, self.time, self.examples)

    def _follow(self, champion: str, decisions: list[Decision]) -> list[Decision]:
        """Let comparison and detectors follow decisions: they are about the present champion."""
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

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state; the line-up has been restored before."""
        own = msgspec.msgpack.decode(entries["learning"], type=_State)
        self.examples, self.time = own.examples, own.time
        if self._scale is not None and own.scale is not None:
            self._scale.restore(own.scale)
        self._roster.prior.restore(entries)
        self._dirty = False
