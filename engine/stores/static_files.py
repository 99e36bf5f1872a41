"""Files of static features, and the stores they fill.

Lives here: reading timed rows, writing the newest of them into a store, showing one key.  Never
here: what a row is (`topics/stored_features.py`), reading while the stream runs (`lookups.py`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
from redis.exceptions import RedisError

from engine.offline.json_lines import read_lines
from engine.settings import Settings
from engine.stores.hashes import Hashes, static_store
from operators.asof import AsOf
from topics.errors import SettingsError
from topics.stored_features import StaticRow, StoredValue, decode_static_row, parsed

__all__ = ["load_static", "read_static", "static_of"]


def read_static(path: Path) -> Iterator[StaticRow]:
    """Yield the rows of a file, one JSON object a line, plain or .gz.

    Raises SettingsError naming the line for one that is no row, and if the file cannot be read.
    """
    for records in read_lines(path, ""):
        for record in records:
            try:
                yield decode_static_row(record.value or b"")
            except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
                raise SettingsError(
                    f"{path}, line {record.offset + 1}: {error}",
                    hint='write {"key": "merchant:7", "time": 1735689600000, "fields": {"risk": 0.2}}; '
                    '"time": 0 is for what has always held',
                ) from None


async def load_static(path: Path, settings: Settings) -> tuple[int, int]:
    """Write the newest value of each field in a file into the store; return rows read, fields written.

    Fields that the file does not name stay.  The file is read whole before anything is written.
    Raises SettingsError for the file, and where the store does not take them.
    """
    known = AsOf(read_static(path))
    store = static_store(settings)
    try:
        return known.rows, await store.put(known.newest())
    except (OSError, RedisError, sqlite3.Error) as error:
        raise _refused(store, error) from error
    finally:
        await store.close()


async def static_of(key: str, settings: Settings) -> dict[str, StoredValue]:
    """Return what the store has of one key, as look-ups see it.  Raises SettingsError without a store."""
    store = static_store(settings)
    try:
        return {name: parsed(text) for name, text in sorted((await store.whole(key)).items())}
    except (OSError, RedisError, sqlite3.Error) as error:
        raise _refused(store, error) from error
    finally:
        await store.close()


def _refused(store: Hashes, error: Exception) -> SettingsError:
    return SettingsError(
        f"{type(store).__name__} of static features: {type(error).__name__}: {error}",
        hint="check redis_url and that it is up, or, without one, state_dir and its owner",
    )
