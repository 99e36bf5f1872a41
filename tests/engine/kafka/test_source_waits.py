"""No wait of a group's member is without an end, whatever aiokafka does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka import TopicPartition

from engine.kafka.client import LogPartition
from engine.kafka.source import Source
from engine.settings import KafkaSettings
from topics.errors import BrokerError

AT = TopicPartition("events", 0)


class Group:
    """An owner that holds a lock while it seeks, as a worker does in a takeover."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.revoked = asyncio.Event()

    async def on_revoked(self, _: frozenset[LogPartition]) -> None:
        async with self.turn:
            self.revoked.set()

    async def on_assigned(self, _: frozenset[LogPartition]) -> None:
        pass


class Consumer:
    """An aiokafka whose fetches wait for the end of a rebalance, and that cannot be cancelled out of one."""

    def __init__(self) -> None:
        self.rebalanced = asyncio.Event()
        self.stubborn = False

    async def getmany(self, *_: TopicPartition, timeout_ms: int) -> dict[TopicPartition, Any]:  # noqa: ARG002
        while True:
            try:
                await self.rebalanced.wait()
            except asyncio.CancelledError:
                if not self.stubborn:
                    raise
            else:
                return {}

    async def beginning_offsets(self, wanted: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(wanted, 0)

    end_offsets = beginning_offsets

    def assignment(self) -> set[TopicPartition]:
        return {AT}

    def seek(self, _: TopicPartition, __: int) -> None:
        pass

    def pause(self, _: TopicPartition) -> None:
        pass

    resume = pause

    def partitions_for_topic(self, _: str) -> set[int]:
        return {0}

    async def stop(self) -> None:
        pass


async def member(kafka: KafkaSettings) -> tuple[Source, Group, Consumer]:
    """Return a member that has its partition and a fetch on its way."""
    group, consumer = Group(), Consumer()
    source = Source(kafka, group="g", topics=["events"], listener=group)
    source._consumer = consumer
    await source._assigned({AT})
    await source.seek({AT: 0})
    await source.poll(0, 10)
    assert source._fetch is not None
    return source, group, consumer


def test_a_takeover_in_a_rebalance_waits_for_no_fetch() -> None:
    async def play() -> None:
        source, group, _ = await member(KafkaSettings())

        async def takeover() -> None:
            async with group.turn:
                await source.seek({AT: 0})

        taking_over = asyncio.create_task(takeover())
        await asyncio.sleep(0)
        rebalance = asyncio.create_task(source._revoked({AT}))
        async with asyncio.timeout(10):
            with pytest.raises(BrokerError, match="not assigned to this worker any more"):
                await taking_over
            await rebalance
        assert group.revoked.is_set()
        await source.stop()

    asyncio.run(play())


def test_a_fetch_that_does_not_end_is_left_behind_at_a_stop() -> None:
    async def play() -> None:
        source, _, consumer = await member(KafkaSettings(stop_deadline_ms=50))
        consumer.stubborn = True
        async with asyncio.timeout(10):
            await source.stop()
        consumer.rebalanced.set()

    asyncio.run(play())
