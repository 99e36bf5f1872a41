"""A producer that writes runs of records in order: all acknowledged, or an error.

Lives here: partitioning by key, batches, acknowledgements, the offsets of what was written.
Never here: what records mean, whether they count (`operators/claims/rule.py`).

Strategy: aiokafka's own batches (`create_batch`, `send_batch`) instead of one future per
record, four times as fast.  Read in aiokafka 0.14: a partition has one request under way,
a retry goes back to the head of its queue, and sequence numbers are given to a batch when
it leaves, so order and idempotence hold.  A batch is closed before it is handed over: one
that grew afterwards would leave with fewer sequence numbers than records.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors
from aiokafka.partitioner import murmur2

from engine.kafka.client import REFUSED, LogPartition, broker_error, broker_wait, connected, stopped
from engine.kafka.topic_admin import TopicLimits
from engine.settings import KafkaSettings
from topics.errors import BrokerError
from topics.headers import record_bytes
from topics.messages import Outgoing

__all__ = ["Mark", "Sink", "Written", "partition_of"]

BATCH_BYTES_MAX = 524_288
"""Half of what brokers take in one batch by default (`message.max.bytes` 1 MiB)."""
KEYS_CACHED_MAX = 65_536
"""murmur2 in Python costs as much as sending the record: the last keys' hashes are remembered."""
_ALL_TIMES = (-(1 << 62), 1 << 62)


@lru_cache(maxsize=KEYS_CACHED_MAX)
def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of a key, as Kafka's Java client does: murmur2, sign dropped, modulo.

    >>> partition_of(b"JFK", 4)
    1
    """
    hashed: int = murmur2(key)
    return (hashed & 0x7FFFFFFF) % partitions


class Written(NamedTuple):
    """The records that a Sink has written to one partition, all acknowledged."""

    records: int
    """How many since the Sink was started."""
    offset: int
    """Where the last of them lies."""


class Mark(NamedTuple):
    """The records sent up to one moment, for `Sink.written_to`."""

    records: dict[LogPartition, int]
    last: dict[LogPartition, int]
    batches: dict[asyncio.Future[Any], _Batch]
    """Not acknowledged at that moment."""


class _Batch(NamedTuple):
    partition: LogPartition
    records: int


class Sink:
    """One producer.  Per partition, records lie in the log in the order they were sent.

    `send` encodes a run of records straight into batches; each partition has at most one
    batch on its way and one waiting for it (aiokafka), and `send` waits for the second
    place: that bounds what is in flight.  After the first failure, or a `send` that was
    cancelled half-way, every call raises: build a new Sink and claim again.
    """

    def __init__(self, kafka: KafkaSettings) -> None:
        self.limits: Mapping[str, TopicLimits] = {}
        """What topics take, by name: there, timestamps are clamped and batches kept small enough."""
        self._kafka = kafka
        self._producer: Any = None
        self._lanes: dict[LogPartition, asyncio.Lock] = {}
        self._counts: dict[str, int] = {}
        self._unacknowledged: dict[asyncio.Future[Any], _Batch] = {}
        """What is on its way."""
        self._records: dict[LogPartition, int] = {}
        """How many were sent."""
        self._last: dict[LogPartition, int] = {}
        self._keyless = 0
        self._failure: BrokerError | None = None

    async def start(self) -> None:
        """Connect.  Raises BrokerError."""
        try:
            self._producer = await connected(self._make, self._kafka)
        except BrokerError as error:
            if isinstance(error.__cause__, kafka_errors.UnknownError):
                error.hint = "this broker takes no idempotent producer: kafka.enable_idempotence = false"
            raise

    def _make(self) -> Any:
        producer = AIOKafkaProducer(
            **self._kafka.aiokafka_options(),
            acks="all",
            enable_idempotence=self._kafka.enable_idempotence,
            compression_type=self._kafka.compression_type,
            max_batch_size=BATCH_BYTES_MAX,
        )
        # aiokafka would give up a batch older than a request may take where a leader is not elected yet.
        longest_ms = max(self._kafka.flush_deadline_ms, self._kafka.request_timeout_ms)
        producer._message_accumulator._batch_ttl = longest_ms / 1000
        return producer

    async def stop(self) -> None:
        """Wait for acknowledgements until the deadline, then close."""
        await stopped(self._producer, self._kafka)

    async def partitions(self, topic: str) -> int:
        """Return how many partitions a topic has: as many as at the first call, for keys must stay put."""
        if topic not in self._counts:
            try:
                async with asyncio.timeout(self._kafka.flush_deadline_ms / 1000):
                    self._counts[topic] = len(await self._producer.partitions_for(topic))
            except (*REFUSED, TimeoutError) as error:
                raise broker_error(error, f"looking for topic {topic}", self._kafka) from error
        return self._counts[topic]

    async def send(self, topic: str, partition: int | None, records: Sequence[Outgoing]) -> None:
        """Hand records to the producer; None lets the key decide.  Returns before they are acknowledged.

        Records for one partition lie in the log one behind the other.  Raises BrokerError.
        """
        self._check()
        if partition is not None:
            await self._lane(topic, partition, records)
            return
        count = await self.partitions(topic)
        runs: dict[int, list[Outgoing]] = {}
        for record in records:
            if record.key is None:
                self._keyless = number = (self._keyless + 1) % count
            else:
                number = partition_of(record.key, count)
            runs.setdefault(number, []).append(record)
        for number, run in runs.items():
            await self._lane(topic, number, run)

    async def _lane(self, topic: str, partition: int, records: Sequence[Outgoing]) -> None:
        lane = self._lanes.setdefault((topic, partition), asyncio.Lock())
        try:
            async with lane, asyncio.timeout(self._kafka.flush_deadline_ms / 1000):
                start = 0
                while start < len(records):
                    batch = self._producer.create_batch()
                    start = _pack(batch, records, start, self.limits.get(topic))
                    future = await self._placed(batch, topic, partition)
                    self._track((topic, partition), batch.record_count(), future)
        except (*REFUSED, TimeoutError) as error:
            self._failure = broker_error(error, f"writing to {topic}", self._kafka)
            raise self._failure from error
        except BaseException:
            self._failure = BrokerError(f"a write to {topic} was broken off", hint="build a new Sink")
            raise

    async def _placed(self, batch: Any, topic: str, partition: int) -> asyncio.Future[Any]:
        """Hand a batch over, however long the one before it waits: aiokafka gives up sooner than we do."""
        with broker_wait():
            while True:
                with suppress(kafka_errors.KafkaTimeoutError):
                    placed: asyncio.Future[Any] = await self._producer.send_batch(
                        batch, topic, partition=partition
                    )
                    return placed

    def _track(self, partition: LogPartition, count: int, future: asyncio.Future[Any]) -> None:
        def acknowledged(done: asyncio.Future[Any]) -> None:
            del self._unacknowledged[done]
            error = None if done.cancelled() else done.exception()
            if error is not None:
                self._failure = self._failure or broker_error(
                    error, f"writing to {partition[0]}", self._kafka
                )
            elif done.cancelled() or done.result() is None or done.result().offset < 0:
                # The broker dropped a repeat it no longer remembers: written, but where?
                self._failure = self._failure or BrokerError(
                    "a batch was acknowledged without its offset", hint="claim again", topic=partition[0]
                )
            else:
                self._last[partition] = max(self._last.get(partition, -1), _last_of(done, count))

        self._unacknowledged[future] = _Batch(partition, count)
        self._records[partition] = self._records.get(partition, 0) + count
        future.add_done_callback(acknowledged)

    async def flush(self) -> dict[LogPartition, int]:
        """Wait until all that was sent is acknowledged.

        Returns, for each partition this Sink has ever written to, the offset of the last
        record it wrote there.  Raises BrokerError if any write failed or the deadline passed.
        """
        written = await self.written_to(self.mark())
        return {partition: found.offset for partition, found in written.items()}

    def mark(self) -> Mark:
        """Return what has been sent by now, for `written_to`."""
        return Mark(self._records.copy(), self._last.copy(), self._unacknowledged.copy())

    async def written_to(self, mark: Mark) -> dict[LogPartition, Written]:
        """Wait until all that had been sent at `mark` is acknowledged; say what and where it is.

        What was sent since is neither waited for nor counted.  Raises BrokerError as `flush`.
        """
        await self.written(frozenset(mark.batches))
        last = mark.last.copy()
        for future, batch in mark.batches.items():
            last[batch.partition] = max(last.get(batch.partition, -1), _last_of(future, batch.records))
        return {partition: Written(mark.records[partition], offset) for partition, offset in last.items()}

    def unwritten(self, topic: str) -> frozenset[asyncio.Future[Any]]:
        """Return the batches for one topic that are on their way, for `written`."""
        return frozenset(
            future for future, batch in self._unacknowledged.items() if batch.partition[0] == topic
        )

    async def written(self, batches: frozenset[asyncio.Future[Any]]) -> None:
        """Wait until these batches are acknowledged.  Raises BrokerError."""
        await self._wait_for({batch for batch in batches if not batch.done()})

    async def _wait_for(self, batches: set[asyncio.Future[Any]]) -> None:
        self._check()
        if batches:
            with broker_wait():
                _, late = await asyncio.wait(batches, timeout=self._kafka.flush_deadline_ms / 1000)
            if late:
                self._failure = broker_error(TimeoutError(), f"flushing {len(late)} batches", self._kafka)
        self._check()

    def last_offset(self, partition: LogPartition) -> int:
        """Return the offset of the last record that was acknowledged there; -1 before the first."""
        return self._last.get(partition, -1)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure


def _last_of(acknowledged: asyncio.Future[Any], records: int) -> int:
    """Return the offset of the last record of a batch."""
    first: int = acknowledged.result().offset
    return first + records - 1


def _pack(batch: Any, records: Sequence[Outgoing], start: int, limits: TopicLimits | None) -> int:
    """Fill a batch with records from `start` on; return the first that found no room."""
    append = batch.append
    earliest_ms, latest_ms = _ALL_TIMES
    if limits is not None:
        # Never later than now: how far ahead a broker takes times differs, and the true one is in the value.
        latest_ms = time.time_ns() // 1_000_000
        earliest_ms = max(0, latest_ms - limits.age_max_ms)
    narrow = limits is not None and limits.record_bytes_max < BATCH_BYTES_MAX
    for index in range(start, len(records)):
        record = records[index]
        stamp = record.timestamp_ms
        if stamp is not None and not earliest_ms <= stamp <= latest_ms:
            stamp = min(max(stamp, earliest_ms), latest_ms)
        if narrow and limits is not None and _full(batch, record, limits):
            batch.close()
            return index
        headers = [*record.headers]
        if append(timestamp=stamp, key=record.key, value=record.value, headers=headers) is None:
            return index
    batch.close()
    return len(records)


def _full(batch: Any, record: Outgoing, limits: TopicLimits) -> bool:
    """Return whether a topic that takes little does not take this record in the same batch."""
    return bool(batch.record_count()) and batch.size() + record_bytes(record) > limits.record_bytes_max
