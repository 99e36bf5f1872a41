"""Rights that are taken from a worker while it runs, on a Kafka that asks for them at every request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import TopicAuthorizationFailedError
from brokers.secured import (
    CLUSTER,
    DESCRIBE,
    DESCRIBE_CONFIGS,
    GROUP,
    IDEMPOTENT_WRITE,
    PREFIXED,
    READ,
    READER,
    READERS_PASSWORD,
    TOPIC,
    WRITE,
    Right,
    SecuredKafka,
)
from reading import watching
from running import Worker, fresh_name, make_topics, publish, until, write_pipeline
from test_run_ends import SOURCE, readings

from engine.definition.file import load_pipeline

ANSWERS = 40
ENDS_WITHIN_S = 30.0
pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    with SecuredKafka(tmp_path_factory.mktemp("rights")) as kafka:
        yield kafka


WAITS = (
    SOURCE.replace("hot: bool", "hot: bool = False")
    .replace('key="sensor"', 'key="sensor", grace="1s"')
    .replace('Labels(field="hot")', 'Labels("NAME.truths", wait="1s", on_timeout=False)')
)


def rights_of_a_worker(name: str, written: list[str]) -> list[Right]:
    """Those that SECURITY.md names, but that topics are written by name."""
    return [
        *(Right(one, TOPIC, f"{name}.", PREFIXED) for one in (READ, DESCRIBE, DESCRIBE_CONFIGS)),
        *(Right(WRITE, TOPIC, topic) for topic in written),
        Right(READ, GROUP, name),
        Right(READ, GROUP, f"{name}-control"),
        Right(READ, GROUP, f"{name}-alerts"),
        Right(IDEMPOTENT_WRITE, CLUSTER, "kafka-cluster"),
    ]


def test_a_right_that_is_taken_ends_the_worker_by_name_and_it_goes_on_when_it_is_back(
    secured: SecuredKafka, tmp_path: Path
) -> None:
    """Nothing is lost or answered twice meanwhile, and no start without the right spins."""
    everything = secured.with_password("PLAIN")
    as_reader = secured.with_password("PLAIN", sasl_username=READER, sasl_password=READERS_PASSWORD)
    name = fresh_name("rights")
    file = write_pipeline(tmp_path, SOURCE, name=name)
    pipeline = load_pipeline(file)
    predictions, commands = pipeline.catalog["predictions"], pipeline.catalog["commands"]
    roles = pipeline.catalog.roles.items()
    written = [topic for topic, role in roles if role not in {"events", "labels", "commands"}]
    messages = readings(pipeline, 3 * ANSWERS)
    taken = Right(WRITE, TOPIC, predictions)

    async def ends_and_names_it(worker: Worker) -> None:
        began_s = time.monotonic()
        assert await worker.ended(ENDS_WITHIN_S) != 0
        assert time.monotonic() - began_s < ENDS_WITHIN_S
        said = worker.said()
        assert predictions in said
        assert "TopicAuthorizationFailed" in said
        assert "give this user" in said
        assert len(worker.lines()) < 100, "it has spun"

    async def scenario() -> None:
        await make_topics(everything, pipeline)
        await secured.allow(*rights_of_a_worker(name, written))
        worker = Worker(file, as_reader, tmp_path)
        async with watching(everything, predictions) as watch:
            with worker:
                await worker.ready()
                await publish(everything, messages[:ANSWERS])
                await until(lambda: watch.counted(predictions) == ANSWERS, "answers", worker=worker)
                await secured.forbid(taken)
                await publish(everything, messages[ANSWERS : 2 * ANSWERS])
                await ends_and_names_it(worker)
            with worker:
                await ends_and_names_it(worker)
            await secured.allow(taken)
            with worker:
                await publish(everything, messages[2 * ANSWERS :])
                await until(lambda: watch.counted(predictions) == 3 * ANSWERS, "the rest", worker=worker)
                with pytest.raises(TopicAuthorizationFailedError):
                    async with AIOKafkaProducer(**as_reader.aiokafka_options()) as producer:
                        await producer.send_and_wait(commands, b"{}")
                assert await worker.stop() == 0

    asyncio.run(scenario())


def test_a_quiet_partition_whose_topic_takes_nothing_of_ours_stops_nobody_and_moves_when_it_may(
    secured: SecuredKafka, tmp_path: Path
) -> None:
    everything = secured.with_password("PLAIN")
    as_reader = secured.with_password("PLAIN", sasl_username=READER, sasl_password=READERS_PASSWORD)
    name = fresh_name("quiet")
    file = write_pipeline(tmp_path, WAITS, name=name)
    pipeline = load_pipeline(file)
    events, examples = pipeline.events.name, pipeline.catalog["examples"]
    roles = pipeline.catalog.roles.items()
    written = [topic for topic, role in roles if role not in {"events", "labels", "commands"}]

    async def scenario() -> None:
        await make_topics(everything, pipeline)
        await secured.allow(*rights_of_a_worker(name, written))
        worker = Worker(file, as_reader, tmp_path, idle_timeout_ms=300)
        async with watching(everything, examples) as watch:
            with worker:
                await worker.ready()
                await publish(everything, readings(pipeline, ANSWERS))
                refused = "headrace_watermark_moves_total{refused}"
                await until(lambda: worker.metrics()[refused] >= 1, "a refusal", worker=worker)
                (told,) = worker.logged("the watermark of quiet partitions cannot be moved")
                assert told["topic"] == events
                assert watch.counted(examples) == 0
                await secured.allow(Right(WRITE, TOPIC, events))
                await until(lambda: watch.counted(examples) == ANSWERS, "implicit labels", worker=worker)
                assert await worker.stop() == 0

    asyncio.run(scenario())
