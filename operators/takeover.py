"""How an owner takes over a source partition: the order of the protocol, and nothing else.

Lives here: every step from looking at the store to running, as one synchronous generator.
Never here: doing a step.  The generator yields a request, the shell carries it out, with
Kafka and a checkpoint store or with a simulation, and sends the answer back.

    look    read both logs to their ends: is the store behind them?  (nothing is changed yet)
    fence   the store hands out the next claim; every older owner's checkpoint now fails
    load    the last checkpoint
    claim   each examples partition first, then the predictions partition, each acknowledged
    read    both logs, from the offsets of the checkpoint up to the own claim records
    run     with what was found there suppressed

Why examples first: a zombie's example must not count where its prediction does not.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from operators.claims import SUPPRESSED_MAX, Log, LogPosition, Reader, Suppression, Writer
from topics.errors import BrokerError, CheckpointError, ClaimError
from topics.messages import Claim, Command, Example, Prediction, Quarantine

__all__ = [
    "Bounds",
    "Fence",
    "FindBounds",
    "Load",
    "LogBatch",
    "LogRecord",
    "Look",
    "ReadLog",
    "Request",
    "Stored",
    "Takeover",
    "WriteClaim",
    "claimed_logs",
    "log_positions",
    "takeover",
]

TRIES_MAX = 8
"""Each further try means that another owner claimed in between: more than a few is a duel."""


class Checkpoint(Protocol):
    """What a takeover needs to know of a checkpoint."""

    @property
    def logs(self) -> Sequence[LogPosition]:
        """What `log_positions` returned when it was saved."""
        ...


class Look(NamedTuple):
    """See how the store stands.  Answer: `Stored`."""


class Stored(NamedTuple):
    """The claim the store handed out last (0: none), and `Checkpoint.logs` (none saved: empty)."""

    claim: int
    logs: Sequence[LogPosition]


class Fence(NamedTuple):
    """Raise the store's claim, atomically, to one more than the larger of it and `above`.

    Answer: the new number.
    """

    above: int


class Load(NamedTuple):
    """Load the last checkpoint.  Answer: a `Checkpoint`, or None where none was saved."""


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
    value: Claim | Prediction | Example | Quarantine | Command


class LogBatch(NamedTuple):
    """Records in log order, and the position to read on from (beyond the last one)."""

    records: Sequence[LogRecord]
    position: int


Request = Look | Fence | Load | FindBounds | WriteClaim | ReadLog


@dataclass(frozen=True)
class Takeover:
    """What an owner starts with."""

    claim: int
    checkpoint: Any
    """The shell's answer to `Load`."""
    writer: Writer
    suppression: Suppression
    logs: tuple[LogPosition, ...]
    """`Checkpoint.logs`, kept until the suppression is empty."""


def claimed_logs(source: int, examples_partitions: int) -> tuple[Log, ...]:
    """Return every log partition an owner of `source` writes to, in the order in which they are claimed."""
    return (*(("examples", number) for number in range(examples_partitions)), ("predictions", source))


def log_positions(owner: Takeover) -> tuple[LogPosition, ...]:
    """Return what the owner's next checkpoint must record of the logs; all it sent is acknowledged.

    While the replay still has something to leave out, the next owner must find the same again: the
    positions of the last checkpoint stay.  After that everything before the owner's own records is
    part of its state.
    """
    return owner.writer.positions() if owner.suppression.empty else owner.logs


def takeover(
    source: int,
    *,
    examples_partitions: int = 1,
    accept_newer: bool = False,
    suppressed_max: int = SUPPRESSED_MAX,
) -> Generator[Request, Any, Takeover | None]:
    """Take over the source partition; return what to start with, or None if another owner came first.

    None is no error: an owner that is still assigned calls again.  `accept_newer` claims above
    whatever the logs hold.  Raises ClaimError if the logs hold a claim that the store never handed
    out (it is behind them: a failover, a lost directory) or rivals never rest, CheckpointError if the
    logs no longer, or not yet, hold the checkpoint's offsets.
    """
    logs = claimed_logs(source, examples_partitions)
    above = 0
    for _ in range(TRIES_MAX):
        seen: Stored = yield Look()
        replay = _Replay(source, seen.logs, suppressed_max)
        yield from replay.read_to_ends(logs)
        if replay.highest > seen.claim:
            if (yield Look()).claim != seen.claim:
                continue
            if not accept_newer:
                raise _store_is_behind(source, seen.claim, replay.highest)
            above = replay.highest

        claim: int = yield Fence(above)
        checkpoint: Checkpoint | None = yield Load()
        saved = tuple(checkpoint.logs) if checkpoint is not None else ()
        if saved != tuple(seen.logs):
            replay = _Replay(source, saved, suppressed_max)
            yield from replay.read_to_ends(logs)

        claimed_at: dict[Log, int] = {}
        for log in logs:
            claimed_at[log] = yield WriteClaim(*log, Claim(source, claim))
        for log in logs:
            yield from replay.read(log, claimed_at[log])
        if replay.highest < claim:
            return Takeover(claim, checkpoint, Writer(source, claim, claimed_at), replay.suppression, saved)
        if (yield Look()).claim != claim:
            return None
    raise ClaimError(
        f"source partition {source} was claimed by others {TRIES_MAX} times in between",
        hint="look for a second deployment with a checkpoint store of its own",
    )


def _store_is_behind(source: int, stored: int, logged: int) -> ClaimError:
    return ClaimError(
        f"the logs hold claim {logged} of source partition {source}, the checkpoint store gave out {stored}",
        hint="the store is older than the logs, or another one: bring the right one back, or accept the newer"
        " claim and replay from the checkpoint this one has",
    )


class _Replay:
    """What the logs hold of one source after a checkpoint."""

    def __init__(self, source: int, saved: Sequence[LogPosition], suppressed_max: int) -> None:
        self.source = source
        self.suppression = Suppression(suppressed_max)
        self.highest = max((position.claim for position in saved), default=0)
        """Highest claim met so far."""
        self._positions = {position.log: position.position for position in saved}
        self._readers = {
            position.log: Reader((source, position.claim, position.sequence)) for position in saved
        }

    def read_to_ends(self, logs: Sequence[Log]) -> Generator[Request, Any, None]:
        """Read every log up to where it ends now.  Raises CheckpointError if it has not kept the start."""
        for log in logs:
            bounds: Bounds = yield FindBounds(*log)
            position = self._positions.setdefault(log, bounds.start)
            self._readers.setdefault(log, Reader())
            if not bounds.start <= position <= bounds.end:
                raise CheckpointError(
                    f"the checkpoint reads on from {position}, the log holds {bounds.start} to {bounds.end}",
                    hint="the log was cut or made anew: restore the checkpoint that belongs to it",
                    topic=log[0],
                    partition=log[1],
                    offset=position,
                )
            yield from self.read(log, bounds.end)

    def read(self, log: Log, until: int) -> Generator[Request, Any, None]:
        """Read one log on, before the offset `until`."""
        while (position := self._positions[log]) < until:
            batch: LogBatch = yield ReadLog(*log, position, until)
            if batch.position <= position:
                raise BrokerError(
                    f"reading does not get beyond offset {position}",
                    hint="check the topic's leaders and the reader's permissions",
                    topic=log[0],
                    partition=log[1],
                    offset=position,
                )
            for record in batch.records:
                self._take(log, record.value)
            self._positions[log] = batch.position

    def _take(self, log: Log, value: Claim | Prediction | Example | Quarantine | Command) -> None:
        if isinstance(value, Command):
            return
        source = log[1] if isinstance(value, Prediction) else value.source_partition
        if source != self.source:
            return
        self.highest = max(self.highest, value.claim)
        reader = self._readers[log]
        if isinstance(value, Claim):
            reader.claim(source, value.claim)
        elif reader.counts(source, value.claim, value.sequence):
            self.suppression.add(value)
