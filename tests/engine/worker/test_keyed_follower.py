"""The learners of a process with one race per key: which are restored, and what ends one alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from keyed_world import KEYED, KEYS, log_of
from running import until

import engine.worker.keyed.partition_log
from engine.machines.keyed.keyed_learner import RACES
from engine.metrics import Metrics
from engine.settings import Settings
from engine.stores.places import checkpoint_store
from engine.worker.claim import RevokedError
from engine.worker.keyed.keyed_follower import KeyedFollower
from topics.errors import ClaimError
from topics.messages import Record


def test_no_further_learner_is_restored_where_the_group_takes_partitions_back(tmp_path: Path) -> None:
    """Each may take long, and the rebalance waits for this process."""
    settings = Settings(state_dir=tmp_path, signing_key="sixteen bytes or more")
    sink: Any = None
    asked: list[None] = []

    def go_on() -> None:
        asked.append(None)
        if len(asked) > 2:
            raise RevokedError

    async def claims() -> list[int]:
        stores = [checkpoint_store(settings, KEYED.name, "learner", number) for number in range(4)]
        found = [(await store.look()).claim for store in stores]
        for store in stores:
            await store.close()
        return found

    async def work() -> None:
        follower = KeyedFollower(KEYED, settings, Metrics(KEYED), sink)
        with pytest.raises(RevokedError):
            await follower.lead(range(4), go_on)
        assert (await claims(), follower.leading) == ([1, 1, 0, 0], False)
        follower.release()
        await follower.lead([1, 3])
        assert (await claims(), follower.leading) == ([1, 2, 0, 1], True)
        await follower.close()

    asyncio.run(work())


def test_a_store_that_went_back_while_a_race_is_read_is_claimed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop learns of it at its next turn, and does not wait for a learner that has stopped."""
    _, log = log_of([(KEYS[n % 3], float(n % 5) - 2, 1) for n in range(90)])
    settings = Settings(state_dir=tmp_path, signing_key="sixteen bytes or more")
    end, acknowledged = 60, len(log) - 1

    class Sent:
        """A sink that has written the whole log."""

        def last_offset(self, _: object) -> int:
            return acknowledged

    async def read(
        _kafka: object, _topic: str, _partition: int, start: int, until: int | None, **_: Any
    ) -> AsyncGenerator[list[Record]]:
        while until is None or start < until:
            if start < end:
                yield log[start : end if until is None else min(end, until)]
                start = end
            await asyncio.sleep(0.001)

    async def bounds(_kafka: object, _topic: str) -> dict[int, tuple[int, int]]:
        return {0: (0, end)}

    monkeypatch.setattr(engine.worker.keyed.partition_log, "read_log", read)
    monkeypatch.setattr(engine.worker.keyed.partition_log, "log_bounds", bounds)

    async def work() -> None:
        nonlocal end
        follower = KeyedFollower(KEYED, settings, Metrics(KEYED), Sent())  # type: ignore[arg-type]
        await follower.lead([0])
        await follower.catch_up()
        await follower.save(follower.capture())
        beside = asyncio.create_task(follower.follow())
        follower.read_back()
        other = checkpoint_store(settings, KEYED.name, "learner", 0, apart=(RACES,))
        checkpoint = await other.load()
        assert checkpoint is not None
        claim = await other.fence()
        await other.save(claim, checkpoint.meta, {})
        end = len(log)
        async with asyncio.timeout(10):
            await follower.wait_until_near(1)
        with pytest.raises(ClaimError, match="holds another checkpoint"):
            follower.check()
        follower.check()
        assert not beside.done()
        await follower.lead([0])
        await follower.catch_up()
        follower.read_back()
        await until(lambda: follower.folded == len(log), "the log folded")
        assert (follower.lag, beside.done()) == (0, False)
        beside.cancel()
        await asyncio.wait([beside])
        await follower.close()
        await other.close()

    asyncio.run(work())
