"""Where logs begin and end, asked without a consumer group, and whether a position lies between.

Lives here: bounds, exact ends, the refusal of positions that a log does not have.  Never here: records
(`log_reader.py`), a member of a group (`source.py`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from engine.kafka.client import answered, bounds, connected, reading, stopped
from engine.kafka.topic_admin import partition_counts
from engine.settings import KafkaSettings
from topics.errors import BrokerError

__all__ = ["assigned_consumer", "checked_positions", "exact_ends", "log_bounds"]

PROBE_MS = 10
"""Longest wait of a fetch that is only after the end of the log."""

log = structlog.get_logger("headrace")


@asynccontextmanager
async def assigned_consumer(
    kafka: KafkaSettings, partitions: Iterable[TopicPartition] = ()
) -> AsyncGenerator[Any]:
    """Connect a consumer without a group that is assigned these partitions.  Raises BrokerError."""

    def make() -> Any:
        return AIOKafkaConsumer(**kafka.aiokafka_options(), **reading(kafka))

    consumer = await connected(make, kafka)
    try:
        consumer.assign(list(partitions))
        yield consumer
    finally:
        await stopped(consumer, kafka)


async def exact_ends(
    kafka: KafkaSettings, reported: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    """Return the ends of logs as a fetch tells them, where a broker's list of offsets cannot be trusted.

    Tansu 0.6 lists the first offset of the last batch plus one, less than the end; what a
    fetch says is right on every broker.  Raises BrokerError.
    """
    ends = dict(reported)
    async with assigned_consumer(kafka.model_copy(update={"fetch_max_wait_ms": PROBE_MS}), ends) as consumer:
        for tp, end in reported.items():
            consumer.seek(tp, end)

        async def ask() -> None:
            while silent := [tp for tp in ends if consumer.highwater(tp) is None]:
                await consumer.getmany(*silent, timeout_ms=PROBE_MS)

        await answered(ask, "asking for the ends of logs", kafka)
        for tp, end in reported.items():
            ends[tp] = max(end, consumer.last_stable_offset(tp) or 0)
    return ends


async def log_bounds(kafka: KafkaSettings, topic: str) -> dict[int, tuple[int, int]]:
    """Return, for each partition of a topic, its first offset and its end (the next record's offset).

    Raises BrokerError, also where there is no such topic.
    """
    counts = await partition_counts(kafka, [topic])
    count = counts[topic]
    if count is None:
        raise BrokerError(
            "there is no such topic", hint="check its name, or create it: headrace topics create", topic=topic
        )
    partitions = [TopicPartition(topic, number) for number in range(count)]
    async with assigned_consumer(kafka) as consumer:
        found = await bounds(consumer, partitions, kafka)
    ends = await exact_ends(kafka, {tp: end for tp, (_, end) in found.items()})
    return {tp.partition: (start, ends[tp]) for tp, (start, _) in found.items()}


async def checked_positions(
    kafka: KafkaSettings,
    positions: Mapping[TopicPartition, int | None],
    found: Mapping[TopicPartition, tuple[int, int]],
    *,
    accept_lost: bool = False,
) -> dict[TopicPartition, int]:
    """Return the positions, None made the log's start, if the logs with these bounds have them.

    `accept_lost` goes on at a log's start where records before it were deleted unread, and tells.
    Raises BrokerError before a log's start otherwise, and past its end (emptied, or another log): going
    on silently would lose or repeat records.
    """
    asked = {tp: found[tp][0] if position is None else position for tp, position in positions.items()}
    beyond = {tp: found[tp][1] for tp, position in asked.items() if position > found[tp][1]}
    ends = await exact_ends(kafka, beyond) if beyond else {}
    for tp, position in asked.items():
        start = found[tp][0]
        if position < start and accept_lost:
            log.warning(
                "records were deleted before they were read: going on without them",
                topic=tp.topic,
                partition=tp.partition,
                records=start - position,
            )
            asked[tp] = start
        elif position < start:
            raise BrokerError(
                f"{start - position} records were deleted before they were read: the log starts at {start}",
                hint="raise retention.ms (it goes by the records' own times, so old data is deleted at once);"
                " `headrace run --accept-lost-records` goes on without them (never without examples)",
                topic=tp.topic,
                partition=tp.partition,
                offset=position,
            )
        if position > ends.get(tp, position):
            raise BrokerError(
                f"the log ends at {ends[tp]}, before the place where reading stopped",
                hint="was the topic deleted, or is this another cluster? Its checkpoints do not fit it",
                topic=tp.topic,
                partition=tp.partition,
                offset=position,
            )
    return asked
