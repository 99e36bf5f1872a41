"""Logs that are others than they were, or have lost records: refused with the fix, and the fix works."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from reading import watching
from running import Worker, fresh_name, in_process, make_topics, publish, until, write_pipeline
from structlog.testing import capture_logs
from test_claim import delete
from test_run_ends import SOURCE, readings, refused, settled

from engine.definition.file import load_pipeline
from engine.kafka.log_reader import log_bounds
from engine.settings import Accepted, KafkaSettings, Settings

pytestmark = pytest.mark.kafka

BEFORE, AFTER = 50, 80


def test_a_topic_made_anew_with_more_records_is_another_log(kafka: KafkaSettings, tmp_path: Path) -> None:
    async def scenario() -> None:
        file = write_pipeline(tmp_path, SOURCE, name=fresh_name("anew"))
        pipeline = load_pipeline(file)
        events, predictions = pipeline.events.name, pipeline.catalog["predictions"]
        await settled(kafka, tmp_path / "state", pipeline, BEFORE)
        await delete_topic(kafka, events)
        await make_topics(kafka, pipeline)
        others = readings(pipeline, BEFORE + AFTER)[BEFORE:]
        await publish(kafka, others)
        refusal = str(await refused(kafka, tmp_path / "state", pipeline))
        for said in (
            "the checkpoint is of another log",
            events,
            "an empty store (another HEADRACE_STATE_DIR)",
        ):
            assert said in refusal
        async with (
            watching(kafka, predictions) as watch,
            in_process(pipeline, Settings(kafka=kafka, state_dir=tmp_path / "anew")) as (worker, running),
        ):
            await until(lambda: watch.counted(predictions) == BEFORE + AFTER, "answers")
            worker.stop()
            await running
            assert watch.answered(predictions) == BEFORE + AFTER

    asyncio.run(scenario())


def test_a_lost_store_and_deleted_events_are_refused_with_counts_until_accepted(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    async def scenario() -> None:
        file = write_pipeline(tmp_path, SOURCE, name=fresh_name("trimmed"))
        pipeline = load_pipeline(file)
        events, predictions = pipeline.events.name, pipeline.catalog["predictions"]
        worker = Worker(file, kafka, tmp_path)
        await settled(kafka, worker.state_dir, pipeline, BEFORE)
        await delete(kafka, events, before=30)
        await publish(kafka, readings(pipeline, BEFORE + AFTER)[BEFORE:])
        with worker:  # with its store it has read what was deleted
            async with watching(kafka, predictions) as watch:
                await until(lambda: watch.counted(predictions) == BEFORE + AFTER, "answers", worker=worker)
            assert await worker.stop() == 0, worker.said()
        shutil.rmtree(worker.state_dir)
        await publish(kafka, readings(pipeline, BEFORE + 2 * AFTER)[BEFORE + AFTER :])
        claims = (await log_bounds(kafka, predictions))[0]
        worker.start()
        assert await worker.ended() == 1
        assert "and so are records to replay: 30 of events (partition 0)" in worker.said()
        assert "--accept-lost-records" in worker.said()
        assert (await log_bounds(kafka, predictions))[0] == claims, "it wrote something"
        worker.start("--accept-lost-records")
        with_all = BEFORE + 2 * AFTER
        async with watching(kafka, predictions) as watch:
            await until(lambda: watch.answered(predictions) == with_all, "answers", worker=worker)
            assert await worker.stop() == 0, worker.said()
            assert watch.counted(predictions) == with_all, "answered twice"
        (told,) = worker.logged("going on without records that were deleted")
        assert told["events_0"] == 30

    asyncio.run(scenario())


def test_unread_records_that_were_deleted_are_gone_on_without_where_accepted(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    async def scenario() -> None:
        file = write_pipeline(tmp_path, SOURCE, name=fresh_name("unread"))
        pipeline = load_pipeline(file)
        events, predictions = pipeline.events.name, pipeline.catalog["predictions"]
        settings = Settings(kafka=kafka, state_dir=tmp_path / "state")
        await settled(kafka, settings.state_dir, pipeline, BEFORE)
        await publish(kafka, readings(pipeline, BEFORE + AFTER)[BEFORE:])
        await delete(kafka, events, before=BEFORE + 10)
        refusal = str(await refused(kafka, settings.state_dir, pipeline))
        assert "10 records were deleted before they were read" in refusal
        assert "--accept-lost-records" in refusal
        with capture_logs() as lines:
            async with (
                watching(kafka, predictions) as watch,
                in_process(pipeline, settings, Accepted(lost_records=True)) as (worker, running),
            ):
                await until(lambda: watch.counted(predictions) == BEFORE + AFTER - 10, "answers")
                worker.stop()
                await running
        accepted = "records were deleted before they were read: going on without them"
        (told,) = (line for line in lines if line["event"] == accepted)
        assert (told["topic"], told["records"]) == (events, 10)

    asyncio.run(scenario())


async def delete_topic(kafka: KafkaSettings, topic: str) -> None:
    """Delete a topic; a broker alone has done it when it answers."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    await admin.start()
    try:
        await admin.delete_topics([topic])
    finally:
        await admin.close()
