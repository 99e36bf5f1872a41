"""Versions made again from the examples log: compared with what was recorded, or written as artefacts.

Lives here: which recorded states are looked for, the comparison, what an artefact says of itself.  Never
here: the fold (`replay.py`), digests (`operators/models/digest.py`), the file format
(`operators/models/artefacts.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.lineage.history import FOLD, History, State, Version, state_asked
from engine.lineage.sources import PipelineLogs
from engine.offline.replay import Replay
from engine.worker.assembly import libraries
from operators.models.artefacts import dump
from operators.models.digest import digest
from operators.models.guards import bare
from operators.models.scoring import Racer
from operators.models.signing import SigningKeys
from topics.messages import Decision

__all__ = ["exported", "reproduce"]

DIFFERING_SHOWN = 10
"""Decisions that differ and are named; the first of them is where to look."""


async def reproduce(logs: PipelineLogs, asked: str) -> dict[str, Any]:
    """Return what the fold gives beside what was recorded, for a version or one state of it.

    `reproduced` is true where every recorded state that was asked for has the recorded digest, and the log
    gives the recorded decisions up to there.  Raises ModelError where the log ends before a state.
    """
    history = await logs.history()
    version, updates = history.version(asked), state_asked(asked)
    recorded = [state for state in version.states if state.record != FOLD]
    wanted = [state for state in recorded if updates in {None, state.updates}]
    replay = await logs.replay()
    rows = [await _compared(replay, version, state) for state in sorted(wanted, key=_place)]
    notes: list[str] = []
    if not rows and updates is not None:
        racer = await replay.to_state(version.version, updates)
        rows = [_row(version, racer.updates, replay.learner.position, "", digest(racer.model), "")]
    if not wanted:
        known = ", ".join(f"{version.version}@{state.updates}" for state in recorded) or "none"
        notes.append(f"no record names the digest of that state; recorded states: {known}")
    here = libraries()
    theirs = version.libraries
    apart = [name for name, number in theirs.items() if here.get(name, number) != number]
    if apart:
        told = ", ".join(f"{name} {theirs[name]}, here {here[name]}" for name in apart)
        notes.append(f"recorded by other libraries: {told}")
    differ = _differing(history, replay)
    return {
        "version": version.version,
        "model": version.name,
        "states": rows,
        "decisions_compared": sum(one.offset < replay.learner.position for one in history.decisions),
        "decisions_differ": differ,
        "libraries": here,
        "notes": notes,
        "reproduced": bool(wanted) and all(row["equal"] for row in rows) and not differ,
    }


def _place(state: State) -> tuple[int, int]:
    return state.position, state.updates


async def _compared(replay: Replay, version: Version, state: State) -> dict[str, Any]:
    """Fold to a recorded state and return it beside the fold's."""
    await replay.to(state.position)
    racer = replay.racer(version.version)
    folded = "" if racer is None else digest(racer.model)
    updates = 0 if racer is None else racer.updates
    row = _row(version, state.updates, state.position, state.digest, folded, state.record)
    row["equal"] = folded == state.digest and updates == state.updates
    row["folded_updates"] = updates
    return row


def _row(
    version: Version, updates: int, position: int, recorded: str, folded: str, record: str
) -> dict[str, Any]:
    return {
        "state": f"{version.version}@{updates}",
        "position": position,
        "recorded": recorded,
        "folded": folded,
        "record": record,
        "folded_updates": updates,
        "equal": None,
    }


def _differing(history: History, replay: Replay) -> list[str]:
    """Return the ids of decisions, as far as the fold went, that the record and the fold do not share."""

    def told(decisions: Sequence[Decision]) -> dict[str, tuple[str, str, int]]:
        return {
            one.decision_id: (one.type, one.model_name, one.model_version)
            for one in decisions
            if one.offset < replay.learner.position
            and one.type != "key.erased"
            # A pause is of all races, and decided in none of them.
            and not (replay.learner.key and one.type.startswith("learning."))
        }

    recorded, folded = told(history.decisions), told(replay.decisions)
    apart = [one for one in recorded | folded if recorded.get(one) != folded.get(one)]
    return apart[:DIFFERING_SHOWN]


async def exported(
    logs: PipelineLogs, asked: str, keys: SigningKeys, *, plain: bool = False
) -> tuple[bytes, dict[str, Any]]:
    """Return a version as a signed artefact, and what it says of itself.

    Folds to the state that is named, or to the end of the log.  `plain` leaves out the guards by which
    Headrace scores it.  Raises ModelError where the version does not stand there (it may have retired).
    """
    history = await logs.history()
    version, updates = history.version(asked), state_asked(asked)
    replay = await logs.replay()
    racer: Racer | None
    if updates is None:
        await replay.to(None)
        racer = replay.racer(version.version)
        if racer is None:
            last = version.states[-1].updates if version.states else version.decisions[-1].examples
            racer = await (await logs.replay()).to_state(version.version, last)
    else:
        racer = await replay.to_state(version.version, updates)
    pipeline, model = logs.pipeline, bare(racer.model) if plain else racer.model
    meta = {
        "pipeline": pipeline.name,
        "name": version.name,
        "version": version.version,
        "updates": racer.updates,
        "learned_to": replay.learner.position,
        "digest": digest(model),
        "definition": version.definition,
        "task": pipeline.task,
        "features_version": pipeline.features_version,
        "libraries": libraries(),
    }
    return dump(model, keys=keys, meta=meta), meta
