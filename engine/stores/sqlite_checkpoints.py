"""Checkpoints of one machine: two SQLite files per pipeline, role and partition.

Lives here: how files keep the protocol of `checkpoints.py`, and which of the two counts.  Never here: what
lies in a file (`files/checkpoint_file.py`), the tables of its entries (`files/entry_tables.py`).

    scorer-0.sqlite            the last checkpoint
    scorer-0.previous.sqlite   the checkpoint before it, once there were two
    scorer-0.damaged.sqlite    a last checkpoint that was given up, kept to be looked at
    scorer-0.distrusted        damage that was met after the load, in entries that are read one by one

Strategy.  One transaction holds the changed entries, the positions and the claim.  SQLite does not check its
pages' contents, so every row carries a checksum and the head row a sum over all of them.  Entries that are
kept apart have a table of their own, which `stored` reads by a connection that waits for no save.  A save
first brings the previous file to where the last checkpoint is.  An owner that finds the last one damaged, or
gone, puts the previous in its place; the logs fill the gap, as after any store that went back.

The directory must be on a local disk: SQLite's write-ahead log does not work over a network
file system.  Several processes of one machine may share it, claims keep them apart.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import structlog

from engine.stores.checkpoints import Checkpoint, Head, OwnerRole
from engine.stores.files.checkpoint_file import LATER, CheckpointFile, DamagedError, open_file, statements
from engine.stores.files.entry_tables import Apart
from topics.errors import ClaimError

__all__ = ["SqliteCheckpoints"]

log = structlog.get_logger("headrace")
Found = TypeVar("Found")


class SqliteCheckpoints:
    """The checkpoints of one partition of one pipeline in files.

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
        self._identity = f"{pipeline}/{role}/{partition}"
        self.path = directory / pipeline / f"{role}-{partition}.sqlite"
        self._file = CheckpointFile(self.path, self._identity)
        self._previous = CheckpointFile(self.path.with_suffix(".previous.sqlite"), self._identity)
        self._distrusted = self.path.with_suffix(".distrusted")
        self._apart = apart
        self._reading: sqlite3.Connection | None = None
        """For entries kept apart: the loop asks for them, and must not wait for a save."""
        self._claim = 0
        """Ours; 0: this is no owner."""
        self._given_up = ""
        """Why the last checkpoint was given up, until the one before is loaded."""
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
        """Return the last checkpoint, or the one before where that is damaged; the owner does not wait.

        An owner goes back to the one before; anybody else only reads it.
        """
        return await asyncio.to_thread(self._load)

    async def look(self) -> Head:
        """Return the claim and the meta of the store; changes nothing, and no owner waits for it."""
        return await asyncio.to_thread(self._look)

    async def copy(self, last: Path) -> None:
        """Put a copy of the checkpoint in another file in the place of this store's, which nobody uses."""
        await asyncio.to_thread(self._file.copy, last)

    def stored(self, prefix: str) -> Apart:
        """Return the entries that are kept apart under `prefix`, as the last checkpoint has them."""
        return Apart(self._query, self._distrust, prefix)

    async def close(self) -> None:
        """Close the files; the store opens them again if asked."""
        await asyncio.to_thread(self._close)

    def _fence(self, above: int) -> int:
        try:
            return self._fenced(above)
        except DamagedError as damage:
            self._go_back(damage)
            return self._fenced(above)

    def _fenced(self, above: int) -> int:
        self._check_there()
        with self._file.transaction() as database:
            claim = max(self._file.owner(database), above) + 1
            for statement in statements(LATER):
                database.execute(statement)
            self._file.own(database, claim)
            self._unsaved.clear()
            self._seen = frozenset([self._file.seal_of_head(database)])
            if self._seen == {None}:  # what was known of a file that lay here before
                self._distrusted.unlink(missing_ok=True)
            self._claim = claim
            return claim

    def _save(self, claim: int, meta: bytes, delta: Mapping[str, bytes | None]) -> None:
        self._unsaved.update(delta)
        self._follow(claim)
        with self._file.transaction() as database:
            self._check_owner(database, claim)
            seal = self._file.write(database, claim, meta, self._unsaved, self._apart)
            self._seen |= {seal}  # before the loop can see it
        self._file.tidy()
        self._previous.tidy()
        self._unsaved.clear()
        self._seen = frozenset([seal])

    def _follow(self, claim: int) -> None:
        """Bring the previous file to where the last checkpoint is, while nobody else saves."""
        with self._file.transaction() as database:
            self._check_owner(database, claim)
            if self._file.seal_of_head(database) is not None:
                self._previous.follow(self.path)

    def _load(self) -> Checkpoint | None:
        try:
            found = self._loaded(self._file)
        except DamagedError as damage:
            if not self._claim:
                found = self._of_previous(damage, self._loaded)
                return found and found._replace(damage=damage.message)
            self._go_back(damage)
            found = self._loaded(self._file)
        given_up, self._given_up = self._given_up, ""
        return found and found._replace(damage=given_up)

    def _loaded(self, file: CheckpointFile) -> Checkpoint | None:
        if file is self._file:
            self._check_there()
        if not file.path.exists():
            return None
        with file.transaction("BEGIN") as database:  # a reader never makes the owner wait
            found = file.read(database)
            self._seen = frozenset([self._file.seal_of_head(database)])
            return found

    def _look(self) -> Head:
        try:
            return self._looked(self._file)
        except DamagedError as damage:
            return self._of_previous(damage, self._looked)

    def _looked(self, file: CheckpointFile) -> Head:
        if file is self._file:
            self._check_there()
        if not file.path.exists():
            return Head(0, None)
        with file.transaction("BEGIN") as database:
            head = file.head(database)
            return Head(file.owner(database), None if head is None else head[1])

    def _check_owner(self, database: sqlite3.Connection, claim: int) -> None:
        """Raise ClaimError where another owner has fenced, or the file is not the one that we know."""
        owner = self._file.owner(database)
        if owner != claim:
            raise ClaimError(
                f"{self._identity} belongs to claim {owner}, this owner's is {claim}",
                hint="another worker took the partition over; this one must stop writing to it",
            )
        self._check_seen(database)

    def _check_seen(self, database: sqlite3.Connection) -> None:
        """Raise ClaimError where the file holds another checkpoint than this owner goes on from.

        A save in its thread may commit while the loop asks: before that the head is one that was seen before
        asking, after it one that is seen now.
        """
        before = self._seen
        if self._file.seal_of_head(database) not in before | self._seen:
            raise ClaimError(
                f"{self.path} holds another checkpoint than the one this owner goes on from: it went back",
                hint="nothing to do: it claims again; look for a file that was put in this one's place",
            )

    # -- a last checkpoint that is damaged ----------------------------------------------------------

    def _check_there(self) -> None:
        """Raise DamagedError where the last checkpoint is gone or known as damaged, and there is another."""
        if not self._previous.path.exists():
            return
        if not self.path.exists():
            raise self._file.corrupt("the file is gone, and the checkpoint before it is there")
        if self._distrusted.exists():
            raise self._file.corrupt(self._distrusted.read_text(errors="replace"))

    def _distrust(self, what: str) -> DamagedError:
        """Return the error for damage that a load has not met, and see that the next load does."""
        if self._previous.path.exists():
            with suppress(OSError):
                self._distrusted.write_text(what)
        return self._file.corrupt(what)

    def _of_previous(self, damage: DamagedError, read: Callable[[CheckpointFile], Found]) -> Found:
        """Read the previous file; raise `damage` where there is none, or it is damaged as well."""
        if not self._previous.path.exists():
            raise damage
        try:
            return read(self._previous)
        except DamagedError:
            raise damage from None
        finally:
            self._previous.close()

    def _go_back(self, damage: DamagedError) -> None:
        """Put the previous checkpoint in the place of the last one, which is kept beside it.

        Raises `damage` where there is none that is whole.
        """
        self._of_previous(damage, self._loaded)
        with self._alone():
            self._close()
            if not self._whole():  # else another process was faster
                log.error(
                    "the last checkpoint is damaged: going back to the one before",
                    place=self.place,
                    reason=damage.message,
                )
                self._close()
                kept = self.path.with_suffix(".damaged.sqlite")
                kept.unlink(missing_ok=True)
                if self.path.exists():
                    os.link(self.path, kept)
                self._file.copy(self._previous.path)
                self._distrusted.unlink(missing_ok=True)
                self._given_up = damage.message
            if self._claim:
                with self._file.transaction() as database:
                    self._file.own(database, max(self._file.owner(database), self._claim))

    def _whole(self) -> bool:
        try:
            self._looked(self._file)
            self._loaded(self._file)
        except DamagedError:
            return False
        return True

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Run the block while no other process of this machine goes back."""
        with self.path.with_suffix(".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _query(self, statement: str, parameters: tuple[Any, ...]) -> list[Any]:
        """Return rows of what is committed, without the lock that a save holds."""
        try:
            if self._reading is None:
                self._reading = open_file(self.path)
                self._reading.execute("PRAGMA query_only = ON")
            self._check_seen(self._reading)
            return self._reading.execute(statement, parameters).fetchall()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            failed = self._file.failed(error)
            raise (self._distrust(str(error)) if isinstance(failed, DamagedError) else failed) from error

    def _close(self) -> None:
        self._file.close()
        self._previous.close()
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.close()
