"""Checkpoints against a dict, against kill -9, against a zombie, against a damaged disk."""

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
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import CHECKOUT

from engine.stores import entry_tables
from engine.stores.checkpoints import FORMAT, Checkpoint, CheckpointStore
from topics.errors import CheckpointError, ClaimError

names = st.text("ab/\0é€", min_size=1, max_size=3)
deltas = st.dictionaries(names, st.none() | st.binary(max_size=8), max_size=6)
steps = st.lists(st.tuples(st.sampled_from(["save", "fence", "reopen"]), deltas), max_size=12)


@contextmanager
def store_in(
    directory: Path, partition: int = 0, *, apart: tuple[str, ...] = ()
) -> Iterator[CheckpointStore]:
    store = CheckpointStore(directory, "flights", "scorer", partition, apart=apart)
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


def check_stored(store: CheckpointStore, model: dict[str, bytes], prefix: str) -> None:
    """What is kept apart is read name by name, in order, and counted."""
    under = {name[len(prefix) :]: value for name, value in model.items() if name.startswith(prefix)}
    stored, names = store.stored(prefix), sorted(under)
    assert stored.get([*names, "\U0010ffff"]) == under
    assert stored.get([]) == {}
    assert stored.scan("", "\U0010ffff", 100) == [name for name in names if name]
    if len(names) > 2:
        assert stored.scan(names[0], names[-1], 1) == names[1:2]
    for start in "ab":
        assert stored.count(start) == sum(name.startswith(start) for name in names)


@given(steps, st.sampled_from([1, 12, entry_tables.BATCH_BYTES_MAX]), st.sampled_from([(), ("a", "é/")]))
@settings(max_examples=60, deadline=None)
def test_saving_deltas_equals_updating_a_dict(
    plan: list[tuple[str, dict[str, bytes | None]]], batch_bytes_max: int, apart: tuple[str, ...]
) -> None:
    async def play(directory: Path) -> None:
        store = CheckpointStore(directory, "flights", "scorer", 0, apart=apart)
        model: dict[str, bytes] = {}
        claim, saves = (await store.fence()).claim, 0
        for step, delta in plan:
            if step == "save":
                saves += 1
                await store.save(claim, b"%d" % saves, delta)
                model |= {name: value for name, value in delta.items() if value is not None}
                model = {name: value for name, value in model.items() if delta.get(name, value) is not None}
            elif step == "fence":
                fenced = await store.fence()
                assert fenced.claim == claim + 1
                claim = fenced.claim
            else:
                await store.close()
                store = CheckpointStore(directory, "flights", "scorer", 0, apart=apart)
            found = await store.load()
            if saves:
                whole = {name: value for name, value in model.items() if not name.startswith(apart)}
                assert found is not None
                assert (found.entries, found.meta) == (whole, b"%d" % saves)
                for prefix in apart:
                    check_stored(store, model, prefix)
            else:
                assert found is None
        await store.close()

    with TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(entry_tables, "BATCH_BYTES_MAX", batch_bytes_max)
        asyncio.run(play(Path(directory)))


def test_the_first_owner_finds_nothing_and_is_number_one(tmp_path: Path) -> None:
    with store_in(tmp_path) as store:
        assert run(store.load) is None
        assert run(store.fence) == (1, None)


def test_a_fenced_owner_cannot_save_and_both_numbers_are_named(tmp_path: Path) -> None:
    with store_in(tmp_path) as old, store_in(tmp_path) as new:
        assert run(old.fence).claim == 1
        run(lambda: old.save(1, b"old", {"a": b"1"}))
        assert run(new.fence) == (2, Checkpoint(1, b"old", {"a": b"1"}))
        with pytest.raises(ClaimError, match=r"claim 2, this owner's is 1"):
            run(lambda: old.save(1, b"zombie", {"a": b"2"}))
        assert run(new.load) == Checkpoint(1, b"old", {"a": b"1"})
        run(lambda: new.save(2, b"new", {"b": b"2"}))
        assert run(old.load) == Checkpoint(2, b"new", {"a": b"1", "b": b"2"})


def test_a_claim_known_from_the_log_is_passed(tmp_path: Path) -> None:
    with store_in(tmp_path) as store:
        assert run(lambda: store.fence(above=41)).claim == 42
        assert run(lambda: store.fence(above=7)).claim == 43


def test_racing_owners_get_different_numbers(tmp_path: Path) -> None:
    stores = [CheckpointStore(tmp_path, "flights", "scorer", 0) for _ in range(8)]

    async def race() -> list[int]:
        fenced = await asyncio.gather(*(store.fence() for store in stores))
        for store in stores:
            await store.close()
        return sorted(owner.claim for owner in fenced)

    assert asyncio.run(race()) == list(range(1, 9))


def test_partitions_and_roles_do_not_meet(tmp_path: Path) -> None:
    with store_in(tmp_path, 0) as zero, store_in(tmp_path, 1) as one:
        run(zero.fence, lambda: zero.save(1, b"zero", {"a": b"0"}))
        assert run(one.fence) == (1, None)
    learner = CheckpointStore(tmp_path, "flights", "learner", 0)
    assert run(learner.fence) == (1, None)
    run(learner.close)


def test_a_save_that_the_disk_refuses_leaves_the_old_checkpoint_and_is_made_up_for(tmp_path: Path) -> None:
    with store_in(tmp_path) as store:
        run(store.fence, lambda: store.save(1, b"1", {"a": b"old", "b": b"old"}))
        assert store._connection is not None
        (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
        store._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(CheckpointError, match="full") as caught:
            run(lambda: store.save(1, b"2", {"a": b"x" * 100_000, "b": None}))
        assert str(store.path) in str(caught.value)
        assert run(store.load) == Checkpoint(1, b"1", {"a": b"old", "b": b"old"})
        store._connection.execute("PRAGMA max_page_count = 1000000")
        run(lambda: store.save(1, b"3", {"c": b"new"}))
        assert run(store.load) == Checkpoint(1, b"3", {"a": b"x" * 100_000, "c": b"new"})


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
        run(store.fence)
    assert str(path) in str(caught.value)
    assert "--accept-newer-claims" in caught.value.hint, "both ways on lead to a refusal without it"


def test_a_learner_without_its_checkpoint_folds_the_log_anew_and_needs_no_flag(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, "flights", "learner", 0)
    store.path.parent.mkdir(parents=True)
    store.path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="move it away") as caught:
        run(store.look)
    assert "--accept" not in caught.value.hint


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


def test_what_is_kept_apart_is_read_while_a_save_is_on_its_way(tmp_path: Path) -> None:
    with store_in(tmp_path, apart=("k",)) as store:
        run(store.fence, lambda: store.save(1, b"1", {"k": b"old"}))
        with store._transaction() as database:
            database.execute("DELETE FROM apart")
            assert store.stored("").get(["k"]) == {"k": b"old"}
            database.execute("ROLLBACK")
            database.execute("BEGIN")


def test_another_partitions_file_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    with store_in(tmp_path, 5) as five:
        shutil.copy(path, five.path)
        with pytest.raises(CheckpointError, match="cannot be trusted"):
            run(five.fence)


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


VICTIM = """
import asyncio, sys, types
from pathlib import Path
package = sys.modules["engine"] = types.ModuleType("engine")
package.__path__ = ["engine"]  # the file alone: the package's own imports, River's, take seconds
from engine.stores import checkpoints as checkpoint
from engine.stores.checkpoints import CheckpointStore

async def main():
    store = CheckpointStore(Path(sys.argv[1]), "flights", "scorer", 0)
    fenced = await store.fence()
    turn = int(fenced.checkpoint.meta) if fenced.checkpoint else 0
    while True:
        turn += 1
        delta = {f"k{n}": b"%d" % turn for n in range(300)}
        delta |= {f"old{turn}": b"x" * 1000, f"old{turn - 3}": None}
        await store.save(fenced.claim, b"%d" % turn, delta)
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
