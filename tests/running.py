"""Real workers as processes.

Lives here: starting, killing and asking a worker; publishing; the same messages through a backtest.
Never here: a test, reading what they wrote (`reading.py`).

Every wait has a deadline and a condition; what fails names the worker's log.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, NamedTuple, Self

from paths import CHECKOUT
from prometheus_client.parser import text_string_to_metric_families

import engine.worker.loop
from engine.definition.pipeline import Pipeline
from engine.kafka.embedded import free_port
from engine.kafka.sink import open_sink
from engine.kafka.topic_admin import ensure_topics
from engine.local.worker import environment
from engine.metrics import Metrics
from engine.offline.backtest import backtest
from engine.settings import NOTHING_ACCEPTED, Accepted, KafkaSettings, Settings
from topics.messages import Content

FLIGHTS = CHECKOUT / "examples" / "flights"
DEADLINE_S = 90.0
FREEZES_MAX = 1_000
"""For whatever a worker should do within a second or two on a machine that does nothing else."""
EXIT_DEADLINE_S = 40.0
"""The worker gives itself 25 s to drain."""
PAGE_DEADLINE_S = 20.0
"""A worker whose machine is busy is slow, not gone: one that is gone refuses the connection at once."""
LOOK_S = 0.05
TASKS_S = 2.0
"""Faust writes the stacks of a worker's tasks within this long."""
SLICE_RECORDS = 100
"""Published at once, so that no topic runs far ahead of the other."""


# -- pipelines ----------------------------------------------------------------------------------------


def fresh_name(stem: str) -> str:
    """Brokers outlive tests: each pipeline has topics of its own."""
    return f"{stem}-{uuid.uuid4().hex[:8]}"


def write_pipeline(folder: Path, source: str, *, name: str) -> Path:
    """Write a pipeline's file; `NAME` stands for the pipeline's name."""
    file = folder / f"{name}.py"
    file.write_text(textwrap.dedent(source).replace("NAME", name), encoding="utf-8")
    return file


async def make_topics(kafka: KafkaSettings, pipeline: Pipeline) -> None:
    plan = [topic._replace(create=True) for topic in pipeline.catalog.plan(events=pipeline.events.partitions)]
    await ensure_topics(kafka, plan)


# -- workers ------------------------------------------------------------------------------------------


def _is_locked(path: Path) -> bool:
    """Return whether a process has a write to a SQLite file under way."""
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        connection.execute("ROLLBACK")
        return False


class Worker:
    """One `headrace run`, started and restarted over one state directory; a log file for each start."""

    def __init__(
        self,
        file: Path,
        kafka: KafkaSettings,
        folder: Path,
        *,
        name: str = "worker",
        module: str = "headrace",
        **settings: object,
    ) -> None:
        """`module` is the command that is run: Headrace's own, or one that wraps it."""
        self.name = name
        self._module = module
        self.state_dir = folder / "state"
        self.port = free_port()
        self._file, self._folder = file, folder
        self._environment = environment(kafka, state_dir=self.state_dir, web_port=self.port)
        defaults = {"checkpoint_interval_ms": 500}
        for key, value in (defaults | settings).items():
            self._environment[f"HEADRACE_{key.upper()}"] = str(value)
        self._environment.pop("PYTEST_CURRENT_TEST", None)
        self._starts = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self._folder / f"{self.name}-{self._starts}.log"

    def given(self, **variables: str) -> Self:
        """Add variables that the user's own code reads."""
        self._environment |= variables
        return self

    def start(self, *arguments: str) -> Self:
        assert self.process is None
        self._starts += 1
        self._folder.mkdir(exist_ok=True)
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self._module, "run", str(self._file), *arguments],
                cwd=self._folder,
                env=self._environment | {"PYTHONPATH": f"{CHECKOUT}{os.pathsep}{CHECKOUT / 'tests'}"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    async def ready(self) -> Self:
        await until(lambda: self.get("/readyz")[0] == 200, f"{self.name} ready", worker=self)
        return self

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    async def freeze(self) -> None:
        """Stop it where it stands, but not while it holds a checkpoint file: then nobody could take over."""
        for _ in range(FREEZES_MAX):
            self.send(signal.SIGSTOP)
            if not any(map(_is_locked, self.state_dir.rglob("*.sqlite"))):
                return
            self.send(signal.SIGCONT)
            await asyncio.sleep(0.01)
        raise AssertionError("it holds its checkpoint files all the time")

    def kill(self) -> None:
        """kill -9: nothing is said goodbye to."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    async def stop(self) -> int:
        """Ask it to leave and return its exit code."""
        self.send(signal.SIGTERM)
        return await self.ended()

    async def ended(self, deadline_s: float = EXIT_DEADLINE_S) -> int:
        """Wait for its end and return its exit code."""
        process = self.process
        assert process is not None
        await until(lambda: process.poll() is not None, f"{self.name} ended", deadline_s=deadline_s)
        self.process = None
        return process.returncode

    def __enter__(self) -> Self:
        return self.start() if self.process is None else self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def get(self, path: str) -> tuple[int, str]:
        """Ask its web server; 0 while there is none."""
        try:
            url = f"http://127.0.0.1:{self.port}{path}"
            with urllib.request.urlopen(url, timeout=PAGE_DEADLINE_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metrics(self) -> Counter[str]:
        """Return every sample of its page, under `name` or `name{value,...}` by the labels' order."""
        samples: Counter[str] = Counter()
        for family in text_string_to_metric_families(self.get("/metrics")[1]):
            for sample in family.samples:
                labels = f"{{{','.join(sample.labels.values())}}}" if sample.labels else ""
                samples[sample.name + labels] += sample.value  # type: ignore[assignment]
        return samples

    def logged(self, event: str, *, log: Path | None = None) -> list[dict[str, Any]]:
        """Return the log's lines about `event`, of this start or of the one given."""
        return [line for line in self.lines(log=log) if line.get("event") == event]

    def lines(self, *, log: Path | None = None) -> list[dict[str, Any]]:
        """Return what the worker logged, as objects."""
        lines = (log or self.log).read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def complaints(self) -> list[dict[str, Any]]:
        """Return what Headrace itself logged as warnings and errors, but for what a busy machine brings."""
        busy = {"no broker answers: holding still", "a broker answers again"}
        if self.logged("partitions revoked"):  # no processor for longer than a session
            busy.add("offsets were not committed; lag tools see old ones")
        own = (line for line in self.lines() if line.get("logger") == "headrace")
        told = (line for line in own if line["level"] in {"warning", "error", "critical"})
        return [line for line in told if line["event"] not in busy]

    def said(self) -> str:
        """Return its log without the chatter of the Kafka client, the end of it."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(line for line in lines if '"logger": "aiokafka' not in line)[-6_000:]

    async def tasks(self) -> str:
        """Return where each of its asyncio tasks waits: Faust writes it to the log on SIGUSR1."""
        if self.process is None or self.process.poll() is not None:
            return ""
        written = self.log.stat().st_size
        self.send(signal.SIGUSR1)
        await asyncio.sleep(TASKS_S)
        stacks = self.log.read_bytes()[written:].decode(errors="replace").partition("\nTASKS\n")[2]
        return "\n".join(re.findall(r'^ *(?:TASK |File ".+", line ).+$', stacks, re.MULTILINE))


@asynccontextmanager
async def in_process(
    pipeline: Pipeline, settings: Settings, accepted: Accepted = NOTHING_ACCEPTED
) -> AsyncIterator[tuple[engine.worker.loop.Worker, asyncio.Task[None]]]:
    """Run a worker in this process; at the end of the block it dies where it stands."""
    worker = engine.worker.loop.Worker(pipeline, settings, Metrics(pipeline), accepted)
    running = asyncio.create_task(worker.run())
    try:
        await until(lambda: running.done() or not worker.not_ready(), "ready")
        yield worker, running
    finally:
        running.cancel()
        await asyncio.wait({running})


async def until(
    condition: Callable[[], object],
    what: str,
    *,
    deadline_s: float = DEADLINE_S,
    worker: Worker | Sequence[Worker] = (),
) -> None:
    """Wait until `condition()` holds; fail at the deadline, or when a worker has ended before.

    What fails shows what each of the workers said, and where its tasks wait.
    """
    workers = [worker] if isinstance(worker, Worker) else worker
    ends = time.monotonic() + deadline_s
    while not await asyncio.to_thread(condition):
        dead = [one.name for one in workers if one.process is not None and one.process.poll() is not None]
        if dead or time.monotonic() > ends:
            how = f"{', '.join(dead)} died" if dead else f"not within {deadline_s:.0f} s"
            said = [f"\n{one.log}:\n{one.said()}\n{await one.tasks()}" for one in workers]
            raise AssertionError(f"{what}: {how}{''.join(said)}")
        await asyncio.sleep(LOOK_S)


# -- publishing ---------------------------------------------------------------------------------------


class Message(NamedTuple):
    """One record to publish."""

    topic: str
    time: int
    key: bytes | None
    value: bytes | None
    partition: int | None = None


def flights(topic: str, labels_topic: str, *, first: int = 0, departures: int) -> list[Message]:
    """Return departures and their arrivals in time order."""
    with gzip.open(FLIGHTS / "departures.jsonl.gz") as lines:
        events = [json.loads(line) for line in itertools.islice(lines, first, first + departures)]
    chosen = {event["event_id"] for event in events}
    with gzip.open(FLIGHTS / "arrivals.jsonl.gz") as lines:
        arrivals = [arrival for line in lines if (arrival := json.loads(line))["event_id"] in chosen]
    assert len(events) == len(arrivals) == departures
    messages = [
        Message(topic, event["event_time"], event["origin"].encode(), json.dumps(event).encode())
        for event in events
    ]
    messages += [
        Message(labels_topic, label["label_time"], label["origin"].encode(), json.dumps(label).encode())
        for label in arrivals
    ]
    return sorted(messages, key=lambda message: message.time)


def backtested(folder: Path, pipeline: Pipeline, messages: list[Message]) -> list[dict[str, Any]]:
    """Return the prediction lines of a backtest of the same messages."""
    topics = {pipeline.events.name: folder / "events.jsonl", pipeline.labels.topic or "": folder / "l.jsonl"}
    for topic, path in topics.items():
        path.write_bytes(b"".join(m.value + b"\n" for m in messages if m.topic == topic and m.value))
    out = folder / "predictions.jsonl"
    with out.open("wb") as file:
        backtest(
            pipeline,
            topics[pipeline.events.name],
            topics[pipeline.labels.topic] if pipeline.labels.topic else None,
            predictions_out=file,
        )
    return [json.loads(line) for line in out.read_bytes().splitlines()]


async def publish(
    kafka: KafkaSettings,
    messages: Iterable[Message],
    *,
    pace: Callable[[int], Awaitable[None]] | None = None,
    slice_records: int = SLICE_RECORDS,
) -> None:
    """Publish in order, in small slices; `pace(published)` is awaited after each."""
    left, published = iter(messages), 0
    async with open_sink(kafka) as sink:
        while part := list(itertools.islice(left, slice_records)):
            for (topic, partition), run in itertools.groupby(
                part, key=lambda one: (one.topic, one.partition)
            ):
                records = [Content(m.key, m.value, (), m.time) for m in run]
                await sink.send(topic, partition, records)
            await sink.flush()
            published += len(part)
            if pace is not None:
                await pace(published)
