"""Commands are read again after every rebalance, however long a broker is silent."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from faust.tables.recovery import Recovery
from faust.types import TP
from paths import CHECKOUT

from engine.definition.file import load_pipeline
from engine.host.commands import commands_app
from engine.settings import Settings
from topics.messages import Headers

DEADLINE_S = 10.0
REQUEST_S = 0.01


class Group:
    """What Faust asks its consumer and its fetcher after a rebalance; `answers` is the broker's."""

    def __init__(self, topic: str) -> None:
        self._assigned = {TP(topic, 0)}
        self.asked, self.answers, self.reads = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def assignment(self) -> set[TP]:
        return self._assigned

    def resume_partitions(self, partitions: set[TP]) -> None:
        assert partitions == self._assigned

    async def perform_seek(self) -> None:
        self.asked.set()
        await self.answers.wait()

    def resume_flow(self) -> None:
        self.reads.set()

    async def maybe_start(self) -> None:
        """It fetches already."""


def test_a_broker_that_is_silent_for_longer_than_a_request_after_a_rebalance_is_waited_for(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        pipeline = load_pipeline(CHECKOUT / "examples" / "flights" / "pipeline.py")
        app = commands_app(pipeline, Settings(state_dir=tmp_path), unasked, 6066)
        app.conf.broker_request_timeout = REQUEST_S
        group = Group(pipeline.catalog["commands"])
        app.consumer = app._fetcher = group
        recovery: Any = app.tables.recovery
        resuming = asyncio.create_task(Recovery._restart_recovery.fun(recovery))
        async with asyncio.timeout(DEADLINE_S):
            recovery.signal_recovery_start.set()
            await group.asked.wait()
            await asyncio.wait({resuming}, timeout=10 * REQUEST_S)
            assert not group.reads.is_set()
            group.answers.set()
            await group.reads.wait()
            # And so again, whatever was waited for before.
            group.reads.clear()
            recovery.signal_recovery_start.set()
            await group.reads.wait()
            await recovery.stop()
            await resuming

    asyncio.run(scenario())


async def unasked(value: bytes, headers: Headers) -> None:
    raise AssertionError(f"nobody has sent {value!r} {headers}")
