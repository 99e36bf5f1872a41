"""What a person asks and decides with `headrace models` and `headrace explain`, beside a running worker."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from running import Message, Worker, fresh_name, make_topics, publish, until, write_pipeline
from typer.testing import CliRunner, Result

from engine.cli.main import app
from engine.definition.file import load_pipeline
from engine.local.worker import environment
from engine.settings import KafkaSettings

START = 1_700_000_000_000
EVENTS = 60
SOURCE = """
    from msgspec import Struct
    from river import linear_model, preprocessing, tree

    from headrace import Labels, Pipeline, Topic, field

    class Reading(Struct):
        event_id: str
        event_time: int
        sensor: str
        value: float

    pipeline = Pipeline(
        name="NAME",
        events=Topic("NAME.readings", Reading, key="sensor"),
        labels=Labels("NAME.truth", wait="1h"),
        features={"value": field("value")},
        models={
            "linear": preprocessing.StandardScaler() | linear_model.LogisticRegression(),
            "tree": tree.HoeffdingTreeClassifier(),
        },
        champion="linear",
    )
"""


class Asking:
    """A command line beside a worker."""

    def __init__(self, file: Path, kafka: KafkaSettings, state_dir: Path) -> None:
        self.file = file
        self._environment = environment(kafka, state_dir=state_dir, web_port=0)

    async def run(self, *words: str) -> Result:
        runner = CliRunner(env=self._environment)
        return await asyncio.to_thread(runner.invoke, app, [*words, "--json"])

    async def tail(self, topic: str) -> str:
        words = ["tail", topic, "--from-beginning", "--to-end", "--headers", "--claims"]
        done = await asyncio.to_thread(CliRunner(env=self._environment).invoke, app, words)
        assert done.exit_code == 0, (done.output, done.exception)
        return done.stdout

    async def models(self, word: str, *words: str, code: int = 0) -> Any:
        done = await self.run("models", word, str(self.file), *words)
        assert done.exit_code == code, (done.output, done.exception)
        return json.loads(done.stdout)


async def send(kafka: KafkaSettings, name: str, first: int) -> None:
    messages = []
    for number in range(first, first + EVENTS):
        time, hot = START + 1_000 * number, number % 3 == 0
        value = {"event_id": f"r{number}", "event_time": time, "sensor": "s", "value": float(number % 7)}
        truth = {"event_id": f"r{number}", "label": hot, "label_time": time + 10}
        messages.append(Message(f"{name}.readings", time, b"s", json.dumps(value).encode()))
        messages.append(Message(f"{name}.truth", time + 10, b"s", json.dumps(truth).encode()))
    await publish(kafka, messages)


def test_models_are_listed_promoted_explained_and_reproduced(tansu: KafkaSettings, tmp_path: Path) -> None:
    asyncio.run(asked(tansu, tmp_path))


async def asked(kafka: KafkaSettings, folder: Path) -> None:
    name = fresh_name("asked")
    file = write_pipeline(folder, SOURCE, name=name)
    await make_topics(kafka, load_pipeline(file))
    asking = Asking(file, kafka, folder / "state")

    async def learned(count: int) -> None:
        examples = "headrace_examples_total"
        await until(lambda: worker.metrics()[examples] == count, f"{count} learned", worker=worker)

    with Worker(file, kafka, folder, checkpoint_interval_ms=300) as worker:
        await worker.ready()
        await send(kafka, name, 0)
        await learned(EVENTS)
        listed = await asking.models("list")
        assert [(one["model"], one["state"]) for one in listed] == [
            ("linear", "champion"),
            ("tree", "challenger"),
        ]
        done = await asking.models("promote", "tree", "--reason", "a try", "--actor", "ada")
        (promoted,) = done["decisions"]
        assert (promoted["type"], promoted["actor"], promoted["reason"]) == ("model.promoted", "ada", "a try")
        refused = await asking.models("promote", "tree", code=1)
        assert refused["refused"]
        assert refused["decisions"][0]["reason"] == "`tree` is the champion"
        await send(kafka, name, EVENTS)
        await learned(2 * EVENTS)
        history = await asking.models("history")
        assert [one["model"] for one in history["reigns"]] == ["linear", "tree"]
        explained = json.loads((await asking.run("explain", str(file), f"{name}:r{EVENTS + 5}")).stdout)
        assert explained["served"]["model"] == "tree"
        assert explained["event"]["value"]["sensor"] == "s"
        assert explained["served"]["champion_since"]["reason"] == "a try"
        assert explained["learned"]["linear"]["updates"] == explained["learned"]["tree"]["updates"]
        first = json.loads((await asking.run("explain", str(file), "r40")).stdout)
        assert first["served"]["model"] == "linear"
        assert first["contributions"][0]["features"][0]["name"] == "value"
        for version in ("linear", "tree"):
            told = await asking.models("reproduce", version)
            assert told["reproduced"], told
            assert told["states"], version
        # The same questions to a recording of the topics.
        recording = folder / "recording"
        recording.mkdir()
        for role in ("examples", "decisions", "models", "predictions"):
            recorded = await asking.tail(f"{name}.{role}")
            (recording / f"{role}.jsonl").write_text(recorded)
        offline = ("--recording", str(recording))
        assert await asking.models("history", *offline) == history
        assert (await asking.models("reproduce", "linear", *offline))["reproduced"]
    late = await asking.run("models", "rollback", str(file), "--timeout", "1")
    assert late.exit_code == 1
    assert "no decision answered command" in str(late.exception)
    assert "does a worker of" in str(late.exception)
