"""Job J over Kafka: one driver, whatever the contestant.

Lives here: topics, prefilling, a contestant's process, and reading what it answers.  Never
here: the contestants (`pipeline.py`, `plain.py`), rounds and ratios (`__main__.py`).

Strategy.  Each round has topics of its own, of one partition, deleted afterwards.  The events lie
in the topic before the contestant starts; its rate is taken from 2 % of the answers to the last,
by a consumer of the driver, so start-up and the group's join are not in it.  Driver, broker and
contestant share the processors.  Then every answer is matched to its event by id.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from aiokafka import TopicPartition

from engine.kafka.client import REFUSED, assigned_consumer, bounds
from engine.kafka.topic_admin import ensure_topics
from engine.local.worker import WorkerProcess, worker_command
from engine.settings import KafkaSettings
from loadtest.bench.openloop import connected_producer
from loadtest.bench.sandbox import delete_topics
from topics.catalog import FOREVER_MS, Catalog
from topics.errors import BrokerError
from topics.headers import record_type_of

__all__ = ["Contestant", "Throughput", "faust_agent", "headrace_worker", "measure"]

MARK_SHARE = 0.02
"""Answers before the clock starts: start-up, group join, first fetches."""
STALLED_S = 60.0
"""A contestant that answers nothing for so long has failed."""
READ_WAIT_MS = 200


class Contestant(NamedTuple):
    """A program that answers `NAME.transactions` on `NAME.predictions`."""

    command: Sequence[str]
    environment: Mapping[str, str]
    id_field: str
    """Where its answer carries the event's id."""
    keeps_examples: bool


class Throughput(NamedTuple):
    """One round of one contestant."""

    events_per_s: float
    cpu_us: float | None
    """Processor time of the contestant's process per event."""
    lost: int
    duplicated: int
    examples: int
    """Records in its examples log; 0 where it keeps none."""


def headrace_worker(name: str) -> Contestant:
    """Return a durable worker: checkpoints in SQLite, examples log, idempotent producer."""
    command = worker_command(Path(__file__).with_name("pipeline.py"))
    told = {"JOB_J_NAME": name, "HEADRACE_LOG_LEVEL": "warning"}
    return Contestant(command, told, "event_id", keeps_examples=True)


def faust_agent(name: str, kafka: KafkaSettings) -> Contestant:
    """Return the plain Faust agent: nothing durable."""
    command = (sys.executable, "-m", "loadtest.job_j.plain", name)
    told = {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers}
    return Contestant(command, told, "id", keeps_examples=False)


async def measure(
    kafka: KafkaSettings, name: str, contestant: Contestant, events: Sequence[bytes]
) -> Throughput:
    """Run one contestant over the events.  Raises BrokerError where it fails or answers too little."""
    answers = TopicPartition(f"{name}.predictions", 0)
    async with _topics(kafka, name), assigned_consumer(kafka, [answers]) as consumer:
        consumer.seek(answers, 0)
        async with connected_producer(kafka) as producer:
            await _fill(producer, f"{name}.transactions", events)
        with (
            tempfile.TemporaryDirectory(prefix="job-j-") as folder,
            WorkerProcess(contestant.command, kafka, Path(folder), contestant.environment) as process,
        ):
            rate, cpu_us, values = await _read(consumer, process, len(events))
            await asyncio.to_thread(process.stop)
        examples = 0
        if contestant.keeps_examples:
            topic = TopicPartition(f"{name}.examples", 0)
            examples = (await bounds(consumer, [topic], kafka))[topic][1]
    seen = Counter(orjson.loads(value)[contestant.id_field] for value in values)
    wanted = {orjson.loads(value)["id"] for value in events}
    return Throughput(rate, cpu_us, len(wanted - seen.keys()), seen.total() - len(seen), examples)


@contextlib.asynccontextmanager
async def _topics(kafka: KafkaSettings, name: str) -> AsyncIterator[None]:
    """Create the topics of a round, and delete them at its end.

    Nothing expires: the events' times lie in the past, and Kafka keeps records by their timestamps.
    """
    plan = [
        topic._replace(create=True, retention_ms=FOREVER_MS)
        for topic in Catalog(name, events=f"{name}.transactions").plan(events=1)
    ]
    await ensure_topics(kafka, plan)
    try:
        yield
    finally:
        await delete_topics(kafka, [topic.name for topic in plan])


async def _fill(producer: Any, topic: str, events: Sequence[bytes]) -> None:
    """Write all events to partition 0 in whole batches."""
    batch = producer.create_batch()
    for value in events:
        event = orjson.loads(value)
        record = {"key": event["card"].encode(), "value": value, "timestamp": event["ts"]}
        if batch.append(**record) is None:
            await producer.send_batch(batch, topic, partition=0)
            batch = producer.create_batch()
            batch.append(**record)
    await producer.send_batch(batch, topic, partition=0)
    await producer.flush()


async def _read(consumer: Any, process: WorkerProcess, count: int) -> tuple[float, float | None, list[bytes]]:
    """Read until `count` answers are there; return events per second, CPU us per event, the answers."""
    values: list[bytes] = []
    marked = 0
    marked_s = marked_cpu_s = 0.0
    quiet_since = time.monotonic()
    while len(values) < count:
        try:
            found = await consumer.getmany(timeout_ms=READ_WAIT_MS)
        except REFUSED as error:
            raise BrokerError(f"reading answers: {error}") from error
        now_s = time.monotonic()
        for records in found.values():
            values += [record.value for record in records if record_type_of(record.headers) != "claim"]
            quiet_since = now_s
        if not marked and len(values) >= count * MARK_SHARE:
            marked, marked_s, marked_cpu_s = len(values), now_s, process.cpu_seconds() or 0.0
        code = process.exit_code
        if code is not None or now_s - quiet_since > STALLED_S:
            state = "still runs" if code is None else f"ended with {code}"
            raise BrokerError(
                f"{len(values)} of {count} answers came, the contestant {state}",
                hint="\n".join(["its log ends with", *process.log_tail()]),
            )
    seconds, timed = time.monotonic() - marked_s, len(values) - marked
    cpu_s = process.cpu_seconds()
    cpu_us = None if cpu_s is None else (cpu_s - marked_cpu_s) / timed * 1e6
    return timed / seconds, cpu_us, values
