"""State that is lost, older or put into another store: the logs make up for it. A person erased from it."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from brokers.redis import redis_server
from paths import CHECKOUT
from reading import claims_of, read_topic, watching
from running import Worker, make_topics, until
from test_run_crash import Stream

from engine.lineage.erasing import WithoutKey
from engine.offline.replay import topic_logs
from engine.settings import KafkaSettings, Settings
from engine.state.snapshots import restore, take
from engine.worker.assembly import build_learner

DEPARTURES = 1_500
LIVES = 5
ERASED = 900
"""Departures of the stream from which a person is erased."""
PERSON = "JFK"
COMMANDS = '{"ada": "sixteen bytes or more"}'
BEHIND = "the checkpoint store is behind the logs: replaying them from its checkpoint"


@pytest.mark.kafka
def test_a_state_that_is_lost_or_older_costs_nothing(kafka: KafkaSettings, tmp_path: Path) -> None:
    stream = Stream(kafka, tmp_path, partitions=1, departures=DEPARTURES)
    asyncio.run(five_lives(stream, tmp_path))


async def five_lives(stream: Stream, folder: Path) -> None:
    """Each life answers a fifth of the stream; what the next one finds of its state differs."""
    await make_topics(stream.kafka, stream.pipeline)
    worker = Worker(stream.file, stream.kafka, folder, checkpoint_interval_ms=300)
    state, copies = worker.state_dir, folder / "copies"
    found: list[list[str]] = []
    bounds = [len(stream.messages) * life // LIVES for life in range(LIVES + 1)]
    async with watching(stream.kafka, stream.predictions, stream.examples) as watch:
        for life, (start, stop) in enumerate(pairwise(bounds), 1):
            with worker:
                await worker.ready()
                await stream.publish(watch, stream.messages[start:stop])
                await until(
                    lambda: worker.metrics()["headrace_checkpoint_last_success_timestamp_seconds"] > 0,
                    "a checkpoint",
                    worker=worker,
                )
                found.append([line["checkpoint"] for line in worker.logged(BEHIND)])
                if life == LIVES:
                    await stream.finished(watch, worker)
                    assert await worker.stop() == 0, worker.said()
                    break
                worker.kill()
            shutil.copytree(state, copies / str(life))
            if life < LIVES - 1:  # the last one finds what there is
                shutil.rmtree(state)
            if life in {2, 3}:  # the state of one life before
                shutil.copytree(copies / str(life - 1), state)
    answers_log, examples_log = await stream.account(state)
    assert claims_of(answers_log) == claims_of(examples_log) == [1, 2, 3, 4, 5]
    assert found == [[], ["empty"], ["older"], ["older"], []]


def test_a_snapshot_of_a_worker_that_runs_goes_on_in_a_redis(tansu: KafkaSettings, tmp_path: Path) -> None:
    """From a directory, while its worker answers, into the store of another machine."""
    with redis_server(tmp_path) as url:
        stream = Stream(tansu, tmp_path, partitions=1, departures=DEPARTURES)
        asyncio.run(moved(stream, url, tmp_path))


async def moved(stream: Stream, url: str, folder: Path) -> None:
    await make_topics(stream.kafka, stream.pipeline)
    key = {"signing_key": "the same on both machines"}
    shared = {"store_url": url, **key}
    one = Worker(stream.file, stream.kafka, folder / "one", **stream.settings, **key)
    two = Worker(stream.file, stream.kafka, folder / "two", **stream.settings, **shared)
    third = len(stream.messages) // 3
    async with watching(stream.kafka, stream.predictions, stream.examples) as watch:
        with one:
            await stream.publish(watch, stream.messages[:third])
            await until(
                lambda: one.metrics()["headrace_checkpoint_last_success_timestamp_seconds"] > 0,
                "a checkpoint",
                worker=one,
            )
            settings = Settings(kafka=stream.kafka, state_dir=one.state_dir, **key)  # type: ignore[arg-type]
            manifest = await take(stream.pipeline, settings, folder / "snapshot")
            assert {kept.role for kept in manifest.files} >= {"scorer", "learner"}
            await stream.publish(watch, stream.messages[third : 2 * third])
            one.kill()
        settings = Settings(kafka=stream.kafka, state_dir=folder / "scratch", **shared)  # type: ignore[arg-type]
        await restore(stream.pipeline, settings, folder / "snapshot", folder / "copies")
        with two:
            await stream.publish(watch, stream.messages[2 * third :])
            await stream.finished(watch, two)
            assert await two.stop() == 0, two.said()
        (claimed,) = two.logged("partition claimed")
        assert claimed["logged_since"] > 0, "the snapshot was as new as the logs"
    stream.shared = shared
    answers_log, examples_log = await stream.account(two.state_dir)
    claims = claims_of(answers_log)
    assert claims == claims_of(examples_log)
    assert len(claims) == 2


def test_a_person_is_erased_and_stays_so(tansu: KafkaSettings, tmp_path: Path) -> None:
    asyncio.run(erased(Stream(tansu, tmp_path, partitions=2, departures=ERASED), tmp_path))


async def erased(stream: Stream, folder: Path) -> None:
    """Half of the stream, the erasure, a kill before anything else, the other half without the person."""
    await make_topics(stream.kafka, stream.pipeline)
    settings = {**stream.settings, "command_keys": COMMANDS}
    worker = Worker(stream.file, stream.kafka, folder, **settings)
    half = len(stream.messages) // 2
    others = [one for one in stream.messages[half:] if one.key != PERSON.encode()]
    gone = {
        json.loads(one.value or b"")["event_id"]
        for one in stream.messages[:half]
        if one.key == PERSON.encode() and one.topic == stream.pipeline.events.name
    }
    assert len(gone) > 50
    async with watching(stream.kafka, stream.predictions, stream.examples) as watch:
        with worker:
            await stream.publish(watch, stream.messages[:half])
            await until(
                lambda: (
                    stream.answered(watch)
                    >= sum(one.topic == stream.pipeline.events.name for one in stream.messages[:half])
                ),
                "every answer",
                worker=worker,
            )
            code, told = await headrace(
                stream, worker, "erase", PERSON, str(stream.file), "--reason", "asked"
            )
            assert code == 0, told
            assert told["decision"]["evidence"]["answers"] > 0
            assert told["decision"]["actor"] == "ada"
            assert PERSON not in json.dumps(told["decision"])
            worker.kill()
        with worker:
            await worker.ready()
            await stream.publish(watch, others)
            saved = worker.metrics()["headrace_checkpoint_last_success_timestamp_seconds"]
            await until(
                lambda: worker.metrics()["headrace_checkpoint_last_success_timestamp_seconds"] > saved,
                "a checkpoint",
                worker=worker,
            )
            assert await worker.stop() == 0, worker.said()
    code, kept = await headrace(stream, worker, "state", "inspect", PERSON, str(stream.file))
    assert (code, kept["kept"]) == (0, [])
    await check_logs(stream, told["logs"])


async def check_logs(stream: Stream, told: list[dict[str, Any]]) -> None:
    """What the command says of each log is what lies there; the log without the person can be folded."""
    for role in ("events", "predictions", "examples"):
        name = stream.pipeline.catalog[role]  # type: ignore[index]
        found: dict[int, list[int]] = {}
        for record in await read_topic(stream.kafka, name):
            text = f'"{PERSON}"'.encode()
            if record.key == PERSON.encode() or text in (record.value or b""):
                found.setdefault(record.partition, []).append(record.offset)
        said = {row["partition"]: row for row in told if row["role"] == role}
        for partition, row in said.items():
            here = [offset for offset in found[partition] if offset <= row["last"]]
            assert (row["first"], row["count"]) == (here[0], len(here))
        assert said.keys() == found.keys()
    (log,) = await topic_logs(stream.pipeline, "examples", stream.kafka)
    learners = []
    for _ in range(2):
        learner, without = build_learner(stream.pipeline), WithoutKey(log, PERSON)
        async for records in without.read():
            learner.fold(records)
        assert without.left_out > 0
        learners.append(learner)
    assert learners[0].digests() == learners[1].digests()
    assert learners[0].examples > 0


async def headrace(stream: Stream, worker: Worker, *arguments: str) -> tuple[int, Any]:
    """Type a command with the worker's settings; return its exit code and JSON."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "headrace", *arguments, "--json",
        "--bootstrap-servers", stream.kafka.bootstrap_servers,
        env=worker._environment | {"PYTHONPATH": str(CHECKOUT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, said = await process.communicate()
    assert process.returncode is not None
    return process.returncode, json.loads(out) if out.startswith(b"{") else said.decode()
