"""A disk that takes no more: answers go on, the next checkpoint makes up for it, a stop says what is unsaved.

The limit of a process on the size of its files stands for a full disk: any user may set it on any machine.
"""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path

from reading import watching
from running import Worker, fresh_name, make_topics, publish, until, write_pipeline
from test_run_ends import SOURCE, readings

from engine.definition.file import load_pipeline
from engine.settings import KafkaSettings

PART = 100
FULL_BYTES = 20_000
"""More than a worker logs here, less than the write-ahead log of its first checkpoints."""
OUTAGE = "headrace_store_outage_seconds"
LAST = "headrace_checkpoint_last_success_timestamp_seconds"


def limit(worker: Worker, size: int) -> None:
    assert worker.process is not None
    resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_a_full_disk_holds_up_no_answer(tansu: KafkaSettings, tmp_path: Path) -> None:
    async def scenario() -> None:
        file = write_pipeline(tmp_path, SOURCE, name=fresh_name("full"))
        pipeline = load_pipeline(file)
        predictions, made = pipeline.catalog["predictions"], readings(pipeline, 4 * PART)
        await make_topics(tansu, pipeline)
        worker = Worker(file, tansu, tmp_path, checkpoint_interval_ms=200)
        async with watching(tansu, predictions) as watch:

            async def answered(part: int) -> None:
                await publish(tansu, made[PART * (part - 1) : PART * part])
                await until(lambda: watch.answered(predictions) == PART * part, "answers", worker=worker)

            async def saved() -> None:
                await until(
                    lambda: (
                        (found := worker.metrics())[OUTAGE] == 0
                        and found[LAST] > 0
                        and found["headrace_unsaved_events"] == 0
                    ),
                    "a checkpoint",
                    worker=worker,
                )

            with worker:
                await worker.ready()
                await answered(1)
                await saved()
                limit(worker, FULL_BYTES)
                await answered(2)
                await until(lambda: worker.metrics()[OUTAGE] > 0, "refused", worker=worker)
                before = worker.metrics()[LAST]
                assert worker.get("/readyz")[0] == worker.get("/livez")[0] == 200
                limit(worker, resource.RLIM_INFINITY)
                await saved()
                assert worker.metrics()[LAST] > before
                (told,) = worker.logged("checkpoints wait for the store")
                assert f"{worker.state_dir / pipeline.name}" in told["reason"]
                limit(worker, FULL_BYTES)
                await answered(3)
                await until(lambda: worker.metrics()[OUTAGE] > 0, "refused", worker=worker)
                assert await worker.stop() == 1
            assert "what was done since the last checkpoint is not saved" in worker.said()
            assert "Traceback" not in worker.said()
            with worker:
                await answered(4)
                assert await worker.stop() == 0, worker.said()
            assert watch.counted(predictions) == 4 * PART, "answered twice"

    asyncio.run(scenario())
