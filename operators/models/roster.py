"""The line-up of the race: all candidates and who serves, as a scorer reads them.

Lives here: candidates with their models, the prior, the names of champion and earlier
champions.  Never here: decisions (`arena.py` changes the roster, nobody else does), scoring.

Strategy: plain data plus `revision`, one integer that moves with every change of line-up,
so that a reader may bind methods once and re-bind only when it has moved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from river import stats

from operators.state import StateEntries
from topics.messages import LabelValue, Score, Task

__all__ = ["Candidate", "PredictorOf", "Prior", "Roster", "itself"]

PredictorOf = Callable[[Any], Any]
"""Model -> the object that scores for it: the model itself, or a guard around it."""

CLASSES_MAX = 1_000
"""The prior of a multiclass task counts this many classes at most; later ones are not counted."""


def itself(model: Any) -> Any:
    """Return `model`: the predictor of a model that predicting leaves as it was."""
    return model


class Candidate:
    """One model in the race.

    `name` is unique in the roster; `version` numbers candidates in the order they started,
    from 1, so it changes only when another model serves; `updates` is the number of labels
    learned.  `model` learns, `predictor` scores.  `definition` names the model of the
    pipeline that this one is a clone of (itself, for the first ones).
    """

    __slots__ = ("calls", "definition", "model", "name", "predictor", "updates", "version")

    def __init__(
        self,
        name: str,
        model: Any,
        *,
        version: int,
        predictor: Any = None,
        updates: int = 0,
        definition: str | None = None,
    ) -> None:
        self.name = name
        self.model = model
        self.predictor = model if predictor is None else predictor
        self.version = version
        self.updates = updates
        self.definition = definition or name
        self.calls: Any = None
        """How `model` is called, found out once (`operators/race/lessons.py`)."""


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
    rollback.  `quarantined` names candidates that neither score nor learn.  Only
    `operators.race.arena` changes a roster while it races.

    >>> roster = Roster("binary", [Candidate("a", None, version=1)], champion="a")
    >>> roster.healthy("a"), roster.revision
    (True, 0)
    """

    __slots__ = ("candidates", "champion", "previous", "prior", "quarantined", "revision")

    def __init__(self, task: Task, candidates: Iterable[Candidate], champion: str) -> None:
        self.candidates = {candidate.name: candidate for candidate in candidates}
        self.champion = champion
        self.previous: tuple[str, ...] = ()
        self.quarantined: set[str] = set()
        self.prior = Prior(task)
        self.revision = 0

    def healthy(self, name: str) -> bool:
        """Return whether a candidate of this name may score and learn."""
        return name in self.candidates and name not in self.quarantined

    def racing(self) -> list[Candidate]:
        """Return the candidates that score and learn, in order of start."""
        return [c for c in self.candidates.values() if c.name not in self.quarantined]
