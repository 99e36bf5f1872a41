"""`POST /predict` of two workers on a real Kafka: the answer is that of the topic, and of a backtest."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from reading import counting, read_topic
from running import (
    Message,
    Worker,
    backtested,
    fresh_name,
    make_topics,
    publish,
    until,
    write_pipeline,
)

from engine.definition.file import load_pipeline
from engine.settings import KafkaSettings

SOURCE = """
    from msgspec import Struct
    from river import naive_bayes

    from headrace import Labels, Pipeline, Topic, by, field, label


    class Payment(Struct):
        event_id: str
        event_time: int
        card: str
        amount: float


    pipeline = Pipeline(
        name="NAME",
        events=Topic("NAME.events", Payment, key="card", partitions=2),
        labels=Labels("NAME.labels", wait="2h"),
        features={
            "amount": field("amount"),
            "large": (field("amount") - 20).clip(0, None),
            "n_10s": by("card").count("10s"),
            "frauds": by("card").mean(label, "1h").default(0.0),
        },
        models={"bayes": naive_bayes.BernoulliNB()},  # the order of lessons changes nothing
        champion="bayes",
        drift=(),
    )
"""
FIRST, THEN = 24, 12
PREDICT = {"predict__enabled": "true", "predict__deadline_ms": 8_000, "predict__requests_max": 4}
REQUEST_DEADLINE_S = 30.0
BURST = 24


def post(worker: Worker, event: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Post an event; return the status and the object that came back."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{worker.port}/predict",
        json.dumps(event).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=REQUEST_DEADLINE_S) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


class Payments:
    """Events and labels in time order, as they are posted and published."""

    def __init__(self, name: str) -> None:
        self.name, self.now_ms = name, time.time_ns() // 1_000_000 - 3_600_000
        self.messages: list[Message] = []

    def event(self) -> dict[str, Any]:
        number = len(self.messages)
        self.now_ms += 1_000
        return {
            "event_id": f"e{number}",
            "event_time": self.now_ms,
            "card": f"c{number % 5}",
            "amount": float(number * 7 % 40),
        }

    def sent(self, event: dict[str, Any]) -> None:
        """Take an event that has been published."""
        value = json.dumps(event).encode()
        self.messages.append(
            Message(f"{self.name}.events", event["event_time"], event["card"].encode(), value)
        )

    def labels(self) -> list[Message]:
        """Return labels of all events so far."""
        found = []
        for event in [json.loads(one.value or b"") for one in self.messages]:
            self.now_ms += 10
            said = {"event_id": event["event_id"], "label": event["amount"] > 20, "label_time": self.now_ms}
            key = event["card"].encode()
            found.append(Message(f"{self.name}.labels", self.now_ms, key, json.dumps(said).encode()))
        return found


@pytest.mark.kafka
def test_what_is_posted_is_answered_as_on_the_topic_and_learned(kafka: KafkaSettings, tmp_path: Path) -> None:
    asyncio.run(posted(kafka, tmp_path))


async def posted(kafka: KafkaSettings, folder: Path) -> None:
    name = fresh_name("posted")
    file = write_pipeline(folder, SOURCE, name=name)
    pipeline, payments = load_pipeline(file), Payments(name)
    await make_topics(kafka, pipeline)
    asked = Worker(file, kafka, folder, name="asked", **PREDICT)
    hasty = Worker(file, kafka, folder, name="hasty", **PREDICT | {"predict__deadline_ms": 1})
    told: dict[str, dict[str, Any]] = {}

    async def ask(count: int) -> None:
        for _ in range(count):
            event = payments.event()
            status, answer = await asyncio.to_thread(post, asked, event)
            assert status == 200, (answer, asked.said())
            told[event["event_id"]] = answer
            payments.sent(event)

    with asked:
        with hasty:
            await asked.ready()
            await hasty.ready()
            await until(lambda: partitions_of(asked, hasty) == {1}, "each has one", worker=[asked, hasty])
            await until(lambda: is_open(asked) and is_open(hasty), "answers are read", worker=[asked, hasty])
            await ask(FIRST)
            event = payments.event()
            status, late = await asyncio.to_thread(post, hasty, event)
            assert (status, late["prediction_id"]) == (504, f"{name}:{event['event_id']}")
            payments.sent(event)
            labels = payments.labels()
            await publish(kafka, labels)
            await until(
                lambda: all(one.metrics()["headrace_examples_total"] == FIRST + 1 for one in (asked, hasty)),
                "learned everywhere",
                worker=[asked, hasty],
            )
            await ask(THEN)
            status, again = await asyncio.to_thread(post, asked, event)
            assert (status, again["event_id"]) == (200, event["event_id"])
            metrics, hasty_metrics = asked.metrics(), hasty.metrics()
            assert await hasty.stop() == 0, hasty.said()
        assert metrics["headrace_predict_requests_total{answered}"] == FIRST + THEN + 1
        assert metrics["headrace_predict_duration_seconds_count"] == FIRST + THEN + 1
        assert hasty_metrics["headrace_predict_requests_total{deadline}"] == 1
        await check(kafka, folder, payments, told, labels, again)
        await burst(kafka, payments, asked)
        assert await asked.stop() == 0, asked.said()


def partitions_of(*workers: Worker) -> set[float]:
    return {one.metrics()["headrace_partitions"] for one in workers}


def is_open(worker: Worker) -> bool:
    """Return whether a worker reads answers: an event that is none is refused either way, and not counted."""
    return bool(worker.logged("answers for /predict are read"))


async def check(
    kafka: KafkaSettings,
    folder: Path,
    payments: Payments,
    told: dict[str, dict[str, Any]],
    labels: list[Message],
    again: dict[str, Any],
) -> None:
    """Compare what was told with the topic and with a backtest of the same messages."""
    raw = await read_topic(kafka, f"{payments.name}.predictions")
    late = next(iter({json.loads(one.value or b"")["event_id"] for one in payments.messages} - told.keys()))
    published = Counter(dict.fromkeys(told, 1) | {late: 2})
    answers = counting(raw, published=published)
    assert answers.keys() == published.keys(), "each is answered, the late one too"
    assert {event_id: answers[event_id] for event_id in told} == told
    assert len({one.partition for one in raw}) == 2, "the worker that is asked owns one of them"
    same = ("features", "prediction_score", "model_updates", "event_time")
    assert {name: again[name] for name in same} == {name: answers[late][name] for name in same}
    assert answers[late]["event_offset"] < again["event_offset"]

    learned = counting(await read_topic(kafka, f"{payments.name}.examples"), "example")
    assert len(learned) == FIRST + 1
    assert late in learned
    pipeline = load_pipeline(folder / f"{payments.name}.py")
    in_order = sorted([*payments.messages, *labels], key=lambda message: message.time)
    expected = {one["event_id"]: one for one in backtested(folder, pipeline, in_order)}
    assert expected.keys() == answers.keys()
    for event_id, answer in answers.items():
        compared = {name: answer[name] for name in ("features", "prediction_score", "model_updates")}
        assert compared == {name: expected[event_id][name] for name in compared}, event_id
    assert {answer["model_updates"] for answer in answers.values()} == {0, FIRST + 1}


async def burst(kafka: KafkaSettings, payments: Payments, asked: Worker) -> None:
    """Ask for more at once than may wait: what is refused is not published, what is not is answered."""
    events = [payments.event() | {"event_id": f"burst-{number}"} for number in range(BURST)]
    found = await asyncio.gather(*(asyncio.to_thread(post, asked, event) for event in events))
    by_status: dict[int, set[str]] = {200: set(), 429: set()}
    for event, (status, answer) in zip(events, found, strict=True):
        by_status[status].add(event["event_id"])
        assert status == 429 or answer["event_id"] == event["event_id"]
    published = {
        json.loads(record.value)["event_id"] for record in await read_topic(kafka, f"{payments.name}.events")
    }
    assert {event_id for event_id in published if event_id.startswith("burst-")} == by_status[200]
    assert asked.metrics()["headrace_predict_requests_total{crowded}"] == len(by_status[429])
