"""Reading one log on its own, without a consumer group: takeovers, replays, `headrace tail`.

Lives here: `assign` and position.  Never here: which records count (`operators/claims/rule.py`).

Strategy: the end of the reading is a position, never a record: the last offset of a log
may be a transaction marker or may have been compacted away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from engine.kafka.client import (
    REFUSED,
    answered,
    bounds,
    broker_error,
    connected,
    reading,
    stopped,
)
from engine.kafka.topic_admin import partition_counts
from engine.settings import KafkaSettings
from topics.errors import BrokerError
from topics.messages import Record

__all__ = ["checked", "exact_ends", "log_bounds", "read_log", "records_at", "records_of"]

LOOK_MS = 100
"""How often a reader with nothing to read looks whether its position has passed a trailing marker."""
PROBE_MS = 10
"""Longest wait of a fetch that is only after the end of the log."""


log = structlog.get_logger("headrace")


@asynccontextmanager
async def _reader(kafka: KafkaSettings, partitions: Iterable[TopicPartition] = ()) -> AsyncGenerator[Any]:
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
    async with _reader(kafka.model_copy(update={"fetch_max_wait_ms": PROBE_MS}), ends) as consumer:
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
    async with _reader(kafka) as consumer:
        found = await bounds(consumer, partitions, kafka)
    ends = await exact_ends(kafka, {tp: end for tp, (_, end) in found.items()})
    return {tp.partition: (start, ends[tp]) for tp, (start, _) in found.items()}


async def records_at(
    kafka: KafkaSettings, offsets: Mapping[TopicPartition, int]
) -> dict[TopicPartition, tuple[int, int, Record | None]]:
    """Return each log's start and end, and its record at this offset; None where there is none.

    Raises BrokerError.
    """
    if not offsets:
        return {}
    found: dict[TopicPartition, tuple[int, int, Record | None]] = {}
    async with _reader(kafka, offsets) as consumer:
        limits = await bounds(consumer, offsets, kafka)
        beyond = {tp: limits[tp][1] for tp, offset in offsets.items() if offset >= limits[tp][1]}
        for tp, end in (await exact_ends(kafka, beyond) if beyond else {}).items():
            limits[tp] = (limits[tp][0], end)
        for tp, offset in offsets.items():
            start, end = limits[tp]
            if start <= offset < end:
                consumer.seek(tp, offset)
            else:
                consumer.pause(tp)
                found[tp] = (start, end, None)

        async def ask() -> None:
            while waiting := [tp for tp in offsets if tp not in found]:
                fetched = await consumer.getmany(*waiting, timeout_ms=LOOK_MS)
                for tp in waiting:
                    first = next(iter(records_of(tp, fetched.get(tp, ()))), None)
                    if first is not None or await consumer.position(tp) > offsets[tp]:
                        there = first if first is not None and first.offset == offsets[tp] else None
                        found[tp] = (*limits[tp], there)

        await answered(ask, "reading records again", kafka)
    return found


async def checked(
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


async def read_log(
    kafka: KafkaSettings, topic: str, partition: int, from_offset: int, until: int | None = None
) -> AsyncGenerator[list[Record]]:
    """Yield the records from `from_offset` up to, not with, `until`; None follows the log for ever.

    Use `contextlib.aclosing` where the loop may be left early, so that the connection is
    closed at once.  Raises BrokerError if the log does not have `from_offset`, or if
    `until` is not reached and nothing comes for `request_timeout_ms`, or `connect_deadline_ms` if longer.
    """
    tp = TopicPartition(topic, partition)
    loop = asyncio.get_running_loop()
    async with _reader(kafka, [tp]) as consumer:
        position = (await checked(kafka, {tp: from_offset}, await bounds(consumer, [tp], kafka)))[tp]
        consumer.seek(tp, position)
        patience_s = max(kafka.request_timeout_ms, kafka.connect_deadline_ms) / 1000
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


def records_of(tp: TopicPartition, fetched: Sequence[Any]) -> list[Record]:
    """Return aiokafka's records of one partition as ours; a timestamp of -1 means there is none."""
    topic, partition = tp
    return [
        Record(
            topic,
            partition,
            record.offset,
            record.timestamp if record.timestamp >= 0 else None,
            record.key,
            record.value,
            record.headers,
        )
        for record in fetched
    ]
