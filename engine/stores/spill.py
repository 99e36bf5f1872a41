"""Where a run over files keeps answers that are too many for memory: in a file that goes with the process.

Lives here: that file.  Never here: which answers leave memory (`operators/join/pending.py`); a worker's lie
in its checkpoints (`checkpoints.py`).
"""

from __future__ import annotations

import sqlite3
from typing import Any

from engine.stores.entry_tables import EMPTY_TALLY, SCHEMA, Apart, write
from operators.join.join import Join
from topics.errors import CheckpointError

__all__ = ["Spill"]

APART = ("w/", "i/")
"""Entries of a join that may leave memory."""


class Spill:
    """Takes what has changed in a join when it holds too much; made on disk only then."""

    def __init__(self) -> None:
        self.stored = Apart(self._query, CheckpointError, "")
        """What the join reads."""
        self._tally = EMPTY_TALLY
        self._connection: sqlite3.Connection | None = None

    def relieve(self, join: Join[Any]) -> None:
        """Let half of what `join` may have in memory stay there."""
        delta = {name: data for name, data in join.delta().items() if name.startswith(APART)}
        try:
            database = self._opened()
            database.execute("BEGIN")
            self._tally = write(database, delta, APART, self._tally)
            database.execute("COMMIT")
        except sqlite3.Error as error:
            raise _failed(error) from error
        join.committed()

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
