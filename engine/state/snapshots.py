"""A copy of everything that is stored of a pipeline, and that copy put into a store: the same or another one.

Lives here: the folder, its manifest and signature, what is checked before anything is written.  Never here:
how a store keeps checkpoints.

    manifest.json               pipeline, when, of which place; of each file size, SHA-256, whose it is
    manifest.hmac               id of the signing key, a colon, HMAC-SHA256 of manifest.json by it, in hex
    PIPELINE/scorer-0.sqlite    checkpoints, as a state directory has them
    PIPELINE/artefacts/DIGEST   stored models and fields

Strategy.  Checkpoints of different moments are no harm: a worker that takes them over reads in the logs what
was answered and learned since, and claims above every claim that it finds there.  So a snapshot needs no
pause, and a restore is a store that went back.
"""

from __future__ import annotations

import hmac
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import msgspec

from engine.definition.pipeline import Pipeline
from engine.settings import Settings
from engine.state.contents import (
    KEPT_APART,
    Owned,
    all_entries,
    header_in,
    private_copy,
    restored,
    stored_models,
    stores_of,
)
from engine.stores.artefacts import ArtefactFiles
from engine.stores.checkpoints import OwnerRole
from engine.stores.places import artefact_store, checkpoint_store
from engine.stores.sqlite_checkpoints import SqliteCheckpoints
from engine.worker.assembly import libraries, signing_keys
from engine.worker.model_factory import ModelFactory
from operators.models.signing import SigningKeys
from topics.errors import CheckpointError, SettingsError

__all__ = ["KeptFile", "Manifest", "restore", "take"]

FORMAT = 1
MANIFEST, SIGNATURE = "manifest.json", "manifest.hmac"
SIGNED_AS = b"headrace state snapshot\n"
"""Before what is signed: the key signs other things too."""
BLOCK_BYTES = 1 << 20


class KeptFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """One file of a snapshot."""

    path: str
    bytes: int
    sha256: str
    role: OwnerRole | None = None
    """Whose checkpoint it is; None: an artefact."""
    partition: int = 0
    claim: int = 0
    """The claim number that its store had handed out last."""
    entries: int = 0


class Manifest(msgspec.Struct, frozen=True):
    """What a snapshot holds."""

    format: int
    pipeline: str
    time_ms: int
    place: str
    """Of the store, without its secrets."""
    versions: dict[str, str]
    partitions: int
    files: list[KeptFile]


_decode: Callable[[bytes], Manifest] = msgspec.json.Decoder(Manifest).decode


async def take(pipeline: Pipeline, settings: Settings, folder: Path) -> Manifest:
    """Copy every checkpoint and artefact of a pipeline into `folder`, which is new; workers may run.

    Each copy is checked as a takeover would.  Raises SettingsError for a folder with something in it,
    CheckpointError for a checkpoint that would not be taken: then there is no snapshot.
    """
    keys = signing_keys(settings)
    found = await stores_of(pipeline, settings)
    _check_empty(folder)
    # Before checkpoints: a model that one of them names is stored first.
    files = [_kept(folder, name) for name in _keep_artefacts(pipeline, settings, folder)]
    partitions = 0
    for owned, _ in found:
        copy = await private_copy(pipeline, settings, owned, folder)
        checkpoint, entries = await all_entries(copy)
        with stored_models(pipeline, settings) as models:
            await restored(pipeline, models, owned, copy)
        claim = (await copy.look()).claim
        await copy.close()
        header = header_in(owned.role, checkpoint.meta)
        partitions = max(partitions, 0 if header is None else header.partitions)
        kept = _kept(folder, str(copy.path.relative_to(folder)))
        files.append(
            msgspec.structs.replace(
                kept, role=owned.role, partition=owned.partition, claim=claim, entries=len(entries)
            )
        )
    now_ms = time.time_ns() // 1_000_000
    manifest = Manifest(FORMAT, pipeline.name, now_ms, found[0][1], libraries(), partitions, files)
    data = msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"
    _write(folder / MANIFEST, data)
    _write(folder / SIGNATURE, _signature(keys, keys.first, data).encode())
    return manifest


def _keep_artefacts(pipeline: Pipeline, settings: Settings, folder: Path) -> Iterator[str]:
    stored, kept = artefact_store(settings, pipeline.name), ArtefactFiles(folder, pipeline.name)
    try:
        for name in stored.names():
            kept.put(name, stored.get(name))
            yield str((kept.directory / name).relative_to(folder))
    finally:
        stored.close()


async def restore(
    pipeline: Pipeline, settings: Settings, folder: Path, directory: Path, *, over_newer: bool = False
) -> Manifest:
    """Put a snapshot's checkpoints and artefacts into the store of the settings; copies go to `directory`.

    Everything is checked before anything is written: the signature, each file's digest, that each checkpoint
    decodes whole with this definition, that no store has handed out a newer claim (`over_newer` allows that).
    Workers that run are fenced.  Raises CheckpointError, SettingsError, ModelError.
    """
    keys = signing_keys(settings)
    manifest = _read(pipeline, folder, keys)
    checkpoints = [(Owned(one.role, one.partition), one) for one in manifest.files if one.role is not None]
    kept = ArtefactFiles(folder, pipeline.name)
    # Models are looked for among those of the snapshot: nothing has been written yet.
    models = ModelFactory(pipeline, keys=keys, stored=kept)
    artefacts = artefact_store(settings, pipeline.name)
    try:
        for owned, one in checkpoints:
            store = checkpoint_store(settings, pipeline.name, *owned)
            claim = (await store.look()).claim
            await store.close()
            if claim > one.claim and not over_newer:
                raise CheckpointError(
                    f"{store.place} has handed out claim {claim}, the snapshot is of claim {one.claim}",
                    hint="it is newer than the snapshot; to put the older state in its place, stop the"
                    " workers and give --over-newer: what was done since is taken from the logs",
                )
        for owned, one in checkpoints:  # private: the snapshot stays as it is
            copy = _copy(pipeline, owned, directory)
            _duplicate(folder / one.path, copy.path)
            await all_entries(copy)
            await restored(pipeline, models, owned, copy)
            await copy.close()
        held = {name: kept.get(name) for name in kept.names()}
        for name, data in held.items():
            artefacts.put(name, data)
        for owned, one in checkpoints:
            await _put(pipeline, settings, owned, _copy(pipeline, owned, directory), one.claim)
    finally:
        artefacts.close()
    return manifest


def _copy(pipeline: Pipeline, owned: Owned, directory: Path) -> SqliteCheckpoints:
    return SqliteCheckpoints(directory, pipeline.name, *owned, apart=KEPT_APART)


async def _put(
    pipeline: Pipeline, settings: Settings, owned: Owned, copy: SqliteCheckpoints, claim: int
) -> None:
    """Write a checkpoint into a store, in the place of all that it has, by a claim of our own."""
    found, entries = await all_entries(copy)
    store = checkpoint_store(settings, pipeline.name, *owned, apart=KEPT_APART)
    try:
        ours = await store.fence(above=claim)
        before = await store.load()
        gone = {} if before is None else dict.fromkeys((await all_entries(store))[1])
        await store.save(ours, found.meta, gone | entries)
    finally:
        await store.close()
        await copy.close()


# -- the folder ------------------------------------------------------------------------------------------


def _kept(folder: Path, path: str) -> KeptFile:
    """Describe a file of the folder, and see that it is on the disk."""
    digest, size = sha256(), 0
    with (folder / path).open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            size += len(block)
        os.fsync(file.fileno())
    return KeptFile(path, size, digest.hexdigest())


def _check_empty(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise SettingsError(f"{folder} is not empty", hint="name a folder that is new")


def _duplicate(path: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    except OSError as error:
        raise SettingsError(f"cannot write {target}: {error.strerror}", hint="is the disk full?") from error


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise SettingsError(f"cannot write {path}: {error.strerror}", hint="name another folder") from error


def _signature(keys: SigningKeys, key_id: bytes, data: bytes) -> str:
    return f"{key_id.hex()}:{keys.mac(key_id, SIGNED_AS + data).hex()}"


def _read(pipeline: Pipeline, folder: Path, keys: SigningKeys) -> Manifest:
    """Return the manifest of a folder whose files are what it says, signed with one of `keys`."""
    try:
        data, signature = (folder / MANIFEST).read_bytes(), (folder / SIGNATURE).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{folder} holds no snapshot: {error}", hint="take one: headrace state snapshot DIR PIPELINE.py"
        ) from None
    key_id = signature.partition(":")[0]
    valid = re.fullmatch("([0-9a-f]{2})+", key_id) is not None and hmac.compare_digest(
        signature.strip().encode(), _signature(keys, bytes.fromhex(key_id), data).encode()
    )
    if not valid:
        raise CheckpointError(
            f"{folder / MANIFEST} was not signed with this pipeline's key, or it was changed",
            hint="set HEADRACE_SIGNING_KEY (or signing.key) to that of the workers of which it is",
        )
    try:
        manifest = _decode(data)
    except msgspec.MsgspecError as error:
        raise CheckpointError(
            f"{folder / MANIFEST} cannot be read: {error}", hint="restore it with the Headrace that took it"
        ) from None
    if (manifest.format, manifest.pipeline) != (FORMAT, pipeline.name):
        raise CheckpointError(
            f"{folder} is of {manifest.pipeline}, format {manifest.format}; this is {pipeline.name},"
            f" format {FORMAT}",
            hint="name the pipeline file of which the snapshot was taken",
        )
    for one in manifest.files:
        path = folder / one.path
        if not path.is_file() or _kept(folder, one.path).sha256 != one.sha256:
            raise CheckpointError(
                f"{path} is not what was written there", hint="restore another snapshot: this one is damaged"
            )
    return manifest
