"""The status topic: read once by a command, written and followed by a worker.

Lives here: connections of its own, which fail apart from those of events; the newest records.  Never here:
what they say (`members.py`), when a worker speaks (`exchange.py`).
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any, Final

from aiokafka import AIOKafkaProducer, TopicPartition

from engine.group.members import Members
from engine.kafka.client import assigned_consumer, bounds, open_client
from engine.kafka.log_reader import record_tail
from engine.kafka.source import records_of
from engine.kafka.topic_admin import ensure_topics
from engine.settings import KafkaSettings
from topics.catalog import TopicPlan
from topics.messages import Record

__all__ = ["StatusLog", "read_members"]

TAIL_MAX: Final = 4_000
"""Newest records that are read at a start: of as many workers as are known at once, 15 each."""
PARTITION: Final = 0
LOOK_MS: Final = 100


async def read_members(kafka: KafkaSettings, topic: str) -> Members:
    """Return the workers of which a status topic tells, for `Members.told` of the reader's clock.

    Raises BrokerError, also where there is no such topic.
    """
    members = Members()
    members.recall(await record_tail(kafka, topic, TAIL_MAX))
    return members


async def _tail(consumer: Any, partition: TopicPartition, kafka: KafkaSettings) -> list[Record]:
    """Return the newest records, and leave the consumer behind them."""
    start, end = (await bounds(consumer, [partition], kafka))[partition]
    consumer.seek(partition, max(start, end - TAIL_MAX))
    found: list[Record] = []
    while await consumer.position(partition) < end:
        fetched = await consumer.getmany(partition, timeout_ms=LOOK_MS)
        found += records_of(partition, fetched.get(partition, ()))
    return found


class StatusLog:
    """One worker's connections to the status topic, of which nothing else in the process knows."""

    def __init__(self, kafka: KafkaSettings, plan: TopicPlan, every_ms: int) -> None:
        # A fetch that waits costs nothing; a short one is asked again and again.
        wait_ms = min(every_ms, kafka.request_timeout_ms // 2)
        self._kafka = kafka.model_copy(update={"fetch_max_wait_ms": wait_ms})
        self._plan, self._partition = plan, TopicPartition(plan.name, PARTITION)
        self._clients = AsyncExitStack()
        self._producer: Any = None
        self._consumer: Any = None

    @property
    def is_open(self) -> bool:
        """Whether it is connected."""
        return self._consumer is not None

    async def open(self) -> list[Record]:
        """Make the topic where it is missing, connect, and return what lies there.  Raises BrokerError."""
        await ensure_topics(self._kafka, [self._plan])

        def make() -> Any:
            # One that is lost comes again in a moment: no other copy is waited for, no repeat matters.
            return AIOKafkaProducer(**self._kafka.aiokafka_options(), acks=1, enable_idempotence=False)

        self._producer = await self._clients.enter_async_context(open_client(make, self._kafka))
        consumer = await self._clients.enter_async_context(assigned_consumer(self._kafka, [self._partition]))
        found = await _tail(consumer, self._partition, self._kafka)
        self._consumer = consumer
        return found

    async def write(self, key: bytes, value: bytes | None, now_ms: int) -> None:
        """Write a record, None for a worker that leaves.  Raises aiokafka's errors."""
        await self._producer.send_and_wait(
            self._plan.name, value, key=key, partition=PARTITION, timestamp_ms=now_ms
        )

    async def came(self) -> list[Record]:
        """Return the records that have come since the last call.  Raises aiokafka's errors."""
        found: list[Record] = []
        while len(found) < TAIL_MAX:
            fetched = await self._consumer.getmany(self._partition, timeout_ms=0)
            if not (records := records_of(self._partition, fetched.get(self._partition, ()))):
                break
            found += records
            await asyncio.sleep(0)  # the loop of events has its turn
        return found

    async def close(self) -> None:
        """Close both connections."""
        self._producer = self._consumer = None
        await self._clients.aclose()
