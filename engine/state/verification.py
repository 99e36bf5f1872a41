"""Whether every checkpoint of a pipeline would be taken: header, checksums, content, place in the logs.

Lives here: the checks that a takeover makes, made without one.  Never here: repairs; a worker goes back to
the checkpoint before a damaged one by itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import msgspec

from engine.definition.pipeline import Pipeline
from engine.kafka.log_reader import log_bounds
from engine.settings import Settings
from engine.state.contents import (
    Owned,
    all_entries,
    header_in,
    private_copy,
    restored,
    stored_models,
    stores_of,
)
from engine.stores.checkpoints import CheckpointStore
from engine.stores.files.checkpoint_file import CheckpointFile
from engine.stores.sqlite_checkpoints import SqliteCheckpoints
from engine.worker.claim import ClaimExecutor, check_same_logs
from engine.worker.header import check_header, decode_meta, header_of
from operators.claims.takeover import fits
from topics.errors import BrokerError, HeadraceError

__all__ = ["Verified", "verify"]


class Verified(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was found of one checkpoint."""

    name: str
    place: str
    claim: int = 0
    entries: int = 0
    bytes: int = 0
    logs: str = "unchecked"
    """`fit`, or why that is not known."""
    problem: str = ""
    """Why it would not be taken; empty: it would."""


async def verify(pipeline: Pipeline, settings: Settings, directory: Path) -> list[Verified]:
    """Check every checkpoint of a pipeline; copies are made under `directory`."""
    reached = ""
    try:
        partitions = len(await log_bounds(settings.kafka, pipeline.catalog["events"]))
    except BrokerError as error:
        partitions, reached = 0, f"unchecked: {error.message}"
    rows: list[Verified] = []
    for owned, place in await stores_of(pipeline, settings):
        row = Verified(owned.name, place, logs=reached or "fit")
        copy: SqliteCheckpoints | None = None
        try:
            copy = await private_copy(pipeline, settings, owned, directory)
            found, entries = await all_entries(copy)
            sizes = sum(len(name.encode()) + len(value) for name, value in entries.items())
            row = msgspec.structs.replace(row, claim=found.claim, entries=len(entries), bytes=sizes)
            header = header_in(owned.role, found.meta)
            if partitions:
                check_header(header, header_of(pipeline, partitions), place)
            with stored_models(pipeline, settings) as models:
                await restored(pipeline, models, owned, copy)
            if partitions and owned.role == "scorer":
                await _check_logs(pipeline, settings, owned, copy)
        except HeadraceError as error:
            told = error.message if copy is None else error.message.replace(copy.place, place)
            row = msgspec.structs.replace(row, problem=told, logs="unchecked")
        finally:
            if copy is not None:
                await copy.close()
        rows.append(row)
        if settings.store_url is None and (before := _previous(pipeline, owned, Path(place))) is not None:
            rows.append(before)
    return rows


async def _check_logs(pipeline: Pipeline, settings: Settings, owned: Owned, store: CheckpointStore) -> None:
    """Raise where the logs do not reach back to a scorer's checkpoint, or are other ones."""
    roles = ("events",) if pipeline.labels.topic is None else ("events", "labels")
    # These steps read only: nothing is sent, and no group is joined.
    claims = ClaimExecutor(pipeline.catalog, settings.kafka, cast("Any", None), cast("Any", None))
    await claims.run(fits(owned.partition, inputs=roles), store)
    _, meta = await store.look()
    assert meta is not None
    read = {(topic, owned.partition): kept for topic, kept in decode_meta(meta).read.items()}
    await check_same_logs(settings.kafka, read)


def _previous(pipeline: Pipeline, owned: Owned, place: Path) -> Verified | None:
    """Check the file of the checkpoint before, as far as seals and checksums go."""
    path = place.with_suffix(".previous.sqlite")
    if not path.exists():
        return None
    name = f"{owned.name} (the one before)"
    file = CheckpointFile(path, f"{pipeline.name}/{owned.role}/{owned.partition}")
    try:
        with file.transaction("BEGIN") as database:
            found = file.read(database)
        assert found is not None
        return Verified(name, str(path), found.claim, len(found.entries), logs="not asked for")
    except HeadraceError as error:
        return Verified(name, str(path), problem=error.message)
    finally:
        file.close()
