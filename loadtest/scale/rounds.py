"""One or two real workers over one broker, each pinned to a core: what they take, and how old models are.

Lives here: topics, publishing, workers, their pages and processor time, the ages.  Never here: a verdict
(`__main__.py`).

What is measured.  Broker, driver and workers share the cores of one machine, so the wall clock would say how
they get in each other's way.  So each worker's **processor time** is taken, from the first payment published
to the last label learned, and divided by the payments: what a core has to do for one. With a core for each
worker and a broker elsewhere, the payments per second are those of the worker that has most to do:

    payments/s  =  payments / max over workers (seconds of processor time)
"""

from __future__ import annotations

import asyncio
import bisect
import os
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import orjson
from aiokafka import TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from engine.kafka.assignor import shares
from engine.kafka.client import assigned_consumer, bounds
from engine.kafka.sink import Sink, open_sink
from engine.kafka.topic_admin import ensure_topics
from engine.local.worker import WorkerProcess, worker_command
from engine.settings import KafkaSettings
from loadtest.bench.sandbox import delete_topics
from loadtest.scale.parts import Message, messages
from topics.catalog import FOREVER_MS, Catalog
from topics.errors import BrokerError
from topics.headers import record_type_of
from topics.messages import Content

__all__ = ["Ages", "Case", "CpuTaken", "ages", "taken"]

PIPELINE = Path(__file__).with_name("pipeline.py")
DEADLINE_S = 600.0
LOOK_S = 0.2
SLICE = 200
"""Records published at once."""
WARM_UP = 2_000
"""Payments before anything is measured."""


class Case(NamedTuple):
    """How many workers, and how they learn."""

    workers: int
    follow: str = ""
    learn_share: float = 1.0
    partitions: int = 2
    leader_partitions_max: int = 0

    @property
    def told(self) -> dict[str, str]:
        """What the pipeline's file and the worker's settings read."""
        return {
            "SCALE_FOLLOW": self.follow,
            "SCALE_LEARN_SHARE": str(self.learn_share),
            "SCALE_PARTITIONS": str(self.partitions),
            "HEADRACE_LEADER_PARTITIONS_MAX": str(self.leader_partitions_max),
        }

    @property
    def shares(self) -> list[int]:
        """Return how many partitions each worker is to have, the fewest first."""
        by = self.leader_partitions_max or self.partitions
        return sorted(len(share) for share in shares(range(self.partitions), self.workers, by))


class CpuTaken(NamedTuple):
    """What the workers of one round took for a payment, microseconds of processor time."""

    cpu_us: list[float]
    """Of each worker, per payment of all; the leader first."""
    wall_per_s: float
    """Payments per second by the clock, all sharing the machine."""

    @property
    def per_s(self) -> float:
        """Return the payments per second with a core for each worker."""
        return 1e6 / max(self.cpu_us)


class Ages(NamedTuple):
    """How old the models were by which a follower answered, in seconds."""

    answers: int
    median_s: float
    p99_s: float
    most_s: float


class _Page(NamedTuple):
    """What a worker's page says, as far as it matters here."""

    partitions: int
    leading: bool
    learned: int
    counts: Counter[str]


class _Round:
    """Workers of one case over topics of their own."""

    def __init__(self, kafka: KafkaSettings, name: str, case: Case, workers: Sequence[WorkerProcess]) -> None:
        self.kafka, self.name, self.case, self.workers = kafka, name, case, workers
        self.payments = self.labels = 0

    def pages(self) -> list[_Page]:
        for worker in self.workers:
            worker.check()
        return [_page(worker.page("/metrics") or "") for worker in self.workers]

    async def until(self, condition: Callable[[list[_Page]], bool], what: str) -> list[_Page]:
        """Wait for what the pages say, and return them.  Raises BrokerError at the deadline."""
        ends_s = time.monotonic() + DEADLINE_S
        while time.monotonic() < ends_s:
            pages = await asyncio.to_thread(self.pages)
            if condition(pages):
                return pages
            await asyncio.sleep(LOOK_S)
        raise BrokerError(f"{what}: not within {DEADLINE_S:.0f} s")

    async def shared_out(self) -> None:
        """Wait until every worker has its partitions."""
        await self.until(
            lambda pages: sorted(page.partitions for page in pages) == self.case.shares, "shared out"
        )

    async def publish(self, sink: Sink, part: Sequence[Message]) -> None:
        for is_label in (True, False):
            topic = f"{self.name}.{'frauds' if is_label else 'payments'}"
            for partition in range(self.case.partitions):
                records = [
                    Content(one.key, one.value, (), one.time_ms)
                    for one in part
                    if (one.is_label, one.card % self.case.partitions) == (is_label, partition)
                ]
                if records:
                    await sink.send(topic, partition, records)
        await sink.flush()
        self.labels += sum(one.is_label for one in part)
        self.payments += sum(not one.is_label for one in part)

    async def learned(self) -> list[_Page]:
        """Wait until every payment was answered and every label learned, or left out."""

        def done(pages: list[_Page]) -> bool:
            total = sum((page.counts for page in pages), Counter[str]())
            learned = max([page.learned for page in pages if page.leading], default=0)
            return (
                total["answered"] >= self.payments
                and learned + total["left_out"] >= self.labels
                and all(page.learned >= learned for page in pages)
            )

        return await self.until(done, "all answered and learned")


def _page(text: str) -> _Page:
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] += sample.value  # type: ignore[assignment]  # they are floats
    counts = Counter(
        {
            "answered": int(found["headrace_predictions_total"]),
            "left_out": int(found["headrace_examples_left_out_total"]),
        }
    )
    return _Page(
        int(found["headrace_partitions"]),
        bool(found["headrace_leader"]),
        int(found["headrace_examples_total"]),
        counts,
    )


@asynccontextmanager
async def _running(kafka: KafkaSettings, case: Case) -> AsyncIterator[_Round]:
    """Start the workers of a case, each pinned to a core, and delete its topics afterwards."""
    name = f"scale-{os.urandom(4).hex()}"
    plan = [
        topic._replace(create=True, retention_ms=FOREVER_MS)
        for topic in Catalog(name, events=f"{name}.payments", labels=f"{name}.frauds").plan(
            events=case.partitions
        )
    ]
    await ensure_topics(kafka, plan)
    pin = shutil.which("taskset")
    cores = sorted(os.sched_getaffinity(0))
    try:
        async with AsyncExitStack() as stack:
            shared = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="scale-")))
            told = {**case.told, "SCALE_NAME": name, "HEADRACE_STATE_DIR": str(shared / "state")}
            workers = []
            for number in range(case.workers):
                folder = shared / str(number)
                folder.mkdir()
                pinned = [pin, "-c", str(cores[number % len(cores)])] if pin else []
                worker = WorkerProcess([*pinned, *worker_command(PIPELINE)], kafka, folder, told)
                workers.append(stack.enter_context(worker))
            running = _Round(kafka, name, case, workers)
            await running.shared_out()
            yield running
    finally:
        await delete_topics(kafka, [topic.name for topic in plan])


def _cpu_s(running: _Round) -> list[float]:
    return [worker.cpu_seconds() or 0.0 for worker in running.workers]


async def taken(kafka: KafkaSettings, case: Case, count: int) -> CpuTaken:
    """Answer `count` payments and learn their labels; return what that took."""
    made = list(messages(WARM_UP + count))
    first = next(at for at, one in enumerate(made) if one.value.startswith(b'{"event_id":"p%d"' % WARM_UP))
    async with _running(kafka, case) as running, open_sink(kafka) as sink:
        await running.publish(sink, made[:first])
        await running.learned()
        before_s, began_s, before = _cpu_s(running), time.monotonic(), running.payments
        for start in range(first, len(made), SLICE):
            await running.publish(sink, made[start : start + SLICE])
        pages = await running.learned()
        seconds, payments = time.monotonic() - began_s, running.payments - before
        spent = [after_s - s for after_s, s in zip(_cpu_s(running), before_s, strict=True)]
    spent = [spent_s for _, spent_s in sorted(zip((not page.leading for page in pages), spent, strict=True))]
    return CpuTaken([spent_s / payments * 1e6 for spent_s in spent], payments / seconds)


async def ages(kafka: KafkaSettings, follow: str, rate: int, seconds: int) -> Ages:
    """Publish at a rate to two workers of which one learns; return how old the other's models were.

    An answer by a model of so many updates is as old as the leader's first answer by one of more.
    """
    made = list(messages(rate * seconds))
    async with _running(kafka, Case(2, follow)) as running, open_sink(kafka) as sink:
        began_s, part = time.monotonic(), rate // 10
        for number, start in enumerate(range(0, len(made), 2 * part)):
            await asyncio.sleep(max(0.0, began_s + number * part / rate - time.monotonic()))
            await running.publish(sink, made[start : start + 2 * part])
        await running.learned()
        return _ages(await _answers(running))


async def _answers(running: _Round) -> dict[int, list[tuple[int, int]]]:
    """Return when each partition's answers were made, and by models of how many updates."""
    topic = f"{running.name}.predictions"
    partitions = [TopicPartition(topic, number) for number in (0, 1)]
    found: dict[int, list[tuple[int, int]]] = {0: [], 1: []}
    async with assigned_consumer(running.kafka, partitions) as consumer:
        ends = {tp: end for tp, (_, end) in (await bounds(consumer, partitions, running.kafka)).items()}
        for tp in partitions:
            consumer.seek(tp, 0)
        while any([await consumer.position(tp) < end for tp, end in ends.items()]):
            for tp, records in (await consumer.getmany(timeout_ms=200)).items():
                for record in records:
                    if record_type_of(record.headers) != "claim":
                        value = orjson.loads(record.value)
                        found[tp.partition].append((value["prediction_time"], value["model_updates"]))
    return found


def _ages(answers: dict[int, list[tuple[int, int]]]) -> Ages:
    """Compare the answers of partition 1 with those of partition 0, whose owner leads."""
    updates = [one for _, one in answers[0]]
    old_ms = []
    for made_ms, by in answers[1]:
        at = bisect.bisect_right(updates, by)
        newer_ms = answers[0][at][0] if at < len(updates) else made_ms
        old_ms.append(max(0, made_ms - newer_ms))
    cuts = statistics.quantiles(old_ms, n=100)
    return Ages(len(old_ms), cuts[49] / 1e3, cuts[98] / 1e3, max(old_ms) / 1e3)
