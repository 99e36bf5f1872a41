"""Tests of the champion on live rows: what must not matter, what may only raise a score, what noise does.

Lives here: the tests that a definition declares, and how they came out.  Never here: the importance of a
feature (`importance.py`), whom a failing test costs its place: nobody.

The three kinds are those of behavioural testing: Ribeiro, Wu, Guestrin and Singh, "Beyond Accuracy:
Behavioral Testing of NLP Models with CheckList" (2020), and for noise the perturbation tests of model
evaluation.  Other values of a feature are those of the other rows of the sample, so a model is asked about
nothing that the stream does not have.  Changes of a score are in its own unit: the probability of true, the
chance of the class that was answered; of a regression, deviations of the labels in the sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Any, cast
from zlib import crc32

import msgspec

from operators.models.scoring import label_of
from operators.monitor.behaviour.sample import PART_EVERY, STOP_EVERY, Champion, Questions, RecentRows
from operators.monitor.monitors import MonitorContext
from operators.monitor.rows import Rows
from operators.race.arena import Moment
from operators.state import StateEntries, WholeState
from topics.errors import DefinitionError
from topics.messages import Example, FeatureValue, FeatureValues, Score, Task

__all__ = ["Directional", "Invariant", "ModelTest", "ModelTestMonitor", "ModelTests", "Perturbed"]

ROWS_MAX = 50
"""Rows on which tests run at each stop."""
VALUES_TRIED = 3
"""Other values of a feature that an invariant row is tried with."""
FADING = 0.9
"""What a stop counts of the one after it, in the mean over stops."""


@dataclass(frozen=True)
class Invariant:
    """A score must not move by more than a bound when a feature takes other values of the stream.

    `feature`
        The feature, as served.
    `change_max`
        How far a score may move: of a probability; of a regression in deviations of the label.
    `failing_max`
        Share of rows that may fail before the test does.
    """

    feature: str
    change_max: float = 0.05
    failing_max: float = 0.05

    def __post_init__(self) -> None:
        """Refuse bounds that are none.  Raises DefinitionError."""
        _check_bounds(self, self.change_max, self.failing_max)

    @property
    def name(self) -> str:
        """Return what reports call it."""
        return f"invariant {self.feature}"


@dataclass(frozen=True)
class Directional:
    """A score must not fall when a feature rises, or must not rise.

    `feature`
        A number, as served.
    `up`
        True: the score may not fall when the feature rises.  False: it may not rise.
    `step`
        By how much the feature is raised; None: by its standard deviation among the rows, integers by at
        least 1.
    `change_max`
        How far a score may move the wrong way: of a probability; of a regression in deviations of the label.
    `failing_max`
        Share of rows that may fail before the test does.
    """

    feature: str
    up: bool = True
    step: float | None = None
    change_max: float = 0.01
    failing_max: float = 0.05

    def __post_init__(self) -> None:
        """Refuse bounds that are none.  Raises DefinitionError."""
        _check_bounds(self, self.change_max, self.failing_max)
        if self.step is not None and not (_is_number(self.step) and self.step > 0.0):
            raise DefinitionError(f"tests: {self.name}: step={self.step!r}", hint="give a number above 0")

    @property
    def name(self) -> str:
        """Return what reports call it."""
        return f"directional {self.feature} {'up' if self.up else 'down'}"


@dataclass(frozen=True)
class Perturbed:
    """An answer must stay when every number is a little off.

    `noise`
        Each number x becomes x (1 + u), u even between -noise and noise; integers are rounded.
    `change_max`
        Of a regression, how far a score may move, in deviations of the label.  Classifiers fail a row when
        they answer another label.
    `failing_max`
        Share of rows that may fail before the test does.
    """

    noise: float = 0.05
    change_max: float = 0.5
    failing_max: float = 0.05

    def __post_init__(self) -> None:
        """Refuse bounds that are none.  Raises DefinitionError."""
        _check_bounds(self, self.change_max, self.failing_max)
        if not (_is_number(self.noise) and 0.0 < self.noise < 1.0):
            raise DefinitionError(
                f"tests: {self.name}: noise={self.noise!r}", hint="give a share between 0 and 1, such as 0.05"
            )

    @property
    def name(self) -> str:
        """Return what reports call it."""
        return f"perturbed {self.noise}"


ModelTest = Invariant | Directional | Perturbed


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _check_bounds(test: ModelTest, change_max: float, failing_max: float) -> None:
    if not (_is_number(change_max) and change_max >= 0.0):
        raise DefinitionError(
            f"tests: {test.name}: change_max={change_max!r}", hint="give a number from 0 on"
        )
    if not (_is_number(failing_max) and 0.0 <= failing_max < 1.0):
        raise DefinitionError(
            f"tests: {test.name}: failing_max={failing_max!r}", hint="give a share of rows, 0 to below 1"
        )


@dataclass(frozen=True)
class ModelTests:
    """The tests of a definition, as the settings of a monitor."""

    tests: tuple[ModelTest, ...]

    def monitor(self, context: MonitorContext) -> ModelTestMonitor:
        """Return the monitor that runs them."""
        return ModelTestMonitor(self, context)


class _Worst(msgspec.Struct):
    """The row that moved most, of those that failed."""

    event_id: str
    event_time: int
    features: FeatureValues
    changed: FeatureValues
    """What other values it was tried with, by feature."""
    score: Score
    changed_score: Score
    moved: float | None
    """None: with these values the champion had no answer."""


class _Outcome(msgspec.Struct):
    """How one test came out."""

    stops: int = 0
    """At which it ran."""
    rows: int = 0
    """That were tested, at the last of them."""
    failed: int = 0
    mean: float = 0.0
    """Sum of the failing shares, fading."""
    weight: float = 0.0
    worst: _Worst | None = None

    @property
    def share(self) -> float:
        return self.failed / self.rows if self.rows else 0.0


class _State(msgspec.Struct):
    champion: str
    version: int
    examples: int
    outcomes: list[_Outcome]


class ModelTestMonitor(WholeState):
    """Runs the tests in rounds of `STOP_EVERY` examples, on a sample of those of the round before."""

    stops: Sequence[int] = (PART_EVERY,)

    def __init__(self, settings: ModelTests, context: MonitorContext) -> None:
        self._tests, self._context = settings.tests, context
        self._sample, self._round = RecentRows(ROWS_MAX), Questions()
        self._state = _State("", 0, 0, [_Outcome() for _ in self._tests])

    def observe(self, rows: Rows) -> None:
        """Sample examples."""
        self._dirty = True
        self._sample.add(rows.examples)

    def stop(self, at: Moment) -> None:
        """Run the tests."""
        if at.examples % PART_EVERY:
            return
        if at.examples % STOP_EVERY == 0:
            self._round.begin(self._sample, [test.name for test in self._tests] if self._sample.rows else ())
            self._dirty = True
        rows = self._round.rows
        if not (names := self._round.part()):
            return
        self._dirty = True
        context, state = self._context, self._state
        champion = Champion(context.task, context.roster)
        state.champion, state.version, state.examples = champion.name, champion.version, at.examples
        scored = [(row, score) for row in rows if (score := champion.score(row.features)) is not None]
        trial = _Trial(context, champion, rows, f"{context.pipeline}:{at.examples}")
        for test, outcome in zip(self._tests, state.outcomes, strict=True):
            if test.name in names:
                trial.run(test, scored, outcome)

    def forget(self, name: str) -> None:
        """Do nothing: figures are those of the champion of their time."""

    def report(self) -> dict[str, Any]:
        """Return who was tested when, and each test's failing rows, at the last stop and over stops."""
        state = self._state
        if not state.examples:
            return {}
        told = {
            test.name: {
                "passed": outcome.share <= test.failing_max,
                "failing": outcome.share,
                "failing_mean": outcome.mean / outcome.weight if outcome.weight else 0.0,
                "rows": outcome.rows,
                "stops": outcome.stops,
                "worst": None if outcome.worst is None else msgspec.to_builtins(outcome.worst),
            }
            for test, outcome in zip(self._tests, state.outcomes, strict=True)
        }
        tested = {"champion": state.champion, "version": state.version, "examples": state.examples}
        return tested | {"tests": told}

    def signals(self) -> Mapping[str, float]:
        """Return how many tests fail."""
        if not self._state.examples:
            return {}
        pairs = zip(self._tests, self._state.outcomes, strict=True)
        return {"failing": float(sum(outcome.share > test.failing_max for test, outcome in pairs))}

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        tests = msgspec.msgpack.encode(self._state)
        return {"sample": self._sample.encoded(), "round": self._round.encoded(), "tests": tests}

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state."""
        self._sample.restore(entries["sample"])
        self._round.restore(entries.get("round"))
        self._state = msgspec.msgpack.decode(entries["tests"], type=_State)
        self._dirty = False


class _Trial:
    """One run of tests: the champion, and what is drawn from the sample."""

    def __init__(
        self, context: MonitorContext, champion: Champion, rows: Sequence[Example], seed: str
    ) -> None:
        self._task, self._threshold = context.task, context.threshold
        self._champion, self._rows, self._seed = champion, rows, seed
        regression = context.task == "regression"
        self._unit = (_deviation([float(row.label) for row in rows]) or 1.0) if regression else 1.0

    def run(self, test: ModelTest, scored: Sequence[tuple[Example, Score]], outcome: _Outcome) -> None:
        """Run one test on every row that it has something to change of."""
        tested = failed = 0
        worst: _Worst | None = None
        changes = self._changes(test)
        for row, before in scored:
            wrong: list[_Worst] = []
            tried = False
            for changed in changes(row):
                tried = True
                after = self._champion.score(row.features | changed)
                moved = None if after is None else moved_by(self._task, before, after) / self._unit
                if moved is None or self._fails(test, before, after, moved):
                    about = row.event_id, row.event_time, row.features, changed, before, after, moved
                    wrong.append(_Worst(*about))
            tested, failed = tested + tried, failed + bool(wrong)
            worst = max([*wrong, *([worst] if worst else [])], key=_size, default=None)
        if tested:
            outcome.stops += 1
            outcome.rows, outcome.failed, outcome.worst = tested, failed, worst
            outcome.mean = FADING * outcome.mean + failed / tested
            outcome.weight = FADING * outcome.weight + 1.0

    def _fails(self, test: ModelTest, before: Score, after: Score, moved: float) -> bool:
        match test:
            case Invariant():
                return abs(moved) > test.change_max
            case Directional():
                return (-moved if test.up else moved) > test.change_max
            case Perturbed():
                if self._task == "regression":
                    return abs(moved) > test.change_max
                labels = [label_of(self._task, score, self._threshold) for score in (before, after)]
                return labels[0] != labels[1]

    def _changes(self, test: ModelTest) -> Any:
        """Return the function from a row to the features that the test changes of it, each time it asks."""
        match test:
            case Invariant(feature):
                held = [row.features[feature] for row in self._rows if feature in row.features]
                values = list(dict.fromkeys(held))
                return lambda row: self._others(row, feature, values)
            case Directional(feature):
                step = self._step(test)
                return lambda row: _raised(row, feature, step)
            case Perturbed():
                return lambda row: self._noisy(row, test.noise)

    def _others(
        self, row: Example, feature: str, values: Sequence[FeatureValue]
    ) -> Iterator[dict[str, FeatureValue]]:
        if feature not in row.features:
            return
        others = [value for value in values if value != row.features[feature]]
        start = crc32(f"{self._seed}:{feature}:{row.event_id}".encode())
        for number in range(min(VALUES_TRIED, len(others))):
            yield {feature: others[(start + number) % len(others)]}

    def _step(self, test: Directional) -> float:
        if test.step is not None:
            return test.step
        held = [row.features[test.feature] for row in self._rows if test.feature in row.features]
        return _deviation([float(value) for value in held])

    def _noisy(self, row: Example, noise: float) -> Iterator[dict[str, FeatureValue]]:
        changed: dict[str, FeatureValue] = {}
        for name, value in row.features.items():
            if isinstance(value, bool | str):
                continue
            drawn = crc32(f"{self._seed}:{name}:{row.event_id}".encode()) / 0xFFFF_FFFF
            noisy = value * (1.0 + noise * (2.0 * drawn - 1.0))
            changed[name] = round(noisy) if isinstance(value, int) else noisy
        if changed:
            yield changed


def moved_by(task: Task, before: Score, after: Score) -> float:
    """Return how far a score has moved, of several classes that of the one that was answered.

    >>> moved_by("binary", 0.5, 0.75), moved_by("multiclass", {"a": 0.75, "b": 0.25}, {"b": 1.0})
    (0.25, -0.75)
    """
    if task == "multiclass":
        was, now = cast("dict[str, float]", before), cast("dict[str, float]", after)
        answered = max(was, key=was.__getitem__)
        return now.get(answered, 0.0) - was[answered]
    return cast("float", after) - cast("float", before)


def _raised(row: Example, feature: str, step: float) -> Iterator[dict[str, FeatureValue]]:
    value = row.features.get(feature)
    if value is None or isinstance(value, str) or not step:
        return
    yield {feature: value + max(1, round(step)) if isinstance(value, int) else value + step}


def _deviation(values: Sequence[float]) -> float:
    if not values:
        return 0.0
    mean = sum(values) / len(values)
    return sqrt(sum((value - mean) ** 2 for value in values) / len(values))


def _size(worst: _Worst) -> float:
    return float("inf") if worst.moved is None else abs(worst.moved)
