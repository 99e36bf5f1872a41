"""Features served to others: the newest of each key by event time, one round trip, never in the way."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import redis
from brokers.redis import relay_to, silent_server
from clock import Clock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from river import linear_model

from engine import Labels, Pipeline, Topic
from engine.machines.outbox import Scored
from engine.settings import Settings
from engine.stores import online_features as serving
from engine.stores.hashes import RedisHashes
from engine.stores.online_features import ServedFeatures, served_key
from operators import by, field
from topics.errors import DefinitionError, SettingsError, StoreUnavailableError
from topics.messages import FeatureValue, Prediction
from topics.stored_features import parsed

Row = tuple[str, int, dict[str, FeatureValue]]


class Payment(msgspec.Struct):
    event_id: str
    event_time: int
    card: str
    amount: float


PAY = Pipeline(
    name="pay",
    events=Topic("pay.events", Payment, key="card"),
    labels=Labels("pay.labels", wait="1h"),
    features={"n": by("card").count("1h"), "mean": by("card").mean("amount", "1h")},
    models={"lr": linear_model.LogisticRegression()},
    serve_features=True,
)


@pytest.fixture
def store(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        client.flushdb()
        yield client


def served(url: str, clock: Clock | None = None) -> ServedFeatures:
    return ServedFeatures(PAY, Settings(redis_url=url, lookup_deadline_ms=5_000), clock=clock or Clock())


def answered(rows: Sequence[Row]) -> list[Scored]:
    answer = ("m", 1, 0, "champion", 0.5, True, "champion")
    return [
        (Prediction(f"pay:{n}", str(n), time, 0, *answer, features, n, 1, n), key, {})
        for n, (key, time, features) in enumerate(rows)
    ]


def of(store: redis.Redis, key: str) -> dict[str, Any]:
    return {name: parsed(text) for name, text in store.hgetall(served_key("pay", key)).items()}


def test_what_others_read_is_the_newest_row_whole(redis_url: str, store: redis.Redis) -> None:
    async def play() -> None:
        features = served(redis_url)
        first: list[Row] = [("a", 10, {"n": 1, "mean": 0.1}), ("a", 20, {"n": 2}), ("a", 15, {"n": 9})]
        features.put(answered([*first, ("b", 5, {"known": True, "country": "FR", "mean": 1e-9})]))
        await features.drain()
        assert of(store, "a") == {"n": 2, "event_time": 20}
        assert of(store, "b") == {"known": 1, "country": "FR", "mean": 1e-9, "event_time": 5}
        features.put(answered([("a", 19, {"n": 9}), ("b", 5, {"n": 3})]))
        await features.drain()
        assert of(store, "a") == {"n": 2, "event_time": 20}
        assert of(store, "b") == {"n": 3, "event_time": 5}, "of equal times the later answer holds"
        assert features.counts == Counter({("feature_writes", "written"): 3, ("feature_writes", "older"): 1})
        assert 0 < store.pttl(served_key("pay", "a")) <= serving.KEPT_MS
        await features.close()

    asyncio.run(play())


BATCHES = st.lists(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9), st.integers(0, 99)), max_size=5), max_size=5
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(BATCHES)
def test_order_holds_however_batches_are_cut(
    redis_url: str, store: redis.Redis, batches: list[list[tuple[str, int, int]]]
) -> None:
    store.flushdb()
    newest: dict[str, tuple[int, int]] = {}

    async def play() -> None:
        features = served(redis_url)
        for batch in batches:
            features.put(answered([(key, time, {"x": value}) for key, time, value in batch]))
            await features.drain()
        await features.close()

    asyncio.run(play())
    for key, time, value in (row for batch in batches for row in batch):
        if newest.get(key, (-1, 0))[0] <= time:
            newest[key] = (time, value)
    for key, (time, value) in newest.items():
        assert of(store, key) == {"x": value, "event_time": time}


def test_a_key_that_is_erased_has_no_row_and_begins_anew(redis_url: str, store: redis.Redis) -> None:
    """Rows of before that are written, on their way or waiting; one of after stays, however old its event."""

    async def play() -> None:
        features = served(redis_url)
        features.put(answered([("a", 20, {"n": 2}), ("b", 5, {"n": 1})]))
        await features.drain()
        features.put(answered([("a", 30, {"n": 3})]))  # on its way
        features.put([], ["a"])
        features.put(answered([("b", 6, {"n": 2})]))
        await features.erased()
        await features.drain()
        assert (of(store, "a"), of(store, "b")) == ({}, {"n": 2, "event_time": 6})
        features.put(answered([("a", 40, {"n": 4})]))  # waits behind it
        features.put(answered([("a", 7, {"n": 1})]), ["a"])
        await features.erased()
        await features.drain()
        assert of(store, "a") == {"n": 1, "event_time": 7}
        await features.close()

    asyncio.run(play())


def test_another_pipeline_can_look_them_up(redis_url: str) -> None:
    async def play() -> None:
        features, hashes = served(redis_url), RedisHashes(redis_url)
        features.put(answered([("c", 10, {"n": 7})]))
        await features.drain()
        assert await hashes.get({"headrace:pay:features:c": ["n", "event_time"]}) == [["7", "10"]]
        await hashes.close()
        await features.close()

    asyncio.run(play())


def test_a_batch_is_one_round_trip_and_what_gathers_meanwhile_is_the_next(
    redis_url: str, store: redis.Redis
) -> None:
    async def play() -> None:
        async with relay_to(redis_url) as relay:
            features = served(relay.url)
            features.put(answered([("connects", 0, {})]))
            await features.drain()
            relay.trips = 0
            keys = [f"card {n}" for n in range(3 * serving.KEYS_PER_SCRIPT_MAX)]
            features.put(answered([(key, 1, {"n": 1}) for key in keys]))
            await features.drain()
            assert relay.trips == 1
            for time in range(2, 50):  # nothing is awaited in between
                features.put(answered([(key, time, {"n": time}) for key in keys]))
            await features.drain()
            assert relay.trips == 2
            assert of(store, "card 7") == {"n": 49, "event_time": 49}
            await features.close()

    asyncio.run(play())


def test_a_redis_that_hangs_is_never_waited_for_beyond_the_deadline() -> None:
    async def play() -> None:
        async with silent_server() as url, asyncio.timeout(20):
            features = ServedFeatures(PAY, Settings(redis_url=url, lookup_deadline_ms=20))
            for time in range(200):
                features.put(answered([("a", time, {"n": time})]))
            await features.drain()
            features.put(answered([("b", 1, {"n": 1})]))
            await features.close()
            assert features.counts == Counter({("feature_writes", "dropped"): 2})

    asyncio.run(play())


def test_after_an_outage_the_newest_rows_are_written(
    redis_url: str, store: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> None:
        clock = Clock()
        features = served(redis_url, clock)
        tries = []

        async def refused(rows: Sequence[tuple[str, Prediction]]) -> int:
            tries.append(len(rows))
            raise redis.ConnectionError("refused")

        with monkeypatch.context() as patched:
            patched.setattr(features, "_send", refused)
            for time in (1, 3, 2):
                features.put(answered([("a", time, {"n": time})]))
                await features.drain()
            assert tries == [1], "left alone for a while"
            clock.now += serving.PAUSE_MS / 1000
            features.put(answered([("b", 1, {"n": 1})]))
            await features.drain()
            assert tries == [1, 2]
        clock.now += serving.PAUSE_MS / 1000
        await features.drain()
        assert (of(store, "a"), of(store, "b")["n"]) == ({"n": 3, "event_time": 3}, 1)
        assert features.counts == Counter({("feature_writes", "failed"): 3, ("feature_writes", "written"): 2})
        await features.close()

    asyncio.run(play())


def test_a_checkpoint_is_told_where_a_redis_cannot_erase(monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks again, and neither a stop nor a rebalance waits behind it for ever."""
    monkeypatch.setattr(serving, "ERASE_LOOK_S", 0.001)

    async def play() -> None:
        async with silent_server() as url:
            features = ServedFeatures(PAY, Settings(redis_url=url, lookup_deadline_ms=1))
            await features.erased()
            features.put([], ["a", "b"])
            for _ in range(2):
                with pytest.raises(StoreUnavailableError, match="served features of 2 keys"):
                    await features.erased()
            await features.close()

    asyncio.run(play())


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "KEYS_MAX", 3)

    async def play() -> None:
        async with silent_server() as url:
            features = ServedFeatures(PAY, Settings(redis_url=url, lookup_deadline_ms=1))
            features.put(answered([(str(n), 1, {}) for n in range(5)]))
            assert features.counts["feature_writes", "dropped"] == 2
            await features.close()
            assert features.counts["feature_writes", "dropped"] == 5

    asyncio.run(play())


def test_a_key_that_holds_something_else_is_put_right(redis_url: str, store: redis.Redis) -> None:
    store.set(served_key("pay", "a"), "no hash")
    store.hset(served_key("pay", "b"), mapping={"event_time": "yesterday"})

    async def play() -> None:
        features = served(redis_url)
        features.put(answered([("a", 1, {"n": 1}), ("b", 1, {"n": 1})]))
        await features.close()

    asyncio.run(play())
    assert of(store, "a") == of(store, "b") == {"n": 1, "event_time": 1}


def test_without_a_redis_it_is_refused_and_unasked_it_does_nothing() -> None:
    with pytest.raises(SettingsError, match="serve_features needs a Redis") as caught:
        ServedFeatures(PAY, Settings())
    assert "HEADRACE_REDIS_URL" in caught.value.hint

    async def play() -> None:
        features = ServedFeatures(replace(PAY, serve_features=False), Settings())
        features.put(answered([("a", 1, {})]))
        await features.drain()
        await features.close()
        assert not features.counts

    asyncio.run(play())


def test_no_feature_can_take_the_name_of_the_time() -> None:
    with pytest.raises(DefinitionError, match="`event_time`"):
        replace(PAY, features={"event_time": field("event_time")})
