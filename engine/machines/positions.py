"""Where a learner stands in its log, and how a pause moves that.

Lives here: the two positions and the records between them.  Never here: what a record does (`learner.py`,
`keyed/keyed_learner.py`), who pauses and why.

`position` is the next offset to fold, `reading` the next offset the shell must hand in.  They are equal but
for a pause: then `position` stands still behind the pause command while `reading` runs ahead and only
commands act (a rollback during a pause is not put off), each once:

    offset     0  1  2  3  4  5  6  7  8
    record     e  e  P  e  c  e  R  e  e       P pause   R resume   c rollback   e examples
    folded     0  1  2 .  .  4 . .  6          then `reading` goes back to 3:
                                 3     5     7  8

Nothing is queued and nothing skipped: after the resume the log is read again from `position`, and commands up
to the resume, which have acted, are passed over.
"""

from __future__ import annotations

import msgspec

from topics.errors import ModelError
from topics.messages import Record

__all__ = ["Positions"]

BACKLOGS_TOLD = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
"""Records logged during a pause at which a decision says that they wait."""


class Positions(msgspec.Struct):
    """The positions of a learner in its log.

    >>> at = Positions(3, 3)
    >>> [at.look_ahead(offset) for offset in (3, 4, 5)], at
    ([0, 0, 0], Positions(position=3, reading=6, commands_done=0))
    >>> at.go_back()
    >>> at
    Positions(position=3, reading=3, commands_done=6)
    """

    position: int = 0
    """Next offset to fold."""
    reading: int = 0
    """Next offset to be handed in."""
    commands_done: int = 0
    """Commands before this offset have acted, during a pause."""

    def skipped(self, record: Record) -> ModelError:
        """Return the error of a record that comes in place of those between a pause and its resume."""
        return ModelError(
            f"records from offset {self.position} on have not been folded",
            hint="seek to `reading` after each fold",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
        )

    def look_ahead(self, offset: int) -> int:
        """Pass a record of a pause; return how many wait then, where that is to be told, else 0."""
        waited = self.reading - self.position
        self.reading = offset + 1
        waiting = self.reading - self.position
        return waiting if any(waited < told <= waiting for told in BACKLOGS_TOLD) else 0

    def go_back(self) -> None:
        """End a pause behind the record that was passed last: what waits is to be handed in again."""
        self.commands_done, self.reading = self.reading, self.position
