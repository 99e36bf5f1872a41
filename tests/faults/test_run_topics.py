"""Topics that are deleted, made anew or changed under a running worker: it ends soon, and says which and why.

Each of these went on in silence once: an output made anew took records behind no claim, which no reader
counts; one that was deleted was waited for as a broker that does not answer, ten minutes long.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from running import Worker, fresh_name, in_process, make_topics, publish, until, write_pipeline
from test_run_another_log import delete_topic
from test_run_ends import SOURCE, readings, refused
from test_run_refused_writes import alter

import engine.worker.loop
from engine.definition.file import load_pipeline
from engine.settings import KafkaSettings, Settings
from topics.catalog import Role
from topics.errors import BrokerError

pytestmark = pytest.mark.kafka

BEFORE, AFTER = 50, 80
LOG_BYTES_MAX = 50_000
DELETED = "the topic was deleted while it was in use"
MADE_ANEW = "the topic was deleted and made anew"
NOTICED = (
    "the topic was deleted while it was read",
    "the log was cut or replaced while it was read",
    "before the place where reading stopped",
    "the checkpoint is of another log",
)
"""What is met first: no topic, a log too short, or the rebalance that topics bring which come and go."""


def answers(worker: engine.worker.loop.Worker) -> int:
    return sum(count for (name, _), count in worker.metrics.counts.items() if name == "predictions")


@pytest.mark.parametrize(
    ("role", "change", "says"),
    [
        ("predictions", "delete", DELETED),
        ("examples", "delete", DELETED),
        ("predictions", "make anew", MADE_ANEW),
        ("examples", "make anew", MADE_ANEW),
        ("predictions", "shrink", "MessageSizeTooLargeError"),
    ],
)
def test_an_output_that_takes_no_more_ends_the_worker(
    kafka: KafkaSettings, tmp_path: Path, role: Role, change: str, says: str
) -> None:
    async def scenario() -> None:
        pipeline = load_pipeline(write_pipeline(tmp_path, SOURCE, name=fresh_name("gone")))
        topic, made = pipeline.catalog[role], readings(pipeline, BEFORE + AFTER)
        await make_topics(kafka, pipeline)
        async with in_process(pipeline, Settings(kafka=kafka, state_dir=tmp_path)) as (worker, running):
            await publish(kafka, made[:BEFORE])
            await until(lambda: answers(worker) == BEFORE, "answers")
            if change == "shrink":
                await alter(kafka, topic, {"max.message.bytes": "300"})
            else:
                await delete_topic(kafka, topic)
            if change == "make anew":
                await make_topics(kafka, pipeline)
            await publish(kafka, made[BEFORE:])
            await until(running.done, "its end")
            with pytest.raises(BrokerError, match=says) as caught:
                await running
            assert topic in str(caught.value)
            assert caught.value.hint

    asyncio.run(scenario())


def test_events_made_anew_end_the_worker_and_every_start_after_it(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    """While the topic is gone, or behind where it was read; and when it has more records than before."""

    async def scenario() -> None:
        file = write_pipeline(tmp_path, SOURCE, name=fresh_name("anew"))
        pipeline, worker = load_pipeline(file), Worker(file, kafka, tmp_path)
        answered = "headrace_predictions_total{champion}"
        await make_topics(kafka, pipeline)
        with worker:
            await worker.ready()
            await publish(kafka, readings(pipeline, BEFORE))
            await until(lambda: worker.metrics()[answered] == BEFORE, "answers", worker=worker)
            await until(lambda: worker.metrics()["headrace_unsaved_events"] == 0, "saved", worker=worker)
            await delete_topic(kafka, pipeline.events.name)
            await make_topics(kafka, pipeline)
            assert await worker.ended() == 1
        assert any(noticed in worker.said() for noticed in NOTICED), worker.said()
        assert worker.log.stat().st_size < LOG_BYTES_MAX
        await publish(kafka, readings(pipeline, BEFORE + AFTER)[BEFORE:])
        assert "the checkpoint is of another log" in str(await refused(kafka, worker.state_dir, pipeline))

    asyncio.run(scenario())


def test_partitions_that_are_added_are_refused_with_both_numbers(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    async def scenario() -> None:
        file = write_pipeline(tmp_path, SOURCE, name=fresh_name("grown"))
        pipeline = load_pipeline(file)
        await make_topics(kafka, pipeline)
        async with in_process(pipeline, Settings(kafka=kafka, state_dir=tmp_path)) as (worker, running):
            await publish(kafka, readings(pipeline, BEFORE))
            await until(lambda: answers(worker) == BEFORE, "answers")
            admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
            await admin.start()
            await admin.create_partitions({pipeline.events.name: NewPartitions(3)})
            await admin.close()
            await worker._source._consumer._client.force_metadata_update()  # or within a minute
            await until(running.done, "its end")
            with pytest.raises(BrokerError, match="3 partitions now, it had 1") as caught:
                await running
            assert caught.value.topic == pipeline.events.name
        refusal = await refused(kafka, tmp_path, load_pipeline(file))
        assert f"{pipeline.events.name} has 3 partitions, must have 1" in str(refusal)

    asyncio.run(scenario())
