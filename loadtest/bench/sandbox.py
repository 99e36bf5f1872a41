"""A pipeline of its own for a load test: copied under another name, with topics and a worker that go with it.

Lives here: the copy, its topics and their end, its worker.  Never here: the load (`openloop.py`), the report
(`command.py`).

Strategy: nothing that the measured pipeline owns is touched.  The copy differs by a suffix on its name and
on every topic, so its consumer group and its records are its own; its worker starts from an empty state
directory on a free port, is told how to reach Kafka and nothing else, and leaves before its topics are
deleted.  The suffix is random, so nobody else's topic can be meant.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient

from engine.definition.file import load_pipeline
from engine.definition.pipeline import Pipeline
from engine.kafka.client import REFUSED, broker_error, open_client
from engine.kafka.topic_admin import ensure_topics, partition_counts
from engine.local.worker import WorkerPage, WorkerProcess, worker_command
from engine.settings import KafkaSettings
from loadtest.bench.slices import Usage
from topics.errors import BrokerError

__all__ = ["Sandbox", "copied", "delete_topics", "sandbox"]

READY_DEADLINE_S = 120.0
"""Importing River, trying every model and joining the group take some 10 s, on a loaded machine more."""
LOOK_S = 0.2


def copied(pipeline: Pipeline, suffix: str) -> Pipeline:
    """Return the pipeline with `suffix` on its name and on each of its topics.

    It serves no features: their hash in Redis is found by name, and nobody would clear it away.
    """
    return dataclasses.replace(
        pipeline,
        name=pipeline.name + suffix,
        events=dataclasses.replace(pipeline.events, name=pipeline.events.name + suffix),
        labels=dataclasses.replace(
            pipeline.labels, topic=None if pipeline.labels.topic is None else pipeline.labels.topic + suffix
        ),
        topics={role: name + suffix for role, name in pipeline.topics.items()},
        serve_features=False,
    )


class Sandbox:
    """What a load test may use: the copy, and its running worker."""

    def __init__(self, pipeline: Pipeline, worker: WorkerProcess) -> None:
        self.pipeline = pipeline
        self.worker = worker

    def wait_until_ready(self) -> None:
        """Return when the worker can answer.  Raises BrokerError where it dies or takes too long."""
        deadline = time.monotonic() + READY_DEADLINE_S
        while not self.worker.ready():
            self.worker.check()
            if time.monotonic() > deadline:
                raise BrokerError(
                    f"the worker under test was not ready within {READY_DEADLINE_S:.0f} s",
                    hint=f"read {self.worker.log}",
                )
            time.sleep(LOOK_S)

    def usage(self) -> Usage | None:
        """Return what the worker has taken; None where the system does not say (it has no /proc)."""
        cpu_s = self.worker.cpu_seconds()
        try:
            pages = int(Path(f"/proc/{self.worker.pid}/statm").read_text(encoding="ascii").split()[1])
        except OSError:
            return None
        return None if cpu_s is None else Usage(cpu_s, pages * os.sysconf("SC_PAGE_SIZE") / 1e6)

    def learned(self, labels: int, patience_s: float) -> int:
        """Return how many examples were learned: `labels`, or those when none came for `patience_s`."""
        found, since = 0, time.monotonic()
        while found < labels and time.monotonic() - since < patience_s:
            self.worker.check()
            time.sleep(LOOK_S)
            now = (self.worker.metrics() or WorkerPage()).learned
            if now > found:
                found, since = now, time.monotonic()
        return found


@contextlib.contextmanager
def sandbox(file: Path, kafka: KafkaSettings) -> Iterator[Sandbox]:
    """Create the topics, start the worker, and remove both at the end, whatever happens between.

    Where the worker died its folder with the log stays.  Raises BrokerError.
    """
    suffix = f"-bench-{secrets.token_hex(4)}"
    pipeline = copied(load_pipeline(file), suffix)
    folder = Path(tempfile.mkdtemp(prefix="headrace-bench-"))
    definition = folder / "pipeline.py"
    definition.write_text(
        "from pathlib import Path\n\n"
        "from engine.definition.file import load_pipeline\n"
        "from loadtest.bench.sandbox import copied\n\n"
        f"pipeline = copied(load_pipeline(Path({json.dumps(str(file.resolve()))})), {suffix!r})\n"
    )
    plan = pipeline.catalog.plan(events=pipeline.events.partitions)
    try:
        asyncio.run(ensure_topics(kafka, [topic._replace(create=True) for topic in plan]))
        with WorkerProcess(worker_command(definition), kafka, folder) as worker:
            yield Sandbox(pipeline, worker)
    except BrokerError:
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        asyncio.run(delete_topics(kafka, [topic.name for topic in plan]))


async def delete_topics(kafka: KafkaSettings, planned: list[str]) -> None:
    """Delete those of the topics that were created: nobody else knows their suffix."""
    counts = await partition_counts(kafka, planned)
    names = [name for name in planned if counts[name] is not None]
    async with open_client(lambda: AIOKafkaAdminClient(**kafka.aiokafka_options()), kafka) as client:
        try:
            response = await client.delete_topics(names)
        except REFUSED as error:
            doing = f"deleting the load test's topics {', '.join(names)}"
            raise broker_error(error, doing, kafka) from error
    if refused := [name for name, code in response.topic_error_codes if code]:
        raise BrokerError(
            f"the broker did not delete {', '.join(refused)}",
            hint="delete these topics of the load test by hand",
        )
