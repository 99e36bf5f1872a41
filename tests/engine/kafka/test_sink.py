"""Writing: order, batches, acknowledgements and partitioning, on both brokers."""

from __future__ import annotations

import asyncio
import time

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.partitioner import DefaultPartitioner
from brokers.ports import fresh, made, numbered, record, run, values, whole
from hypothesis import given
from hypothesis import strategies as st

from engine.kafka.sink import Sink, open_sink, partition_of
from engine.kafka.topic_admin import TopicLimits
from engine.settings import KafkaSettings
from topics.errors import BrokerError

HOUR_MS = 3_600_000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def test_a_record_comes_back_as_it_was_sent(broker: KafkaSettings) -> None:
    async def play() -> None:
        topic = fresh("as-sent")
        await made(broker, topic)
        sent = [
            record(b"key", b"value", (("ce_id", b"1"), ("traceparent", b"00-aa")), 1),
            record(None, b"no key"),
            record(b"tombstone", None),
            record(b"", b"", (("empty", b""),)),
            record(b"\x00\xff", bytes(range(256)), (("ümlaut", "é".encode()),), 0),
        ]
        async with open_sink(broker) as sink:
            await sink.send(topic, 0, sent)
            assert await sink.flush() == {(topic, 0): 4}
        found = await whole(broker, topic)
        assert [(r.key, r.value, r.headers, r.timestamp_ms) for r in found] == [
            (r.key, r.value, r.headers, r.timestamp_ms) for r in sent
        ]
        assert [(r.topic, r.partition, r.offset) for r in found] == [(topic, 0, n) for n in range(5)]

    run(play())


def test_order_holds_over_many_batches_and_flush_knows_the_last_offset(broker: KafkaSettings) -> None:
    async def play() -> None:
        topic = fresh("order")
        await made(broker, topic, partitions=2)
        async with open_sink(broker) as sink:
            padding = b"x" * 2_000
            for start in range(0, 2_000, 500):
                runs = [record(value=b"%d" % n, headers=(("p", padding),)) for n in range(start, start + 500)]
                await sink.send(topic, 0, runs)
                await sink.send(topic, 1, runs[:1])
            assert await sink.flush() == {(topic, 0): 1_999, (topic, 1): 3}
            await sink.send(topic, 1, numbered(1))
            assert await sink.flush() == {(topic, 0): 1_999, (topic, 1): 4}
        assert values(await whole(broker, topic)) == list(range(2_000))

    run(play())


def test_a_mark_knows_nothing_of_what_is_sent_after_it(broker: KafkaSettings) -> None:
    async def play() -> None:
        topic = fresh("mark")
        await made(broker, topic, partitions=2)
        async with open_sink(broker) as sink:
            nothing = sink.mark()
            await sink.send(topic, 0, numbered(3))
            await sink.send(topic, 1, numbered(1))
            three = sink.mark()
            await sink.send(topic, 0, numbered(4))
            seven = sink.mark()
            assert await sink.written_to(seven) == {(topic, 0): (7, 6), (topic, 1): (1, 0)}
            assert await sink.written_to(three) == {(topic, 0): (3, 2), (topic, 1): (1, 0)}
            assert await sink.written_to(nothing) == {}

    run(play())


def test_runs_sent_at_the_same_time_stay_whole(broker: KafkaSettings) -> None:
    async def play() -> None:
        topic = fresh("whole-runs")
        await made(broker, topic)
        async with open_sink(broker) as sink:
            await asyncio.gather(*(sink.send(topic, 0, numbered(50, 50 * n)) for n in range(10)))
            await sink.flush()
        assert values(await whole(broker, topic)) == list(range(500))

    run(play())


def test_keys_go_where_aiokafkas_own_partitioner_sends_them(broker: KafkaSettings) -> None:
    async def play() -> None:
        ours, theirs = fresh("ours"), fresh("theirs")
        await made(broker, ours, theirs, partitions=5)
        keys = [b"%d" % n for n in range(60)] + [b"", "Zürich".encode()]
        async with open_sink(broker) as sink:
            await sink.send(ours, None, [record(key, key) for key in keys])
            await sink.flush()
        async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
            for key in keys:
                await producer.send_and_wait(theirs, key, key)
        for partition in range(5):
            assert [r.key for r in await whole(broker, ours, partition)] == [
                r.key for r in await whole(broker, theirs, partition)
            ]

    run(play())


def test_records_without_key_are_spread(broker: KafkaSettings) -> None:
    async def play() -> None:
        topic = fresh("keyless")
        await made(broker, topic, partitions=3)
        async with open_sink(broker) as sink:
            await sink.send(topic, None, [record(None, b"%d" % n) for n in range(9)])
            assert await sink.flush() == {(topic, n): 2 for n in range(3)}

    run(play())


@given(st.binary(max_size=40), st.integers(1, 64))
def test_murmur2_is_javas(key: bytes, partitions: int) -> None:
    numbers = list(range(partitions))
    assert partition_of(key, partitions) == DefaultPartitioner()(key, numbers, numbers)


def test_an_unknown_partition_fails_the_sink_for_good(broker: KafkaSettings) -> None:
    async def play() -> None:
        topic = fresh("unknown-partition")
        await made(broker, topic)
        async with open_sink(broker) as sink:
            with pytest.raises(BrokerError, match=topic):
                await sink.send(topic, 7, numbered(1))
            with pytest.raises(BrokerError):
                await sink.flush()
            with pytest.raises(BrokerError):
                await sink.send(topic, 0, numbered(1))
        assert await whole(broker, topic) == []

    run(play())


@pytest.mark.kafka
def test_a_record_the_broker_refuses_is_an_error_at_the_flush(kafka: KafkaSettings) -> None:
    async def play() -> None:
        topic = fresh("too-large")
        await made(kafka, topic)
        async with open_sink(kafka) as sink:
            await sink.send(topic, 0, [record(value=b"x" * 2_000_000)])
            with pytest.raises(BrokerError, match=r"max\.message\.bytes"):
                await sink.flush()

    run(play())


@pytest.mark.kafka
def test_a_time_the_broker_refuses_is_an_error_with_the_setting(kafka: KafkaSettings) -> None:
    """Where nothing is known of the topic: `headrace send` writes the user's own times, or says why not."""

    async def play() -> None:
        topic = fresh("ahead")
        await made(kafka, topic)
        async with open_sink(kafka) as sink:
            await sink.send(topic, 0, [record(timestamp_ms=now_ms() + 2 * HOUR_MS)])
            with pytest.raises(BrokerError, match=r"raise message\.timestamp\.after\.max\.ms"):
                await sink.flush()

    run(play())


def test_where_limits_are_known_times_are_clamped_and_batches_kept_small(broker: KafkaSettings) -> None:
    async def play() -> None:
        topic = fresh("limited")
        await made(broker, topic)
        before_ms = now_ms()
        async with open_sink(broker) as sink:
            sink.limits = {topic: TopicLimits(bytes_max=5_000, behind_ms=HOUR_MS)}
            stamps = (0, -5_000, before_ms - 60_000, before_ms + 2 * HOUR_MS, 1 << 61)
            sent = [record(value=b"%d" % n, timestamp_ms=stamp) for n, stamp in enumerate(stamps)]
            sent += [record(value=b"%d" % n, headers=(("p", b"x" * 1_500),)) for n in range(5, 25)]
            await sink.send(topic, 0, sent)
            assert await sink.flush() == {(topic, 0): 24}
        found = await whole(broker, topic)
        assert values(found) == list(range(25))
        old, negative, kept, ahead, far = [one.timestamp_ms or 0 for one in found[:5]]
        assert before_ms - HOUR_MS < old == negative < kept == before_ms - 60_000
        assert before_ms <= ahead == far <= now_ms()

    run(play())


@pytest.mark.kafka
def test_batches_are_no_larger_than_a_topic_that_takes_little(kafka: KafkaSettings) -> None:
    async def play() -> None:
        topic = fresh("little")
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
        await admin.start()
        await admin.create_topics([NewTopic(topic, 1, 1, topic_configs={"max.message.bytes": "5000"})])
        await admin.close()
        async with open_sink(kafka) as sink:
            sink.limits = {topic: TopicLimits(bytes_max=5_000)}
            await sink.send(
                topic, 0, [record(value=b"%d" % n, headers=(("p", b"x" * 1_500),)) for n in range(50)]
            )
            assert await sink.flush() == {(topic, 0): 49}
        assert values(await whole(kafka, topic)) == list(range(50))

    run(play())


def test_a_send_that_was_broken_off_fails_the_sink(broker: KafkaSettings) -> None:
    async def play() -> None:
        topic = fresh("broken-off")
        await made(broker, topic)
        async with open_sink(broker) as sink:
            await sink.send(topic, 0, numbered(1))
            sending = asyncio.ensure_future(sink.send(topic, 0, [record(value=b"x" * 600_000)] * 9))
            await asyncio.sleep(0)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            with pytest.raises(BrokerError, match="broken off"):
                await sink.flush()

    run(play())


def test_a_broker_without_idempotence_says_which_setting_helps(tansu: KafkaSettings) -> None:
    with pytest.raises(BrokerError, match="enable_idempotence = false"):
        run(Sink(tansu.model_copy(update={"enable_idempotence": True})).start())
