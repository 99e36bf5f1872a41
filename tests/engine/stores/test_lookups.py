"""Static features: the same from SQLite and Redis, one round trip, never late, never raising."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from brokers.redis import relay_to, silent_server
from clock import Clock

from engine.stores import lookups as module
from engine.stores.hashes import RedisHashes, SqliteHashes, store_features
from engine.stores.lookups import Address, Lookups

Stored = Mapping[str, Mapping[str, str]]


class Memory:
    """A store that counts its round trips, and fails or hangs when told to."""

    def __init__(self, stored: Stored) -> None:
        self.stored = stored
        self.trips = 0
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def get(self, wanted: Mapping[str, Sequence[str]]) -> list[list[str | None]]:
        self.trips += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return [[self.stored.get(key, {}).get(name) for name in names] for key, names in wanted.items()]

    async def close(self) -> None:
        self.gate.set()


RISKY: Stored = {"merchant:7": {"risk": "0.5", "name": "Quill", "since": "1999", "code": "007"}}
ASKED: list[Address] = [("merchant:7", name) for name in ("risk", "name", "since", "code", "age")]
ANSWERED = {"risk": 0.5, "name": "Quill", "since": 1999, "code": "007", "age": None}


TTL_MS, DEADLINE_MS = 60_000, 50


def looking(store: Any, clock: Clock, deadline_ms: int = DEADLINE_MS) -> Lookups:
    return Lookups(store, clock=clock, ttl_ms=TTL_MS, deadline_ms=deadline_ms)


def in_memory(stored: Stored) -> tuple[Memory, Clock, Lookups]:
    store, clock = Memory(stored), Clock()
    return store, clock, looking(store, clock)


async def redis_with(
    url: str, stored: Stored, run: Callable[[Lookups, Any], Coroutine[Any, Any, None]]
) -> None:
    from redis.asyncio import Redis

    client: Any = Redis.from_url(url)
    await client.flushdb()
    for key, fields in stored.items():
        await client.hset(key, mapping=dict(fields))
    lookups = looking(RedisHashes(url), Clock(), 5_000)
    try:
        await run(lookups, client)
    finally:
        await lookups.close()
        await client.aclose()


def test_sqlite_and_redis_answer_alike(tmp_path: Path, redis_url: str) -> None:
    path = tmp_path / "deep" / "features.sqlite"
    store_features(path, [(key, name, text) for key, row in RISKY.items() for name, text in row.items()])
    wanted = {("merchant:7", name): value for name, value in ANSWERED.items()} | {
        ("merchant:8", "risk"): None
    }

    async def from_sqlite() -> None:
        lookups = looking(SqliteHashes(path), Clock(), 5_000)
        assert await lookups.fetch(list(wanted)) == wanted
        assert lookups.outcomes == {"found": 4, "missing": 2, "cached": 0}
        await lookups.close()

    async def from_redis(lookups: Lookups, _: Any) -> None:
        assert await lookups.fetch(list(wanted)) == wanted
        assert lookups.outcomes == {"found": 4, "missing": 2, "cached": 0}

    asyncio.run(from_sqlite())
    asyncio.run(redis_with(redis_url, RISKY, from_redis))


def test_a_batch_is_one_round_trip_and_asks_for_each_value_once(redis_url: str) -> None:
    stored = {f"card:{n}": {"limit": str(n), "kind": "x"} for n in range(50)}
    asked = [(key, name) for key in stored for name in ("limit", "kind")] * 3

    async def memory() -> None:
        store, _, lookups = in_memory(stored)
        values = await lookups.fetch(asked)
        assert values["card:7", "limit"] == 7
        assert len(values) == 100
        assert store.trips == 1

    async def redis(_: Lookups, client: Any) -> None:
        async with relay_to(redis_url) as relay:
            lookups = looking(RedisHashes(relay.url), Clock(), 5_000)
            await lookups.fetch([("card:0", "other")])  # connected
            relay.trips = 0
            await client.config_resetstat()
            assert (await lookups.fetch(asked))["card:49", "limit"] == 49
            assert relay.trips == 1
            assert (await client.info("commandstats"))["cmdstat_hmget"]["calls"] == 50
            await lookups.fetch(asked)
            assert relay.trips == 1, "all of it is kept"
            await lookups.close()

    asyncio.run(memory())
    asyncio.run(redis_with(redis_url, stored, redis))


def test_values_are_kept_for_a_while_missing_ones_too() -> None:
    async def play() -> None:
        store, clock, lookups = in_memory(RISKY)
        await lookups.fetch(ASKED)
        store.stored = {"merchant:7": {"risk": "0.9"}}
        assert (await lookups.fetch(ASKED))["merchant:7", "risk"] == 0.5
        assert (store.trips, lookups.outcomes["cached"]) == (1, 5)
        clock.now += TTL_MS / 1000
        assert (await lookups.fetch(ASKED))["merchant:7", "risk"] == 0.9
        assert store.trips == 2

    asyncio.run(play())


def test_the_cache_has_a_bound_and_drops_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHED_MAX", 3)

    async def play() -> None:
        store, _, lookups = in_memory({})
        await lookups.fetch([(str(n), "x") for n in range(5)])
        await lookups.fetch([(str(n), "x") for n in (2, 3, 4)])
        assert (store.trips, len(lookups._cache)) == (1, 3)

    asyncio.run(play())


def test_an_outage_gives_old_values_or_none_and_is_not_asked_about_again_at_once() -> None:
    async def play() -> None:
        store, clock, lookups = in_memory(RISKY)
        await lookups.fetch([("merchant:7", "risk")])
        clock.now += TTL_MS / 1000
        store.error = ConnectionError("refused")
        expected = {("merchant:7", "risk"): 0.5, ("merchant:9", "risk"): None}
        for _ in range(3):
            assert await lookups.fetch(list(expected)) == expected
        assert store.trips == 2
        assert lookups.outcomes["unavailable"] == 6
        assert "refused" in lookups.last_error
        store.error = None
        clock.now += module.PAUSE_MS / 1000
        assert await lookups.fetch(list(expected)) == expected
        assert store.trips == 3

    asyncio.run(play())


def test_a_slow_store_is_not_waited_for_and_its_late_answer_is_used() -> None:
    async def play() -> None:
        store, clock, _ = in_memory(RISKY)
        lookups = looking(store, clock, 1)
        store.gate.clear()
        assert await lookups.fetch([("merchant:7", "risk")]) == {("merchant:7", "risk"): None}
        assert await lookups.fetch([("merchant:7", "name")]) == {("merchant:7", "name"): None}
        assert store.trips == 1
        store.gate.set()
        reading = lookups._reading
        assert reading is not None
        await reading
        assert await lookups.fetch([("merchant:7", "risk")]) == {("merchant:7", "risk"): 0.5}
        assert store.trips == 1
        await lookups.close()

    asyncio.run(play())


def test_a_store_that_stays_slow_is_asked_but_not_waited_for_until_it_is_quick_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def play() -> None:
        store, clock, lookups = in_memory(RISKY)
        store.gate.clear()

        async def answered_after(seconds: float) -> None:
            clock.now += seconds
            store.gate.set()
            assert lookups._reading is not None
            await lookups._reading
            store.gate.clear()

        waited: list[float | None] = []
        wait = asyncio.wait

        async def waiting(tasks: Any, *, timeout: float | None = None) -> Any:  # noqa: ASYNC109
            waited.append(timeout)
            return await wait(tasks, timeout=0)

        monkeypatch.setattr(asyncio, "wait", waiting)
        for name in ("risk", "name", "since"):
            assert await lookups.fetch([("merchant:7", name)]) == {("merchant:7", name): None}
            await answered_after(1.0 if name == "risk" else 0.001)
        store.gate.set()
        await lookups.fetch([("merchant:7", "code")])
        deadline_s = DEADLINE_MS / 1000
        assert waited == [deadline_s, 0, deadline_s, deadline_s]
        assert store.trips == 4
        assert (await lookups.fetch([("merchant:7", "risk")]))["merchant:7", "risk"] == 0.5

    asyncio.run(play())


def test_a_redis_that_takes_the_connection_and_hangs_costs_one_deadline() -> None:
    async def play() -> None:
        async with silent_server() as url:
            lookups = looking(RedisHashes(url), Clock(), 20)
            async with asyncio.timeout(10):  # of 1,000 batches none but the first has waited
                for batch in range(1_000):
                    address = ("card", f"{batch}")
                    assert await lookups.fetch([address]) == {address: None}
            assert lookups.outcomes == {"cached": 0, "unavailable": 1_000}
            await lookups.close()

    asyncio.run(play())


def test_a_paused_redis_does_not_mix_up_answers(redis_url: str) -> None:
    stored = {"a": {"x": "1"}, "b": {"x": "2"}}

    async def play(_: Lookups, client: Any) -> None:
        lookups = looking(RedisHashes(redis_url), Clock(), 20)
        assert await lookups.fetch([("a", "y")]) is not None  # connected
        await client.execute_command("CLIENT", "PAUSE", "200", "ALL")
        assert await lookups.fetch([("a", "x")]) == {("a", "x"): None}
        reading = lookups._reading
        assert reading is not None
        await reading
        assert await lookups.fetch([("b", "x"), ("a", "x")]) == {("b", "x"): 2, ("a", "x"): 1}
        await lookups.close()

    asyncio.run(redis_with(redis_url, stored, play))


def test_a_key_of_another_kind_spoils_only_itself(redis_url: str) -> None:
    async def play(lookups: Lookups, client: Any) -> None:
        await client.set("text", "no hash")
        expected = {("text", "risk"): None, ("merchant:7", "risk"): 0.5}
        assert await lookups.fetch(list(expected)) == expected
        assert lookups.outcomes["unavailable"] == 0

    asyncio.run(redis_with(redis_url, RISKY, play))


def test_a_redis_that_is_not_there_is_unavailable_not_an_error() -> None:
    from engine.kafka.embedded import free_port

    async def play() -> None:
        lookups = looking(RedisHashes(f"redis://127.0.0.1:{free_port()}/0"), Clock(), 5_000)
        assert await lookups.fetch(ASKED) == dict.fromkeys(ASKED)
        assert lookups.outcomes["unavailable"] == len(ASKED)
        await lookups.close()

    asyncio.run(play())


def test_a_store_that_was_never_filled_has_nothing(tmp_path: Path) -> None:
    async def play() -> None:
        lookups = looking(SqliteHashes(tmp_path / "none.sqlite"), Clock(), 5_000)
        assert await lookups.fetch(ASKED) == dict.fromkeys(ASKED)
        assert not (tmp_path / "none.sqlite").exists()

    asyncio.run(play())
