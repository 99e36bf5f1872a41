"""A worker whose answers wait on disk: they join, repeat and move to the next owner as those in memory do."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from reading import counting, decoded, folded_digests, read_topic, saved_digests, watching
from running import Message, fresh_name, in_process, make_topics, publish, until, write_pipeline

import engine.machines.admission
from engine.definition.file import load_pipeline
from engine.settings import KafkaSettings, Settings
from operators.join.join import Join

SOURCE = """
    from msgspec import Struct
    from river import linear_model

    from headrace import Labels, Pipeline, Topic, by, field, label


    class Payment(Struct):
        event_id: str
        event_time: int
        card: str
        amount: float


    pipeline = Pipeline(
        name="NAME",
        events=Topic("NAME.payments", Payment, key="card"),
        labels=Labels("NAME.frauds", wait="1d"),
        features={"amount": field("amount"), "share": by("card").mean(label, "1d").default(0.0)},
        models={"lr": linear_model.LogisticRegression()},
    )
"""
START = 1_700_000_000_000
EVENTS, RESIDENT_MAX = 1_200, 50
AWAY = EVENTS - RESIDENT_MAX
REPEATED = (3, EVENTS - 3)


def payment(topic: str, number: int) -> Message:
    value = {"event_id": f"p{number}", "event_time": START + number, "card": "c", "amount": number % 13 / 2}
    return Message(topic, START + number, b"c", json.dumps(value).encode())


def fraud(topic: str, number: int) -> Message:
    time = START + 3_600_000 + number
    value = {"event_id": f"p{number}", "label_time": time, "label": number % 13 > 9}
    return Message(topic, time, b"c", json.dumps(value).encode())


@pytest.mark.kafka
def test_answers_that_wait_on_disk_join_after_a_takeover(
    kafka: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.machines.admission, "Join", partial(Join, resident_max=RESIDENT_MAX))
    asyncio.run(scenario(kafka, tmp_path))


async def scenario(kafka: KafkaSettings, folder: Path) -> None:
    file = write_pipeline(folder, SOURCE, name=fresh_name("spill"))
    pipeline = load_pipeline(file)
    events, labels = pipeline.events.name, pipeline.labels.topic or ""
    predictions, examples = pipeline.catalog["predictions"], pipeline.catalog["examples"]
    settings = Settings(kafka=kafka, state_dir=folder / "state", checkpoint_interval_ms=100)
    await make_topics(kafka, pipeline)
    async with watching(kafka, predictions, examples) as watch:
        async with in_process(pipeline, settings) as (worker, _):
            await publish(kafka, [payment(events, number) for number in range(EVENTS)])
            await until(
                lambda: worker.partitions.owned[0].scorer.join.away >= AWAY, "most answers are on disk only"
            )
            assert worker.status().pending == EVENTS
        async with in_process(pipeline, settings) as (worker, running):
            assert worker.partitions.owned[0].scorer.join.away >= AWAY, "a restore reads them into memory"
            await publish(kafka, [payment(events, number) for number in REPEATED])
            await publish(kafka, [fraud(labels, number) for number in range(EVENTS)])
            await until(lambda: watch.counted(examples) == EVENTS, "all learned")
            worker.stop()
            await running
    answers: dict[str, list[dict[str, Any]]] = {}
    for answer in decoded(await read_topic(kafka, predictions)):
        if "event_id" in answer:
            answers.setdefault(answer["event_id"], []).append(answer)
    log = await read_topic(kafka, examples)
    lessons = counting(log, "example")
    assert answers.keys() == lessons.keys() == {f"p{number}" for number in range(EVENTS)}
    repeats = {f"p{number}" for number in REPEATED}
    assert {i: len(found) for i, found in answers.items() if len(found) > 1} == dict.fromkeys(repeats, 2)
    for event_id, found in answers.items():
        for answer in found:
            assert answer["prediction_id"] == found[0]["prediction_id"]
            assert lessons[event_id]["features"] == answer["features"]
            assert lessons[event_id]["served_score"] == answer["prediction_score"]
    digests, learned = await saved_digests(file, settings.state_dir)
    assert learned == EVENTS
    assert (digests, learned) == folded_digests(file, log)
