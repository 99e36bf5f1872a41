"""The way of records into their logs: gathered by turns, in batches, in order, all acknowledged or an error.

Lives here: partitioning by key, batches, acknowledgements and the offsets of what was written (`Sink`), dead
letters that no size keeps from their topic (`LetterSink`), the one order that matters between two logs
(`Dispatch`).  Never here: what records mean, whether they count (`operators/claims/rule.py`), when a turn
ends (`engine/worker/loop.py`), why a record is refused (`engine/machines/outbox.py`).

Strategy: aiokafka's own batches (`create_batch`, `send_batch`) instead of one future per
record, four times as fast.  Read in aiokafka 0.14: a partition has one request under way,
a retry goes back to the head of its queue, and sequence numbers are given to a batch when
it leaves, so order and idempotence hold.  A batch is closed before it is handed over: one
that grew afterwards would leave with fewer sequence numbers than records.

A prediction is in its log before an example is sent that was made from it.  Otherwise a crash
in between would leave an example whose prediction is made anew, by models that have learned
it.  Examples therefore leave one turn later, when the acknowledgements are usually here:

    turn 1   predictions 1 ->              examples 1 kept
    turn 2   predictions 2 ->  1 there? -> examples 1 ->   examples 2 kept

Dead letters have a producer of their own, from the first letter on, without idempotence.  An idempotent
producer cannot go on after a batch that was refused, and dead letters are written at least once anyway.  A
refusal for size (someone has lowered the limit) halves what a letter may take, and all that is not
acknowledged goes again.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors
from aiokafka.errors import MessageSizeTooLargeError
from aiokafka.partitioner import murmur2

from engine.kafka.client import (
    LOOK_S,
    REFUSED,
    LogPartition,
    MissingTopics,
    broker_error,
    broker_wait,
    connect,
    disconnect,
)
from engine.kafka.topic_admin import ENVELOPE_BYTES, LETTER_LIMIT_MIN, TopicLimits, record_too_large
from engine.settings import KafkaSettings
from operators.stopwatch import Stopwatch
from topics.catalog import Catalog
from topics.errors import BrokerError
from topics.headers import fitted, record_bytes
from topics.messages import Content, Outgoing, OutgoingRole

__all__ = ["Dispatch", "LetterSink", "Lookers", "Mark", "Sink", "Written", "open_sink", "partition_of"]

BATCH_BYTES_MAX = 524_288
"""Half of what brokers take in one batch by default (`message.max.bytes` 1 MiB)."""
PENDING_BYTES_MAX = 4_194_304
"""Dead letters kept until they are acknowledged; beyond, sending waits for them."""
GATHERED_MAX = 1_000
"""Answers leave in batches of at most so many: a batch costs the broker, and us, more than a record."""
EXAMPLES_MAX = 1_000
"""Examples kept back at most, about 1 MB."""
SIZES_CHECKED = {"predictions", "shadow-predictions", "examples"}
"""Logs of what grows with the user's events."""
KEYS_CACHED_MAX = 65_536
"""murmur2 in Python costs as much as sending the record: the last keys' hashes are remembered."""
Lookers = Mapping[OutgoingRole, Sequence[Callable[[Sequence[Outgoing]], object]]]
"""Who looks at the records of a role."""
_ALL_TIMES = (-(1 << 62), 1 << 62)

log = structlog.get_logger("headrace")


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
    """The number of records since the Sink was started."""
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
        """The limits of topics, by name: timestamps are clamped and batches kept small enough for them."""
        self._kafka = kafka
        self._producer: Any = None
        self._lanes: dict[LogPartition, asyncio.Lock] = {}
        self._counts: dict[str, int] = {}
        self._unacknowledged: dict[asyncio.Future[Any], _Batch] = {}
        """Batches that are not acknowledged yet."""
        self._records: dict[LogPartition, int] = {}
        """The number of records sent."""
        self._last: dict[LogPartition, int] = {}
        self._keyless = 0
        self._failure: BrokerError | None = None
        self._missing = MissingTopics()

    async def start(self) -> None:
        """Connect.  Raises BrokerError."""
        try:
            self._producer = await connect(self._make, self._kafka)
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
        await disconnect(self._producer, self._kafka)

    async def partitions(self, topic: str) -> int:
        """Return how many partitions a topic has, as of the first call: later ones would move keys."""
        if topic not in self._counts:
            try:
                async with asyncio.timeout(self._kafka.flush_deadline_ms / 1000):
                    self._counts[topic] = len(await self._producer.partitions_for(topic))
            except (*REFUSED, TimeoutError) as error:
                raise broker_error(error, f"looking for topic {topic}", self._kafka) from error
        return self._counts[topic]

    async def send(self, topic: str, partition: int | None, records: Sequence[Outgoing | Content]) -> None:
        """Hand records to the producer; None lets the key decide.  Returns before they are acknowledged.

        Records for one partition lie in the log one behind the other.  Raises BrokerError.
        """
        self._check()
        if partition is None:
            for number, run in (await self._by_key(topic, records)).items():
                await self.send(topic, number, run)
            return
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

    async def _by_key(
        self, topic: str, records: Sequence[Outgoing | Content]
    ) -> dict[int, list[Outgoing | Content]]:
        """Return the records by the partition of their keys; those without a key go round."""
        count = await self.partitions(topic)
        runs: dict[int, list[Outgoing | Content]] = {}
        for record in records:
            if record.key is None:
                self._keyless = number = (self._keyless + 1) % count
            else:
                number = partition_of(record.key, count)
            runs.setdefault(number, []).append(record)
        return runs

    async def _placed(self, batch: Any, topic: str, partition: int) -> asyncio.Future[Any]:
        """Give a batch to aiokafka, however long the one before it waits: aiokafka gives up sooner."""
        with broker_wait():
            while True:
                placing = asyncio.ensure_future(self._producer.send_batch(batch, topic, partition=partition))
                try:
                    while not placing.done():
                        await asyncio.wait({placing}, timeout=LOOK_S)
                        self._look([topic])
                finally:
                    placing.cancel()
                with suppress(kafka_errors.KafkaTimeoutError):
                    placed: asyncio.Future[Any] = placing.result()
                    return placed

    def _look(self, topics: Iterable[str]) -> None:
        """Raise BrokerError for a topic that is there no more, and for what has failed meanwhile."""
        self._check()
        try:
            self._missing.check(self._producer.client, topics)
        except BrokerError as error:
            self._failure = error
            raise

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
            elif done.result().offset <= (before := self._last.get(partition, -1)):
                self._failure = self._failure or BrokerError(
                    f"a record was written at offset {done.result().offset}, the one before it at {before}:"
                    " the topic was deleted and made anew",
                    hint="the new topic is another log, and the checkpoints do not fit it: start anew, with"
                    " another pipeline `name` or an empty store",
                    topic=partition[0],
                    partition=partition[1],
                )
            else:
                self._last[partition] = _last_of(done, count)

        self._unacknowledged[future] = _Batch(partition, count)
        self._records[partition] = self._records.get(partition, 0) + count
        future.add_done_callback(acknowledged)

    async def flush(self) -> dict[LogPartition, int]:
        """Wait until all that was sent is acknowledged.

        Returns, for each partition this Sink has ever written to, the offset of the last
        record it wrote there.  Raises BrokerError if any write failed or the deadline passed.
        """
        written = await self.written_to(self.mark())
        return {partition: last.offset for partition, last in written.items()}

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
        self._check()
        late = {batch for batch in batches if not batch.done()}
        deadline_s = time.monotonic() + self._kafka.flush_deadline_ms / 1000
        if late:
            with broker_wait():
                while late and (left_s := deadline_s - time.monotonic()) > 0:
                    topics = {self._unacknowledged[batch].partition[0] for batch in late}
                    _, late = await asyncio.wait(late, timeout=min(left_s, LOOK_S))
                    self._look(topics)
            if late:
                self._failure = broker_error(TimeoutError(), f"flushing {len(late)} batches", self._kafka)
        self._check()

    def last_offset(self, partition: LogPartition) -> int:
        """Return the offset of the last record that was acknowledged there; -1 before the first."""
        return self._last.get(partition, -1)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure


@asynccontextmanager
async def open_sink(kafka: KafkaSettings) -> AsyncGenerator[Sink]:
    """Start a sink for the block and stop it at its end.  Raises BrokerError."""
    sink = Sink(kafka)
    await sink.start()
    try:
        yield sink
    finally:
        await sink.stop()


class LetterSink:
    """Writes dead letters to one topic, each stamped with the time of writing."""

    def __init__(self, kafka: KafkaSettings, topic: str) -> None:
        self.limits = TopicLimits()
        """The limits of the topic: set once they are known; `bytes_max` is halved where it takes less."""
        self.counts: Counter[tuple[str, str]] = Counter()
        """The number of letters that were cut, which the worker exports."""
        self._told = False
        self._kafka = kafka.model_copy(update={"enable_idempotence": False})
        self._topic = topic
        self._sink: Sink | None = None
        self._pending: list[Outgoing] = []
        self._pending_bytes = 0

    async def send(self, letters: Sequence[Outgoing]) -> None:
        """Send letters, cut to what the topic takes.  Raises BrokerError, but for no size."""
        self._pending += letters
        self._pending_bytes += sum(len(letter.value or b"") for letter in letters)
        try:
            await self._send(letters)
        except BrokerError as error:
            await self._send_smaller(error)
        if self._pending_bytes > PENDING_BYTES_MAX:
            await self.flush()

    async def flush(self) -> None:
        """Wait until all letters are acknowledged.  Raises BrokerError."""
        if self._pending and self._sink is not None:
            try:
                await self._sink.flush()
            except BrokerError as error:
                await self._send_smaller(error)
        self._pending.clear()
        self._pending_bytes = 0

    async def stop(self) -> None:
        """Close the producer."""
        sink, self._sink = self._sink, None
        if sink is not None:
            await sink.stop()

    async def _send(self, letters: Sequence[Outgoing]) -> None:
        if self._sink is None:
            self._sink = Sink(self._kafka)
            self._sink.limits = {self._topic: self.limits}
            await self._sink.start()
        bytes_max = self.limits.record_bytes_max
        sent = [fitted(letter, bytes_max) for letter in letters]
        if cut := sum(one is not letter for one, letter in zip(sent, letters, strict=True)):
            self._tell(cut)
        await self._sink.send(self._topic, None, sent)

    def _tell(self, cut: int) -> None:
        """Count letters that were cut, and log the first: headers of each letter say what is missing."""
        self.counts["letters_cut", "size"] += cut
        if not self._told:
            self._told = True
            log.warning("dead letters are cut: their topic takes less", topic=self._topic)

    async def _send_smaller(self, error: BrokerError) -> None:
        """Write all unacknowledged letters again, cut smaller each time, until the topic takes them."""
        while isinstance(error.__cause__, MessageSizeTooLargeError):
            if self.limits.bytes_max <= LETTER_LIMIT_MIN:
                break
            smaller = max(self.limits.bytes_max // 2, LETTER_LIMIT_MIN)
            log.warning("dead letters were too large for their topic", topic=self._topic, cut_to=smaller)
            self.limits = replace(self.limits, bytes_max=smaller)
            await self.stop()
            try:
                await self._send(self._pending)
                assert self._sink is not None
                await self._sink.flush()
            except BrokerError as again:
                error = again
            else:
                return
        raise error


class Dispatch:
    """Sends what a worker makes, in order per log, to the topics that `catalog` names."""

    def __init__(
        self,
        sink: Sink,
        kafka: KafkaSettings,
        catalog: Catalog,
        stopwatch: Stopwatch,
        lookers: Lookers,
    ) -> None:
        """`lookers` are called with the records of a role before these are sent."""
        self._sink = sink
        self._lookers = lookers
        self._letters = LetterSink(kafka, catalog["dead-letters"])
        self._catalog = catalog
        self._topics = {role: topic for topic, role in catalog.roles.items()}
        self._stopwatch = stopwatch
        self._lanes: dict[tuple[OutgoingRole, int | None], list[Outgoing]] = {}
        """Records queued since the last turn, without examples."""
        self._gathered = 0
        self._examples: list[Outgoing] = []
        self._behind: list[Outgoing] = []
        """The last turn's examples ..."""
        self._written: frozenset[asyncio.Future[Any]] = frozenset()
        """... and the predictions that must be acknowledged before them."""

    def limit(self, limits: Mapping[str, TopicLimits]) -> None:
        """Set the limits of topics, by topic name, that every write keeps."""
        self._sink.limits = limits
        self._letters.limits = limits[self._catalog["dead-letters"]]

    @property
    def counts(self) -> Counter[tuple[str, str]]:
        """Counts by (metric, label), which the worker exports."""
        return self._letters.counts

    async def stop(self) -> None:
        """Close the producer of dead letters; the sink stays open."""
        await self._letters.stop()

    async def put(self, out: Sequence[Outgoing]) -> None:
        """Queue records; they are sent when GATHERED_MAX have gathered, or by `turn`.  Raises BrokerError."""
        for record in out:
            if record.target == "examples":
                self._examples.append(record)
            else:
                self._lanes.setdefault((record.target, record.partition), []).append(record)
                self._gathered += 1
        if self._gathered >= GATHERED_MAX:
            await self.answers()
        if len(self._examples) >= EXAMPLES_MAX:
            await self.turn()

    async def turn(self) -> None:
        """Send the queued records and the examples of the turn before.  Raises BrokerError."""
        await self.answers()
        examples, self._behind, self._examples = self._behind, self._examples, []
        written, self._written = self._written, self._sink.unwritten(self._catalog["predictions"])
        if examples:
            started_s = time.perf_counter()
            await self._sink.written(written)
            for partition, of_partition in groupby(examples, key=lambda record: record.partition):
                await self._send("examples", partition, list(of_partition))
            self._stopwatch.steps["send"] += time.perf_counter() - started_s

    async def all(self) -> None:
        """Send everything queued: before a checkpoint, and before a command is written to the log."""
        await self.turn()
        await self.turn()
        await self._letters.flush()

    def clear(self) -> None:
        """Discard what was not sent: its owner may write no more."""
        self._lanes, self._gathered = {}, 0
        self._examples.clear()
        self._behind.clear()

    async def answers(self) -> None:
        """Send the queued records but examples.  Raises BrokerError."""
        lanes, self._lanes, self._gathered = self._lanes, {}, 0
        started_s = time.perf_counter()
        for (target, partition), records in lanes.items():
            for see in self._lookers.get(target, ()):
                see(records)
            if target == "dead-letters":
                await self._letters.send(records)
            else:
                await self._send(target, partition, records)
        self._stopwatch.steps["send"] += time.perf_counter() - started_s

    async def _send(self, target: OutgoingRole, partition: int | None, records: Sequence[Outgoing]) -> None:
        """Send records of one log.  Raises BrokerError for one that its topic would refuse for ever."""
        topic = self._topics[target]
        if target in SIZES_CHECKED and (limits := self._sink.limits.get(topic)) is not None:
            bytes_max = limits.record_bytes_max - ENVELOPE_BYTES
            for record in records:
                if len(record.value or b"") > bytes_max:
                    raise record_too_large(record, bytes_max, self._catalog)
        await self._sink.send(topic, partition, records)


def _last_of(acknowledged: asyncio.Future[Any], records: int) -> int:
    """Return the offset of the last record of a batch."""
    first: int = acknowledged.result().offset
    return first + records - 1


def _pack(batch: Any, records: Sequence[Outgoing | Content], start: int, limits: TopicLimits | None) -> int:
    """Fill a batch with records from `start` on; return the first that found no room."""
    append = batch.append
    earliest_ms, latest_ms = _ALL_TIMES
    if limits is not None:
        # Never later than now: how far ahead a broker takes times differs, and the true one is in the value.
        latest_ms = time.time_ns() // 1_000_000
        earliest_ms = max(0, latest_ms - limits.age_max_ms)
    for index in range(start, len(records)):
        record = records[index]
        stamp = record.timestamp_ms
        if stamp is not None and not earliest_ms <= stamp <= latest_ms:
            stamp = min(max(stamp, earliest_ms), latest_ms)
        if limits is not None and limits.record_bytes_max < BATCH_BYTES_MAX and _full(batch, record, limits):
            batch.close()
            return index
        if append(timestamp=stamp, key=record.key, value=record.value, headers=[*record.headers]) is None:
            return index
    batch.close()
    return len(records)


def _full(batch: Any, record: Outgoing | Content, limits: TopicLimits) -> bool:
    """Return whether a topic that takes little does not take this record in the same batch."""
    return bool(batch.record_count()) and batch.size() + record_bytes(record) > limits.record_bytes_max
