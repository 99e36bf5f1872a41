"""`headrace status`: the pipeline as its topics tell it, with and without workers."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from typer.testing import CliRunner

from engine.cli.main import app
from engine.definition.file import load_pipeline
from engine.definition.pipeline import Pipeline
from engine.group.overview import Overview, overview
from engine.kafka.topic_admin import ensure_topics
from engine.settings import KafkaSettings
from topics.messages import Decision, WorkerStatus

SOURCE = """
from msgspec import Struct
from river import linear_model

from headrace import Labels, Pipeline, Topic, field

class Event(Struct):
    event_id: str
    event_time: int
    value: float

pipeline = Pipeline(
    name="NAME",
    events=Topic("NAME.events", Event, key="event_id", partitions=2),
    labels=Labels("NAME.labels", wait="1h"),
    features={"value": field("value")},
    models={"linear": linear_model.LogisticRegression()},
    champion="linear",
)
"""


def pipeline_of(folder: Path, name: str) -> tuple[Path, Pipeline]:
    file = folder / "pipeline.py"
    file.write_text(SOURCE.replace("NAME", name))
    return file, load_pipeline(file)


async def made(kafka: KafkaSettings, pipeline: Pipeline) -> None:
    await ensure_topics(kafka, [one._replace(create=True) for one in pipeline.catalog.plan(events=2)])


async def written(kafka: KafkaSettings, records: list[tuple[str, int, bytes | None, Any]]) -> None:
    """Write values of messages, or bytes, to topics and partitions."""
    async with AIOKafkaProducer(**kafka.aiokafka_options()) as producer:
        for topic, partition, key, value in records:
            data = value if isinstance(value, bytes) else msgspec.json.encode(value)
            await producer.send_and_wait(topic, data, key=key, partition=partition)


async def committed(kafka: KafkaSettings, group: str, offsets: dict[tuple[str, int], int]) -> None:
    consumer = AIOKafkaConsumer(**kafka.aiokafka_options(), group_id=group, enable_auto_commit=False)
    await consumer.start()
    try:
        places = {TopicPartition(*place): offset for place, offset in offsets.items()}
        consumer.assign(list(places))
        await consumer.commit(places)
    finally:
        await consumer.stop()


def worker(name: str, **said: Any) -> tuple[str, WorkerStatus]:
    now_ms = time.time_ns() // 1_000_000
    sound = {"ready": True, "standing": "ok", "partitions": 1, "features_version": "a"}
    return name, WorkerStatus(name, now_ms, now_ms - 60_000, 5_000, "0.1", **(sound | said))


def decision(number: int, type_: Any, reason: str) -> Decision:
    return Decision(
        f"d{number}", type_, 1_700_000_000_000 + number, "linear", 1, number, reason, "headrace", number
    )


def test_a_pipeline_as_its_topics_tell_it(broker: KafkaSettings, tmp_path: Path) -> None:
    name = f"status-{time.time_ns() % 10**9}"
    file, pipeline = pipeline_of(tmp_path, name)
    events, labels = f"{name}.events", f"{name}.labels"

    async def look() -> list[Overview]:
        await made(broker, pipeline)
        found = [await overview(broker, pipeline, time.time_ns() // 1_000_000, decisions_max=2)]
        statuses = [worker("a", leading=True, champion="linear", models={"linear": "1@9"}), worker("b")]
        inputs = [(events, number % 2, None, b"{}") for number in range(10)] + [(labels, 0, None, b"{}")]
        told = [
            decision(1, "champion.pinned", "first"),
            decision(2, "model.promoted", "second"),
            decision(3, "slices.reported", "no decision"),
            decision(4, "drift.detected", "third"),
        ]
        records: list[tuple[str, int, bytes | None, Any]] = list(inputs)
        records += [(pipeline.catalog["status"], 0, name.encode(), status) for name, status in statuses]
        records += [(pipeline.catalog["decisions"], 0, name.encode(), one) for one in told]
        await written(broker, records)
        await committed(broker, name, {(events, 0): 3, (events, 1): 5})
        found.append(await overview(broker, pipeline, time.time_ns() // 1_000_000, decisions_max=2))
        return found

    before, after = asyncio.run(look())
    assert before.troubles == ("no worker runs",)
    assert {(one.records, one.committed) for one in before.lag} == {(0, None)}
    assert after.troubles == ()
    assert {(one.topic, one.partition): (one.records, one.committed) for one in after.lag} == {
        (events, 0): (2, 3), (events, 1): (0, 5), (labels, 0): (1, None), (labels, 1): (0, None),
    }  # fmt: skip
    assert [one.reason for one in after.decisions] == ["third", "second"]

    shown = CliRunner().invoke(app, ["status", str(file), "--bootstrap-servers", broker.bootstrap_servers])
    assert shown.exit_code == 0, shown.output
    for text in ("2 of 2 workers ready", "linear 1@9", "drift.detected linear: third", "alerts: none"):
        assert text in shown.output


@pytest.mark.parametrize(
    ("statuses", "trouble"),
    [
        ({"a": {"leading": True}}, "1 of 2 partitions have no worker"),
        (
            {"a": {"leading": True}, "b": {"ready": False, "standing": "restoring"}},
            "b is not ready: restoring",
        ),
        ({"a": {}, "b": {}}, "nobody leads"),
        ({"a": {"leading": True}, "b": {"features_version": "z"}}, "different features"),
        ({"a": {"leading": True, "partitions": 2}, "b": {"silent": True}}, "b has been silent"),
    ],
)
def test_what_is_unhealthy(statuses: dict[str, dict[str, Any]], trouble: str) -> None:
    from engine.group.members import Member
    from engine.group.overview import troubles_of

    members = []
    for name, said in statuses.items():
        silent = bool(said.pop("silent", False))
        members.append(Member(worker(name, **said)[1], 30_000 if silent else 0, silent))
    (one,) = troubles_of(tuple(members), 2)
    assert trouble in one


def test_missing_topics_are_a_broker_error(tansu: KafkaSettings, tmp_path: Path) -> None:
    file, _ = pipeline_of(tmp_path, "status-none")
    shown = CliRunner().invoke(app, ["status", str(file), "--bootstrap-servers", tansu.bootstrap_servers])
    assert "no such topic" in str(shown.exception)
