"""Independent eyes on what workers write: whole topics, and the claims rule written a second time.

Lives here: reading with plain aiokafka and plain JSON; the models a worker saved beside those that its
examples log gives.  Never here: a test, starting workers (`running.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition

from engine.definition.file import load_pipeline
from engine.definition.pipeline import Pipeline
from engine.kafka.log_reader import log_bounds
from engine.settings import KafkaSettings, Settings
from engine.stores.places import artefact_store, checkpoint_store
from engine.worker.assembly import build_learner, signing_keys
from engine.worker.model_factory import ModelFactory
from topics.messages import Record

READ_DEADLINE_S = 90.0
"""For reading a topic of a few thousand records on a busy machine."""


class Read(NamedTuple):
    """A record of a log that is no claim, and whether it counts."""

    counts: bool
    record_type: str
    value: dict[str, Any]


class Fold:
    """The claims rule, a second time: which records of one partition of a claimed log count."""

    def __init__(self) -> None:
        self._owners: dict[int, tuple[int, int | None]] = {}
        self.claims: list[int] = []
        """Claim numbers that took effect."""

    def read(self, record: Any) -> Read | None:
        """Take the next record of the partition; None for a claim."""
        record_type, value = record_type_of(record), json.loads(record.value)
        source = value.get("source_partition", record.partition)
        if record_type == "claim":
            if value["claim"] > self._owners.get(source, (0, None))[0]:
                self._owners[source] = value["claim"], 0
                self.claims.append(value["claim"])
            return None
        return Read(
            record_type in {"command", "field", "slow"} or self._counts(source, value),
            record_type or "prediction",
            value,
        )

    def _counts(self, source: int, value: Mapping[str, Any]) -> bool:
        held, expected = self._owners.get(source, (0, None))
        if value["claim"] != held or expected is None or value["sequence"] < expected:
            return False
        if value["sequence"] > expected:
            self._owners[source] = held, None
            return False
        self._owners[source] = held, expected + 1
        return True


def record_type_of(record: Any) -> str:
    return dict(record.headers).get("headrace-kind", b"").decode()


def folded(records: Iterable[Any]) -> list[Read]:
    """Fold the records of a predictions or examples topic, partition by partition."""
    folds: dict[int, Fold] = {}
    found = (folds.setdefault(record.partition, Fold()).read(record) for record in records)
    return [read for read in found if read is not None]


def counting(
    records: Iterable[Any], record_type: str = "prediction", *, published: Mapping[str, int] | None = None
) -> dict[str, dict[str, Any]]:
    """Return the first record of one type that counts, by event id; fail if an id counts twice.

    Where `published` says how often an event lies in its topic, it may count as often: it is answered again.
    """
    found: dict[str, dict[str, Any]] = {}
    times: Counter[str] = Counter()
    for read in folded(records):
        if read.counts and read.record_type == record_type:
            event_id = read.value["event_id"]
            times[event_id] += 1
            allowed = 1 if published is None else published[event_id]
            assert times[event_id] <= allowed, f"{record_type} of {event_id} counts {times[event_id]} times"
            found.setdefault(event_id, read.value)
    return found


def claims_of(records: Iterable[Any], source: int = 0) -> list[int]:
    """Return the claims that took effect for one source, in log order."""
    fold = Fold()
    for record in records:
        if record_type_of(record) == "claim" and json.loads(record.value)["source_partition"] == source:
            fold.read(record)
    return fold.claims


class Watch:
    """Topics read from their beginning as they grow: what counts in them, by event id."""

    def __init__(self, consumer: Any) -> None:
        self.seen: dict[str, set[str]] = {}
        """Event ids on a topic, whether their records count or not."""
        self.counts: dict[str, Counter[str]] = {}
        """How often an event id counts on a topic."""
        self.places: Counter[tuple[str, int]] = Counter()
        """Records of each partition, claims left out."""
        self.commands: Counter[str] = Counter()
        """Command ids in examples logs."""
        self.dropped = 0
        """Records that do not count."""
        self._consumer = consumer
        self._folds: dict[TopicPartition, Fold] = {}

    async def _follow(self) -> None:
        while True:
            for tp, records in (await self._consumer.getmany(timeout_ms=200)).items():
                fold = self._folds.setdefault(tp, Fold())
                for record in records:
                    self._take(tp, fold.read(record))

    def _take(self, tp: TopicPartition, read: Read | None) -> None:
        if read is None or read.record_type in {"field", "slow", "block"}:
            return
        if read.record_type == "command":
            self.commands[read.value["command_id"]] += 1
            return
        event_id = read.value["event_id"]
        self.places[tp.topic, tp.partition] += 1
        self.dropped += not read.counts
        self.seen.setdefault(tp.topic, set()).add(event_id)
        self.counts.setdefault(tp.topic, Counter())[event_id] += read.counts

    def answered(self, topic: str) -> int:
        """Return how many event ids were seen on `topic`."""
        return len(self.seen.get(topic, ()))

    def counted(self, topic: str) -> int:
        """Return how many records count on `topic`."""
        return self.counts.get(topic, Counter()).total()


@contextlib.asynccontextmanager
async def watching(kafka: KafkaSettings, *topics: str) -> AsyncIterator[Watch]:
    """Follow topics in the background."""
    async with _consumer(kafka, topics) as consumer:
        watch = Watch(consumer)
        following = asyncio.create_task(watch._follow())
        try:
            yield watch
        finally:
            following.cancel()
            await asyncio.wait({following})


async def coming(kafka: KafkaSettings, topic: str) -> AsyncIterator[list[Any]]:
    """Yield the records of a topic from its beginning, as they come, for as long as somebody asks."""
    async with _consumer(kafka, [topic]) as consumer:
        while True:
            for records in (await consumer.getmany(timeout_ms=100)).values():
                yield records


async def read_topic(kafka: KafkaSettings, topic: str) -> list[Any]:
    """Return every record of a topic, partition by partition, in log order."""
    ends = {number: end for number, (_, end) in (await log_bounds(kafka, topic)).items()}
    found: dict[int, list[Any]] = {number: [] for number in ends}
    async with _consumer(kafka, [topic]) as consumer, asyncio.timeout(READ_DEADLINE_S):
        for number, end in ends.items():
            tp = TopicPartition(topic, number)
            while await consumer.position(tp) < end:
                for records in (await consumer.getmany(tp, timeout_ms=100)).values():
                    found[number] += records
    return [record for number in sorted(found) for record in found[number]]


@contextlib.asynccontextmanager
async def _consumer(kafka: KafkaSettings, topics: Iterable[str]) -> AsyncIterator[Any]:
    partitions = [
        TopicPartition(topic, number) for topic in topics for number in await log_bounds(kafka, topic)
    ]
    consumer = AIOKafkaConsumer(
        **kafka.aiokafka_options(), auto_offset_reset="earliest", enable_auto_commit=False
    )
    try:
        await consumer.start()
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        yield consumer
    finally:
        await consumer.stop()


async def saved_digests(file: Path, state_dir: Path, **shared: Any) -> tuple[dict[str, str], int]:
    """Return the digests and the number of examples of the learner that a worker saved.

    `shared` are the settings of a store that is not in the state directory.
    """
    pipeline = load_pipeline(file)
    settings = Settings(state_dir=state_dir, **shared)
    learner = build_learner(pipeline, source=source_of(pipeline, settings))
    store = checkpoint_store(settings, pipeline.name, "learner", 0)
    checkpoint = await store.load()
    await store.close()
    assert checkpoint is not None
    learner.restore(checkpoint.entries)
    return learner.digests(), learner.examples


def source_of(pipeline: Pipeline, settings: Settings) -> ModelFactory:
    """Return where the workers of these settings find models."""
    return ModelFactory(pipeline, keys=signing_keys(settings), stored=artefact_store(settings, pipeline.name))


def folded_digests(
    file: Path, examples: Sequence[Any], *, state_dir: Path | None = None
) -> tuple[dict[str, str], int]:
    """Return the digests and the number of examples of a fresh learner that folds an examples topic.

    `state_dir` has the artefacts that its field records name.
    """
    pipeline = load_pipeline(file)
    learner = build_learner(
        pipeline, source=None if state_dir is None else source_of(pipeline, Settings(state_dir=state_dir))
    )
    log = [
        Record(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers))
        for r in examples
    ]
    while learner.reading <= log[-1].offset:  # a resume goes back to its pause
        learner.fold(log)
    return learner.digests(), learner.examples


def decoded(records: Iterable[Any]) -> list[dict[str, Any]]:
    """Return the values of a topic."""
    return [json.loads(record.value) for record in records]
