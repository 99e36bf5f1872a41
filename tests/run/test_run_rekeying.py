"""Windows by other keys on four partitions and two workers equal those over one log of all events."""

from __future__ import annotations

import asyncio
import json
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from reading import Watch, counting, folded, read_topic, watching
from running import Message, Worker, backtested, fresh_name, make_topics, publish, until, write_pipeline

from engine.definition.file import load_pipeline
from engine.definition.pipeline import Pipeline
from engine.settings import KafkaSettings

pytestmark = pytest.mark.kafka

PARTITIONS = 4
EVENTS = 4_000
GRACE_MS = 5_000
SOURCE = """
    from msgspec import Struct
    from river import linear_model

    from engine import Labels, Pipeline, Topic
    from operators import by, field, label


    class Ride(Struct):
        event_id: str
        event_time: int
        driver: str
        city: str
        shop: int
        fare: float


    pipeline = Pipeline(
        name="NAME",
        events=Topic("NAME.rides", Ride, key="driver", grace="5s", partitions=PARTITIONS),
        labels=Labels("NAME.truths", wait="10m"),
        features={
            "fare": field("fare"),
            "driver_n": by("driver").count("5m"),
            "driver_true": by("driver").mean(label, "10m"),
            "city_mean": by("city").mean("fare", "2m"),
            "city_true": by("city").mean(label, "5m").default(0.5),
            "shop_max": by("shop").max("fare", "1m"),
            "city_shop_n": by("city", "shop").count("3m"),
            "all_n": by().count("30s"),
            "all_true": by().count(label, "1m"),
            "share": field("fare") / by("city").sum("fare", "2m"),
        },
        models={"linear": linear_model.LogisticRegression()},
    )
"""


def rides(pipeline: Pipeline) -> list[Message]:
    """Events out of order within grace and their labels, in the order in which they are published."""
    rng = random.Random(3)
    messages: list[tuple[int, Message]] = []
    time = 1_600_000_000_000
    for number in range(EVENTS):
        time += rng.choice((0, 5, 20, 300))
        event_time = time - rng.randrange(GRACE_MS)
        driver = f"d{rng.randrange(40)}"
        ride = {
            "event_id": f"e{number}",
            "event_time": event_time,
            "driver": driver,
            "city": rng.choice("abcdefg"),
            "shop": rng.randrange(9),
            "fare": float(rng.randint(1, 99)),
        }
        event = Message(pipeline.events.name, event_time, driver.encode(), json.dumps(ride).encode())
        messages.append((time, event))
        label_time = event_time + rng.choice((0, 2_000, 60_000))
        truth = {"event_id": ride["event_id"], "label": rng.random() < 0.3, "label_time": label_time}
        label = Message(pipeline.labels.topic or "", label_time, driver.encode(), json.dumps(truth).encode())
        messages.append((max(time, label_time), label))
    return [message for _, message in sorted(messages, key=lambda entry: entry[0])]


async def brute_force(kafka: KafkaSettings, folder: Path, pipeline: Pipeline) -> dict[str, dict[str, Any]]:
    """Features by event id, computed in one partition from all events as they lie in Kafka.

    In the order of (time, source partition, offset).
    """
    messages: list[Message] = []
    for topic, time in ((pipeline.events.name, "event_time"), (pipeline.labels.topic or "", "label_time")):
        records = await read_topic(kafka, topic)
        ordered = sorted(records, key=lambda r: (json.loads(r.value)[time], r.partition, r.offset))
        messages += [Message(topic, r.timestamp, r.key, r.value) for r in ordered]
    alone = write_pipeline(folder, SOURCE.replace("PARTITIONS", "1"), name=pipeline.name)
    found = backtested(folder, load_pipeline(alone), messages)
    return {line["event_id"]: line["features"] for line in found}


def test_two_workers_one_frozen_one_killed_answer_as_one_partition_would(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    asyncio.run(two_workers(kafka, tmp_path))


async def two_workers(kafka: KafkaSettings, folder: Path) -> None:
    name = fresh_name("rekey")
    file = write_pipeline(folder, SOURCE.replace("PARTITIONS", str(PARTITIONS)), name=name)
    pipeline = load_pipeline(file)
    predictions = pipeline.catalog["predictions"]
    await make_topics(kafka, pipeline)
    await publish(kafka, rides(pipeline))
    one, two = (
        Worker(file, kafka, folder, name=which, checkpoint_interval_ms=400, rekey_idle_timeout_ms=1_000)
        for which in ("one", "two")
    )
    async with watching(kafka, predictions) as watch:
        with one, two:
            for worker in (one, two):
                await worker.ready()
            await answers(watch, predictions, EVENTS // 8, two)
            await one.freeze()  # a zombie, once the other has its partitions
            await until(lambda: two.metrics()["headrace_partitions"] == PARTITIONS, "all", worker=two)
            one.send(signal.SIGCONT)
            # Amid the work; a pause in it would make partitions idle, so nothing is kept back for the kill.
            await answers(watch, predictions, EVENTS // 4, two)
            two.kill()
            two.start()
            await answers(watch, predictions, EVENTS, two)
            codes = [await worker.stop() for worker in (one, two)]
            assert codes == [0, 0], one.said() + two.said()
    found = counting(await read_topic(kafka, predictions))
    expected = await brute_force(kafka, folder, pipeline)
    assert len(expected) == EVENTS
    assert found.keys() == expected.keys()
    assert not [answer["event_id"] for answer in found.values() if answer.get("late")]
    wrong = {
        event_id: (answer["features"], expected[event_id])
        for event_id, answer in found.items()
        if answer["features"] != expected[event_id]
    }
    assert not wrong, f"{len(wrong)} of {EVENTS}: {next(iter(wrong.items()))}"
    await account(kafka, pipeline)


async def answers(watch: Watch, predictions: str, count: int, worker: Worker) -> None:
    await until(lambda: watch.answered(predictions) >= count, f"{count} answers", worker=worker)


async def account(kafka: KafkaSettings, pipeline: Pipeline) -> None:
    """Every event went once to every stage and came back once, whoever made it."""
    assert pipeline.stages is not None
    messages = [
        (read.value["order"][4], read.value["source_partition"], read.value["event_offset"])
        for read in folded(await read_topic(kafka, pipeline.catalog["rekey"]))
        if read.counts and read.value["type"] == "event"
    ]
    back = [
        (read.value["stage"], read.value["event_partition"], read.value["event_offset"])
        for read in folded(await read_topic(kafka, pipeline.catalog["rekeyed"]))
        if read.counts and read.value["type"] == "values"
    ]
    assert len(messages) == len(set(messages)) == EVENTS * len(pipeline.stages.rekeyed)
    assert sorted(messages) == sorted(back)
