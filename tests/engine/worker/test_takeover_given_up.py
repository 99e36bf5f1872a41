"""A rebalance does not wait for a takeover whose partitions it takes back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from reading import counting, read_topic, watching
from running import fresh_name, in_process, make_topics, publish, until, write_pipeline
from structlog.testing import capture_logs
from test_run_ends import SOURCE, readings

from engine.definition.file import load_pipeline
from engine.settings import KafkaSettings, Settings
from engine.worker.claim import ClaimExecutor
from operators.claims.takeover import Fence

HALF = 20


class Gate:
    """Holds the fence of a takeover up, once, and counts what is asked for behind it."""

    def __init__(self) -> None:
        self.shut = False
        self.reached, self.opened = asyncio.Event(), asyncio.Event()
        self.asked = 0

    async def pass_through(self, request: Any) -> None:
        self.asked += 1
        if self.shut and isinstance(request, Fence):
            self.shut = False
            self.reached.set()
            await self.opened.wait()


def test_what_is_taken_back_is_not_taken_over_to_the_end(
    tansu: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = load_pipeline(write_pipeline(tmp_path, SOURCE, name=fresh_name("given-up")))
    predictions = pipeline.catalog["predictions"]

    async def scenario() -> None:
        gate, carry_out = Gate(), ClaimExecutor._carry_out

        async def gated(executor: ClaimExecutor, request: Any, *rest: Any) -> Any:
            await gate.pass_through(request)
            return await carry_out(executor, request, *rest)

        monkeypatch.setattr(ClaimExecutor, "_carry_out", gated)
        await make_topics(tansu, pipeline)
        settings = Settings(kafka=tansu, state_dir=tmp_path)
        async with (
            watching(tansu, predictions) as watch,
            in_process(pipeline, settings) as (worker, running),
        ):
            await publish(tansu, readings(pipeline, HALF))
            await until(lambda: watch.counted(predictions) == HALF, "answers")
            held = worker._source._consumer.assignment()
            gate.shut = True
            await worker._source._revoked(held)
            worker.partitions.release()  # or it would be kept, and nothing claimed
            await worker._source._assigned(held)
            await gate.reached.wait()

            rebalance = asyncio.create_task(worker._source._revoked(held))
            await asyncio.sleep(0)
            asked = gate.asked
            with capture_logs() as lines:
                gate.opened.set()
                await asyncio.wait_for(rebalance, 30)
            assert gate.asked == asked, "it went on"
            assert "takeover given up: the group has taken partitions back" in [
                line["event"] for line in lines
            ]
            assert not worker.partitions.owned

            await worker._source._assigned(held)
            await publish(tansu, readings(pipeline, 2 * HALF)[HALF:])
            await until(lambda: running.done() or watch.counted(predictions) == 2 * HALF, "answers")
            worker.stop()
            await running
        assert len(counting(await read_topic(tansu, predictions))) == 2 * HALF

    asyncio.run(scenario())
