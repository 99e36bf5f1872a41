"""Reading one log without a group, on both brokers."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from brokers.ports import WAIT_S, fresh, made, numbered, run, values

from engine.kafka.log_reader import log_bounds, read_log
from engine.kafka.sink import open_sink
from engine.settings import KafkaSettings
from topics.errors import BrokerError


def test_a_log_is_read_from_and_up_to_a_position(broker: KafkaSettings) -> None:
    async def play() -> None:
        topic = fresh("log")
        await made(broker, topic, partitions=2)
        async with open_sink(broker) as sink:
            await sink.send(topic, 1, numbered(3_000))
            await sink.flush()
        assert await log_bounds(broker, topic) == {0: (0, 0), 1: (0, 3_000)}
        found = [each async for records in read_log(broker, topic, 1, 10, 2_500) for each in records]
        assert values(found) == list(range(10, 2_500))
        assert [each async for each in read_log(broker, topic, 1, 5, 5)] == []
        with pytest.raises(BrokerError, match="ends at 3000"):
            await anext(read_log(broker, topic, 1, 3_001, 3_002))

    run(play())


def test_a_log_can_be_followed(broker: KafkaSettings) -> None:
    async def play() -> None:
        topic = fresh("follow")
        await made(broker, topic)
        async with open_sink(broker) as sink, aclosing(read_log(broker, topic, 0, 0)) as following:
            for turn in range(3):
                await sink.send(topic, 0, numbered(1, turn))
                await sink.flush()
                async with asyncio.timeout(WAIT_S):
                    assert values(await anext(following)) == [turn]

    run(play())


def test_a_log_that_does_not_grow_to_the_position_is_an_error(broker: KafkaSettings) -> None:
    async def play() -> None:
        topic = fresh("stalled")
        await made(broker, topic)
        impatient = broker.model_copy(update={"request_timeout_ms": 2_000, "connect_deadline_ms": 2_000})
        with pytest.raises(BrokerError, match="stands at 0 of 5"):
            await anext(read_log(impatient, topic, 0, 0, 5))

    run(play())
