"""The line-up of the race, and the scores of its candidates for an event.

Lives here: candidates with their models, the prior, champion and earlier champions; how a model's answer
becomes a `Score` and a label; the fallback chain.  Never here: learning, features, decisions (`arena.py`
changes the roster, nobody else does).  Scoring leaves every model as it was.

Strategy: the roster is plain data plus `revision`, one integer that moves with every change of line-up;
whoever binds a function per candidate binds again only when it has moved, never per event.  Scoring has two
phases: `serve` asks the champion alone, so that a batch's answers can leave before `shadow_all` asks the
others; no score is computed twice.  A blend takes none: where it serves, the racers that it is of are asked
first, and where one of them fails the others' scores make the answer.

    champion ──fails──> earlier champions, newest first ──all fail──> prior
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite, nextafter
from typing import Any, Literal, NamedTuple, cast

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from river import base, stats

from operators.models.guards import last_step
from operators.models.mixture import Mixture
from operators.models.table import Pick, Table
from operators.state import StateEntries
from operators.stopwatch import Stopwatch
from topics.messages import FeatureValue, FeatureValues, LabelValue, Score, Task

__all__ = [
    "Failure",
    "Prior",
    "Racer",
    "Reply",
    "Roster",
    "ScoreOf",
    "Scoring",
    "Served",
    "ServedBy",
    "Shadowed",
    "label_of",
    "labels_of",
    "reason_of",
    "score_function",
    "served_as_picked",
    "unfollowed",
    "unsure",
]

ServedBy = Literal["champion", "arm", "previous", "backup", "prior"]
"""`arm`: a candidate that the serving policy picked; `backup`: the one for events past the deadline."""
ScoreOf = Callable[[FeatureValues], Score]

CLASSES_MAX = 1_000
"""The prior of a multiclass task counts this many classes at most; later ones are not counted."""
REASON_CHARS_MAX = 200
"""A failure's reason goes into every quarantine record; a repr of a whole model must not."""
JUST_ABOVE_HALF = nextafter(0.5, 1.0)


# -- the line-up ------------------------------------------------------------------------------------


class Racer:
    """One model in the race.

    `name` is unique in the roster; `version` numbers candidates in the order they started,
    from 1, so it changes only when another model serves; `updates` is the number of labels
    learned.  `definition` names the model of the
    pipeline that this one is a clone of (itself, for the first ones).  One that does not learn (`learns`)
    scores as it is; a twin learns for `twin_of`; `challenge` is the challenge that started it, as text, and
    `begun` the number of examples that the race had then learned.
    One whose name had another model before is judged only by answers given from line-up `since` on.
    """

    __slots__ = (
        "begun",
        "challenge",
        "definition",
        "learns",
        "model",
        "name",
        "since",
        "twin_of",
        "updates",
        "version",
    )

    def __init__(
        self,
        name: str,
        model: Any,
        *,
        version: int,
        updates: int = 0,
        definition: str | None = None,
        learns: bool = True,
        twin_of: str = "",
        challenge: str = "",
        begun: int = 0,
        since: int = 0,
    ) -> None:
        self.name = name
        self.since = since
        self.model = model
        self.version = version
        self.updates = updates
        self.definition = definition or name
        self.learns = learns
        self.twin_of = twin_of
        self.challenge = challenge
        self.begun = begun

    @property
    def label(self) -> str:
        """Return the name of its present state, `VERSION@UPDATES`."""
        return f"{self.version}@{self.updates}"


class _PriorState(msgspec.Struct):
    updates: int
    mean: float
    classes: dict[str, int]


class Prior:
    """The prediction without any model: the frequency of labels, or their mean.

    Binary: the share of True, 0.5 before the first label.  Multiclass: the share of each
    class.  Regression: the mean.  The last two have no opinion (None) before the first label.

    >>> prior = Prior("binary")
    >>> prior.score()
    0.5
    >>> for label in (True, False, False, False):
    ...     prior.update(label)
    >>> prior.score()
    0.25
    """

    def __init__(self, task: Task) -> None:
        self._task: Task = task
        self._mean = stats.Mean()
        self._classes: Counter[str] = Counter()
        self.updates = 0

    def update(self, label: LabelValue) -> None:
        """Learn one label."""
        self.updates += 1
        if self._task != "multiclass":
            self._mean.update(float(label))
        elif label in self._classes or len(self._classes) < CLASSES_MAX:
            self._classes[str(label)] += 1

    def correct(self, before: LabelValue, label: LabelValue) -> None:
        """Put a label in the place of one that was learned."""
        if self._task != "multiclass":
            self._mean.update(float(label))
            self._mean.revert(float(before))
            return
        if self._classes[str(before)] > 1:
            self._classes[str(before)] -= 1
        else:
            del self._classes[str(before)]
        if label in self._classes or len(self._classes) < CLASSES_MAX:
            self._classes[str(label)] += 1

    def score(self) -> Score:
        """Return the score that follows from the labels so far."""
        if self._task == "multiclass":
            total = self._classes.total()
            return {name: count / total for name, count in self._classes.items()} if total else None
        if self.updates:
            return float(self._mean.get())
        return 0.5 if self._task == "binary" else None

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        state = _PriorState(self.updates, self._mean.get(), dict(self._classes))
        return {"prior": msgspec.msgpack.encode(state)}

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state."""
        state = msgspec.msgpack.decode(entries["prior"], type=_PriorState)
        self.updates = state.updates
        counted = 0.0 if self._task == "multiclass" else float(state.updates)
        self._mean = stats.Mean._from_state(counted, state.mean)
        self._classes = Counter(state.classes)


class Roster:
    """The line-up: every candidate in order of start, the champion, the earlier champions, the prior.

    `previous` holds earlier champions, newest first: the fallback chain and the aim of a
    rollback.  `quarantined` names candidates that neither score nor learn.  `threshold` is the
    binary score from which on a label is true.  `lineup` counts how often a name has been given to another
    model.  Only `operators.race` changes a roster while it races.

    >>> roster = Roster("binary", [Racer("a", None, version=1)], champion="a")
    >>> roster.healthy("a"), roster.revision
    (True, 0)
    """

    __slots__ = (
        "champion",
        "constants",
        "lineup",
        "previous",
        "prior",
        "quarantined",
        "racers",
        "revision",
        "routing",
        "threshold",
    )

    def __init__(
        self, task: Task, candidates: Iterable[Racer], champion: str, threshold: float = 0.5
    ) -> None:
        self.threshold = threshold
        self.lineup = 0
        self.racers = {candidate.name: candidate for candidate in candidates}
        self.champion = champion
        self.previous: tuple[str, ...] = ()
        self.quarantined: set[str] = set()
        self.prior = Prior(task)
        self.revision = 0
        self.constants: Mapping[str, FeatureValue] = {}
        """What every score takes for a feature's value: positions."""
        self.routing: Table | None = None
        """Who answers which event; None: the champion answers all."""

    def healthy(self, name: str) -> bool:
        """Return whether a candidate of this name may score and learn."""
        return name in self.racers and name not in self.quarantined

    def racing(self) -> list[Racer]:
        """Return the candidates that score and learn, in order of start."""
        return [c for c in self.racers.values() if c.name not in self.quarantined]

    def base_models(self) -> list[str]:
        """Return the names of those that score and learn features, in order of start: all but blends."""
        return [c.name for c in self.racing() if not isinstance(c.model, Mixture)]

    def base_model_of(self, name: str) -> str:
        """Return the racer whose model `name` stands for: its own, or of a blend that of the most weight.

        Empty for a blend of nobody.
        """
        for racer, mixture, members in self.blends():
            if racer.name == name:
                shares = mixture.shares(members)
                return max(shares, key=shares.__getitem__) if shares else ""
        return name

    def blends(self) -> list[tuple[Racer, Mixture, tuple[str, ...]]]:
        """Return the racers that blend the scores of others, each with the names of those in the race.

        A twin has no say: it never serves.
        """
        base_models = [name for name in self.base_models() if self.racers[name].twin_of == ""]
        return [
            (racer, racer.model, racer.model.members(base_models))
            for racer in self.racing()
            if isinstance(racer.model, Mixture)
        ]


# -- scores and labels --------------------------------------------------------------------------------


class Failure(NamedTuple):
    """The failure of one candidate: it raised, or its score was not finite."""

    name: str
    version: int
    reason: str
    tolerated: bool = False
    """A guard counts it, nobody is to report it."""


class Served(Struct, frozen=True, gc=False):
    """The one answer to an event, and where it came from."""

    score: Score
    label: LabelValue | None
    """The label that River's own `predict_one` gives; None without an opinion."""
    served_by: ServedBy
    model_name: str
    model_version: int
    model_updates: int
    cold_start: bool
    """Whether the answer rests on no learned label; such answers are kept out of metrics."""
    failures: tuple[Failure, ...] = ()
    """Candidates that failed before one answered; each is reported once per line-up."""
    weights: dict[str, float] | None = None
    """Of a blend's answer: what the score of each other counted for."""
    scores: Mapping[str, Score] = {}
    """Of a blend's answer: the scores of the others, taken for it."""
    pick: Pick | None = None
    """Whom the serving policy had picked; without a propensity where another one answered."""


class Reply(NamedTuple):
    """An answered event, for `shadow_all`."""

    x: FeatureValues
    model_name: str
    score: Score
    scores: Mapping[str, Score] = {}
    """The scores of others that were taken for the answer."""


class Shadowed(Struct, frozen=True, gc=False):
    """Every candidate's score of one event, the one that served included."""

    scores: dict[str, Score]
    """In order of start.  Absent: quarantined or failed.  None: no opinion yet."""
    failures: tuple[Failure, ...] = ()


def label_of(task: Task, score: Score, threshold: float = 0.5) -> LabelValue | None:
    """Return the label that a score stands for, as River's `predict_one` would at threshold 0.5.

    >>> label_of("binary", 0.7), label_of("multiclass", {"a": 0.4, "b": 0.6}), label_of("regression", 2.5)
    (True, 'b', 2.5)
    """
    if score is None:
        return None
    if task == "binary":
        return cast("float", score) > threshold
    if task == "multiclass":
        chances = cast("dict[str, float]", score)
        return max(chances, key=chances.__getitem__)
    return cast("float", score)


def unsure(score: Score, label: LabelValue | None, below: float) -> bool:
    """Return whether a classifier's score gives its label a chance below a bound; no score gives none.

    >>> unsure(0.55, True, below=0.6), unsure(0.1, False, below=0.6), unsure({"a": 0.5, "b": 0.5}, "a", 0.6)
    (True, False, True)
    """
    if score is None or label is None:
        return True
    if isinstance(score, dict):
        return score[str(label)] < below
    return (score if label else 1.0 - score) < below


def labels_of(task: Task, scores: Sequence[Score], threshold: float) -> list[LabelValue | None]:
    """Return `label_of` of every score."""
    if task == "binary" and None not in scores:
        return [score > threshold for score in cast("Sequence[float]", scores)]
    return [label_of(task, score, threshold) for score in scores]


def unfollowed(pick: Pick) -> Pick:
    """Return the pick of a candidate that had no answer: its answer counts for no arm."""
    return pick._replace(propensity=None)


def served_as_picked(
    task: Task, roster: Roster, candidate: Racer, updates: int, score: Score, pick: Pick
) -> Served:
    """Return a candidate's score as the answer to an event for which it was picked.

    `updates` is how much it had learned then.
    """
    return Served(
        score,
        label_of(task, score, roster.threshold),
        "champion" if candidate.name == roster.champion else "arm",
        candidate.name,
        candidate.version,
        updates,
        score is None,
        pick=pick,
    )


class Scoring:
    """Score events with the champion first and all candidates after.

    A candidate that raises or answers with a non-finite number is reported once as a
    `Failure` and skipped until the line-up changes; the learner decides about its quarantine.  One that the
    routing table tolerates loses the event and is asked again.

    >>> from river import linear_model
    >>> roster = Roster("binary", [Racer("a", linear_model.LogisticRegression(), version=1)], "a")
    >>> scoring = Scoring("binary", roster)
    >>> served = scoring.serve({"x": 1.0})
    >>> served.score, served.label, served.served_by
    (0.5, False, 'champion')
    >>> scoring.shadow_all([Reply({"x": 1.0}, served.model_name, served.score)])[0].scores
    {'a': 0.5}
    """

    def __init__(self, task: Task, roster: Roster, stopwatch: Stopwatch | None = None) -> None:
        self._stopwatch = stopwatch or Stopwatch()
        self._task: Task = task
        self.roster = roster
        self._bind()

    def _bind(self) -> None:
        """Bind one scoring function per healthy candidate of the present line-up."""
        roster = self.roster
        self._revision = roster.revision
        self._threshold = roster.threshold
        self._base_models = roster.base_models()
        self._blends = roster.blends()
        self._score_of: dict[str, ScoreOf] = {
            name: score_function(self._task, roster.racers[name].model, roster.constants)
            for name in self._base_models
        }
        self._chain()

    def rebind(self) -> None:
        """Take back, from the next run on, every candidate that failed and that the line-up still has."""
        self._revision = -1

    def _chain(self) -> None:
        """Set who answers: the first of champion and earlier champions that can."""
        roster = self.roster
        self._first: tuple[Racer, ScoreOf] | None = None
        self._blend: tuple[Racer, Mixture, tuple[str, ...]] | None = None
        """The blend that answers; None where a model does, or nobody."""
        blends = {racer.name: (racer, mixture, members) for racer, mixture, members in self._blends}
        for name in (roster.champion, *roster.previous):
            self._first_role: ServedBy = "champion" if name == roster.champion else "previous"
            if name in self._score_of:
                self._first = roster.racers[name], self._score_of[name]
                return
            if name in blends and not self._score_of.keys().isdisjoint(blends[name][2]):
                self._blend = blends[name]
                return

    def serve_all(self, rows: Sequence[FeatureValues]) -> list[Served]:
        """Return the answer to each event of a run; nothing is learned in between."""
        started = self._stopwatch.clock()
        if self.roster.revision != self._revision:
            self._bind()
        served = [self._serve(x) for x in rows] if self._blend is None else self._blended(rows)
        spent_s = self._stopwatch.clock() - started
        self._stopwatch.steps["score"] += spent_s
        if served and served[0].served_by != "prior" and self._blend is None:
            self._stopwatch.models["score", served[0].model_name] += spent_s
        return served

    def serve(self, x: FeatureValues) -> Served:
        """Return the answer to one event; it always has one."""
        return self.serve_all([x])[0]

    def _serve(self, x: FeatureValues) -> Served:
        failures: tuple[Failure, ...] = ()
        while self._first is not None:
            candidate, score_of = self._first
            try:
                score = score_of(x)
            except Exception as error:  # noqa: BLE001 a user's model may raise anything; the event is answered
                failures += (self._fail(candidate, error),)
                continue
            return Served(
                score,
                label_of(self._task, score, self._threshold),
                self._first_role,
                candidate.name,
                candidate.version,
                candidate.updates,
                score is None,
                failures,
            )
        if self._blend is not None:
            return self._after(failures, self._blended([x])[0])
        return self._prior(failures)

    def _prior(self, failures: tuple[Failure, ...]) -> Served:
        """Return the answer without any model."""
        prior = self.roster.prior
        score = prior.score()
        label = label_of(self._task, score, self._threshold)
        return Served(score, label, "prior", "prior", 0, prior.updates, not prior.updates, failures)

    def serve_backup(self, rows: Sequence[FeatureValues], name: str) -> list[Served]:
        """Return the answers to events past their deadline: those of candidate `name`, else the prior's."""
        started = self._stopwatch.clock()
        if self.roster.revision != self._revision:
            self._bind()
        served = [self._serve_backup(x, name) for x in rows]
        self._stopwatch.steps["score"] += self._stopwatch.clock() - started
        return served

    def _serve_backup(self, x: FeatureValues, name: str) -> Served:
        taken: list[dict[str, Score]] = [{}]
        failures: dict[int, tuple[Failure, ...]] = {}
        if name in self._score_of:
            self._ask(name, [x], taken, failures)
        if not taken[0]:
            return self._prior(failures.get(0, ()))
        racer, score = self.roster.racers[name], taken[0][name]
        label = label_of(self._task, score, self._threshold)
        return Served(score, label, "backup", name, racer.version, racer.updates, score is None)

    def serve_picked(self, rows: Sequence[FeatureValues], picks: Sequence[Pick]) -> list[Served]:
        """Return the answer to each event of a run by whom the serving policy picked, or by the champion."""
        started = self._stopwatch.clock()
        if self.roster.revision != self._revision:
            self._bind()
        served = [self._serve_picked(x, pick) for x, pick in zip(rows, picks, strict=True)]
        self._stopwatch.steps["score"] += self._stopwatch.clock() - started
        return served

    def _serve_picked(self, x: FeatureValues, pick: Pick) -> Served:
        """Return a candidate's answer; where it has none, that of the chain."""
        racer = self.roster.racers.get(pick.name)
        for blend in self._blends:
            if racer is blend[0]:
                role: ServedBy = "champion" if racer.name == self.roster.champion else "arm"
                (one,) = self._blended_by(blend, role, [x])
                return replace(one, pick=pick if one.model_name == racer.name else unfollowed(pick))
        if racer is None or pick.name not in self._score_of:
            return replace(self._serve(x), pick=unfollowed(pick))
        taken: list[dict[str, Score]] = [{}]
        failures: dict[int, tuple[Failure, ...]] = {}
        self._ask(racer.name, [x], taken, failures)
        if not taken[0]:
            return replace(self._after(failures[0], self._serve(x)), pick=unfollowed(pick))
        return served_as_picked(self._task, self.roster, racer, racer.updates, taken[0][racer.name], pick)

    def _blended(self, rows: Sequence[FeatureValues]) -> list[Served]:
        """Return the answer to each event by the blend that is first in the chain."""
        assert self._blend is not None
        return self._blended_by(self._blend, self._first_role, rows)

    def _blended_by(
        self, blend: tuple[Racer, Mixture, tuple[str, ...]], role: ServedBy, rows: Sequence[FeatureValues]
    ) -> list[Served]:
        """Return the answer to each event by a blend; by the next in the chain where all members failed."""
        racer, mixture, members = blend
        taken: list[dict[str, Score]] = [{} for _ in rows]
        failures: dict[int, tuple[Failure, ...]] = {}
        for name in members:
            if name in self._score_of:
                self._ask(name, rows, taken, failures)
        served: list[Served] = []
        for row, (x, scores) in enumerate(zip(rows, taken, strict=True)):
            failed = failures.get(row, ())
            if not scores:
                served.append(self._after(failed, self._serve(x)))
                continue
            score, weights = mixture.blend(scores, members)
            label = label_of(self._task, score, self._threshold)
            cold = score is None
            served.append(
                Served(
                    score,
                    label,
                    role,
                    racer.name,
                    racer.version,
                    racer.updates,
                    cold,
                    failed,
                    weights or None,
                    scores,
                )
            )
        return served

    def _after(self, failures: tuple[Failure, ...], served: Served) -> Served:
        """Return an answer with the failures before it."""
        return replace(served, failures=failures + served.failures) if failures else served

    def _ask(
        self,
        name: str,
        rows: Sequence[FeatureValues],
        scores: Sequence[dict[str, Score]],
        failures: dict[int, tuple[Failure, ...]],
    ) -> None:
        """Enter a racer's scores of rows that have none, up to a failure that is not tolerated."""
        started, score_of, row, rest = self._stopwatch.clock(), self._score_of[name], 0, enumerate(rows)
        while name in self._score_of:
            try:
                for row, x in rest:
                    if name not in scores[row]:
                        scores[row][name] = score_of(x)
                break
            except Exception as error:  # noqa: BLE001 a shadow may raise anything; it only loses its own place
                failures[row] = (*failures.get(row, ()), self._fail(self.roster.racers[name], error))
        self._stopwatch.models["score", name] += self._stopwatch.clock() - started

    def shadow_all(self, answered: Sequence[Reply]) -> list[Shadowed]:
        """Return every candidate's score of each event, with who answered it and the scores taken for that.

        Must run before any later label is learned, as `serve` did; what was taken is not taken again.  One
        candidate after the other: they do not see each other, and each finds its data in the cache.
        """
        if self.roster.revision != self._revision:
            self._bind()
        scores: list[dict[str, Score]] = [{} for _ in answered]
        failures: dict[int, tuple[Failure, ...]] = {}
        started, rows = self._stopwatch.clock(), [one.x for one in answered]
        for name in self._base_models:
            for one, by_name in zip(answered, scores, strict=True):
                if one.model_name == name:
                    by_name[name] = one.score
                elif name in one.scores:
                    by_name[name] = one.scores[name]
            if name in self._score_of:
                self._ask(name, rows, scores, failures)
        for racer, mixture, members in self._blends:
            for one, by_name in zip(answered, scores, strict=True):
                served = one.model_name == racer.name
                by_name[racer.name] = one.score if served else mixture.blend(by_name, members).score
        self._stopwatch.steps["shadows"] += self._stopwatch.clock() - started
        return [Shadowed(by_name, failures.get(row, ())) for row, by_name in enumerate(scores)]

    def _fail(self, candidate: Racer, error: Exception) -> Failure:
        """Record a failure; skip the candidate until the line-up changes, unless a guard counts it."""
        table = self.roster.routing
        if table is not None and candidate.name in table.tolerated and candidate.name != self.roster.champion:
            return Failure(candidate.name, candidate.version, reason_of(error), tolerated=True)
        del self._score_of[candidate.name]
        self._chain()
        return Failure(candidate.name, candidate.version, reason_of(error))


def reason_of(error: Exception) -> str:
    """Return an exception as the reason of a quarantine: one line of REASON_CHARS_MAX at most."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:REASON_CHARS_MAX]


def score_function(task: Task, model: Any, constants: Mapping[str, FeatureValue] | None = None) -> ScoreOf:
    """Return the function features -> `Score` of one River model (or its guard).

    `constants` stand in the place of the values of these features.

    The function raises whatever the model raises, and ValueError for a number that is not finite.
    """
    score: ScoreOf
    if task == "regression":
        score = _regression(model.predict_one)
    else:
        score = (_binary if task == "binary" else _multiclass)(_chances(model))
    return (lambda x: score({**x, **constants})) if constants else score


def _chances(model: Any) -> Callable[[FeatureValues], Any]:
    """Return `predict_proba_one`, or a stand-in for classifiers that only name a label (all on one)."""

    def certain(x: FeatureValues) -> dict[Any, float]:
        label = model.predict_one(x)
        return {} if label is None else {label: 1.0}

    predict = getattr(model, "predict_proba_one", None)
    if predict is None:
        return certain
    classifier = last_step(model)
    own = getattr(type(classifier), "predict_proba_one", None)
    if isinstance(classifier, base.Classifier) and own not in (None, base.Classifier.predict_proba_one):
        return predict  # type: ignore[no-any-return]
    named_only = False

    def first(x: FeatureValues) -> Any:
        nonlocal named_only
        if named_only:
            return certain(x)
        try:
            return predict(x)
        except NotImplementedError:
            # River's base class raises where a classifier has no probabilities; it says so only when called.
            named_only = True
            return certain(x)

    return first


def _binary(probabilities: Callable[[FeatureValues], Any]) -> ScoreOf:
    def score(x: FeatureValues) -> float | None:
        chances = probabilities(x)
        if not chances:
            return None
        true, false = chances.get(True, 0.0), chances.get(False, 0.0)
        if not isfinite(true + false):
            raise ValueError(f"score {true} is not finite")
        # River's label is the class of the highest probability; on a tie the one that stands
        # first in the dict.  A single number cannot say which stood first, so where `score > 0.5`
        # would say otherwise the score moves to the nearest number that agrees (one ulp for a tie).
        if true > false:
            return float(true) if true > 0.5 else JUST_ABOVE_HALF
        if true < false:
            return 0.5 if true > 0.5 else float(true)
        return JUST_ABOVE_HALF if next(iter(chances)) else min(float(true), 0.5)

    return score


def _multiclass(probabilities: Callable[[FeatureValues], Any]) -> ScoreOf:
    def score(x: FeatureValues) -> dict[str, float] | None:
        chances = probabilities(x)
        if not chances:
            return None
        if not isfinite(sum(chances.values())):
            raise ValueError(f"scores {chances} are not finite")
        return {str(name): float(chance) for name, chance in chances.items()}

    return score


def _regression(predict: Callable[[FeatureValues], Any]) -> ScoreOf:
    def score(x: FeatureValues) -> float | None:
        value = predict(x)
        if value is None:
            return None
        value = float(value)
        if not isfinite(value):
            raise ValueError(f"score {value} is not finite")
        return value

    return score
