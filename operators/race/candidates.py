"""What a definition says of those who race: a model, how it starts, whether it learns, who joins later.

Lives here: the values a user writes, and the refusals that need nothing else to be seen.  Never here: what a
racer is (`operators/models/scoring.py`), the whole field (`field.py`), whether a model fits the task
(`engine/definition/candidates.py`).

The race makes racers of candidates, and their names of theirs: of `tree` the twin `tree-twin`, and
challengers by the number of their version, `tree-5`.  A definition that has `tree` can have no candidate of
such a name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, get_args

from river import base

from operators.models.guards import last_step
from operators.models.recalibration import Recalibrate, Recalibrated
from topics.durations import duration_ms
from topics.errors import DefinitionError

__all__ = [
    "Artefact",
    "Candidate",
    "Challenge",
    "Drifted",
    "Every",
    "Learn",
    "Release",
    "Start",
    "Trigger",
    "Worse",
    "candidate_of",
    "challenger_name",
    "check_challenges",
    "made_of",
    "start_text",
    "twin_name",
]

_MADE = re.compile(r"(.+)-(?:[0-9]+|twin)", re.DOTALL)
Learn = Literal["always", "never"]
Model = Any
"""A River estimator, a `Blend`, or None."""
STARTS = ("fresh", "champion", "log")
"""The words for a start; a span of label time such as "7d" and an `Artefact` are the others."""


def challenger_name(of: str, version: int) -> str:
    """Return the name of a challenger that the race starts of candidate `of`."""
    return f"{of}-{version}"


def twin_name(of: str) -> str:
    """Return the name of the twin of a released candidate."""
    return f"{of}-twin"


def made_of(name: str) -> str:
    """Return the candidate of which the race would make a racer of this name; empty where of none.

    >>> made_of("tree-5"), made_of("tree-twin"), made_of("tree"), made_of("tree-5b")
    ('tree', 'tree', '', '')
    """
    found = _MADE.fullmatch(name)
    return "" if found is None else found[1]


@dataclass(frozen=True)
class Artefact:
    """A model learned elsewhere: a file that was signed with the pipeline's key.

    `path`
        Where the file lies, as the worker sees it.
    """

    path: str

    def __post_init__(self) -> None:
        """Refuse what is no path.  Raises DefinitionError."""
        if not _is(self.path, str) or not self.path:
            raise DefinitionError(
                f"Artefact({self.path!r}) is no path",
                hint='give the path of a signed file: Artefact("m.model")',
            )


Start = str | Artefact


@dataclass(frozen=True)
class Release:
    """The loop of the book: a released version serves and stays as it is while its twin learns.

    `every`
        Examples between two release points, at which the twin becomes the next version.
    `held_max`
        How often in a row a twin that is worse by evidence is held, before it is set back to what serves.
    """

    every: int = 1_024
    held_max: int = 3

    def __post_init__(self) -> None:
        """Refuse numbers that cannot work.  Raises DefinitionError."""
        for name in ("every", "held_max"):
            _at_least_one(f"Release.{name}", getattr(self, name))


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model that races, and how.

    `model`
        A River estimator, which is cloned.  Left out with `start="champion"`, it is the model of the
        pipeline's champion.
    `start`
        What it has learned when it enters a race that runs: `"fresh"` nothing; `"champion"` what the champion
        has; `"log"` or a span of label time such as `"7d"` the examples log, or the last part of it, learned
        beside the race; an `Artefact` what it learned elsewhere.
    `learn`
        `"always"`, or `"never"`: it answers and is judged as it started.
    `budget_ms`
        Milliseconds that its score and its lesson of one event may take together, as the median; None is
        without limit.
    `release`
        Whether a version serves unchanged while its twin learns: a `Release`, or None.
    `recalibrate`
        Whether the scores of a binary classifier are corrected by what came of them, as its last step, which
        learns like all else: `"platt"` (a logistic curve), `"isotonic"` (an increasing line), or None.
    """

    model: Model = None
    start: Start = "fresh"
    learn: Learn = "always"
    budget_ms: float | None = None
    release: Release | None = None
    recalibrate: Recalibrate | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot work whatever the model is.  Raises DefinitionError."""
        self._recalibrate()
        if self.model is None and self.start != "champion":
            raise DefinitionError(
                "a Candidate without a model", hint='give a River estimator, or say start="champion"'
            )
        _check_start("Candidate.start", self.start)
        if self.learn not in get_args(Learn):
            raise DefinitionError(f"Candidate.learn is {self.learn!r}", hint='use "always" or "never"')
        budget = self.budget_ms
        if budget is not None and not (_is(budget, int, float) and isfinite(budget) and budget > 0):
            raise DefinitionError(
                f"Candidate.budget_ms is {budget!r}", hint="give milliseconds above 0, or leave it out"
            )
        if not _is(self.release, Release, type(None)):
            raise DefinitionError(
                f"Candidate.release is {self.release!r}", hint="give Release(every=1024), or leave it out"
            )
        if self.release is not None and self.learn == "never":
            raise DefinitionError(
                "a Candidate that never learns has nothing to release",
                hint='leave out release, or learn="never"',
            )

    def _recalibrate(self) -> None:
        """Make the calibrator a part of the model; nothing else needs to know of it."""
        if self.recalibrate is None or isinstance(self.model, Recalibrated):
            return
        if self.model is None:
            raise DefinitionError(
                "a Candidate that copies the champion has the champion's model, recalibrated or not",
                hint="leave recalibrate out, or give the model",
            )
        if not isinstance(last_step(self.model), base.Classifier):
            raise DefinitionError(
                f"recalibrate is for classifiers, and the model is a {type(self.model).__name__}",
                hint="leave recalibrate out: a blend and a regression have no scores of their own to correct",
            )
        object.__setattr__(self, "model", Recalibrated(self.model, by=self.recalibrate))

    @property
    def learns(self) -> bool:
        """Return whether the racer of its name learns: one that is released leaves that to its twin."""
        return self.learn == "always" and self.release is None

    @property
    def warms(self) -> bool:
        """Return whether it learns the examples log, or a part of it, before it enters."""
        return isinstance(self.start, str) and self.start not in {"fresh", "champion"}

    @property
    def warm_span_ms(self) -> int | None:
        """Return the span of label time that it learns before it enters; None for the whole log."""
        return None if self.start == "log" else duration_ms(str(self.start))


def start_text(start: Start) -> str:
    """Return a start in words.

    >>> start_text("7d"), start_text(Artefact("m.model"))
    ('7d', 'artefact m.model')
    """
    return f"artefact {start.path}" if isinstance(start, Artefact) else start


@dataclass(frozen=True)
class Every:
    """A challenger starts again and again.

    `span`
        Examples, or a span of label time such as `"1d"`, from one start to the next.
    """

    span: int | str

    def __post_init__(self) -> None:
        """Refuse a span that is none.  Raises DefinitionError."""
        _check_span("Every", self.span)


@dataclass(frozen=True)
class Drifted:
    """A challenger starts when a detector says that the loss has risen."""


@dataclass(frozen=True)
class Worse:
    """A challenger starts when what is served has become worse than it was.

    `by`
        By how much its recent mean loss exceeds that of the time before, in units of the loss.
    `than`
        The time before: a number of examples, or a span of label time.  A 32nd part of it is recent.
    """

    by: float
    than: int | str

    def __post_init__(self) -> None:
        """Refuse numbers that cannot work.  Raises DefinitionError."""
        if not _is(self.by, int, float) or not 0 < self.by < 1:
            raise DefinitionError(
                f"Worse.by is {self.by!r}", hint="give a difference of losses, such as 0.05"
            )
        _check_span("Worse.than", self.than)


Trigger = Every | Drifted | Worse


@dataclass(frozen=True)
class Challenge:
    """Challengers that start by themselves, each with its reason in the decisions.

    `when`
        What starts one: an `Every`, `Drifted()` or a `Worse`.
    `start`
        What it has learned: `"fresh"` nothing, `"champion"` what the one it is a copy of has.
    `of`
        Whose definition it has: `"champion"`, or a candidate by name.
    `max`
        How many of them race at once; the worst makes room for the next.
    """

    when: Trigger
    start: Literal["fresh", "champion"] = "fresh"
    of: str = "champion"
    max: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot work in any field.  Raises DefinitionError."""
        if not _is(self.when, Every, Drifted, Worse):
            raise DefinitionError(
                f"Challenge.when is {self.when!r}",
                hint='give Every(10_000), Every("1d"), Drifted() or Worse(by=0.05, than="30d")',
            )
        if self.start not in {"fresh", "champion"}:
            raise DefinitionError(f"Challenge.start is {self.start!r}", hint='use "fresh" or "champion"')
        if not _is(self.of, str) or not self.of:
            raise DefinitionError(
                f"Challenge.of is {self.of!r}", hint='use "champion" or the name of a candidate'
            )
        _at_least_one("Challenge.max", self.max)


def candidate_of(value: Any) -> Candidate:
    """Return a value of `models` as a candidate.

    >>> candidate_of(Candidate(start="champion")).start, candidate_of("a model").start
    ('champion', 'fresh')
    """
    return value if isinstance(value, Candidate) else Candidate(value)


def check_challenges(challenges: Sequence[Challenge], names: Sequence[str]) -> None:
    """Raise DefinitionError for challengers of a candidate that is none of `names`, and for two alike."""
    if not _is(challenges, Sequence):
        raise DefinitionError(
            f"challenges is {challenges!r}, no list", hint="give a list: challenges=[Challenge(...)]"
        )
    seen: set[str] = set()
    for challenge in challenges:
        if not _is(challenge, Challenge):
            raise DefinitionError(
                f"challenges has {challenge!r}", hint="give a list of Challenge(when=Every(10_000))"
            )
        if repr(challenge) in seen:
            raise DefinitionError(
                f"challenges has {challenge!r} twice", hint="leave one out, or raise its max"
            )
        seen.add(repr(challenge))
        if challenge.of != "champion" and challenge.of not in names:
            raise DefinitionError(
                f"Challenge.of is `{challenge.of}`, which is no candidate",
                hint=f'use "champion" or one of: {", ".join(names)}',
            )


def _check_start(place: str, start: Any) -> None:
    if isinstance(start, Artefact) or start in STARTS:
        return
    try:
        if isinstance(start, str) and duration_ms(start) > 0:
            return
    except DefinitionError:
        pass
    raise DefinitionError(
        f"{place} is {start!r}",
        hint='use "fresh", "champion", "log", a span such as "7d", or Artefact("file")',
    )


def _check_span(place: str, span: Any) -> None:
    """Refuse what is neither a number of examples nor a span of time, or none at all."""
    if isinstance(span, str):
        if duration_ms(span) > 0:
            return
    elif _is(span, int) and span > 0:
        return
    raise DefinitionError(f"{place} is {span!r}", hint='give a number of examples, or a span such as "1d"')


def _at_least_one(place: str, value: Any) -> None:
    if not _is(value, int) or value < 1:
        raise DefinitionError(f"{place} is {value!r}", hint="give a whole number from 1 on")


def _is(value: Any, *types: type) -> bool:
    """Return whether what a user gave is one of these; a bool is no number."""
    return isinstance(value, types) and not isinstance(value, bool)
