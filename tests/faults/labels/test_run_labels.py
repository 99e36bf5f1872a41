"""Labels that correct others, and labels that are combined, through `kill -9`: each counts once."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from reading import folded, read_topic, watching
from running import Message, Worker, fresh_name, make_topics, publish, until, write_pipeline

from engine.definition.file import load_pipeline
from engine.definition.pipeline import Pipeline
from engine.offline.backtest import Backtest
from engine.settings import KafkaSettings
from topics.messages import Record

pytestmark = pytest.mark.kafka

SOURCE = """
    from msgspec import Struct
    from river import linear_model

    from engine import Labels, Pipeline, Topic
    from operators import by, field, label


    class Visit(Struct):
        event_id: str
        event_time: int
        shop: str
        price: float


    pipeline = Pipeline(
        name="NAME",
        events=Topic("NAME.visits", Visit, key="shop", grace="1s"),
        labels=Labels("NAME.spent", wait="100s", LABELS),
        features={"price": field("price"), "spent": by("shop").mean(label, "200s").default(0.0)},
        models={"linear": linear_model.LinearRegression()},
        drift=(),
    )
"""
VISITS = 900
AHEAD_MAX = 200
"""Published and not answered: enough for a kill to hit work."""
KILLS = 2
BEGIN_MS = 1_700_000_000_000


def messages_of(pipeline: Pipeline) -> list[Message]:
    """A visit a second, its label after 10 s, and another one after 30 s."""
    events, labels = pipeline.events.name, pipeline.labels.topic or ""
    found = []
    for number in range(VISITS):
        time = BEGIN_MS + 1_000 * number
        visit = {"event_id": f"e{number}", "event_time": time, "shop": "a", "price": float(number % 7)}
        found.append(Message(events, time, b"a", json.dumps(visit).encode()))
        for after in (10_000, 30_000):
            label = {
                "event_id": f"e{number}",
                "label": number % 5 + after / 1_000,
                "label_time": time + after,
            }
            found.append(Message(labels, time + after, b"a", json.dumps(label).encode()))
    over = BEGIN_MS + 10_000_000
    end = {"event_id": "end", "event_time": over, "shop": "a", "price": 0.0}
    return [*sorted(found, key=lambda one: one.time), Message(events, over, b"a", json.dumps(end).encode())]


def told(value: dict[str, Any]) -> str:
    """What an example says, as text that sorts."""
    return str([value.get(name) for name in ("event_id", "label", "before", "label_offset", "label_time")])


def backtested(pipeline: Pipeline, messages: list[Message]) -> list[str]:
    """What a backtest of the same messages writes to the examples log."""
    test = Backtest(pipeline, keep_examples=True)
    topics: dict[str, list[Record]] = {pipeline.events.name: [], pipeline.labels.topic or "": []}
    for one in messages:
        records = topics[one.topic]
        records.append(Record(one.topic, 0, len(records), None, one.key, one.value))
    test.play(*([records] for records in topics.values()))
    log = test.run.examples or []
    return [told(json.loads(one.value or b"")) for one in log if one.headers[0][1] == b"example"]


@pytest.mark.parametrize("labels", ['correct="relearn"', 'combine="sum"'])
def test_labels_count_once_through_kills(kafka: KafkaSettings, tmp_path: Path, labels: str) -> None:
    asyncio.run(killed(kafka, tmp_path, labels))


async def killed(kafka: KafkaSettings, folder: Path, labels: str) -> None:
    file = write_pipeline(folder, SOURCE.replace("LABELS", labels), name=fresh_name("labels"))
    pipeline = load_pipeline(file)
    messages = messages_of(pipeline)
    expected = backtested(pipeline, messages)
    assert len(expected) == (2 * VISITS if "correct" in labels else VISITS)
    predictions, examples = pipeline.catalog["predictions"], pipeline.catalog["examples"]
    await make_topics(kafka, pipeline)
    worker = Worker(file, kafka, folder, checkpoint_interval_ms=500)
    sent = [0]
    for message in messages:
        sent.append(sent[-1] + (message.topic == pipeline.events.name))
    async with watching(kafka, predictions, examples) as watch:

        async def pace(published: int) -> None:
            await until(lambda: watch.answered(predictions) >= sent[published] - AHEAD_MAX, "answers")

        publishing = asyncio.create_task(publish(kafka, messages, pace=pace))
        for kill in range(1, KILLS + 1):
            with worker:
                least = kill * VISITS // (KILLS + 1)
                await until(lambda least=least: watch.answered(predictions) > least, "work", worker=worker)  # type: ignore[misc]
                worker.kill()
        with worker:
            await worker.ready()
            await publishing
            await until(lambda: watch.counted(examples) >= len(expected), "every example", worker=worker)
            assert await worker.stop() == 0, worker.said()
    log = await read_topic(kafka, examples)
    found = [told(one.value) for one in folded(log) if one.counts and one.record_type == "example"]
    assert sorted(found) == sorted(expected)
