"""A worker serves features to others: what Redis has is what the newest answers were made from."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import redis
from reading import counting, read_topic
from running import Message, Worker, fresh_name, make_topics, publish, until, write_pipeline

from engine.definition.file import load_pipeline
from engine.settings import KafkaSettings
from engine.stores.online_features import served_key
from topics.stored_features import parsed

SOURCE = """
    from msgspec import Struct
    from river import linear_model

    from engine import Labels, Pipeline, Topic
    from operators import by, field, lookup


    class Payment(Struct):
        event_id: str
        event_time: int
        card: str
        amount: float


    pipeline = Pipeline(
        name="NAME",
        events=Topic("NAME.payments", Payment, key="card"),
        labels=Labels("NAME.frauds", wait="1h"),
        features={
            "amount": field("amount"),
            "count": by("card").count("1h"),
            "limit": lookup("card:{card}", "limit", default=0.0),
        },
        models={"linear": linear_model.LogisticRegression()},
        serve_features=True,
    )
"""
START = 1_700_000_000_000
CARDS = 7
EVENTS = 200


def test_the_newest_features_of_each_key_are_in_redis(
    tansu: KafkaSettings, redis_url: str, tmp_path: Path
) -> None:
    name = fresh_name("served")
    file = write_pipeline(tmp_path, SOURCE, name=name)
    catalog = load_pipeline(file).catalog
    messages = []
    for number in range(EVENTS):
        # Every fifth is out of order: it is no card's newest.
        time, card = START + 1_000 * (number - 9 * (number % 5 == 0)), f"c{number % CARDS}"
        value = {"event_id": f"p{number}", "event_time": time, "card": card, "amount": number / 4}
        messages.append(Message(catalog["events"], time, card.encode(), json.dumps(value).encode()))

    async def play(store: redis.Redis) -> None:
        await make_topics(tansu, load_pipeline(file))
        # A busy machine needs longer than the 50 ms after which a default is taken.
        settings = {"redis_url": redis_url, "lookup_deadline_ms": 30_000}
        with Worker(file, tansu, tmp_path, **settings) as worker:
            await worker.ready()
            await publish(tansu, messages)
            last = f"{START + 1_000 * (EVENTS - 1)}"
            key = served_key(name, f"c{(EVENTS - 1) % CARDS}")
            await until(lambda: store.hget(key, "event_time") == last, "the last event's key", worker=worker)
            assert await worker.stop() == 0, worker.said()
            assert worker.complaints() == []
        answers = counting(await read_topic(tansu, catalog["predictions"])).values()
        for number in range(CARDS):
            own = [answer for answer in answers if answer["features"]["limit"] == 10.0 * number]
            newest = max(own, key=lambda answer: (answer["event_time"], answer["event_offset"]))
            found = store.hgetall(served_key(name, f"c{number}"))
            assert {name: parsed(text) for name, text in found.items()} == {
                **newest["features"],
                "event_time": newest["event_time"],
            }

    with redis.Redis.from_url(redis_url, decode_responses=True) as store:
        for number in range(CARDS):
            store.hset(f"card:c{number}", "limit", f"{10.0 * number}")
        asyncio.run(play(store))
