"""What tests of the ports share: topics of their own, records, an owner of partitions, and patience."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from engine.kafka.client import LogPartition
from engine.kafka.log_reader import log_bounds, read_log
from engine.kafka.source import Source
from engine.kafka.topic_admin import ensure_topics
from engine.settings import KafkaSettings
from topics.catalog import TopicPlan
from topics.errors import BrokerError
from topics.messages import Headers, Outgoing, Record

_numbers = itertools.count()
WAIT_S = 30.0
"""For what a broker will surely do; a test that needs it all has failed."""


def fresh(name: str) -> str:
    """A topic or group that no other test uses."""
    return f"test.{name}-{next(_numbers)}"


async def made(kafka: KafkaSettings, *names: str, partitions: int = 1) -> None:
    await ensure_topics(
        kafka, [TopicPlan("dead-letters", name, partitions, "delete", None, True) for name in names]
    )


def record(
    key: bytes | None = b"k",
    value: bytes | None = b"v",
    headers: Headers = (),
    timestamp_ms: int = 1_700_000_000_000,
) -> Outgoing:
    return Outgoing("predictions", None, key, value, headers, timestamp_ms)


def numbered(count: int, start: int = 0) -> list[Outgoing]:
    return [record(value=b"%d" % n, timestamp_ms=1_700_000_000_000 + n) for n in range(start, start + count)]


def values(records: Iterable[Record]) -> list[int]:
    return [int(each.value or b"-1") for each in records]


class Owner:
    """A listener that keeps what it was told."""

    def __init__(self) -> None:
        self.held: frozenset[LogPartition] = frozenset()
        self.told: list[tuple[str, frozenset[LogPartition]]] = []
        self.changed = asyncio.Event()

    async def on_revoked(self, partitions: frozenset[LogPartition]) -> None:
        self.told.append(("revoked", partitions))

    async def on_assigned(self, partitions: frozenset[LogPartition]) -> None:
        self.told.append(("assigned", partitions))
        self.held = partitions
        self.changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not holds():
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def source_of(
    kafka: KafkaSettings,
    *topics: str,
    group: str | None = None,
    owner: Owner | None = None,
    leader_partitions_max: int = 0,
) -> AsyncGenerator[tuple[Source, Owner]]:
    """A member of a group, its partitions assigned and not yet sought."""
    owner = owner or Owner()
    source = Source(
        kafka,
        group=group or fresh("group"),
        topics=topics,
        listener=owner,
        leader_partitions_max=leader_partitions_max,
    )
    await source.start()
    try:
        await owner.until(lambda: bool(owner.told))
        yield source, owner
    finally:
        await source.stop()


async def polled(source: Source, count: int, records_max: int = 1_000) -> dict[LogPartition, list[Record]]:
    """Poll until `count` records have come."""
    got: dict[LogPartition, list[Record]] = {}
    async with asyncio.timeout(WAIT_S):
        while sum(map(len, got.values())) < count:
            for partition, records in (await source.poll(100, records_max)).items():
                got.setdefault(partition, []).extend(records)
    return got


async def until_read(source: Source, partition: LogPartition) -> None:
    """Poll, to nothing, until the broker has said that there is nothing."""
    async with asyncio.timeout(WAIT_S):
        while source.unread(partition):
            assert await source.poll(20, 10) == {}


async def poll_until_refused(source: Source, says: str) -> None:
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(BrokerError, match=says):
            await poll_on(source)


async def poll_on(source: Source) -> None:
    while True:
        await source.poll(50, 10)


async def whole(kafka: KafkaSettings, topic: str, partition: int = 0) -> list[Record]:
    start, end = (await log_bounds(kafka, topic))[partition]
    return [each async for records in read_log(kafka, topic, partition, start, end) for each in records]


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)
