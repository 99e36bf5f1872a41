"""What was decided, written down: one record a decision, numbered at its place in the log.

Lives here: the text and the number of a `Decision`.  Never here: what is decided, and when
(`arena.py`, `engine/machines/learner.py`), statistics, clocks.
"""

from __future__ import annotations

from typing import NamedTuple

from operators.models.roster import Candidate, Roster
from topics.messages import Command, Decision, DecisionType

__all__ = ["Decisions", "Moment"]

ACTOR = "headrace"
"""Who decided what nobody asked for."""
REASON_MAX = 500
"""Characters of a reason: errors may quote what a person has sent."""


class Moment(NamedTuple):
    """Where in the log a decision is taken."""

    offset: int
    """Of the record that led to it."""
    time: int
    """Largest label time so far, ms."""
    examples: int
    """Examples learned so far."""


class Decisions:
    """Write decisions of one examples partition; `numbered` is (offset, number) of the last one.

    >>> decisions = Decisions("flights:0", Roster("binary", [Candidate("a", None, version=1)], "a"))
    >>> at = Moment(offset=7, time=0, examples=0)
    >>> [decisions.write(at, "drift.detected", "a", "").decision_id for _ in range(2)]
    ['flights:0:7:0', 'flights:0:7:1']
    """

    def __init__(self, log: str, roster: Roster) -> None:
        self.numbered = (-1, 0)
        self._log = log
        self._roster = roster

    def write(
        self,
        at: Moment,
        decision_type: DecisionType,
        name: str,
        reason: str,
        command: Command | None = None,
        evidence: dict[str, float | int | str] | None = None,
        replaced: Candidate | None = None,
    ) -> Decision:
        """Return a decision about candidate `name`, with the next number at its offset."""
        offset, number = self.numbered
        number = number + 1 if offset == at.offset else 0
        self.numbered = (at.offset, number)
        found = dict(evidence or {})
        if command is not None:
            found |= {"command_id": command.command_id, "command_time": command.time}
        return Decision(
            f"{self._log}:{at.offset}:{number}",
            decision_type,
            at.time,
            name,
            self._roster.candidates[name].version,
            at.examples,
            reason[:REASON_MAX],
            command.actor if command is not None and command.actor else ACTOR,
            at.offset,
            from_model=replaced.name if replaced is not None else None,
            from_version=replaced.version if replaced is not None else None,
            evidence=found,
        )

    def backlog(self, at: Moment, records: int) -> Decision:
        """Return that `records` of the log wait while learning is paused.

        The record at this offset is folded after the pause and may lead to decisions then, so this
        one has no number of theirs.
        """
        champion = self._roster.champion
        return Decision(
            f"{self._log}:{at.offset}:backlog",
            "learning.backlog",
            at.time,
            champion,
            self._roster.candidates[champion].version,
            at.examples,
            f"{records:,} records logged since the pause are not learned",
            ACTOR,
            at.offset,
            evidence={"records": records},
        )
