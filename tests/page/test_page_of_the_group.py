"""Two workers on a real Kafka, a browser on the page of each: both show both, and who was killed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from chromium import Tab, tab
from reading import read_topic
from running import Message, Worker, fresh_name, make_topics, publish, until, write_pipeline

from engine.definition.file import load_pipeline
from engine.settings import KafkaSettings

SOURCE = """
    from msgspec import Struct
    from river import linear_model

    from engine import Labels, Pipeline, Topic
    from operators import field


    class Reading(Struct):
        event_id: str
        event_time: int
        sensor: str
        value: float
        hot: bool


    pipeline = Pipeline(
        name="NAME",
        events=Topic("NAME.readings", Reading, key="sensor", partitions=4),
        labels=Labels(field="hot"),
        features={"value": field("value")},
        models={"linear": linear_model.LogisticRegression()},
        champion="linear",
    )
"""
START, READINGS = 1_700_000_000_000, 80
EVERY_MS = 1_000
GONE_S = 90.0
"""Four intervals and a session of the group, 16 s together, on a machine that does other things as well."""
ROWS = "[...document.querySelectorAll('#workers tbody tr')]"
HINT = "document.getElementById('group-hint').textContent"


def readings(topic: str) -> list[Message]:
    messages = []
    for number in range(READINGS):
        time, sensor = START + 1_000 * number, f"sensor-{number % 16}"
        value = {"event_id": f"reading-{number}", "event_time": time, "sensor": sensor, "value": 0.5}
        messages.append(Message(topic, time, sensor.encode(), json.dumps(value | {"hot": True}).encode()))
    return messages


async def shows(page: Tab, name: str, says: str) -> None:
    """Wait until the row of a worker says something."""
    await page.until(
        f"{ROWS}.some(row => row.textContent.includes('{name}') && row.textContent.includes('{says}'))"
    )


@pytest.mark.kafka
def test_any_page_shows_all_workers_and_who_is_gone(kafka: KafkaSettings, tmp_path: Path) -> None:
    asyncio.run(_any_page(kafka, tmp_path))


async def _any_page(kafka: KafkaSettings, folder: Path) -> None:
    name = fresh_name("group")
    file = write_pipeline(folder, SOURCE, name=name)
    pipeline = load_pipeline(file)
    await make_topics(kafka, pipeline)
    workers = [
        Worker(file, kafka, folder, name=one, status_interval_ms=EVERY_MS, kafka__group_instance_id=one)
        for one in ("north", "south")
    ]
    with workers[0] as north, workers[1] as south:
        await asyncio.gather(north.ready(), south.ready())
        await publish(kafka, readings(pipeline.events.name))
        async with tab() as page:
            for one in workers:
                await page.open(f"http://127.0.0.1:{one.port}/")
                await page.until(f"{HINT}.startsWith('2 of 2 workers ready · 4 of 4 partitions owned')")
                assert await page.evaluate(f"{ROWS}.length") == 2
                await shows(page, one.name, "this one")
                await until(
                    lambda: (
                        sum(worker.metrics()["headrace_predictions_total{champion}"] for worker in workers)
                        == READINGS
                    ),
                    "all are answered",
                    worker=workers,
                )
            await page.open(f"http://127.0.0.1:{north.port}/")
            await page.until(f"{ROWS}.every(row => row.textContent.includes('linear 1@'))")
            south.kill()
            await page.until(f"{HINT}.startsWith('1 of 1 worker ready · 4 of 4 partitions owned')", GONE_S)
            await shows(page, "south", "gone · silent for")
            assert page.said == []
        # What a killed worker said is all that there was to read: nothing of an event is in it.
        said = b"".join(record.value or b"" for record in await read_topic(kafka, pipeline.catalog["status"]))
        assert b'"worker":"south"' in said
        assert b"reading-" not in said
        assert b"sensor-" not in said
