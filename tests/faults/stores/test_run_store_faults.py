"""A shared store with every fault that a Redis has, one after the other, under one worker that answers on."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import redis
from brokers.redis import redis_server
from reading import Watch, watching
from running import Worker, fresh_name, make_topics, publish, until, write_pipeline
from test_run_ends import SOURCE, readings

from engine.definition.file import load_pipeline
from engine.kafka.embedded import free_port
from engine.settings import KafkaSettings

EACH = 20
"""Events of one fault."""
SLOW_MS = 5_000
SETTINGS = {"store_deadline_ms": 300, "checkpoint_interval_ms": 200, "signing_key": "the key of this test"}
OUTAGE = "headrace_store_outage_seconds"
LOG_BYTES_MAX = 60_000
OPTIONS = ("--appendonly", "yes", "--appendfsync", "always")


class Fault(NamedTuple):
    """What is done to a Redis, what the log says of it, and what ends it."""

    name: str
    inject: Callable[[Any], object]
    says: str
    mend: Callable[[Any], object]


def strangers_out(client: Any) -> None:
    """Whoever is connected has let in its connection; new ones need a password."""
    client.config_set("requirepass", "another")
    client.execute_command("AUTH", "another")
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


FAULTS = (
    Fault(
        "replica",
        lambda client: client.replicaof("127.0.0.1", "1"),
        "ReadOnlyError",
        lambda client: client.replicaof("no", "one"),
    ),
    Fault(
        "full",
        lambda client: client.config_set("maxmemory", "1mb"),
        "OutOfMemoryError",
        lambda client: client.config_set("maxmemory", "0"),
    ),
    Fault(
        "no password",
        strangers_out,
        "ConnectionError|AuthenticationError",
        lambda client: client.config_set("requirepass", ""),
    ),
    Fault(
        "slow",
        lambda client: client.execute_command("CLIENT", "PAUSE", str(SLOW_MS), "ALL"),
        "no answer within 0.3 s",
        lambda _: None,
    ),
)


def test_every_fault_of_a_store_is_told_and_none_loses_an_answer(
    tansu: KafkaSettings, tmp_path: Path
) -> None:
    async def scenario() -> None:
        port = free_port()
        file = write_pipeline(tmp_path, SOURCE, name=fresh_name("faulty"))
        pipeline = load_pipeline(file)
        await make_topics(tansu, pipeline)
        url = f"redis://127.0.0.1:{port}/0"
        worker = Worker(file, tansu, tmp_path, store_url=url, **SETTINGS)
        with ExitStack() as servers:
            servers.enter_context(redis_server(tmp_path, *OPTIONS, port=port))
            client = servers.enter_context(redis.Redis.from_url(url, protocol=2))
            client.config_set("maxmemory-policy", "noeviction")
            async with watching(tansu, pipeline.catalog["predictions"]) as watch:
                stage = Stage(tansu, pipeline, worker, watch)
                with worker:
                    await worker.ready()
                    await stage.answered()
                    await stage.saved()
                    for fault in FAULTS:
                        fault.inject(client)
                        await stage.answered()  # whatever the store does
                        await stage.waits(fault.says)
                        assert worker.get("/readyz")[0] == 200
                        fault.mend(client)
                        await stage.saved()
                    await down_and_back(stage, client, servers, tmp_path, port)
                    await wiped(stage, client)
                    assert await worker.stop() == 0, worker.said()
                await evicted(stage, client)
            assert watch.counted(stage.predictions) == watch.answered(stage.predictions) == stage.sent

    asyncio.run(scenario())


class Stage:
    """A worker, its store, and what has been sent."""

    def __init__(self, kafka: KafkaSettings, pipeline: Any, worker: Worker, watch: Watch) -> None:
        self.kafka, self.pipeline, self.worker, self.watch = kafka, pipeline, worker, watch
        self.predictions = pipeline.catalog["predictions"]
        self.sent = 0

    async def answered(self) -> None:
        """Send events, and wait for their answers."""
        made = readings(self.pipeline, self.sent + EACH)[self.sent :]
        self.sent += EACH
        await publish(self.kafka, made)
        await until(lambda: self.watch.answered(self.predictions) == self.sent, "answers", worker=self.worker)

    async def waits(self, says: str) -> None:
        """Wait until the worker has told that its checkpoint waits, and why."""

        def told() -> bool:
            lines = self.worker.logged("checkpoints wait for the store")
            return any(re.search(says, line["reason"]) for line in lines)

        await until(told, says, worker=self.worker)

    async def saved(self) -> None:
        """Wait until all that was answered is in a checkpoint."""

        def there() -> bool:
            metrics = self.worker.metrics()
            return metrics[OUTAGE] == 0 and metrics["headrace_unsaved_events"] == 0

        await until(there, "a checkpoint", worker=self.worker)


async def down_and_back(stage: Stage, client: Any, servers: ExitStack, folder: Path, port: int) -> None:
    """Killed, and started again with its append-only file."""
    os.kill(client.info("server")["process_id"], signal.SIGKILL)
    await stage.answered()
    await stage.waits("ConnectionError")
    servers.enter_context(redis_server(folder, *OPTIONS, port=port))
    await stage.saved()


async def wiped(stage: Stage, client: Any) -> None:
    """Emptied under a running worker: it claims again, and makes up for what the store has forgotten."""
    client.flushall()
    await stage.answered()
    behind = "headrace_stores_behind_total{empty}"
    await until(lambda: stage.worker.metrics()[behind] >= 1, "another claim", worker=stage.worker)
    await stage.saved()
    worker = stage.worker
    assert worker.logged("fenced: another owner claimed; claiming again")
    assert worker.log.stat().st_size < LOG_BYTES_MAX
    assert "Traceback" not in worker.said()
    again = worker.logged("the store takes checkpoints again")
    assert len(again) >= len(FAULTS) + 1


async def evicted(stage: Stage, client: Any) -> None:
    """A part of a checkpoint is gone: refused with the fix, and the fix works."""
    worker, keys = stage.worker, client.keys("headrace:*scorer*")
    client.delete(*(key for key in keys if not key.endswith(b":head")))
    with worker:
        assert await worker.ended() == 1
    assert "cannot be trusted" in worker.said()
    assert "delete these keys: the logs fill the gap" in worker.said()
    client.delete(*keys)
    with worker:
        await worker.ready()
        await stage.answered()
        assert await worker.stop() == 0, worker.said()
