"""Watching in the race: blocks and labelled examples in, decisions about shift out.

Lives here: who feeds the watcher, and what a verdict says as a decision.  Never here: what a shift is
(`operators/drift/watcher.py`), which rows a block holds (`blocks.py`).

A verdict changes nothing of the race: it is told, at the record of the log that completed the block.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from msgspec.structs import replace

from operators.drift.triage import Shift, ShiftChange
from operators.drift.watch import Watch
from operators.drift.watcher import Watcher
from operators.race.arena import Arena, Evidenced, Moment
from operators.race.losses import Losses
from operators.state import StateDelta, StateEntries, named, under
from operators.stopwatch import Stopwatch
from topics.messages import Block, Decision, DecisionType, Example, Task

__all__ = ["TYPES", "Watching", "verdicts_of"]

_STATE: Final = "watch"

TYPES: Final[dict[ShiftChange, DecisionType]] = {
    "found": "shift.found",
    "updated": "shift.updated",
    "ended": "shift.ended",
}


class Watching:
    """The watcher of one race, which goes along with its examples."""

    stops: Sequence[int] = ()

    def __init__(self, watch: Watch, pipeline: str, task: Task, arena: Arena, stopwatch: Stopwatch) -> None:
        self.watcher = Watcher(watch, pipeline, task)
        self._arena, self._stopwatch = arena, stopwatch

    def block(self, at: Moment, block: Block, partitions: Collection[int]) -> list[Decision]:
        """Take a block of one of the events partitions that write; return what is to be told."""
        started = self._stopwatch.clock()
        shifts = self.watcher.fold_block(block, partitions)
        self._stopwatch.steps["watch"] += self._stopwatch.clock() - started
        return [self._told(at, shift) for shift in shifts]

    def end(self, at: Moment) -> list[Decision]:
        """End the verdict that lasts, if any: `watch=` is another one from here on."""
        return [self._told(at, shift) for shift in self.watcher.give_up()]

    def _told(self, at: Moment, shift: Shift) -> Decision:
        """Return a verdict as a decision, at the end of its block."""
        told = self._arena.write(
            at._replace(time=shift.decided_ms),
            TYPES[shift.change],
            self._arena.roster.champion,
            shift.verdict,
            evidence=evidence_of(shift),
        )
        return replace(told, features=list(shift.features))

    # -- as an observer of the race ---------------------------------------------------------------

    def observe(self, examples: Sequence[Example], tested: Sequence[Losses]) -> None:
        """Take examples with the loss of what was served."""
        started = self._stopwatch.clock()
        self.watcher.observe(examples, [served for served, _ in tested])
        self._stopwatch.steps["watch"] += self._stopwatch.clock() - started

    def stop(self, _: Moment) -> list[Decision]:
        """Do nothing at the stops of others."""
        return []

    def forget(self, name: str) -> None:
        """Keep nothing of any candidate."""

    # -- state ------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        return named({_STATE: self.watcher.snapshot()})

    def delta(self) -> StateDelta:
        """Return the entries that changed since the last call."""
        return named({_STATE: self.watcher.delta()})

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state."""
        self.watcher.restore(under(_STATE, entries))


def verdicts_of(decisions: Iterable[Decision]) -> list[dict[str, Any]]:
    """Return the verdicts on shift among decisions, each as it stood last, in the order of their beginnings.

    >>> told = Shift("p:7", "found", "label_shift", 5, 9, features=("a", "b"), act="look", true_loss=0.2)
    >>> found = Decision("p:0:1:0", "shift.found", 9, "m", 1, 0, "label_shift", "headrace", 1)
    >>> (verdict,) = verdicts_of([replace(found, evidence=evidence_of(told), features=["a", "b"])])
    >>> verdict["verdict"], verdict["features"], verdict["until"], verdict["true_loss"]
    ('label_shift', ['a', 'b'], None, 0.2)
    """
    last = {
        str(decision.evidence["shift_id"]): decision
        for decision in decisions
        if decision.type in TYPES.values()
    }
    told = ("since", "until", "pace", "reference_loss", "estimated_loss", "true_loss", "act")
    return [
        {
            "verdict": decision.evidence["verdict"],
            "features": features_of(decision),
            **{name: decision.evidence.get(name) for name in told},
        }
        for decision in last.values()
    ]


def features_of(decision: Decision) -> list[str]:
    """Return the features of a verdict; records of earlier versions have them as text, in the evidence."""
    before = str(decision.evidence.get("features", ""))
    return decision.features or [name for name in before.split(", ") if name]


def evidence_of(shift: Shift) -> Evidenced:
    """Return what a decision says of a verdict: what is not known is left out.

    >>> evidence_of(Shift("p:7", "found", "pipeline_fault", 5, 9, features=("a", "b"), act="look"))
    ... # doctest: +NORMALIZE_WHITESPACE
    {'shift_id': 'p:7', 'verdict': 'pipeline_fault', 'since': 5, 'pace': 'sudden', 'act': 'look'}
    """
    told: dict[str, float | int | str | None] = {
        "shift_id": shift.shift_id,
        "verdict": shift.verdict,
        "since": shift.since_ms,
        "until": shift.until_ms,
        "pace": shift.pace,
        "reference_loss": shift.reference_loss,
        "estimated_loss": shift.estimated_loss,
        "true_loss": shift.true_loss,
        "act": shift.act,
    }
    return {name: value for name, value in told.items() if value is not None} | shift.evidence
