"""The minutes of the race: every decision, numbered at its place in the log.

Lives here: how a decision is written down, so that a replay writes the same one again.  Never here: what is
decided (`arena.py`, `challenges.py`, `proposals.py`, `release.py`).
"""

from __future__ import annotations

from typing import NamedTuple

from operators.models.scoring import Racer
from topics.messages import Command, Decision, DecisionType

__all__ = ["ACTOR", "Evidenced", "Minutes", "Moment"]

ACTOR = "headrace"
"""The actor of decisions that no command asked for."""
REASON_MAX = 500
"""Characters of a reason: errors may quote what was sent."""
Evidenced = dict[str, float | int | str]
"""The figures behind a decision, by name."""


class Moment(NamedTuple):
    """The position in the log at which a decision is taken."""

    offset: int
    """Of the record that led to it."""
    time: int
    """Largest label time so far, ms."""
    examples: int
    """Examples learned so far."""


class Minutes:
    """Write decisions, numbered from 0 at each offset.

    >>> minutes, racer = Minutes("flights", 0), Racer("a", None, version=1)
    >>> [minutes.write(Moment(7, 0, 0), "model.promoted", racer, "evidence").decision_id for _ in range(2)]
    ['flights:0:7:0', 'flights:0:7:1']
    """

    def __init__(self, pipeline: str, partition: int) -> None:
        self.log = f"{pipeline}:{partition}"
        self.numbered = (-1, 0)
        """Offset and number of the last decision; a part of the arena's state."""

    def write(
        self,
        at: Moment,
        decision_type: DecisionType,
        racer: Racer,
        reason: str,
        command: Command | None = None,
        evidence: Evidenced | None = None,
        replaced: Racer | None = None,
    ) -> Decision:
        """Return the next decision at its offset, about a racer as it is now."""
        offset, number = self.numbered
        number = number + 1 if offset == at.offset else 0
        self.numbered = (at.offset, number)
        recorded = dict(evidence or {})
        if command is not None:
            recorded |= {"command_id": command.command_id, "command_time": command.time}
        return Decision(
            f"{self.log}:{at.offset}:{number}",
            decision_type,
            at.time,
            racer.name,
            racer.version,
            at.examples,
            reason[:REASON_MAX],
            command.actor if command is not None and command.actor else ACTOR,
            at.offset,
            from_model=replaced.name if replaced is not None else None,
            from_version=replaced.version if replaced is not None else None,
            evidence=recorded,
        )
