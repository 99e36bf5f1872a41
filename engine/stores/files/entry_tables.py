"""A checkpoint's entries in SQLite: a delta is written at once, the rows are read all at once or one by one.

Lives here: the two tables, what is checked of their rows, and the file in which a run over files keeps
answers that are too many for memory.  Never here: claims, a worker's files (`sqlite_checkpoints.py`), what an
entry means, which answers leave memory (`operators/join/pending.py`).

    entry   what a restore needs in memory; a sum over all checksums tells a row that is lost, or old
    apart   what may be too much for memory: each has its checksum, looked at when it is read, and a sum over
            their names tells one that is lost; a restore reads the names, in the index, and no value

Strategy.  A save of 15,000 entries runs in a thread beside the loop and must not fight it for the
interpreter.  So entries go to SQLite packed, a whole batch in each of three statements, and SQLite takes
them apart: one statement per row takes the interpreter's lock 30,000 times, and twice the processor time.
Rows of `apart` lie in the order in which they came, beside an index of their names: most leave in the same
order, values of 2 KB fill their pages, and a name that is not there costs a look at the index alone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import lt
from typing import Any, NamedTuple, Protocol
from zlib import crc32

from operators.join.pending import SPILLED
from operators.state import StateDelta
from topics.codec import encode_json
from topics.errors import CheckpointError

__all__ = [
    "EMPTY_TALLY",
    "SCHEMA",
    "SUM_MODULUS",
    "Apart",
    "Spill",
    "Tally",
    "intact",
    "names_apart",
    "write",
    "write_names",
]

BATCH_BYTES_MAX = 16_777_216
"""Names and values given to SQLite at once, plus one entry; its own limit is 1 GB."""
SUM_MODULUS = 2**62
"""The sum of row checksums fits SQLite's signed 64-bit integer."""

SCHEMA = """
CREATE TABLE entry (name TEXT PRIMARY KEY, value BLOB NOT NULL, sum INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE apart (name TEXT PRIMARY KEY NOT NULL, value BLOB NOT NULL, sum INTEGER NOT NULL);
"""

# A batch is three parameters: a JSON list with one array per entry, all names joined, all values joined.
# The array: place of the name, length, checksum; for an entry that stays also place of the value, length,
# checksum of both.
_NAME = "CAST(substr(?2, json_extract(one.value, '$[0]'), json_extract(one.value, '$[1]')) AS TEXT)"
_VALUE = "coalesce(substr(?3, json_extract(one.value, '$[3]'), json_extract(one.value, '$[4]')), x'')"
_NAMED = "json_extract(one.value, '$[2]')"


class _Statements(NamedTuple):
    old: str
    delete: str
    insert: str


def _statements(table: str, counted: str) -> _Statements:
    return _Statements(
        f"SELECT {counted} FROM json_each(?1) AS one JOIN {table} AS found ON found.name = {_NAME}",  # noqa: S608 - constants
        f"DELETE FROM {table} WHERE name IN"  # noqa: S608
        f" (SELECT {_NAME} FROM json_each(?1) AS one WHERE json_array_length(one.value) = 3)",
        f"INSERT INTO {table} SELECT {_NAME}, {_VALUE}, json_extract(one.value, '$[5]')"  # noqa: S608
        " FROM json_each(?1) AS one WHERE json_array_length(one.value) = 6"
        " ON CONFLICT (name) DO UPDATE SET value = excluded.value, sum = excluded.sum",
    )


_ENTRY = _statements("entry", "count(*), coalesce(sum(found.sum), 0)")
_APART = _statements("apart", f"count(*), coalesce(sum({_NAMED}), 0)")
_CHANGED = f"INSERT INTO changed SELECT {_NAME} FROM json_each(?1) AS one"  # noqa: S608
_GET = f"""
SELECT found.name, found.value, found.sum
FROM json_each(?1) AS one JOIN apart AS found ON found.name = {_NAME}
"""  # noqa: S608
_SCAN = "SELECT name FROM apart WHERE name > ? AND name < ? ORDER BY name LIMIT ?"
_HOW_MANY = "SELECT count(*) FROM apart WHERE name >= ? AND name < ?"
NAMES_AT_ONCE = 10_000
"""Read of the index together."""


class Tally(NamedTuple):
    """The counts and the checksum that the rows must add up to."""

    rows: int
    """Of `entry`."""
    total: int
    """Of their checksums."""
    apart: int
    """Rows of `apart`."""
    names: int = 0
    """Of the checksums of the names in `apart`."""


EMPTY_TALLY = Tally(0, 0, 0)


def write(
    database: sqlite3.Connection, delta: Mapping[str, bytes | None], apart: tuple[str, ...], before: Tally
) -> Tally:
    """Write the entries that changed, None removes one; return what the rows add up to after it.

    Names that begin with one of `apart` go to the table of that name.
    """
    rows, total, aside, names = before
    beside = [name for name in delta if name.startswith(apart)]
    others = delta.keys() - beside if beside else delta
    for added, batch, old_total in _changes(database, _ENTRY, sorted(others), delta):
        rows += added
        total += batch.total - old_total
    for added, batch, old_total in _changes(database, _APART, sorted(beside), delta):
        aside += added
        names += batch.named - old_total
    return Tally(rows, total % SUM_MODULUS, aside, names % SUM_MODULUS)


def _changes(
    database: sqlite3.Connection, table: _Statements, names: Sequence[str], delta: Mapping[str, bytes | None]
) -> Iterator[tuple[int, _Batch, int]]:
    """Write batch by batch; yield how many rows each has added, the batch, and the sum of what was there."""
    for batch in _packed(names, delta):
        places, named = encode_json(batch.places).decode(), b"".join(batch.names)
        old_rows, old_total = database.execute(table.old, (places, named)).fetchone()
        database.execute(table.delete, (places, named))
        database.execute(table.insert, (places, named, b"".join(batch.values)))
        yield len(batch.values) - old_rows, batch, old_total


def write_names(database: sqlite3.Connection, delta: Mapping[str, bytes | None]) -> None:
    """Note which entries a delta writes or removes, in the place of those noted before."""
    database.execute("DELETE FROM changed")
    for batch in _packed(sorted(delta), dict.fromkeys(delta)):
        database.execute(_CHANGED, (encode_json(batch.places).decode(), b"".join(batch.names)))


class _Batch:
    """Some entries of a delta, as the statements take them."""

    def __init__(self) -> None:
        self.places: list[tuple[int, ...]] = []
        self.names: list[bytes] = []
        self.values: list[bytes] = []
        self.total = self.named = 0
        """Sums of the checksums of the entries that stay, and of those of their names."""


def _packed(names: Sequence[str], delta: Mapping[str, bytes | None]) -> Iterator[_Batch]:
    """Cut entries into batches, by name, so that neighbours in the file are written together."""
    batch = _Batch()
    name_at = value_at = 1  # SQLite counts from 1
    for text in names:
        name, value = text.encode(), delta[text]
        named = crc32(name)
        batch.names.append(name)
        if value is None:
            batch.places.append((name_at, len(name), named))
        else:
            checksum = crc32(value, named)
            batch.places.append((name_at, len(name), named, value_at, len(value), checksum))
            batch.values.append(value)
            batch.total += checksum
            batch.named += named
            value_at += len(value)
        name_at += len(name)
        if name_at + value_at > BATCH_BYTES_MAX:
            yield batch
            batch, name_at, value_at = _Batch(), 1, 1
    if batch.places:
        yield batch


def intact(name: object, value: object, checksum: object) -> bool:
    """Return whether a row is as it was written; a damaged file may hold values of any type."""
    if not (isinstance(name, str) and isinstance(value, bytes)):
        return False
    return checksum == crc32(value, crc32(name.encode()))


def names_apart(database: sqlite3.Connection) -> tuple[int, int]:
    """Return how many names `apart` has, and the sum of their checksums; reads the index alone.

    Raises ValueError where one is no name, or stands out of order and so would not be found.
    """
    count = total = 0
    last = ""
    rows = database.execute("SELECT name FROM apart ORDER BY name")
    while found := rows.fetchmany(NAMES_AT_ONCE):
        names = [name for (name,) in found]
        if {*map(type, names)} != {str} or not all(map(lt, [last, *names], names)):
            raise ValueError("names of waiting answers are out of order")
        count, total, last = count + len(names), total + sum(map(crc32, map(str.encode, names))), names[-1]
    return count, total % SUM_MODULUS


class Apart:
    """Entries under `prefix` that are read one by one: `operators.state.StoredEntries`.

    `query` runs a statement and returns its rows; `damaged` raises the error for a row that is not what was
    written.
    """

    def __init__(
        self,
        query: Callable[[str, tuple[Any, ...]], list[Any]],
        damaged: Callable[[str], Exception],
        prefix: str,
    ) -> None:
        self._query = query
        self._damaged = damaged
        self._prefix = prefix

    def get(self, names: Sequence[str]) -> dict[str, bytes]:
        """Return those of these entries that are there."""
        cut = len(self._prefix)
        wanted = [(self._prefix + name).encode() for name in names]
        places, at = [], 1
        for name in wanted:
            places.append((at, len(name)))
            at += len(name)
        values: dict[str, bytes] = {}
        for text, value, checksum in self._query(_GET, (encode_json(places).decode(), b"".join(wanted))):
            if not intact(text, value, checksum):
                raise self._damaged(f"entry {text!r} does not match its checksum")
            values[text[cut:]] = value
        return values

    def scan(self, after: str, before: str, count: int) -> list[str]:
        """Return the first `count` names between `after` and `before`, both excluded, in order."""
        cut, bounds = len(self._prefix), (self._prefix + after, self._prefix + before)
        return [name[cut:] for (name,) in self._query(_SCAN, (*bounds, count))]

    def count(self, prefix: str) -> int:
        """Return how many names begin with `prefix`."""
        first = self._prefix + prefix
        ((count,),) = self._query(_HOW_MANY, (first, first[:-1] + chr(ord(first[-1]) + 1)))
        return int(count)


class Spilling(Protocol):
    """What may have too many entries for memory."""

    def delta(self) -> StateDelta:
        """Return the entries that changed since the last call."""
        ...

    def committed(self) -> None:
        """Record that every delta so far is stored."""
        ...


class Spill:
    """A temporary file that takes the entries of a join, or of races, when too many are in memory.

    It is created when it is first needed.  A worker's lie in its checkpoints.  `prefixes` begin the names of
    the entries that it takes.
    """

    def __init__(self, prefixes: tuple[str, ...] = SPILLED) -> None:
        self._prefixes = prefixes
        self.stored = Apart(self._query, CheckpointError, "")
        """The entries in the file, as the join reads them."""
        self._tally = EMPTY_TALLY
        self._connection: sqlite3.Connection | None = None

    def relieve(self, full: Spilling) -> None:
        """Write what changed to the file, so that what is too much may leave memory."""
        prefixes = self._prefixes
        delta = {name: data for name, data in full.delta().items() if name.startswith(prefixes)}
        try:
            database = self._opened()
            database.execute("BEGIN")
            self._tally = write(database, delta, prefixes, self._tally)
            database.execute("COMMIT")
        except sqlite3.Error as error:
            raise _failed(error) from error
        full.committed()

    def _query(self, statement: str, parameters: tuple[Any, ...]) -> list[Any]:
        try:
            return self._opened().execute(statement, parameters).fetchall()
        except sqlite3.Error as error:
            raise _failed(error) from error

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            # An empty name: SQLite makes a file in its directory for temporary ones, and nobody else sees it.
            self._connection = sqlite3.connect("", isolation_level=None)
            self._connection.executescript(f"PRAGMA journal_mode = OFF; {SCHEMA}")
        return self._connection


def _failed(error: sqlite3.Error) -> CheckpointError:
    return CheckpointError(
        f"answers that wait for labels cannot be kept on disk: {error}",
        hint="is the directory for temporary files full? SQLITE_TMPDIR names another; or lower pending_max",
    )
