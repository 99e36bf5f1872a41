"""Real workers as processes, and independent eyes on what they write.

Lives here: starting, killing and asking a worker; publishing; reading whole topics with plain
aiokafka; the claims rule written a second time, over plain JSON.  Never here: a test.

Every wait has a deadline and a condition; what fails names the worker's log.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from engine.assembly import build_learner, signing_key
from engine.backtest import backtest
from engine.broker import free_port
from engine.checkpoint import CheckpointStore
from engine.cli import load_pipeline
from engine.demo_worker import environment
from engine.kafka import Sink, ensure_topics, log_bounds
from engine.pipeline import Pipeline
from engine.settings import KafkaSettings, Settings
from topics.messages import Outgoing, Record

CHECKOUT = Path(__file__).resolve().parents[1]
FLIGHTS = CHECKOUT / "examples" / "flights"
DEADLINE_S = 90.0
"""For whatever a worker should do within a second or two on a machine that does nothing else."""
EXIT_DEADLINE_S = 40.0
"""The worker gives itself 25 s to drain."""
LOOK_S = 0.02
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


class Worker:
    """One `headrace run`, started and restarted over one state directory; a log file for each start."""

    def __init__(
        self, file: Path, kafka: KafkaSettings, folder: Path, *, name: str = "worker", **settings: object
    ) -> None:
        self.name = name
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

    def start(self) -> Self:
        assert self.process is None
        self._starts += 1
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "engine.cli", "run", str(self._file)],
                cwd=self._folder,
                env=self._environment | {"PYTHONPATH": str(CHECKOUT)},
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
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def get(self, path: str) -> tuple[int, str]:
        """Ask its web server; 0 while there is none."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
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
        """Return what Headrace itself logged as warnings and errors."""
        own = (line for line in self.lines() if line.get("logger") == "headrace")
        return [line for line in own if line["level"] in {"warning", "error", "critical"}]

    def said(self) -> str:
        """Return its log without the chatter of the Kafka client, the end of it."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(line for line in lines if '"logger": "aiokafka' not in line)[-6_000:]


async def until(
    condition: Callable[[], object],
    what: str,
    *,
    deadline_s: float = DEADLINE_S,
    worker: Worker | None = None,
) -> None:
    """Wait until `condition()` holds; fail at the deadline, or when the worker has ended before."""
    ends = time.monotonic() + deadline_s
    while not await asyncio.to_thread(condition):
        dead = worker is not None and worker.process is not None and worker.process.poll() is not None
        if dead or time.monotonic() > ends:
            how = "the worker died" if dead else f"not within {deadline_s:.0f} s"
            said = f"\n{worker.log}:\n{worker.said()}" if worker is not None else ""
            raise AssertionError(f"{what}: {how}{said}")
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
    messages: Sequence[Message],
    *,
    pace: Callable[[int], Awaitable[None]] | None = None,
) -> None:
    """Publish in order, in small slices; `pace(published)` is awaited after each."""
    sink = Sink(kafka)
    await sink.start()
    try:
        for start in range(0, len(messages), SLICE_RECORDS):
            part = messages[start : start + SLICE_RECORDS]
            for (topic, partition), run in itertools.groupby(
                part, key=lambda one: (one.topic, one.partition)
            ):
                records = [Outgoing("dead-letters", None, m.key, m.value, (), m.time) for m in run]
                await sink.send(topic, partition, records)
            await sink.flush()
            if pace is not None:
                await pace(start + len(part))
    finally:
        await sink.stop()


# -- reading ------------------------------------------------------------------------------------------


class Read(NamedTuple):
    """A record of a log that is no claim, and whether it counts."""

    counts: bool
    kind: str
    value: dict[str, Any]


class Fold:
    """The claims rule, a second time: which records of one partition of a claimed log count."""

    def __init__(self) -> None:
        self._owners: dict[int, tuple[int, int | None]] = {}
        self.claims: list[int] = []
        """Claim numbers that took effect."""

    def read(self, record: Any) -> Read | None:
        """Take the next record of the partition; None for a claim."""
        kind, value = kind_of(record), json.loads(record.value)
        source = value.get("source_partition", record.partition)
        if kind == "claim":
            if value["claim"] > self._owners.get(source, (0, None))[0]:
                self._owners[source] = value["claim"], 0
                self.claims.append(value["claim"])
            return None
        return Read(kind == "command" or self._counts(source, value), kind or "prediction", value)

    def _counts(self, source: int, value: Mapping[str, Any]) -> bool:
        held, expected = self._owners.get(source, (0, None))
        if value["claim"] != held or expected is None or value["sequence"] < expected:
            return False
        if value["sequence"] > expected:
            self._owners[source] = held, None
            return False
        self._owners[source] = held, expected + 1
        return True


def kind_of(record: Any) -> str:
    return dict(record.headers).get("headrace-kind", b"").decode()


def folded(records: Iterable[Any]) -> list[Read]:
    """Fold the records of a predictions or examples topic, partition by partition."""
    folds: dict[int, Fold] = {}
    found = (folds.setdefault(record.partition, Fold()).read(record) for record in records)
    return [read for read in found if read is not None]


def counting(records: Iterable[Any], kind: str = "prediction") -> dict[str, dict[str, Any]]:
    """Return the records of one kind that count, by event id; fail if an id counts twice."""
    found: dict[str, dict[str, Any]] = {}
    for read in folded(records):
        if read.counts and read.kind == kind:
            event_id = read.value["event_id"]
            assert event_id not in found, f"{kind} of {event_id} counts twice"
            found[event_id] = read.value
    return found


def claims_of(records: Iterable[Any], source: int = 0) -> list[int]:
    """Return the claims that took effect for one source, in log order."""
    fold = Fold()
    for record in records:
        if kind_of(record) == "claim" and json.loads(record.value)["source_partition"] == source:
            fold.read(record)
    return fold.claims


class Watch:
    """Topics read from their beginning as they grow: what counts in them, by event id."""

    def __init__(self, consumer: Any) -> None:
        self.seen: dict[str, set[str]] = {}
        """Event ids on a topic, whether their records count or not."""
        self.counts: dict[str, Counter[str]] = {}
        """How often an event id counts on a topic."""
        self.places: Counter[tuple[str, int]] = Counter()
        """Records of each partition, claims left out."""
        self.commands: Counter[str] = Counter()
        """Command ids in examples logs."""
        self._consumer = consumer
        self._folds: dict[TopicPartition, Fold] = {}

    async def _follow(self) -> None:
        while True:
            for tp, records in (await self._consumer.getmany(timeout_ms=200)).items():
                fold = self._folds.setdefault(tp, Fold())
                for record in records:
                    self._take(tp, fold.read(record))

    def _take(self, tp: TopicPartition, read: Read | None) -> None:
        if read is None:
            return
        if read.kind == "command":
            self.commands[read.value["command_id"]] += 1
            return
        event_id = read.value["event_id"]
        self.places[tp.topic, tp.partition] += 1
        self.seen.setdefault(tp.topic, set()).add(event_id)
        self.counts.setdefault(tp.topic, Counter())[event_id] += read.counts

    def answered(self, topic: str) -> int:
        """Return how many event ids were seen on `topic`."""
        return len(self.seen.get(topic, ()))

    def counted(self, topic: str) -> int:
        """Return how many records count on `topic`."""
        return self.counts.get(topic, Counter()).total()


@contextlib.asynccontextmanager
async def watching(kafka: KafkaSettings, *topics: str) -> AsyncIterator[Watch]:
    """Follow topics in the background."""
    async with _consumer(kafka, topics) as consumer:
        watch = Watch(consumer)
        following = asyncio.create_task(watch._follow())
        try:
            yield watch
        finally:
            following.cancel()
            await asyncio.wait({following})


async def read_topic(kafka: KafkaSettings, topic: str) -> list[Any]:
    """Return every record of a topic, partition by partition, in log order."""
    ends = {number: end for number, (_, end) in (await log_bounds(kafka, topic)).items()}
    found: dict[int, list[Any]] = {number: [] for number in ends}
    async with _consumer(kafka, [topic]) as consumer, asyncio.timeout(DEADLINE_S):
        for number, end in ends.items():
            tp = TopicPartition(topic, number)
            while await consumer.position(tp) < end:
                for records in (await consumer.getmany(tp, timeout_ms=100)).values():
                    found[number] += records
    return [record for number in sorted(found) for record in found[number]]


@contextlib.asynccontextmanager
async def _consumer(kafka: KafkaSettings, topics: Iterable[str]) -> AsyncIterator[Any]:
    partitions = [
        TopicPartition(topic, number) for topic in topics for number in await log_bounds(kafka, topic)
    ]
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap_servers, auto_offset_reset="earliest", enable_auto_commit=False
    )
    await consumer.start()
    try:
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        yield consumer
    finally:
        await consumer.stop()


# -- models -------------------------------------------------------------------------------------------


async def saved_digests(file: Path, state_dir: Path) -> tuple[dict[str, str], int]:
    """Return the digests and the number of examples of the learner that a worker saved."""
    pipeline = load_pipeline(file)
    learner = build_learner(pipeline, key=signing_key(Settings(state_dir=state_dir)))
    store = CheckpointStore(state_dir, pipeline.name, "learner", 0)
    checkpoint = await store.load()
    await store.close()
    assert checkpoint is not None
    learner.restore(checkpoint.entries)
    return learner.digests(), learner.examples


def folded_digests(file: Path, examples: Sequence[Any]) -> tuple[dict[str, str], int]:
    """Return the digests and the number of examples of a fresh learner that folds an examples topic."""
    learner = build_learner(load_pipeline(file))
    log = [
        Record(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers))
        for r in examples
    ]
    while learner.reading <= log[-1].offset:  # a resume goes back to its pause
        learner.fold(log)
    return learner.digests(), learner.examples


def decoded(records: Iterable[Any]) -> list[dict[str, Any]]:
    """Return the values of a topic."""
    return [msgspec.json.decode(record.value) for record in records]
