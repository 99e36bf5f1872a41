"""A worker with rules and alerts, killed half-way: it serves and tells what a backtest does."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

from reading import counting, read_topic, watching
from running import Message, Worker, backtested, fresh_name, make_topics, publish, until, write_pipeline

from engine.definition.file import load_pipeline
from engine.settings import KafkaSettings

SOURCE = """
    from msgspec import Struct
    from river import linear_model

    from engine import Alert, Labels, Pipeline, Rule, Topic, changed_schema, new_category
    from operators import by, feature, field


    class Reading(Struct):
        event_id: str
        event_time: int
        sensor: str
        value: float
        unit: str = "C"


    pipeline = Pipeline(
        name="NAME",
        events=Topic("NAME.readings", Reading, key="sensor"),
        labels=Labels("NAME.truths", wait="1h"),
        features={"value": field("value"), "sum": by("sensor").sum("value", "1h")},
        models={"linear": linear_model.LogisticRegression()},
        rules=[
            Rule(field("value"), between=(-50, 50), action="clip"),
            Rule(field("sensor"), matches="^s", action="dead_letter"),
            Rule(field("unit"), one_of=("C", "K"), action="flag"),
            Rule(feature("sum"), between=(None, 400), action="flag"),
        ],
        alerts=[Alert(when=new_category("unit", learning=20)), Alert(when=changed_schema(learning=20))],
    )
"""
START = 1_700_000_000_000
EVENTS = 400


def reading(number: int) -> bytes:
    body = {
        "event_id": f"e{number}",
        "event_time": START + number * 1_000,
        "sensor": "t" if number % 40 == 7 else f"s{number % 5}",
        "value": 999.0 if number % 10 == 3 else float(number % 9),
        "unit": f"F{number % 3}" if number > 150 and number % 11 == 0 else "C",
    }
    return json.dumps(body | ({"firmware": 2} if number > 200 else {})).encode()


def test_a_killed_worker_serves_and_tells_what_a_backtest_does(tansu: KafkaSettings, tmp_path: Path) -> None:
    asyncio.run(killed(tansu, tmp_path))


async def killed(kafka: KafkaSettings, folder: Path) -> None:
    name = fresh_name("rules")
    file = write_pipeline(folder, SOURCE, name=name)
    pipeline = load_pipeline(file)
    catalog, topic = pipeline.catalog, pipeline.events.name
    await make_topics(kafka, pipeline)
    messages = [Message(topic, START + n * 1_000, b"s", reading(n)) for n in range(EVENTS)]
    expected = {line["event_id"]: line for line in backtested(folder, pipeline, messages)}
    worker = Worker(file, kafka, folder)
    async with watching(kafka, catalog["predictions"]) as watch:
        with worker:
            await worker.ready()
            await publish(kafka, messages[: EVENTS // 2])
            await until(lambda: watch.counted(catalog["predictions"]) > 20, "begun", worker=worker)
            worker.kill()
            await worker.start().ready()
            await publish(kafka, messages[EVENTS // 2 :])
            everything = len(expected)
            await until(lambda: watch.counted(catalog["predictions"]) == everything, "done", worker=worker)
            metrics = worker.metrics()
            assert await worker.stop() == 0, worker.said()
    assert metrics["headrace_rule_hits_total{clip,value.between}"] >= EVENTS // 20
    served = counting(await read_topic(kafka, catalog["predictions"]))
    assert served.keys() == expected.keys()
    for event_id, line in expected.items():
        assert served[event_id]["features"] == line["features"]
        assert served[event_id].get("flags") == line.get("flags")
    flags = Counter(flag for line in expected.values() for flag in line.get("flags", ()))
    assert set(flags) == {"unit.one_of", "feature.sum.between"}
    dead = await read_topic(kafka, catalog["dead-letters"])
    refused = {json.loads(letter.value)["event_id"] for letter in dead}
    assert refused == {f"e{n}" for n in range(EVENTS) if n % 40 == 7}
    assert {letter.value for letter in dead} <= {message.value for message in messages}
    told = {}
    for record in await read_topic(kafka, catalog["alerts"]):
        alert = json.loads(record.value)
        assert told.setdefault(alert["alert_id"], alert) == alert, "a repeat says the same"
        assert record.key == alert["alert_id"].encode()
    assert told.keys() == {
        *(f"{name}:new_category:unit:F{n}" for n in range(3)),
        f"{name}:changed_schema:new_field:firmware",
    }
