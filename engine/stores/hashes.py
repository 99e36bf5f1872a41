"""Stores of hashes: Redis, or one table of an embedded database; static features lie in one.

Lives here: reading and writing the text fields of many keys at once, filling the store of static features
from timed rows, showing one key of it.  Never here: caches and deadlines (`lookups.py`), files, what a text
means (`topics/stored_features.py`).

Strategy.  However many keys, Redis is asked in one pipelined round trip.  Its client's own
retries are cut to one without a pause, for a connection that the server has closed in the
meantime: who asks has a deadline and pauses of its own.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from engine.settings import Settings
from operators.windows.asof import AsOf
from topics.errors import SettingsError
from topics.stored_features import StaticRow, StoredValue, parsed, stored_text

__all__ = [
    "STATIC_FILE",
    "Hashes",
    "RedisHashes",
    "SqliteHashes",
    "StoredRow",
    "give_up",
    "load_static",
    "redis_client",
    "static_of",
    "static_store",
    "store_features",
]

STATIC_FILE = "static-features.sqlite"
"""The embedded store's file in the state directory; a Redis takes its place where the settings name one."""
KEYS_PER_QUERY_MAX = 500
"""SQLite takes 999 bound values in a statement in its oldest builds; each address needs its key."""
ROWS_PER_TRIP_MAX = 1_000
"""Values written to Redis at once, about 100 KB."""
READ_BUSY_S = 0.05
"""A reader waits no longer for another process of this machine; writers do not hold it up."""
WRITE_BUSY_S = 10.0
"""A writer waits so long for another one."""
ANSWER_MAX_S = 5.0
"""Redis may take this long to connect or answer before its connection is given up."""
CANCELS_MAX, CANCEL_S = 10, 0.1
"""A task that cannot be cancelled within a second is left behind."""

StoredRow = tuple[str, str, StoredValue]
"""Key, field and value; None where the field is to be removed."""


class Hashes(Protocol):
    """A store of hashes with text fields."""

    async def get(self, wanted: Mapping[str, Sequence[str]]) -> list[list[str | None]]:
        """Return, per key and in order, the values of its wanted fields.  May raise; may be slow."""
        ...

    async def whole(self, key: str) -> dict[str, str]:
        """Return all fields of one key.  May raise; may be slow."""
        ...

    async def put(self, rows: Iterable[StoredRow]) -> int:
        """Set or remove fields; return how many.  May raise; may be slow."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


def static_store(settings: Settings) -> Hashes:
    """Return where static features are: Redis if there is one, else a file of the state directory."""
    url = settings.features_url
    if url is not None:
        return RedisHashes(url.get_secret_value())
    return SqliteHashes(settings.state_dir / STATIC_FILE)


def redis_client(url: str) -> Any:
    """Return a client of a Redis; it connects when it is first used.

    Raises SettingsError if `url` is none of a Redis.
    """
    try:
        return Redis.from_url(
            url,
            decode_responses=True,
            socket_connect_timeout=ANSWER_MAX_S,
            socket_timeout=ANSWER_MAX_S,
            retry=Retry(NoBackoff(), 1),
        )
    except ValueError:  # its text would show a part of a password that is not percent-encoded
        raise SettingsError(
            "redis_url is no address of a Redis",
            hint="redis://user:password@host:6379/0, percent-encoded; rediss:// for TLS",
        ) from None


async def give_up(task: asyncio.Task[Any]) -> None:
    """Cancel a task that asks a store, and wait for its end; never raises what it raised.

    Again and again, CANCELS_MAX times at most: redis-py loses a cancellation that meets it while it
    connects (8.1, a server that takes connections and says nothing).
    """
    for _ in range(CANCELS_MAX):
        task.cancel()
        done, _pending = await asyncio.wait({task}, timeout=CANCEL_S)
        if done:
            return


class RedisHashes:
    """Hashes in Redis: all keys of a batch in one pipelined round trip (HMGET)."""

    def __init__(self, url: str) -> None:
        self._redis = redis_client(url)

    async def get(self, wanted: Mapping[str, Sequence[str]]) -> list[list[str | None]]:
        """Ask for everything in one round trip.  Raises RedisError.

        A key that holds no hash has no fields; only if every key is refused (no permission,
        no login) is that an error.
        """
        async with self._redis.pipeline(transaction=False) as pipe:
            for key, names in wanted.items():
                pipe.hmget(key, names)
            answers = await pipe.execute(raise_on_error=False)
        refused = [answer for answer in answers if isinstance(answer, Exception)]
        if len(refused) == len(answers) and refused:
            raise refused[0]
        return [
            [None] * len(names) if isinstance(answer, Exception) else answer
            for names, answer in zip(wanted.values(), answers, strict=True)
        ]

    async def whole(self, key: str) -> dict[str, str]:
        """Return all fields of one key.  Raises RedisError."""
        fields: dict[str, str] = await self._redis.hgetall(key)
        return fields

    async def put(self, rows: Iterable[StoredRow]) -> int:
        """Write ROWS_PER_TRIP_MAX rows in a round trip.  Raises RedisError; what was written stays."""
        written = unsent = 0
        async with self._redis.pipeline(transaction=False) as pipe:
            for key, name, value in rows:
                if value is None:
                    pipe.hdel(key, name)
                else:
                    pipe.hset(key, name, stored_text(value))
                written, unsent = written + 1, unsent + 1
                if unsent == ROWS_PER_TRIP_MAX:
                    await pipe.execute()
                    unsent = 0
            await pipe.execute()
        return written

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


class SqliteHashes:
    """Hashes in one SQLite table, for a single machine; used in a thread."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def get(self, wanted: Mapping[str, Sequence[str]]) -> list[list[str | None]]:
        """Read the keys' rows.  A file that is not there has no keys.  Raises sqlite3.Error."""
        return await asyncio.to_thread(self._get, wanted)

    async def whole(self, key: str) -> dict[str, str]:
        """Return all fields of one key.  Raises sqlite3.Error."""
        return {name: text for _, name, text in await asyncio.to_thread(self._rows, [key])}

    async def put(self, rows: Iterable[StoredRow]) -> int:
        """Write all rows in one transaction: readers see all of them or none.  Raises sqlite3.Error."""
        return await asyncio.to_thread(store_features, self._path, rows)

    async def close(self) -> None:
        """Do nothing: no connection is held between uses."""

    def _get(self, wanted: Mapping[str, Sequence[str]]) -> list[list[str | None]]:
        rows = {(key, name): text for key, name, text in self._rows(list(wanted))}
        return [[rows.get((key, name)) for name in names] for key, names in wanted.items()]

    def _rows(self, keys: Sequence[str]) -> list[tuple[str, str, str]]:
        if not self._path.exists():
            return []
        rows: list[tuple[str, str, str]] = []
        with closing(_open(self._path, READ_BUSY_S)) as database:
            for start in range(0, len(keys), KEYS_PER_QUERY_MAX):
                some = keys[start : start + KEYS_PER_QUERY_MAX]
                marks = ",".join("?" * len(some))
                query = f"SELECT key, field, value FROM static_features WHERE key IN ({marks})"  # noqa: S608
                rows += database.execute(query, some)
        return rows


def store_features(path: Path, rows: Iterable[StoredRow]) -> int:
    """Write (key, field, value) rows to the embedded store, None removing one; return how many.

    All in one transaction, which readers do not wait for.  Raises OSError, sqlite3.Error.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with closing(_open(path, WRITE_BUSY_S)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        with database:
            for key, name, value in rows:
                written += 1
                if value is None:
                    database.execute("DELETE FROM static_features WHERE key = ? AND field = ?", (key, name))
                else:
                    database.execute(
                        "INSERT OR REPLACE INTO static_features VALUES (?, ?, ?)",
                        (key, name, stored_text(value)),
                    )
    return written


def _open(path: Path, busy_s: float) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=busy_s)
    database.execute(
        "CREATE TABLE IF NOT EXISTS static_features "
        "(key TEXT, field TEXT, value TEXT NOT NULL, PRIMARY KEY (key, field)) WITHOUT ROWID"
    )
    return database


async def load_static(rows: Iterable[StaticRow], settings: Settings) -> tuple[int, int]:
    """Write the newest value of each field into the store; return rows read, fields written.

    Fields that no row names stay.  All rows are read before anything is written.  Raises SettingsError where
    the store does not take them.
    """
    history = AsOf(rows)
    store = static_store(settings)
    try:
        return history.rows, await store.put(history.newest())
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
