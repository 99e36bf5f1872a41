"""A broker that goes away and comes back: workers hold still, and go on by themselves."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from brokers.kafka import NativeKafka, own_kafka
from reading import watching
from running import Message, Worker, make_topics, publish, until
from test_run_crash import Stream, shared_out, takes_all

from engine.kafka.client import LOGGED_EVERY_S

pytestmark = pytest.mark.kafka

DEPARTURES = 2_000
OUTAGE_S = 12.0
"""Longer than a session, a request, a flush and a connection are waited for."""
PATIENCE = {
    "kafka__request_timeout_ms": 4_000,
    "kafka__max_poll_interval_ms": 6_000,
    "kafka__flush_deadline_ms": 5_000,
    "kafka__connect_deadline_ms": 8_000,
    "drain_deadline_ms": 8_000,
}
"""Shorter than the outage, as they are beside one of minutes: requests fail, members leave the group."""
LOG_BYTES_MAX = 100_000


def test_an_outage_under_load_is_waited_for(tmp_path: Path) -> None:
    with own_kafka(tmp_path) as server:
        stream = Stream(server.settings, tmp_path, partitions=2, departures=DEPARTURES)
        asyncio.run(outage(server, stream, tmp_path))


async def outage(server: NativeKafka, stream: Stream, folder: Path) -> None:
    """Two workers, a broker killed in mid-work; then once more, and a worker is told to leave meanwhile."""
    await make_topics(stream.kafka, stream.pipeline)
    one, two = workers = [
        Worker(stream.file, stream.kafka, folder, name=name, checkpoint_interval_ms=700, **PATIENCE)
        for name in ("one", "two")
    ]
    stream.kafka = stream.kafka.patient()  # the publisher has to come through it as well
    async with watching(stream.kafka, stream.predictions, stream.examples) as watch:
        with one, two:
            await shared_out(one, two)
            most, rest = stream.parts()
            publishing = asyncio.create_task(stream.publish(watch, most))
            await stream.reached(watch, stream.departures // 3, one)
            server.kill()
            began_s = time.monotonic()
            for worker in workers:
                await until(lambda w=worker: holds_still(w), "holding still", worker=worker)  # type: ignore[misc]
            while time.monotonic() - began_s < OUTAGE_S:
                assert all(holds_still(worker) for worker in workers)
                await asyncio.sleep(1)
            server.start()
            for worker in workers:
                await worker.ready()
                assert worker.metrics()["headrace_broker_outage_seconds"] == 0
            await publishing
            await stream.publish(watch, rest)
            await stream.finished(watch, one)
            asked = Message(
                stream.pipeline.catalog["commands"],
                0,
                b"after",
                b'{"command_id": "after", "command": "resume", "time": 0}',
            )
            await publish(stream.kafka, [asked])
            await until(lambda: watch.commands["after"], "a command", worker=workers)
            for worker in workers:
                (over,) = worker.logged("a broker answers again")
                assert over["silent_s"] > OUTAGE_S - 6
                said = len(worker.logged("no broker answers: holding still"))
                assert 1 <= said <= 1 + over["silent_s"] // LOGGED_EVERY_S
                assert worker.log.stat().st_size < LOG_BYTES_MAX
            await leaves_in_an_outage(server, two)
            await takes_all(one)
            await one.ready()
            assert await one.stop() == 0, one.said()
    await stream.account(one.state_dir)


def holds_still(worker: Worker) -> bool:
    """Whether it says that it waits, and that it lives; fails if it is gone."""
    status, reason = worker.get("/readyz")
    assert worker.process is not None
    assert worker.process.poll() is None, worker.said()
    assert worker.get("/livez")[0] == 200
    waits = status == 503 and "no broker has answered for" in reason
    return waits and worker.metrics()["headrace_broker_outage_seconds"] > 0


async def leaves_in_an_outage(server: NativeKafka, worker: Worker) -> None:
    """A signal ends the wait at the drain deadline, and the end is told."""
    server.kill()
    await until(lambda: holds_still(worker), "holding still", worker=worker)
    assert await worker.stop() == 1
    (end,) = worker.logged("the drain deadline has passed: the next start does again what was not saved")
    assert "no broker has answered for" in end["reason"]
    server.start()
