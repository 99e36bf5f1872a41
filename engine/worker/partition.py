"""One partition in this process's hands: what it reads, answers, holds back and saves; and all of them.

Lives here: the topics that are read together, a partition's state from takeover to checkpoint.
Never here: the order of a takeover (`operators/claims/takeover.py`), how its steps are done
(`claim.py`), polling (`source.py`), the order of a turn (`loop.py`), what records mean.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec
import structlog

from engine.definition.pipeline import Pipeline
from engine.definition.text import check_definition
from engine.kafka.client import LogPartition
from engine.kafka.sink import Sink, Written
from engine.kafka.source import Source
from engine.machines.intake import Run
from engine.machines.scorer import Scorer
from engine.rekeying.rekeying import Rekeying
from engine.settings import Accepted, Settings
from engine.stores.checkpoints import CheckpointStore
from engine.worker.changed_features import carried_over, difference
from engine.worker.claim import Claiming, Loaded, ScorerMeta, decode_meta
from engine.worker.fingerprint import Fingerprint, check_same_logs, fingerprint
from engine.worker.follower import Follower
from engine.worker.skips import Place
from operators.claims import requests
from operators.claims.requests import Bounds, Sent
from operators.claims.takeover import Cut, Takeover, cut, fits, log_positions, still_owner, takeover
from operators.state import StateDelta, StateEntries, named, under
from topics.errors import BrokerError, ClaimError
from topics.messages import Outgoing, Record

__all__ = ["Captured", "Inputs", "Partition", "Partitions", "together"]

BUFFERED_MAX = 10_000
"""Decoded records of one topic and partition held back while the other queue is waited for."""
CATCHING_UP_MS = 10_000
"""Events this old are a replay or a backlog, where time runs so fast that the tenth of a second until a fetch
tells of new labels can be days.  Younger ones are not delayed by asking."""
PREPARED_MAX = 500
"""Entries encoded for a checkpoint with a run, some 3 ms: four times as many as can come with one."""
SHADOWS_QUICK_S = 0.005
"""Answers do not wait for the shadows of a run that take longer; quick ones are not worth a batch."""

TAKEOVERS_MAX = 5
"""Times another owner may come first before this one gives up and lets the process end."""

JOIN, ROUTERS_JOIN = "join/", "rekeying/router/join/"
APART = tuple(join + kind for join in (JOIN, ROUTERS_JOIN) for kind in ("w/", "i/"))
"""Names of entries that a restore leaves on disk: answers that wait for labels."""

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


class Partitions:
    """The partitions that this process owns, by number: taken over, saved, let go."""

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        source: Source,
        sink: Sink,
        follower: Follower,
        inputs: Inputs,
        accepted: Accepted,
    ) -> None:
        self.count = 0
        """How many partitions the events topic has; known after `look`."""
        self.owned: dict[int, Partition] = {}
        self._pipeline = pipeline
        self._settings = settings
        self._source = source
        self._sink = sink
        self._follower = follower
        self._accepted = accepted
        self._inputs = inputs
        self._roles = ("events",) if pipeline.labels.topic is None else ("events", "labels")
        self._definition = pipeline.scorer_definition()
        self._stores: dict[int, CheckpointStore] = {}
        self._claiming = Claiming(pipeline.catalog, settings.kafka, sink)

    async def look(self) -> None:
        """See whether the stores fit the logs, for every partition the group may give; touch nothing.

        Raises what `take_over` would, as far as a look can tell.
        """
        accepted = self._accepted
        self.count = await self._sink.partitions(self._inputs.events)
        for number in range(self.count):
            protocol = fits(
                number,
                inputs=self._roles,
                accept_newer=accepted.newer_claims,
                accept_lost=accepted.lost_records,
            )
            await self._claiming.run(protocol, self._store(number))
        await self._check_read(range(self.count))

    async def _check_read(self, numbers: Iterable[int]) -> None:
        """See whether the topics are those that the checkpoints of these partitions have read."""
        known: dict[LogPartition, Fingerprint] = {}
        for number in numbers:
            _, meta = await self._store(number).look()
            if meta is not None:
                known |= {(topic, number): kept for topic, kept in decode_meta(meta).read.items()}
        await check_same_logs(self._settings.kafka, known)

    def _store(self, number: int) -> CheckpointStore:
        """Return the checkpoints of a partition."""
        if number not in self._stores:
            directory, name = self._settings.state_dir, self._pipeline.name
            self._stores[number] = CheckpointStore(directory, name, "scorer", number, apart=APART)
        return self._stores[number]

    async def take_over(self, numbers: Iterable[int]) -> None:
        """Claim these partitions and restore them; they are all that is owned then.

        Raises what `_take_over` does.
        """
        self.owned = {number: await self._take_over(number) for number in numbers}

    async def _take_over(self, number: int) -> Partition:
        """Claim a partition and restore it.

        Raises ClaimError if the logs are ahead of the store or rivals never rest, CheckpointError if the
        checkpoint belongs to another definition or does not fit the logs.
        """
        store = self._store(number)
        rekey_partitions = 0 if self._pipeline.stages is None else self.count
        await self._check_read([number])
        for _ in range(TAKEOVERS_MAX):
            protocol = takeover(
                number,
                rekey_partitions=rekey_partitions,
                inputs=self._roles,
                accept_newer=self._accepted.newer_claims,
                accept_lost=self._accepted.lost_records,
                suppressed_max=self._settings.replay_max,
            )
            taken: Takeover | None = await self._claiming.run(protocol, store)
            if taken is not None:
                return self._restored(number, taken, store)
        raise ClaimError(
            f"event partition {number} was claimed by another owner {TAKEOVERS_MAX} times",
            hint="is a second deployment of this pipeline running against the same topics?",
        )

    def _restored(self, number: int, taken: Takeover, store: CheckpointStore) -> Partition:
        stages = self._pipeline.stages
        scorer = Scorer(
            self._pipeline,
            partition=number,
            roster=self._follower.learner.roster,
            writer=taken.writer,
            suppression=taken.suppression,
            plan=self._pipeline.scorer_plan,
            stopwatch=self._follower.stopwatch,
            stored=store.stored(JOIN),
        )
        rekeying = None
        if stages is not None:
            rekeying = Rekeying(
                self._pipeline,
                stages,
                partition=number,
                writer=taken.writer,
                logged=taken.suppression.rekeyed,
                stored=store.stored(ROUTERS_JOIN),
            )
        loaded: Loaded | None = taken.checkpoint
        unsaved: StateDelta = {}
        if loaded is not None:
            entries: StateEntries = loaded.entries
            accept, meta = self._accepted.changed_features, loaded.meta
            changes = check_definition(meta.definition, self._definition, store.path, accept_features=accept)
            if changes:
                entries = carried_over(entries, scorer.features, store.stored(JOIN), changes, number)
                unsaved = difference(loaded.entries, entries)
            scorer.restore(entries)
            if rekeying is not None:
                rekeying.restore(under("rekeying", loaded.entries))
        if taken.lost:
            log.warning(
                "going on without records that were deleted",
                partition=number,
                **{f"{role}_{log_number}": count for (role, log_number), count in taken.lost.items()},
            )
        log.info(
            "partition claimed",
            partition=number,
            claim=taken.claim,
            events_position=scorer.position.events,
            logged_since=len(taken.suppression),
        )
        predictions = (self._claiming.topic("predictions"), number)
        written = self._sink.mark().records[predictions]
        # The checkpoint has been restored: its bytes need not be kept as well.
        kept = replace(taken, checkpoint=None)
        return Partition(
            self._inputs,
            scorer,
            rekeying,
            kept,
            store,
            restored=loaded is not None,
            written_before=written,
            read={} if loaded is None else loaded.meta.read,
            unsaved=unsaved,
        )

    async def save(self, captured: Captured, written: Mapping[LogPartition, Written]) -> None:
        """Write the checkpoint of one partition; `written` is all it had sent when it was captured.

        Raises ClaimError if fenced.
        """
        partition = captured.partition
        writer = partition.takeover.writer
        with self._claiming.topics_named():
            for position in writer.positions():
                found = written.get((self._claiming.topic(position.target), position.partition))
                if found is not None and found.offset >= position.position:
                    writer.acknowledged(position.log, found.offset)
            if not await self._still_owner(captured):
                raise ClaimError(
                    f"another owner has announced itself on partition {partition.number}",
                    hint="nothing to do: this one claims again if the partition is still its own",
                )
        read = {
            topic: last if isinstance(last, Fingerprint) else fingerprint(last)
            for topic, last in captured.read.items()
        }
        logs = log_positions(partition.takeover, captured.cut)
        await partition.save(captured, msgspec.json.encode(ScorerMeta(self._definition, logs, read)))

    async def _still_owner(self, captured: Captured) -> bool:
        """Ask the log, by the open connection: this is before every checkpoint."""
        owned = captured.partition
        protocol = still_owner(owned.takeover, captured.cut)
        answer: Any = None
        try:
            while True:
                match request := protocol.send(answer):
                    case requests.FindBounds(target, number):
                        log_partition = (self._claiming.topic(target), number)
                        answer = Bounds(*(await self._source.bounds(log_partition)))
                    case requests.Settle(target, number):
                        log_partition = (self._claiming.topic(target), number)
                        sent = (await self._sink.written_to(self._sink.mark()))[log_partition]
                        answer = Sent(sent.records - owned.written_before, sent.offset + 1)
                    case _:
                        answer = await self._claiming.carry_out(request, owned.store)
        except StopIteration as end:
            return bool(end.value)
        finally:
            await self._claiming.close()

    def starts(self) -> dict[LogPartition, int | None]:
        """Return where each topic of each partition is read on; None: from its earliest record."""
        return {place: at for partition in self.owned.values() for place, at in partition.starts().items()}

    @property
    def pending(self) -> int:
        """Return how many answers and early labels wait in all of them."""
        return sum(partition.scorer.join.pending for partition in self.owned.values())

    async def close(self) -> None:
        """Close the checkpoint files."""
        for store in self._stores.values():
            await store.close()


def together(stored: Values | None, values: Values | None) -> Values | None:
    """Return what was looked up and what was computed elsewhere, per event; None without either."""
    if stored is None or values is None:
        return stored if values is None else values
    return [{**one, **other} for one, other in zip(stored, values, strict=True)]
