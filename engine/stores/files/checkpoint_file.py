"""One SQLite file with one checkpoint: what lies in it, what is checked of it, and a copy of it.

Lives here: tables and seals of the file, errors that name it, a copy that follows it one checkpoint behind.
Never here: which of two files counts (`sqlite_checkpoints.py`), the tables of entries (`entry_tables.py`).

Strategy.  The copy is a file of its own, so that damage to one does not reach the other.  It follows by what
the last save changed: the names are in `changed`, the values are still in the file when the next save
begins.  Where the copy is of another checkpoint than the one before the last (it is new, it was moved, an
older Headrace wrote meanwhile), the file is copied whole.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from engine.stores.checkpoints import Checkpoint, seal_of
from engine.stores.files.entry_tables import (
    EMPTY_TALLY,
    SCHEMA,
    SUM_MODULUS,
    Tally,
    intact,
    names_apart,
    write,
    write_names,
)
from engine.stores.reading import Reading
from topics.errors import CheckpointError, StoreUnavailableError

__all__ = ["CheckpointFile", "DamagedError", "open_file", "statements"]

FORMAT = 3
"""Kept in the file (`user_version`); another format is refused, never guessed at."""
BUSY_DEADLINE_S = 5.0
"""Another process of this machine may hold the file for one save: milliseconds."""
READ_MAX = 10_000
"""Rows read between two looks at the clock, some 15 ms."""
PAGE_BYTES = 8_192
"""Four waiting answers; in SQLite's own pages of half the size some fit only once."""

LATER = """
CREATE TABLE IF NOT EXISTS changed (name TEXT PRIMARY KEY NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS names (id INTEGER PRIMARY KEY CHECK (id = 1), sum INTEGER NOT NULL,
                                  seal BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS follows (id INTEGER PRIMARY KEY CHECK (id = 1), seal BLOB NOT NULL, before BLOB);
"""
"""Tables that files of earlier versions lack: names that the last save wrote or removed; what the names kept
apart add up to, beside the head, whose format is older; the seals of the head and of the one before."""
_SCHEMA = f"""
PRAGMA page_size = {PAGE_BYTES};
PRAGMA user_version = {FORMAT};
CREATE TABLE owner (id INTEGER PRIMARY KEY CHECK (id = 1), claim INTEGER NOT NULL, seal BLOB NOT NULL);
CREATE TABLE head (id INTEGER PRIMARY KEY CHECK (id = 1), claim INTEGER NOT NULL, meta BLOB NOT NULL,
                   rows INTEGER NOT NULL, sum INTEGER NOT NULL, apart INTEGER NOT NULL, seal BLOB NOT NULL);
{SCHEMA}{LATER}"""
_FOLLOW = """
DELETE FROM main.entry WHERE name IN (SELECT name FROM last.changed);
INSERT INTO main.entry SELECT * FROM last.entry WHERE name IN (SELECT name FROM last.changed);
DELETE FROM main.apart WHERE name IN (SELECT name FROM last.changed);
INSERT INTO main.apart SELECT name, value, sum FROM last.apart
    WHERE name IN (SELECT name FROM last.changed) ORDER BY rowid;
INSERT OR REPLACE INTO main.head SELECT * FROM last.head;
INSERT OR REPLACE INTO main.names SELECT * FROM last.names;
INSERT OR REPLACE INTO main.owner SELECT * FROM last.owner;
DELETE FROM main.changed;
"""


class DamagedError(CheckpointError):
    """A file that is not what was written."""


class CheckpointFile:
    """A file with a checkpoint of `identity` (pipeline, role, partition), opened when it is first used.

    Raises DamagedError for what cannot be trusted, CheckpointError for what cannot be used now or has another
    format; both name the file.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        self.connection: sqlite3.Connection | None = None
        self._identity = identity
        self._lock = threading.Lock()

    @contextmanager
    def transaction(self, begin: str = "BEGIN IMMEDIATE") -> Iterator[sqlite3.Connection]:
        """Run the block as one transaction."""
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
                raise self.failed(error) from error
            except OSError as error:
                raise CheckpointError(
                    f"{self.path} cannot be used: {error}", hint="check HEADRACE_STATE_DIR and its owner"
                ) from error

    def tidy(self) -> None:
        """Empty the write-ahead log, where old pages lie, unless somebody reads at this moment."""
        with self._lock:
            if self.connection is None:
                return
            try:
                self.connection.execute("PRAGMA busy_timeout = 0")
                try:
                    self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                finally:
                    self.connection.execute(f"PRAGMA busy_timeout = {int(BUSY_DEADLINE_S * 1000)}")
            except sqlite3.DatabaseError as error:
                raise self.failed(error) from error

    def close(self) -> None:
        """Close the file; it is opened again if asked."""
        with self._lock:
            connection, self.connection = self.connection, None
            if connection is not None:
                connection.close()

    # -- what lies in it ----------------------------------------------------------------------------

    def owner(self, database: sqlite3.Connection) -> int:
        """Return the claim number handed out last; 0: none."""
        row = database.execute("SELECT claim, seal FROM owner").fetchone()
        if row is None:
            return 0
        if row[1] != self.seal("owner", row[0]):
            raise self.corrupt("the owner's number does not match its seal")
        claim: int = row[0]
        return claim

    def own(self, database: sqlite3.Connection, claim: int) -> None:
        """Write the claim number that is handed out."""
        database.execute("INSERT OR REPLACE INTO owner VALUES (1, ?, ?)", (claim, self.seal("owner", claim)))

    def head(self, database: sqlite3.Connection) -> tuple[int, bytes, Tally] | None:
        """Return claim and meta of the last checkpoint, and what its rows add up to."""
        head = database.execute("SELECT claim, meta, rows, sum, apart, seal FROM head").fetchone()
        if head is None:
            return None
        *sealed, seal = head
        if seal != self.seal("head", *sealed):
            raise self.corrupt("its head does not match its seal (damaged, or another partition's file)")
        claim, meta, *tally = sealed
        return claim, meta, Tally(*tally)

    def read(self, database: sqlite3.Connection) -> Checkpoint | None:
        """Return the checkpoint, every row of it checked but for those kept apart, which are counted."""
        head = self.head(database)
        if head is None:
            return None
        claim, meta, tally = head
        entries: dict[str, bytes] = {}
        total = 0
        reading = Reading(str(self.path), tally.rows)
        rows = database.execute("SELECT name, value, sum FROM entry")
        while batch := rows.fetchmany(READ_MAX):
            size = 0
            for name, value, checksum in batch:
                if not intact(name, value, checksum):
                    raise self.corrupt(f"entry {name!r} does not match its checksum")
                entries[name] = value
                total += checksum
                size += len(name) + len(value)
            reading.add(len(batch), size)
        apart, names = self._names_apart(database)
        if (len(entries), apart) != (tally.rows, tally.apart):
            raise self.corrupt(
                f"{len(entries)} and {apart} entries were found, {tally.rows} and {tally.apart} were written"
            )
        if total % SUM_MODULUS != tally.total or self._names(database) not in (None, names):
            raise self.corrupt("entries are not those that were written")
        return Checkpoint(claim, meta, entries)

    def write(
        self,
        database: sqlite3.Connection,
        claim: int,
        meta: bytes,
        delta: Mapping[str, bytes | None],
        apart: tuple[str, ...],
    ) -> bytes:
        """Write a checkpoint, as what changed since the last one; return the seal of its head."""
        before = self.seal_of_head(database)
        *counted, names = write(database, delta, apart, self._tally(database))
        seal = self.seal("head", claim, meta, *counted)
        database.execute(
            "INSERT OR REPLACE INTO head VALUES (1, ?, ?, ?, ?, ?, ?)", (claim, meta, *counted, seal)
        )
        database.execute(
            "INSERT OR REPLACE INTO names VALUES (1, ?, ?)", (names, self.seal("names", seal, names))
        )
        write_names(database, delta)
        database.execute("INSERT OR REPLACE INTO follows VALUES (1, ?, ?)", (seal, before))
        return seal

    def _tally(self, database: sqlite3.Connection) -> Tally:
        """Return what the rows add up to before a save."""
        names = self._names(database)
        if names is None:
            _, names = self._names_apart(database)
        head = self.head(database)
        return EMPTY_TALLY if head is None else head[2]._replace(names=names)

    def _names(self, database: sqlite3.Connection) -> int | None:
        """Return what the names kept apart add up to; None where a Headrace saved that has no such sum."""
        if not database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'names'").fetchone()[0]:
            return None
        row, head = database.execute("SELECT sum, seal FROM names").fetchone(), self.seal_of_head(database)
        return row[0] if row and row[1] == self.seal("names", head, row[0]) else None

    def _names_apart(self, database: sqlite3.Connection) -> tuple[int, int]:
        try:
            return names_apart(database)
        except ValueError as error:
            raise self.corrupt(str(error)) from None

    def seal_of_head(self, database: sqlite3.Connection) -> bytes | None:
        """Return the seal of the last checkpoint; None before the first."""
        row = database.execute("SELECT seal FROM head").fetchone()
        return None if row is None else row[0]

    def seal(self, *parts: object) -> bytes:
        """Return the seal of `parts` of this partition."""
        return seal_of(self._identity, *parts)

    # -- the copy -----------------------------------------------------------------------------------

    def follow(self, last: Path) -> None:
        """Make this file a copy of the checkpoint in `last`; the caller keeps others from writing there."""
        try:
            if self.path.exists() and self._followed(last):
                return
        except DamagedError:
            pass  # a copy that is damaged is made anew
        self.close()
        self.copy(last)

    def _followed(self, last: Path) -> bool:
        """Take over what the last save changed; False where this file is of another checkpoint."""
        with self._lock:
            try:
                database = self._open()
                # A power cut may take back its last steps: then it is copied whole.
                database.execute("PRAGMA synchronous = NORMAL")
                database.execute("ATTACH DATABASE ? AS last", (address_of(last),))
                try:
                    database.execute("BEGIN")  # immediately, it would wait for who writes `last`
                    mine = database.execute("SELECT seal FROM main.head").fetchone()
                    theirs = database.execute("SELECT seal FROM last.head").fetchone()
                    if mine != theirs:
                        follows = database.execute("SELECT seal, before FROM last.follows").fetchone()
                        if follows is None or mine is None or follows != (*theirs, *mine):
                            return False
                        for statement in statements(_FOLLOW):
                            database.execute(statement)
                    database.execute("COMMIT")
                    return True
                finally:
                    if database.in_transaction:
                        database.execute("ROLLBACK")
                    database.execute("DETACH DATABASE last")
            except sqlite3.DatabaseError as error:
                raise self.failed(error) from error

    def copy(self, last: Path) -> None:
        """Put a whole copy of `last` in this file's place, which nobody has open."""
        fresh = _beside(self.path, "copy")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fresh.unlink(missing_ok=True)
            with closing(open_file(last)) as source, closing(sqlite3.connect(fresh)) as target:
                source.backup(target)
            with fresh.open("rb") as file:
                os.fsync(file.fileno())
            for suffix in ("-wal", "-shm"):  # of the file before: they would be read into this one
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
            fresh.replace(self.path)
        except sqlite3.OperationalError as error:
            raise self.failed(error) from error
        except sqlite3.DatabaseError as error:  # what is written anew is not damaged
            raise CheckpointFile(last, self._identity).failed(error) from error
        except OSError as error:
            raise StoreUnavailableError(
                f"{self.path} cannot be written now: {error.strerror}",
                hint="is the disk full, read-only or failing? The last checkpoint is intact",
            ) from error
        finally:
            fresh.unlink(missing_ok=True)

    # -- errors -------------------------------------------------------------------------------------

    def failed(self, error: Exception) -> CheckpointError:
        """Return what an error of SQLite means."""
        # SQLITE_ERROR: what we ask for is not in the file, such as a table.  No code: text that is none.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if isinstance(error, sqlite3.OperationalError) and code != sqlite3.SQLITE_ERROR:
            return StoreUnavailableError(
                f"{self.path} cannot be used now: {error}",
                hint="is the disk full, read-only or failing? The last checkpoint is intact",
            )
        return self.corrupt(str(error))

    def corrupt(self, what: str) -> DamagedError:
        """Return the error for content that is not what was written."""
        return DamagedError(
            f"{self.path} cannot be trusted: {what}",
            hint="restore the file from a backup, however old, or move it away: the logs fill the gap",
        )

    def _open(self) -> sqlite3.Connection:
        if self.connection is None:
            if not self.path.exists():
                _create(self.path)
            if self.path.stat().st_size == 0:
                raise self.corrupt("the file is empty")
            connection = open_file(self.path)
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version != FORMAT:
                connection.close()
                raise CheckpointError(
                    f"{self.path} has format {version}, this Headrace reads {FORMAT}",
                    hint="run the Headrace that wrote it, or start anew with another state_dir",
                )
            self.connection = connection
        return self.connection


def open_file(path: Path) -> sqlite3.Connection:
    """Open a file of checkpoints.  One thread may use the connection at a time."""
    connection = sqlite3.connect(
        address_of(path), uri=True, timeout=BUSY_DEADLINE_S, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        # A claim number must survive a power cut, or two owners would get the same one.
        connection.execute("PRAGMA synchronous = FULL")
        # What was removed leaves no bytes behind: a key that was erased is gone.
        connection.execute("PRAGMA secure_delete = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def address_of(path: Path) -> str:
    """Return a file's name as SQLite opens it without making one that is not there."""
    return f"{path.absolute().as_uri()}?mode=rw"


def statements(script: str) -> list[str]:
    """Return the statements of a script: run as a whole, it would end the transaction."""
    return [statement for statement in script.split(";") if statement.strip()]


def _beside(path: Path, what: str) -> Path:
    """Return a name that no other thread of no other process writes to."""
    return path.with_suffix(f".{what}-{os.getpid()}-{threading.get_ident()}")


def _create(path: Path) -> None:
    """Create the file under another name, then rename it: a file is whole, or it is damaged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = _beside(path, "new")
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
