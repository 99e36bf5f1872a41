"""Owning a partition: taking it over, saving its checkpoints.

Lives here: carrying out what `operators.takeover` asks for, with Kafka and the checkpoint
store, and what a scorer's checkpoint says beside its state.  Never here: the order of a
takeover (that is the generator's), when to save (`worker.py`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import msgspec
import structlog

from engine.checkpoint import Checkpoint, CheckpointStore
from engine.definition import check_definition
from engine.intake import Intake
from engine.kafka import Partition, Sink, Source, log_bounds, read_log
from engine.pipeline import Pipeline
from engine.rekeying import Rekeying
from engine.scorer import Scorer
from engine.settings import Settings
from engine.sink import Written
from engine.trainer import Trainer
from operators import takeover as steps
from operators.carryover import GroupLayout, carried_over, difference
from operators.claims import LogPosition
from operators.contract import StateDelta, StateEntries
from operators.entries import named, under
from operators.takeover import (
    Bounds,
    Cut,
    LogBatch,
    LogRecord,
    Sent,
    Stored,
    Takeover,
    cut,
    log_positions,
    still_owner,
    takeover,
)
from topics import headers
from topics.codec import (
    decode_claim,
    decode_command,
    decode_example,
    decode_prediction,
    decode_quarantine,
    encode,
)
from topics.errors import ClaimError, HeadraceError
from topics.hops import decode_hop
from topics.messages import Claim, Command, Example, Outgoing, Prediction, Quarantine, Record

__all__ = ["Captured", "Owned", "Owner"]

HOP_LOGS = ("rekey", "rekeyed")
TAKEOVERS_MAX = 5
"""Times another owner may come first before this one gives up and lets the process end."""

log = structlog.get_logger("headrace")


class ScorerMeta(msgspec.Struct, frozen=True):
    """What a scorer's checkpoint says beside its state."""

    definition: dict[str, str]
    logs: tuple[LogPosition, ...]
    layout: tuple[GroupLayout, ...] = ()
    """What its windows keep, for the case that the definition changes."""


@dataclass
class Owned:
    """One event partition in this process's hands."""

    scorer: Scorer
    rekeying: Rekeying | None
    """Where windows have other keys than the topic."""
    takeover: Takeover
    store: CheckpointStore
    restored: bool
    """False at the very first start: the partition is read from its earliest record."""
    written_before: int
    """Records this process had written to the predictions partition when it was taken over."""
    shadows_slow: bool = False
    """Whether the shadows of the last run took long enough that answers should leave before them."""
    held: set[Partition] = field(default_factory=set)
    """Input partitions paused because their queue is full."""
    unsaved: StateDelta = field(default_factory=dict)
    """What a changed definition made of the checkpoint's entries, for the next one."""

    @property
    def intake(self) -> Intake:
        """Return where records of events and labels go first."""
        return self.scorer.intake if self.rekeying is None else self.rekeying.intake

    def absorb_counts(self, absorb: Callable[[Counter[tuple[str, str]]], None]) -> None:
        """Hand over what was counted since the last call."""
        absorb(self.scorer.counts)
        if self.rekeying is not None:
            absorb(self.rekeying.counts)


class Captured(NamedTuple):
    """What a checkpoint of one partition holds, as of one moment."""

    owned: Owned
    cut: Cut
    delta: StateDelta


class _Loaded:
    """A checkpoint as a takeover sees it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.entries = checkpoint.entries
        self.meta = msgspec.json.decode(checkpoint.meta, type=ScorerMeta)
        self.logs = self.meta.logs


class Owner:
    """Takes partitions over and saves them."""

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        source: Source,
        sink: Sink,
        trainer: Trainer,
        *,
        accept_newer: bool,
        accept_features: bool,
    ) -> None:
        self.partitions = 0
        """How many partitions the events topic has; set once it is known."""
        self._pipeline = pipeline
        self._settings = settings
        self._source = source
        self._sink = sink
        self._trainer = trainer
        self._accept_newer = accept_newer
        self._accept_features = accept_features
        self._definition = pipeline.scorer_definition()
        self._layout = pipeline.layout()
        self._stores: dict[int, CheckpointStore] = {}
        self._bounds: dict[str, dict[int, tuple[int, int]]] = {}
        """Where the internal topics began and ended during one takeover."""

    async def take_over(self, number: int) -> Owned:
        """Claim an event partition and restore its scorer.

        Raises ClaimError if the logs are ahead of the store or rivals never rest, CheckpointError if the
        checkpoint belongs to another definition or does not fit the logs.
        """
        store = self._stores.get(number)
        if store is None:
            store = CheckpointStore(self._settings.state_dir, self._pipeline.name, "scorer", number)
            self._stores[number] = store
        hops = 0 if self._pipeline.stages is None else self.partitions
        for _ in range(TAKEOVERS_MAX):
            protocol = takeover(number, hop_partitions=hops, accept_newer=self._accept_newer)
            taken = await self._run(protocol, store)
            if taken is not None:
                return self._restored(number, taken, store)
        raise ClaimError(
            f"event partition {number} was claimed by another owner {TAKEOVERS_MAX} times",
            hint="is a second deployment of this pipeline running against the same topics?",
        )

    async def _run(self, protocol: Any, store: CheckpointStore) -> Takeover | None:
        """Carry out one request after the other; `finally` closes the generator in every case."""
        answer: Any = None
        self._bounds.clear()
        try:
            with self._topics_named():
                while True:
                    answer = await self._carry_out(protocol.send(answer), store)
        except StopIteration as end:
            taken: Takeover | None = end.value
            return taken

    async def _carry_out(self, request: steps.Request, store: CheckpointStore) -> Any:
        match request:
            case steps.Look():
                claim, checkpoint = await store.look()
                return Stored(claim, _Loaded(checkpoint).logs if checkpoint is not None else ())
            case steps.Fence(above):
                return (await store.fence(above=above)).claim
            case steps.Load():
                checkpoint = await store.load()
                return None if checkpoint is None else _Loaded(checkpoint)
            case steps.FindBounds(target, partition):
                return await self._find_bounds(target, partition)
            case steps.WriteClaim(target, partition, value):
                return await self._write_claim(target, partition, value)
            case steps.ReadLog(target, partition, position, until):
                return await self._read(target, partition, position, until)

    async def _find_bounds(self, target: Any, partition: int) -> Bounds:
        """Ask once for all partitions of an internal topic: whether they reach back to the checkpoint."""
        found = self._bounds.get(target)
        if found is None:
            found = await log_bounds(self._settings.kafka, self._topic(target))
            if target in HOP_LOGS:
                self._bounds[target] = found
        return Bounds(*found[partition])

    async def _write_claim(self, target: Any, partition: int, value: Claim) -> int:
        topic = self._topic(target)
        now_ms = time.time_ns() // 1_000_000
        record = Outgoing(target, partition, None, encode(value), headers.CLAIM, now_ms)
        await self._sink.send(topic, partition, [record])
        return (await self._sink.flush())[topic, partition]

    async def _read(self, target: Any, partition: int, position: int, until: int) -> LogBatch:
        """Read all of it at once: it is bounded by what was written since the checkpoint."""
        records: list[LogRecord] = []
        batches = read_log(self._settings.kafka, self._topic(target), partition, position, until)
        async with aclosing(batches):
            async for batch in batches:
                decode = decode_hop if target in HOP_LOGS else _decoded
                records += [LogRecord(record.offset, value) for record in batch if (value := decode(record))]
        return LogBatch(records, until)

    def _restored(self, number: int, taken: Takeover, store: CheckpointStore) -> Owned:
        stages = self._pipeline.stages
        scorer = Scorer(
            self._pipeline,
            partition=number,
            roster=self._trainer.learner.roster,
            writer=taken.writer,
            suppression=taken.suppression,
            plan=self._pipeline.scorer_plan,
        )
        rekeying = None
        if stages is not None:
            writer, logged = taken.writer, taken.suppression.hops
            rekeying = Rekeying(self._pipeline, stages, partition=number, writer=writer, logged=logged)
        loaded: _Loaded | None = taken.checkpoint
        unsaved: StateDelta = {}
        if loaded is not None:
            entries = self._entries(number, loaded, store)
            unsaved = {} if entries is loaded.entries else difference(loaded.entries, entries)
            scorer.restore(entries)
            if rekeying is not None:
                rekeying.restore(under("rekeying", loaded.entries))
        log.info(
            "partition claimed",
            partition=number,
            claim=taken.claim,
            events_position=scorer.position.events,
            logged_since=len(taken.suppression),
        )
        predictions = (self._topic("predictions"), number)
        written = self._sink.mark().records[predictions]
        # The checkpoint has been restored: its bytes need not be kept as well.
        kept = replace(taken, checkpoint=None)
        return Owned(scorer, rekeying, kept, store, loaded is not None, written, unsaved=unsaved)

    def _entries(self, number: int, loaded: _Loaded, store: CheckpointStore) -> StateEntries:
        """Return a checkpoint's entries, in the form of this definition where its features have changed."""
        accept, meta = self._accept_features, loaded.meta
        changes = check_definition(meta.definition, self._definition, store.path, accept_features=accept)
        if not changes:
            return loaded.entries
        carried = carried_over(loaded.entries, meta.layout, self._layout)
        log.warning(
            "features changed",
            partition=number,
            changes=[str(change) for change in changes],
            filling=list(self._pipeline.filling(meta.layout)),
            keys=carried.keys,
            keys_dropped=carried.keys_dropped,
        )
        return carried.entries

    def capture(self, owned: Owned) -> Captured:
        """Take what has changed, and how far the owner has come; all it made must have been sent.

        What is taken here is in no later capture: it is saved, or the owner ends.
        """
        delta = owned.unsaved | owned.scorer.delta()
        owned.unsaved = {}
        if owned.rekeying is not None:
            owned.rekeying.tidy()
            delta |= named({"rekeying": owned.rekeying.delta()})
        return Captured(owned, cut(owned.takeover), delta)

    async def save(self, captured: Captured, written: Mapping[Partition, Written]) -> None:
        """Write one scorer's checkpoint; `written` is all it had sent when it was captured.

        Raises ClaimError if fenced.
        """
        owned = captured.owned
        writer = owned.takeover.writer
        with self._topics_named():
            for position in writer.positions():
                found = written.get((self._topic(position.target), position.partition))
                if found is not None and found.offset >= position.position:
                    writer.acknowledged(position.log, found.offset)
            if not await self._still_owner(captured):
                raise ClaimError(
                    f"another owner has announced itself on partition {owned.scorer.partition}",
                    hint="nothing to do: this one claims again if the partition is still its own",
                )
        meta = ScorerMeta(self._definition, log_positions(owned.takeover, captured.cut), self._layout)
        await owned.store.save(owned.takeover.claim, msgspec.json.encode(meta), captured.delta)

    async def _still_owner(self, captured: Captured) -> bool:
        """Ask the log, by the open connection: this is before every checkpoint."""
        owned = captured.owned
        protocol = still_owner(owned.takeover, captured.cut)
        answer: Any = None
        while True:
            try:
                request = protocol.send(answer)
            except StopIteration as end:
                return bool(end.value)
            match request:
                case steps.FindBounds(target, partition):
                    answer = Bounds(*(await self._source.bounds((self._topic(target), partition))))
                case steps.Settle(target, partition):
                    log_partition = (self._topic(target), partition)
                    sent = (await self._sink.written_to(self._sink.mark()))[log_partition]
                    answer = Sent(sent.records - owned.written_before, sent.offset + 1)
                case _:
                    answer = await self._carry_out(request, owned.store)

    @contextmanager
    def _topics_named(self) -> Iterator[None]:
        """Let errors of the protocol, which knows logs by their role, name the topic."""
        try:
            yield
        except HeadraceError as error:
            if error.topic in ("predictions", "examples", *HOP_LOGS):
                error.topic = self._topic(error.topic)
            raise

    def _topic(self, target: Any) -> str:
        return self._pipeline.catalog[target]

    async def close(self) -> None:
        """Close the checkpoint files."""
        for store in self._stores.values():
            await store.close()


def _decoded(record: Record) -> Claim | Prediction | Example | Quarantine | Command | None:
    """Return the value of a log's record; None for what is no message of ours."""
    if record.value is None:
        return None
    try:
        match headers.kind_of(record.headers):
            case "claim":
                return decode_claim(record.value)
            case "example":
                return decode_example(record.value)
            case "quarantine":
                return decode_quarantine(record.value)
            case "command":
                return decode_command(record.value)
            case None:
                return decode_prediction(record.value)
    except msgspec.MsgspecError:
        return None
