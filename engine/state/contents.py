"""Every checkpoint of a pipeline, copied out of its store: nobody waits for a reader, and nothing changes.

Lives here: which stores a pipeline has, a private copy of one, its entries checked one by one, and the
operators that they make.  Never here: what is told of them.

Strategy.  A worker may be writing.  So each store's last checkpoint is first copied as of one moment, into an
SQLite file of ours, and everything else looks at that.  Checkpoints of different partitions are of different
moments: the logs make up for that, as for any store that went back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, get_args

import msgspec

from engine.definition.pipeline import Pipeline, check_definition
from engine.machines.keyed.keyed_learner import RACES, KeyedLearner
from engine.machines.learner import Learner
from engine.machines.scorer import Scorer
from engine.rekeying.rekeying import Rekeying
from engine.settings import Settings
from engine.stores.checkpoints import Checkpoint, CheckpointStore, OwnerRole
from engine.stores.files.checkpoint_file import DamagedError
from engine.stores.places import artefact_store, checkpoint_store
from engine.stores.sqlite_checkpoints import SqliteCheckpoints
from engine.worker.assembly import build_keyed_learner, build_learner, signing_keys
from engine.worker.header import Header, decode_learner_meta, decode_meta
from engine.worker.model_factory import ModelFactory
from engine.worker.owned_partitions import APART, JOIN, ROUTERS_JOIN
from operators.claims.rule import Suppression, Writer
from operators.join.pending import entries_apart
from operators.state import under
from topics.errors import CheckpointError, ModelError, SettingsError

__all__ = [
    "KEPT_APART",
    "Owned",
    "all_entries",
    "header_in",
    "private_copy",
    "restored",
    "stored_models",
    "stores_of",
    "working_directory",
]

KEPT_APART = (*APART, RACES)
"""Names of entries that any owner keeps apart."""
LAST_NAME = "\U0010ffff"
"""After the name of every entry."""


class Owned(NamedTuple):
    """Whose checkpoints a store has."""

    role: OwnerRole
    partition: int

    @property
    def name(self) -> str:
        """Return how people call it.

        >>> Owned("scorer", 3).name
        'scorer-3'
        """
        return f"{self.role}-{self.partition}"


async def stores_of(pipeline: Pipeline, settings: Settings) -> list[tuple[Owned, str]]:
    """Return every owner that has a checkpoint, and its place; partitions are as many as a header says.

    A checkpoint that is damaged is one too.  Raises StoreUnavailableError.
    """
    found: list[tuple[Owned, str]] = []
    partitions, number = pipeline.events.partitions, 0
    while number < partitions:
        for role in get_args(OwnerRole):
            store = checkpoint_store(settings, pipeline.name, role, number)
            try:
                meta = (await store.look()).meta
                if meta is not None and (header := header_in(role, meta)) is not None:
                    partitions = max(partitions, header.partitions)
            except DamagedError:
                meta = b""
            finally:
                await store.close()
            if meta is not None:
                found.append((Owned(role, number), store.place))
        number += 1
    if not found:
        place = str(settings.state_dir) if settings.store_url is None else "the store of HEADRACE_STORE_URL"
        raise SettingsError(
            f"{place} holds no checkpoint of {pipeline.name}",
            hint="name the workers' HEADRACE_STATE_DIR or HEADRACE_STORE_URL",
        )
    return found


def header_in(role: OwnerRole, meta: bytes) -> Header | None:
    """Return the header that a checkpoint's meta holds, None where it has none.

    Raises CheckpointError for what is no meta.
    """
    try:
        match role:
            case "scorer":
                return decode_meta(meta).header
            case "learner":
                return decode_learner_meta(meta).header
            case "snapshot":  # of models, for workers that do not learn
                return None
    except msgspec.MsgspecError as error:
        raise CheckpointError(
            f"its positions cannot be read: {error}", hint="run the Headrace that wrote it"
        ) from None


def _check_races(learner: KeyedLearner) -> None:
    """Make every race once, as the first event of its key would.  Raises CheckpointError, ModelError."""
    for key in sorted(learner.races.keys()):
        try:
            learner.races.peek(key)
        except ModelError as error:
            raise ModelError(f"the race of `{key}`: {error.message}", hint=error.hint) from error
        except (KeyError, ValueError) as error:  # an entry that is missing, or none of ours
            raise CheckpointError(
                f"the race of `{key}` cannot be read: {error}",
                hint="restore a copy, or start anew with another store: the logs fill the gap",
            ) from error


@contextmanager
def stored_models(pipeline: Pipeline, settings: Settings) -> Iterator[ModelFactory]:
    """Find the models that checkpoints name where the settings say, and let go of the place."""
    artefacts = artefact_store(settings, pipeline.name)
    try:
        yield ModelFactory(pipeline, keys=signing_keys(settings), stored=artefacts)
    finally:
        artefacts.close()


@contextmanager
def working_directory(settings: Settings) -> Iterator[Path]:
    """Make a directory for copies where checkpoints have room, and remove it."""
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=settings.state_dir, prefix="copies-") as folder:
            yield Path(folder)
    except OSError as error:
        raise SettingsError(
            f"cannot write {settings.state_dir}: {error.strerror}", hint="name another --state-dir"
        ) from error


async def private_copy(
    pipeline: Pipeline, settings: Settings, owned: Owned, directory: Path
) -> SqliteCheckpoints:
    """Copy an owner's last checkpoint, as of this moment, into a file under `directory`.

    Raises CheckpointError for one that is damaged, as far as a copy shows it.
    """
    copy = SqliteCheckpoints(directory, pipeline.name, *owned, apart=KEPT_APART)
    source = checkpoint_store(settings, pipeline.name, *owned, apart=KEPT_APART)
    try:
        if isinstance(source, SqliteCheckpoints):
            await copy.copy(source.path)
            return copy
        found, head = await source.load(), await source.look()
        if found is not None:
            entries = found.entries | dict(_apart_of(source))
            await copy.save(await copy.fence(above=head.claim - 1), found.meta, entries)
        return copy
    finally:
        await source.close()


def _apart_of(store: CheckpointStore) -> Iterator[tuple[str, bytes]]:
    return entries_apart(store.stored(""), "", LAST_NAME)


async def all_entries(store: CheckpointStore) -> tuple[Checkpoint, dict[str, bytes]]:
    """Return a checkpoint and all its entries, those kept apart too, each checked.

    Raises CheckpointError where there is none, or one is not what was written.
    """
    found = await store.load()
    if found is None:
        raise CheckpointError(f"{store.place} holds no checkpoint", hint="name the workers' store")
    return found, found.entries | dict(_apart_of(store))


async def restored(
    pipeline: Pipeline, models: ModelFactory, owned: Owned, store: CheckpointStore
) -> Scorer | None:
    """Make the operators that a checkpoint holds, which shows that it decodes whole; return a scorer.

    Raises CheckpointError, and ModelError for a model that cannot be loaded here.
    """
    found = await store.load()
    assert found is not None
    if owned.role == "snapshot":
        return None
    learner: Learner | KeyedLearner
    if pipeline.per is None:
        learner = build_learner(pipeline, source=models)
    else:
        stored = store.stored(RACES)
        learner = build_keyed_learner(pipeline, owned.partition, source=models, stored=stored)
    if owned.role == "learner":
        check_definition(
            decode_learner_meta(found.meta).definition, pipeline.learner_definition(), store.place
        )
        learner.restore(found.entries)
        if isinstance(learner, KeyedLearner):
            _check_races(learner)
        return None
    check_definition(decode_meta(found.meta).definition, pipeline.scorer_definition(), store.place)
    writer, suppression = Writer(owned.partition, 1), Suppression()
    scorer = Scorer(
        pipeline,
        partition=owned.partition,
        roster=learner.roster,
        writer=writer,
        suppression=suppression,
        plan=pipeline.scorer_plan,
        stored=store.stored(JOIN),
    )
    scorer.restore(found.entries)
    if pipeline.stages is not None:
        Rekeying(
            pipeline,
            pipeline.stages,
            partition=owned.partition,
            writer=writer,
            logged=suppression.rekeyed,
            stored=store.stored(ROUTERS_JOIN),
        ).restore(under("rekeying", found.entries))
    return scorer
