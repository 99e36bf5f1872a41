"""A shared store that hangs: answers go on up to a bound, and so does everything when it comes back."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from itertools import pairwise
from pathlib import Path

import redis
from brokers.redis import redis_server, secured_redis
from paths import CHECKOUT
from reading import watching
from running import Worker, make_topics, until
from test_run_crash import AHEAD_MAX, Stream

from engine.settings import KafkaSettings

DEPARTURES = 3_000
UNSAVED_MAX = 800
BEFORE = 2_000
"""Messages that are answered and saved before the store hangs: those left are more than the bound."""
PAUSES = "headrace_intake_pauses_total{unsaved}"
OPERATIONS = (CHECKOUT / "docs" / "operations.md").read_text()
BEHIND = "the checkpoint store is behind the logs: replaying them from its checkpoint"
SETTINGS = {"store_deadline_ms": 300, "unsaved_max": UNSAVED_MAX}


def test_a_store_that_hangs_holds_no_answer_up_before_a_bound(tansu: KafkaSettings, tmp_path: Path) -> None:
    with redis_server(tmp_path) as url:
        stream = Stream(tansu, tmp_path, partitions=1, departures=DEPARTURES)
        stream.shared = {"store_url": url, "signing_key": "the key of this test"}
        asyncio.run(hangs(stream, url, tmp_path))


def little_is_unsaved(worker: Worker) -> bool:
    metrics = worker.metrics()
    saved = metrics["headrace_checkpoint_last_success_timestamp_seconds"] > 0
    return saved and metrics["headrace_unsaved_events"] < UNSAVED_MAX // 4


async def hangs(stream: Stream, url: str, folder: Path) -> None:
    await make_topics(stream.kafka, stream.pipeline)
    worker = Worker(stream.file, stream.kafka, folder / "one", **stream.settings, **SETTINGS)
    with redis.Redis.from_url(url) as client:
        store_pid = client.info("server")["process_id"]
    async with watching(stream.kafka, stream.predictions, stream.examples) as watch:
        with worker:
            await stream.publish(watch, stream.messages[:BEFORE])
            await until(lambda: little_is_unsaved(worker), "a checkpoint", worker=worker)
            paused_before = worker.metrics()[PAUSES]  # a slow machine may have met the bound already
            os.kill(store_pid, signal.SIGSTOP)
            publishing = asyncio.create_task(stream.publish(watch, stream.messages[BEFORE:]))
            try:
                before = stream.answered(watch)
                await until(lambda: worker.metrics()[PAUSES] > paused_before, "the bound", worker=worker)
                # A quick worker is at the bound before the first save has failed.
                outage = "headrace_store_outage_seconds"
                await until(lambda: worker.metrics()[outage] > 0, "an outage", worker=worker)
                assert UNSAVED_MAX <= worker.metrics()["headrace_unsaved_events"] <= UNSAVED_MAX + AHEAD_MAX
                await until(lambda: worker.get("/readyz")[0] == 503, "not ready", worker=worker)
                assert worker.get("/livez")[0] == 200
                await stream.reached(watch, before + UNSAVED_MAX // 4, worker)
                assert not publishing.done(), "the bound came after the stream"
            finally:
                os.kill(store_pid, signal.SIGCONT)
            await publishing
            await stream.finished(watch, worker)
            await until(
                lambda: worker.metrics()["headrace_store_outage_seconds"] == 0, "a checkpoint", worker=worker
            )
            assert await worker.stop() == 0, worker.said()
    told = [worker.logged(event) for event in ("checkpoints wait for the store", "events are taken again")]
    assert [len(lines) >= 1 for lines in told] == [True, True]
    await stream.account(worker.state_dir)


def test_a_store_that_is_emptied_and_goes_back_under_its_worker(tansu: KafkaSettings, tmp_path: Path) -> None:
    """Over TLS, with a certificate of the worker and the user of the manual."""
    rule = re.search(r"^ACL SETUSER (headrace on .*?)\n```", OPERATIONS, re.MULTILINE | re.DOTALL)
    assert rule is not None
    user = " ".join(rule[1].replace("…", "secret").split())
    with secured_redis(tmp_path, user, "root on >root ~* +@all") as (place, _, query):
        stream = Stream(tansu, tmp_path, partitions=1, departures=DEPARTURES // 2)
        url = f"rediss://headrace:secret@{place}?{query}"
        stream.shared = {"store_url": url, "signing_key": "the key of this test"}
        asyncio.run(goes_back(stream, url.replace("headrace:secret", "root:root"), tmp_path))


async def goes_back(stream: Stream, url: str, folder: Path) -> None:
    """A quarter of the stream before each: a copy is made, all is lost, the copy is put back."""
    await make_topics(stream.kafka, stream.pipeline)
    worker = Worker(stream.file, stream.kafka, folder / "one", **stream.settings)
    bounds = [len(stream.messages) * part // 4 for part in range(5)]

    async def claimed(times: int) -> None:
        await until(
            lambda: len(worker.logged("partition claimed")) >= times, f"{times} claims", worker=worker
        )

    with redis.Redis.from_url(url) as client, worker:
        async with watching(stream.kafka, stream.predictions, stream.examples) as watch:
            for part, (start, stop) in enumerate(pairwise(bounds)):
                await stream.publish(watch, stream.messages[start:stop])
                if part == 0:
                    await until(lambda: little_is_unsaved(worker), "a checkpoint", worker=worker)
                    copy = {key: client.dump(key) for key in client.keys("headrace:*")}
                elif part == 1:
                    client.flushall()
                    await claimed(2)
                elif part == 2:
                    client.flushall()
                    for key, value in copy.items():
                        if value is not None:
                            client.restore(key, 0, value)
                    await claimed(3)
            await stream.finished(watch, worker)
            assert await worker.stop() == 0, worker.said()
    found = [line["checkpoint"] for line in worker.logged(BEHIND)]
    assert found[0] == "empty"
    assert "older" in found
    await stream.account(worker.state_dir)
