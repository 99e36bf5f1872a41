"""Which stores the settings name.

Lives here: the choice between what lies on this machine and what all machines share.  Never here: how a store
works.
"""

from __future__ import annotations

from engine.settings import Settings
from engine.stores.checkpoints import CheckpointStore, OwnerRole
from engine.stores.sqlite_checkpoints import SqliteCheckpoints

__all__ = ["checkpoint_store"]


def checkpoint_store(
    settings: Settings, pipeline: str, role: OwnerRole, partition: int, *, apart: tuple[str, ...] = ()
) -> CheckpointStore:
    """Return the checkpoints of one partition; entries with these prefixes are kept apart."""
    return SqliteCheckpoints(settings.state_dir, pipeline, role, partition, apart=apart)
