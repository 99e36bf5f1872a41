"""Stores in a Redis, as tests open them."""

from __future__ import annotations

from pathlib import Path

from engine.stores.checkpoints import OwnerRole
from engine.stores.redis_checkpoints import RedisCheckpoints
from engine.stores.redis_connection import StoreConnection


def redis_store(
    url: str,
    pipeline: str,
    partition: int = 0,
    role: OwnerRole = "scorer",
    *,
    directory: Path,
    apart: tuple[str, ...] = (),
    deadline_s: float = 5.0,
    outage_deadline_s: float = 0.0,
) -> RedisCheckpoints:
    return RedisCheckpoints(
        StoreConnection(url, deadline_s=deadline_s),
        pipeline,
        role,
        partition,
        directory=directory,
        outage_deadline_s=outage_deadline_s,
        apart=apart,
    )
