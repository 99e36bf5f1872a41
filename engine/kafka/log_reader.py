"""Records of one log, read without a consumer group: takeovers, replays, `headrace tail`.

Lives here: where a log begins and ends, reading from an offset to another, single records, and the slices
that a learner folds, wherever they are read.  Never here: which records count (`operators/claims/rule.py`),
when a learner goes back and why (`engine/machines/learner.py`).

Strategy: the end of the reading is a position, never a record: the last offset of a log
may be a transaction marker or may have been compacted away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Protocol

from aiokafka import TopicPartition

from engine.kafka.client import (
    REFUSED,
    MissingTopics,
    ask_broker,
    assigned_consumer,
    bounds,
    broker_error,
    exact_ends,
)
from engine.kafka.source import checked_positions, records_of
from engine.kafka.topic_admin import partition_counts
from engine.settings import KafkaSettings
from topics.errors import BrokerError
from topics.messages import Record

__all__ = ["log_bounds", "read_log", "record_tail", "records_at", "slices", "slices_of_log"]

LOOK_MS = 100
"""How often a reader with nothing to read looks whether its position has passed a trailing marker."""


async def log_bounds(kafka: KafkaSettings, topic: str) -> dict[int, tuple[int, int]]:
    """Return, for each partition of a topic, its first offset and its end (the next record's offset).

    Raises BrokerError, also where there is no such topic.
    """
    counts = await partition_counts(kafka, [topic])
    count = counts[topic]
    if count is None:
        raise BrokerError(
            "there is no such topic",
            hint="check its name, or create it: headrace topics create PIPELINE.py",
            topic=topic,
        )
    partitions = [TopicPartition(topic, number) for number in range(count)]
    async with assigned_consumer(kafka) as consumer:
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
    async with assigned_consumer(kafka, offsets) as consumer:
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

        await ask_broker(ask, "reading records again", kafka)
    return found


async def read_log(
    kafka: KafkaSettings,
    topic: str,
    partition: int,
    from_offset: int,
    until: int | None = None,
    *,
    end_seen: Callable[[int], None] | None = None,
) -> AsyncGenerator[list[Record]]:
    """Yield the records from `from_offset` up to, not with, `until`; None follows the log for ever.

    `end_seen` is told where the log ends, as of the last fetch, before records are yielded.

    Use `contextlib.aclosing` where the loop may be left early, so that the connection is
    closed at once.  Raises BrokerError if the log does not have `from_offset`, or if
    `until` is not reached and nothing comes for `request_timeout_ms`, or `connect_deadline_ms` if longer.
    """
    tp = TopicPartition(topic, partition)
    loop = asyncio.get_running_loop()
    async with assigned_consumer(kafka, [tp]) as consumer:
        position = (await checked_positions(kafka, {tp: from_offset}, await bounds(consumer, [tp], kafka)))[
            tp
        ]
        consumer.seek(tp, position)
        missing = MissingTopics()
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
            elif missing.since_s or not consumer._client.cluster.partitions_for_topic(topic):
                missing.check(consumer._client, [topic])
            if until is not None and loop.time() > give_up:
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
                if end_seen is not None:
                    end_seen(consumer.highwater(tp) or 0)
                yield records


async def record_tail(
    kafka: KafkaSettings, topic: str, records_max: int, until: int | None = None
) -> list[Record]:
    """Return the newest records of a topic, of each partition `records_max` at the most, before `until`.

    Raises BrokerError, also where there is no such topic.
    """
    found: list[Record] = []
    for partition, (first, end) in sorted((await log_bounds(kafka, topic)).items()):
        stop = end if until is None else min(end, until)
        start = max(first, stop - records_max)
        if start < stop:
            async with aclosing(read_log(kafka, topic, partition, start, stop)) as batches:
                async for records in batches:
                    found += records
    return found


# -- what a learner folds ---------------------------------------------------------------------------


class Reads(Protocol):
    """A learner: it says where it wants to read on, which after a fold may be an offset of before."""

    @property
    def reading(self) -> int:
        """Return the next offset to be handed in."""
        ...


def slices(
    learner: Reads, records: Sequence[Record], size_of: Callable[[], int]
) -> Iterator[Sequence[Record]]:
    """Yield records in slices, each to be folded before the next is asked for, until the learner goes back.

    `size_of` returns the size of the next one; 0 ends it.
    """
    at = 0
    while at < len(records) and (size := size_of()):
        part = records[at : at + size]
        yield part
        if learner.reading <= part[-1].offset:
            return
        at += size


async def slices_of_log(
    learner: Reads, read: Callable[[int], AsyncGenerator[list[Record]]], size_of: Callable[[], int]
) -> AsyncGenerator[Sequence[Record]]:
    """Yield slices of a log from where the learner reads on, as `slices` does, to where the log ends.

    `read` yields the records from an offset on; it is called again with another where the learner goes back.
    """
    goes_back = True
    while goes_back and size_of():
        goes_back = False
        async with aclosing(read(learner.reading)) as batches:
            async for records in batches:
                for part in slices(learner, records, size_of):
                    yield part
                goes_back = learner.reading <= records[-1].offset
                if goes_back:  # or nobody wants more
                    break
