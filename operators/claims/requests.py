"""The requests of the claim protocol to its shell, and their answers.

Lives here: every request that `takeover.py` yields, with the type of its answer.  Never here: the
order of the requests, how one is carried out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from operators.claims.rule import LogPosition
from topics.messages import Claim, Command, Example, Prediction, Quarantine
from topics.rekeying import RekeyingMessage

__all__ = [
    "Bounds",
    "CheckpointLogs",
    "Fence",
    "FindBounds",
    "LoadCheckpoint",
    "LogBatch",
    "LogRecord",
    "Look",
    "ReadLog",
    "Request",
    "Sent",
    "Settle",
    "Stored",
    "WriteClaim",
]


class CheckpointLogs(Protocol):
    """The log positions of a checkpoint, as a takeover needs them."""

    @property
    def logs(self) -> Sequence[LogPosition]:
        """What `log_positions` returned when it was saved."""
        ...


class Look(NamedTuple):
    """Read the store's claim and log positions.  Answer: `Stored`."""


class Stored(NamedTuple):
    """The claim the store handed out last (0: none), and `CheckpointLogs.logs` (none saved: empty)."""

    claim: int
    logs: Sequence[LogPosition]
    place: str = ""
    """Where the store is, for messages; with a space before it."""


class Fence(NamedTuple):
    """Raise the store's claim, atomically, to one more than the larger of it and `above`.

    Answer: the new number.
    """

    above: int


class LoadCheckpoint(NamedTuple):
    """LoadCheckpoint the last checkpoint.  Answer: a `CheckpointLogs`, or None where none was saved."""


class FindBounds(NamedTuple):
    """Find where a log begins and ends.  Answer: `Bounds`."""

    target: str
    partition: int


class Bounds(NamedTuple):
    """First offset that is kept, and the next one to be written."""

    start: int
    end: int


class WriteClaim(NamedTuple):
    """Write a claim record and wait for its acknowledgement.  Answer: its offset."""

    target: str
    partition: int
    value: Claim


class ReadLog(NamedTuple):
    """Read on from `position`, as much as suits, before `until`.  Answer: `LogBatch`."""

    target: str
    partition: int
    position: int
    until: int


class LogRecord(NamedTuple):
    """A decoded record of a log."""

    offset: int
    value: Claim | Prediction | Example | Quarantine | Command | RekeyingMessage


class LogBatch(NamedTuple):
    """Records in log order, and the position to read on from (beyond the last one)."""

    records: Sequence[LogRecord]
    position: int


class Settle(NamedTuple):
    """Wait until all that the owner has sent to a log by now is acknowledged.  Answer: `Sent`."""

    target: str
    partition: int


class Sent(NamedTuple):
    """Records that an owner has sent since its claim, and the offset after the last one (or the claim)."""

    records: int
    position: int


Request = Look | Fence | LoadCheckpoint | FindBounds | WriteClaim | ReadLog | Settle
