"""The last event of a stream, and then silence: on real Kafka its implicit label comes all the same."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from reading import counting, read_topic, watching
from running import Message, Worker, fresh_name, make_topics, publish, until, write_pipeline

from engine.definition.file import load_pipeline
from engine.definition.pipeline import Pipeline
from engine.offline.backtest import LocalRun
from engine.settings import KafkaSettings
from topics.codec import decode_example
from topics.headers import text_of
from topics.messages import Record

SOURCE = """
    from msgspec import Struct
    from river import linear_model

    from engine import Labels, Pipeline, Topic
    from operators import by, field, label


    class Reading(Struct):
        event_id: str
        event_time: int
        sensor: str
        value: float


    pipeline = Pipeline(
        name="NAME",
        events=Topic("NAME.readings", Reading, key="sensor", grace="1s"),
        labels=Labels("NAME.truths", wait="3s", on_timeout=False),
        features={"value": field("value"), "hot": by("sensor").mean(label, "1h").default(0.0)},
        models={"linear": linear_model.LogisticRegression()},
    )
"""
EVENTS = 30
LABELLED_EVERY = 3


def readings(pipeline: Pipeline, start: int) -> list[Message]:
    """Events of a second, and the labels of some of them, which are known at once."""
    messages = []
    for number in range(EVENTS):
        at = start + 33 * number
        value: dict[str, Any] = {"event_id": f"r{number}", "event_time": at, "sensor": "s", "value": 1.0}
        messages.append(Message(pipeline.events.name, at, b"s", json.dumps(value).encode(), 0))
        if number % LABELLED_EVERY == 0:
            truth = {"event_id": f"r{number}", "label": True, "label_time": at + 1}
            messages.append(Message(pipeline.labels.topic or "", at + 1, b"s", json.dumps(truth).encode(), 0))
    return messages


def learned(records: list[Any]) -> dict[str, tuple[Any, ...]]:
    """Return what was learned of each event: of the examples that count, by id."""
    return {
        event_id: (value["label"], value["label_time"], value.get("expired_at_offset", -1))
        for event_id, value in counting(records, "example").items()
    }


@pytest.mark.kafka
def test_after_the_last_event_its_implicit_label_comes_and_a_replay_says_the_same(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    file = write_pipeline(tmp_path, SOURCE, name=fresh_name("idle"))
    pipeline = load_pipeline(file)
    examples, events = pipeline.catalog["examples"], pipeline.events.name

    async def scenario() -> None:
        await make_topics(kafka, pipeline)
        # No checkpoint within the test: whoever takes over reads everything again, moves too.
        worker = Worker(file, kafka, tmp_path, idle_timeout_ms=300, checkpoint_interval_ms=600_000)
        async with watching(kafka, examples) as watch:
            with worker:
                await worker.ready()
                await publish(kafka, readings(pipeline, int(time.time() * 1_000)))
                await until(lambda: watch.counted(examples) == EVENTS, "all have a label", worker=worker)
                before = learned(await read_topic(kafka, examples))
                assert worker.metrics()["headrace_watermark_moves_total{refused}"] == 0
                worker.kill()
            with worker:
                await worker.ready()
                moved = "headrace_watermark_moves_total{moved}"
                await until(lambda: worker.metrics()[moved] >= 1, "moves are read again", worker=worker)
                implicit = "headrace_labels_total{implicit}"
                missing = EVENTS - EVENTS // LABELLED_EVERY
                await until(lambda: worker.metrics()[implicit] == missing, "labels anew", worker=worker)
                assert worker.complaints() == []
                assert await worker.stop() == 0
            assert watch.counted(examples) == EVENTS
        assert learned(await read_topic(kafka, examples)) == before
        log = [Record(events, 0, r.offset, None, r.key, r.value) for r in await read_topic(kafka, events)]
        assert [r.offset for r in log if r.key is None], "the moves lie among the events"
        labels = await read_topic(kafka, pipeline.labels.topic or "")
        run = LocalRun(pipeline, keep_examples=True)
        run.scorer.intake.offer_events(log)
        run.scorer.intake.offer_labels(Record("", 0, r.offset, None, r.key, r.value) for r in labels)
        while run.advance() is not None:
            pass
        made = [
            decode_example(r.value or b"")
            for r in run.examples or ()
            if text_of(r.headers, "headrace-kind") == "example"
        ]
        assert {x.event_id: (x.label, x.label_time, x.expired_at_offset) for x in made} == before

    asyncio.run(scenario())
