"""Checkpoints in a file: against kill -9, a full disk, a damaged file; see `test_checkpoints.py`."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paths import CHECKOUT

from engine.stores.checkpoints import Checkpoint
from engine.stores.files.checkpoint_file import FORMAT
from engine.stores.sqlite_checkpoints import SqliteCheckpoints
from topics.errors import CheckpointError, StoreUnavailableError


@contextmanager
def store_in(
    directory: Path, partition: int = 0, *, apart: tuple[str, ...] = ()
) -> Iterator[SqliteCheckpoints]:
    store = SqliteCheckpoints(directory, "flights", "scorer", partition, apart=apart)
    try:
        yield store
    finally:
        asyncio.run(store.close())


def run(*calls: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Make each call, one after the other; return what the last gave."""

    async def all_of_them() -> Any:
        result = None
        for call in calls:
            result = await call()
        return result

    return asyncio.run(all_of_them())


@pytest.mark.parametrize("commits", ["before the head is asked for", "after it"])
def test_a_save_that_commits_while_the_loop_reads_is_no_other_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commits: str
) -> None:
    with store_in(tmp_path, apart=("waits/",)) as store:
        run(store.fence, store.load, lambda: store.save(1, b"1", {"waits/a": b"old"}))
        stored, ask, saves = store.stored("waits/"), store._file.seal_of_head, iter([b"2"])

        def between(database: sqlite3.Connection) -> bytes | None:
            answer = ask(database) if commits == "after it" else None
            for meta in saves:  # one, which asks in here again
                store._save(1, meta, {"waits/a": b"new"})
            return ask(database) if answer is None else answer

        monkeypatch.setattr(store._file, "seal_of_head", between)
        assert stored.get(["a"]) == {"a": b"new"}


def test_a_save_that_the_disk_refuses_leaves_the_old_checkpoint_and_is_made_up_for(tmp_path: Path) -> None:
    with store_in(tmp_path) as store:
        run(store.fence, lambda: store.save(1, b"1", {"a": b"old", "b": b"old"}))
        database = store._file.connection
        assert database is not None
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        database.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreUnavailableError, match="full") as caught:
            run(lambda: store.save(1, b"2", {"a": b"x" * 100_000, "b": None}))
        assert str(store.path) in str(caught.value)
        assert run(store.load) == Checkpoint(1, b"1", {"a": b"old", "b": b"old"})
        database.execute("PRAGMA max_page_count = 1000000")
        run(lambda: store.save(1, b"3", {"c": b"new"}))
        assert run(store.load) == Checkpoint(1, b"3", {"a": b"x" * 100_000, "c": b"new"})


def test_a_file_that_may_not_be_written_now_is_unavailable_and_made_up_for(tmp_path: Path) -> None:
    with store_in(tmp_path) as store:
        run(store.fence, lambda: store.save(1, b"1", {"a": b"old"}))
        assert store._file.connection is not None
        store._file.connection.execute("PRAGMA query_only = ON")
        with pytest.raises(StoreUnavailableError, match="readonly"):
            run(lambda: store.save(1, b"2", {"a": b"new"}))
        store._file.connection.execute("PRAGMA query_only = OFF")
        run(lambda: store.save(1, b"3", {}))
        assert run(store.load) == Checkpoint(1, b"3", {"a": b"new"})


def saved(tmp_path: Path) -> Path:
    """A closed file with some state, its write-ahead log folded in."""
    with store_in(tmp_path) as store:
        run(store.fence, lambda: store.save(1, b"meta", {f"k{n}": b"v%d" % n * 50 for n in range(200)}))
    return store.path


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def flipped(path: Path) -> None:
    """One bit of one value: SQLite itself would not notice."""
    data = bytearray(path.read_bytes())
    data[data.index(b"v150v150v150")] ^= 1
    path.write_bytes(data)


def row_lost(path: Path) -> None:
    database = sqlite3.connect(path)
    with database:
        database.execute("DELETE FROM entry WHERE name = 'k7'")
    database.close()


def claim_changed(path: Path) -> None:
    database = sqlite3.connect(path)
    with database:
        database.execute("UPDATE owner SET claim = 9")
    database.close()


def position_changed(path: Path) -> None:
    database = sqlite3.connect(path)
    with database:
        database.execute("UPDATE head SET meta = ?", (b"meta2",))
    database.close()


@pytest.mark.parametrize(
    "damage", [truncated, emptied, zeroed, flipped, row_lost, claim_changed, position_changed]
)
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = saved(tmp_path)
    damage(path)
    with store_in(tmp_path) as store, pytest.raises(CheckpointError, match="cannot be trusted") as caught:
        run(store.fence, store.load)
    assert str(path) in str(caught.value)
    assert "move it away" in caught.value.hint


def saved_apart(tmp_path: Path) -> Path:
    with store_in(tmp_path, apart=("k",)) as store:
        entries = {f"k{n}": b"v%d" % n * 50 for n in range(200)}
        run(store.fence, lambda: store.save(1, b"meta", {"whole": b"1", **entries}))
    return store.path


def test_a_damaged_row_is_refused_when_it_is_read_and_a_lost_one_at_once(tmp_path: Path) -> None:
    path = saved_apart(tmp_path)
    flipped(path)
    with store_in(tmp_path, apart=("k",)) as store:
        found = run(store.load)
        assert found is not None
        assert found.entries == {"whole": b"1"}
        stored = store.stored("k")
        assert stored.get(["149"]) == {"149": b"v149" * 50}
        with pytest.raises(CheckpointError, match="entry 'k150' does not match its checksum"):
            stored.get(["149", "150"])
    database = sqlite3.connect(path)
    with database:
        database.execute("DELETE FROM apart WHERE name = 'k7'")
    database.close()
    lost = pytest.raises(CheckpointError, match="1 and 199 entries were found, 1 and 200 were written")
    with store_in(tmp_path, apart=("k",)) as store, lost:
        run(store.load)


def test_a_name_kept_apart_that_is_lost_from_the_index_is_refused(tmp_path: Path) -> None:
    """Its label would find no answer, and nobody would hear of it."""
    path = saved_apart(tmp_path)
    data = path.read_bytes()
    at = next(
        at for at in range(len(data)) if data[at : at + 4] == b"k150" and data[at + 4 : at + 8] != b"v150"
    )
    path.write_bytes(data[:at] + b"k15!" + data[at + 4 :])
    refused = pytest.raises(CheckpointError, match="cannot be trusted")
    with store_in(tmp_path, apart=("k",)) as store, refused:
        run(store.load)


def test_a_file_of_a_headrace_without_the_sum_of_names_is_read_and_gets_one(tmp_path: Path) -> None:
    path = saved_apart(tmp_path)
    database = sqlite3.connect(path)
    with database:
        database.execute("DROP TABLE names")
    database.close()
    with store_in(tmp_path, apart=("k",)) as store:
        assert run(store.load).entries == {"whole": b"1"}
        run(store.fence, store.load, lambda: store.save(2, b"2", {"k7": None, "knew": b"1"}))
    database = sqlite3.connect(path)
    assert database.execute("SELECT count(*) FROM names").fetchone() == (1,)
    with database:
        database.execute("UPDATE apart SET name = 'kold' WHERE name = 'knew'")
    database.close()
    with store_in(tmp_path, apart=("k",)) as store:
        assert "not those that were written" in run(store.load).damage


def test_what_is_kept_apart_is_read_while_a_save_is_on_its_way(tmp_path: Path) -> None:
    with store_in(tmp_path, apart=("k",)) as store:
        run(store.fence, lambda: store.save(1, b"1", {"k": b"old"}))
        with store._file.transaction() as database:
            database.execute("DELETE FROM apart")
            assert store.stored("").get(["k"]) == {"k": b"old"}
            database.execute("ROLLBACK")
            database.execute("BEGIN")


def test_another_partitions_file_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    with store_in(tmp_path, 5) as five:
        shutil.copy(path, five.path)
        with pytest.raises(CheckpointError, match="cannot be trusted"):
            run(five.fence, five.load)


def test_another_format_is_refused_with_both_numbers(tmp_path: Path) -> None:
    path = saved(tmp_path)
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 7")
    database.close()
    with (
        store_in(tmp_path) as store,
        pytest.raises(CheckpointError, match=rf"format 7.*reads {FORMAT}"),
    ):
        run(store.fence)


def test_a_place_that_cannot_be_written_is_a_checkpoint_error(tmp_path: Path) -> None:
    (tmp_path / "flights").write_text("a file where the directory should be")
    with store_in(tmp_path) as store, pytest.raises(CheckpointError, match="HEADRACE_STATE_DIR"):
        run(store.fence)


def saved_twice(directory: Path) -> Path:
    """The checkpoint of `saved`, and one after it that wrote, removed and added."""
    path = saved(directory)
    with store_in(directory) as store:
        run(store.fence, store.load, lambda: store.save(2, b"second", {"k1": b"x", "k2": None, "new": b"y"}))
    return path


FIRST = {f"k{n}": b"v%d" % n * 50 for n in range(200)}


def gone(path: Path) -> None:
    path.unlink()


def tables_lost(path: Path) -> None:
    database = sqlite3.connect(path)
    with database:
        database.execute("DROP TABLE head")
    database.close()


DAMAGES = [
    truncated, emptied, zeroed, flipped, row_lost, claim_changed, position_changed, gone, tables_lost,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_owner_goes_back_to_the_checkpoint_before_a_damaged_one(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = saved_twice(tmp_path)
    damage(path)
    with store_in(tmp_path) as other:
        head, read = run(other.look), run(other.load)  # who is no owner changes nothing
    assert read.entries == FIRST or damage is claim_changed  # who may write is nothing that a reader asks
    assert head.meta == b"meta" or damage in {flipped, row_lost}  # whose damage a look does not meet
    assert damage in {gone, claim_changed} or not path.with_suffix(".damaged.sqlite").exists()
    with store_in(tmp_path) as store:
        claim = run(store.fence)
        found = run(store.load)
        assert (found.entries, found.meta, found.claim) == (FIRST, b"meta", 1)
        assert found.damage
        run(lambda: store.save(claim, b"third", {"k3": None}))
        assert path.with_suffix(".damaged.sqlite").exists() or damage is gone
    with store_in(tmp_path) as store:
        assert run(store.fence) == claim + 1
        found = run(store.load)
        assert found == Checkpoint(claim, b"third", {name: FIRST[name] for name in FIRST if name != "k3"})


def test_damage_is_told_where_the_checkpoint_before_is_taken(tmp_path: Path) -> None:
    path = saved_twice(tmp_path)
    flipped(path)
    with store_in(tmp_path) as store:
        found = run(store.fence, store.load)
        assert "k150" in found.damage
        assert run(store.load).damage == ""


def test_where_both_are_damaged_the_last_is_named(tmp_path: Path) -> None:
    path = saved_twice(tmp_path)
    flipped(path)
    flipped(path.with_suffix(".previous.sqlite"))
    with store_in(tmp_path) as store, pytest.raises(CheckpointError, match="cannot be trusted") as caught:
        run(store.fence, store.load)
    assert f"{path} " in str(caught.value)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["save", "save", "lose", "damage", "take away", "reopen"]),
            st.dictionaries(st.text("ab/\0é", min_size=1, max_size=2), st.none() | st.binary(max_size=4)),
        ),
        max_size=10,
    )
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_file_beside_is_always_the_checkpoint_before(
    tmp_path_factory: pytest.TempPathFactory, plan: list[tuple[str, dict[str, bytes | None]]]
) -> None:
    """Whatever happened to that file: it is lost, damaged, of an earlier Headrace's last file."""
    directory = tmp_path_factory.mktemp("before")
    before: dict[str, bytes] | None = None
    model: dict[str, bytes] | None = None
    store = SqliteCheckpoints(directory, "flights", "scorer", 0, apart=("a",))
    beside = store.path.with_suffix(".previous.sqlite")
    claim = run(store.fence)
    for step, delta in plan:
        match step:
            case "save":
                asyncio.run(store.save(claim, b"m", delta))
                before, model = model, dict(model or {})
                for name, value in delta.items():
                    if value is None:
                        model.pop(name, None)
                    else:
                        model[name] = value
                if before is not None:
                    assert contents(beside) == before
            case "lose":
                run(store.close)
                beside.unlink(missing_ok=True)
            case "damage" if beside.exists():
                run(store.close)
                beside.write_bytes(b"x" * 5_000)
            case "take away":  # what an earlier Headrace would leave
                with closing(sqlite3.connect(store.path)) as database, database:
                    database.execute("DELETE FROM follows")
            case "reopen":
                run(store.close)
                claim = run(store.fence)
    run(store.close)


def contents(path: Path) -> dict[str, bytes]:
    with closing(sqlite3.connect(path)) as database:
        return dict(database.execute("SELECT name, value FROM entry UNION ALL SELECT name, value FROM apart"))


VICTIM = """
import asyncio, sys, types
from pathlib import Path
package = sys.modules["engine"] = types.ModuleType("engine")
package.__path__ = ["engine"]  # the file alone: the package's own imports, River's, take seconds
from engine.stores.sqlite_checkpoints import SqliteCheckpoints

async def main():
    store = SqliteCheckpoints(Path(sys.argv[1]), "flights", "scorer", 0)
    claim, found = await store.fence(), await store.load()
    turn = int(found.meta) if found else 0
    while True:
        turn += 1
        delta = {f"k{n}": b"%d" % turn for n in range(300)}
        delta |= {f"old{turn}": b"x" * 1000, f"old{turn - 3}": None}
        await store.save(claim, b"%d" % turn, delta)
        print(turn, flush=True)

asyncio.run(main())
"""
KILLS = 5


def test_kill_minus_nine_leaves_one_whole_checkpoint(tmp_path: Path) -> None:
    """Whatever the moment of death, state and positions are of the same save, and none goes back.

    Each victim dies at another fraction of the time that its own last save took.
    """
    told = 0
    for kill in range(KILLS):
        victim = subprocess.Popen(
            [sys.executable, "-c", VICTIM, str(tmp_path)],
            stdout=subprocess.PIPE,
            cwd=CHECKOUT,
        )
        assert victim.stdout is not None
        assert int(victim.stdout.readline()) > told
        began = time.perf_counter()
        told = int(victim.stdout.readline())
        ended = time.perf_counter()
        while time.perf_counter() < ended + (ended - began) * kill / KILLS:
            pass
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
        victim.stdout.close()
        with store_in(tmp_path) as store:
            found = run(store.load)
        turn = int(found.meta)
        assert turn >= told
        assert found.claim == kill + 1
        assert {found.entries[f"k{n}"] for n in range(300)} == {b"%d" % turn}
        assert {name for name in found.entries if name.startswith("old")} == {
            f"old{n}" for n in range(max(turn - 2, 1), turn + 1)
        }
