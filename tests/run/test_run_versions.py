"""A running worker goes back to a good version, and lets a model in again that was in quarantine."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from reading import counting, decoded, folded_digests, read_topic, saved_digests
from running import Message, publish, until
from test_run_observed import APART, START, Told, told_by

from engine.settings import KafkaSettings
from operators.race.good_versions import GOOD_EVERY

MANY = GOOD_EVERY + 100
SICKENING = 1e6
SOURCE = (
    APART.replace(
        "class Reading(Struct):",
        '''class Moody(base.Classifier):
        """Counts its lessons; cannot score a very high reading."""

        def __init__(self):
            self.lessons = 0

        def learn_one(self, x, y):
            self.lessons += 1

        def predict_proba_one(self, x):
            if x["value"] == 1e6:
                raise OverflowError("cannot score this")
            return {True: 0.5, False: 0.5}


    class Reading(Struct):''',
    )
    .replace("import linear_model, tree", "import base, linear_model")
    .replace('"tree": tree.HoeffdingTreeClassifier()}', '"moody": Moody()}, drift=()')
)


async def feed(told: Told, values: list[float], *, reports: int = 0) -> list[dict[str, Any]]:
    """Publish readings with their labels; return their answers once all of them are learned."""
    first, told.events = told.events, told.events + len(values)
    messages = []
    for number, value in enumerate(values, first):
        time = START + 1_000 * number
        event = {"event_id": f"r{number}", "event_time": time, "sensor": "s", "value": value}
        truth = {"event_id": f"r{number}", "label": number % 3 == 0, "label_time": time + 10, "sensor": "s"}
        messages.append(Message(told.pipeline.events.name, time, b"s", json.dumps(event).encode()))
        assert told.pipeline.labels.topic is not None
        messages.append(Message(told.pipeline.labels.topic, time + 10, b"s", json.dumps(truth).encode()))
    await publish(told.kafka, messages)
    predictions, examples = told.catalog["predictions"], told.catalog["examples"]
    await until(
        lambda: told.watch.counted(predictions) == told.watch.counted(examples) - reports == told.events,
        "answered and joined",
        worker=told.worker,
    )
    await told.metric("headrace_examples_total", told.events)
    answers = counting(await read_topic(told.kafka, predictions))
    return [answers[f"r{number}"] for number in range(first, told.events)]


@pytest.mark.kafka
def test_a_worker_goes_back_to_a_good_version_and_lets_the_sick_in_again(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    asyncio.run(told_by(kafka, tmp_path, SOURCE, goes_back))


async def goes_back(told: Told) -> None:
    worker = told.worker
    await feed(told, [float(number % 7) for number in range(MANY)])
    await told.command("rollback", to=f"1@{GOOD_EVERY}", reason="the labels were wrong")
    await told.decisions(1)
    answers = await feed(told, [1.0] * 10)
    assert {(a["model_name"], a["model_version"]) for a in answers} == {("linear", 3)}
    assert GOOD_EVERY <= min(a["model_updates"] for a in answers) < MANY

    await feed(told, [SICKENING], reports=1)
    await told.decisions(2)
    await told.command("release", model_name="moody")
    await told.decisions(3)
    await told.command("rollback", to="9@9")
    await told.decisions(4)
    await feed(told, [1.0] * 10, reports=1)
    assert await told.decisions(4) == [
        ("version.restored", "linear", "ann"),
        ("model.quarantined", "moody", "headrace"),
        ("model.released", "moody", "ann"),
        ("command.refused", "linear", "ann"),
    ]
    restored, _, released, refused = decoded(await read_topic(told.kafka, told.catalog["decisions"]))
    assert restored["evidence"]["restored"] == f"1@{GOOD_EVERY}"
    assert restored["evidence"]["replaced"] == f"1@{MANY}"
    assert (released["model_version"], released["evidence"]["restored"]) == (4, f"2@{GOOD_EVERY}")
    assert f"kept are: 1@{GOOD_EVERY}" in refused["reason"]
    assert await worker.stop() == 0, worker.said()
    log = await read_topic(told.kafka, told.catalog["examples"])
    digests, learned = await saved_digests(told.file, worker.state_dir)
    assert (digests, learned) == folded_digests(told.file, log)
    assert learned == told.events
