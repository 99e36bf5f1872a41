"""Test, then train: what examples do to metrics, detectors, models and the race.

Lives here: the order, and the training itself.  Never here: bytes, offsets to read next
(`engine/machines/learner.py`), what the other steps do in themselves.

    1 test    2 detect    3 train    4 weigh    5 decide

Every step sees the scores served at event time and the state that the steps before it left.  Only step 3
changes a model, and scores are never taken again, so nothing is judged on an example it has learned.

Candidates do not see one another, and what is decided at a row changes who serves and who races from the
next row on, never a model.  So training may run ahead of the other steps (`Lessons`): all rows of one
candidate, then all of the next, which keeps each model's data in the processor's cache; a row counts as
learned when the other steps have reached it.  A challenger that starts at a row catches up with the rows
behind it, a candidate that fails has stopped where it failed.  Of events that carry their labels, the same
loop takes the scores, each before its row is learned.

A blend does see the others: its weights follow their scores, row by row, when the rows count as learned.
What it says of rows that are not learned yet is worked out on a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import compress
from math import isfinite
from typing import NamedTuple, Protocol

import msgspec
from msgspec.structs import replace

from operators.drift.detectors import Detection, Detectors
from operators.models.guards import without_guard
from operators.models.mixture import Blended, Mixture
from operators.models.parameters import model_text
from operators.models.scoring import (
    Failure,
    Racer,
    Roster,
    ScoreOf,
    ServedBy,
    label_of,
    reason_of,
    score_function,
)
from operators.models.weighted import Teach, weighted
from operators.race.arena import Arena, Evidenced, Moment
from operators.race.evaluation import Evaluation
from operators.race.evidence import Evidence, Verdict
from operators.race.field import FieldStep
from operators.race.losses import Loss, Losses, ScaledError, loss_of
from operators.race.opening import Opening
from operators.race.routing import Routing
from operators.state import StateEntries, WholeState
from operators.stopwatch import Stopwatch
from topics.messages import ASSUMED, UNMEASURED, Decision, Example, FeatureValues, LabelValue, Score, Task

__all__ = [
    "CROWNING",
    "FROM",
    "GATHERED_MAX",
    "MEASURED",
    "METRIC",
    "REPLACING",
    "UPDATES",
    "Companion",
    "Gatherer",
    "Learning",
    "Lessons",
    "Observer",
    "Serving",
    "are_plain",
    "is_succession",
    "with_figures",
]

CROWNING = frozenset({"model.promoted", "model.rolled_back"})
"""Decisions after which another candidate is champion."""
REPLACING = frozenset({"blend.weighed", "model.released", "version.released", "version.restored"})
"""Decisions after which a candidate has another model, as a version of its own."""
MEASURED = CROWNING | REPLACING
"""Decisions that say what the model had learned and scored."""
UPDATES = "updates"
"""In their evidence: labels that the model had learned ..."""
METRIC = "metric."
"""... and, before River's name of each metric, its value over all examples of the model so far ..."""
FROM = "from_"
"""... and, before both, those of the champion before."""

RETIRING = frozenset({"challenger.retired", "candidate.retired"})
"""Decisions by which a racer leaves."""
FORGOTTEN = RETIRING | {
    "model.quarantined",
    "version.restored",
    "model.released",
    "proposal.refused",
    "proposal.expired",
}
"""Decisions after which what was weighed of a candidate counts no more: another model races under its name,
or it must prove itself anew."""
UNWEIGHED = frozenset({"backup", "prior"})
"""Tiers whose answers say nothing about who is better: events past their deadline, those of the hours under
load, which the backup answers and after it the prior; and those that nobody could answer."""
_UNTESTED: Losses = (None, {})
GATHERED_MAX = 256
"""Examples that a gatherer looks at together: columns cost more to make than a few rows."""
ERROR_MAX = 1.0
"""Detectors see a scaled error up to here: one disaster must not hide every later change from them."""
CHURN = "churn"
"""In the evidence of a swap: the share of recent answers whose label differs between the two models."""
Sick = tuple[str, str]
"""Name of a candidate that could not learn, and the reason."""


_UNBOUNDED = 1 << 62


class Companion(Protocol):
    """What goes along with the race and acts at stops: after so many examples, whatever their batches.

    At a stop every model is as of the last example, no row further, so it may be copied or replaced.
    """

    @property
    def stops(self) -> Sequence[int]:
        """Return the numbers of examples between its stops; it looks at `at.examples` to know its own."""
        ...

    def stop(self, at: Moment) -> list[Decision]:
        """Act at a stop of anybody's; return what was decided."""
        ...

    def forget(self, name: str) -> None:
        """Drop what is kept of a candidate that has left the race."""
        ...


class Observer(Companion, Protocol):
    """A companion that sees every example."""

    def observe(self, examples: Sequence[Example], tested: Sequence[Losses]) -> None:
        """Take note of examples that were learned, with their losses."""
        ...


class Gatherer(Companion, Protocol):
    """A companion that sees every example, many at once: they are put into its list until it is to look."""

    gathered: list[tuple[Example, Losses]]

    def correct(self, example: Example, before: Losses, after: Losses) -> None:
        """Take a correction, with the losses of both labels."""
        ...

    def look(self) -> None:
        """Take note of what has gathered, and clear the list."""
        ...


class Decides(Protocol):
    """Who is told of decisions, and has no say in them."""

    def decided(self, decisions: Sequence[Decision]) -> None:
        """Take note of decisions, in their order."""
        ...


class Serving(NamedTuple):
    """The candidate that answers a row, and those that failed at it."""

    candidate: Racer | None
    """None where no healthy candidate is left: the prior answers."""
    served_by: ServedBy
    failures: tuple[Failure, ...]


class Lessons:
    """Rows with their labels, learned by each candidate on its own; `row` is the next to count as learned.

    `names`, where given, are all that rows can have: they are to be answered, so each is scored before it is
    learned.  `weighed`, where given, are their examples, which have
    weights; else each counts as one.

    >>> from river import linear_model
    >>> roster = Roster("binary", [Racer("a", linear_model.LogisticRegression(), version=1)], "a")
    >>> lessons = Lessons("binary", roster, [{"x": 1.0}, {"x": 1.0}], [True, True], Stopwatch(), {"x"})
    >>> [round(score, 2) for score in lessons.column("a", 2)]
    [0.5, 0.5]
    """

    def __init__(
        self,
        task: Task,
        roster: Roster,
        rows: Sequence[FeatureValues],
        labels: Sequence[LabelValue],
        stopwatch: Stopwatch,
        names: AbstractSet[str] | None = None,
        room: Callable[[], int] = lambda: _UNBOUNDED,
        weighed: Sequence[Example] | None = None,
    ) -> None:
        self.rows = rows
        self._weighed = weighed
        self.labels = labels
        self.row = 0
        self.until = 0
        """The end of the rows that have been learned: models are then as of the row before it."""
        self.sick: dict[int, list[Sick]] = {}
        """By row, the candidates that could not learn it."""
        self._failed: dict[str, tuple[int, str]] = {}
        """Candidates that could not score a row, nor learned it: the row and the reason."""
        self._begun: dict[str, int] = {}
        """The row from which on a candidate has learned ..."""
        self._scores: dict[str, list[Score]] = {}
        """... and scored, up to where it failed."""
        self._task: Task = task
        self._roster = roster
        self._names = names
        self._room = room
        self._stopwatch = stopwatch
        self._revision = -1
        """Of the line-up that `_racing` is of."""
        self._racing: list[Racer] = []
        self.blends: list[tuple[Racer, Mixture, tuple[str, ...]]] = []
        """Those of them that blend the scores of others, and of whom."""
        self.follow()

    def follow(self) -> None:
        """Follow a changed line-up: candidates that are new in the race begin with the next row.

        At a stop all of them go on from here, with the models that they now have.
        """
        if self.row == self.until < len(self.rows):
            self.until = min(self.row + self._room(), len(self.rows))
            self._begun.clear()
        elif self._roster.revision == self._revision:
            return
        self._revision = self._roster.revision
        self._racing = self._roster.racing()
        self.blends = self._roster.blends()
        self._base_models = self._roster.base_models()
        for name in self._base_models:
            if name not in self._begun:
                self._teach(self._roster.racers[name])

    def _teach(self, candidate: Racer) -> None:
        """Score and learn all rows from the next one on with a candidate, up to one at which it fails."""
        name, first, clock = candidate.name, self.row, self._stopwatch.clock
        scores: list[Score] = []
        self._begun[name], self._scores[name] = first, scores
        if self._names is None and not candidate.learns:
            return
        started = clock()
        until = self.until
        score_of, learn_one = self._calls_of(candidate, first, until)
        for row, (features, label) in enumerate(
            zip(self.rows[first:until], self.labels[first:until], strict=True), first
        ):
            try:
                if score_of is not None:
                    scores.append(score_of(features))
                learn_one(features, label)
            except Exception as error:  # noqa: BLE001 a user's model may raise anything; the others go on
                if score_of is not None and len(scores) == row - first:
                    self._failed[name] = (row, reason_of(error))
                else:
                    self.sick.setdefault(row, []).append((name, f"learning: {reason_of(error)}"))
                break
        self._stopwatch.models["learn" if score_of is None else "score_and_learn", name] += clock() - started

    def _calls_of(self, candidate: Racer, first: int, until: int) -> tuple[ScoreOf | None, Teach]:
        """Return the functions that score and teach a candidate these rows.

        Without a guard that changes nothing.
        """
        model = candidate.model
        if self._weighed is not None:
            return None, weighted(model, model.learn_one, candidate.name, self._weighed[first:until])
        if self._names is None:
            return None, model.learn_one
        model = without_guard(model, self._names)
        score = score_function(self._task, model, self._roster.constants)
        return score, model.learn_one if candidate.learns else _no_lesson

    def count(self, rows: int) -> Sequence[Sick]:
        """Count the next `rows` as learned; return the candidates that could not learn the last of them.

        One that could not learn an earlier row has left the race there.
        """
        self.row += rows
        sick = [one for one in self.sick.get(self.row - 1, ()) if self._roster.healthy(one[0])]
        for candidate in self._racing:
            if candidate.learns:
                candidate.updates += rows
        for name, _ in sick:
            self._roster.racers[name].updates -= 1
        return sick

    # -- rows that are answered -------------------------------------------------------------------

    def even_until(self) -> int:
        """Return the end of the rows that the same candidates have scored as the next row."""
        stops = [row for row, _ in self._failed.values() if row > self.row]
        stops += [row + 1 for row in self.sick if row >= self.row]
        return min([*stops, self.until])

    def column(self, name: str, until: int) -> list[Score]:
        """Return a candidate's scores of the next rows up to `until`."""
        begun = self._begun[name]
        return self._scores[name][self.row - begun : until - begun]

    def healthy(self) -> list[str]:
        """Return the candidates that have a score of their own of the next row, in order of start."""
        failed, row = self._failed, self.row
        return [name for name in self._base_models if name not in failed or failed[name][0] > row]

    def blend(self, rows: Sequence[dict[str, Score]]) -> dict[str, list[Blended]]:
        """Enter every blend's score of the next rows into `rows`, and return what they say, by name.

        Each row is scored with the weights that the labels before it leave.
        """
        blended: dict[str, list[Blended]] = {}
        for racer, mixture, members in self.blends:
            ahead, said = mixture.copy(), []
            for scores, label in zip(rows, self.labels[self.row :], strict=False):
                said.append(ahead.blend(scores, members))
                if racer.learns:
                    ahead.learn(scores, label, members)
            blended[racer.name] = said
        for name, said in blended.items():
            for scores, one in zip(rows, said, strict=True):
                scores[name] = one.score
        return blended

    def serving(self) -> Serving:
        """Return which candidate answers the next row: the champion, an earlier champion, or none.

        Failures are in the order in which they are met: down the fallback chain, then among the shadows.
        """
        self.follow()
        roster, healthy = self._roster, self.healthy()
        blends = {racer.name: members for racer, _, members in self.blends}
        failed: list[str] = []
        answering = None
        for name in (roster.champion, *roster.previous):
            if roster.healthy(name):
                asked = blends.get(name, (name,))
                failed += [one for one in asked if one not in healthy and one not in failed]
                if not set(asked).isdisjoint(healthy):
                    answering = name
                    break
        failed += [name for name in self._base_models if name not in healthy and name not in failed]
        failures = tuple(Failure(name, roster.racers[name].version, self._failed[name][1]) for name in failed)
        if answering is None:
            return Serving(None, "prior", failures)
        served_by: ServedBy = "champion" if answering == roster.champion else "previous"
        return Serving(roster.racers[answering], served_by, failures)


def _no_lesson(_features: FeatureValues, _label: LabelValue) -> None:
    """Leave a model that never learns as it is."""


def _scored(racing: Sequence[Racer], example: Example) -> set[str]:
    """Return who of those in the race may have a score in an example: it may be of a model that has left."""
    return {candidate.name for candidate in racing if example.lineup >= candidate.since}


def are_plain(examples: Sequence[Example]) -> bool:
    """Return whether every example counts as one for every candidate that learns it, as nearly always."""
    weights = [
        example.label_weight if example.learn and example.origin not in ASSUMED else 0.0
        for example in examples
    ]
    return weights.count(1.0) == len(weights)


def _up_to_a_correction(examples: Sequence[Example]) -> Sequence[Example]:
    """Return the examples before the first one that corrects another."""
    replaced = [example.before for example in examples]
    if replaced.count(None) == len(replaced):
        return examples
    return examples[: next(row for row, before in enumerate(replaced) if before is not None)]


def _names_a_champion(decision: Decision) -> bool:
    """Return whether a decision ends the opening: a verdict or a person's word, no succession of the sick."""
    succession = decision.reason == "quarantine" and "command_id" not in decision.evidence
    return decision.type in {*CROWNING, "champion.pinned"} and not succession


class _LearningState(msgspec.Struct):
    examples: int
    time: int
    scale: tuple[float, float, float] | None = None


class Learning(WholeState):
    """The one place where an example is tested and learned.

    `examples` counts what was learned, `time` is the largest label time so far, ms.  Decisions act
    at once: when `step` returns, the roster names the champion of the next prediction.

    >>> import pickle
    >>> from river import linear_model, metrics
    >>> from operators.models.scoring import Racer, Roster
    >>> from operators.race.evidence import Promotion
    >>> roster = Roster("binary", [Racer("a", linear_model.LogisticRegression(), version=1)], "a")
    >>> learning = Learning(
    ...     "binary",
    ...     Arena("flights", 0, roster, Promotion()),
    ...     Evaluation("binary", [metrics.Accuracy()], pickle.dumps, pickle.loads),
    ...     Detectors([], pickle.dumps, pickle.loads),
    ...     Evidence(Promotion()),
    ... )
    >>> x, scores = {"delay": 1.0}, {"a": 0.5}
    >>> example = Example("e1", "k", 0, 9, True, x, scores, 0.5, "champion", "a", 0, 0, 0, 1, 0)
    >>> learning.step([example], offset=1)
    []
    >>> learning.examples, roster.racers["a"].updates, roster.prior.score()
    (1, 1, 1.0)
    """

    def __init__(
        self,
        task: Task,
        arena: Arena,
        evaluation: Evaluation,
        detectors: Detectors,
        evidence: Evidence,
        loss: Loss | None = None,
        threshold: float = 0.5,
        stopwatch: Stopwatch | None = None,
        companions: Sequence[Companion] = (),
        observers: Sequence[Observer] = (),
        opening: Opening | None = None,
    ) -> None:
        """`opening` is that of a race whose definition names no champion."""
        self._stopwatch = stopwatch or Stopwatch()
        self.accompany(companions, observers)
        self._opening = opening
        self.examples = 0
        self.time = 0
        self.counts = arena.counts
        """Counts by (metric, label), which the shell exports; no part of the state."""
        self._judge_by(loss or loss_of(task))
        self._task: Task = task
        self._threshold = threshold
        self._arena = arena
        self._roster = arena.roster
        self._evaluation = evaluation
        self._detectors = detectors
        self._evidence = evidence
        self.routing: Routing | None = None
        """Who answers meanwhile; None where the champion answers all."""
        self.alerts: Decides | None = None
        """Who tells people of what is decided."""
        self._detecting = bool(detectors.detections)

    def _judge_by(self, loss: Loss) -> None:
        self.loss = loss
        self._scale = loss if isinstance(loss, ScaledError) else None

    def accompany(
        self,
        companions: Sequence[Companion],
        observers: Sequence[Observer],
        gatherer: Gatherer | None = None,
    ) -> None:
        """Let these go along with the race from here on, and nobody else."""
        self._observers, self._gatherer = observers, gatherer
        self._companions = (*companions, *observers, *([] if gatherer is None else [gatherer]))
        self._stops = sorted({every for companion in self._companions for every in companion.stops})

    def lessons(
        self,
        rows: Sequence[FeatureValues],
        labels: Sequence[LabelValue],
        names: AbstractSet[str] | None = None,
        weighed: Sequence[Example] | None = None,
    ) -> Lessons:
        """Return rows that every candidate has learned, for `learn`; nothing else changes yet.

        `names`, where given, are all that the rows can have: they are to be answered, so they are scored too.
        `weighed` are the examples of rows that do not all count as one; these are not scored.
        """
        started = self._stopwatch.clock()
        lessons = Lessons(self._task, self._roster, rows, labels, self._stopwatch, names, self.room, weighed)
        self._stopwatch.steps["learn"] += self._stopwatch.clock() - started
        return lessons

    def room(self) -> int:
        """Return how many examples may be learned up to the next stop."""
        return min([every - self.examples % every for every in self._stops], default=_UNBOUNDED)

    def step(self, examples: Sequence[Example], offset: int) -> list[Decision]:
        """Test and learn examples that lie side by side in the log; return what was decided.

        `offset` is that of the first.
        """
        rows, labels = [x.features for x in examples], [x.label for x in examples]
        lessons = self.lessons(rows, labels, weighed=None if are_plain(examples) else examples)
        decisions: list[Decision] = []
        while (row := lessons.row) < len(examples):
            decisions += self.learn(examples[row:], offset + row, lessons)[1]
        return decisions

    def learn(
        self, examples: Sequence[Example], offset: int, lessons: Lessons
    ) -> tuple[int, Sequence[Decision]]:
        """Test and learn the examples of the next rows of `lessons`, up to one that leads to a decision.

        `offset` is that of the first.  Returns how many were learned, and the decisions, mostly none.  The
        roster may have changed afterwards: the next example must be made with the new one.
        """
        lessons.follow()
        examples = examples[: lessons.until - lessons.row]
        if examples[0].before is not None:
            return 1, self._correct(examples[0], examples[0].before, offset, lessons)
        return self._test(_up_to_a_correction(examples), offset, lessons)

    def _test(
        self, examples: Sequence[Example], offset: int, lessons: Lessons
    ) -> tuple[int, Sequence[Decision]]:
        """Test and learn examples of which none corrects another, as `learn` does."""
        started = self._stopwatch.clock()
        champion, all_racing = self._roster.champion, self._roster.racing()
        racing = {candidate.name for candidate in all_racing}
        renamed = any(candidate.since for candidate in all_racing)
        twins = [name for name, state in self._arena.states.items() if state == "twin"]
        loss, weigh = self.loss, self._evidence.update
        tested: list[Losses] = []
        proven: Sequence[Verdict] = ()
        alarms: Sequence[Detection] = ()
        routing, turn = self.routing, False
        opening, leads = self._opening, None
        for row, example in enumerate(examples, lessons.row):
            if example.origin in UNMEASURED:
                tested.append(_UNTESTED)
                if failed := row in lessons.sick:
                    break
                continue
            # 1 test
            label, served = example.label, example.served_score
            of_served = loss(label, served)
            losses: dict[str, float | None] = {}
            if renamed:
                racing = _scored(all_racing, example)
            for name, score in example.scores.items():
                if name in racing:
                    losses[name] = of_served if score is served else loss(label, score)
            tested.append((of_served, losses))
            if self._scale is not None:
                self._scale.update(label)
            # 2 detect
            if self._detecting:
                alarms = self._detect(example, losses.get(champion))
            # 3 train: every candidate has learned it, or failed at it
            failed = row in lessons.sick
            # 4 weigh
            if example.served_by in UNWEIGHED:
                proven = ()
            else:
                weighed = {n: lost for n, lost in losses.items() if n not in twins} if twins else losses
                proven = weigh(champion, weighed, example.label_time)
                turn = routing is not None and routing.observe(example, losses)
                leads = None if opening is None else opening.add(champion, weighed)
            # 5 decide
            if failed or alarms or proven or turn or leads:
                break
        learned = examples[: len(tested)]
        sick = self._learned(learned, tested, lessons)
        decisions = self._decide(offset + len(learned) - 1, sick, alarms, proven, turn=turn)
        if leads is not None and self._roster.champion == champion:
            decisions = [*decisions, *self._open(offset + len(learned) - 1, leads)]
        self._stopwatch.steps["learn"] += self._stopwatch.clock() - started
        return len(learned), decisions

    def _learned(
        self, learned: Sequence[Example], tested: Sequence[Losses], lessons: Lessons
    ) -> Sequence[Sick]:
        """Count tested and learned examples; return the candidates that failed at the last one."""
        self._dirty = True
        self.examples += len(learned)
        self.time = max(self.time, *[example.label_time for example in learned])
        count = len(learned)
        if _UNTESTED in tested:
            measured = [one is not _UNTESTED for one in tested]
            learned, tested = list(compress(learned, measured)), list(compress(tested, measured))
        if learned:
            self._evaluation.add(learned, tested)
            prior_update = self._roster.prior.update
            for example in learned:
                prior_update(example.label)
            for blend in lessons.blends:
                self._weigh(learned, *blend)
            for observer in self._observers:
                observer.observe(learned, tested)
            if (gatherer := self._gatherer) is not None:
                gatherer.gathered += zip(learned, tested, strict=True)
                if len(gatherer.gathered) >= GATHERED_MAX:
                    gatherer.look()
        return lessons.count(count)

    def _correct(
        self, example: Example, replaced: LabelValue, offset: int, lessons: Lessons
    ) -> Sequence[Decision]:
        """Count a tested example with another label, which the models have learned if they are to.

        What was detected, weighed and decided by the first label stays.
        """
        self._dirty = True
        racing = _scored(self._roster.racing(), example)
        before, after = [
            (
                self.loss(label, example.served_score),
                {name: self.loss(label, score) for name, score in example.scores.items() if name in racing},
            )
            for label in (replaced, example.label)
        ]
        self._evaluation.correct(example, before, after)
        if self._gatherer is not None:
            self._gatherer.correct(example, before, after)
        self._roster.prior.correct(replaced, example.label)
        self.examples += 1
        self.time = max(self.time, example.label_time)
        return self._decide(offset, lessons.count(1), (), (), turn=False)

    def _weigh(
        self, learned: Sequence[Example], blend: Racer, mixture: Mixture, members: Sequence[str]
    ) -> None:
        """Teach a blend's weights from the scores served with each example; count those without a say."""
        since = {name: racer.since for name in members if (racer := self._roster.racers[name]).since}
        for example in learned:
            scores = example.scores
            if since:
                # A score under the name of a model that has left says nothing of the one that has it now.
                scores = {name: one for name, one in scores.items() if example.lineup >= since.get(name, 0)}
            for name in mixture.left_out(scores, members):
                self.counts["blend_left_out", f"{blend.name} {name}"] += 1
            if blend.learns:
                mixture.learn(scores, example.label, members)

    def _open(self, offset: int, name: str) -> list[Decision]:
        """Let a candidate serve until something is proven, if it can."""
        opening, champion = self._opening, self._roster.champion
        if opening is None or opening.kind is None or not self._roster.healthy(name):
            return []
        told = self._arena.open(self.moment(offset), name, opening.kind, dict(opening.sums))
        return self._follow(champion, [told])

    def _detect(self, example: Example, loss: float | None) -> list[Detection]:
        """Feed the detectors the champion's score and its loss; return their alarms."""
        score = example.scores.get(self._roster.champion)
        wrong = label_of(self._task, score, self._threshold) != example.label
        if self._scale is not None and loss is not None:
            loss = min(loss, ERROR_MAX)
        return self._detectors.update(example, loss, wrong=wrong)

    def _decide(
        self,
        offset: int,
        sick: Sequence[Sick],
        alarms: Sequence[Detection],
        proven: Sequence[Verdict],
        *,
        turn: bool,
    ) -> Sequence[Decision]:
        """Pass failures, alarms and proofs of the last row to the arena; return the decisions.

        `turn` says whether the serving policy has something to do.
        """
        stopped = any(not self.examples % every for every in self._stops)
        if not (sick or alarms or proven or stopped or turn):
            return ()
        arena, champion, routing = self._arena, self._roster.champion, self.routing
        at = self.moment(offset)
        decisions = arena.alarms(at, alarms, self._evaluation.recent_loss)
        for name, reason in sick:
            self.counts["model_failures", f"learn {name}"] += 1
            decisions += arena.quarantine(at, name, reason, self._evaluation.recent_loss)
        paired = routing is None or routing.paired
        if self._roster.champion == champion and paired and not arena.paused:
            decisions += arena.swap(at, proven)
        if turn and routing is not None:
            decisions += routing.act(at)
        if stopped:
            for companion in self._companions:
                decisions += companion.stop(at)
        return self._follow(champion, decisions)

    def quarantine(self, name: str, reason: str, offset: int) -> list[Decision]:
        """Act on a scorer's report that a candidate failed."""
        champion = self._roster.champion
        at = self.moment(offset)
        return self._follow(champion, self._arena.quarantine(at, name, reason, self._evaluation.recent_loss))

    def act(self, offset: int, act: Callable[[Moment], list[Decision]]) -> list[Decision]:
        """Let something act on the race at the record at `offset`; return the decisions, and follow them."""
        champion = self._roster.champion
        return self._follow(champion, act(self.moment(offset)))

    def change_field(self, step: FieldStep, offset: int, about: Evidenced) -> list[Decision]:
        """Carry out a change of the field that `Arena.field_refusal` has nothing against."""
        champion, after = self._roster.champion, step.after
        decisions = self._arena.change(self.moment(offset), step, about)
        self._roster.threshold = self._threshold = after.threshold
        self._roster.revision += 1
        if "promotion" in step.settings:
            self._evidence.change(after.promotion)
        if "metrics" in step.settings or "threshold" in step.settings:
            self._evaluation.change(after.metrics, after.threshold)
        if "drift" in step.settings:
            texts = [model_text(drift) for drift in step.before.drift]
            kept = [
                texts.index(text) if (text := model_text(drift)) in texts else None for drift in after.drift
            ]
            self._detectors.change(after.drift, kept)
            self._detecting = bool(self._detectors.detections)
        loss = loss_of(self._task, after.promotion.loss, after.threshold)
        if self._scale is not None and isinstance(loss, ScaledError):
            loss.restore(self._scale.state())  # labels are on the same scale, whatever an error costs
        self._judge_by(loss)
        if self._opening is not None and after.champion is not None:
            self._opening.end()
        for racer in self._roster.racers.values():
            if racer.name in after.candidates:
                racer.learns = after.candidates[racer.name].learns
        return self._follow(champion, decisions)

    def moment(self, offset: int) -> Moment:
        """Return the moment of a decision at the record at `offset`."""
        return Moment(offset, self.time, self.examples)

    def _follow(self, champion: str, decisions: list[Decision]) -> list[Decision]:
        """Restart comparisons and detectors after decisions that change the champion or the line-up."""
        if self.routing is not None and decisions:
            decisions = decisions + self.routing.decided(self.moment(decisions[0].offset), decisions)
        for decision in decisions:
            if decision.type == "canary.aborted":
                self._evidence.forget(str(decision.evidence["challenger"]))
            if decision.type in FORGOTTEN:
                self._evidence.forget(decision.model_name)
            if decision.type in RETIRING:
                self._evaluation.forget(decision.model_name)
                for _, mixture, _ in self._roster.blends():
                    mixture.forget(decision.model_name)
                for companion in self._companions:
                    companion.forget(decision.model_name)
            if decision.type == "champion.unpinned":
                self._evidence.start_over()  # what was weighed while nothing could follow decides nothing
        if self._opening is not None and any(map(_names_a_champion, decisions)):
            self._opening.end()
        if decisions and self.alerts is not None:
            self.alerts.decided(decisions)
        restored = [d.model_name for d in decisions if d.type == "version.restored"]
        if self._roster.champion != champion or champion in restored:
            self._evidence.start_over()
            self._detectors.start_over()
        if not any(decision.type in MEASURED for decision in decisions):
            return decisions
        counts = self._evaluation.counts()
        scores = {
            name: figures for name, figures in self._evaluation.model_scores().items() if counts[name][0]
        }
        return [
            with_figures(self._with_churn(decision), self._roster, scores)
            if decision.type in MEASURED
            else decision
            for decision in decisions
        ]

    def _with_churn(self, decision: Decision) -> Decision:
        """Return a swap with the share of recent answers that would have differed."""
        before, evidence = decision.from_model, decision.evidence
        if decision.type not in CROWNING or before is None or CHURN in evidence:
            return decision
        churn = self._evaluation.churn(before, decision.model_name)
        return decision if churn is None else replace(decision, evidence=evidence | {CHURN: churn})

    def snapshot(self) -> dict[str, bytes]:
        """Return the state of this object: counts, the prior, the scale of regression losses."""
        scale = None if self._scale is None else self._scale.state()
        own = _LearningState(self.examples, self.time, scale)
        return {"learning": msgspec.msgpack.encode(own), **self._roster.prior.snapshot()}

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state; the line-up has been restored before."""
        own = msgspec.msgpack.decode(entries["learning"], type=_LearningState)
        self.examples, self.time = own.examples, own.time
        if self._scale is not None and own.scale is not None:
            self._scale.restore(own.scale)
        self._roster.prior.restore(entries)
        self._dirty = False


def is_succession(decisions: Iterable[Decision], champion: str) -> bool:
    """Return whether decisions made another model champion: another candidate, or its next version."""
    return any(
        one.type in CROWNING or (one.type in REPLACING and one.model_name == champion) for one in decisions
    )


def with_figures(decision: Decision, roster: Roster, scores: Mapping[str, Mapping[str, float]]) -> Decision:
    """Return a decision with the lessons and metrics of its model, and of a champion before, as evidence.

    So nobody has to fold the log to say how good a model was when it was promoted.  `scores` are metrics by
    model and name; what is not finite is left out, as JSON has no word for it.

    >>> roster = Roster("binary", [Racer("a", None, version=1, updates=9)], "a")
    >>> decision = Decision("f:0:7:0", "model.promoted", 0, "a", 1, 9, "evidence", "headrace", 7)
    >>> with_figures(decision, roster, {"a": {"Accuracy": 0.5}}).evidence
    {'updates': 9, 'metric.Accuracy': 0.5}
    """
    figures: dict[str, float | int | str] = {}
    before = decision.from_model if decision.from_model != decision.model_name else None
    for prefix, name in (("", decision.model_name), (FROM, before)):
        racer = roster.racers.get(name or "")
        if racer is None:
            continue
        figures[prefix + UPDATES] = racer.updates
        for metric, value in scores.get(racer.name, {}).items():
            if isfinite(value):
                figures[prefix + METRIC + metric] = value
    return replace(decision, evidence=decision.evidence | figures)
