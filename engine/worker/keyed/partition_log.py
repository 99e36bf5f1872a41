"""The examples log of one owned partition, and the learner that folds it.

Lives here: fencing and restoring that learner, reading its log in time slices, its checkpoints.  Never here:
what a record does to a race (`engine/machines/keyed`), which partitions are owned (`keyed_follower.py`).

The owner of an events partition owns the examples partition of the same number: it alone writes examples
there, learns them, and writes their decisions.  So each partition has a leader, and nobody else folds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from msgspec import json

from engine.definition.pipeline import Pipeline, check_definition
from engine.kafka.log_reader import log_bounds, read_log, slices_of_log
from engine.kafka.sink import Sink
from engine.machines.keyed.keyed_learner import RACES, KeyedLearner
from engine.settings import Settings
from engine.stores.artefacts import Artefacts
from engine.stores.places import checkpoint_store
from engine.worker.assembly import build_keyed_learner
from engine.worker.entry import Entries
from engine.worker.header import Header, LearnerMeta, check_header, decode_learner_meta, tell_header
from engine.worker.model_factory import ModelFactory
from operators.state import StateDelta, StoredEntries
from operators.stopwatch import Stopwatch
from topics import headers
from topics.errors import ClaimError
from topics.messages import Decision, Headers, Record

__all__ = ["PartitionLog"]

SLICE_RECORDS = 64
"""Examples folded before predictions get their turn: a few milliseconds of a tree."""
Told = Callable[[int, list[tuple[Decision, Headers]]], object]
"""Gets what was decided on a partition, each with the trace context of what led to it."""


class PartitionLog:
    """The learner of one partition, kept a fold of its examples log."""

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        sink: Sink,
        partition: int,
        factory: ModelFactory,
        artefacts: Artefacts,
        *,
        models: asyncio.Lock,
        stopwatch: Stopwatch,
        told: Told,
    ) -> None:
        """`models` is held while models learn a slice."""
        self.partition = partition
        self._settings, self._sink = settings, sink
        self._topic = pipeline.catalog["examples"]
        self._models, self._told = models, told
        self._definition = pipeline.learner_definition()
        self._store = checkpoint_store(settings, pipeline.name, "learner", partition, apart=(RACES,))
        self._pipeline, self._stopwatch, self._factory = pipeline, stopwatch, factory
        self.learner = self._fresh_learner(None)
        self.entry = Entries(
            pipeline.name, pipeline.field, factory, artefacts, lambda: self.learner, partition
        )
        self._claim, self._meta = 0, b""
        self._moved = asyncio.Event()
        self.fenced: ClaimError | None = None
        """Why the log is not followed any more: the store has another owner, or went back."""
        self._end = 0
        """Where the log ended when it was read last."""

    def _fresh_learner(self, stored: StoredEntries | None) -> KeyedLearner:
        return build_keyed_learner(
            self._pipeline,
            self.partition,
            stopwatch=self._stopwatch,
            source=self._factory,
            stored=stored,
        )

    async def lead(self, header: Header, *, accept_features: bool) -> None:
        """Fence this learner's checkpoints and start from the last one; `header` is that of what is written.

        What was decided since is decided again: the last leader may have died before it wrote it down.
        """
        self._meta = json.encode(LearnerMeta(self._definition, header))
        self.fenced = None
        self._claim = await self._store.fence()
        checkpoint = await self._store.load()
        self.learner = self._fresh_learner(self._store.stored(RACES))
        if checkpoint is not None:
            meta, place = decode_learner_meta(checkpoint.meta), self._store.place
            check_header(meta.header, header, place)
            tell_header(meta.header, header, place)
            check_definition(meta.definition, self._definition, place, accept_features=accept_features)
            self.learner.restore(checkpoint.entries)
            if checkpoint.damage:
                self.learner.counts["checkpoints_damaged", "learner"] += 1

    def release(self) -> None:
        """Let the races go: another process owns the partition."""
        self.fenced = None
        self.learner = self._fresh_learner(None)

    async def catch_up(self, go_on: Callable[[], object]) -> None:
        """Fold the log up to its end; `go_on` raises where there shall be no further slice."""
        _, end = (await log_bounds(self._settings.kafka, self._topic))[self.partition]
        while self.learner.reading < end:
            await self._fold(end, go_on)
        self.entry.look(self.learner.fields.field_id)

    async def follow(self) -> None:
        """Fold the log as it grows, until cancelled or fenced: races that learn are read from the store."""
        try:
            while True:
                await self._fold(None)
        except ClaimError as error:
            self.fenced = error
            self._moved.set()

    async def _fold(self, until: int | None, go_on: Callable[[], object] = lambda: None) -> None:
        def read(start: int) -> AsyncGenerator[list[Record]]:
            return read_log(
                self._settings.kafka, self._topic, self.partition, start, until, end_seen=self._see_end
            )

        async with aclosing(slices_of_log(self.learner, read, lambda: SLICE_RECORDS)) as parts:
            async for part in parts:
                go_on()
                async with self._models:
                    if decisions := self.learner.fold(part):
                        traces = {record.offset: headers.traced(record.headers) for record in part}
                        self._told(self.partition, [(one, traces.get(one.offset, ())) for one in decisions])
                self._moved.set()
                await asyncio.sleep(0)

    def _see_end(self, end: int) -> None:
        self._end = max(self._end, end)

    def tell_late(self) -> None:
        """Tell what races decided when they were used to answer an event."""
        if decisions := self.learner.take_late():
            self._told(self.partition, [(one, ()) for one in decisions])

    async def wait_until_near(self, records_max: int) -> None:
        """Wait while the learner lags more than this behind what was acknowledged to this process."""
        while self.lag > records_max and self.fenced is None and not self.learner.paused:
            self._moved.clear()
            await self._moved.wait()

    @property
    def lag(self) -> int:
        """Return how many acknowledged records of this process its learner has not read yet."""
        return max(0, self._acknowledged - self.learner.reading)

    @property
    def unlearned(self) -> int:
        """Return how many records of the log its models lack, as far as known; in a pause too."""
        return max(0, max(self._acknowledged, self._end) - self.learner.position)

    @property
    def _acknowledged(self) -> int:
        return self._sink.last_offset((self._topic, self.partition)) + 1

    async def save(self, delta: StateDelta) -> None:
        """Write a checkpoint.  Raises ClaimError if fenced."""
        await self._store.save(self._claim, self._meta, delta)
        self.learner.committed()

    async def close(self) -> None:
        """Close the store of checkpoints."""
        await self._store.close()
