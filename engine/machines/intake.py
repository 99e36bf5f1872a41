"""One order for two topics: the events and labels of a partition as one sequence of runs.

Lives here: the two queues of records, decoded a run at a time, what is refused before it has a place in
the order, and the rule which head goes next.  Never here: what an event or a label does (`scorer.py`),
polling (`loop.py`).

The rule (as Kafka Streams chooses between partitions, KIP-695): the older head goes first,
labels on ties.  A queue with nothing buffered is waited for only while its topic has unread
records, so that catching up after an outage expires no prediction whose label lies unread.
Records that are no valid message have no time and go at once, in their place.

    events   10   20        30        |      runs:  [e10 e20] [l25] [e30] ...
    labels             25             |             a run ends where the other input goes on

    events   10   20                  |      runs:  [e10] [l15], then nothing: a label of 17 may be next
    labels      15   (unread: yes)    |             (unread: no)  ... [e20]

A time further than `max_ahead` beyond its record's arrival is the product of a wrong clock, and no valid
time: it would expire all state, and hold back its whole queue.  Arrival is the earlier of the record's
own timestamp and the shell's clock when it was offered; files have neither.

    arrived |------- max_ahead -------| accepted up to here; beyond, refused
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple, TypeVar

from msgspec import Struct

from operators.rules.apply import CheckedDecoder
from operators.stopwatch import Stopwatch
from topics.codec import Decoded, EventDecoder, LabelDecoder, Rejected
from topics.messages import Label, Record

__all__ = ["RUN_MAX", "EventRead", "EventRun", "Intake", "LabelRead", "LabelRun", "Run"]

RUN_MAX = 128
"""Records of one run: so many events, with all that is made of them, stay in a processor's cache (job J
in process takes about a tenth less than in runs of 1,000), and what a run itself costs is shared."""
_AT_ONCE = -1
_NEVER = 1 << 62


class EventRead(Struct, frozen=True, gc=False):
    """A record of the events topic and what decoding made of it."""

    record: Record
    decoded: Decoded | Rejected
    time: int
    late: bool = False
    """Its turn had passed where its windows are computed on other partitions."""


class LabelRead(Struct, frozen=True, gc=False):
    """A record of the labels topic and what decoding made of it."""

    record: Record
    decoded: Label | Rejected
    time: int


_Item = TypeVar("_Item")
_Read = TypeVar("_Read", EventRead, LabelRead)
EventRun = list[EventRead]
LabelRun = list[LabelRead]


class Run(NamedTuple):
    """Consecutive events or consecutive labels; exactly one of the two lists is not empty."""

    events: EventRun
    labels: LabelRun

    def event_ids(self) -> list[str]:
        """Return the ids of the events that the records are or tell of."""
        reads: Sequence[EventRead | LabelRead] = self.events or self.labels
        return [read.decoded.event_id for read in reads if not isinstance(read.decoded, Rejected)]


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
        self._max_ahead_ms = max_ahead_ms
        self._now_ms = _NEVER

    def __len__(self) -> int:
        return self.events_buffered + len(self._labels)

    @property
    def events_buffered(self) -> int:
        """Return how many event records wait."""
        return len(self._records) + len(self._events)

    @property
    def labels_buffered(self) -> int:
        """Return how many label records wait."""
        return len(self._labels)

    def offer_events(self, records: Iterable[Record], now_ms: int = _NEVER) -> None:
        """Queue records of the events topic, in offset order; `now_ms` is the shell's wall clock."""
        self._now_ms = now_ms
        self._records.extend(records)

    def offer_labels(self, records: Iterable[Record], now_ms: int = _NEVER) -> None:
        """Decode records of the labels topic, in offset order, and queue them."""
        if self._decode_label is None:
            raise TypeError("labels come inside the events of this pipeline")
        with self._stopwatch.step("decode"):
            for record in records:
                decoded = self._decode_label(record) if not self._skips(record) else _skipped(record)
                time = _AT_ONCE if isinstance(decoded, Rejected) else decoded.label_time
                if time - min(_stamp(record), now_ms) > self._max_ahead_ms:
                    decoded = self._far_ahead(record, time, now_ms)
                    time = _AT_ONCE
                self._labels.append(LabelRead(record, decoded, time))

    def next_run(self, *, events_unread: bool, labels_unread: bool) -> Run | None:
        """Take the next run, or None while an empty queue's topic has unread records (or both are empty)."""
        events, labels = self._events, self._labels
        if not events and self._records:
            with self._stopwatch.step("decode"):
                self._decode_run()
        if not labels:
            return Run(_take(events), []) if events and not labels_unread else None
        if not events:
            return Run([], _take(labels)) if not events_unread else None
        if labels[0].time <= events[0].time:
            return Run([], _take_before(labels, events[0].time + 1))
        return Run(_take_before(events, labels[0].time), [])

    def _decode_run(self) -> None:
        records, now_ms, max_ahead_ms = _take(self._records), self._now_ms, self._max_ahead_ms
        for record, decoded in zip(records, self._decoded(records), strict=True):
            time = _AT_ONCE if isinstance(decoded, Rejected) else decoded.event_time
            stamp = record.timestamp_ms
            if stamp is not None and time - min(stamp, now_ms) > max_ahead_ms:
                refused = self._far_ahead(record, time, now_ms)
                self._events.append(EventRead(record, refused._replace(hits=decoded.hits), _AT_ONCE))
            else:
                self._events.append(EventRead(record, decoded, time))

    def _decoded(self, records: list[Record]) -> list[Decoded | Rejected]:
        if not self.skip:
            return self._decode_events(records)
        decoded = iter(self._decode_events([record for record in records if not self._skips(record)]))
        return [_skipped(record) if self._skips(record) else next(decoded) for record in records]

    def _skips(self, record: Record) -> bool:
        return (record.topic, record.partition, record.offset) in self.skip

    def _far_ahead(self, record: Record, time: int, now_ms: int) -> Rejected:
        ahead_ms = time - min(_stamp(record), now_ms)
        reason = (
            f"its time {time} is {ahead_ms} ms ahead of its arrival (record timestamp {record.timestamp_ms}),"
            f" max_ahead is {self._max_ahead_ms} ms"
        )
        return Rejected(record, "time", "ValueError", reason)


def _skipped(record: Record) -> Rejected:
    return Rejected(record, "skip", "Skipped", "left out by --skip, undecoded")


def _stamp(record: Record) -> int:
    """Return a record's own timestamp; in files, which have none, a time that is ahead of nothing."""
    return _NEVER if record.timestamp_ms is None else record.timestamp_ms


def _take(queue: deque[_Item]) -> list[_Item]:
    """Take a run from the front."""
    take = queue.popleft
    return [take() for _ in range(min(len(queue), RUN_MAX))]


def _take_before(queue: deque[_Read], before: int) -> list[_Read]:
    """Take a run from the front while older than `before`."""
    taken: list[_Read] = []
    while queue and len(taken) < RUN_MAX and queue[0].time < before:
        taken.append(queue.popleft())
    return taken
