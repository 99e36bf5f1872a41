"""One race per key on two partitions and two workers, one killed: each key's models are those of its log."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from keyed_world import folded
from reading import claims_of, decoded, read_topic, source_of, watching
from running import Worker, make_topics
from test_run_crash import DEPARTURES, Stream, pair, shared_out, takes_all
from typer.testing import CliRunner

from engine.cli.main import app
from engine.machines.keyed.keyed_learner import RACES, KeyedLearner
from engine.settings import KafkaSettings, Settings
from engine.stores.places import checkpoint_store
from engine.worker.assembly import build_keyed_learner
from topics.messages import Record

pytestmark = pytest.mark.kafka

KEY = "JFK"


def test_a_killed_worker_with_a_race_per_key(kafka: KafkaSettings, tmp_path: Path) -> None:
    """One race in memory, so that those of the busier partition come and go all the time."""
    options = 'per="origin", per_max=1,'
    stream = Stream(kafka, tmp_path, partitions=2, departures=DEPARTURES // 4, options=options)
    asyncio.run(one_of_two_is_killed(stream, *pair(stream, tmp_path)))


async def one_of_two_is_killed(stream: Stream, one: Worker, two: Worker) -> None:
    await make_topics(stream.kafka, stream.pipeline)
    half = len(stream.messages) // 2
    async with watching(stream.kafka, stream.predictions, stream.examples) as watch:
        with one, two:
            await shared_out(one, two)
            publishing = asyncio.create_task(stream.publish(watch, stream.messages[:half]))
            await stream.reached(watch, stream.departures // 4, two)
            one.kill()
            await takes_all(two)
            await publishing
            (decision,) = await asked(stream, "promote", "linear", "--for", KEY)
            assert decision["type"] == "model.promoted"
            assert (decision["key"], decision["model_name"]) == (KEY, "linear")
            paused = await asked(stream, "pause")
            assert [one["type"] for one in paused] == ["learning.paused"] * 2, "not one of each partition"
            await stream.publish(watch, stream.messages[half:])
            assert two.metrics()["headrace_learning_paused"] == 1
            assert [one["type"] for one in await asked(stream, "resume")] == ["learning.resumed"] * 2
            await stream.finished(watch, two)
            told = two.metrics()
            assert told["headrace_races"] == 3
            assert told["headrace_races_in_memory"] == 2
            assert told["headrace_race_moves_total{evicted}"] > 0
            assert not [name for name in told if KEY in name], "a series per key"
            assert await two.stop() == 0, two.said()
    answers_log, examples_log = await stream.exactly_once()
    await last_answer_is_explained(stream, [r.value for r in answers_log if r.key == KEY.encode()])
    for source in (0, 1):
        claims = claims_of([r for r in examples_log if r.partition == source], source)
        assert claims == claims_of([r for r in answers_log if r.partition == source], source)
        assert claims
    assert {
        json.loads(r.value).get("source_partition", r.partition) == r.partition for r in examples_log
    } == {True}, "an example lies beside another partition's"
    learned = 0
    for partition in (0, 1):
        saved = await saved_learner(stream, two.state_dir, partition)
        log = build_keyed_learner(
            stream.pipeline, partition, source=source_of(stream.pipeline, Settings(state_dir=two.state_dir))
        )
        decisions = folded(
            log,
            [
                Record(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers))
                for r in examples_log
                if r.partition == partition
            ],
        )
        assert saved.digests() == log.digests()
        told_of = await read_topic(stream.kafka, stream.pipeline.catalog["decisions"])
        written = {one["decision_id"] for one in decoded(r for r in told_of if r.partition == partition)}
        assert written == {one.decision_id for one in decisions}
        learned += log.examples
    assert learned == stream.departures


async def asked(stream: Stream, word: str, *about: str) -> list[dict[str, Any]]:
    """Ask as a person does, and return the decisions that answer it."""
    at = ["--json", "--bootstrap-servers", stream.kafka.bootstrap_servers]
    ran = await asyncio.to_thread(CliRunner().invoke, app, ["models", word, str(stream.file), *about, *at])
    assert ran.exit_code == 0, ran.output
    decisions: list[dict[str, Any]] = json.loads(ran.output)["decisions"]
    return decisions


async def last_answer_is_explained(stream: Stream, answers: list[bytes]) -> None:
    """Ask of the last answer of a key: it was learned behind the pause, by the models of its race alone."""
    answer = json.loads(answers[-1])
    at = ["--json", "--bootstrap-servers", stream.kafka.bootstrap_servers]
    ran = await asyncio.to_thread(
        CliRunner().invoke, app, ["explain", str(stream.file), answer["prediction_id"], *at]
    )
    assert ran.exit_code == 0, ran.output
    told = json.loads(ran.stdout)
    state = told["served"]["version"], told["served"]["updates"]
    assert state == (answer["model_version"], answer["model_updates"])
    assert told["scores"] == {name: one["served"] for name, one in told["learned"].items()}
    lesson = told["learned"]["linear"]
    assert lesson["before"] != lesson["after"]
    assert 0 < lesson["updates"] < stream.departures // 2


async def saved_learner(stream: Stream, state_dir: Path, partition: int) -> KeyedLearner:
    """Return the learner of a partition as the worker saved it."""
    settings = Settings(state_dir=state_dir)
    store = checkpoint_store(settings, stream.pipeline.name, "learner", partition, apart=(RACES,))
    learner = build_keyed_learner(
        stream.pipeline, partition, source=source_of(stream.pipeline, settings), stored=store.stored(RACES)
    )
    checkpoint = await store.load()
    assert checkpoint is not None
    learner.restore(checkpoint.entries)
    learner.digests()
    return learner
