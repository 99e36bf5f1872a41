"""One partition in this process's hands: what it reads, answers, holds back and saves.

Lives here: the topics that are read together, a partition's state from takeover to checkpoint.
Never here: how it is taken over (`owned_partitions.py`), polling (`source.py`), the order of a turn
(`loop.py`), what records mean.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import structlog

from engine.definition.pipeline import Pipeline
from engine.kafka.client import LogPartition
from engine.kafka.source import Source
from engine.machines.admission import Run
from engine.machines.scorer import Scorer
from engine.rekeying.rekeying import Rekeying
from engine.stores.checkpoints import CheckpointStore
from engine.worker.fingerprint import Fingerprint
from engine.worker.skips import Place
from operators.claims.takeover import Cut, Takeover, cut
from operators.state import StateDelta, named
from topics.errors import BrokerError
from topics.messages import Outgoing, Record

__all__ = ["Captured", "Inputs", "Partition", "together"]

BUFFERED_MAX = 10_000
"""Decoded records of one topic and partition held back while the other queue is waited for."""
CATCHING_UP_MS = 10_000
"""Events this old are a replay or a backlog, where time runs so fast that the tenth of a second until a fetch
tells of new labels can be days.  Younger ones are not delayed by asking."""
PREPARED_MAX = 500
"""Entries encoded for a checkpoint with a run, some 3 ms: four times as many as can come with one."""
SHADOWS_QUICK_S = 0.005
"""Answers do not wait for the shadows of a run that take longer; quick ones are not worth a batch."""

log = structlog.get_logger("headrace")

Values = Sequence[Mapping[str, object]]
"""What was looked up or computed elsewhere, one mapping an event."""


class Inputs:
    """The topics that a pipeline reads, assigned together."""

    def __init__(
        self, pipeline: Pipeline, *, idle_after_ms: int, skip: frozenset[Place] = frozenset()
    ) -> None:
        """`skip` names records that are refused undecoded."""
        catalog = pipeline.catalog
        self.events = catalog["events"]
        self.labels = pipeline.labels.topic
        self.rekey = catalog["rekey"] if pipeline.stages is not None else None
        self.rekeyed = catalog["rekeyed"] if pipeline.stages is not None else None
        self.idle_after_ms = idle_after_ms
        self.skip = skip
        topics = (self.events, self.labels, self.rekey, self.rekeyed)
        self.topics = [topic for topic in topics if topic is not None]

    def numbers(self, assigned: frozenset[LogPartition]) -> list[int]:
        """Return which partitions are assigned: of every topic the same.

        Raises BrokerError if topics were not assigned together.
        """
        numbers = sorted(number for topic, number in assigned if topic == self.events)
        for other in self.topics:
            if numbers != sorted(number for topic, number in assigned if topic == other):
                raise BrokerError(
                    f"{self.events} and {other} were not assigned together",
                    hint="give both topics the same number of partitions",
                )
        return numbers

    async def look_ahead(
        self, batches: Mapping[LogPartition, list[Record]], source: Source, now_ms: int
    ) -> None:
        """Learn where labels end before old events go ahead of them: whatever was written first is seen."""
        if self.labels is None:
            return
        for (topic, number), records in batches.items():
            stamp_ms = records[0].timestamp_ms
            if topic == self.events and stamp_ms is not None and now_ms - stamp_ms > CATCHING_UP_MS:
                await source.look_beside((topic, number), (self.labels, number))


class Partition:
    """One partition of the events topic, with all that belongs to it; only its own methods change it."""

    def __init__(
        self,
        inputs: Inputs,
        scorer: Scorer,
        rekeying: Rekeying | None,
        takeover: Takeover,
        store: CheckpointStore,
        *,
        restored: bool,
        written_before: int,
        read: Mapping[str, Fingerprint],
        unsaved: StateDelta,
    ) -> None:
        """`rekeying` is there where windows have other keys than the topic.

        `restored` is false at the very first start: it is read from its earliest records.  `read` are the
        last records taken of each topic, `unsaved` is what a changed definition made of the checkpoint's
        entries, `written_before` how many records this process had written to its predictions before.
        """
        self.number = scorer.partition
        self.scorer = scorer
        self.rekeying = rekeying
        self.takeover = takeover
        self.store = store
        self.written_before = written_before
        self._inputs = inputs
        self._restored = restored
        self._read: dict[str, Record | Fingerprint] = {**read}
        self._unsaved = unsaved
        self._intake = scorer.intake if rekeying is None else rekeying.intake
        self._intake.skip = inputs.skip
        self._paused: set[LogPartition] = set()
        """Input partitions held back because their queue is full."""
        self._shadows_slow = False

    @property
    def answers_first(self) -> bool:
        """Whether answers should leave before the shadows score: they take long, or nothing else waits."""
        return self._shadows_slow or not self._intake

    # -- reading ----------------------------------------------------------------------------------

    def offer(self, topic: str, records: list[Record], now_ms: int) -> None:
        """Take what was polled at `now_ms` into the queue of its topic."""
        inputs = self._inputs
        if inputs.skip:
            self._log_skipped(records)
        if topic == inputs.events:
            self._intake.offer_events(records, now_ms)
        elif topic == inputs.labels:
            self._intake.offer_labels(records, now_ms)
        elif self.rekeying is not None and topic == inputs.rekey:
            self.rekeying.offer_messages(records)
        elif self.rekeying is not None:
            self.rekeying.offer_values(records)

    def _log_skipped(self, records: list[Record]) -> None:
        for record in records:
            if (record.topic, record.partition, record.offset) in self._inputs.skip:
                log.warning(
                    "record skipped: it is a dead letter of stage skip",
                    topic=record.topic,
                    partition=record.partition,
                    offset=record.offset,
                )

    def hold_back(self, source: Source) -> None:
        """Pause each topic whose queue is full, and resume it when it is not."""
        buffered = {self._inputs.events: self._intake.events_buffered}
        if self._inputs.labels is not None:
            buffered[self._inputs.labels] = self._intake.labels_buffered
        for topic, count in buffered.items():
            partition = (topic, self.number)
            if count > BUFFERED_MAX and partition not in self._paused:
                source.pause([partition])
                self._paused.add(partition)
            elif count <= BUFFERED_MAX and partition in self._paused:
                source.resume([partition])
                self._paused.discard(partition)

    def route(self, source: Source, now_ms: int) -> list[Outgoing]:
        """Send events to the owners of their other keys; return what leaves."""
        if self.rekeying is None:
            return []
        events_unread, labels_unread = self._unread(source)
        return self.rekeying.turn(
            now_ms,
            events_unread=events_unread,
            labels_unread=labels_unread,
            idle_after_ms=self._inputs.idle_after_ms,
        )

    def next_run(self, source: Source) -> tuple[Run, Values | None] | None:
        """Take the next run that can be answered, with what other partitions computed for its events."""
        found: tuple[Run, Values | None] | None
        if self.rekeying is not None:
            found = self.rekeying.next_run()
        else:
            events_unread, labels_unread = self._unread(source)
            run = self._intake.next_run(events_unread=events_unread, labels_unread=labels_unread)
            found = None if run is None else (run, None)
        if found is not None:
            run, _ = found
            if run.events:
                self._read[self._inputs.events] = run.events[-1].record
            elif self._inputs.labels is not None:
                self._read[self._inputs.labels] = run.labels[-1].record
        return found

    def _unread(self, source: Source) -> tuple[bool, bool]:
        labels = self._inputs.labels
        return (
            source.unread((self._inputs.events, self.number)),
            labels is not None and source.unread((labels, self.number)),
        )

    def step(self, run: Run, now_ms: int, lookups: Values | None) -> Iterator[list[Outgoing]]:
        """Take one run; yield what leaves at once, then what follows from it, as `Scorer.step` does."""
        steps = self.scorer.step(run, now_ms, lookups)
        yield next(steps)
        started_s = time.monotonic()
        for out in steps:
            self._shadows_slow = time.monotonic() - started_s > SHADOWS_QUICK_S
            yield out

    def absorb_counts(self, absorb: Callable[[Counter[tuple[str, str]]], None]) -> None:
        """Hand over what was counted since the last call."""
        absorb(self.scorer.counts)
        if self.rekeying is not None:
            absorb(self.rekeying.counts)

    # -- places in the logs, and checkpoints --------------------------------------------------------

    def positions(self) -> dict[LogPartition, int]:
        """Return the next offset of each topic that has not been taken."""
        inputs, position = self._inputs, self.scorer.position
        reached = {inputs.events: position.events}
        if inputs.labels is not None:
            reached[inputs.labels] = position.labels
        if self.rekeying is not None and inputs.rekey is not None and inputs.rekeyed is not None:
            reached[inputs.rekey] = self.rekeying.enricher.position.rekey
            reached[inputs.rekeyed] = self.rekeying.position.values
        return {(topic, self.number): offset for topic, offset in reached.items()}

    def starts(self) -> dict[LogPartition, int | None]:
        """Return where each topic is read on after a takeover; None: from its earliest record."""
        return {place: offset if self._restored else None for place, offset in self.positions().items()}

    def prepare_checkpoint(self) -> None:
        """Encode some of what the next `capture` will hold."""
        self.scorer.join.prepare(PREPARED_MAX)

    def capture(self) -> Captured:
        """Take what has changed, and how far it has come; all it made must have been sent.

        What is taken here is in no later capture: it is saved, or the owner ends.
        """
        delta = self._unsaved | self.scorer.delta()
        self._unsaved = {}
        if self.rekeying is not None:
            self.rekeying.tidy()
            delta |= named({"rekeying": self.rekeying.delta()})
        return Captured(self, cut(self.takeover), delta, self._read.copy())

    async def save(self, captured: Captured, meta: bytes) -> None:
        """Write a checkpoint of what was captured, with `meta` beside it.  Raises ClaimError if fenced."""
        await self.store.save(self.takeover.claim, meta, captured.delta)
        self.scorer.join.committed()
        if self.rekeying is not None:
            self.rekeying.router.committed()


class Captured(NamedTuple):
    """What a checkpoint of one partition holds, as of one moment."""

    partition: Partition
    cut: Cut
    delta: StateDelta
    read: dict[str, Record | Fingerprint]


def together(stored: Values | None, values: Values | None) -> Values | None:
    """Return what was looked up and what was computed elsewhere, per event; None without either."""
    if stored is None or values is None:
        return stored if values is None else values
    return [{**one, **other} for one, other in zip(stored, values, strict=True)]
