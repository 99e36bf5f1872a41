"""How an owner takes over a source partition: the order of the protocol, and what it asks of its shell.

Lives here: every step from looking at the store to running, what must hold before a
checkpoint, each request with the type of its answer.  Never here: doing a step.  Each
generator yields a request, the shell carries it out, with Kafka and a checkpoint store or
with a simulation, and sends the answer back.

    look      is the store behind the predictions log?  Then nothing is touched.
    fence     the store hands out the next claim; every older owner's checkpoint now fails
    load      the last checkpoint
    announce  in the predictions log, as a claim with a minus sign, which no reader minds;
              did a rival come between?
    claim     in each examples partition, then in the predictions partition, each acknowledged
    read      both, from the offsets of the checkpoint up to the own claim records
    run       with what was found there suppressed

Why examples before predictions: a zombie's example must not count where its prediction does not.
Why announce: a store that falls back to an older state lets a superseded owner save again, and that
checkpoint would skip the claim which ended it.  So every owner looks before it saves
(`still_owner`) whether its predictions log holds anything but its own records, and a new owner
leaves its mark there before any record of the old one stops counting.

A checkpoint need not stop its owner.  The state is cut at one moment, the owner goes on writing, and
what belongs to the cut alone is waited for, looked at and saved:

    state is captured, `cut` -> the cut's records are acknowledged -> `still_owner` -> `log_positions`, save
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from operators.claims.rule import GAP, SUPPRESSED_MAX, Log, LogPosition, Reader, Suppression, Writer
from topics.errors import BrokerError, CheckpointError, ClaimError
from topics.messages import Claim, Command, Example, Prediction, Quarantine
from topics.rekeying import RekeyingMessage

__all__ = [
    "Bounds",
    "CheckpointLogs",
    "Cut",
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
    "Takeover",
    "Watch",
    "WriteClaim",
    "claimed_logs",
    "cut",
    "fits",
    "log_positions",
    "still_owner",
    "takeover",
]

TRIES_MAX = 8
"""Each further try means that another owner claimed in between; after this many the takeover fails."""
_DELETED = "records were deleted before they were read: --accept-lost-records goes on without them"
_ANOTHER = (
    "the log was made anew, or this is another cluster: bring it back, or begin with its first records, with"
    " another HEADRACE_STATE_DIR and --accept-newer-claims"
)
TAIL_OFFSETS_MAX = 1_000
"""Offsets at the end of a log that are looked at for a newer claim before anything is taken over."""


# -- what the protocol asks of its shell -----------------------------------------------------------------


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
    """Load the last checkpoint.  Answer: a `CheckpointLogs`, or None where none was saved."""


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


# -- owners --------------------------------------------------------------------------------------------------


class Cut(NamedTuple):
    """The progress of an owner at the moment when its state was captured."""

    numbered: Mapping[Log, int]
    replayed: bool
    """Whether nothing was left to suppress."""


class Watch:
    """The position up to which the owner's predictions log holds no newer claim."""

    def __init__(self, position: int) -> None:
        self.position = position
        self.others = position
        """Records in the log that are not the owner's."""


@dataclass(frozen=True)
class Takeover:
    """The result of a takeover, with which an owner starts."""

    claim: int
    checkpoint: Any
    """The shell's answer to `LoadCheckpoint`."""
    writer: Writer
    suppression: Suppression
    logs: tuple[LogPosition, ...]
    """`CheckpointLogs.logs`, kept until the suppression is empty."""
    watch: Watch
    lost: Mapping[Log, int]
    """Records that were deleted from the logs before they were read, where that was accepted."""


def claimed_logs(source: int, examples_partitions: int, rekey_partitions: int = 0) -> tuple[Log, ...]:
    """Return every log partition an owner of `source` writes to, in the order in which they are claimed.

    What travels to other keys follows from the logs it is made from, so those come in any order.
    """
    messages = [(role, number) for role in ("rekey", "rekeyed") for number in range(rekey_partitions)]
    return (
        *messages,
        *(("examples", number) for number in range(examples_partitions)),
        ("predictions", source),
    )


def takeover(
    source: int,
    *,
    examples_partitions: int = 1,
    rekey_partitions: int = 0,
    inputs: Sequence[str] = (),
    accept_newer: bool = False,
    accept_lost: bool = False,
    suppressed_max: int = SUPPRESSED_MAX,
) -> Generator[Request, Any, Takeover | None]:
    """Take over the source partition; return what to start with, or None if another owner came first.

    None is no error: an owner that is still assigned calls again.  `rekey_partitions`: how many partitions
    each internal topic has, where events travel to other keys.  `inputs`: the topics that the state is made
    of.  `accept_newer` claims above whatever the log holds; without a checkpoint everything is replayed, so
    then no log may have lost its beginning.  `accept_lost` goes on without what was deleted.

    Raises ClaimError if the log holds a claim which the store never handed
    out (it is behind: a failover, a lost directory) or rivals never rest; CheckpointError if the logs
    no longer, or not yet, hold the checkpoint's offsets.
    """
    predictions: Log = ("predictions", source)
    newest = 0
    for _ in range(TRIES_MAX):
        stored: Stored = yield Look()
        replay = _Replay(source, stored.logs, suppressed_max, {} if accept_lost else None)
        end = yield from replay.start(predictions)
        yield from replay.read(predictions, end)
        newest = max(newest, replay.newest)
        if newest > stored.claim:
            if not accept_newer:
                if (yield Look()).claim != stored.claim:
                    continue
                raise _store_is_behind(source, stored, newest)
            if not stored.logs:
                logs = claimed_logs(source, examples_partitions, rekey_partitions)
                if lost := (yield from _deleted(source, inputs, logs, accepted=accept_lost)):
                    replay = _Replay(source, (), suppressed_max, lost)
                    yield from replay.start(predictions)

        claim: int = yield Fence(newest)
        checkpoint: CheckpointLogs | None = yield LoadCheckpoint()
        saved = tuple(checkpoint.logs) if checkpoint is not None else ()
        if saved != tuple(stored.logs):
            replay = _Replay(source, saved, suppressed_max, {} if accept_lost else None)
            yield from replay.start(predictions)
        announced_at: int = yield WriteClaim(*predictions, Claim(source, -claim))
        yield from replay.read(predictions, announced_at)
        if replay.newest < claim:
            claimed_at = yield from _claim(
                replay, claim, claimed_logs(source, examples_partitions, rekey_partitions)
            )
            if replay.newest <= claim:
                writer = Writer(source, claim, claimed_at)
                watch = Watch(writer.position(predictions))
                return Takeover(
                    claim, checkpoint, writer, replay.suppression, saved, watch, replay.lost or {}
                )
        newest = max(newest, replay.newest)
        if (yield Look()).claim != claim:
            return None
    raise ClaimError(
        f"source partition {source} was claimed by others {TRIES_MAX} times in between",
        hint="look for a second deployment with a checkpoint store of its own",
    )


def cut(owner: Takeover) -> Cut:
    """Return the progress of the owner; call it at the moment when its state is captured."""
    return Cut(owner.writer.numbered.copy(), owner.suppression.empty)


def still_owner(owner: Takeover, at: Cut) -> Generator[Request, Any, bool]:
    """Return whether no other owner has announced itself: ask before each checkpoint is saved.

    What was sent up to the cut must be acknowledged, in every log, before this begins; the owner may
    go on writing.  False ends the owner, and nothing may be saved then.
    Normally the end of the predictions log says it all: nothing is there but the owner's own records.
    It is asked for first and the own records are counted after, so that they include all before that end.
    If the owner has written nothing since the cut, the checkpoint's position moves to that end, so that
    what others left there may expire.
    """
    writer, watch = owner.writer, owner.watch
    log: Log = ("predictions", writer.source)
    bounds: Bounds = yield FindBounds(*log)
    sent: Sent = yield Settle(*log)
    end = max(bounds.end, sent.position)
    if end != watch.others + sent.records:
        since = LogPosition(*log, watch.position, writer.claim, GAP)
        look = _Replay(writer.source, (since,), SUPPRESSED_MAX)
        yield from look.read(log, end)
        if look.newest > writer.claim:
            return False
        watch.others = end - sent.records
    watch.position = end
    if sent.records == at.numbered.get(log, 0):
        writer.skip(log, end)
    return True


def log_positions(owner: Takeover, at: Cut) -> tuple[LogPosition, ...]:
    """Return what the checkpoint of a cut must record of the logs; `writer` has its acknowledgements.

    While the replay still has something to leave out, the next owner must find the same again: the
    positions of the last checkpoint stay.  After that everything before the owner's own records is
    part of its state.
    """
    return owner.writer.positions(at.numbered) if at.replayed else owner.logs


def fits(
    source: int, *, inputs: Sequence[str] = (), accept_newer: bool = False, accept_lost: bool = False
) -> Generator[Request, Any, None]:
    """Check that the store fits the predictions log and change nothing: for a worker that owns nothing yet.

    The end of the log is enough: an owner's records carry its claim.  Raises what `takeover` would
    raise at its first step.
    """
    log: Log = ("predictions", source)
    newest = 0
    for _ in range(TRIES_MAX):
        stored: Stored = yield Look()
        replay = _Replay(source, stored.logs, SUPPRESSED_MAX, {} if accept_lost else None)
        end = yield from replay.start(log)
        saved = next((position.position for position in stored.logs if position.log == log), 0)
        tail = max(saved, end - TAIL_OFFSETS_MAX)
        look = _Replay(source, (LogPosition(*log, tail, stored.claim, GAP),), SUPPRESSED_MAX)
        yield from look.read(log, end)
        newest = max(newest, look.newest)
        if newest <= stored.claim:
            return
        if accept_newer:
            if not stored.logs:
                yield from _deleted(source, inputs, [log], accepted=accept_lost)
            return
        if (yield Look()).claim == stored.claim:
            untouched = "nothing was taken, a worker that has the right store goes on; "
            raise _store_is_behind(source, stored, newest, untouched)


def _deleted(
    source: int, inputs: Sequence[str], logs: Iterable[Log], *, accepted: bool
) -> Generator[Request, Any, dict[Log, int]]:
    """Return how many records each log has lost of its beginning, where it has lost any.

    Raises ClaimError with the counts if there are any and that is not accepted.
    """
    lost: dict[Log, int] = {}
    for log in [*((role, source) for role in inputs), *logs]:
        bounds: Bounds = yield FindBounds(*log)
        if bounds.start:
            lost[log] = bounds.start
    if lost and not accepted:
        counts = ", ".join(
            f"{count} of {role} (partition {number})" for (role, number), count in lost.items()
        )
        raise ClaimError(
            f"source partition {source} would be replayed from records that were deleted: {counts}",
            hint="bring the state directory back, or start with --accept-lost-records as well: then windows"
            " are incomplete, and labels of answers that were waiting are not learned",
        )
    return lost


def _claim(replay: _Replay, claim: int, logs: Sequence[Log]) -> Generator[Request, Any, dict[Log, int]]:
    """Claim each log in this order, then read each up to there; return where the claims lie."""
    for log in logs:
        yield from replay.start(log)
    claimed_at: dict[Log, int] = {}
    for log in logs:
        claimed_at[log] = yield WriteClaim(*log, Claim(replay.source, claim))
    for log in logs:
        yield from replay.read(log, claimed_at[log])
    return claimed_at


def _store_is_behind(source: int, stored: Stored, logged: int, untouched: str = "") -> ClaimError:
    return ClaimError(
        f"the log holds claim {logged} of source partition {source}, the checkpoint store{stored.place}"
        f" gave out {stored.claim}",
        hint=f"{untouched}start with the HEADRACE_STATE_DIR that belongs to this log; if it is lost,"
        " --accept-newer-claims replays the logs",
        topic="predictions",
        partition=source,
    )


class _Replay:
    """The records of one source that the logs hold after a checkpoint."""

    def __init__(
        self,
        source: int,
        saved: Sequence[LogPosition],
        suppressed_max: int,
        lost: dict[Log, int] | None = None,
    ) -> None:
        self.source = source
        self.lost = lost
        """Records that were deleted before they were read; None: there may be none."""
        self.suppression = Suppression(suppressed_max)
        self.newest = max((position.claim for position in saved), default=0)
        """Highest claim met so far: announced, made, or on a record whose claim the log has not kept."""
        self._positions = {position.log: position.position for position in saved}
        self._readers = {
            position.log: Reader((source, position.claim, position.sequence)) for position in saved
        }

    def start(self, log: Log) -> Generator[Request, Any, int]:
        """Begin with `log`, or go on; return where it ends now.

        Raises CheckpointError if it does not hold the offset to begin with.
        """
        bounds: Bounds = yield FindBounds(*log)
        position = self._positions.setdefault(log, bounds.start)
        self._readers.setdefault(log, Reader())
        if position < bounds.start and self.lost is not None:
            self.lost[log] = bounds.start - position
            position = self._positions[log] = bounds.start
            self._readers[log] = Reader()
        if not bounds.start <= position <= bounds.end:
            raise CheckpointError(
                f"the checkpoint reads on from {position}, the log holds {bounds.start} to {bounds.end}",
                hint=_DELETED if position < bounds.start else _ANOTHER,
                topic=log[0],
                partition=log[1],
                offset=position,
            )
        return bounds.end

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

    def _take(
        self, log: Log, value: Claim | Prediction | Example | Quarantine | Command | RekeyingMessage
    ) -> None:
        if isinstance(value, Command):
            return
        source = log[1] if isinstance(value, Prediction) else value.source_partition
        if source != self.source:
            return
        self.newest = max(self.newest, abs(value.claim))
        reader = self._readers[log]
        if isinstance(value, Claim):
            reader.claim(source, value.claim)
            return
        if self.lost and log in self.lost and not reader.highest(source):
            # The record that made the claim is deleted: what is left of it counts from here on.
            reader = self._readers[log] = Reader((source, value.claim, value.sequence))
        if reader.counts(source, value.claim, value.sequence):
            self.suppression.add(value)
