"""Who may write a log: claims and sequence numbers.

Lives here: the reader's rule and the writer's numbers.  Never here: what a replay must not write again
(`suppression.py`), the order of a takeover (`takeover.py`), Kafka, the checkpoint store.

Strategy: no transaction, the log itself says who may write.  Each owner of a source
partition has a claim number, higher than all before, and writes it into every log partition
before anything else.  Its records carry claim and sequence number, and every reader folds a
log partition by one rule:

    claim 1   1:0   1:1   claim 2   1:2   2:0   2:0   2:1   2:3   2:4
              yes   yes             no    yes   no    yes   no    no
                              superseded       repeat       gap, and what follows it

So what an owner wrote before the claim of the next one counts and is found by it; what it
writes after that, not knowing better, does not.  Sequence numbers run per source and log
partition, from 0 at each claim.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec
from msgspec import Struct

from operators.state import Changes, StateDelta, StateEntries
from topics.errors import ClaimError

__all__ = ["Log", "LogPosition", "Reader", "Writer"]

Log = tuple[str, int]
"""One partition of one log: its role (`predictions`, `examples`) and its number."""

SOURCES_MAX = 100_000
"""Source partitions one reader keeps apart: as many as a large Kafka cluster has, some 20 MB."""
GAP = -1
"""In place of the next sequence number: a record is missing, so the rest of the claim does not count."""


class LogPosition(Struct, frozen=True):
    """One log partition in a checkpoint: where to read on, and what a reader knows of the source there."""

    target: str
    partition: int
    position: int
    """Next offset to read."""
    claim: int = 0
    """Highest claim of the source before `position`; 0 for none."""
    sequence: int = 0
    """Next sequence number of that claim, or `GAP`."""

    @property
    def log(self) -> Log:
        """Return which log partition it is."""
        return self.target, self.partition


class Reader:
    """The reader's rule for one log partition with any number of sources.

    It must begin where the log begins, or where it was restored.

    >>> reader = Reader()
    >>> reader.claim(0, 7)
    >>> [reader.counts(0, 7, sequence) for sequence in (0, 0, 1)]
    [True, False, True]
    >>> reader.claim(0, 8)
    >>> reader.counts(0, 7, 2), reader.counts(0, 8, 0)
    (False, True)
    >>> [reader.counts(0, 8, sequence) for sequence in (2, 1, 3)]
    [False, False, False]
    """

    def __init__(self, *known: tuple[int, int, int]) -> None:
        """Begin knowing `(source, claim, next sequence)` of each source in `known`."""
        self._sources = {source: (claim, sequence) for source, claim, sequence in known}
        self._changes = Changes[int]()

    def highest(self, source: int) -> int:
        """Return the highest claim of `source` so far; 0 for none."""
        return self._sources.get(source, _NONE)[0]

    def claim(self, source: int, number: int) -> None:
        """Take a claim record.  Only a higher number than all before changes anything.

        Raises ClaimError beyond `SOURCES_MAX` sources.
        """
        if number <= self.highest(source):
            return
        if source not in self._sources and len(self._sources) >= SOURCES_MAX:
            raise ClaimError(
                f"more than {SOURCES_MAX} source partitions claim one log partition",
                hint="look for a foreign writer on this topic",
            )
        self._sources[source] = (number, 0)
        self._changes.change(source)

    def counts(self, source: int, claim: int, sequence: int) -> bool:
        """Return whether a record counts, and move on if it does."""
        held, following = self._sources.get(source, _NONE)
        if claim != held or sequence < following or following == GAP or held == 0:
            return False
        self._changes.change(source)
        if sequence > following:
            self._sources[source] = (held, GAP)
            return False
        self._sources[source] = (held, following + 1)
        return True

    def count_all(self, source: int, claim: int, sequence: int, count: int) -> bool:
        """Move on by `count` records numbered from `sequence`; False, and no move, if one does not count."""
        held, following = self._sources.get(source, _NONE)
        if held == 0 or (claim, sequence) != (held, following):
            return False
        self._changes.change(source)
        self._sources[source] = (held, following + count)
        return True

    def snapshot(self) -> dict[str, bytes]:
        """Return one entry per source."""
        return {str(source): _encode(state) for source, state in self._sources.items()}

    def delta(self) -> StateDelta:
        """Return the sources that moved since the last call."""
        return self._changes.delta(self._sources, str, _encode)

    def restore(self, entries: StateEntries) -> None:
        """Replace the state."""
        self._sources = {int(name): _decode(data) for name, data in entries.items()}
        self._changes.clear()


class Writer:
    """Numbers what one owner writes, per log partition, and knows how far the log has taken it.

    >>> writer = Writer(source=3, claim=7)
    >>> writer.next(("examples", 0)), writer.next(("examples", 0)), writer.next(("predictions", 3))
    (0, 1, 0)
    >>> writer.acknowledged(("examples", 0), 41)
    >>> writer.positions()[0]
    LogPosition(target='examples', partition=0, position=42, claim=7, sequence=2)
    """

    def __init__(self, source: int, claim: int, claimed_at: Mapping[Log, int] | None = None) -> None:
        """Begin after the owner's claim records, which lie at the offsets `claimed_at`."""
        self.source = source
        self.claim = claim
        self.numbered: Counter[Log] = Counter()
        """How many records of each log have been numbered: the next one's number."""
        self._acknowledged = dict(claimed_at or {})
        self._positions = {log: offset + 1 for log, offset in self._acknowledged.items()}

    def next(self, log: Log) -> int:
        """Return the sequence number of the next record for `log`, from 0."""
        sequence = self.numbered[log]
        self.numbered[log] += 1
        return sequence

    def acknowledged(self, log: Log, offset: int) -> None:
        """Take the offset of the newest acknowledged record in `log`.

        Raises ClaimError if it lies before an older one: then records changed places on their way and
        do not count, so the owner must end.
        """
        newest = self._acknowledged.get(log, -1)
        if offset < newest:
            raise ClaimError(
                f"a later record was written before offset {newest}",
                hint="let the producer keep order: idempotence, or one request at a time",
                topic=log[0],
                partition=log[1],
                offset=offset,
            )
        self._acknowledged[log] = offset
        self.skip(log, offset + 1)

    def skip(self, log: Log, position: int) -> None:
        """Take that nothing before `position` is left to read in `log`."""
        self._positions[log] = max(position, self.position(log))

    def position(self, log: Log) -> int:
        """Return where a reader that knows all of this owner's records may go on in `log`."""
        return self._positions.get(log, 0)

    def positions(self, numbered: Mapping[Log, int] | None = None) -> tuple[LogPosition, ...]:
        """Return where a reader may go on in each log, by what `acknowledged` was told.

        True only where the first `numbered` records (None: all so far) are acknowledged and
        `acknowledged` was told of the last of them, and of none after it.
        """
        sequences = self.numbered if numbered is None else numbered
        return tuple(
            LogPosition(log[0], log[1], position, self.claim, sequences.get(log, 0))
            for log, position in sorted(self._positions.items())
        )


_NONE = (0, 0)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[int, int]).decode
