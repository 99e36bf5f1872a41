"""The history of a pipeline's versions: who raced, who was champion when and why, in which states.

Lives here: the fold of decisions and model pointers into versions and reigns, pure.  Never here: where the
records come from (`replay.py`), how a history is printed.

    decisions ──> a version begins, serves, is quarantined, leaves          (each at its offset)
    pointers  ──> states: VERSION@UPDATES, digest, position, libraries

The versions of a first start are the file's models in their order; every other begins with the first
decision that names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, NamedTuple

from engine.definition.pipeline import Pipeline
from engine.machines.learner import Learner
from engine.worker.assembly import libraries
from operators.models.digest import digest
from operators.models.parameters import model_text, parameters_of
from operators.models.scoring import Racer
from operators.race.candidates import made_of
from operators.race.field import RaceField
from operators.race.learning import CROWNING, FROM, METRIC, REPLACING, UPDATES
from operators.versions.release import with_twins
from topics.errors import SettingsError
from topics.messages import Decision, ModelPointer

__all__ = [
    "FOLD",
    "History",
    "Measurement",
    "Reign",
    "State",
    "Version",
    "history_of",
    "measured_now",
    "state_asked",
    "version_difference",
    "why",
]

DIGEST = "digest"
"""In the evidence of a decision: the structural digest of the model's state."""
LEAVING = {
    "model.quarantined": "quarantined",
    "challenger.retired": "retired",
    "candidate.retired": "retired",
}
"""Decisions after which a version races no more, and what it is then."""
OPENING = "opening.started"
"""Who serves while nothing is proven: a reign, and no swap."""
PROPOSALS_ENDED = frozenset({"proposal.accepted", "proposal.refused", "proposal.expired"})
NO_MODELS = ("candidate.refused", "key.erased")
"""Decisions about what is no version."""
"""About a candidate that never raced: it has no version."""
REPLACED = "replaced"
"""What a version is after the next one of the same candidate took its place."""
FOLD = "fold"
"""In place of a record: what the fold of the examples log gave."""
DEFINITION = "definition"
"""Why a version races that no decision started: the file names it."""


class State(NamedTuple):
    """A state of a model that a record names: the labels it had learned, and its digest."""

    updates: int
    digest: str
    position: int
    """Next offset of the examples log: it has learned all before it."""
    record: str
    """What names it: `models` and the alias, or a decision's id."""
    libraries: Mapping[str, str] = {}
    """Versions of what computed it, where they are known."""


class Measurement(NamedTuple):
    """The metrics of a version as a decision recorded them."""

    decision_id: str
    time: int
    examples: int
    updates: int
    metrics: Mapping[str, float]


class Reign(NamedTuple):
    """A time in which one version was champion."""

    version: int
    model_name: str
    began: Decision | None
    """The decision that made it champion; None where it served from the first event."""
    ended: Decision | None
    """None where it still is."""

    @property
    def reason(self) -> str:
        """Return why it began."""
        return DEFINITION if self.began is None else self.began.reason

    def plain(self) -> dict[str, Any]:
        """Return it as one plain object."""
        began, ended = self.began, self.ended
        return {
            "version": self.version,
            "model": self.model_name,
            "from": None if began is None else began.time,
            "from_offset": None if began is None else began.offset,
            "from_examples": 0 if began is None else began.examples,
            "to": None if ended is None else ended.time,
            "to_offset": None if ended is None else ended.offset,
            "to_examples": None if ended is None else ended.examples,
            "type": None if began is None else began.type,
            "reason": self.reason,
            "actor": None if began is None else began.actor,
            "evidence": {} if began is None else began.evidence,
        }


@dataclass
class Version:
    """All that is recorded of one version."""

    version: int
    name: str
    definition: str = ""
    """Class and arguments as text; empty where no record and no file says them."""
    state: str = "challenger"
    """`champion`, `challenger`, `twin`, `quarantined`, `retired`, or `replaced` by the next of its name."""
    decisions: list[Decision] = field(default_factory=list)
    """Those that are about it."""
    states: list[State] = field(default_factory=list)
    """Oldest first."""
    measured: list[Measurement] = field(default_factory=list)
    features: tuple[str, ...] = ()
    features_version: str = ""
    """Of all features together when it was last champion; empty where it never was."""

    @property
    def started(self) -> Decision | None:
        """Return the decision by which it entered the race; None where the file named it."""
        first = self.decisions[0] if self.decisions else None
        return (
            first if first is not None and first.type.endswith(("started", "entered", "released")) else None
        )

    @property
    def learned(self) -> int:
        """Return the most labels that a record says it had learned."""
        said = [state.updates for state in self.states] + [one.updates for one in self.measured]
        in_evidence = (one.evidence.get(UPDATES) for one in self.decisions)
        return max([*said, *(updates for updates in in_evidence if isinstance(updates, int))], default=0)

    @property
    def at_promotion(self) -> Measurement | None:
        """Return its metrics when it last became champion or began; None where no decision has them."""
        crowned = {one.decision_id for one in self.decisions if one.type in CROWNING | REPLACING}
        return next((one for one in reversed(self.measured) if one.decision_id in crowned), None)

    @property
    def parameters(self) -> dict[str, str]:
        """Return its classes and arguments, by where they stand."""
        return parameters_of(self.definition) if self.definition else {}

    @property
    def kind(self) -> str:
        """Return the class that learns the label: the last step of a pipeline; empty where it is unknown."""
        parts = self.parameters
        steps = [value for place, value in parts.items() if "." not in place and place != "class"]
        whole = parts.get("class", "")
        last = steps[-1] if whole.endswith(".Pipeline") and steps else whole
        return last.rpartition(".")[2]

    @property
    def libraries(self) -> Mapping[str, str]:
        """Return the versions of what computed its newest state that names them."""
        return next((state.libraries for state in reversed(self.states) if state.libraries), {})

    def plain(self) -> dict[str, Any]:
        """Return it as one plain object."""
        started = self.started
        return {
            "version": self.version,
            "model": self.name,
            "class": self.kind,
            "state": self.state,
            "definition": self.definition,
            "parameters": self.parameters,
            "started": None if started is None else started.time,
            "started_offset": None if started is None else started.offset,
            "started_by": DEFINITION if started is None else started.reason,
            "features": self.features,
            "features_version": self.features_version,
            "libraries": dict(self.libraries),
            "at_promotion": None if self.at_promotion is None else self.at_promotion._asdict(),
            "measured": [one._asdict() for one in self.measured],
            "states": [one._asdict() for one in self.states],
            "decisions": [
                {"time": one.time, "offset": one.offset, "type": one.type, "reason": one.reason}
                for one in self.decisions
            ],
        }


@dataclass
class History:
    """All versions of a pipeline, and who was champion when."""

    pipeline: str
    versions: dict[int, Version] = field(default_factory=dict)
    reigns: list[Reign] = field(default_factory=list)
    """Oldest first; the last has not ended."""
    decisions: list[Decision] = field(default_factory=list)
    """Each once, in their order."""
    good: dict[str, list[str]] = field(default_factory=dict)
    """Good versions by model, as `VERSION@UPDATES`, oldest first; known by a fold alone."""

    @property
    def champion(self) -> Version:
        """Return the version that serves."""
        return self.versions[self.reigns[-1].version]

    @property
    def open_proposals(self) -> list[Decision]:
        """Return the proposals that wait for a person's word."""
        answered = {one.evidence.get("proposal_id") for one in self.decisions if one.type in PROPOSALS_ENDED}
        return [
            one for one in self.decisions if one.type == "proposal.opened" and one.decision_id not in answered
        ]

    def version(self, asked: str) -> Version:
        """Return the version that is meant: its number, `champion`, or a name (then the newest of it).

        Raises SettingsError where there is none.
        """
        wanted = asked.partition("@")[0]
        number = wanted.removeprefix("v")
        if number.isdecimal() and int(number) in self.versions:
            return self.versions[int(number)]
        if wanted == "champion":
            return self.champion
        named = [one for one in self.versions.values() if one.name == wanted]
        if named:
            return named[-1]
        newest = {one.name: one.version for one in self.versions.values()}
        known = ", ".join(f"{name} ({version})" for name, version in newest.items())
        raise SettingsError(
            f"{self.pipeline} has no version `{asked}`",
            hint=f"give `champion`, a name or a number; the newest of each name are {known}; "
            "`headrace models list PIPELINE.py` has all",
        )


def state_asked(asked: str) -> int | None:
    """Return the labels learned that `VERSION@UPDATES` names; None without them.

    >>> state_asked("3@40000"), state_asked("linear")
    (40000, None)

    Raises SettingsError for what is no number.
    """
    _, at, updates = asked.partition("@")
    if not at:
        return None
    if not updates.isdecimal():
        raise SettingsError(
            f"`{asked}` names no state: `{updates}` is no number of labels learned",
            hint="write VERSION@UPDATES, as in 3@40000",
        )
    return int(updates)


def first_line_up(field: RaceField) -> list[Racer]:
    """Return the racers with which a race of this field begins, without models, by their versions."""
    racers = [Racer(name, None, version=number) for number, name in enumerate(field.candidates, 1)]
    return with_twins(racers, field.candidates, lambda model: model)


def history_of(
    pipeline: Pipeline,
    decisions: Iterable[Decision],
    pointers: Iterable[ModelPointer] = (),
    *,
    field: RaceField | None = None,
    definitions: Mapping[tuple[str, int], str] | None = None,
) -> History:
    """Return the history that decisions, in their order, and pointers tell.

    `field` is that with which the log begins; without it, the file's.  `definitions` are texts of models that
    entered by a record of the field, by name and offset of the record.
    """
    history = History(pipeline.name)
    field = field or pipeline.field
    texts = {
        name: model_text(one.model)
        for name, one in (*pipeline.field.candidates.items(), *field.candidates.items())
    }
    for racer in first_line_up(field):
        state = "twin" if racer.twin_of else "challenger"
        version = Version(racer.version, racer.name, texts[racer.definition], state)
        history.versions[racer.version] = version
        if racer.name == field.first_champion:
            version.state = "champion"
            history.reigns.append(Reign(version.version, version.name, None, None))
    seen: set[str] = set()
    for decision in decisions:
        if decision.decision_id in seen:
            continue  # a leader that took over writes again what the last one may not have written
        seen.add(decision.decision_id)
        history.decisions.append(decision)
        _take(history, decision, texts, definitions or {})
    for pointer in pointers:
        _point(history, pointer)
    for version in history.versions.values():
        version.states.sort(key=lambda state: (state.updates, state.position))
    return history


def _take(
    history: History,
    decision: Decision,
    texts: Mapping[str, str],
    definitions: Mapping[tuple[str, int], str],
) -> None:
    """Enter one decision."""
    if decision.type in NO_MODELS:
        return
    version = history.versions.get(decision.model_version)
    if version is None or version.name != decision.model_name:
        text = definitions.get((decision.model_name, decision.offset)) or _text_of(decision, texts)
        version = Version(decision.model_version, decision.model_name, text)
        history.versions[decision.model_version] = version
    version.decisions.append(decision)
    evidence = decision.evidence
    if isinstance(updates := evidence.get(UPDATES), int) and isinstance(evidence.get(DIGEST), str):
        state = State(updates, str(evidence[DIGEST]), decision.offset + 1, decision.decision_id)
        version.states.append(state)
    _measure(version, decision, "")
    if decision.type in LEAVING:
        version.state = LEAVING[decision.type]
    elif decision.type in REPLACING:
        _replace(history, version, decision)
    elif decision.type in CROWNING or (decision.type == OPENING and version.state != "champion"):
        _crown(history, version, decision)


def _crown(history: History, version: Version, decision: Decision) -> None:
    """End the present reign and begin another."""
    if history.reigns:
        before = history.reigns[-1]
        history.reigns[-1] = before._replace(ended=decision)
        dethroned = history.versions[before.version]
        if dethroned.state == "champion":
            dethroned.state = "challenger"
        _measure(dethroned, decision, FROM)
    history.reigns.append(Reign(version.version, version.name, decision, None))
    version.state = "champion"


def _replace(history: History, version: Version, decision: Decision) -> None:
    """Put a version in the place of the one before it of the same candidate; it serves where that one did."""
    for other in history.versions.values():
        if other.name != version.name or other is version or other.state in {"retired", REPLACED}:
            continue
        if other.state == "champion":
            _crown(history, version, decision)
        elif other.state == "twin":
            version.state = "twin"
        other.state = REPLACED


def _text_of(decision: Decision, texts: Mapping[str, str]) -> str:
    """Return the definition of a challenger that was started of another one's, `linear-4` of `linear`."""
    of = decision.evidence.get("of", made_of(decision.model_name))
    return texts.get(decision.model_name) or texts.get(str(of), "")


def _measure(version: Version, decision: Decision, prefix: str) -> None:
    evidence = decision.evidence
    updates = evidence.get(prefix + UPDATES)
    metrics = {
        name.removeprefix(prefix + METRIC): float(value)
        for name, value in evidence.items()
        if name.startswith(prefix + METRIC) and isinstance(value, float | int)
    }
    if isinstance(updates, int) and metrics:
        version.measured.append(
            Measurement(decision.decision_id, decision.time, decision.examples, updates, metrics)
        )


def _point(history: History, pointer: ModelPointer) -> None:
    """Enter one record of the models topic."""
    version = history.versions.get(pointer.version)
    if version is None:
        version = Version(pointer.version, pointer.model_name)
        history.versions[pointer.version] = version
    version.definition = pointer.definition or version.definition
    version.features, version.features_version = pointer.features, pointer.features_version
    libraries = pointer.libraries or {"river": pointer.river}
    record = f"models {pointer.pipeline}@{pointer.alias}"
    state = State(pointer.updates, pointer.digest, pointer.learned_to, record, libraries)
    same = [known for known in version.states if known[:3] == state[:3]]
    if not same:
        version.states.append(state)


def measured_now(history: History, learner: Learner) -> None:
    """Add what every version that races has learned and scored where a learner stands, by its fold."""
    scores, learning = learner.evaluation.model_scores(), learner.learning
    history.good = {name: [one.label for one in learner.good.of(name)] for name in learner.roster.racers}
    for racer in learner.roster.racers.values():
        version = history.versions.get(racer.version)
        if version is None:
            continue
        state = State(racer.updates, digest(racer.model), learner.position, FOLD, libraries())
        version.states.append(state)
        metrics = {name: value for name, value in scores.get(racer.name, {}).items() if isfinite(value)}
        version.measured.append(Measurement(FOLD, learning.time, learning.examples, racer.updates, metrics))


def why(decision: Decision) -> str:
    """Return the reason of a decision; of a candidate that entered, also its start and what it has learned.

    >>> start = {"start": "7d", "updates": 2815}
    >>> why(Decision("f:0:7:0", "candidate.entered", 0, "a", 3, 9, "the file", "headrace", 7, evidence=start))
    'the file: start 7d, 2,815 learned'
    """
    start = decision.evidence.get("start")
    if start is None:
        return decision.reason
    return f"{decision.reason}: start {start}, {decision.evidence.get(UPDATES, 0):,} learned"


def version_difference(before: Version, after: Version) -> dict[str, Any]:
    """Return in what two versions differ: parameters, features, libraries, metrics, each `[before, after]`.

    Libraries differ where both are recorded: those of a version that never was champion may not be.
    Metrics are those of the newest decision that has both, counted over the same examples, or else the
    newest of each.
    """
    shared = {one.decision_id: one for one in before.measured}
    pairs = [(shared[one.decision_id], one) for one in after.measured if one.decision_id in shared]
    left, right = pairs[-1] if pairs else (_newest(before), _newest(after))
    both = before.libraries and after.libraries
    return {
        "versions": [before.version, after.version],
        "models": [before.name, after.name],
        "parameters": _apart(before.parameters, after.parameters),
        "features_version": [before.features_version, after.features_version],
        "features": {
            "gone": [name for name in before.features if after.features and name not in after.features],
            "new": [name for name in after.features if before.features and name not in before.features],
        },
        "libraries": _apart(before.libraries, after.libraries) if both else {},
        "metrics_of_one_decision": pairs[-1][0].decision_id if pairs else None,
        "metrics": {
            name: [
                None if left is None else left.metrics.get(name),
                None if right is None else right.metrics.get(name),
            ]
            for name in _names(left, right)
        },
    }


def _newest(version: Version) -> Measurement | None:
    return version.measured[-1] if version.measured else None


def _names(*measured: Measurement | None) -> Sequence[str]:
    return list(dict.fromkeys(name for one in measured if one is not None for name in one.metrics))


def _apart(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, list[str | None]]:
    names = dict.fromkeys([*before, *after])
    return {
        name: [before.get(name), after.get(name)] for name in names if before.get(name) != after.get(name)
    }
