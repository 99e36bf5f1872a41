"""Who may write a log: claims, sequence numbers, and what stands there already.

Lives here: the reader's rule, the writer's numbers, and what a replay must not write again.  Never here: the
order of a takeover (`takeover.py`), what a replay of the internal topics can still make
(`engine/rekeying/router.py`, `engine/rekeying/enricher.py`), Kafka, the checkpoint store.

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

What counts and lies after the checkpoint of a new owner, its replay makes again, and must not write again.
An answer that is logged is used again, features and score.  A record of an internal topic need not be: it
follows from a log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from heapq import heappop, heappush

import msgspec
from msgspec import Struct

from operators.state import Changes, StateDelta, StateEntries
from topics.errors import ClaimError
from topics.messages import Block, Example, LabelValue, Prediction, Quarantine
from topics.rekeying import RekeyedLabel, RekeyingId, RekeyingMessage, message_id

__all__ = [
    "LABELLED",
    "SUPPRESSED_MAX",
    "Log",
    "LogPosition",
    "LoggedMessages",
    "Reader",
    "Suppression",
    "Writer",
    "part_of",
]

Log = tuple[str, int]
"""One partition of one log: its role (`predictions`, `examples`) and its number."""

SOURCES_MAX = 100_000
"""Source partitions one reader keeps apart: as many as a large Kafka cluster has, some 20 MB."""
SUPPRESSED_MAX = 2_000_000
"""Records a replay may have to leave out, about 1 KB each, or some 200 bytes on internal topics: some minutes
without a checkpoint."""
LABELLED = -1
"""The example of an event that holds its label, of all that there can be; the others are `_PARTS`, and
corrections, by the offset of their label."""
_PARTS = {"assumed": -2, "revised": -3}
_WAITING = (LABELLED, -3)
"""Those that a label may still make when all offsets are read."""
_ExampleId = tuple[int, int]
"""The offset of an event's record, and which of its examples."""
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
        """Return the log partition."""
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

    def __init__(self, *sources: tuple[int, int, int]) -> None:
        """Begin knowing `(source, claim, next sequence)` of each of `sources`."""
        self._sources = {source: (claim, sequence) for source, claim, sequence in sources}
        self._changes = Changes[int]()

    @property
    def sources(self) -> Collection[int]:
        """Return the source partitions that have claimed."""
        return self._sources.keys()

    def highest(self, source: int) -> int:
        """Return the highest claim of `source` so far; 0 for none."""
        return self._sources.get(source, _NONE)[0]

    def standing(self, source: int) -> tuple[int, int]:
        """Return the highest claim of `source` so far (0 for none), and its next sequence number or `GAP`."""
        return self._sources.get(source, _NONE)

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
        """Return whether a record counts; if it does, the next sequence number is expected."""
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
        """Return whether `count` records numbered from `sequence` all count; if not, nothing changes."""
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
        """Return the entries of the sources that changed since the last call."""
        return self._changes.delta(self._sources, str, _encode)

    def restore(self, entries: StateEntries) -> None:
        """Replace the state."""
        self._sources = {int(name): _decode(data) for name, data in entries.items()}
        self._changes.clear()


class Writer:
    """The sequence numbers of one owner's records, per log partition, and how far they are acknowledged.

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
        """Set that nothing before `position` is left to read in `log`."""
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


class LoggedMessages:
    """Records logged after the checkpoint; each is passed over once.

    >>> from topics.rekeying import RekeyedValues
    >>> logged = LoggedMessages()
    >>> logged.add(RekeyedValues(1, 0, 2, 40, False, {"0": 3}))
    >>> logged.once(("values", 1, 2, 40)), logged.once(("values", 1, 2, 40))
    (True, False)
    """

    def __init__(self, logged_max: int = SUPPRESSED_MAX) -> None:
        self._logged_max = logged_max
        self.ids: dict[RekeyingId, str] = {}
        """Each with the event id of a label; asked at every event whether there are any."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def empty(self) -> bool:
        """Return whether the replay has caught up with the log."""
        return not self.ids

    def add(self, message: RekeyingMessage) -> None:
        """Take a record that counts.  Raises ClaimError beyond the limit."""
        identity = message_id(message)
        if identity is None:
            return
        if len(self.ids) >= self._logged_max:
            raise ClaimError(
                f"more than {self._logged_max} records were re-keyed since the checkpoint",
                hint="restore a newer checkpoint, or raise HEADRACE_REPLAY_MAX (200 bytes of memory each)",
            )
        self.ids[identity] = message.event_id if isinstance(message, RekeyedLabel) else ""

    def once(self, identity: RekeyingId) -> bool:
        """Return, once, whether this record is logged."""
        return self.ids.pop(identity, None) is not None

    def forget(self, possible: Callable[[RekeyingId, str], bool]) -> None:
        """Forget records that a replay cannot make again; `possible` gets a record and a label's event id."""
        self.ids = {
            identity: event_id for identity, event_id in self.ids.items() if possible(identity, event_id)
        }


class Suppression:
    """What earlier owners logged after the checkpoint: a replay must not write it again.

    An entry belongs to one event record, by its offset; the id must be the same too.  It is forgotten
    when the replay makes it again, or can make it no more (`passed`).  Of one event there can be several
    examples, each once: what was assumed of it, what it was revised to, its label, and each correction of
    that by the offset of the label that made it (`part_of`).

    >>> from topics.messages import Prediction
    >>> suppression = Suppression()
    >>> answer = Prediction("p:e1", "e1", 5, 6, "m", 1, 0, "champion", 0.7, True, "champion", {}, 40, 2, 0)
    >>> suppression.add(answer)
    >>> suppression.answered("e1", 40).prediction_score
    0.7
    >>> suppression.answered("e1", 40) is None, suppression.empty
    (True, True)
    """

    def __init__(self, suppressed_max: int = SUPPRESSED_MAX) -> None:
        self.suppressed_max = suppressed_max
        self.replaying = False
        """Whether answers, examples, quarantines or blocks are left that a replay would make again."""
        self._answers: dict[int, Prediction] = {}
        self._examples: dict[_ExampleId, Example] = {}
        self._corrected: dict[int, Example] = {}
        """By event offset, the last correction of an example that is in there too."""
        self._quarantines: set[tuple[int, str]] = set()
        self._blocks: set[tuple[int, int]] = set()
        """Start and end of each."""
        self._answers_due: list[int] = []
        self._quarantines_due: list[tuple[int, str]] = []
        self._blocks_due: list[tuple[int, tuple[int, int]]] = []
        """Heap, by the offset of the event that closed it."""
        self._examples_due: list[tuple[int, int, _ExampleId]] = []
        """Heap of (event offset, label offset, key): when the example's last event was read."""
        self._labels_due: list[tuple[int, _ExampleId]] = []
        """Heap of (label offset, key): examples whose events were read, but not their label."""
        self._still_open: list[_ExampleId] = []
        """Examples whose offsets were read, but whose event still waits for a label."""
        self.rekeyed = LoggedMessages(suppressed_max)
        """Records of the internal topics, where events travel to other keys."""

    def __len__(self) -> int:
        scorers = len(self._answers) + len(self._examples) + len(self._quarantines) + len(self._blocks)
        return scorers + len(self.rekeyed)

    @property
    def empty(self) -> bool:
        """Return whether the replay has caught up with the log."""
        return not (self.replaying or self.rekeyed.ids)

    def add(self, logged: Prediction | Example | Quarantine | Block | RekeyingMessage) -> None:
        """Take a record that counts.  Raises ClaimError beyond `suppressed_max` records."""
        if not isinstance(logged, Prediction | Example | Quarantine | Block):
            self.rekeyed.add(logged)
            return
        if len(self) >= self.suppressed_max:
            raise ClaimError(
                f"more than {self.suppressed_max} records were logged since the checkpoint",
                hint="restore a newer checkpoint, or raise HEADRACE_REPLAY_MAX (about 1 KB of memory each)",
            )
        self.replaying = True
        if isinstance(logged, Block):
            span = (logged.start_ms, logged.end_ms)
            self._blocks.add(span)
            heappush(self._blocks_due, (logged.closed_at_offset, span))
            return
        offset = logged.event_offset
        if isinstance(logged, Prediction):
            self._answers[offset] = logged
            heappush(self._answers_due, offset)
        elif isinstance(logged, Example):
            key = offset, part_of(logged.origin, logged.before, logged.label_offset)
            self._examples[key] = logged
            if logged.before is not None and (offset, LABELLED) in self._examples:
                self._corrected[offset] = logged
            heappush(self._examples_due, (max(offset, logged.expired_at_offset), logged.label_offset, key))
        else:
            self._quarantines.add((offset, logged.model_name))
            heappush(self._quarantines_due, (offset, logged.model_name))

    def answered(self, event_id: str, event_offset: int) -> Prediction | None:
        """Return the logged answer to the event record at `event_offset`, once: use it, do not send it."""
        answer = self._answers.get(event_offset)
        if answer is None or answer.event_id != event_id:
            return None
        del self._answers[event_offset]
        self._tidy()
        return answer

    def exampled(self, event_id: str, event_offset: int, part: int = LABELLED) -> Example | None:
        """Return, once, the logged example of the event record at `event_offset`: `part` says which of them.

        What the log says holds, whatever label a replay in another order has met: of an example that was
        corrected, its last correction is returned.
        """
        logged = self._examples.get((event_offset, part))
        if logged is None or logged.event_id != event_id:
            return None
        del self._examples[event_offset, part]
        if part == LABELLED:
            logged = self._corrected.pop(event_offset, logged)
        self._tidy()
        return logged

    def quarantined(self, model_name: str, event_offset: int) -> bool:
        """Return, once, whether the failure of this model on the event at `event_offset` is logged."""
        if (event_offset, model_name) not in self._quarantines:
            return False
        self._quarantines.remove((event_offset, model_name))
        self._tidy()
        return True

    def closed(self, start_ms: int, end_ms: int) -> bool:
        """Return, once, whether the block of this span is logged."""
        if (start_ms, end_ms) not in self._blocks:
            return False
        self._blocks.remove((start_ms, end_ms))
        self._tidy()
        return True

    def passed(self, events_position: int, labels_position: int, waits: Callable[[str], bool]) -> None:
        """Forget the entries that a replay which has read up to these positions cannot make again.

        An answer, a quarantine and a block: their event was read.  An example: its event, its label and the
        event that ended its wait were read, and `waits(event_id)` says that the join does not wait for
        a label of it.  (Offsets alone are not enough: in another order of the two topics a label can
        come and go before its event, which then is open for an implicit or a second label.  A correction is
        made by the one label at its offset, and what is assumed by the event, so for them they are enough.)
        """
        while self._answers_due and self._answers_due[0] < events_position:
            self._answers.pop(heappop(self._answers_due), None)
        while self._quarantines_due and self._quarantines_due[0][0] < events_position:
            self._quarantines.discard(heappop(self._quarantines_due))
        while self._blocks_due and self._blocks_due[0][0] < events_position:
            self._blocks.discard(heappop(self._blocks_due)[1])
        while self._examples_due and self._examples_due[0][0] < events_position:
            _, label_offset, key = heappop(self._examples_due)
            heappush(self._labels_due, (label_offset, key))
        while self._labels_due and self._labels_due[0][0] < labels_position:
            self._still_open.append(heappop(self._labels_due)[1])
        held = [key for key in self._still_open if key in self._examples]
        self._still_open = [key for key in held if key[1] in _WAITING and waits(self._examples[key].event_id)]
        for key in set(held).difference(self._still_open):
            del self._examples[key]
            if key[1] == LABELLED:
                self._corrected.pop(key[0], None)
        self._tidy()

    def _tidy(self) -> None:
        """Free the order of entries once none is left: it can be large, and is not needed again."""
        self.replaying = bool(self._answers or self._examples or self._quarantines or self._blocks)
        if not self.replaying:
            for order in (self._answers_due, self._quarantines_due, self._examples_due, self._labels_due):
                order.clear()
            self._blocks_due.clear()
            self._still_open.clear()


def part_of(origin: str, before: LabelValue | None, label_offset: int) -> int:
    """Return which of the examples of one event an example is.

    >>> part_of("", None, 7), part_of("implicit", None, -1), part_of("", True, 8)
    (-1, -1, 8)
    """
    if before is not None:
        return label_offset
    return _PARTS.get(origin, LABELLED)


_NONE = (0, 0)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[int, int]).decode
