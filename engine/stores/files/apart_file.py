"""Entries kept apart, of a checkpoint that lies on another machine.

Lives here: a file of this process that has them while it owns the partition.  Never here: its tables
(`entry_tables.py`), where the checkpoint is.

Strategy.  The loop asks for such entries one by one and must not wait for a network.  So a restore copies
them into a file, and each committed checkpoint is written there too.  The file has no name: it is gone with
the process, and another process never finds it.
"""

from __future__ import annotations

import sqlite3
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.stores.files.entry_tables import EMPTY_TALLY, SCHEMA, SUM_MODULUS, Tally, write
from topics.errors import CheckpointError

__all__ = ["ApartFile"]


class ApartFile:
    """A file without a name in `directory` that holds entries kept apart.

    Raises CheckpointError where the disk refuses.  One thread may write while another reads.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=directory, prefix="apart-") as folder:
                path = Path(folder) / "entries.sqlite"
                self._writing = _connect(path)
                self._writing.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; {SCHEMA}")
                self._reading = _connect(path)
                self._reading.execute("PRAGMA query_only = ON").fetchall()
                # The write-ahead log is opened at the first read, before the names go.
                self._reading.execute("SELECT count(*) FROM apart").fetchall()
        except (OSError, sqlite3.Error) as error:
            raise self._failed(error) from error

    def write(self, delta: Mapping[str, bytes | None]) -> None:
        """Write entries, None removes one, all at once."""
        if not delta:
            return
        with self._lock:
            try:
                self._writing.execute("BEGIN")
                write(self._writing, delta, ("",), EMPTY_TALLY)
                self._writing.execute("COMMIT")
            except sqlite3.Error as error:
                raise self._failed(error) from error

    def tally(self) -> Tally:
        """Return how many entries there are, as rows, and the sum of their checksums."""
        rows, total = 0, 0
        for (checksum,) in self._reading.execute("SELECT sum FROM apart"):
            rows, total = rows + 1, total + checksum
        return Tally(rows, total % SUM_MODULUS, 0)

    def query(self, statement: str, parameters: tuple[Any, ...]) -> list[Any]:
        """Run a statement of `Apart` and return its rows."""
        try:
            return self._reading.execute(statement, parameters).fetchall()
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Close the file, which is its end."""
        with self._lock:
            self._reading.close()
            self._writing.close()

    def _failed(self, what: object) -> CheckpointError:
        return CheckpointError(
            f"answers that wait for labels cannot be kept in {self._directory}: {what}",
            hint="is the disk of HEADRACE_STATE_DIR full, read-only or failing? The checkpoint is intact",
        )


def _connect(path: Path) -> sqlite3.Connection:
    # A thread writes, the loop reads: each connection is used by one at a time.
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False)
