"""An alert of each kind reaches a webhook and Alertmanager, is resolved, and survives kill -9 as itself."""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from brokers.alertmanager import Hook, alertmanager_server, alerts_at, webhook
from brokers.process import program, running
from reading import read_topic
from running import DEADLINE_S, Message, Worker, fresh_name, make_topics, publish, until, write_pipeline
from typer.testing import CliRunner

from engine.cli.main import app
from engine.definition.file import load_pipeline
from engine.definition.pipeline import Pipeline
from engine.kafka.embedded import free_port
from engine.kafka.source import records_of
from engine.local.worker import environment
from engine.settings import KafkaSettings
from engine.worker.assembly import build_learner

SOURCE = """
    from dataclasses import replace

    from msgspec import Struct
    from river import base, linear_model, preprocessing

    from engine import Candidate, Labels, Pipeline, Topic, new_category, signal, usual_alerts, Alert
    from operators import field


    class FailsAt(base.Transformer):
        def __init__(self, value):
            self.value = value

        def transform_one(self, x):
            if x["value"] == self.value:
                raise ValueError("as told")
            return x


    class Reading(Struct):
        event_id: str
        event_time: int
        sensor: str
        value: float
        unit: str = "C"


    SOONER = {
        "lag_records": signal("lag_records") > 6_000,
        "loss_ratio": signal("loss_ratio") > 1.1,
        "checkpoint_age_ms": signal("checkpoint_age_ms") > 4_000,
        "store_away_ms": signal("store_away_ms") > 1_000,
    }
    pipeline = Pipeline(
        name="NAME",
        events=Topic("NAME.readings", Reading, key="sensor", grace="1s"),
        labels=Labels("NAME.truths", wait="5s"),
        features={"value": field("value")},
        models={
            "steady": FailsAt(14.0) | preprocessing.StandardScaler() | linear_model.LogisticRegression(),
            "fragile": FailsAt(13.0) | linear_model.LogisticRegression(),
            "slow": Candidate(linear_model.Perceptron(), budget_ms=0.000001),
        },
        champion="steady",
        drift=(),  # no challenger that starts by itself, and stays in quarantine
        # The usual ones, sooner: a test cannot wait for minutes.
        alerts=[
            *(replace(one, for_="0s", when=SOONER.get(one.name, one.when)) for one in usual_alerts()),
            Alert(when=new_category("unit", learning=100)),
        ],
    )
"""
START = 1_700_000_000_000
KEY = "an alert is signed"
USUAL = {"dead_letter_share", "label_completeness", "quarantined", "model.over_budget", "new_category"}
STORE = {"store_away_ms", "checkpoint_age_ms"}
PRIOR = {"prior_share"}
BUSY = {"checkpoint_age_ms"}
"""Four seconds are soon over on a busy machine; from the third time on it lasts for ten minutes."""
LATER = {"lag_records", "loss_ratio"}
ONCE = {"model.over_budget", "new_category"}


class Stream:
    """Events, one in ten milliseconds, with their labels; what they have come to at the channels."""

    def __init__(self, kafka: KafkaSettings, pipeline: Pipeline, hook: Hook, manager: str) -> None:
        self.kafka, self.pipeline, self.hook, self.manager = kafka, pipeline, hook, manager
        self.events = 0

    async def send(self, count: int, *, labelled: bool = True, flipped: bool = False, **more: Any) -> None:
        messages = []
        for number in range(self.events, self.events + count):
            time = START + number * 10
            value = {"event_id": f"r{number}", "event_time": time, "sensor": "s", "value": float(number % 7)}
            messages.append(Message(self.pipeline.events.name, time, b"s", json.dumps(value | more).encode()))
            if labelled:
                truth = {"event_id": f"r{number}", "label": (number % 7 > 3) != flipped, "label_time": time}
                assert self.pipeline.labels.topic is not None
                messages.append(Message(self.pipeline.labels.topic, time, b"s", json.dumps(truth).encode()))
        self.events += count
        await publish(self.kafka, messages)

    def told(self, state: str) -> set[str]:
        return {alert["policy"] for alert in self.hook.alerts if alert["state"] == state}

    def active(self) -> set[str]:
        return {alert["labels"]["alertname"] for alert in alerts_at(self.manager)}


@pytest.mark.kafka
def test_alerts_reach_people_and_are_resolved_once_each(kafka: KafkaSettings, tmp_path: Path) -> None:
    with ExitStack() as servers:
        manager = servers.enter_context(alertmanager_server(tmp_path))
        port = free_port()
        command = [program("redis-server", "redis-server"), "--port", str(port), "--save", ""]
        redis = servers.enter_context(running(command, port, tmp_path / "redis.log"))
        asyncio.run(told(kafka, tmp_path, manager, redis, port))


async def told(kafka: KafkaSettings, folder: Path, manager: str, redis: int, port: int) -> None:
    name = fresh_name("alerts")
    file = write_pipeline(folder, SOURCE, name=name)
    pipeline = load_pipeline(file)
    await make_topics(kafka, pipeline)
    async with webhook(away=2) as hook:
        settings = {
            "alerts__webhook_url": hook.url,
            "alerts__webhook_key": KEY,
            "alerts__alertmanager_url": manager,
            "store_url": f"redis://127.0.0.1:{port}/0",
            "store_deadline_ms": 500,
            "signing_key": "of all workers alike",
        }
        stream = Stream(kafka, pipeline, hook, manager)
        with Worker(file, kafka, folder, **settings) as worker:
            await worker.ready()

            async def reach(what: Callable[[], bool], told: str) -> None:
                await until(what, told, worker=worker, deadline_s=2 * DEADLINE_S)

            await store_away(stream, redis, reach)
            await stream.send(900, labelled=False)
            await stream.send(600)
            await stream.send(1, value=13.0, unit="K")
            topic = pipeline.events.name
            await publish(kafka, [Message(topic, START + stream.events * 10, b"s", b"{}")] * 200)
            await reach(
                lambda: stream.told("firing") | stream.told("told") >= USUAL, "all told at the webhook"
            )
            await reach(lambda: stream.active() >= USUAL, "told at Alertmanager")
            worker.kill()
            await stream.send(9_000)
            await worker.start().ready()
            await reach(lambda: "lag_records" in stream.told("resolved"), "lag told, and over")
            await stream.send(1_500, flipped=True)
            await reach(lambda: "loss_ratio" in stream.told("firing"), "a worse loss")
            await stream.send(9_000, flipped=True)
            await prior_answers(stream, worker, kafka, file, reach)
            await asyncio.to_thread(invoke, kafka, "models", "release", str(file), "fragile")
            await stream.send(200, flipped=True)
            over = (USUAL | STORE | LATER | PRIOR) - ONCE
            await reach(lambda: stream.told("resolved") >= over, "all over at the webhook")
            await reach(lambda: stream.active() <= ONCE | BUSY, "all over at Alertmanager")
            await acknowledged(kafka, file, stream, worker)
            assert await worker.stop() == 0, worker.said()
            check_signatures(hook)
    await check_topic(kafka, load_pipeline(file), hook)  # anew: the command line has loaded it too


async def store_away(stream: Stream, redis: int, reach: Any) -> None:
    """The store stands still for some seconds: two alerts, which end with it."""
    await stream.send(50)
    os.kill(redis, signal.SIGSTOP)
    try:
        await reach(lambda: stream.told("firing") >= STORE, "the store is away")
    finally:
        os.kill(redis, signal.SIGCONT)
    await reach(lambda: stream.told("resolved") >= STORE, "the store is back")
    await reach(lambda: not stream.active() & STORE, "the store is back, at Alertmanager")


async def prior_answers(stream: Stream, worker: Worker, kafka: KafkaSettings, file: Path, reach: Any) -> None:
    """No candidate can answer: an alert that a killed worker's successor ends, once one can again."""
    await stream.send(1, value=14.0, flipped=True)
    await stream.send(500, flipped=True)
    await reach(lambda: stream.told("firing") >= PRIOR, "the prior answers")
    await reach(lambda: stream.active() >= PRIOR, "the prior answers, at Alertmanager")
    worker.kill()
    await worker.start().ready()
    await asyncio.to_thread(invoke, kafka, "models", "release", str(file), "steady")
    await stream.send(2_000, flipped=True)
    await reach(lambda: stream.told("resolved") >= PRIOR, "models answer again")


def invoke(kafka: KafkaSettings, *arguments: str) -> str:
    given = environment(kafka, state_dir=Path(arguments[2]).parent / "state", web_port=0)
    result = CliRunner().invoke(app, list(arguments), env=given)
    assert result.exit_code == 0, result.output
    return result.output


async def acknowledged(kafka: KafkaSettings, file: Path, stream: Stream, worker: Worker) -> None:
    """A person says that one of them told of nothing: it counts, in the metric and in the list."""
    alert_id = next(one["alert_id"] for one in stream.hook.alerts if one["policy"] == "lag_records")
    await asyncio.to_thread(invoke, kafka, "alerts", "ack", str(file), alert_id, "--false")
    metrics = worker.metrics()
    assert metrics["headrace_alerts_precision{lag_records}"] == 0.0
    assert metrics["headrace_alerts_acked{lag_records}"] == 1.0
    assert metrics["headrace_alerts_firing{lag_records}"] == 0.0
    assert metrics["headrace_alert_deliveries_total{webhook,delivered}"] > 0
    listed = json.loads(await asyncio.to_thread(invoke, kafka, "alerts", "list", str(file), "--json"))
    assert listed["precision"]["lag_records"] == {"acked": 1, "false": 1, "precision": 0.0}
    assert {one["alert_id"] for one in listed["alerts"] if one["acked"]} == {alert_id}
    shown = await asyncio.to_thread(invoke, kafka, "alerts", "show", str(file), alert_id)
    assert "acked: false" in shown


def check_signatures(hook: Hook) -> None:
    for body, headers in hook.came:
        expected = hmac.new(KEY.encode(), body, sha256).hexdigest()
        assert headers["X-Headrace-Signature-256"] == f"sha256={expected}"


async def check_topic(kafka: KafkaSettings, pipeline: Pipeline, hook: Hook) -> None:
    """No second id of anything that fired once, and what the learner told is what its log says."""
    records = await read_topic(kafka, pipeline.catalog["alerts"])
    written = [json.loads(record.value) for record in records]
    seen = {(one["alert_id"], one["state"], one.get("count", 1)) for one in hook.alerts}
    assert seen == {(one["alert_id"], one["state"], one.get("count", 1)) for one in written}
    assert {one["policy"] for one in written} >= USUAL | LATER | STORE | PRIOR
    ids = {
        (one["policy"], one.get("subject"), one["alert_id"]) for one in written if one["policy"] not in ONCE
    }
    assert Counter((policy, subject) for policy, subject, _ in ids).most_common(1)[0][1] == 1, ids
    learner = build_learner(pipeline)
    log = records_of(("", 0), await read_topic(kafka, pipeline.catalog["examples"]))  # type: ignore[arg-type]
    while learner.reading <= log[-1].offset:
        learner.fold([record for record in log if record.offset >= learner.reading])
    assert learner.alerts is not None
    folded = [(one.alert_id, one.state, one.time) for one in learner.alerts.take()]
    kinds = {one.name for one in pipeline.policies if one.scope == "learner"}
    from_run = [(one["alert_id"], one["state"], one["time"]) for one in written if one["policy"] in kinds]
    assert list(dict.fromkeys(from_run)) == folded
