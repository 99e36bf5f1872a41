"""Checkpoints in a Redis that is damaged, full, away, frozen or emptied; see `test_checkpoints.py`."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from brokers.redis import redis_server, silent_server
from paths import CHECKOUT
from redis_places import redis_store
from running import fresh_name

from engine.kafka.embedded import free_port
from engine.stores import redis_scripts
from engine.stores.artefacts import RedisArtefacts
from engine.stores.checkpoints import Checkpoint
from engine.stores.redis_checkpoints import RedisCheckpoints
from engine.stores.redis_connection import StoreConnection, place_of
from topics.errors import CheckpointError, ClaimError, ModelError, SettingsError, StoreUnavailableError

OPERATIONS = (CHECKOUT / "docs" / "operations.md").read_text()
FIRST, SECOND, THIRD = {"a": b"1", "b": b"1"}, {"a": b"2", "c": b"2"}, {"d": b"3"}
LAST = Checkpoint(1, b"2", {"a": b"2", "b": b"1", "c": b"2"})
DEADLINE_S = 0.3
"""For calls that nobody answers; one that a Redis answers may take longer on a busy machine."""
WAIT_S = 20.0


class Place:
    """A partition in a Redis, and its keys as anybody sees them."""

    def __init__(self, url: str, directory: Path) -> None:
        self.url, self.directory, self.pipeline = url, directory, fresh_name("p")
        self.client = redis.Redis.from_url(url)
        self.opened: list[RedisCheckpoints] = []

    def store(self, *, deadline_s: float = 5.0, outage_deadline_s: float = 0.0, apart: Any = ()) -> Any:
        self.opened.append(
            redis_store(
                self.url,
                self.pipeline,
                directory=self.directory,
                deadline_s=deadline_s,
                outage_deadline_s=outage_deadline_s,
                apart=apart,
            )
        )
        return self.opened[-1]

    def key(self, kind: str) -> str:
        return f"headrace:{{{self.pipeline}/scorer/0}}:{kind}"

    def there(self) -> set[str]:
        """Return which keys there are."""
        first = len(self.key(""))
        return {key.decode()[first:] for key in self.client.keys(self.key("*").replace("{", "?"))}


@pytest.fixture
def place(redis_url: str, tmp_path: Path) -> Iterator[Place]:
    made = Place(redis_url, tmp_path)
    yield made
    made.client.close()


def play(place: Place, scene: Callable[[RedisCheckpoints], Awaitable[None]], **options: Any) -> None:
    async def played() -> None:
        try:
            await scene(place.store(**options))
        finally:
            for store in place.opened:
                await store.close()

    asyncio.run(played())


async def saved_twice(store: RedisCheckpoints) -> None:
    assert await store.fence() == 1
    await store.save(1, b"1", FIRST)
    await store.save(1, b"2", SECOND)


# -- what lies in Redis ------------------------------------------------------------------------------


def test_all_keys_of_a_partition_have_one_hash_tag_and_only_two_deltas_stay(place: Place) -> None:
    async def scene(store: RedisCheckpoints) -> None:
        await saved_twice(store)
        for number in range(3, 6):
            await store.save(1, b"%d" % number, {f"k{number}": b"x"})
        assert place.there() == {"head", "base", "delta:4:0", "delta:5:0"}

    play(place, scene)


def test_what_is_written_follows_what_changed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save of one entry of 5,000 asks as many times as one of one entry of one."""
    calls: list[str] = []
    script = StoreConnection.script

    async def counted(connection: StoreConnection, text: str, *given: Any) -> Any:
        calls.append(text)
        return await script(connection, text, *given)

    monkeypatch.setattr(StoreConnection, "script", counted)

    async def scene(store: RedisCheckpoints) -> None:
        await store.fence()
        await store.save(1, b"1", {f"k{number}": b"x" for number in range(5_000)})
        assert calls.count(redis_scripts.STAGE) == 5_000 / redis_scripts.CHUNK_ENTRIES_MAX
        await store.save(1, b"2", {"k1": b"y"})
        await store.save(1, b"3", {"k1": b"z"})  # moves the large delta into the base
        calls.clear()
        await store.save(1, b"4", {"k1": b"y"})
        assert [calls.count(one) for one in (redis_scripts.MERGE, redis_scripts.STAGE)] == [1, 1]

    play(place, scene)


@pytest.mark.parametrize("step", ["ATTEMPT", "MERGE", "STAGE", "COMMIT"])
@pytest.mark.parametrize("answered", [True, False], ids=["before", "after"])
def test_whatever_call_fails_the_checkpoint_is_whole_and_the_next_save_makes_up_for_it(
    place: Place, monkeypatch: pytest.MonkeyPatch, step: str, answered: bool
) -> None:
    """The call fails before Redis has done it, or its answer is lost: at each chunk of the delta."""
    wanted, script = getattr(redis_scripts, step), StoreConnection.script
    countdown = [0]

    async def failing(connection: StoreConnection, text: str, *given: Any) -> Any:
        if text == wanted:
            countdown[0] -= 1
            if not countdown[0]:
                if not answered:
                    await script(connection, text, *given)
                raise StoreUnavailableError("cut")
        return await script(connection, text, *given)

    monkeypatch.setattr(StoreConnection, "script", failing)
    monkeypatch.setattr(redis_scripts, "CHUNK_ENTRIES_MAX", 2)

    async def scene(store: RedisCheckpoints) -> None:
        await store.fence()
        model: dict[str, bytes] = {}
        failures = 0
        for number in range(1, 13):
            delta = {f"k{number % 5}": b"%d" % number, f"n{number}": b"x", f"n{number - 3}": None, "s": b"s"}
            before = await store.load()
            countdown[0] = 1 + number % 3
            try:
                await store.save(1, b"%d" % number, delta)
            except StoreUnavailableError:
                failures += 1
                found = await place.store().load()
                model |= {name: value for name, value in delta.items() if value is not None}
                model = {name: value for name, value in model.items() if delta.get(name, value) is not None}
                assert found == before or (step == "COMMIT" and not answered and found.entries == model)
                countdown[0] = 0
                await store.save(1, b"again %d" % number, {})
                assert await store.load() == Checkpoint(1, b"again %d" % number, model)
            else:
                model |= {name: value for name, value in delta.items() if value is not None}
                model = {name: value for name, value in model.items() if delta.get(name, value) is not None}
                assert await store.load() == Checkpoint(1, b"%d" % number, model)
        assert failures >= 4

    play(place, scene)


def test_a_stale_owner_stages_nothing_and_its_stage_is_removed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = StoreConnection.script
    fenced = [False]

    async def fencing(connection: StoreConnection, text: str, *given: Any) -> Any:
        if text == redis_scripts.COMMIT and not fenced[0]:
            fenced[0] = True
            assert "delta:2:1" in place.there()
            other = place.store()
            assert await other.fence() == 2
            assert not {key for key in place.there() if key.startswith("delta:2")}
            assert await other.load() == Checkpoint(1, b"1", FIRST)
            await other.close()
        return await script(connection, text, *given)

    monkeypatch.setattr(redis_scripts, "CHUNK_ENTRIES_MAX", 1)

    async def scene(store: RedisCheckpoints) -> None:
        await store.fence()
        await store.save(1, b"1", FIRST)
        monkeypatch.setattr(StoreConnection, "script", fencing)
        with pytest.raises(ClaimError, match=r"claim 2, this owner's is 1"):
            await store.save(1, b"2", SECOND)
        assert not {key for key in place.there() if key.startswith("delta:2")}

    play(place, scene)


# -- damage ------------------------------------------------------------------------------------------


def flipped(key: str, name: str) -> Callable[[Place], None]:
    def damage(place: Place) -> None:
        value = bytearray(place.client.hget(place.key(key), name) or b"")
        value[-1] ^= 1
        place.client.hset(place.key(key), name, bytes(value))

    return damage


DAMAGES: dict[str, Callable[[Place], Any]] = {
    "a value of the last delta": flipped("delta:2:0", "c"),
    "the last delta is lost": lambda place: place.client.delete(place.key("delta:2:0")),
    "an entry of the last delta is lost": lambda place: place.client.hdel(place.key("delta:2:0"), "c"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_an_owner_goes_back_to_the_checkpoint_before_a_damaged_one(
    place: Place, damage: Callable[[Place], Any]
) -> None:
    async def scene(store: RedisCheckpoints) -> None:
        await saved_twice(store)
        damage(place)
        with pytest.raises(CheckpointError, match="cannot be trusted"):
            await place.store().load()  # who is no owner changes nothing
        assert await store.fence() == 2
        found = await store.load()
        assert found is not None
        assert found.damage
        assert found == Checkpoint(1, b"1", FIRST, found.damage)
        assert await store.load() == Checkpoint(1, b"1", FIRST)
        await store.save(2, b"3", THIRD)
        assert await place.store().load() == Checkpoint(2, b"3", FIRST | THIRD)

    play(place, scene)


WORSE: dict[str, Callable[[Place], Any]] = {
    "a value of the base": flipped("base", "b"),
    "an entry of the base is lost": lambda place: place.client.hdel(place.key("base"), "b"),
    "the base is lost": lambda place: place.client.delete(place.key("base")),
    "the claim": lambda place: place.client.hset(place.key("head"), "claim", "9"),
    "the claim is no number": lambda place: place.client.hset(place.key("head"), "claim", "x"),
    "the record": flipped("head", "current"),
    "the token": flipped("head", "token"),
    "another kind of key": lambda place: (
        place.client.delete(place.key("base")),
        place.client.set(place.key("base"), "text"),
    ),
}


@pytest.mark.parametrize("damage", WORSE.values(), ids=WORSE)
def test_what_no_checkpoint_can_do_without_is_refused(place: Place, damage: Callable[[Place], Any]) -> None:
    async def scene(store: RedisCheckpoints) -> None:
        await saved_twice(store)
        await store.save(1, b"3", THIRD)  # moves the first delta into the base
        damage(place)

        async def taken_over() -> None:
            await store.fence()
            await store.load()

        with pytest.raises(CheckpointError, match="cannot be trusted") as caught:
            await taken_over()
        assert not isinstance(caught.value, StoreUnavailableError)
        assert place_of(place.url) in str(caught.value)

    play(place, scene)


def test_another_partitions_keys_are_refused(place: Place) -> None:
    async def scene(store: RedisCheckpoints) -> None:
        await saved_twice(store)
        place.client.copy(place.key("head"), place.key("head").replace("/0}", "/1}"))
        other = redis_store(place.url, place.pipeline, 1, directory=place.directory)
        with pytest.raises(CheckpointError, match="cannot be trusted"):
            await other.fence()
        await other.close()

    play(place, scene)


def test_another_format_is_refused_with_both_numbers(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(store: RedisCheckpoints) -> None:
        monkeypatch.setattr("engine.stores.redis_checkpoints.FORMAT", 7)
        await saved_twice(store)
        monkeypatch.undo()
        with pytest.raises(CheckpointError, match="format 7, this Headrace reads 1"):
            await store.look()

    play(place, scene)


# -- a Redis that cannot be used ---------------------------------------------------------------------


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Place]:
    with redis_server(tmp_path) as url:
        made = Place(url, tmp_path)
        yield made
        made.client.close()


async def until_taken(store: RedisCheckpoints, meta: bytes, delta: dict[str, bytes | None]) -> None:
    """Save as a worker does: again and again while the store cannot be used."""
    deadline_s = time.monotonic() + WAIT_S
    while True:
        try:
            return await store.save(1, meta, delta)
        except StoreUnavailableError:
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.05)


def test_a_frozen_redis_costs_a_deadline_and_goes_on_by_itself(
    own_redis: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it was told before it was given up comes to pass when it wakes up, and does no harm."""

    async def scene(store: RedisCheckpoints) -> None:
        await saved_twice(store)
        monkeypatch.setattr(store._connection, "_deadline_s", DEADLINE_S)
        process = own_redis.client.info("server")["process_id"]
        os.kill(process, signal.SIGSTOP)
        try:
            for number in range(3):
                began_s = time.monotonic()
                with pytest.raises(StoreUnavailableError, match=r"cannot be used now"):
                    await store.save(1, b"frozen", {f"f{number}": b"1"})
                assert DEADLINE_S <= time.monotonic() - began_s < WAIT_S
        finally:
            os.kill(process, signal.SIGCONT)
        monkeypatch.undo()
        await until_taken(store, b"3", dict(THIRD))
        frozen = {f"f{number}": b"1" for number in range(3)}
        assert await store.load() == Checkpoint(1, b"3", LAST.entries | frozen | THIRD)

    play(own_redis, scene)


def test_a_full_redis_keeps_the_last_checkpoint(own_redis: Place) -> None:
    async def scene(store: RedisCheckpoints) -> None:
        await saved_twice(store)
        own_redis.client.config_set("maxmemory-policy", "noeviction")
        own_redis.client.config_set("maxmemory", own_redis.client.info("memory")["used_memory"] + 200_000)
        with pytest.raises(StoreUnavailableError, match="OutOfMemoryError"):
            await store.save(1, b"3", {f"k{number}": b"x" * 1_000 for number in range(5_000)})
        assert await own_redis.store().load() == LAST
        own_redis.client.config_set("maxmemory", 0)
        await store.save(1, b"4", {})
        found = await store.load()
        assert found is not None
        assert len(found.entries) == 5_003

    play(own_redis, scene)


def test_a_replica_is_waited_for_and_a_user_without_rights_as_well(own_redis: Place) -> None:
    async def scene(store: RedisCheckpoints) -> None:
        await saved_twice(store)
        own_redis.client.config_set("replica-serve-stale-data", "yes")
        own_redis.client.replicaof("127.0.0.1", "1")
        with pytest.raises(StoreUnavailableError, match="ReadOnlyError"):
            await store.save(1, b"3", dict(THIRD))
        assert (await store.look()).meta == b"2"
        own_redis.client.replicaof("no", "one")
        own_redis.client.acl_setuser("default", commands=["-eval"])
        with pytest.raises(StoreUnavailableError, match="NoPermissionError"):
            await store.save(1, b"3", dict(THIRD))
        own_redis.client.acl_setuser("default", commands=["+eval"])
        await store.save(1, b"3", {})
        assert await store.load() == Checkpoint(1, b"3", LAST.entries | THIRD)

    play(own_redis, scene)


def test_a_redis_that_was_emptied_ends_the_owner(own_redis: Place) -> None:
    async def scene(store: RedisCheckpoints) -> None:
        await saved_twice(store)
        own_redis.client.flushall()
        with pytest.raises(ClaimError, match="belongs to claim 0, this owner's is 1"):
            await store.save(1, b"3", dict(THIRD))
        assert await store.fence(above=1) == 2
        assert await store.load() is None

    play(own_redis, scene)


def test_a_killed_redis_comes_back_with_its_append_only_file(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as url:
        place = Place(url, tmp_path)
        store = place.store()

        async def first() -> None:
            await saved_twice(store)
            os.kill(place.client.info("server")["process_id"], signal.SIGKILL)
            with pytest.raises(StoreUnavailableError, match="ConnectionError"):
                await store.save(1, b"3", dict(THIRD))
            with redis_server(tmp_path, "--appendonly", "yes", port=int(url.split(":")[2].split("/")[0])):
                await until_taken(store, b"4", {})
                assert await store.load() == Checkpoint(1, b"4", LAST.entries | THIRD)
            await store.close()

        asyncio.run(first())
        place.client.close()


def test_a_start_waits_for_a_redis_that_does_not_answer_and_then_says_where(tmp_path: Path) -> None:
    async def scene() -> None:
        async with silent_server() as url:
            secret = url.replace("redis://", "redis://worker:secret@")
            store = redis_store(
                secret, "p", directory=tmp_path, deadline_s=DEADLINE_S, outage_deadline_s=4 * DEADLINE_S
            )
            began_s = time.monotonic()
            with pytest.raises(StoreUnavailableError, match=r"no answer within|Timeout") as caught:
                await store.look()
            assert 2 * DEADLINE_S < time.monotonic() - began_s < WAIT_S
            assert place_of(url) in str(caught.value)
            assert "secret" not in str(caught.value) + repr(store) + store.place
            await store.close()

    asyncio.run(scene())


@pytest.mark.parametrize(
    "url", ["localhost:6379", "http://h:1", "redis://", "redis://u:se/cret@h:1", "redis://h:1/0?wrong=1"]
)
def test_an_address_of_no_redis_is_refused_without_its_secrets(url: str, tmp_path: Path) -> None:
    async def looked() -> None:
        await redis_store(url, "p", directory=tmp_path).look()

    with pytest.raises(SettingsError) as caught:
        asyncio.run(looked())
    assert "cret" not in str(caught.value)


def test_the_user_of_the_manual_may_do_what_a_worker_does_and_nothing_else(
    own_redis: Place,
) -> None:
    (rule,) = re.findall(r"^ACL SETUSER headrace on (.*?)\n```", OPERATIONS, re.MULTILINE | re.DOTALL)
    own_redis.client.execute_command("ACL", "SETUSER", "headrace", "on", *rule.replace("…", "secret").split())
    own_redis.url = own_redis.url.replace("redis://", "redis://headrace:secret@")

    async def scene(store: RedisCheckpoints) -> None:
        await saved_twice(store)
        await store.save(1, b"3", {})
        assert await store.load() == Checkpoint(1, b"3", LAST.entries)
        assert "secret" not in store.place

    play(own_redis, scene)
    stored = RedisArtefacts(own_redis.url, "p", deadline_s=5.0)
    stored.put("ab" * 16, b"model")
    stored.put("ab" * 16, b"another")
    assert stored.get("ab" * 16) == b"model"
    with pytest.raises(ModelError, match="has no artefact headrace:p:artefacts:cd"):
        stored.get("cd" * 16)
    with pytest.raises(ModelError, match="no name of an artefact"):
        stored.put("../x", b"")
    with redis.Redis.from_url(own_redis.url) as client, pytest.raises(redis.exceptions.NoPermissionError):
        client.get("another")
    stored.close()


# -- a cluster ---------------------------------------------------------------------------------------


def test_a_cluster_takes_partitions_on_several_nodes(tmp_path: Path) -> None:
    with cluster(tmp_path) as (url, nodes):

        async def scene() -> None:
            for partition in range(8):
                store = redis_store(url, "p", partition, directory=tmp_path)
                await saved_twice(store)
                assert await store.load() == LAST
                await store.close()

        asyncio.run(scene())
        assert all(node.dbsize() for node in nodes), "all keys are on one node"


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, list[redis.Redis]]]:
    """Two nodes with half of the slots each."""
    buses = [free_port(), free_port()]
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "5000", "--cluster-port")
    (folder / "0").mkdir()
    (folder / "1").mkdir()
    with (
        redis_server(folder / "0", *options, str(buses[0])) as one,
        redis_server(folder / "1", *options, str(buses[1])) as two,
    ):
        nodes = [redis.Redis.from_url(url) for url in (one, two)]
        for node, slots in zip(nodes, ((0, 8_191), (8_192, 16_383)), strict=True):
            node.execute_command("CLUSTER", "ADDSLOTSRANGE", *slots)
        port = two.split(":")[2].split("/")[0]
        nodes[0].execute_command("CLUSTER", "MEET", "127.0.0.1", port, buses[1])
        deadline_s = time.monotonic() + WAIT_S
        while any(b"cluster_state:ok" not in told(node) for node in nodes):
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        try:
            yield one, nodes
        finally:
            for node in nodes:
                node.close()


def told(node: redis.Redis) -> bytes:
    connection = node.connection_pool.get_connection()
    try:
        connection.send_command("CLUSTER", "INFO")
        answer: bytes = connection.read_response()
        return answer
    finally:
        node.connection_pool.release(connection)


# -- kill -9 -----------------------------------------------------------------------------------------

VICTIM = """
import asyncio, sys
from pathlib import Path
from redis_places import redis_store

async def main():
    store = redis_store(sys.argv[1], sys.argv[2], directory=Path(sys.argv[3]))
    claim, found = await store.fence(), await store.load()
    turn = int(found.meta) if found else 0
    while True:
        turn += 1
        delta = {f"k{n}": b"%d" % turn for n in range(300)}
        delta |= {f"old{turn}": b"x" * 1000, f"old{turn - 3}": None}
        await store.save(claim, b"%d" % turn, delta)
        print(turn, flush=True)

from engine.kafka.embedded import free_port
from engine.stores import redis_scripts
from engine.stores.artefacts import RedisArtefacts
redis_scripts.CHUNK_ENTRIES_MAX = 50
asyncio.run(main())
"""
KILLS = 4


def test_kill_minus_nine_leaves_one_whole_checkpoint(place: Place) -> None:
    """Whatever the moment of death, state and positions are of the same save, and none goes back."""
    told_last = 0
    for kill in range(KILLS):
        victim = subprocess.Popen(
            [sys.executable, "-c", VICTIM, place.url, place.pipeline, str(place.directory)],
            stdout=subprocess.PIPE,
            cwd=CHECKOUT,
            env=os.environ | {"PYTHONPATH": f"{CHECKOUT}:{CHECKOUT / 'tests'}"},
        )
        assert victim.stdout is not None
        assert int(victim.stdout.readline()) > told_last
        began = time.perf_counter()
        told_last = int(victim.stdout.readline())
        ended = time.perf_counter()
        while time.perf_counter() < ended + (ended - began) * kill / KILLS:
            pass
        victim.kill()
        victim.wait()
        victim.stdout.close()
        found = asyncio.run(loaded(place))
        turn = int(found.meta)
        assert turn >= told_last
        assert found.claim == kill + 1
        assert {found.entries[f"k{n}"] for n in range(300)} == {b"%d" % turn}
        assert {name for name in found.entries if name.startswith("old")} == {
            f"old{n}" for n in range(max(turn - 2, 1), turn + 1)
        }


async def loaded(place: Place) -> Checkpoint:
    store = place.store()
    place.opened.clear()
    try:
        found: Checkpoint | None = await store.load()
        assert found is not None
        return found
    finally:
        await store.close()
