"""A feature that is served otherwise than the raw events say reaches people, once, whoever is killed."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from brokers.alertmanager import alertmanager_server, alerts_at, webhook
from paths import CHECKOUT
from reading import decoded, read_topic, watching
from running import Message, Worker, fresh_name, make_topics, publish, until, write_pipeline

from engine.definition.file import load_pipeline
from engine.definition.pipeline import Pipeline
from engine.kafka.embedded import free_port
from engine.kafka.sink import open_sink
from engine.local.worker import environment
from engine.settings import KafkaSettings
from topics.headers import record_type_of
from topics.messages import Outgoing

SOURCE = """
    from msgspec import Struct
    from river import linear_model

    from engine import Labels, Pipeline, Topic
    from operators import by, field


    class Payment(Struct):
        event_id: str
        event_time: int
        card: str
        amount: float


    pipeline = Pipeline(
        name="NAME",
        events=Topic("NAME.payments", Payment, key="card"),
        labels=Labels("NAME.frauds", wait="1h"),
        features={"amount": field("amount"), "count": by("card").count("5m")},
        models={"linear": linear_model.LogisticRegression()},
    )
"""
START, STEP_MS = 1_700_000_000_000, 2_000
BEFORE, AFTER = 80, 60
"""One wrong count is more than 1 % of the first, and less than 1 % of all."""


def payments(topic: str, numbers: range) -> list[Message]:
    values = [
        {"event_id": f"p{number}", "event_time": START + number * STEP_MS, "card": "c", "amount": 1.0}
        for number in numbers
    ]
    return [Message(topic, one["event_time"], b"c", json.dumps(one).encode()) for one in values]  # type: ignore[arg-type]


@contextmanager
def skew_check(file: Path, kafka: KafkaSettings) -> Iterator[None]:
    """Run `headrace skew` beside the workers; at the end of the block it dies where it stands."""
    command = [sys.executable, "-m", "headrace", "skew", str(file), "--one-in", "1"]
    given = environment(kafka, state_dir=file.parent / "none", web_port=0) | {"PYTHONPATH": str(CHECKOUT)}
    with (file.parent / "skew.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, "--web-port", str(free_port())], env=os.environ | given, stdout=log, stderr=log
        )
        try:
            yield
            assert process.poll() is None, (file.parent / "skew.log").read_text()
        finally:
            process.kill()
            process.wait()


async def doctor(kafka: KafkaSettings, pipeline: Pipeline) -> None:
    """Write an answer to the last event as a worker would, with a count that is wrong."""
    topic = pipeline.catalog["predictions"]
    answers = [one for one in await read_topic(kafka, topic) if record_type_of(one.headers) != "claim"]
    last = json.loads(answers[-1].value)
    event = {"event_id": f"p{BEFORE}", "event_time": START + BEFORE * STEP_MS}
    wrong = {"prediction_id": f"{pipeline.name}:p{BEFORE}", "features": {"amount": 1.0, "count": 7_777}}
    place = {"event_offset": last["event_offset"] + 1, "sequence": last["sequence"] + 1}
    value = json.dumps(last | event | wrong | place).encode()
    async with open_sink(kafka) as sink:
        await sink.send(topic, 0, [Outgoing("predictions", 0, b"c", value, (), event["event_time"])])  # type: ignore[arg-type]
        await sink.flush()


@pytest.mark.kafka
def test_skew_reaches_people_and_is_resolved_under_one_id(kafka: KafkaSettings, tmp_path: Path) -> None:
    with ExitStack() as servers:
        manager = servers.enter_context(alertmanager_server(tmp_path))
        asyncio.run(told(kafka, tmp_path, manager))


async def told(kafka: KafkaSettings, folder: Path, manager: str) -> None:
    file = write_pipeline(folder, SOURCE, name=fresh_name("skewed"))
    pipeline = load_pipeline(file)
    await make_topics(kafka, pipeline)
    events, answers = pipeline.events.name, pipeline.catalog["predictions"]
    async with webhook() as hook, watching(kafka, answers) as watch:
        urls = {"alerts__webhook_url": hook.url, "alerts__alertmanager_url": manager}
        with Worker(file, kafka, folder, **urls) as worker:

            async def reach(what: Callable[[], object], told: str) -> None:
                await until(what, told, worker=worker)

            def states() -> list[str]:
                return [one["state"] for one in hook.alerts if one["policy"] == "skew"]

            def active() -> bool:
                return any(one["labels"]["alertname"] == "skew" for one in alerts_at(manager))

            await worker.ready()
            await publish(kafka, payments(events, range(BEFORE)))
            await reach(lambda: watch.answered(answers) == BEFORE, "answers")
            worker.kill()
            await publish(kafka, payments(events, range(BEFORE, BEFORE + 1)))
            await doctor(kafka, pipeline)
            await worker.start().ready()
            with skew_check(file, kafka):
                await reach(lambda: states() == ["firing"], "skew at the webhook")
                await reach(active, "skew at Alertmanager")
            await publish(kafka, payments(events, range(BEFORE + 1, BEFORE + AFTER)))
            await reach(lambda: watch.answered(answers) == BEFORE + AFTER, "the rest")
            with skew_check(file, kafka):
                await reach(lambda: states() == ["firing", "resolved"], "its end at the webhook")
                await reach(lambda: not active(), "its end at Alertmanager")
            assert await worker.stop() == 0, worker.said()
    written = decoded(await read_topic(kafka, pipeline.catalog["alerts"]))
    skews = [one for one in written if one["policy"] == "skew"]
    assert [(one["state"], one["subject"]) for one in skews] == [("firing", "count"), ("resolved", "count")]
    assert len({one["alert_id"] for one in skews}) == 1
