"""An open loop over Kafka: events leave on schedule, answers are read by an independent consumer.

Lives here: waiting, clocks, sockets of `headrace bench`.  Never here: what an event looks like
(`feed.py`), who was answered and how late (`ledger.py`).

Strategy.  Event n is due when its schedule says (steady: at start + n / rate), and that is where its latency
starts, however late the sender is: a system that stalls is charged for what should have been sent meanwhile.
Its label, where labels are sent, is due a fixed time later.
The reader is no member of any group: it takes all partitions of the predictions topic from the
ends they had before the first event, and reads on until every event is answered, then up to the
ends of that moment, so that a second answer is seen too.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, Protocol

import msgspec
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.partitioner import murmur2
from msgspec import Struct

from engine.kafka.client import REFUSED, assigned_consumer, broker_error, open_client
from engine.kafka.log_reader import log_bounds
from engine.kafka.topic_admin import partition_counts
from engine.settings import KafkaSettings
from loadtest.bench.feed import FeedEvent, LabelFeed
from loadtest.bench.ledger import Account, Answer, AskedEvent, Latency, Ledger
from loadtest.bench.schedule import LoadScenario, Schedule
from loadtest.bench.slices import Slice, Slicer, Usage, slice_seconds
from topics.errors import BrokerError
from topics.headers import record_type_of

__all__ = ["EventFeed", "LabelLoad", "Load", "LoadOutcome", "OpenLoop", "connected_producer"]

LEAD_S = 0.2
"""Between the last preparation and the first event."""
TURN_EVENTS = 32
"""A sender that is behind lets the reader have its turn after so many events."""
READ_WAIT_MS = 100
"""Longest wait of one read: how soon the reader sees that all has been answered."""
SETTLE_S = 1.0
"""After the last answer: a second answer to it would follow within this."""


class Load(NamedTuple):
    """The load: what is sent, at which rate, and how long answers may take."""

    rate: float
    """Events per second."""
    duration_s: float
    warmup_s: float
    """Events of so many first seconds are matched, but not timed."""
    patience_s: float
    """Without any new answer for so long, what is missing is lost."""
    scenario: LoadScenario = "steady"
    seed: int = 0

    @property
    def schedule(self) -> Schedule:
        """What is sent and when."""
        return Schedule(self.scenario, self.rate, self.duration_s, self.seed)

    @property
    def events(self) -> int:
        """Return how many events are sent."""
        return self.schedule.events


class EventFeed(Protocol):
    """The events of a run, by number: of a bench (`feed.py`) or a soak (`loadtest/soak/course.py`)."""

    def event(self, number: int, event_time: int) -> FeedEvent:
        """Return the `number`-th event, due at `event_time` ms."""
        ...


class LabelLoad(NamedTuple):
    """What is told of each event, and how long after it."""

    topic: str
    feed: LabelFeed
    delay_s: float


class LoadOutcome(NamedTuple):
    """The result of a run."""

    account: Account
    latency: Latency
    """From due to read, ns."""
    lateness: Latency
    """From due to handed to the producer: the sender's own part of the latency."""
    seconds: float
    """From the first event due to the last answer read."""
    sent_s: float
    """From the first event due to the last event sent."""
    behind: int
    """Events without an answer when the last one was sent."""
    labels: int
    """Labels sent."""
    slices: tuple[Slice, ...] = ()


class _Seen(Struct, gc=False):
    """The part of a prediction that the ledger compares, read without the engine's own types."""

    prediction_id: str
    event_id: str
    event_time: int


class _Untold(NamedTuple):
    """A label that is due later."""

    due_ns: int
    number: int
    event_id: str
    key: bytes
    partition: int
    label_time: int


def connected_producer(kafka: KafkaSettings) -> AbstractAsyncContextManager[Any]:
    """Connect a producer as any client has it, none of the engine's.  Raises BrokerError."""
    return open_client(lambda: AIOKafkaProducer(**kafka.aiokafka_options(), acks="all"), kafka)


class OpenLoop:
    """One run against a running worker; call `run` once.

    `events` and `predictions` are topic names; without `labels` none are sent; `read_usage` says what the
    workers have taken.  Raises BrokerError where Kafka does not take an event or a topic is missing.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        *,
        pipeline_name: str,
        events: str,
        predictions: str,
        feed: EventFeed,
        labels: LabelLoad | None = None,
        read_usage: Callable[[], Usage | None] = lambda: None,
    ) -> None:
        self._kafka = kafka
        self._read_usage = read_usage
        self._events, self._predictions = events, predictions
        self._feed, self._labels = feed, labels
        self._untold: deque[_Untold] = deque()
        """Labels that are not due yet, in order: as many as there are events within the delay."""
        self._told = self._behind = self._sent_ns = 0
        self.ledger = Ledger(pipeline_name)
        self._latency, self._lateness = Latency(), Latency()
        self._timed_from_ns = self._last_answer_ns = 0
        self._sent = False
        self._refused: BaseException | None = None

    async def run(self, load: Load) -> LoadOutcome:
        """Send the load, read the answers, and return what came of it."""
        async with assigned_consumer(self._kafka) as consumer, connected_producer(self._kafka) as producer:
            events, predictions = await self._partitions()
            await self._stand_at_ends(consumer, predictions)
            started_ns = time.monotonic_ns() + int(LEAD_S * 1e9)
            slicer = Slicer(slice_seconds(load.duration_s), self._read_usage)
            reader = asyncio.create_task(self._read(consumer, load.patience_s, slicer, started_ns))
            try:
                await self._send(producer, load, started_ns, events)
                await reader
            finally:
                reader.cancel()
        seconds = max(0, self._last_answer_ns - started_ns) / 1e9
        return LoadOutcome(
            self.ledger.account(),
            self._latency,
            self._lateness,
            seconds,
            max(0, self._sent_ns - started_ns) / 1e9,
            self._behind,
            self._told,
            tuple(slicer.slices),
        )

    async def _partitions(self) -> tuple[int, int]:
        """Return how many partitions the events and the predictions topic have."""
        names = (self._events, self._predictions)
        counts = await partition_counts(self._kafka, names)
        for name in names:
            if not counts[name]:
                raise BrokerError(
                    "the topic is not there", hint="headrace topics create PIPELINE.py", topic=name
                )
        return counts[self._events] or 0, counts[self._predictions] or 0

    async def _stand_at_ends(self, consumer: Any, partitions: int) -> None:
        """Take every partition of the predictions topic, from its end as it is now."""
        held = [TopicPartition(self._predictions, number) for number in range(partitions)]
        consumer.assign(held)
        for number, (_, end) in (await log_bounds(self._kafka, self._predictions)).items():
            consumer.seek(TopicPartition(self._predictions, number), end)

    async def _send(self, producer: Any, load: Load, started_ns: int, partitions: int) -> None:
        """Send every event when it is due, or at once if that has passed."""
        schedule = load.schedule
        wall_ms = time.time_ns() // 1_000_000 + (started_ns - time.monotonic_ns()) // 1_000_000
        self._timed_from_ns = started_ns + int(load.warmup_s * 1e9)
        for number in range(schedule.events):
            due_ns = started_ns + int(schedule.due_s(number) * 1e9)
            now_ns = time.monotonic_ns()
            if now_ns < due_ns:
                # Loops round to whole milliseconds: late is honest, early would hide latency.
                while now_ns < due_ns:
                    await asyncio.sleep(math.ceil((due_ns - now_ns) / 1e6) / 1e3)
                    now_ns = time.monotonic_ns()
            elif number % TURN_EVENTS == 0:
                await asyncio.sleep(0)
            await self._tell(producer, due_ns)
            event_time = wall_ms + (due_ns - started_ns) // 1_000_000
            event_id, key, value = self._feed.event(number, event_time)
            partition = (murmur2(key) & 0x7FFFFFFF) % partitions
            self.ledger.asked(event_id, AskedEvent(key, event_time, partition, due_ns))
            if due_ns >= self._timed_from_ns:
                self._lateness.record(now_ns - due_ns)
            await self._hand_over(producer, self._events, value, key, partition, event_time)
            if self._labels is not None:
                delay_ns = int(self._labels.delay_s * 1e9)
                told_ms = event_time + delay_ns // 1_000_000
                self._untold.append(_Untold(due_ns + delay_ns, number, event_id, key, partition, told_ms))
                for stray in range(schedule.stray_labels(number)):
                    value = self._labels.feed.label(number, f"{event_id}-stray-{stray}", event_time)
                    await self._hand_over(producer, self._labels.topic, value, key, partition, event_time)
        self._behind, self._sent_ns = self.ledger.waiting, time.monotonic_ns()
        await producer.flush()
        self._sent = True
        while self._untold:
            await asyncio.sleep(max(0, self._untold[0].due_ns - time.monotonic_ns()) / 1e9)
            await self._tell(producer, time.monotonic_ns())
        await producer.flush()
        self._check()

    async def _tell(self, producer: Any, until_ns: int) -> None:
        """Send the labels that are due."""
        while self._labels is not None and self._untold and self._untold[0].due_ns <= until_ns:
            one = self._untold.popleft()
            value = self._labels.feed.label(one.number, one.event_id, one.label_time)
            self._told += 1
            await self._hand_over(producer, self._labels.topic, value, one.key, one.partition, one.label_time)

    async def _hand_over(
        self, producer: Any, topic: str, value: bytes, key: bytes, partition: int, time_ms: int
    ) -> None:
        try:
            acknowledged = await producer.send(topic, value, key, partition, timestamp_ms=time_ms)
        except REFUSED as error:
            raise broker_error(error, f"sending to {topic}", self._kafka) from error
        acknowledged.add_done_callback(self._acknowledged)
        self._check()

    def _acknowledged(self, result: asyncio.Future[Any]) -> None:
        if not result.cancelled() and (error := result.exception()) is not None:
            self._refused = error

    def _check(self) -> None:
        if self._refused is not None:
            raise broker_error(self._refused, "sending events and labels", self._kafka)

    async def _read(self, consumer: Any, patience_s: float, slicer: Slicer, started_ns: int) -> None:
        """Read answers until all are there, or none has come for `patience_s` after the last event."""
        decoder = msgspec.json.Decoder(_Seen)
        slicer.begin()
        quiet_since = time.monotonic()
        while True:
            try:
                found = await consumer.getmany(timeout_ms=READ_WAIT_MS)
            except REFUSED as error:
                raise broker_error(error, "reading predictions", self._kafka) from error
            read_ns = time.monotonic_ns()
            before = self.ledger.waiting
            for partition, records in found.items():
                for record in records:
                    if record_type_of(record.headers) == "claim":
                        continue  # who may write, not an answer
                    self._enter(decoder, record, partition.partition, read_ns, slicer)
            slicer.turn((read_ns - started_ns) / 1e9, waiting=self.ledger.waiting)
            now = time.monotonic()
            if not self._sent or self.ledger.waiting < before:
                quiet_since = now
            if self._sent and now - quiet_since > (patience_s if self.ledger.waiting else SETTLE_S):
                slicer.close((self._last_answer_ns - started_ns) / 1e9, waiting=self.ledger.waiting)
                return

    def _enter(
        self,
        decoder: msgspec.json.Decoder[_Seen],
        record: Any,
        partition: int,
        read_ns: int,
        slicer: Slicer,
    ) -> None:
        try:
            seen = decoder.decode(record.value)
        except (msgspec.MsgspecError, TypeError) as error:
            raise BrokerError(
                f"a prediction cannot be read: {error}",
                hint="does something else write to this topic?",
                topic=record.topic,
                partition=partition,
                offset=record.offset,
            ) from None
        answer = Answer(seen.prediction_id, seen.event_id, seen.event_time, record.key, partition)
        latency_ns = self.ledger.answered(answer, at_ns=read_ns)
        if latency_ns is not None:
            self._last_answer_ns = read_ns
            timed = read_ns - latency_ns >= self._timed_from_ns
            slicer.answered(latency_ns if timed else None)
            if timed:
                self._latency.record(latency_ns)
