"""Reading one log on its own, without a consumer group: takeovers, replays, `headrace tail`.

Lives here: `assign` and position.  Never here: which records count (`operators/claims.py`).

Strategy: the end of the reading is a position, never a record: the last offset of a log
may be a transaction marker or may have been compacted away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from engine.client import (
    REFUSED,
    bounds,
    broker_error,
    checked,
    connected,
    reading,
    stopped,
)
from engine.provision import partition_counts
from engine.settings import KafkaSettings
from engine.source import records_of
from topics.errors import BrokerError
from topics.messages import Record

__all__ = ["log_bounds", "read_log"]

LOOK_MS = 100
"""How often a reader with nothing to read looks whether its position has passed a trailing marker."""


@asynccontextmanager
async def _reader(kafka: KafkaSettings) -> AsyncGenerator[Any]:
    def make() -> Any:
        return AIOKafkaConsumer(**kafka.aiokafka_options(), **reading(kafka))

    consumer = await connected(make, kafka)
    try:
        yield consumer
    finally:
        await stopped(consumer, kafka)


async def log_bounds(kafka: KafkaSettings, topic: str) -> dict[int, tuple[int, int]]:
    """Return, for each partition of a topic, its first offset and its end (the next record's offset).

    Raises BrokerError, also where there is no such topic.
    """
    counts = await partition_counts(kafka, [topic])
    count = counts[topic]
    if count is None:
        raise BrokerError("there is no such topic", hint="see headrace topics", topic=topic)
    async with _reader(kafka) as consumer:
        found = await bounds(consumer, [TopicPartition(topic, number) for number in range(count)], kafka)
        return {tp.partition: limits for tp, limits in found.items()}


async def read_log(
    kafka: KafkaSettings, topic: str, partition: int, from_offset: int, until: int | None = None
) -> AsyncGenerator[list[Record]]:
    """Yield the records from `from_offset` up to, not with, `until`; None follows the log for ever.

    Use `contextlib.aclosing` where the loop may be left early, so that the connection is
    closed at once.  Raises BrokerError if the log does not have `from_offset`, or if
    `until` is not reached and nothing comes for `request_timeout_ms`.
    """
    tp = TopicPartition(topic, partition)
    loop = asyncio.get_running_loop()
    async with _reader(kafka) as consumer:
        start, end = (await bounds(consumer, [tp], kafka))[tp]
        position = checked(tp, from_offset, start, end)
        consumer.assign([tp])
        consumer.seek(tp, position)
        patience_s = kafka.request_timeout_ms / 1000
        give_up = loop.time() + patience_s
        while until is None or position < until:
            try:
                fetched = (await consumer.getmany(tp, timeout_ms=LOOK_MS)).get(tp, [])
                reached = await consumer.position(tp)
            except REFUSED as error:
                raise broker_error(error, f"reading {topic}", kafka) from error
            if reached > position:
                position = reached
                give_up = loop.time() + patience_s
            elif until is not None and loop.time() > give_up:
                raise BrokerError(
                    f"reading stands at {position} of {until}, and nothing came for {patience_s:g} s",
                    hint=f"is the partition's leader up? Look at Kafka at {kafka.bootstrap_servers}",
                    topic=topic,
                    partition=partition,
                    offset=position,
                )
            records = records_of(tp, fetched)
            if until is not None and records and records[-1].offset >= until:
                records = [record for record in records if record.offset < until]
            if records:
                yield records
