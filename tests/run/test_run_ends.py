"""A worker that cannot go on ends: non-zero, soon, and it says why and what helps."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from reading import watching
from running import Message, Worker, fresh_name, in_process, make_topics, publish, until, write_pipeline

from engine.definition.file import load_pipeline
from engine.definition.pipeline import Pipeline
from engine.kafka.embedded import EmbeddedBroker, free_port
from engine.machines.scorer import Scorer
from engine.settings import KafkaSettings, Settings
from engine.stores.sqlite_checkpoints import SqliteCheckpoints
from topics.errors import ClaimError, HeadraceError

SOURCE = """
    from msgspec import Struct
    from river import linear_model

    from engine import Labels, Pipeline, Topic
    from operators import by, field


    class Reading(Struct):
        event_id: str
        event_time: int
        sensor: str
        value: float
        hot: bool


    pipeline = Pipeline(
        name="NAME",
        events=Topic("NAME.readings", Reading, key="sensor"),
        labels=Labels(field="hot"),
        features={"value": field("value"), "mean": by("sensor").mean("value", "1h")},
        models={"linear": linear_model.LogisticRegression()},
    )
"""
START = 1_700_000_000_000


def readings(pipeline: Pipeline, count: int, *, first: int = 0) -> list[Message]:
    messages = []
    for number in range(first, first + count):
        time = START + number
        reading = {"event_id": f"r{number}", "event_time": time, "sensor": "s", "value": 1.0, "hot": True}
        messages.append(Message(pipeline.events.name, time, b"s", json.dumps(reading).encode()))
    return messages


async def settled(kafka: KafkaSettings, state_dir: Path, pipeline: Pipeline, count: int) -> None:
    """Let a worker answer some events, save and leave."""
    predictions = pipeline.catalog["predictions"]
    await make_topics(kafka, pipeline)
    async with (
        watching(kafka, predictions) as watch,
        in_process(pipeline, Settings(kafka=kafka, state_dir=state_dir)) as (worker, running),
    ):
        await publish(kafka, readings(pipeline, count))
        await until(lambda: watch.counted(predictions) == count, "answers")
        worker.stop()
        await running


async def refused(kafka: KafkaSettings, state_dir: Path, pipeline: Pipeline) -> HeadraceError:
    """Return the error that ends a worker; how a process tells it, others of these tests see."""
    settings = Settings(kafka=kafka, state_dir=state_dir)
    async with in_process(pipeline, settings) as (_, running):
        await until(running.done, "its end")
        with pytest.raises(HeadraceError) as caught:
            await running
    return caught.value


def test_an_owner_that_meets_another_while_it_answers_claims_again(
    tansu: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = load_pipeline(write_pipeline(tmp_path, SOURCE, name=fresh_name("again")))
    predictions, step, fails = pipeline.catalog["predictions"], Scorer.step, [True]

    def met(scorer: Scorer, *arguments: Any) -> Any:
        if fails.pop():
            fails.append(False)
            raise ClaimError("the store holds another checkpoint", hint="")
        fails.append(False)
        return step(scorer, *arguments)

    async def scenario() -> None:
        await make_topics(tansu, pipeline)
        async with (
            watching(tansu, predictions) as watch,
            in_process(pipeline, Settings(kafka=tansu, state_dir=tmp_path)) as (worker, running),
        ):
            monkeypatch.setattr(Scorer, "step", met)
            await publish(tansu, readings(pipeline, 10))
            await until(lambda: running.done() or watch.counted(predictions) == 10, "answers")
            worker.stop()
            await running
            assert watch.counted(predictions) == 10
        head = await SqliteCheckpoints(tmp_path, pipeline.name, "scorer", 0).look()
        assert head.claim == 2

    asyncio.run(scenario())


def test_without_a_broker_a_start_gives_up_and_names_the_address(tmp_path: Path) -> None:
    async def scenario() -> None:
        file = write_pipeline(tmp_path, SOURCE, name=fresh_name("nowhere"))
        kafka = KafkaSettings(bootstrap_servers=f"127.0.0.1:{free_port()}", connect_deadline_ms=1_000)
        with Worker(file, kafka, tmp_path) as worker:
            assert await worker.ended() == 1
        assert f"no Kafka answers at {kafka.bootstrap_servers}" in worker.said()
        assert "HEADRACE_KAFKA__BOOTSTRAP_SERVERS" in worker.said()
        assert "Traceback" not in worker.said()

    asyncio.run(scenario())


@pytest.mark.parametrize("waiting", [0, 10_000])
def test_a_broker_that_dies_ends_the_worker(tmp_path: Path, waiting: int) -> None:
    """With nothing to do the next checkpoint finds out, with work in hand the next write."""

    async def scenario() -> None:
        file = write_pipeline(tmp_path, SOURCE, name=fresh_name("orphan"))
        pipeline = load_pipeline(file)
        with EmbeddedBroker() as broker:
            deadlines = {"outage_deadline_ms": 2_000, "request_timeout_ms": 3_000}
            kafka = broker.kafka_settings().model_copy(update=deadlines)
            await make_topics(kafka, pipeline)
            await publish(kafka, readings(pipeline, waiting))
            with Worker(file, kafka, tmp_path) as worker:
                await worker.ready()
                broker.stop()
                assert await worker.ended() == 1
        (line,) = worker.logged("the data plane stopped")
        assert kafka.bootstrap_servers in line["reason"]
        assert "Traceback" not in worker.said()

    asyncio.run(scenario())


def test_logs_that_are_gone_are_refused(tmp_path: Path) -> None:
    """The broker comes back empty: going on from its start would learn what never follows."""

    async def scenario() -> None:
        file = write_pipeline(tmp_path, SOURCE, name=fresh_name("emptied"))
        pipeline = load_pipeline(file)
        with EmbeddedBroker() as broker:
            await settled(broker.kafka_settings(), tmp_path / "state", pipeline, 50)
        with EmbeddedBroker() as broker:
            await make_topics(broker.kafka_settings(), pipeline)
            refusal = await refused(broker.kafka_settings(), tmp_path / "state", pipeline)
        assert refusal.hint
        assert f"topic {pipeline.catalog['predictions']} partition 0" in str(refusal)

    asyncio.run(scenario())


@pytest.mark.kafka
def test_a_worker_with_a_store_of_its_own_goes_on_where_another_ends(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    """As on two machines: what one has saved the other never sees."""

    async def scenario() -> None:
        file = write_pipeline(tmp_path, SOURCE, name=fresh_name("elsewhere"))
        pipeline = load_pipeline(file)
        predictions = pipeline.catalog["predictions"]
        await make_topics(kafka, pipeline)
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        made = readings(pipeline, 150)

        async with watching(kafka, predictions) as watch:

            async def answered(count: int, worker: Worker) -> None:
                await publish(kafka, made[count - 50 : count])
                await until(lambda: watch.answered(predictions) == count, "answers", worker=worker)

            with Worker(file, kafka, tmp_path) as one, Worker(file, kafka, elsewhere, name="other") as other:
                await one.ready()
                await other.ready()
                await answered(50, one)
                held = "headrace_partitions"
                await until(lambda: sorted(w.metrics()[held] for w in (one, other)) == [0, 1], "one holds it")
                second, first = sorted((one, other), key=lambda w: w.metrics()[held])
                assert await first.stop() == 0, first.said()
                await answered(100, second)
                first.start()
                await first.ready()
                second.kill()
                await answered(150, first)
                assert await first.stop() == 0, first.said()
            assert watch.counted(predictions) == 150, "answered twice"
        behind = "the checkpoint store is behind the logs: replaying them from its checkpoint"
        (told,) = second.logged(behind)
        # It may have held the partition alone, before the other joined and before any event: saved or not.
        assert told["checkpoint"] in {"empty", "older"}
        assert told["claim_in_store"] < told["claim_in_logs"]
        assert told["events_from"] == 0
        (told,) = first.logged(behind)
        assert told["checkpoint"] == "older"
        assert 0 < told["claim_in_store"] < told["claim_in_logs"]

    asyncio.run(scenario())


def test_another_definition_and_a_field_without_the_champion_are_refused(
    tansu: KafkaSettings, tmp_path: Path
) -> None:
    async def scenario() -> None:
        name = fresh_name("edited")
        file = write_pipeline(tmp_path, SOURCE, name=name)
        pipeline = load_pipeline(file)
        await settled(tansu, tmp_path / "state", pipeline, 50)
        for now, says, means in (
            (SOURCE.replace('"1h"', '"2h"'), "feature mean changed (", "another definition"),
            (
                SOURCE.replace("LogisticRegression()", "LogisticRegression(l2=0.1)"),
                "`linear` is the champion, and the file has it no more, or another model of that name",
                "keep it in the file as it was",
            ),
        ):
            edited = load_pipeline(write_pipeline(tmp_path, now, name=name))
            refusal = await refused(tansu, tmp_path / "state", edited)
            assert says in str(refusal)
            assert means in str(refusal)

    asyncio.run(scenario())


def test_a_signal_during_work_drains_and_ends_well(tansu: KafkaSettings, tmp_path: Path) -> None:
    async def scenario() -> None:
        file = write_pipeline(tmp_path, SOURCE, name=fresh_name("drained"))
        pipeline = load_pipeline(file)
        await make_topics(tansu, pipeline)
        predictions = pipeline.catalog["predictions"]
        waiting, part = 5_000, 500
        await publish(tansu, readings(pipeline, waiting))

        async def go_on() -> None:
            for first in itertools.count(waiting, part):
                if ended.is_set():
                    return
                await publish(tansu, readings(pipeline, part, first=first))

        ended = asyncio.Event()

        async with watching(tansu, predictions) as watch:
            publishing = asyncio.create_task(go_on())  # so the signal comes during work at any speed
            with Worker(file, tansu, tmp_path, drain_deadline_ms=10_000) as worker:
                await until(lambda: watch.counted(predictions) > 0, "work", worker=worker)
                began = time.monotonic()
                assert await worker.stop() == 0, worker.said()
                assert time.monotonic() - began < 30
            assert not publishing.done()
            ended.set()
            await publishing
        assert worker.complaints() == []

    asyncio.run(scenario())


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    """The first one waits for a broker that is gone."""

    async def scenario() -> None:
        file = write_pipeline(tmp_path, SOURCE, name=fresh_name("twice"))
        with EmbeddedBroker() as broker:
            await make_topics(broker.kafka_settings(), load_pipeline(file))
            with Worker(file, broker.kafka_settings(), tmp_path, drain_deadline_ms=600_000) as worker:
                await worker.ready()
                process = worker.process
                assert process is not None
                broker.stop()

                def told_until_it_ends() -> bool:
                    if process.poll() is None:
                        worker.send(signal.SIGTERM)
                    return process.poll() is not None

                await until(told_until_it_ends, "its end")
                assert process.returncode == 1

    asyncio.run(scenario())


def test_a_signal_during_the_start_ends_well(tansu: KafkaSettings, tmp_path: Path) -> None:
    async def scenario() -> None:
        file = write_pipeline(tmp_path, SOURCE, name=fresh_name("hasty"))
        await make_topics(tansu, load_pipeline(file))
        with Worker(file, tansu, tmp_path) as worker:
            await until(lambda: worker.get("/livez")[0] == 200, "its pages", worker=worker)
            assert await worker.stop() == 0, worker.said()

    asyncio.run(scenario())


def test_runs_leave_nothing_behind_whether_they_end_or_are_killed(
    tansu: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faust wants a folder: it is always the same one, in the state directory."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))

    async def scenario() -> None:
        file = write_pipeline(tmp_path, SOURCE, name=fresh_name("tidy"))
        await make_topics(tansu, load_pipeline(file))
        worker = Worker(file, tansu, tmp_path)
        kept: list[set[str]] = []
        for _ in range(2):
            with worker:
                await worker.ready()
                worker.kill()
            kept.append({str(path) for path in worker.state_dir.rglob("*") if path.is_dir()})
        with worker:
            await worker.ready()
            assert await worker.stop() == 0, worker.said()
        kept.append({str(path) for path in worker.state_dir.rglob("*") if path.is_dir()})
        assert kept[0] == kept[1] == kept[2]
        assert list(temporary.iterdir()) == []

    asyncio.run(scenario())
