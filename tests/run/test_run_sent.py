"""Files sent to a real Kafka lose no label: the README's own block, and a worker that runs meanwhile."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from reading import counting, read_topic
from running import CHECKOUT, FLIGHTS, Worker, fresh_name, make_topics, until, write_pipeline
from test_readme import README, blocks

from engine.definition.file import load_pipeline
from engine.definition.pipeline import Pipeline
from engine.kafka.client import LogPartition
from engine.kafka.embedded import free_port
from engine.kafka.sink import Sink
from engine.kafka.topic_admin import topic_states
from engine.offline import publish as publishing
from engine.offline.backtest import backtest
from engine.offline.publish import send_files
from engine.settings import ENV_PREFIX, KafkaSettings
from topics.messages import Outgoing

BLOCK_FLIGHTS = 6_000
"""A week of them; a worker answers 1,000 to 2,000 a second."""
THIN_FLIGHTS = 3_000
"""One in 27 of three months: 200 records are three days, twice as long as a prediction waits."""
DEADLINE_S = 240.0
FILES = ("departures.jsonl.gz", "arrivals.jsonl.gz")
THIN = f"""
    import runpy
    from dataclasses import replace

    flights = runpy.run_path({str(FLIGHTS / "pipeline.py")!r})["pipeline"]
    pipeline = replace(
        flights,
        name="NAME",
        events=replace(flights.events, name="NAME.departures"),
        labels=replace(flights.labels, topic="NAME.arrivals"),
        models={{"linear": flights.models["linear"]}},
        champion="linear",
    )
"""


def cut(folder: Path, count: int, *, every: int = 1) -> None:
    """Write `count` flights, one in `every`, and all their arrivals."""
    chosen: set[str] = set()
    for name in FILES:
        with gzip.open(FLIGHTS / name) as lines, gzip.open(folder / name, "wb", compresslevel=1) as out:
            for number, line in enumerate(lines):
                event_id = json.loads(line)["event_id"]
                if name == FILES[0] and number % every == 0 and len(chosen) < count:
                    chosen.add(event_id)
                if event_id in chosen:
                    out.write(line)
    assert len(chosen) == count


async def assert_as_in_a_backtest(
    kafka: KafkaSettings, pipeline: Pipeline, folder: Path, worker_metrics: Any
) -> None:
    """Every flight is answered once, with the features of a backtest; every label has joined."""
    out = folder / "predictions.jsonl"
    with out.open("wb") as file:
        backtest(pipeline, *(folder / name for name in FILES), predictions_out=file)
    expected = {line["event_id"]: line["features"] for line in map(json.loads, out.read_bytes().splitlines())}
    answered = counting(await read_topic(kafka, pipeline.catalog["predictions"]))
    assert {event_id: found["features"] for event_id, found in answered.items()} == expected
    learned = counting(await read_topic(kafka, pipeline.catalog["examples"]), "example")
    assert learned.keys() == expected.keys()
    assert await read_topic(kafka, pipeline.catalog["dead-letters"]) == []
    assert worker_metrics["headrace_labels_total{unmatched}"] == 0


def pasted(script: str, folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a shell that runs `script`, says the worker's pid in a file, and ends with its exit code."""
    with (folder / "said").open("wb") as said:
        return subprocess.Popen(
            ["bash", "-ec", f"{script}\necho $! > worker.pid\nwait $!"],
            cwd=folder,
            env=environment,
            stdout=said,
            stderr=subprocess.STDOUT,
        )


@pytest.mark.kafka
def test_the_block_of_the_readme_joins_every_flight(kafka: KafkaSettings, tmp_path: Path) -> None:
    (block,) = [body for body in blocks(README, "sh") if "headrace send" in body]
    name, port = fresh_name("flights"), free_port()
    example = tmp_path / "examples" / "flights"
    example.mkdir(parents=True)
    cut(example, BLOCK_FLIGHTS)
    source = (FLIGHTS / "pipeline.py").read_text()
    (example / "pipeline.py").write_text(source.replace('"flights', f'"{name}'))
    (tmp_path / ".venv").symlink_to(sys.prefix)
    script = block.replace("localhost:9092", kafka.bootstrap_servers).replace("flights.pred", f"{name}.pred")
    assert script.count(name) == 1
    assert kafka.bootstrap_servers in script
    kept = {key: value for key, value in os.environ.items() if not key.startswith(ENV_PREFIX)}
    environment = kept | {f"{ENV_PREFIX}WEB__PORT": str(port), "PYTHONPATH": str(CHECKOUT)}
    worker = Worker(example / "pipeline.py", kafka, tmp_path)
    worker.port = port

    async def scenario() -> None:
        shell = pasted(script, tmp_path, environment)
        try:
            pid_file = tmp_path / "worker.pid"
            await until(
                lambda: pid_file.exists() or shell.poll() is not None, "the block", deadline_s=DEADLINE_S
            )
            printed = (tmp_path / "said").read_text()
            assert f"sent {BLOCK_FLIGHTS:,} events and {BLOCK_FLIGHTS:,} labels" in printed
            answers = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
            assert len(answers) == 3
            joined = "headrace_labels_total{joined}"
            await until(
                lambda: worker.metrics()[joined] == BLOCK_FLIGHTS, "labels joined", deadline_s=DEADLINE_S
            )
            metrics = worker.metrics()
            os.kill(int(pid_file.read_text()), signal.SIGTERM)
            assert await asyncio.to_thread(shell.wait, DEADLINE_S) == 0
        finally:
            shell.kill()
            shell.wait()
        pipeline = load_pipeline(example / "pipeline.py")
        await assert_as_in_a_backtest(kafka, pipeline, example, metrics)
        kept_for = {
            state.plan.role: state.configs["retention.ms"]
            for state in await topic_states(kafka, pipeline.catalog.plan(events=1))
        }
        assert {kept_for[role] for role in ("events", "labels", "predictions")} == {"-1"}

    asyncio.run(scenario())


class Paced(Sink):
    """A Sink whose flush returns when a worker has answered every event that was sent: it is never behind."""

    worker: Worker
    events: str
    sent = 0

    async def send(self, topic: str, partition: int | None, records: Sequence[Outgoing]) -> None:
        if topic == self.events and partition is not None:  # what goes by its keys comes again with one
            self.sent += len(records)
        await super().send(topic, partition, records)

    async def flush(self) -> dict[LogPartition, int]:
        written = await super().flush()
        answered = "headrace_predictions_total{champion}", "headrace_predictions_total{prior}"
        await until(
            lambda: sum(map(self.worker.metrics().__getitem__, answered)) == self.sent,
            "answers",
            worker=self.worker,
        )
        return written


@pytest.mark.kafka
def test_a_worker_that_keeps_up_does_not_run_ahead(
    kafka: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever has been sent is answered before more is: labels sent after younger events would be lost."""

    async def scenario() -> None:
        cut(tmp_path, THIN_FLIGHTS, every=26)
        pipeline = load_pipeline(file := write_pipeline(tmp_path, THIN, name=fresh_name("thin")))
        await make_topics(kafka, pipeline)
        with Worker(file, kafka, tmp_path) as worker:
            await worker.ready()
            Paced.worker, Paced.events = worker, pipeline.events.name
            monkeypatch.setattr(publishing, "Sink", Paced)
            departures, arrivals = (tmp_path / name for name in FILES)
            await send_files(kafka, pipeline, events=departures, labels=arrivals)
            await until(
                lambda: worker.metrics()["headrace_labels_total{joined}"] == THIN_FLIGHTS,
                "labels joined",
                worker=worker,
            )
            metrics = worker.metrics()
            assert await worker.stop() == 0, worker.said()
        await assert_as_in_a_backtest(kafka, pipeline, tmp_path, metrics)

    asyncio.run(scenario())
