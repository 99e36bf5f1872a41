"""Signed bytes by name: models that bring a state, and whole fields.

Lives here: the directory or the keys of a Redis that hold them, and a field as one artefact.  Never here:
how a model is pickled and signed (`operators/models/artefacts.py`), who names what
(`engine/machines/field_records.py`).

A name is a structural digest of what lies under it, so what is there is never changed: it is written once; a
file beside its place, and moved there whole.  All workers of a pipeline share the place, as they share the
checkpoints beside it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Protocol

from engine.stores.redis_connection import PREFIX, BlockingConnection
from operators.models.allowlist import denied
from operators.models.artefacts import dump, globals_of, load, meta_of
from operators.models.signing import SigningKeys, resigned
from operators.race.field import RaceField
from topics.errors import ModelError

__all__ = ["ArtefactFiles", "Artefacts", "RedisArtefacts", "dump_field", "load_field", "resign"]

_NAME = re.compile(r"[0-9a-f]{16,128}")
"""What a digest looks like; anything else is no name of ours, and might walk out of the directory."""


class Artefacts(Protocol):
    """The artefacts of one pipeline, which all its workers read."""

    @property
    def there(self) -> bool:
        """Return whether there is a place where any could be."""
        ...

    def put(self, name: str, data: bytes) -> None:
        """Store bytes under a name, unless they are there.

        Raises ModelError where they cannot be, StoreUnavailableError where they cannot be now.
        """
        ...

    def get(self, name: str) -> bytes:
        """Return the bytes of a name.  Raises ModelError where there are none, else as `put`."""
        ...

    def names(self) -> list[str]:
        """Return the names that there are, in order.  Raises as `put`."""
        ...

    def replace(self, name: str, data: bytes) -> None:
        """Store bytes in the place of those of a name, at once.  Raises as `put`."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class ArtefactFiles:
    """The artefacts of one pipeline under its state directory."""

    def __init__(self, state_dir: Path, pipeline: str) -> None:
        self.directory = state_dir / pipeline / "artefacts"

    @property
    def there(self) -> bool:
        """Return whether anything was ever stored."""
        return self.directory.is_dir()

    def put(self, name: str, data: bytes) -> None:
        """Store bytes under a name, unless they are there.  Raises ModelError where they cannot be."""
        if not self._path(name).exists():
            self.replace(name, data)

    def replace(self, name: str, data: bytes) -> None:
        """Store bytes in the place of those of a name, at once.  Raises ModelError where they cannot be."""
        path = self._path(name)
        beside = path.with_suffix(f".{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except OSError as error:
            raise ModelError(
                f"cannot store artefact {path}: {error.strerror}",
                hint="make room, or make the directory writable",
            ) from error

    def get(self, name: str) -> bytes:
        """Return the bytes of a name.  Raises ModelError where there are none."""
        path = self._path(name)
        try:
            return path.read_bytes()
        except OSError as error:
            raise ModelError(
                f"cannot read artefact {path}: {error.strerror}",
                hint="bring back the state directory of the workers, or start with the file that says this "
                "field: the examples log names models that are nowhere else",
            ) from error

    def names(self) -> list[str]:
        """Return the names that there are, in order."""
        found = self.directory.iterdir() if self.there else ()
        return sorted(path.name for path in found if _NAME.fullmatch(path.name))

    def close(self) -> None:
        """Do nothing: no file is held open."""

    def _path(self, name: str) -> Path:
        return self.directory / _checked(name)


class RedisArtefacts:
    """The artefacts of one pipeline in the Redis of its checkpoints; the caller waits for an answer."""

    there = True

    def __init__(self, url: str, pipeline: str, *, deadline_s: float) -> None:
        """`deadline_s` is for one call.  Raises SettingsError if `url` is none of a Redis."""
        self._connection = BlockingConnection(url, deadline_s=deadline_s)
        self._pipeline = pipeline

    def put(self, name: str, data: bytes) -> None:
        """Store bytes under a name, unless they are there.  Raises StoreUnavailableError."""
        self._connection.call("SET", self._key(name), data, "NX")

    def get(self, name: str) -> bytes:
        """Return the bytes of a name.  Raises ModelError where there are none, StoreUnavailableError."""
        key = self._key(name)
        data: bytes | None = self._connection.call("GET", key)
        if data is None:
            raise ModelError(
                f"{self._connection.place} has no artefact {key}",
                hint="bring back the Redis of the workers, or start with the file that says this field: the"
                " examples log names models that are nowhere else",
            )
        return data

    def replace(self, name: str, data: bytes) -> None:
        """Store bytes in the place of those of a name.  Raises StoreUnavailableError."""
        self._connection.call("SET", self._key(name), data)

    def names(self) -> list[str]:
        """Return the names that there are, in order; looks at all keys.  Raises StoreUnavailableError."""
        prefix = f"{PREFIX}:{self._pipeline}:artefacts:"
        return sorted(key.removeprefix(prefix) for key in self._connection.keys_like(f"{prefix}*"))

    def close(self) -> None:
        """Close the connection; it is opened again if asked."""
        self._connection.close()

    def _key(self, name: str) -> str:
        return f"{PREFIX}:{self._pipeline}:artefacts:{_checked(name)}"


def resign(artefacts: Artefacts, keys: SigningKeys) -> tuple[int, int]:
    """Sign artefacts by the first key where another one did; return how many there are, and how many were.

    Raises ModelError for one that none of the keys signed, with its name; those before it are done.
    """
    changed = 0
    for name in (names := artefacts.names()):
        data = artefacts.get(name)
        try:
            anew = resigned(data, keys)
        except ModelError as error:
            raise ModelError(f"artefact {name}: {error.message}", hint=error.hint) from error
        if anew is not data:
            artefacts.replace(name, anew)
            changed += 1
    return len(names), changed


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ModelError(f"{name!r} is no name of an artefact", hint="look for what else writes the log")
    return name


def dump_field(field: RaceField, keys: SigningKeys) -> bytes:
    """Return a field as an artefact: fresh models, settings, and what these are made of."""
    meta = {"field": field.field_id, "names": sorted(globals_of(field))}
    return dump(field, keys=keys, meta=meta)


def load_field(data: bytes, keys: SigningKeys, field_id: str) -> RaceField:
    """Return the field of this id that `dump_field` wrote.

    What it may name is what its writer, who has a key and loaded a pipeline file, named there; never what
    no stored model may.  Raises ModelError for anything else.
    """
    meta = meta_of(data, keys=keys)
    names = frozenset((str(module), str(name)) for module, name in meta.get("names", ()))
    if any(denied(module, name) for module, name in names):
        raise ModelError("the field names what no stored model may", hint="do not trust the bytes")
    field, _ = load(data, keys=keys, allowed=names)
    if not isinstance(field, RaceField) or field.field_id != field_id:
        raise ModelError(
            f"the artefact holds another field than {field_id}",
            hint="run the code that stored it: a class may have other arguments now",
        )
    return field
