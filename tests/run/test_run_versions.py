"""What a person decides of versions acts once, though the worker is killed as soon as the log has it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from reading import counting, decoded, folded_digests, read_topic, saved_digests
from running import DEADLINE_S, Message, publish, until
from test_run_observed import APART, START, Told, told_by

from engine.settings import KafkaSettings
from operators.race.good_versions import GOOD_EVERY
from topics.messages import REPORTED

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
    .replace("import linear_model, tree", "import base, linear_model, naive_bayes")
    .replace("import Labels, Pipeline,", "import Blend, Labels, Pipeline, Promotion,")
    .replace(
        '"tree": tree.HoeffdingTreeClassifier()}',
        "RACERS}, promotion=Promotion(min_examples=1_000_000, opening_error=0), drift=()",
    )
    .replace(
        "RACERS",
        '"moody": Moody(), "bayes": naive_bayes.GaussianNB(), "mix": Blend(weights=dict(linear=1, moody=1))',
    )
)


async def told_once(told: Told, count: int) -> list[dict[str, Any]]:
    """Return every decision once, when there are so many: a successor writes again what may be missing.

    What is reported at every ten thousandth example is none.
    """
    found: dict[str, dict[str, Any]] = {}
    async with asyncio.timeout(DEADLINE_S):
        while len(found) < count:
            written = decoded(await read_topic(told.kafka, told.catalog["decisions"]))
            found = {one["decision_id"]: one for one in written if one["type"] not in REPORTED}
    return [*found.values()]


async def feed(told: Told, values: list[float], *, reports: int = 0) -> None:
    """Publish readings with their labels; return once all of them are answered and learned."""
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


async def replaced(told: Told) -> None:
    """Kill the worker where it stands, and start its successor."""
    told.worker.kill()
    await told.worker.start().ready()


@pytest.mark.kafka
def test_what_a_person_decides_of_versions_acts_once_through_kills(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    asyncio.run(told_by(kafka, tmp_path, SOURCE, decides))


async def decides(told: Told) -> None:
    worker = told.worker
    await feed(told, [float(number % 7) for number in range(MANY)])
    await told.command("rollback", to=f"1@{GOOD_EVERY}", reason="the labels were wrong")
    await replaced(told)
    await told_once(told, 1)
    await feed(told, [1.0] * 10)

    await feed(told, [SICKENING], reports=1)
    await told_once(told, 2)
    await told.command("release", model_name="moody")
    await told.command("weights", model_name="mix", weights={"linear": 3, "moody": 1})
    await replaced(told)
    await told_once(told, 4)
    await told.command("rollback", to="9@9")
    await told.command("retire", model_name="bayes")
    await told.command("promote", model_name="mix")
    await replaced(told)
    await feed(told, [1.0] * 10, reports=1)
    decisions = await told_once(told, 7)
    assert [(one["type"], one["model_name"], one["actor"]) for one in decisions] == [
        ("version.restored", "linear", "ann"),
        ("model.quarantined", "moody", "headrace"),
        ("model.released", "moody", "ann"),
        ("blend.weighed", "mix", "ann"),
        ("command.refused", "linear", "ann"),
        ("challenger.retired", "bayes", "ann"),
        ("model.promoted", "mix", "ann"),
    ]
    acted = [one["evidence"]["command_id"] for one in decisions if one["actor"] == "ann"]
    assert acted == [f"c{number}" for number in range(1, 7)]
    assert max(told.watch.commands.values()) > 1, "no kill came before the command was taken off its topic"
    restored, _, released, _, refused, *_ = decisions
    assert restored["evidence"]["restored"] == f"1@{GOOD_EVERY}"
    assert restored["evidence"]["replaced"] == f"1@{MANY}"
    assert (released["model_version"], released["evidence"]["restored"]) == (6, f"2@{GOOD_EVERY}")
    assert f"kept are: 1@{GOOD_EVERY}" in refused["evidence"]["fix"]
    assert await worker.stop() == 0, worker.said()
    answers = counting(await read_topic(told.kafka, told.catalog["predictions"]))
    restarted = [answers[f"r{number}"] for number in range(MANY, MANY + 10)]
    assert {(a["model_name"], a["model_version"]) for a in restarted} == {("linear", 5)}
    assert GOOD_EVERY <= min(a["model_updates"] for a in restarted) < MANY
    last = [answers[f"r{number}"] for number in range(told.events - 10, told.events)]
    assert {(a["model_name"], a["weights"]["linear"]) for a in last} == {("mix", 0.75)}
    log = await read_topic(told.kafka, told.catalog["examples"])
    digests, learned = await saved_digests(told.file, worker.state_dir)
    assert (digests, learned) == folded_digests(told.file, log)
    assert learned == told.events
