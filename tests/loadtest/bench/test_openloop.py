"""The open loop against a stand-in worker on a real wire, which answers well or badly on purpose."""

import asyncio

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from msgspec import Struct

from engine.definition.streams import Topic
from engine.kafka.topic_admin import ensure_topics
from loadtest.bench.feed import Feed, made_up_rows
from loadtest.bench.ledger import Latency
from loadtest.bench.openloop import Load, OpenLoop
from topics.catalog import Catalog
from topics.errors import BrokerError


class Payment(Struct):
    event_id: str
    event_time: int
    card: str
    amount: float


EVENTS = 200
LOAD = Load(rate=400.0, duration_s=EVENTS / 400, warmup_s=0.1, patience_s=1.0)


def answers(_, record, event):
    """Answer as the worker under test does: once, on the event's partition, under its key."""
    value = {
        "prediction_id": f"pay:{event.event_id}",
        "event_id": event.event_id,
        "event_time": event.event_time,
        "prediction_score": 0.5,
    }
    return [(record.partition, record.key, value)]


async def work(kafka, catalog, partitions, answer):
    """Read events and answer each, until cancelled."""
    options = kafka.aiokafka_options()
    decoder = msgspec.json.Decoder(Payment)
    number = 0
    async with (
        AIOKafkaConsumer(**options, auto_offset_reset="earliest", fetch_max_wait_ms=50) as consumer,
        AIOKafkaProducer(**options) as producer,
    ):
        consumer.assign([TopicPartition(catalog["events"], part) for part in range(partitions)])
        while True:
            for records in (await consumer.getmany(timeout_ms=50)).values():
                for record in records:
                    for partition, key, value in answer(number, record, decoder.decode(record.value)):
                        await producer.send(
                            catalog["predictions"], msgspec.json.encode(value), key, partition=partition
                        )
                    number += 1


def bench(kafka, name, *, partitions=2, answer=answers):
    """Run the load against the stand-in; return the outcome."""
    catalog = Catalog("pay", events=f"{name}.events", names={"predictions": f"{name}.answers"})
    topic = Topic(catalog["events"], Payment, key="card")

    async def both():
        plan = [entry for entry in catalog.plan(events=partitions) if entry.role in {"events", "predictions"}]
        await ensure_topics(kafka, [entry._replace(create=True) for entry in plan])
        worker = asyncio.create_task(work(kafka, catalog, partitions, answer))
        loop = OpenLoop(
            kafka,
            pipeline_name="pay",
            events=catalog["events"],
            predictions=catalog["predictions"],
            feed=Feed(topic, made_up_rows(topic, count=50), run=name),
        )
        try:
            return await loop.run(LOAD)
        finally:
            worker.cancel()
            await asyncio.wait({worker})

    return asyncio.run(both())


def test_every_answer_is_found_matched_and_timed(tansu):
    outcome = bench(tansu, "good")
    assert outcome.account[:6] == (EVENTS, EVENTS, 0, 0, 0, 0)
    assert len(outcome.latency) == EVENTS - 40  # a tenth of a second at 400/s warms up
    summary = outcome.latency.summary_ms()
    assert 0 < summary["p50"] <= summary["p99"] <= summary["max"]
    assert outcome.lateness.summary_ms()["max"] <= summary["max"]
    assert sum(one.answered for one in outcome.slices) == EVENTS
    merged = Latency()
    for one in outcome.slices:
        merged.merge(one.histogram)
    assert merged.summary_ms() == summary


def test_a_bad_worker_is_told_apart(tansu):
    def bad(number, record, event):
        right = answers(number, record, event)
        partition, key, value = right[0]
        return {
            0: [],
            1: right * 3,
            2: [(1 - partition, key, value)],
            3: [(partition, key, {**value, "event_time": 1})],
            4: [*right, (partition, key, {**value, "event_id": "stranger"})],
        }.get(number, right)

    account = bench(tansu, "bad", answer=bad).account
    assert account[:6] == (EVENTS, EVENTS - 1, 1, 2, 2, 1)
    assert len(account.notes) == 2


def test_a_missing_topic_is_named(tansu):
    topic = Topic("nowhere.events", Payment, key="card")
    loop = OpenLoop(
        tansu,
        pipeline_name="pay",
        events="nowhere.events",
        predictions="nowhere.predictions",
        feed=Feed(topic, made_up_rows(topic, count=1), run="r"),
    )
    with pytest.raises(BrokerError, match=r"nowhere\.events"):
        asyncio.run(loop.run(LOAD))
