"""Checkpoints of one machine: one SQLite file per pipeline, role and partition.

Lives here: how a file keeps the protocol of `checkpoints.py`.  Never here: the tables of its entries
(`entry_tables.py`).

Strategy.  One transaction holds the changed entries, the positions and the claim.  SQLite does not check its
pages' contents, so every row carries a checksum and the head row a sum over all of them.  Entries that are
kept apart have a table of their own, which `stored` reads by a connection that waits for no save.

The directory must be on a local disk: SQLite's write-ahead log does not work over a network
file system.  Several processes of one machine may share it, claims keep them apart.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from engine.stores.checkpoints import Checkpoint, Head, OwnerRole, seal_of
from engine.stores.entry_tables import (
    EMPTY_TALLY,
    SCHEMA,
    SUM_MODULUS,
    Apart,
    Tally,
    intact,
    names_apart,
    write,
)
from engine.stores.reading import Reading
from topics.errors import CheckpointError, ClaimError, StoreUnavailableError

__all__ = ["SqliteCheckpoints"]

FORMAT = 3
"""Kept in the file (`user_version`); another format is refused, never guessed at."""
BUSY_DEADLINE_S = 5.0
"""Another process of this machine may hold the file for one save: milliseconds."""
READ_MAX = 10_000
"""Rows read between two looks at the clock, some 15 ms."""
PAGE_BYTES = 8_192
"""Four waiting answers; in SQLite's own pages of half the size some fit only once."""

_SCHEMA = f"""
PRAGMA page_size = {PAGE_BYTES};
PRAGMA user_version = {FORMAT};
CREATE TABLE owner (id INTEGER PRIMARY KEY CHECK (id = 1), claim INTEGER NOT NULL, seal BLOB NOT NULL);
CREATE TABLE head (id INTEGER PRIMARY KEY CHECK (id = 1), claim INTEGER NOT NULL, meta BLOB NOT NULL,
                   rows INTEGER NOT NULL, sum INTEGER NOT NULL, apart INTEGER NOT NULL, seal BLOB NOT NULL);
{SCHEMA}"""
_NAMES = """
CREATE TABLE IF NOT EXISTS names (id INTEGER PRIMARY KEY CHECK (id = 1), sum INTEGER NOT NULL,
                                  seal BLOB NOT NULL)
"""
"""Beside the head, whose format is older than this sum."""


class SqliteCheckpoints:
    """The checkpoints of one partition of one pipeline in a file.

    Entries whose names begin with one of `apart` are read one by one.

    Every asynchronous method runs in a thread, so that a slow disk does not hold the loop.  Raises
    StoreUnavailableError if the disk refuses, CheckpointError if the file cannot be trusted, both naming it.
    """

    def __init__(
        self,
        directory: Path,
        pipeline: str,
        role: OwnerRole,
        partition: int,
        *,
        apart: tuple[str, ...] = (),
    ) -> None:
        self.path = directory / pipeline / f"{role}-{partition}.sqlite"
        self._identity = f"{pipeline}/{role}/{partition}"
        self._apart = apart
        self._connection: sqlite3.Connection | None = None
        self._reading: sqlite3.Connection | None = None
        """For entries kept apart: the loop asks for them, and must not wait for a save."""
        self._lock = threading.Lock()
        self._unsaved: dict[str, bytes | None] = {}
        self._seen: frozenset[bytes | None] = frozenset([None])
        """Seals of the heads that this owner may go on from: the one it knows, and the one on its way."""

    @property
    def place(self) -> str:
        """Return the file's name."""
        return str(self.path)

    async def fence(self, *, above: int = 0) -> int:
        """Become the owner: take the next claim number, above those of the file and `above`."""
        return await asyncio.to_thread(self._fence, above)

    async def save(self, claim: int, meta: bytes, delta: Mapping[str, bytes | None]) -> None:
        """Apply what changed (None removes an entry) and set `meta`, in one transaction.

        If the disk refuses, the old checkpoint stays whole, and the next save writes this
        delta too.  Raises ClaimError, with both numbers, if another owner has fenced.
        """
        await asyncio.to_thread(self._save, claim, meta, delta)

    async def load(self) -> Checkpoint | None:
        """Return the last checkpoint; the owner does not wait for it."""
        return await asyncio.to_thread(self._load)

    async def look(self) -> Head:
        """Return the claim and the meta of the store; changes nothing, and no owner waits for it."""
        return await asyncio.to_thread(self._look)

    def stored(self, prefix: str) -> Apart:
        """Return the entries that are kept apart under `prefix`, as the last checkpoint has them."""
        return Apart(self._query, self._corrupt, prefix)

    async def close(self) -> None:
        """Close the file; the store opens it again if asked."""
        await asyncio.to_thread(self._close)

    def _fence(self, above: int) -> int:
        with self._transaction() as database:
            claim = max(self._owner(database), above) + 1
            database.execute(
                "INSERT OR REPLACE INTO owner VALUES (1, ?, ?)", (claim, self._seal("owner", claim))
            )
            self._unsaved.clear()
            self._seen = frozenset([self._seal_of_head(database)])
            return claim

    def _save(self, claim: int, meta: bytes, delta: Mapping[str, bytes | None]) -> None:
        self._unsaved.update(delta)
        with self._transaction() as database:
            owner = self._owner(database)
            if owner != claim:
                raise ClaimError(
                    f"{self._identity} belongs to claim {owner}, this owner's is {claim}",
                    hint="another worker took the partition over; this one must stop writing to it",
                )
            self._check_seen(database)
            *counted, names = write(database, self._unsaved, self._apart, self._tally(database))
            seal = self._seal("head", claim, meta, *counted)
            self._seen |= {seal}
            database.execute(
                "INSERT OR REPLACE INTO head VALUES (1, ?, ?, ?, ?, ?, ?)", (claim, meta, *counted, seal)
            )
            database.execute(_NAMES)
            sealed = self._seal("names", seal, names)
            database.execute("INSERT OR REPLACE INTO names VALUES (1, ?, ?)", (names, sealed))
        self._unsaved.clear()
        self._seen = frozenset([seal])

    def _load(self) -> Checkpoint | None:
        if not self.path.exists():
            return None
        with self._transaction("BEGIN") as database:  # a reader never makes the owner wait
            found = self._read(database)
            self._seen = frozenset([self._seal_of_head(database)])
            return found

    def _look(self) -> Head:
        if not self.path.exists():
            return Head(0, None)
        with self._transaction("BEGIN") as database:
            head = self._head(database)
            return Head(self._owner(database), None if head is None else head[1])

    def _tally(self, database: sqlite3.Connection) -> Tally:
        """Return what the rows add up to before a save."""
        names = self._names(database)
        if names is None:
            _, names = self._names_apart(database)
        head = self._head(database)
        return EMPTY_TALLY if head is None else head[2]._replace(names=names)

    def _names(self, database: sqlite3.Connection) -> int | None:
        """Return what the names kept apart add up to; None where a Headrace saved that has no such sum."""
        if not database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'names'").fetchone()[0]:
            return None
        row, head = database.execute("SELECT sum, seal FROM names").fetchone(), self._seal_of_head(database)
        return row[0] if row and row[1] == self._seal("names", head, row[0]) else None

    def _names_apart(self, database: sqlite3.Connection) -> tuple[int, int]:
        try:
            return names_apart(database)
        except ValueError as error:
            raise self._corrupt(str(error)) from None

    def _owner(self, database: sqlite3.Connection) -> int:
        row = database.execute("SELECT claim, seal FROM owner").fetchone()
        if row is None:
            return 0
        if row[1] != self._seal("owner", row[0]):
            raise self._corrupt("the owner's number does not match its seal")
        claim: int = row[0]
        return claim

    def _seal_of_head(self, database: sqlite3.Connection) -> bytes | None:
        row = database.execute("SELECT seal FROM head").fetchone()
        return None if row is None else row[0]

    def _check_seen(self, database: sqlite3.Connection) -> None:
        """Raise ClaimError where the file holds another checkpoint than this owner goes on from.

        A save in its thread may commit while the loop asks: before that the head is one that was seen before
        asking, after it one that is seen now.
        """
        before = self._seen
        if self._seal_of_head(database) not in before | self._seen:
            raise ClaimError(
                f"{self.path} holds another checkpoint than the one this owner goes on from: it went back",
                hint="nothing to do: it claims again; look for a file that was put in this one's place",
            )

    def _head(self, database: sqlite3.Connection) -> tuple[int, bytes, Tally] | None:
        """Return claim and meta of the last checkpoint, and what its rows add up to."""
        head = database.execute("SELECT claim, meta, rows, sum, apart, seal FROM head").fetchone()
        if head is None:
            return None
        *sealed, seal = head
        if seal != self._seal("head", *sealed):
            raise self._corrupt("its head does not match its seal (damaged, or another partition's file)")
        claim, meta, *tally = sealed
        return claim, meta, Tally(*tally)

    def _read(self, database: sqlite3.Connection) -> Checkpoint | None:
        head = self._head(database)
        if head is None:
            return None
        claim, meta, tally = head
        entries: dict[str, bytes] = {}
        total = 0
        reading = Reading(self.place, tally.rows)
        rows = database.execute("SELECT name, value, sum FROM entry")
        while batch := rows.fetchmany(READ_MAX):
            size = 0
            for name, value, checksum in batch:
                if not intact(name, value, checksum):
                    raise self._corrupt(f"entry {name!r} does not match its checksum")
                entries[name] = value
                total += checksum
                size += len(name) + len(value)
            reading.add(len(batch), size)
        apart, names = self._names_apart(database)
        if (len(entries), apart) != (tally.rows, tally.apart):
            raise self._corrupt(
                f"{len(entries)} and {apart} entries were found, {tally.rows} and {tally.apart} were written"
            )
        if total % SUM_MODULUS != tally.total or self._names(database) not in (None, names):
            raise self._corrupt("entries are not those that were written")
        return Checkpoint(claim, meta, entries)

    def _seal(self, *parts: object) -> bytes:
        return seal_of(self._identity, *parts)

    @contextmanager
    def _transaction(self, begin: str = "BEGIN IMMEDIATE") -> Iterator[sqlite3.Connection]:
        """Run the block as one transaction; SQLite's errors are raised as CheckpointError."""
        with self._lock:
            try:
                database = self._open()
                database.execute(begin)
                try:
                    yield database
                    database.execute("COMMIT")
                except BaseException:
                    with suppress(sqlite3.Error):
                        database.execute("ROLLBACK")
                    raise
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                raise self._failed(error) from error
            except OSError as error:
                raise CheckpointError(
                    f"{self.path} cannot be used: {error}", hint="check HEADRACE_STATE_DIR and its owner"
                ) from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            if not self.path.exists():
                _create(self.path)
            if self.path.stat().st_size == 0:
                raise self._corrupt("the file is empty")
            connection = _connect(self.path)
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version != FORMAT:
                connection.close()
                raise CheckpointError(
                    f"{self.path} has format {version}, this Headrace reads {FORMAT}",
                    hint="run the Headrace that wrote it, or start anew with another state_dir",
                )
            self._connection = connection
        return self._connection

    def _query(self, statement: str, parameters: tuple[Any, ...]) -> list[Any]:
        """Return rows of what is committed, without the lock that a save holds."""
        try:
            if self._reading is None:
                self._reading = _connect(self.path)
                self._reading.execute("PRAGMA query_only = ON")
            self._check_seen(self._reading)
            return self._reading.execute(statement, parameters).fetchall()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise self._failed(error) from error

    def _close(self) -> None:
        with self._lock:
            for connection in (self._connection, self._reading):
                if connection is not None:
                    connection.close()
            self._connection = self._reading = None

    def _failed(self, error: Exception) -> CheckpointError:
        if isinstance(error, sqlite3.OperationalError):
            return StoreUnavailableError(
                f"{self.path} cannot be used now: {error}",
                hint="is the disk full, read-only or failing? The last checkpoint is intact",
            )
        return self._corrupt(str(error))

    def _corrupt(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path} cannot be trusted: {what}",
            hint="restore the file from a backup, however old, or move it away: the logs fill the gap",
        )


def _connect(path: Path) -> sqlite3.Connection:
    # One thread at a time: the store's lock sees to that.
    connection = sqlite3.connect(path, timeout=BUSY_DEADLINE_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        # A claim number must survive a power cut, or two owners would get the same one.
        connection.execute("PRAGMA synchronous = FULL")
    except BaseException:
        connection.close()
        raise
    return connection


def _create(path: Path) -> None:
    """Create the file under another name, then rename it: a file is whole, or it is damaged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(f".new-{os.getpid()}-{threading.get_ident()}")
    fresh.unlink(missing_ok=True)
    connection = sqlite3.connect(fresh, isolation_level=None)
    try:
        connection.executescript(_SCHEMA)
    finally:
        connection.close()
    try:
        with suppress(FileExistsError):  # another process of this machine was faster
            os.link(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
