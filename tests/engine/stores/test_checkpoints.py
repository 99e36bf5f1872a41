"""What every store of checkpoints keeps: against a dict, against racing owners, against a zombie."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis_places import redis_store
from running import fresh_name
from structlog.testing import capture_logs

from engine.stores import reading, redis_checkpoints, redis_scripts
from engine.stores.checkpoints import Checkpoint, CheckpointStore, Head, OwnerRole
from engine.stores.files import checkpoint_file, entry_tables
from engine.stores.sqlite_checkpoints import SqliteCheckpoints
from topics.errors import ClaimError

names = st.text("ab/\0é€", min_size=1, max_size=3)
deltas = st.dictionaries(names, st.none() | st.binary(max_size=8), max_size=6)
steps = st.lists(st.tuples(st.sampled_from(["save", "fence", "reopen"]), deltas), max_size=12)


class World(Protocol):
    """One pipeline's stores, empty at first."""

    def __call__(
        self, partition: int = 0, role: OwnerRole = "scorer", apart: tuple[str, ...] = ()
    ) -> CheckpointStore:
        """Open a store."""
        ...

    def copied(self) -> Any:
        """Return a copy of what partition 0 of the scorer holds."""
        ...

    def put_back(self, copy: Any) -> None:
        """Put a copy in the place of what is there now."""
        ...


Worlds = Callable[[], World]


@pytest.fixture(params=["sqlite", "redis"])
def worlds(request: pytest.FixtureRequest) -> Worlds:
    """Return what makes empty worlds of one kind of store."""
    made: Worlds = request.getfixturevalue(f"{request.param}_worlds")
    return made


class SqliteWorld:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / "flights" / "scorer-0.sqlite"

    def __call__(
        self, partition: int = 0, role: OwnerRole = "scorer", apart: tuple[str, ...] = ()
    ) -> CheckpointStore:
        return SqliteCheckpoints(self.directory, "flights", role, partition, apart=apart)

    def copied(self) -> sqlite3.Connection:
        copy = sqlite3.connect(":memory:")
        with closing(sqlite3.connect(self.file)) as database:
            database.backup(copy)
        return copy

    def put_back(self, copy: sqlite3.Connection) -> None:
        with closing(sqlite3.connect(self.file)) as database:
            copy.backup(database)


@pytest.fixture
def sqlite_worlds(tmp_path: Path) -> Worlds:
    made = itertools.count()
    return lambda: SqliteWorld(tmp_path / str(next(made)))


class RedisWorld:
    def __init__(self, url: str, directory: Path) -> None:
        self.url, self.directory, self.pipeline = url, directory, fresh_name("flights")

    def __call__(
        self, partition: int = 0, role: OwnerRole = "scorer", apart: tuple[str, ...] = ()
    ) -> CheckpointStore:
        return redis_store(self.url, self.pipeline, partition, role, directory=self.directory, apart=apart)

    def copied(self) -> dict[bytes, Any]:
        with redis.Redis.from_url(self.url) as client:
            return {key: client.dump(key) for key in client.keys(f"headrace:{{{self.pipeline}/scorer/0}}:*")}

    def put_back(self, copy: dict[bytes, Any]) -> None:
        with redis.Redis.from_url(self.url) as client:
            for key in client.keys(f"headrace:{{{self.pipeline}/scorer/0}}:*"):
                client.delete(key)
            for key, value in copy.items():
                client.restore(key, 0, value)


@pytest.fixture
def redis_worlds(tmp_path: Path, redis_url: str) -> Worlds:
    return lambda: RedisWorld(redis_url, tmp_path)


def play(worlds: Worlds, scene: Callable[[World], Awaitable[None]]) -> None:
    """Play a scene in an empty world, and close what it opened."""

    async def played() -> None:
        opened: list[CheckpointStore] = []
        world = worlds()

        class Opening:
            copied, put_back = staticmethod(world.copied), staticmethod(world.put_back)

            def __call__(self, *given: Any, **named: Any) -> CheckpointStore:
                opened.append(world(*given, **named))
                return opened[-1]

        try:
            await scene(Opening())
        finally:
            for store in opened:
                await store.close()

    asyncio.run(played())


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


@contextmanager
def batches_of(bytes_max: int) -> Iterator[None]:
    """Cut what is written at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entry_tables, "BATCH_BYTES_MAX", bytes_max)
        patch.setattr(redis_scripts, "CHUNK_BYTES_MAX", bytes_max)
        yield


@given(steps, st.sampled_from([1, 12, 16_777_216]), st.sampled_from([(), ("a", "é/")]))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_saving_deltas_equals_updating_a_dict(
    worlds: Worlds,
    plan: list[tuple[str, dict[str, bytes | None]]],
    bytes_max: int,
    apart: tuple[str, ...],
) -> None:
    async def scene(world: World) -> None:
        store = world(apart=apart)
        model: dict[str, bytes] = {}
        claim, saves = await store.fence(), 0
        for step, delta in plan:
            if step == "save":
                saves += 1
                await store.save(claim, b"%d" % saves, delta)
                model |= {name: value for name, value in delta.items() if value is not None}
                model = {name: value for name, value in model.items() if delta.get(name, value) is not None}
            elif step == "fence":
                fenced = await store.fence()
                assert fenced == claim + 1
                claim = fenced
            else:
                await store.close()
                store = world(apart=apart)
            found = await store.load()
            if saves:
                whole = {name: value for name, value in model.items() if not name.startswith(apart)}
                assert found is not None
                assert (found.entries, found.meta) == (whole, b"%d" % saves)
                assert await store.look() == Head(claim, b"%d" % saves)
                for prefix in apart:
                    check_stored(store, model, prefix)
            else:
                assert found is None
                assert await store.look() == Head(claim, None)

    with batches_of(bytes_max):
        play(worlds, scene)


def test_a_long_read_says_how_far_it_has_come(worlds: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "READING_TOLD_S", 0.0)
    monkeypatch.setattr(checkpoint_file, "READ_MAX", 70)
    monkeypatch.setattr(redis_checkpoints, "SCAN_ENTRIES_MAX", 70)
    entries = {f"entry-{number:03d}": b"12345678" for number in range(1_000)}

    async def scene(world: World) -> None:
        store = world()
        claim = await store.fence()
        for number in range(3):  # a Redis merges the first into its base
            await store.save(claim, b"meta", entries if number == 0 else {})
        with capture_logs() as told:
            assert await store.load() is not None
        lines = [line for line in told if line["event"] == "restoring a checkpoint"]
        assert len(lines) > 2
        assert {(line["place"], line["of"]) for line in lines} == {(store.place, 1_000)}
        read = [line["entries"] for line in lines]
        assert (read, read[-1]) == (sorted(read), 1_000)
        assert lines[-1]["bytes"] >= 1_000 * (9 + 8)

    play(worlds, scene)


def test_the_first_owner_finds_nothing_and_is_number_one(worlds: Worlds) -> None:
    async def scene(world: World) -> None:
        store = world()
        assert await store.look() == Head(0, None)
        assert await store.load() is None
        assert await store.fence() == 1
        assert await store.load() is None

    play(worlds, scene)


def test_a_fenced_owner_cannot_save_and_both_numbers_are_named(worlds: Worlds) -> None:
    async def scene(world: World) -> None:
        old, new = world(), world()
        assert await old.fence() == 1
        await old.save(1, b"old", {"a": b"1"})
        assert await new.fence() == 2
        assert await new.load() == Checkpoint(1, b"old", {"a": b"1"})
        with pytest.raises(ClaimError, match=r"claim 2, this owner's is 1"):
            await old.save(1, b"zombie", {"a": b"2"})
        assert await new.load() == Checkpoint(1, b"old", {"a": b"1"})
        await new.save(2, b"new", {"b": b"2"})
        assert await old.load() == Checkpoint(2, b"new", {"a": b"1", "b": b"2"})

    play(worlds, scene)


def test_what_a_fenced_owner_could_not_save_is_forgotten(worlds: Worlds) -> None:
    async def scene(world: World) -> None:
        old, new = world(), world()
        await old.fence()
        await new.fence()
        with pytest.raises(ClaimError):
            await old.save(1, b"zombie", {"zombie": b"1"})
        assert await old.fence() == 3
        await old.save(3, b"again", {"a": b"1"})
        assert await old.load() == Checkpoint(3, b"again", {"a": b"1"})

    play(worlds, scene)


def test_a_claim_known_from_the_log_is_passed(worlds: Worlds) -> None:
    async def scene(world: World) -> None:
        store = world()
        assert await store.fence(above=41) == 42
        assert await store.fence(above=7) == 43

    play(worlds, scene)


def test_racing_owners_get_different_numbers(worlds: Worlds) -> None:
    async def scene(world: World) -> None:
        stores = [world() for _ in range(8)]
        assert sorted(await asyncio.gather(*(store.fence() for store in stores))) == list(range(1, 9))

    play(worlds, scene)


def test_partitions_and_roles_do_not_meet(worlds: Worlds) -> None:
    async def scene(world: World) -> None:
        zero = world(0)
        await zero.fence()
        await zero.save(1, b"zero", {"a": b"0"})
        for other in (world(1), world(0, "learner")):
            assert await other.fence() == 1
            assert await other.load() is None

    play(worlds, scene)


def test_a_store_that_went_back_takes_no_delta_of_what_it_forgot(worlds: Worlds) -> None:
    """Within one claim, so that its number tells nothing: the owner must claim and load again."""

    async def scene(world: World) -> None:
        store = world(apart=("far/",))
        await store.fence()
        await store.save(1, b"1", {"a": b"1", "far/a": b"1"})
        copy = world.copied()
        await store.save(1, b"2", {"b": b"2"})
        world.put_back(copy)
        for _ in range(2):
            with pytest.raises(ClaimError, match="went back"):
                await store.save(1, b"3", {"c": b"3"})
        assert await world(apart=("far/",)).load() == Checkpoint(1, b"1", {"a": b"1"})
        assert await store.fence() == 2
        assert await store.load() == Checkpoint(1, b"1", {"a": b"1"})
        assert store.stored("far/").get(["a"]) == {"a": b"1"}
        await store.save(2, b"3", {"c": b"3"})
        assert await store.load() == Checkpoint(2, b"3", {"a": b"1", "c": b"3"})

    play(worlds, scene)


def test_a_store_that_was_emptied_gives_out_numbers_above_the_logs(worlds: Worlds) -> None:
    async def scene(world: World) -> None:
        store = world()
        await store.fence()
        empty = world.copied()
        await store.fence()
        await store.save(2, b"1", {"a": b"1"})
        world.put_back(empty)
        with pytest.raises(ClaimError):
            await store.save(2, b"2", {"b": b"2"})
        assert await store.fence(above=2) == 3
        assert await store.load() is None
        await store.save(3, b"3", {"c": b"3"})
        assert await store.load() == Checkpoint(3, b"3", {"c": b"3"})

    play(worlds, scene)
