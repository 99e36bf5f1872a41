"""The learners of a process with one race per key: which of them are restored."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from keyed_world import KEYED

from engine.metrics import Metrics
from engine.settings import Settings
from engine.stores.places import checkpoint_store
from engine.worker.claim import RevokedError
from engine.worker.keyed.keyed_follower import KeyedFollower


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
