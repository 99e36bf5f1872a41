"""How an owner takes over a source partition: the order of the protocol, and what it asks of its shell.

Lives here: every step from looking at the store to running, what must hold before a
checkpoint, each request with the type of its answer.  Never here: doing a step.  Each
generator yields a request, the shell carries it out, with Kafka and a checkpoint store or
with a simulation, and sends the answer back.

    look      at the store, and read the predictions log from its checkpoint on: the highest claim of both
    fence     the store hands out the next claim above that; every older owner's checkpoint now fails
    load      the last checkpoint
    announce  in the predictions log, as a claim with a minus sign, which no reader minds
    claim     in each examples partition, then in the predictions partition, each acknowledged
    read      both, from the offsets of the checkpoint up to the own claim records: where another owner's
              claim of the same or a higher number stands before them, start over above it
    run       with what was found there suppressed

A store need not remember.  One that went back (a failover, a backup put in its place) or is empty (a lost
directory) holds an earlier checkpoint, or none; the logs are read from there, and nothing is answered or
learned anew.  It may also hand out a number that another owner has: the nonce in a claim record tells the two
apart, and at most one of them finds nothing of the other before its own claims.  Which numbers were handed
out, the logs know; a log that has lost records since the checkpoint is refused.

Why examples before predictions: a zombie's example must not count where its prediction does not.
Why announce: a store that went back lets a superseded owner save again, and that
checkpoint would skip the claim which ended it.  So every owner looks before it saves
(`still_owner`) whether its predictions log holds anything but its own records, and a new owner
leaves its mark there before any record of the old one stops counting in any log.

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
from topics.messages import Block, Claim, Command, Example, Prediction, Quarantine
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
    "Lookout",
    "ReadLog",
    "Request",
    "Sent",
    "Settle",
    "StoreBehind",
    "Stored",
    "Takeover",
    "WriteClaim",
    "claimed_logs",
    "cut",
    "fits",
    "keeps",
    "log_positions",
    "still_owner",
    "takeover",
]

TRIES_MAX = 8
"""Each further try means that another owner claimed in between; after this many the takeover fails."""
_DELETED = "records were deleted before they were read: --accept-lost-records goes on without them"
_ANOTHER = (
    "the log was made anew, or this is another cluster: bring it back, or begin with its first records, with"
    " an empty store (another HEADRACE_STATE_DIR)"
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


class StoreBehind(NamedTuple):
    """A store that does not know of every claim in the logs: it went back, is empty, or is another one."""

    stored: int
    """The claim it handed out last; 0: none."""
    logged: int
    """The highest claim in the logs."""
    place: str
    """`Stored.place`."""


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
    value: Claim | Prediction | Example | Quarantine | Block | Command | RekeyingMessage


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


class Lookout:
    """The position up to which the owner's predictions log holds no newer claim."""

    def __init__(self, position: int) -> None:
        self.position = position
        self.others = position
        """Records in the log that are not the owner's."""


@dataclass(frozen=True)
class Takeover:
    """The result of a takeover, with which an owner starts."""

    claim: int
    nonce: str
    checkpoint: Any
    """The shell's answer to `LoadCheckpoint`."""
    writer: Writer
    suppression: Suppression
    logs: tuple[LogPosition, ...]
    """`CheckpointLogs.logs`, kept until the suppression is empty."""
    watch: Lookout
    lost: Mapping[Log, int]
    """Records that were deleted from the logs before they were read, where that was accepted."""
    behind: StoreBehind | None
    """Where the store was behind the logs, which were replayed from its checkpoint."""


def claimed_logs(source: int, examples: Iterable[int], rekey_partitions: int = 0) -> tuple[Log, ...]:
    """Return every log partition an owner of `source` writes to, in the order in which they are claimed.

    `examples` are the partitions of the examples log that it writes.

    What travels to other keys follows from the logs it is made from, so those come in any order.
    """
    messages = [(role, number) for role in ("rekey", "rekeyed") for number in range(rekey_partitions)]
    return (
        *messages,
        *(("examples", number) for number in examples),
        ("predictions", source),
    )


def takeover(
    source: int,
    nonce: str,
    *,
    examples: Iterable[int] = (0,),
    rekey_partitions: int = 0,
    inputs: Sequence[str] = (),
    accept_lost: bool = False,
    suppressed_max: int = SUPPRESSED_MAX,
) -> Generator[Request, Any, Takeover]:
    """Take over the source partition; return what to start with.

    `nonce` is a text that no other takeover has.  `examples`: the partitions of the examples log that it
    writes.  `rekey_partitions`: how many partitions
    each internal topic has, where events travel to other keys.  `inputs`: the topics that the state is made
    of.  Where the store has lost its checkpoint everything is replayed, so then no log may have lost its
    beginning.  `accept_lost` goes on without what was deleted.

    Raises ClaimError if rivals never rest or records that a lost checkpoint was made of are deleted;
    CheckpointError if the logs no longer, or not yet, hold the checkpoint's offsets.
    """
    predictions: Log = ("predictions", source)
    logs = claimed_logs(source, examples, rekey_partitions)
    behind: StoreBehind | None = None
    newest = 0
    for _ in range(TRIES_MAX):
        stored: Stored = yield Look()
        replay = _Replay(source, nonce, stored.logs, suppressed_max, {} if accept_lost else None)
        end = yield from replay.start(predictions)
        yield from replay.read(predictions, end)
        newest = max(newest, replay.newest)
        if newest > stored.claim:
            if (yield Look()).claim != stored.claim:
                continue
            behind = behind or StoreBehind(stored.claim, newest, stored.place)
            if not stored.logs and (
                lost := (yield from _deleted(source, inputs, logs, accepted=accept_lost))
            ):
                replay = _Replay(source, nonce, (), suppressed_max, lost)
                yield from replay.start(predictions)

        claim: int = yield Fence(newest)
        checkpoint: CheckpointLogs | None = yield LoadCheckpoint()
        saved = tuple(checkpoint.logs) if checkpoint is not None else ()
        if saved == tuple(stored.logs):
            yield WriteClaim(*predictions, Claim(source, -claim, nonce))
            claimed_at = yield from _claim(replay, claim, logs)
            if replay.newest < claim:
                writer = Writer(source, claim, claimed_at)
                watch = Lookout(writer.position(predictions))
                return Takeover(
                    claim,
                    nonce,
                    checkpoint,
                    writer,
                    replay.suppression,
                    saved,
                    watch,
                    replay.lost or {},
                    behind,
                )
        newest = max(newest, replay.newest, claim)
    raise ClaimError(
        f"source partition {source} was claimed by others {TRIES_MAX} times in between",
        hint="look for a second deployment of this pipeline against the same topics",
    )


def cut(owner: Takeover) -> Cut:
    """Return the progress of the owner; call it at the moment when its state is captured."""
    return Cut(owner.writer.numbered.copy(), owner.suppression.empty)


def still_owner(owner: Takeover, at: Cut) -> Generator[Request, Any, bool]:
    """Return whether no other owner has announced itself, with this number or a higher one.

    Ask before each checkpoint is saved.
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
        since = LogPosition(*log, watch.position, 0, GAP)
        look = _Replay(writer.source, owner.nonce, (since,), SUPPRESSED_MAX, writes_as=writer.claim)
        yield from look.read(log, end)
        if look.newest >= writer.claim:
            return False
        watch.others = end - sent.records
    watch.position = end
    if sent.records == at.numbered.get(log, 0):
        writer.skip(log, end)
    return True


def keeps(owner: Takeover, saved: Sequence[LogPosition]) -> Generator[Request, Any, bool]:
    """Return whether an owner that has been told to stop and to go on again may go on as it is.

    `saved` are the positions of the checkpoint that it has written last, in which all that it has done lies.
    The store must still be its own and hold that checkpoint, and the log show no other owner: then it is as
    if nobody had told it anything.  Nothing rests on this but work in vain, as the same is asked before every
    checkpoint; without it a group that moves would cost a claim and a restore each time.
    """
    stored: Stored = yield Look()
    if stored.claim != owner.claim or tuple(stored.logs) != tuple(saved):
        return False
    return (yield from still_owner(owner, cut(owner)))


def log_positions(owner: Takeover, at: Cut) -> tuple[LogPosition, ...]:
    """Return what the checkpoint of a cut must record of the logs; `writer` has its acknowledgements.

    While the replay still has something to leave out, the next owner must find the same again: the
    positions of the last checkpoint stay.  After that everything before the owner's own records is
    part of its state.
    """
    return owner.writer.positions(at.numbered) if at.replayed else owner.logs


def fits(
    source: int, *, inputs: Sequence[str] = (), accept_lost: bool = False
) -> Generator[Request, Any, None]:
    """Check that the predictions log fits the store and change nothing: for a worker that owns nothing yet.

    The end of the log is enough to see that there were owners: their records carry their claim.  Raises what
    `takeover` would raise at its first step.
    """
    log: Log = ("predictions", source)
    stored: Stored = yield Look()
    replay = _Replay(source, "", stored.logs, SUPPRESSED_MAX, {} if accept_lost else None)
    end = yield from replay.start(log)
    if stored.logs:
        return
    since = LogPosition(*log, max(replay.position(log), end - TAIL_OFFSETS_MAX), 0, GAP)
    look = _Replay(source, "", (since,), SUPPRESSED_MAX)
    yield from look.read(log, end)
    if look.newest > stored.claim and (yield Look()).claim == stored.claim:
        yield from _deleted(source, inputs, [log], accepted=accept_lost)


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
            f"the checkpoint of source partition {source} is lost, and so are records to replay: {counts}",
            hint="bring the checkpoint store back (HEADRACE_STATE_DIR, or a backup of it), or start with"
            " --accept-lost-records: then windows are incomplete, and labels of answers that were waiting are"
            " not learned",
        )
    return lost


def _claim(replay: _Replay, claim: int, logs: Sequence[Log]) -> Generator[Request, Any, dict[Log, int]]:
    """Claim each log in this order, then read each up to there; return where the claims lie."""
    for log in logs:
        yield from replay.start(log)
    claimed_at: dict[Log, int] = {}
    for log in logs:
        claimed_at[log] = yield WriteClaim(*log, Claim(replay.source, claim, replay.nonce))
    for log in logs:
        yield from replay.read(log, claimed_at[log])
    return claimed_at


class _Replay:
    """The records of one source that the logs hold after a checkpoint."""

    def __init__(
        self,
        source: int,
        nonce: str,
        saved: Sequence[LogPosition],
        suppressed_max: int,
        lost: dict[Log, int] | None = None,
        *,
        writes_as: int = 0,
    ) -> None:
        """`writes_as` is the claim of the owner's own records, where there are some already."""
        self.source = source
        self.nonce = nonce
        self.lost = lost
        """Records that were deleted before they were read; None: there may be none."""
        self.suppression = Suppression(suppressed_max)
        self.newest = max((position.claim for position in saved), default=0)
        """Highest claim of others so far: announced, made, or on a record whose claim is not kept."""
        self._writes_as = writes_as
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

    def position(self, log: Log) -> int:
        """Return up to where a log was read."""
        return self._positions[log]

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
        self, log: Log, value: Claim | Prediction | Example | Quarantine | Block | Command | RekeyingMessage
    ) -> None:
        if isinstance(value, Command):
            return
        source = log[1] if isinstance(value, Prediction) else value.source_partition
        if source != self.source:
            return
        own = value.nonce == self.nonce if isinstance(value, Claim) else value.claim == self._writes_as
        if not own:
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
