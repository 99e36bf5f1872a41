"""Which stores the settings name.

Lives here: the choice between what lies on this machine and what all machines share.  Never here: how a store
works.
"""

from __future__ import annotations

from engine.settings import Settings
from engine.stores.artefacts import ArtefactFiles, Artefacts, RedisArtefacts
from engine.stores.checkpoints import CheckpointStore, OwnerRole
from engine.stores.redis_checkpoints import RedisCheckpoints
from engine.stores.redis_connection import StoreConnection
from engine.stores.sqlite_checkpoints import SqliteCheckpoints

__all__ = ["artefact_store", "checkpoint_store"]


def checkpoint_store(
    settings: Settings, pipeline: str, role: OwnerRole, partition: int, *, apart: tuple[str, ...] = ()
) -> CheckpointStore:
    """Return the checkpoints of one partition; entries with these prefixes are kept apart."""
    if settings.store_url is None:
        return SqliteCheckpoints(settings.state_dir, pipeline, role, partition, apart=apart)
    return RedisCheckpoints(
        StoreConnection(settings.store_url.get_secret_value(), deadline_s=settings.store_deadline_ms / 1000),
        pipeline,
        role,
        partition,
        directory=settings.state_dir,
        outage_deadline_s=settings.store_outage_deadline_ms / 1000,
        apart=apart,
    )


def artefact_store(settings: Settings, pipeline: str) -> Artefacts:
    """Return the artefacts of a pipeline."""
    if settings.store_url is None:
        return ArtefactFiles(settings.state_dir, pipeline)
    url, deadline_s = settings.store_url.get_secret_value(), settings.store_deadline_ms / 1000
    return RedisArtefacts(url, pipeline, deadline_s=deadline_s)
