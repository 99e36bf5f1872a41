"""A save that is held up in its middle, or whose bytes may not have reached the disk."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from paths import CHECKOUT

from engine.stores.checkpoints import Checkpoint
from engine.stores.files import checkpoint_file
from engine.stores.sqlite_checkpoints import SqliteCheckpoints
from topics.errors import StoreUnavailableError

FROZEN = """
import asyncio, os, signal, sys, types
from pathlib import Path
package = sys.modules["engine"] = types.ModuleType("engine")
package.__path__ = ["engine"]  # the file alone: the package's own imports, River's, take seconds
from engine.stores.sqlite_checkpoints import SqliteCheckpoints
from engine.stores.files.checkpoint_file import CheckpointFile
from topics.errors import ClaimError

async def main():
    store = SqliteCheckpoints(Path(sys.argv[1]), "flights", "scorer", 0)
    claim = await store.fence()
    await store.save(claim, b"1", {"a": b"old"})
    write = CheckpointFile.write

    def written(*arguments):
        seal = write(*arguments)
        os.kill(os.getpid(), signal.SIGSTOP)
        return seal

    CheckpointFile.write = written
    await store.save(claim, b"2", {"a": b"new"})
    CheckpointFile.write = write
    print("saved", flush=True)
    sys.stdin.readline()
    try:
        await store.save(claim, b"3", {"a": b"late"})
    except ClaimError as error:
        print(error, flush=True)

asyncio.run(main())
"""


def ends_frozen(victim: subprocess.Popen[str]) -> None:
    _, status = os.waitpid(victim.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)


@pytest.mark.parametrize("then", ["goes on", "is killed"])
def test_who_froze_inside_a_save_holds_the_file_until_it_goes_on_or_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    """Another owner is told that the file is busy, and has one whole checkpoint afterwards."""
    monkeypatch.setattr(checkpoint_file, "BUSY_DEADLINE_S", 0.2)
    victim = subprocess.Popen(
        [sys.executable, "-c", FROZEN, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=CHECKOUT,
        text=True,
    )
    assert victim.stdin is not None
    assert victim.stdout is not None
    other = SqliteCheckpoints(tmp_path, "flights", "scorer", 0)

    async def work() -> None:
        ends_frozen(victim)
        with pytest.raises(StoreUnavailableError, match="is locked") as caught:
            await other.fence()
        assert str(other.path) in str(caught.value)
        if then == "goes on":
            victim.send_signal(signal.SIGCONT)
            assert victim.stdout.readline() == "saved\n"
        else:
            victim.kill()
            victim.wait()
        assert await other.fence() == 2
        whole = (
            Checkpoint(1, b"2", {"a": b"new"}) if then == "goes on" else Checkpoint(1, b"1", {"a": b"old"})
        )
        assert await other.load() == whole
        if then == "goes on":
            said, _ = victim.communicate("\n")
            assert "belongs to claim 2, this owner's is 1" in said
            assert await other.load() == whole
        await other.close()

    with victim:
        try:
            asyncio.run(work())
        finally:
            victim.kill()


class Unsynced(sqlite3.Connection):
    """A connection whose next COMMIT fails as where the disk cannot sync.

    Before: SQLite takes the transaction back.  After: the bytes are in the file all the same, which it cannot
    know.
    """

    failing = ""

    def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        if statement != "COMMIT" or not self.failing:
            return super().execute(statement, *parameters)
        if self.failing == "after":
            super().execute(statement)
        self.failing = ""
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        raise error


@contextmanager
def unsynced(store: SqliteCheckpoints) -> Iterator[Unsynced]:
    """Open the store's file by such a connection."""
    database = sqlite3.connect(store.path, isolation_level=None, check_same_thread=False, factory=Unsynced)
    with closing(database):
        store._file.close()
        store._file.connection = database
        yield database
        store._file.close()


@pytest.mark.parametrize("written", ["before", "after"])
@pytest.mark.parametrize("dies", [False, True])
def test_a_commit_that_could_not_be_synced_is_unavailable_and_made_up_for(
    tmp_path: Path, written: str, dies: bool
) -> None:
    """Whether its bytes are there or not; and where the owner dies then, what is there is whole."""
    store = SqliteCheckpoints(tmp_path, "flights", "scorer", 0)

    async def work() -> None:
        claim = await store.fence()
        await store.save(claim, b"1", {"a": b"old", "b": b"old"})
        with unsynced(store) as database:
            store_save = store._file.write

            def failing(*arguments: Any) -> bytes:  # not at the commit of the file before it
                database.failing = written
                return store_save(*arguments)

            store._file.write = failing  # type: ignore[method-assign]
            with pytest.raises(StoreUnavailableError, match="disk I/O error"):
                await store.save(claim, b"2", {"a": b"new", "b": None})
            store._file.write = store_save  # type: ignore[method-assign]
            if not dies:
                await store.save(claim, b"3", {"c": b"new"})
        next_owner = SqliteCheckpoints(tmp_path, "flights", "scorer", 0)
        assert await next_owner.fence() == claim + 1
        found = await next_owner.load()
        if not dies:
            assert found == Checkpoint(claim, b"3", {"a": b"new", "c": b"new"})
        elif written == "before":
            assert found == Checkpoint(claim, b"1", {"a": b"old", "b": b"old"})
        else:
            assert found == Checkpoint(claim, b"2", {"a": b"new"})
        await next_owner.close()
        await store.close()

    asyncio.run(work())
