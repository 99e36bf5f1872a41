"""What a worker reads: which records go to which part of which owner, and what is held back.

Lives here: the topics that are assigned together, where each is read on, the full queue that holds
its topic back, the run that can be answered next.  Never here: polling (`source.py`), the order of a
turn (`loop.py`), what records mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog

from engine.definition.pipeline import Pipeline
from engine.kafka.client import Partition
from engine.kafka.source import Source
from engine.machines.intake import Run
from engine.worker.partition import Owned
from engine.worker.skips import Place
from topics.errors import BrokerError
from topics.messages import Outgoing, Record

__all__ = ["Inputs", "together"]

BUFFERED_MAX = 10_000
"""Decoded records of one topic and partition held back while the other queue is waited for."""
CATCHING_UP_MS = 10_000
"""Events this old are a replay or a backlog, where time runs so fast that the tenth of a second until a fetch
tells of new labels can be days.  Younger ones are not delayed by asking."""

log = structlog.get_logger("headrace")

Values = Sequence[Mapping[str, object]]


class Inputs:
    """The topics of one pipeline as its owners read them."""

    def __init__(
        self, pipeline: Pipeline, *, idle_after_ms: int, skip: frozenset[Place] = frozenset()
    ) -> None:
        catalog = pipeline.catalog
        self._events = catalog["events"]
        self._labels = pipeline.labels.topic
        self._rekey = catalog["rekey"] if pipeline.stages is not None else None
        self._rekeyed = catalog["rekeyed"] if pipeline.stages is not None else None
        self._idle_after_ms = idle_after_ms
        self._skip = skip
        topics = (self._events, self._labels, self._rekey, self._rekeyed)
        self.topics = [topic for topic in topics if topic is not None]

    def numbers(self, assigned: frozenset[Partition]) -> list[int]:
        """Return which partitions are assigned: of every topic the same.

        Raises BrokerError if topics were not assigned together.
        """
        numbers = sorted(number for topic, number in assigned if topic == self._events)
        for other in self.topics:
            if numbers != sorted(number for topic, number in assigned if topic == other):
                raise BrokerError(
                    f"{self._events} and {other} were not assigned together",
                    hint="give both topics the same number of partitions",
                )
        return numbers

    def positions(self, owned: Mapping[int, Owned]) -> dict[Partition, int | None]:
        """Return where each topic is read on; None: from its earliest record."""
        positions: dict[Partition, int | None] = {}
        for number, one in owned.items():
            for topic, position in self.reached(one).items():
                positions[topic, number] = position if one.restored else None
        return positions

    def reached(self, owned: Owned) -> dict[str, int]:
        """Return the next offset of each topic that an owner has not taken."""
        position = owned.scorer.position
        reached = {self._events: position.events}
        if self._labels is not None:
            reached[self._labels] = position.labels
        if owned.rekeying is not None and self._rekey is not None and self._rekeyed is not None:
            reached[self._rekey] = owned.rekeying.enricher.position.hops
            reached[self._rekeyed] = owned.rekeying.position.values
        return reached

    async def look_ahead(
        self, batches: Mapping[Partition, list[Record]], source: Source, now_ms: int
    ) -> None:
        """Learn where labels end before old events go ahead of them: whatever was written first is seen."""
        if self._labels is None:
            return
        for (topic, number), records in batches.items():
            stamp_ms = records[0].timestamp_ms
            if topic == self._events and stamp_ms is not None and now_ms - stamp_ms > CATCHING_UP_MS:
                await source.look_beside((topic, number), (self._labels, number))

    def offer(self, owned: Owned, topic: str, records: list[Record], now_ms: int) -> None:
        """Hand what was polled at `now_ms` to the part of an owner that takes it."""
        if self._skip:
            self._leave_out(owned, records)
        if topic == self._events:
            owned.intake.offer_events(records, now_ms)
        elif topic == self._labels:
            owned.intake.offer_labels(records, now_ms)
        elif owned.rekeying is not None and topic == self._rekey:
            owned.rekeying.offer_hops(records)
        elif owned.rekeying is not None:
            owned.rekeying.offer_values(records)

    def _leave_out(self, owned: Owned, records: list[Record]) -> None:
        """Let an owner refuse the records that are to be skipped, and say so."""
        owned.intake.skip = self._skip
        for record in records:
            if (record.topic, record.partition, record.offset) in self._skip:
                log.warning(
                    "record skipped: it is a dead letter of stage skip",
                    topic=record.topic,
                    partition=record.partition,
                    offset=record.offset,
                )

    def hold(self, number: int, owned: Owned, source: Source) -> None:
        """Hold a topic back while its queue is full, and let go of it when it is not."""
        intake, held = owned.intake, owned.held
        buffered = {self._events: intake.events_buffered}
        if self._labels is not None:
            buffered[self._labels] = intake.labels_buffered
        for topic, count in buffered.items():
            partition = (topic, number)
            if count > BUFFERED_MAX and partition not in held:
                source.pause([partition])
                held.add(partition)
            elif count <= BUFFERED_MAX and partition in held:
                source.resume([partition])
                held.discard(partition)

    def route(self, number: int, owned: Owned, source: Source, now_ms: int) -> list[Outgoing]:
        """Send events to the owners of their other keys; return what leaves."""
        if owned.rekeying is None:
            return []
        events_unread, labels_unread = self._unread(number, source)
        return owned.rekeying.turn(
            now_ms,
            events_unread=events_unread,
            labels_unread=labels_unread,
            idle_after_ms=self._idle_after_ms,
        )

    def next_run(self, number: int, owned: Owned, source: Source) -> tuple[Run, Values | None] | None:
        """Take the next run that can be answered, with what other partitions computed for its events."""
        found: tuple[Run, Values | None] | None
        if owned.rekeying is not None:
            found = owned.rekeying.next_run()
        else:
            events_unread, labels_unread = self._unread(number, source)
            run = owned.intake.next_run(events_unread=events_unread, labels_unread=labels_unread)
            found = None if run is None else (run, None)
        if found is not None:
            run, _ = found
            if run.events:
                owned.read[self._events] = run.events[-1].record
            elif self._labels is not None:
                owned.read[self._labels] = run.labels[-1].record
        return found

    def _unread(self, number: int, source: Source) -> tuple[bool, bool]:
        labels = self._labels
        return (
            source.unread((self._events, number)),
            labels is not None and source.unread((labels, number)),
        )


def together(stored: Values | None, values: Values | None) -> Values | None:
    """Return what was looked up and what was computed elsewhere, per event; None without either."""
    if stored is None or values is None:
        return stored if values is None else values
    return [{**one, **other} for one, other in zip(stored, values, strict=True)]
