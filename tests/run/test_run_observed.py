"""What others see of a running worker, and what they can tell it to do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from brokers.prometheus import asked
from reading import Watch, counting, decoded, folded_digests, read_topic, saved_digests, watching
from running import DEADLINE_S, Message, Worker, fresh_name, make_topics, publish, until, write_pipeline

from engine.definition.file import load_pipeline
from engine.definition.pipeline import Pipeline
from engine.settings import KafkaSettings

SOURCE = """
    from msgspec import Struct
    from river import linear_model, tree

    from engine import Labels, Pipeline, Topic
    from operators import field


    class Reading(Struct):
        event_id: str
        event_time: int
        sensor: str
        value: float
        LABEL_FIELD


    pipeline = Pipeline(
        name="NAME",
        events=Topic("NAME.readings", Reading, key="sensor"),
        labels=LABELS,
        features={"value": field("value")},
        models={"linear": linear_model.LogisticRegression(), "tree": tree.HoeffdingTreeClassifier()},
        champion="linear",
    )
"""
APART = SOURCE.replace("LABEL_FIELD", "").replace("LABELS", 'Labels("NAME.truths", wait="1h")')
INSIDE = SOURCE.replace("LABEL_FIELD", "hot: bool").replace("LABELS", 'Labels(field="hot")')
START = 1_700_000_000_000
BATCH = 40


class Told:
    """A worker on one pipeline, its events, its commands and what it decided."""

    def __init__(self, kafka: KafkaSettings, file: Path, pipeline: Pipeline, watch: Watch, worker: Worker):
        self.kafka, self.file, self.pipeline, self.watch, self.worker = kafka, file, pipeline, watch, worker
        self.catalog = pipeline.catalog
        self.events = 0
        self.commands = 0

    async def readings(self, *, learned: int | None = None, reports: int = 0) -> list[dict[str, Any]]:
        """Publish the next events and their labels; return their answers once there are examples of all.

        `learned` is how many examples are learned then; None means all.  `reports` of models that failed
        lie beside them.
        """
        first, self.events = self.events, self.events + BATCH
        messages = []
        for number in range(first, self.events):
            time, hot = START + 1_000 * number, number % 3 == 0
            value = {"event_id": f"r{number}", "event_time": time, "sensor": "s", "value": float(number % 7)}
            inside = {} if self.pipeline.labels.topic else {"hot": hot}
            messages.append(
                Message(self.pipeline.events.name, time, b"s", json.dumps(value | inside).encode())
            )
            if self.pipeline.labels.topic:
                truth = {"event_id": f"r{number}", "label": hot, "label_time": time + 10, "sensor": "s"}
                messages.append(
                    Message(self.pipeline.labels.topic, time + 10, b"s", json.dumps(truth).encode())
                )
        await publish(self.kafka, messages)
        predictions, examples = self.catalog["predictions"], self.catalog["examples"]
        await until(
            lambda: self.watch.counted(predictions) == self.watch.counted(examples) - reports == self.events,
            "answered and joined",
            worker=self.worker,
        )
        await self.metric("headrace_examples_total", self.events if learned is None else learned)
        answers = counting(await read_topic(self.kafka, predictions))
        return [answers[f"r{number}"] for number in range(first, self.events)]

    async def metric(self, name: str, value: float) -> None:
        await until(lambda: self.worker.metrics()[name] == value, f"{name} is {value}", worker=self.worker)

    async def champion(self, model: str) -> None:
        def shown() -> bool:
            champions = [m for m in self.worker.metrics() if m.startswith("headrace_model_info{champion,")]
            return len(champions) == 1 and f",{model}," in champions[0]

        await until(shown, f"{model} is the champion", worker=self.worker)

    async def command(self, command: str, *, times: int = 1, **given: Any) -> None:
        """Publish a command, as often as wanted under the same id, and wait until the log has it."""
        self.commands += 1
        value = {
            "command_id": f"c{self.commands}",
            "command": command,
            "time": START,
            "actor": "ann",
            **given,
        }
        message = Message(self.catalog["commands"], START, b"c", json.dumps(value).encode())
        await publish(self.kafka, [message] * times)
        commands = self.watch.commands
        await until(lambda: commands[f"c{self.commands}"] == times, command, worker=self.worker)

    async def decisions(self, count: int) -> list[tuple[str, str, str]]:
        """Return type, model and actor of every decision on the topic, once there are so many."""
        found: list[dict[str, Any]] = []
        async with asyncio.timeout(DEADLINE_S):
            while len(found) < count:
                found = decoded(await read_topic(self.kafka, self.catalog["decisions"]))
        return [(d["type"], d["model_name"], d["actor"]) for d in found]


def test_prometheus_scrapes_a_worker_and_answers_a_query(
    tansu: KafkaSettings, tmp_path: Path, prometheus: Callable[..., str]
) -> None:
    async def scenario(told: Told) -> None:
        worker = told.worker
        assert worker.get("/livez") == worker.get("/healthz") == worker.get("/readyz") == (200, "ok\n")
        assert [worker.get(path)[0] for path in ("/table/", "/router/")] == [404] * 2, "Faust's own"
        await told.readings()
        address = await asyncio.to_thread(prometheus, f"127.0.0.1:{worker.port}")
        await until(lambda: asked(address, "headrace_predictions_total > 0"), "an answer of Prometheus")
        (found,) = asked(address, "sum(headrace_predictions_total)")
        assert float(found["value"][1]) == BATCH
        assert asked(address, "up")[0]["value"][1] == "1"
        assert asked(address, 'headrace_model_info{alias="champion"}')[0]["metric"]["model"] == "linear"
        assert float(asked(address, "headrace_end_to_end_latency_seconds_count")[0]["value"][1]) == BATCH

    asyncio.run(told_by(tansu, tmp_path, APART, scenario))


def test_commands_act_at_their_place_in_the_log(tansu: KafkaSettings, tmp_path: Path) -> None:
    asyncio.run(told_by(tansu, tmp_path, APART, commands))


@pytest.mark.kafka
def test_commands_act_where_labels_come_inside_events(kafka: KafkaSettings, tmp_path: Path) -> None:
    asyncio.run(told_by(kafka, tmp_path, INSIDE, commands))


async def commands(told: Told) -> None:
    assert {a["model_name"] for a in await told.readings()} == {"linear"}

    await told.command("promote", model_name="tree", times=2)
    await told.champion("tree")
    assert {a["model_name"] for a in await told.readings()} == {"tree"}

    await told.command("pause")
    await told.metric("headrace_learning_paused", 1)
    await told.metric("headrace_examples_unlearned", 0)
    paused = await told.readings(learned=2 * BATCH)
    await told.metric("headrace_examples_unlearned", BATCH)
    assert {a["model_updates"] for a in paused} == {2 * BATCH}, "learned during the pause"

    await told.command("rollback")
    await told.champion("linear")
    assert {a["model_name"] for a in await told.readings(learned=2 * BATCH)} == {"linear"}

    await told.command("resume")
    await told.metric("headrace_examples_total", 4 * BATCH)
    await told.metric("headrace_examples_unlearned", 0)
    last = await told.readings()
    assert min(a["model_updates"] for a in last) >= 4 * BATCH, "the resume skipped examples"
    await told.command("promote", model_name="nobody")
    await told.command("undo")
    await told.command("pin", model_name="tree")
    await told.metric("headrace_champion_pinned", 1)
    await told.command("unpin")
    await told.metric("headrace_champion_pinned", 0)
    await told.metric("headrace_commands_total{refused}", 2)

    expected = [
        ("model.promoted", "tree", "ann"),
        ("learning.paused", "tree", "ann"),
        ("model.rolled_back", "linear", "ann"),
        ("learning.resumed", "linear", "ann"),
        ("command.refused", "linear", "ann"),
        ("command.refused", "linear", "headrace"),
        ("model.promoted", "tree", "ann"),
        ("champion.pinned", "tree", "ann"),
        ("champion.unpinned", "tree", "ann"),
    ]
    assert await told.decisions(len(expected)) == expected
    worker = told.worker
    assert await worker.stop() == 0, worker.said()
    assert await told.decisions(len(expected)) == expected
    assert [line["event"] for line in worker.complaints()] == ["command.refused"] * 2
    log = await read_topic(told.kafka, told.catalog["examples"])
    digests, learned = await saved_digests(told.file, worker.state_dir)
    assert (digests, learned) == folded_digests(told.file, log)
    assert learned == told.events
    pointers = decoded(await read_topic(told.kafka, told.catalog["models"]))
    named = [(pointer["alias"], pointer["model_name"]) for pointer in pointers]
    assert named[0] == ("champion", "linear")
    assert named[1:] == [
        pair
        for v, name in ((2, "tree"), (1, "linear"), (2, "tree"))
        for pair in (("champion", name), (f"v{v}", name))
    ]


async def told_by(kafka: KafkaSettings, folder: Path, source: str, scenario: Callable[[Told], Any]) -> None:
    """Run a scenario beside a ready worker."""
    file = write_pipeline(folder, source, name=fresh_name("told"))
    pipeline = load_pipeline(file)
    await make_topics(kafka, pipeline)
    worker = Worker(file, kafka, folder, checkpoint_interval_ms=300)
    catalog = pipeline.catalog
    async with watching(kafka, catalog["predictions"], catalog["examples"]) as watch:
        with worker:
            await worker.ready()
            from_the_start = counter_series(worker)
            await scenario(Told(kafka, file, pipeline, watch, worker))
            if worker.process is not None:
                assert counter_series(worker) == from_the_start, "a series began with its first count"


def counter_series(worker: Worker) -> set[str]:
    return {name for name in worker.metrics() if "_total" in name}
