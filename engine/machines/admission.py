"""Admission: from the records of a partition to events that have their place in its order.

Lives here: the two queues of records, decoded a run at a time, what is refused before it has a place, which
head goes next; the watermark, whether an event is late, or waits for a label, and whether its record lies
under its key.  Never here: bytes (`topics/codec.py`), polling (`engine/worker/loop.py`), what is
done about any of it (`scorer.py`, `engine/rekeying/router.py`).

1. One order for two topics (as Kafka Streams chooses between partitions, KIP-695): the older head goes first,
labels on ties.  A queue with nothing buffered is waited for only while its topic has unread records, so that
catching up after an outage expires no prediction whose label lies unread.  Records that are no valid message
have no time and go at once, in their place.

    events   10   20        30        |      runs:  [e10 e20] [l25] [e30] ...
    labels             25             |             a run ends where the other input goes on

    events   10   20                  |      runs:  [e10] [l15], then nothing: a label of 17 may be next
    labels      15   (unread: yes)    |             (unread: no)  ... [e20]

2. A time further than `max_ahead` beyond its record's arrival is the product of a wrong clock, and no valid
time: it would expire all state, and hold back its whole queue.  Arrival is the earlier of the record's
own timestamp and the shell's clock when it was offered; files have neither.

    arrived |------- max_ahead -------| accepted up to here; beyond, refused

3. Events of one partition in log order, `grace` 20, `wait` 60:

    time          10    50    40    20    10    15
    watermark     --    30    30    30    30    30      largest time so far minus grace
    admitted      yes   yes   yes   late  seen  late    (the same id at 10: known until the watermark has
                                                        passed its time plus `wait`)

The scorer and the router of one partition take the same records, and so admit the same events.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar
from zlib import crc32

from msgspec import Struct

from engine.definition.pipeline import Pipeline
from engine.definition.weak import voters_of
from operators.join.join import Join, LabelOutcomes
from operators.join.pending import Open, WaitingAnswer
from operators.join.weak import WeakLabels
from operators.rules.apply import CheckedDecoder
from operators.state import StoredEntries
from operators.stopwatch import Stopwatch
from topics.codec import Decoded, EventDecoder, LabelDecoder, Rejected
from topics.messages import Event, Label, Record
from topics.watermarks import Move, move_in, move_of

__all__ = [
    "RUN_MAX",
    "Admission",
    "EventRead",
    "EventRun",
    "Intake",
    "LabelRead",
    "LabelRun",
    "Position",
    "Run",
    "new_join",
    "voting_join",
]

RUN_MAX = 128
"""Records of one run: so many events, with all that is made of them, stay in a processor's cache (job J
in process takes about a tenth less than in runs of 1,000), and what a run itself costs is shared."""
_AT_ONCE = -1
_NEVER = 1 << 62


class EventRead(Struct, frozen=True, gc=False):
    """A record of the events topic and what decoding made of it."""

    record: Record
    decoded: Decoded | Rejected | Move
    time: int
    late: bool = False
    """Whether it came too late for the windows that are computed on other partitions."""


class LabelRead(Struct, frozen=True, gc=False):
    """A record of the labels topic and what decoding made of it."""

    record: Record
    decoded: Label | Rejected
    time: int


_Read = TypeVar("_Read", EventRead, LabelRead)
EventRun = list[EventRead]
LabelRun = list[LabelRead]


class Run(NamedTuple):
    """Consecutive events or consecutive labels; exactly one of the two lists is not empty."""

    events: EventRun
    labels: LabelRun

    def event_ids(self) -> list[str]:
        """Return the event ids of the records, events or labels."""
        reads: Sequence[EventRead | LabelRead] = self.events or self.labels
        return [read.decoded.event_id for read in reads if isinstance(read.decoded, Decoded | Label)]


# -- the order of two topics -----------------------------------------------------------------------------


class Intake:
    """The two queues of one partition."""

    def __init__(
        self,
        events: EventDecoder | CheckedDecoder,
        labels: LabelDecoder | None,
        *,
        max_ahead_ms: int = _NEVER,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        self._stopwatch = stopwatch or Stopwatch()
        self._decode_events = events.decode_all
        self._decode_label = labels.decode if labels is not None else None
        self._records: deque[Record] = deque()
        """Event records after those in `_events`: decoded a run at a time, while the processor's cache
        still has them when they are answered."""
        self._events: deque[EventRead] = deque()
        self._labels: deque[LabelRead] = deque()
        self.skip: Collection[tuple[str, int, int]] = ()
        """Topic, partition and offset of records that are refused undecoded, as a person wants it."""
        self.command_keys: Mapping[str, bytes] = {}
        """By whose signatures a record may move the watermark; empty: nobody signs."""
        self._max_ahead_ms = max_ahead_ms
        self._now_ms = _NEVER

    def __len__(self) -> int:
        return len(self._records) + len(self._events) + len(self._labels)

    @property
    def events_buffered(self) -> int:
        """Return how many event records wait."""
        return len(self._records) + len(self._events)

    @property
    def labels_buffered(self) -> int:
        """Return how many label records wait."""
        return len(self._labels)

    def clear(self) -> None:
        """Drop what waits: it is read again."""
        self._records.clear()
        self._events.clear()
        self._labels.clear()

    def offer_events(self, records: Iterable[Record], now_ms: int = _NEVER) -> None:
        """Queue records of the events topic, in offset order; `now_ms` is the shell's wall clock."""
        self._now_ms = now_ms
        self._records.extend(records)

    def offer_labels(self, records: Iterable[Record], now_ms: int = _NEVER) -> None:
        """Decode records of the labels topic, in offset order, and queue them."""
        if self._decode_label is None:
            raise TypeError("labels come inside the events of this pipeline")
        started = self._stopwatch.clock()
        for record in records:
            decoded = _skipped(record) if self.skip and self._skips(record) else self._decode_label(record)
            time = _AT_ONCE if isinstance(decoded, Rejected) else decoded.label_time
            if time - _arrival(record, now_ms) > self._max_ahead_ms:
                decoded, time = self._far_ahead(record, time, now_ms), _AT_ONCE
            self._labels.append(LabelRead(record, decoded, time))
        self._stopwatch.steps["decode"] += self._stopwatch.clock() - started

    def next_run(self, *, events_unread: bool, labels_unread: bool) -> Run | None:
        """Take the next run, or None while an empty queue's topic has unread records (or both are empty)."""
        events, labels = self._events, self._labels
        if not events and self._records:
            self._decode_run()
        if not labels:
            if not events or labels_unread:
                return None
            run = Run(list(events), [])  # no more than were decoded together
            events.clear()
            return run
        if not events:
            return Run([], _take_before(labels, _NEVER)) if not events_unread else None
        if labels[0].time <= events[0].time:
            return Run([], _take_before(labels, events[0].time + 1))
        return Run(_take_before(events, labels[0].time), [])

    def _decode_run(self) -> None:
        started = self._stopwatch.clock()
        now_ms, max_ahead_ms, take = self._now_ms, self._max_ahead_ms, self._records.popleft
        records = [take() for _ in range(min(len(self._records), RUN_MAX))]
        decoded_records = self._decode_others(records) if self.skip else self._decode_events(records)
        for record, found in zip(records, decoded_records, strict=True):
            decoded = found if isinstance(found, Decoded) else self._no_event(found)
            time = _AT_ONCE if isinstance(decoded, Rejected) else decoded.event_time
            stamp = record.timestamp_ms
            if stamp is not None and time - min(now_ms, stamp) > max_ahead_ms:
                decoded, time = self._far_ahead(record, time, now_ms)._replace(hits=decoded.hits), _AT_ONCE
            self._events.append(EventRead(record, decoded, time))
        self._stopwatch.steps["decode"] += self._stopwatch.clock() - started

    def _no_event(self, rejected: Rejected) -> Rejected | Move:
        """Return what a record is that is no event: it may move the watermark."""
        record = rejected.record
        if rejected.stage != "decode" or not move_in(record):
            return rejected
        try:
            return move_of(record, self.command_keys)
        except ValueError as error:  # msgspec's errors are ValueErrors
            return Rejected(record, "watermark", type(error).__name__, str(error))

    def _decode_others(self, records: list[Record]) -> list[Decoded | Rejected]:
        """Decode a run, but for the records that are to be skipped."""
        decoded = iter(self._decode_events([record for record in records if not self._skips(record)]))
        return [_skipped(record) if self._skips(record) else next(decoded) for record in records]

    def _skips(self, record: Record) -> bool:
        return (record.topic, record.partition, record.offset) in self.skip

    def _far_ahead(self, record: Record, time: int, now_ms: int) -> Rejected:
        reason = (
            f"its time {time} is {time - _arrival(record, now_ms)} ms ahead of its arrival "
            f"(record timestamp {record.timestamp_ms}), max_ahead is {self._max_ahead_ms} ms"
        )
        return Rejected(record, "time", "ValueError", reason)


def _arrival(record: Record, now_ms: int) -> int:
    """Return when a record arrived; in files, where there is no clock either, a time nothing is ahead of."""
    stamp = record.timestamp_ms
    return now_ms if stamp is None or now_ms < stamp else stamp


def _skipped(record: Record) -> Rejected:
    return Rejected(record, "skip", "Skipped", "left out by --skip, undecoded")


def _take_before(queue: deque[_Read], before: int) -> list[_Read]:
    """Take a run from the front while older than `before`."""
    taken: list[_Read] = []
    while queue and len(taken) < RUN_MAX and queue[0].time < before:
        taken.append(queue.popleft())
    return taken


# -- the place of an event -------------------------------------------------------------------------------


class Position(Struct):
    """How far a partition has been read: part of a checkpoint."""

    events: int = 0
    """Next offset of the events partition."""
    labels: int = 0
    """Next offset of the labels partition."""
    time_max: int = -1
    """Largest event time seen, ms; -1 before the first event."""


def new_join(
    pipeline: Pipeline,
    counts: Counter[tuple[str, str]] | None = None,
    *,
    stored: StoredEntries | None = None,
    outcomes: LabelOutcomes | None = None,
) -> Join[Open]:
    """Return the empty join of a definition: its wait, its implicit label, its bounds.

    `stored` reads the entries as of the last checkpoint; without it all are in memory.
    """
    labels = pipeline.labels
    return Join(
        counts,
        wait_ms=labels.wait_ms,
        implicit=pipeline.implicit_label,
        pending_max=labels.pending_max,
        early_max=labels.early_max,
        stored=stored,
        policy=labels.policy,
        outcomes=outcomes,
    )


def voting_join(
    pipeline: Pipeline,
    counts: Counter[tuple[str, str]],
    outcomes: LabelOutcomes,
    stored: StoredEntries | None,
) -> tuple[Join[WaitingAnswer], WeakLabels | None]:
    """Return the empty join of answers, and the labelling functions that it asks, where there are any."""
    join: Join[WaitingAnswer] = new_join(pipeline, counts, stored=stored, outcomes=outcomes)
    if not pipeline.labels.weak:
        return join, None
    weak = WeakLabels(voters_of(pipeline.labels.weak, pipeline.task, pipeline.label_classes), counts)
    join.vote_with(lambda waiting: weak.label(waiting.prediction.features))
    return join, weak


class Admission(Generic[Open]):
    """Admits the events of one partition; `position` is that of the state machine, advanced here."""

    def __init__(
        self,
        pipeline: Pipeline,
        position: Position,
        join: Join[Open],
        counts: Counter[tuple[str, str]] | None = None,
    ) -> None:
        """`counts` gets the events whose records lie under another key than theirs; None: nobody asks."""
        self._counts = counts
        self._position = position
        self._join = join
        self._grace_ms = pipeline.grace_ms
        self._keyless = pipeline.events.partitions > 1
        """Records without a key lie anywhere: on one partition only is that the right one."""

    @property
    def watermark(self) -> int:
        """Return the watermark: largest event time seen minus grace, ms."""
        return self._position.time_max - self._grace_ms

    def move(self, move: Move) -> None:
        """Move the watermark to where an event of this time would; it never goes back."""
        self._position.time_max = max(self._position.time_max, move.event_time)

    def admit(self, read: EventRead, decoded: Decoded) -> Event:
        """Return the event of a record whose id is new; its time advances the watermark."""
        record, position, event_time, key = read.record, self._position, decoded.event_time, decoded.key
        if event_time > position.time_max:  # noqa: PLR1730  a call takes three times as long
            position.time_max = event_time
        watermark = position.time_max - self._grace_ms
        if self._counts is not None and self.is_misplaced(record.key, key):
            self._counts["key_mismatches", "event"] += 1
        return Event(
            decoded.event_id,
            event_time,
            key,
            decoded.value,
            record.offset,
            watermark,
            read.late or event_time < watermark,
            record.headers,
            record.key,
            decoded.label,
            crc32(record.value or b""),
        )

    def waits(self, event: Event) -> bool:
        """Return whether the event may meet a label: its horizon has not passed."""
        return event.event_time + self._join.wait_ms >= event.watermark

    def is_misplaced(self, record_key: bytes | None, key: str) -> bool:
        """Return whether a record with `record_key` lies under another key than its event's."""
        return self._keyless if record_key is None else record_key != key.encode()
