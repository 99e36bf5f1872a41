"""One partition that this process owns: what it reads, answers, holds back and saves.

Lives here: the topics that are read together, the records that a person leaves out (`--skip`), a partition's
state from takeover to checkpoint.  Never here: how it is taken over (`owned_partitions.py`), polling
(`source.py`), the order of a turn (`loop.py`), what records mean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import structlog

from engine.definition.pipeline import Pipeline
from engine.kafka.client import LogPartition
from engine.kafka.sink import Written
from engine.kafka.source import Source
from engine.machines.admission import Run
from engine.machines.scorer import Scorer
from engine.rekeying.rekeying import Rekeying
from engine.stores.checkpoints import CheckpointStore
from engine.worker.claim import ClaimExecutor, fingerprint
from engine.worker.header import Fingerprint, Header, ScorerMeta
from engine.worker.idle import Standing
from operators.claims.rule import LogPosition
from operators.claims.takeover import Cut, Takeover, cut, log_positions
from operators.state import StateDelta, named
from topics.errors import BrokerError, ClaimError, SettingsError
from topics.messages import Outgoing, Record

__all__ = ["Inputs", "Partition", "PartitionDelta", "Place", "merge_values", "places"]

BUFFERED_MAX = 10_000
"""Decoded records of one topic and partition held back while the other queue is waited for."""
CATCHING_UP_MS = 10_000
"""Events this old are a replay or a backlog, where time runs so fast that the tenth of a second until a fetch
tells of new labels can be days.  Younger ones are not delayed by asking."""
PREPARED_MAX = 500
"""Entries encoded for a checkpoint with a run, some 3 ms: four times as many as can come with one."""
PLACES_MAX = 1_000
"""Skips are for single records; beyond, something else is wrong."""

log = structlog.get_logger("headrace")

Place = tuple[str, int, int]
"""Topic, partition and offset of one record."""
Values = Sequence[Mapping[str, object]]
"""Looked-up values, and those computed on other partitions: one mapping an event."""


def places(given: Iterable[str], pipeline: Pipeline) -> frozenset[Place]:
    """Return the records that `--skip TOPIC:PARTITION:OFFSET` names.

    Raises SettingsError for text that names no record of the pipeline's events or labels.
    """
    catalog = pipeline.catalog
    topics = [catalog[role] for role in ("events", "labels") if role in catalog]
    named: set[Place] = set()
    for text in given:
        topic, _, place = text.partition(":")
        partition, _, offset = place.partition(":")
        if topic not in topics or not (partition.isdecimal() and offset.isdecimal()):
            raise SettingsError(
                f"{text!r} is no record of {' or '.join(topics)}",
                hint=f"name a record as TOPIC:PARTITION:OFFSET, such as {topics[0]}:0:1234",
            )
        if int(partition) >= pipeline.events.partitions:
            raise SettingsError(
                f"{text!r}: {topic} has the partitions 0 to {pipeline.events.partitions - 1}",
                hint="take the place from the worker's message or from a dead letter's headers",
            )
        named.add((topic, int(partition), int(offset)))
    if len(named) > PLACES_MAX:
        raise SettingsError(
            f"{len(named)} records to skip are more than {PLACES_MAX}",
            hint="more than single records are bad: what do they have in common?",
        )
    return frozenset(named)


class Inputs:
    """The topics that a pipeline reads, assigned together."""

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        idle_after_ms: int,
        skip: frozenset[Place] = frozenset(),
        command_keys: Mapping[str, bytes] | None = None,
    ) -> None:
        """`skip` names records that are refused undecoded; `command_keys` sign those that erase a key."""
        catalog = pipeline.catalog
        self.events = catalog["events"]
        self.labels = pipeline.labels.topic
        self.rekey = catalog["rekey"] if pipeline.stages is not None else None
        self.rekeyed = catalog["rekeyed"] if pipeline.stages is not None else None
        self.idle_after_ms = idle_after_ms
        self.skip = skip
        self.command_keys = command_keys or {}
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
        """Ask where the labels end before old events are offered, so that older labels go first."""
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
        claims: ClaimExecutor,
        *,
        definition: dict[str, str],
        header: Header,
        read: Mapping[str, Fingerprint] | None,
        written_before: int,
        unsaved: StateDelta,
    ) -> None:
        """`rekeying` is there where windows have other keys than the topic.

        `read` are the last records taken of each topic; None at the very first start: it is read from its
        earliest records.  `written_before` is how many records this process had written to its predictions
        before, `unsaved` what a changed definition made of the checkpoint's entries.
        """
        self.number = scorer.partition
        self.scorer = scorer
        self._rekeying = rekeying
        self._takeover = takeover
        self._store = store
        self._claims = claims
        self._definition = definition
        self._header = header
        self._written_before = written_before
        self._inputs = inputs
        self._saved: tuple[LogPosition, ...] | None = None
        """Log positions of the last checkpoint; None: as of the one that was restored."""
        self._restored = read is not None
        self._read: dict[str, Record | Fingerprint] = {**(read or {})}
        self._unsaved = unsaved
        self._intake = scorer.intake if rekeying is None else rekeying.intake
        self._intake.skip = inputs.skip
        scorer.command_keys = self._intake.command_keys = inputs.command_keys
        self._unread: dict[str | None, bool] = {None: False}
        """Whether a topic has records that no poll has handed out, by the last `check_inputs`."""
        self._paused: set[LogPartition] = set()
        """Input partitions held back because their queue is full."""
        self.shadows_slow = False
        """Whether the shadows of the last run took longer than a batch is worth."""

    @property
    def pending(self) -> int:
        """How many answers and early labels wait."""
        return self.scorer.join.pending

    @property
    def key_count(self) -> int:
        """How many keys its windows hold."""
        return self.scorer.features.key_count + (0 if self._rekeying is None else self._rekeying.key_count)

    @property
    def answers_first(self) -> bool:
        """Whether answers should leave before the shadows score: these take long, or no other run waits."""
        return self.shadows_slow or not self._intake

    # -- reading ----------------------------------------------------------------------------------

    def offer(self, topic: str, records: list[Record], now_ms: int) -> None:
        """Queue records that were polled at `now_ms`, by topic."""
        inputs = self._inputs
        if inputs.skip:
            self._log_skipped(records)
        if topic == inputs.events:
            self._intake.offer_events(records, now_ms)
        elif topic == inputs.labels:
            self._intake.offer_labels(records, now_ms)
        elif self._rekeying is not None and topic == inputs.rekey:
            self._rekeying.offer_messages(records)
        elif self._rekeying is not None:
            self._rekeying.offer_values(records)

    def _log_skipped(self, records: list[Record]) -> None:
        for record in records:
            if (record.topic, record.partition, record.offset) in self._inputs.skip:
                log.warning(
                    "record skipped: it is a dead letter of stage skip",
                    topic=record.topic,
                    partition=record.partition,
                    offset=record.offset,
                )

    def check_inputs(self, source: Source) -> None:
        """Note which topics have more to read; pause one whose queue is full, resume it when it is not."""
        buffered = {self._inputs.events: self._intake.events_buffered}
        if self._inputs.labels is not None:
            buffered[self._inputs.labels] = self._intake.labels_buffered
        for topic, count in buffered.items():
            partition = (topic, self.number)
            self._unread[topic] = source.unread(partition)
            if count > BUFFERED_MAX and partition not in self._paused:
                source.pause([partition])
                self._paused.add(partition)
            elif count <= BUFFERED_MAX and partition in self._paused:
                source.resume([partition])
                self._paused.discard(partition)

    def reached(self, source: Source) -> tuple[int, int]:
        """Return how many input records are known and not taken, and a number that moves as they are.

        What other partitions hold back, where events travel to them, is not ours to take.
        """
        held = self._intake.events_buffered + self._intake.labels_buffered
        inputs = [(topic, self.number) for topic in self._inputs.topics]
        read = sum(source.position(one) for one in inputs)
        if self._rekeying is not None:
            return sum(source.lag(one) for one in inputs if one not in self._paused), read
        return held + sum(source.lag(one) for one in inputs), read - held

    def route(self, now_ms: int) -> list[Outgoing]:
        """Return the records for the owners of the events' other keys, of which there must be some."""
        assert self._rekeying is not None
        return self._rekeying.turn(
            now_ms,
            events_unread=self._unread[self._inputs.events],
            labels_unread=self._unread[self._inputs.labels],
            idle_after_ms=self._inputs.idle_after_ms,
        )

    def next_run(self) -> tuple[Run, Values | None] | None:
        """Take the next run that can be answered, with what other partitions computed for its events."""
        values: Values | None = None
        if self._rekeying is not None:
            run, values = self._rekeying.next_run() or (None, None)
        else:
            unread, inputs = self._unread, self._inputs
            run = self._intake.next_run(
                events_unread=unread[inputs.events], labels_unread=unread[inputs.labels]
            )
        if run is None:
            return None
        last = (run.events or run.labels)[-1].record
        self._read[last.topic] = last
        return run, values

    def standing(self) -> Standing:
        """Return where it stands, for who moves the watermark of a quiet partition."""
        scorer, unread = self.scorer, self._unread
        known = all(topic in unread for topic in (self._inputs.events, self._inputs.labels))
        return Standing(
            scorer.position.events - scorer.moves,
            scorer.position.time_max,
            scorer.next_deadline,
            drained=known and not any(unread.values()) and not self._intake,
        )

    def absorb_counts(self, absorb: Callable[[Counter[tuple[str, str]]], None]) -> None:
        """Pass the counts since the last call to `absorb`."""
        absorb(self.scorer.counts)
        if self._rekeying is not None:
            absorb(self._rekeying.counts)

    # -- places in the logs, and checkpoints --------------------------------------------------------

    def positions(self) -> dict[LogPartition, int]:
        """Return the next offset of each topic that has not been taken."""
        inputs, position = self._inputs, self.scorer.position
        reached = {inputs.events: position.events}
        if inputs.labels is not None:
            reached[inputs.labels] = position.labels
        if self._rekeying is not None and inputs.rekey is not None and inputs.rekeyed is not None:
            reached[inputs.rekey] = self._rekeying.enricher.position.rekey
            reached[inputs.rekeyed] = self._rekeying.position.values
        return {(topic, self.number): offset for topic, offset in reached.items()}

    def starts(self) -> dict[LogPartition, int | None]:
        """Return where each topic is read on after a takeover; None: from its earliest record."""
        return {
            read: offset if self._restored or read[0] in self._read else None
            for read, offset in self.positions().items()
        }

    async def kept(self) -> bool:
        """Go on after it was taken away and came back; False where it must be claimed and restored."""
        owner = self._takeover
        saved = owner.logs if self._saved is None else self._saved
        if not await self._claims.keeps(owner, saved, self._store, written_before=self._written_before):
            return False
        self._intake.clear()  # what was polled and not taken is polled again
        self._unread = {None: False}
        self._paused.clear()
        return True

    def prepare_checkpoint(self) -> None:
        """Encode some of what the next `capture` will hold."""
        self.scorer.join.prepare(PREPARED_MAX)

    def capture(self) -> PartitionDelta:
        """Return what has changed, and the positions; all records made so far must have been sent.

        What is captured here is in no later capture: it is saved, or the owner ends.
        """
        delta = self._unsaved | self.scorer.delta()
        self._unsaved = {}
        if self._rekeying is not None:
            self._rekeying.tidy()
            delta |= named({"rekeying": self._rekeying.delta()})
        return PartitionDelta(self, cut(self._takeover), delta, self._read.copy())

    async def save(self, captured: PartitionDelta, written: Mapping[LogPartition, Written]) -> None:
        """Write a checkpoint of what was captured; `written` is all that had been sent by then.

        Raises ClaimError if another owner has fenced, or has announced itself in the log.
        """
        owner, at = self._takeover, captured.cut
        self._claims.acknowledge(owner.writer, written)
        if not await self._claims.still_owner(owner, at, self._store, written_before=self._written_before):
            raise ClaimError(
                f"another owner has announced itself on partition {self.number}",
                hint="nothing to do: this one claims again if the partition is still its own",
            )
        read = {
            topic: last if isinstance(last, Fingerprint) else fingerprint(last)
            for topic, last in captured.read.items()
        }
        meta = ScorerMeta(self._definition, log_positions(owner, at), read, self._header)
        await self._store.save(owner.claim, msgspec.json.encode(meta), captured.delta)
        self._saved = meta.logs
        self.scorer.join.committed()
        if self._rekeying is not None:
            self._rekeying.router.committed()


class PartitionDelta(NamedTuple):
    """The captured changes of one partition for a checkpoint, as of one moment."""

    partition: Partition
    cut: Cut
    delta: StateDelta
    read: dict[str, Record | Fingerprint]


def merge_values(stored: Values, values: Values | None) -> Values:
    """Return what was looked up and, where something was, what was computed elsewhere, per event."""
    if values is None:
        return stored
    return [{**one, **other} for one, other in zip(stored, values, strict=True)]
