"""The way of records from a turn of the loop to their logs.

Lives here: gathering, and the one order that matters between two logs.  Never here: what is
sent, when a turn ends (`loop.py`), how Kafka is spoken to (`sink.py`).

A prediction is in its log before an example is sent that was made from it.  Otherwise a crash
in between would leave an example whose prediction is made anew, by models that have learned
it.  Examples therefore leave one turn later, when the acknowledgements are usually here:

    turn 1   predictions 1 ->              examples 1 kept
    turn 2   predictions 2 ->  1 there? -> examples 1 ->   examples 2 kept
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from engine.kafka.dead_letter_sink import LetterSink
from engine.kafka.sink import Sink
from engine.kafka.topic_admin import ENVELOPE_BYTES, TopicLimits, record_too_large
from engine.machines.outbox import EXAMPLES_PARTITION
from engine.settings import KafkaSettings
from engine.watches import LetterWatch
from operators.stopwatch import Stopwatch
from topics.catalog import Catalog
from topics.messages import Outgoing, OutgoingRole

__all__ = ["Dispatch"]

GATHERED_MAX = 1_000
"""Answers leave in batches of at most so many: a batch costs the broker, and us, more than a record."""
EXAMPLES_MAX = 1_000
"""Examples kept back at most, about 1 MB."""


class Dispatch:
    """Sends what a worker makes, in order per log, to the topics that `catalog` names."""

    def __init__(self, sink: Sink, kafka: KafkaSettings, catalog: Catalog, stopwatch: Stopwatch) -> None:
        self._sink = sink
        self.watch = LetterWatch(catalog["dead-letters"])
        """Tells the log of records that were refused."""
        self._letters = LetterSink(kafka, catalog["dead-letters"])
        self._limits: Mapping[str, TopicLimits] = {}
        self._catalog = catalog
        self._topics = {role: name for name, role in catalog.roles.items()}
        self._stopwatch = stopwatch
        self._gathered: list[Outgoing] = []
        self._examples: list[Outgoing] = []
        self._behind: list[Outgoing] = []
        """The last turn's examples ..."""
        self._written: frozenset[asyncio.Future[Any]] = frozenset()
        """... and the predictions that must be acknowledged before them."""

    def limit(self, limits: Mapping[str, TopicLimits]) -> None:
        """Let what is written stay within what topics take, by name."""
        self._limits = self._sink.limits = limits
        self._letters.limits = limits[self._catalog["dead-letters"]]

    @property
    def counts(self) -> Counter[tuple[str, str]]:
        """What happened, by (metric, label): the worker exports it."""
        return self._letters.counts

    async def stop(self) -> None:
        """Close what only this one writes with."""
        await self._letters.stop()

    async def put(self, out: Sequence[Outgoing]) -> None:
        """Take records; they leave when some have gathered, or with `turn`.  Raises BrokerError."""
        self._examples += [record for record in out if record.target == "examples"]
        self._gathered += [record for record in out if record.target != "examples"]
        if len(self._gathered) >= GATHERED_MAX:
            await self.answers()
        if len(self._examples) >= EXAMPLES_MAX:
            await self.turn()

    async def turn(self) -> None:
        """Send what has gathered and the examples of the turn before.  Raises BrokerError."""
        await self.answers()
        examples, self._behind, self._examples = self._behind, self._examples, []
        written, self._written = self._written, self._sink.unwritten(self._catalog["predictions"])
        if examples:
            started_s = time.perf_counter()
            await self._sink.written(written)
            self._check_sizes("examples", examples)
            await self._sink.send(self._catalog["examples"], EXAMPLES_PARTITION, examples)
            self._stopwatch.steps["send"] += time.perf_counter() - started_s

    async def all(self) -> None:
        """Leave nothing behind: before a checkpoint, and before a command takes its place in the log."""
        await self.turn()
        await self.turn()
        await self._letters.flush()

    def clear(self) -> None:
        """Forget what was not sent: its owner has lost the right to."""
        self._gathered.clear()
        self._examples.clear()
        self._behind.clear()

    async def answers(self) -> None:
        """Send what has gathered, examples apart.  Raises BrokerError."""
        gathered, self._gathered = self._gathered, []
        lanes: dict[tuple[OutgoingRole, int | None], list[Outgoing]] = {}
        for record in gathered:
            lanes.setdefault((record.target, record.partition), []).append(record)
        started_s = time.perf_counter()
        for (target, partition), records in lanes.items():
            if target == "dead-letters":
                self.watch.see(records)
                await self._letters.send(records)
                continue
            if target in {"predictions", "shadow-predictions"}:
                self._check_sizes(target, records)
            await self._sink.send(self._topics[target], partition, records)
        self._stopwatch.steps["send"] += time.perf_counter() - started_s

    def _check_sizes(self, target: OutgoingRole, records: Sequence[Outgoing]) -> None:
        """Raise BrokerError, with its place, for a record that its topic would refuse for ever."""
        topic = self._topics[target]
        limits = self._limits.get(topic)
        if limits is None:
            return
        bytes_max = limits.record_bytes_max - ENVELOPE_BYTES
        for record in records:
            if len(record.value or b"") > bytes_max:
                raise record_too_large(record, bytes_max, self._catalog)
