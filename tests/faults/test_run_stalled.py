"""A worker whose fetches bring nothing any more ends and says so; one whose learning is paused does not."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from fault_runs.stream import SOURCE, messages
from fault_runs.worker import DIRECTORY
from reading import watching
from running import Message, Worker, fresh_name, make_topics, publish, until, write_pipeline

from engine.definition.file import load_pipeline
from engine.settings import KafkaSettings

DEADLINE_MS = 10_000
"""The shortest that is allowed."""


def test_a_worker_that_fetches_nothing_any_more_ends_and_a_pause_does_not_end_it(
    tansu: KafkaSettings, tmp_path: Path
) -> None:
    async def scenario() -> None:
        source = SOURCE.replace("partitions=4", "partitions=1").replace("MORE", "")
        file = write_pipeline(tmp_path, source, name=fresh_name("stalled"))
        pipeline = load_pipeline(file)
        catalog = pipeline.catalog
        predictions, examples = catalog["predictions"], catalog["examples"]
        stream = list(messages(1, catalog["events"], catalog["labels"], lambda _: True))
        half = len(stream) // 2
        pause = {"command_id": "p", "command": "pause", "time": 0}
        await make_topics(tansu, pipeline)
        worker = Worker(
            file, tansu, tmp_path, module="fault_runs.worker", progress_deadline_ms=DEADLINE_MS
        ).given(**{DIRECTORY: str(tmp_path)})
        async with watching(tansu, predictions, examples) as watch:
            with worker:
                await worker.ready()
                await publish(tansu, [Message(catalog["commands"], 0, b"p", json.dumps(pause).encode())])
                await until(lambda: worker.metrics()["headrace_learning_paused"], "a pause", worker=worker)
                await publish(tansu, stream[:half])
                # From here on lessons stand still, before the answers do.
                await until(lambda: worker.metrics()["headrace_examples_unlearned"], "lessons", worker=worker)
                await until(lambda: watch.answered(predictions) > 0, "answers", worker=worker)
                (tmp_path / "broken").write_text("fetches")
                await publish(tansu, stream[half:])
                assert await worker.ended() == 1
        (line,) = worker.logged("no progress: the worker ends")
        assert (line["subject"], line["waits_for"], line["paused"]) == ("answers", "broker", True)
        assert line["unlearned"] > 0
        assert line["stalled_s"] >= DEADLINE_MS / 1000
        assert "error: " in worker.said()
        assert "  fix: start it again" in worker.said()

    asyncio.run(scenario())
