"""What a worker has answered and no checkpoint holds yet: bounded, whatever the store does.

Lives here: the count, and when no more is taken.  Never here: when a checkpoint is due, who writes it
(`checkpointing.py`).

A store that cannot be used holds up no answer.  But what was done since the last checkpoint is done again by
whoever takes over, who keeps in memory what the logs have of it: so there is a bound, `unsaved_max`.
"""

from __future__ import annotations

from collections import Counter

import structlog

__all__ = ["Unsaved"]

EARLY = 0.5
"""At this share of the bound a checkpoint is due, whatever its interval."""

log = structlog.get_logger("headrace")


class Unsaved:
    """Events answered since the last checkpoint; `counts` has the pauses of the intake."""

    def __init__(self, unsaved_max: int) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self._max = unsaved_max
        self._answered = 0
        self._captured = 0
        """Of them, those that the checkpoint on its way holds."""
        self._paused = False

    def __int__(self) -> int:
        return self._answered

    def take(self, count: int) -> None:
        """Count events that were answered."""
        self._answered += count

    def captured(self) -> None:
        """Record that a checkpoint of all that was answered is on its way."""
        self._captured = self._answered

    def saved(self) -> None:
        """Record that this checkpoint is written."""
        self._answered -= self._captured
        self._captured = 0

    def clear(self) -> None:
        """Forget everything: partitions are restored from their checkpoints."""
        self._answered = self._captured = 0

    @property
    def due(self) -> bool:
        """Return whether a checkpoint is due for how much there is."""
        return self._answered >= self._max * EARLY

    def full(self) -> bool:
        """Return whether no more events may be taken; count and tell the change of that."""
        paused = self._answered >= self._max
        if paused != self._paused:
            self._paused = paused
            if paused:
                self.counts["intake_pauses", "unsaved"] += 1
                what = "no more events are taken until a checkpoint is written"
                log.warning(what, unsaved=self._answered, of=self._max)
            else:
                log.info("events are taken again", unsaved=self._answered)
        return paused
