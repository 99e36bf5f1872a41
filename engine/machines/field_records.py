"""The field as the examples log has it: which one holds, who waits, what a record of another one does.

Lives here: the reading of field records against the field that holds, what is made of them for the race, and
the making of one.  Never here: what it does to the race (`operators/race/learning.py`), where models and
fields lie (a `FieldSource`), when one is written (`engine/worker/follower.py`).

The first record of a log says with which field it began.  Each later one is read against the field that holds
where it lies, not against the one its writer had: two leaders may have written.

    id as the field's, nobody of it waits     nothing: it is a repeat
    id as the field's, some of it wait        those that it names enter, or are refused
    an id of which some waited, replaced      nothing: it came too late
    another id                                racers leave, newcomers enter, settings change

A candidate that is refused has failed at a lesson of the log.  It waits no more, and is not tried again until
a file says something else of it: another model, release or start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import msgspec

from operators.models.parameters import model_text
from operators.models.scoring import Roster
from operators.race.arena import Objection, listed
from operators.race.candidates import made_of, start_text, twin_name
from operators.race.field import FieldStep, Newcomer, RaceField, settings_text
from operators.state import StateEntries, WholeState
from topics.messages import Entrant, FieldChange

__all__ = [
    "Brought",
    "Codec",
    "FieldRecords",
    "FieldSource",
    "about_change",
    "change_of",
    "entrant_of",
    "refusal",
]

Codec = tuple[Callable[[Any], bytes], Callable[[bytes], Any]]
"""How models, metrics and detectors of a field become bytes, and what they were again."""


class Brought(NamedTuple):
    """What a candidate has learned before it enters."""

    artefact: str
    """Structural digest of its state, by which it is stored."""
    updates: int
    learned_from: int = -1
    learned_to: int = -1


class FieldSource(Protocol):
    """Where a learner finds what a field names."""

    def fresh(self, field: RaceField, name: str) -> Any:
        """Return the model of a candidate, in its guards, that has learned nothing."""
        ...

    def codec(self, field: RaceField) -> Codec:
        """Return the functions that store and load the models, metrics and detectors of a field."""
        ...

    def field(self, field_id: str) -> RaceField:
        """Return the field that was stored under its id.  Raises ModelError where there is none."""
        ...

    def model(self, field: RaceField, artefact: str) -> Any:
        """Return a model of the field, in its guards, that was stored.  Raises ModelError where it is not."""
        ...


class _FieldState(msgspec.Struct):
    field_id: str
    records: int = 0
    """Field records so far, repeats among them."""
    waiting: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    """Names of candidates that have left: one that comes again is another model."""
    refused: tuple[str, ...] = ()
    """Candidates of the field that failed while they learned the log, and never raced."""


class FieldRecords(WholeState):
    """The field that holds, and what came before it."""

    def __init__(self, own: RaceField, source: FieldSource) -> None:
        self.own = own
        self.field = own
        self._source = source
        self._state = _FieldState(own.field_id)

    @property
    def field_id(self) -> str:
        """Return the id of the field that holds."""
        return self._state.field_id

    @property
    def waiting(self) -> tuple[str, ...]:
        """Return the candidates of the field that learn the log before they enter."""
        return self._state.waiting

    @property
    def refused(self) -> tuple[str, ...]:
        """Return the candidates of the field that failed while they learned the log."""
        return self._state.refused

    @property
    def first(self) -> bool:
        """Return whether no record has said yet with which field the log began."""
        return not self._state.records

    def found(self, field_id: str) -> RaceField:
        """Return the field of an id: our file's where it is the same, else the stored one."""
        return self.own if field_id == self.own.field_id else self._source.field(field_id)

    def begin(self, field: RaceField) -> None:
        """Hold a field with which the log began, or a checkpoint was written."""
        self.field = field
        self._state.field_id = field.field_id
        self._dirty = True

    def count(self) -> None:
        """Count a record that has acted, or said nothing new."""
        self._state.records += 1
        self._dirty = True

    def begun(self, change: FieldChange) -> dict[str, tuple[Any, int]]:
        """Return the models of the first record that bring a state, with the labels each has learned."""
        return {
            one.name: (self._source.model(self.field, one.artefact), one.updates)
            for one in change.entering
            if one.artefact and one.name in self.field.candidates
        }

    def entering(self, field: RaceField) -> tuple[str, ...]:
        """Return the candidates of another field that are not racing yet and shall."""
        before = self.field
        again = (
            name
            for name in self._state.refused
            if name in field.candidates
            and settings_text(field.candidates[name]) != settings_text(before.candidates[name])
        )
        wait_still = (name for name in self.waiting if name in field.candidates)
        return tuple(dict.fromkeys([*before.difference(field).entering, *wait_still, *again]))

    def step(self, change: FieldChange, roster: Roster, codec: Codec) -> FieldStep | None:
        """Return what a record does to the race as it stands; None for one that does nothing.

        Changes nothing.  Raises ModelError for a field or a model that is not to be found.
        """
        same = change.field_id == self.field.field_id
        if not same and change.before == change.field_id:
            return None  # another field came before those who learned the log for this one
        field = self.field if same else self.found(change.field_id)
        difference = self.field.difference(field)
        entering = [name for name in self.entering(field) if name not in change.waiting]
        brought = {one.name: one for one in change.entering}
        refused: dict[str, str] = {}
        if same:
            entering = [name for name in entering if name in brought]
            refused = {name: why for name, why in change.refused.items() if name in self.waiting}
            if not entering and not refused:
                return None
        settled = {*entering, *refused}
        waiting = [name for name in field.candidates if name in change.waiting and name not in settled]
        waiting += [name for name in self.waiting if same and name not in settled]
        leaving = tuple(
            racer.name
            for racer in roster.racers.values()
            if not racer.twin_of
            and (
                racer.definition in difference.retiring
                or (racer.name in entering and racer.name not in self.waiting)
            )
        )
        return FieldStep(
            self.field,
            field,
            tuple(self._newcomer(field, name, brought.get(name), roster, codec) for name in entering),
            leaving,
            _promoted(self.field, field, roster, leaving),
            difference.settings,
            tuple(dict.fromkeys(waiting)),
            refused,
        )

    def done(self, step: FieldStep) -> None:
        """Hold the field that a step has led to."""
        state = self._state
        told_otherwise = self.entering(step.after)
        kept = (name for name in state.refused if name in step.after.candidates)
        state.refused = (*(name for name in kept if name not in told_otherwise), *step.refused)
        self.field = step.after
        state.field_id = step.after.field_id
        state.waiting = step.waiting
        gone = [name for name in step.before.candidates if name in step.leaving]
        state.gone = tuple(dict.fromkeys([*state.gone, *gone]))
        self._dirty = True

    def _newcomer(
        self, field: RaceField, name: str, entering: Entrant | None, roster: Roster, codec: Codec
    ) -> Newcomer:
        candidate = field.candidates[name]
        evidence: dict[str, float | int | str] = {"start": start_text(candidate.start)}
        updates = 0
        if entering is not None and entering.artefact:
            model = self._source.model(field, entering.artefact)
            updates = entering.updates
            evidence |= {"artefact": entering.artefact}
            if entering.learned_to >= 0:
                evidence |= {"learned_from": entering.learned_from, "learned_to": entering.learned_to}
        elif candidate.start == "champion":
            champion = roster.racers[roster.champion]
            dump, load = codec
            model, updates = load(dump(champion.model)), champion.updates
            evidence |= {"copy_of": champion.name, "copy_of_version": champion.version}
        else:
            model = self._source.fresh(field, name)
        evidence["updates"] = updates
        unborn = {*self.waiting, *self._state.refused}
        reused = name in self._state.gone or (name in self.field.candidates and name not in unborn)
        reused |= made_of(name) != ""  # the race may have given it to a challenger that has gone
        twin = None
        if candidate.release is not None:
            new_codec = self._source.codec(field)
            twin = (twin_name(name), new_codec[1](new_codec[0](model)))
        return Newcomer(name, model, updates, candidate.learns, twin, reused, evidence)

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        return {"field": msgspec.msgpack.encode(self._state)}

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state.  Raises ModelError where its field is not to be found."""
        self._state = msgspec.msgpack.decode(entries["field"], type=_FieldState)
        self.field = self.found(self._state.field_id)
        self._dirty = False


def refusal(step: FieldStep, roster: Roster) -> Objection | None:
    """Return why a copy of the champion cannot enter; None if it can."""
    champion = roster.racers[roster.champion]
    copies = [one.name for one in step.newcomers if "copy_of" in one.evidence]
    if copies and roster.champion in roster.quarantined:
        return Objection(
            f"`{champion.name}` is quarantined: nothing is copied from it",
            f'`release` it first, or let {listed(copies, "")} start otherwise: start="log"',
        )
    defined = step.before.candidates.get(champion.definition)
    for name in copies:
        model = step.after.candidates[name].model
        if defined is None or model_text(model) != model_text(defined.model):
            return Objection(
                f"`{name}` starts as a copy of the champion `{champion.name}`, whose model is another",
                f'leave the model of `{name}` out, Candidate(start="champion"), or give it another start',
            )
    return None


def about_change(step: FieldStep) -> dict[str, float | int | str]:
    """Return what a step changes, for the evidence of its decision."""
    settings = {
        f"{part}.{when}": text
        for part, texts in step.settings.items()
        for when, text in zip(("before", "after"), texts, strict=True)
    }
    return {
        "field": step.after.field_id,
        "before": step.before.field_id,
        "entering": " ".join(one.name for one in step.newcomers),
        "retiring": " ".join(step.leaving),
        "waiting": " ".join(step.waiting),
        **({"refused": " ".join(step.refused)} if step.refused else {}),
        **settings,
    }


def _settings_of(step: FieldStep) -> tuple[dict[str, str], dict[str, str]]:
    """Return the settings that change, as they were and as they will be."""
    return (
        {part: before for part, (before, _) in step.settings.items()},
        {part: after for part, (_, after) in step.settings.items()},
    )


def change_of(step: FieldStep, time_ms: int, brought: Mapping[str, Brought]) -> FieldChange:
    """Return the record of a step; `brought` is what its newcomers have learned before."""
    before, after = _settings_of(step)
    return FieldChange(
        step.after.field_id,
        time_ms,
        step.before.field_id,
        tuple(entrant_of(step.after, one.name, brought.get(one.name)) for one in step.newcomers),
        step.leaving,
        step.waiting,
        before,
        after,
        step.refused,
    )


def entrant_of(field: RaceField, name: str, brought: Brought | None) -> Entrant:
    """Return a newcomer as a record names it."""
    candidate = field.candidates[name]
    entering = Entrant(name, model_text(candidate.model), start_text(candidate.start))
    if brought is None:
        return entering
    return msgspec.structs.replace(entering, **brought._asdict())


def _promoted(before: RaceField, after: RaceField, roster: Roster, leaving: tuple[str, ...]) -> str | None:
    """Return who becomes champion because the file says so, if anybody does."""
    named = after.champion
    if named is None or named == roster.champion:
        return None
    return named if named != before.champion or roster.champion in leaving else None
