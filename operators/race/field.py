"""The field: who races, and by which settings; all that may change while the race runs.

Lives here: the field as a value, its text part by part, its id, how two fields differ.  Never here: what a
change does (`arena.py` lets racers in and out), where a change is written (`engine/worker/follower.py`).

Two fields are the same if they say the same: models by their class and arguments, settings by their values.
A racer stays in the race while its candidate's model and release stay; whether it learns and what it may cost
are settings, and how it starts says nothing once it has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple

from river import metrics as river_metrics

from operators.drift.detectors import Drift
from operators.drift.watch import Watch
from operators.models.parameters import model_text
from operators.race.blend import OPENING, OpeningName, first_blend, first_of
from operators.race.candidates import Candidate, Challenge, candidate_of, start_text
from operators.race.evidence import Promotion
from operators.race.routing import Policy, Serve

__all__ = [
    "MONITOR",
    "REPORT_EVERY",
    "Difference",
    "FieldStep",
    "Newcomer",
    "RaceField",
    "candidate_text",
    "settings_text",
]

IDS_MAX = 32
"""Fields whose ids are remembered: those of a process, and some of its past."""
REPORT_EVERY = 10_000
"""Examples, and labels of a partition, between two reports unless the definition says otherwise."""
MONITOR = "monitors."
"""Before the names of monitors among the parts of a field."""
FIELD_DIGITS = 32
"""Of the id of a field: it names an artefact."""


class Difference(NamedTuple):
    """The change from one field to another."""

    entering: tuple[str, ...]
    """Candidates that are new, or whose model is another now, in the order of the file."""
    retiring: tuple[str, ...]
    """Candidates that are gone, or whose model is another now."""
    settings: dict[str, tuple[str, str]]
    """Other parts that differ, by name: their text before and after."""

    @property
    def replaced(self) -> tuple[str, ...]:
        """Return the candidates that keep their name and have another model."""
        return tuple(name for name in self.entering if name in self.retiring)


@dataclass(frozen=True, eq=False)
class RaceField:
    """Everything of the race that a definition says.

    >>> from river import linear_model
    >>> first = RaceField.of({"a": linear_model.LogisticRegression()}, champion="a")
    >>> second = RaceField.of({"a": linear_model.LogisticRegression(l2=0.1), "b": linear_model.Perceptron()})
    >>> change = first.difference(second)
    >>> change.entering, change.retiring, sorted(change.settings)
    (('a', 'b'), ('a',), ['champion', 'order'])
    """

    candidates: Mapping[str, Candidate]
    """By name, in the order of the file."""
    champion: str | None = None
    """Who serves first; None where the file names nobody."""
    opening: OpeningName = OPENING
    """Who serves first where nobody is named."""
    promotion: Promotion = field(default_factory=Promotion)
    challenges: Sequence[Challenge] = ()
    serving: Policy | None = None
    drift: Sequence[Drift] = ()
    metrics: Sequence[river_metrics.base.Metric] | None = None
    threshold: float = 0.5
    deadline: Serve | None = None
    monitors: tuple[tuple[str, Any], ...] = ()
    sources: Any = None
    """The `SourceRules` of its labels (`operators/trust`); None trusts every source."""
    """What looks at labelled examples, by name: settings of `operators/monitor`, in their order.  None is one
    that is usual and that the file leaves out."""
    watch: Watch | None = None
    report_every: int | None = REPORT_EVERY
    """Examples between two reports of what monitors have seen; None: there are none."""
    alerts: Sequence[Any] | None = None
    """What people are told of, whoever watches it (`operators/language/alerts.py`); None is the usual."""

    @classmethod
    def of(cls, models: Mapping[str, Any], **settings: Any) -> RaceField:
        """Return the field of `models` as a file writes them: River estimators or candidates, by name."""
        return cls({name: candidate_of(model) for name, model in models.items()}, **settings)

    @property
    def first_champion(self) -> str:
        """Return who serves first: the candidate that is named, a blend that opens, or the first of all."""
        if self.champion is not None:
            return self.champion
        return first_of(self.candidates, self.opening)

    @property
    def opens(self) -> OpeningName | None:
        """Return how the race opens; None where who serves first is named, or there is no choice."""
        if self.champion is not None or len(self.candidates) == 1:
            return None
        return None if self.opening == "blend" and first_blend(self.candidates) is None else self.opening

    def parts(self) -> dict[str, str]:
        """Return the text of each part, by name."""
        texts = {
            "order": " ".join(self.candidates),
            "champion": self.champion or "",
            "opening": self.opening,
            "promotion": model_text(self.promotion),
            "challenges": " ".join(map(model_text, self.challenges)),
            "serving": _optional(self.serving),
            "drift": " ".join(map(model_text, self.drift)),
            "metrics": " ".join(map(model_text, self.metrics or ())),
            "threshold": repr(self.threshold),
            "deadline": _optional(self.deadline),
            **({} if self.sources is None else {"sources": model_text(self.sources)}),
            **{f"{MONITOR}{name}": text for name, text in map(_monitor_text, self.monitors) if text},
        }
        if self.watch is not None:  # without one the id is that of fields before there were any
            texts["watch"] = model_text(self.watch)
        if self.report_every != REPORT_EVERY:
            texts["report_every"] = repr(self.report_every)
        if self.alerts is not None:
            texts["alerts"] = " ".join(map(repr, self.alerts))
        for name, candidate in self.candidates.items():
            texts[f"candidates.{name}"] = candidate_text(candidate)
            texts[f"candidates.{name}.settings"] = settings_text(candidate)
        return texts

    @property
    def field_id(self) -> str:
        """Return the digest of all parts; two fields with one id are the same."""
        return _id_of(self)

    def difference(self, after: RaceField) -> Difference:
        """Return what must be done to make `after` of this field."""
        old = {name: candidate_text(candidate) for name, candidate in self.candidates.items()}
        new = {name: candidate_text(candidate) for name, candidate in after.candidates.items()}
        texts_before, texts_after = self.parts(), after.parts()
        apart = {f"candidates.{name}" for name in old | new}
        apart |= {f"candidates.{name}.settings" for name in old.keys() ^ new.keys()}
        return Difference(
            tuple(name for name, text in new.items() if old.get(name) != text),
            tuple(name for name, text in old.items() if new.get(name) != text),
            {
                part: (texts_before.get(part, ""), texts_after.get(part, ""))
                for part in texts_before | texts_after
                if part not in apart and texts_before.get(part) != texts_after.get(part)
            },
        )


class Newcomer(NamedTuple):
    """A racer that a change of the field lets in."""

    name: str
    model: Any
    """In its guards; what it has learned is in it."""
    updates: int
    """Labels that it has learned."""
    learns: bool
    twin: tuple[str, Any] | None
    """Name and model of the twin that learns for it, where it is released."""
    reused: bool
    """Whether its name has been another model's."""
    evidence: dict[str, float | int | str]
    """How it starts, for the decision."""


class FieldStep(NamedTuple):
    """A change of the field as it acts on the race."""

    before: RaceField
    after: RaceField
    newcomers: tuple[Newcomer, ...]
    leaving: tuple[str, ...]
    """Racers that leave, clones of a candidate that leaves among them."""
    champion: str | None
    """Who is promoted by it."""
    settings: dict[str, tuple[str, str]]
    """As in a `Difference`."""
    waiting: tuple[str, ...]
    """Candidates that learn the log before they enter."""
    refused: dict[str, str]
    """Candidates that waited and failed at the log, with why."""


@lru_cache(maxsize=IDS_MAX)
def _id_of(race_field: RaceField) -> str:
    """Return the id of a field, a text of all its models: milliseconds, the first time."""
    text = repr(sorted(race_field.parts().items()))
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:FIELD_DIGITS]


def candidate_text(candidate: Candidate) -> str:
    """Return the text by which a racer is still the candidate's: its model, and whether it is released."""
    release = "" if candidate.release is None else f" {model_text(candidate.release)}"
    return model_text(candidate.model) + release


def settings_text(candidate: Candidate) -> str:
    """Return the text of what a candidate says beside its model."""
    return f"start={start_text(candidate.start)} learn={candidate.learn} budget_ms={candidate.budget_ms}"


def _monitor_text(named: tuple[str, Any]) -> tuple[str, str]:
    """Return a monitor's name and its text; that of a usual one is empty: fields of before it had none."""
    name, settings = named
    if settings is None:
        return name, "off"
    usual = getattr(settings, "usual", False) and settings == type(settings)()
    return name, "" if usual else model_text(settings)


def _optional(value: Any) -> str:
    return "" if value is None else model_text(value)
