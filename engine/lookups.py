"""Static features: what a store knows about a merchant, a card, an airport.

Lives here: one round trip per batch, a cache, a deadline.  Never here: which keys an event
needs (`operators/expressions.py` renders them), defaults (the features' own).

Strategy.  A value that cannot be had in time is missing, never waited for: predictions go
out with the feature's default, and the outcome is counted.  After a failure the store is
left alone for a while, so that an outage costs one deadline per pause, not one per batch.
What was logged with the prediction is what is learned, so a late or changed value never
makes training differ from serving.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from redis.asyncio import Redis
from redis.exceptions import RedisError

from topics.errors import SettingsError

__all__ = ["Address", "Lookups", "RedisHashes", "SqliteHashes", "StoredValue", "store_features"]

Address = tuple[str, str]
"""Key of a hash and the name of a field in it: ("merchant:7", "risk")."""
StoredValue = str | float | int | None
"""None: there is no such key or field, or it could not be had in time."""

DEADLINE_MS = 50
"""A batch never waits longer; a healthy store answers hundreds of keys in 2 ms."""
PAUSE_MS = 2_000
"""After a failure the store is not asked for this long."""
TTL_MS = 60_000
"""Static features change by the day: a minute of the old value is no harm, and most reads are spared."""
CACHED_MAX = 100_000
"""Values kept, about 20 MB; the oldest go first."""
KEYS_PER_QUERY_MAX = 500
"""SQLite takes 999 bound values in a statement in its oldest builds; each address needs its key."""

DIGITS_MAX = 32
"""A longer text is no quantity."""
ANSWER_MAX_S = 5.0
"""Redis may take this long to connect or answer before its connection is given up."""
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
"""JSON's numbers: "007" and "1_000" are text, as are "nan" and "inf"."""


class Hashes(Protocol):
    """A store of hashes with text fields."""

    async def get(self, wanted: Mapping[str, Sequence[str]]) -> list[list[str | None]]:
        """Return, per key and in order, the values of its wanted fields.  May raise; may be slow."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class Lookups:
    """Look-ups with a cache in front of a store.

    `outcomes` counts values by how they were come by: `cached`, `found`, `missing`,
    `unavailable` (deadline, error, or within the pause after one).  `clock` gives seconds
    that never go back.
    """

    def __init__(
        self,
        store: Hashes,
        *,
        clock: Callable[[], float],
        ttl_ms: int = TTL_MS,
        deadline_ms: int = DEADLINE_MS,
    ) -> None:
        self._store = store
        self._clock = clock
        self._ttl_s = ttl_ms / 1000
        self._deadline_s = deadline_ms / 1000
        self._cache: dict[Address, tuple[float, StoredValue]] = {}
        self._asked_again_at = 0.0
        self._reading: asyncio.Task[dict[Address, StoredValue] | None] | None = None
        self.outcomes: Counter[str] = Counter()
        self.last_error = ""

    async def fetch(self, addresses: Sequence[Address]) -> dict[Address, StoredValue]:
        """Return a value for every address, within the deadline and without raising.

        Numbers come as int or float, everything else as text.
        """
        now = self._clock()
        values: dict[Address, StoredValue] = {}
        unknown: dict[Address, None] = {}
        for address in dict.fromkeys(addresses):
            until, value = self._cache.get(address, (now, None))
            if until > now:
                values[address] = value
            else:
                unknown[address] = None
        self.outcomes["cached"] += len(values)
        if unknown:
            values |= await self._ask(tuple(unknown), now)
        return values

    async def _ask(self, addresses: Sequence[Address], now: float) -> dict[Address, StoredValue]:
        if now < self._asked_again_at or (self._reading is not None and not self._reading.done()):
            return self._unavailable(addresses)
        self._reading = asyncio.create_task(self._read(addresses))
        # Not cancelled when the deadline passes: a connection that is half-way through an answer
        # could not be used again, and what comes late still fills the cache.
        await asyncio.wait({self._reading}, timeout=self._deadline_s)
        found = self._reading.result() if self._reading.done() else None
        return self._unavailable(addresses) if found is None else found

    async def _read(self, addresses: Sequence[Address]) -> dict[Address, StoredValue] | None:
        """Ask the store and remember; None after an error."""
        wanted: dict[str, list[str]] = {}
        for key, name in addresses:
            wanted.setdefault(key, []).append(name)
        try:
            answers = await self._store.get(wanted)
        except (OSError, RedisError, sqlite3.Error) as error:
            self.last_error = f"{type(error).__name__}: {error}"
            self._asked_again_at = self._clock() + PAUSE_MS / 1000
            return None
        found: dict[Address, StoredValue] = {}
        until = self._clock() + self._ttl_s
        for (key, names), texts in zip(wanted.items(), answers, strict=True):
            for name, text in zip(names, texts, strict=True):
                value = None if text is None else parsed(text)
                self.outcomes["missing" if value is None else "found"] += 1
                found[key, name] = value
                self._cache.pop((key, name), None)
                self._cache[key, name] = (until, value)
        while len(self._cache) > CACHED_MAX:
            del self._cache[next(iter(self._cache))]
        return found

    def _unavailable(self, addresses: Sequence[Address]) -> dict[Address, StoredValue]:
        """Fall back on what the cache still has, however old: better than a default."""
        values: dict[Address, StoredValue] = {}
        for address in addresses:
            _, values[address] = self._cache.get(address, (0.0, None))
        self.outcomes["unavailable"] += len(addresses)
        return values

    async def close(self) -> None:
        """Let go of the store."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})
        await self._store.close()


def parsed(text: str) -> StoredValue:
    """Return a stored text as the number it spells, or as it is.

    >>> [parsed(text) for text in ("12", "-1.5e3", "007", "nan", "1_000")]
    [12, -1500.0, '007', 'nan', '1_000']
    """
    number = _NUMBER.fullmatch(text) if len(text) <= DIGITS_MAX else None
    if number is None:
        return text
    if number[2] is None and number[3] is None:
        return int(text)
    value = float(text)
    return text if value in {float("inf"), float("-inf")} else value


class RedisHashes:
    """Hashes in Redis: all keys of a batch in one pipelined round trip (HMGET)."""

    def __init__(self, url: str) -> None:
        try:
            self._redis: Any = Redis.from_url(
                url,
                decode_responses=True,
                socket_connect_timeout=ANSWER_MAX_S,
                socket_timeout=ANSWER_MAX_S,
            )
        except ValueError as error:
            raise SettingsError(
                f"redis_url is no address of a Redis: {error}",
                hint="redis://host:6379/0, or rediss:// for TLS",
            ) from None

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

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


class SqliteHashes:
    """The same in one table of a file, for a single machine; read in a thread."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def get(self, wanted: Mapping[str, Sequence[str]]) -> list[list[str | None]]:
        """Read the keys' rows.  A file that is not there has no keys.  Raises sqlite3.Error."""
        return await asyncio.to_thread(self._get, wanted)

    def _get(self, wanted: Mapping[str, Sequence[str]]) -> list[list[str | None]]:
        rows: dict[Address, str] = {}
        keys = list(wanted)
        if self._path.exists():
            with closing(_open(self._path)) as database:
                for start in range(0, len(keys), KEYS_PER_QUERY_MAX):
                    some = keys[start : start + KEYS_PER_QUERY_MAX]
                    marks = ",".join("?" * len(some))
                    query = f"SELECT key, field, value FROM static_features WHERE key IN ({marks})"  # noqa: S608
                    rows |= {(key, name): value for key, name, value in database.execute(query, some)}
        return [[rows.get((key, name)) for name in names] for key, names in wanted.items()]

    async def close(self) -> None:
        """Nothing is held between reads."""


def store_features(path: Path, rows: Iterable[tuple[str, str, StoredValue]]) -> int:
    """Write (key, field, value) rows to the embedded store, None removing one; return how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with closing(_open(path)) as database, database:
        for key, name, value in rows:
            written += 1
            if value is None:
                database.execute("DELETE FROM static_features WHERE key = ? AND field = ?", (key, name))
            else:
                database.execute(
                    "INSERT OR REPLACE INTO static_features VALUES (?, ?, ?)", (key, name, str(value))
                )
    return written


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=DEADLINE_MS / 1000)
    database.execute(
        "CREATE TABLE IF NOT EXISTS static_features "
        "(key TEXT, field TEXT, value TEXT NOT NULL, PRIMARY KEY (key, field)) WITHOUT ROWID"
    )
    return database
