"""Static features of a run: asked for once, one mapping per event, missing where the store has nothing."""

import asyncio
from pathlib import Path

import msgspec
from river import linear_model

from engine import Labels, Pipeline, Topic
from engine.offline.backtest import LocalRun
from engine.settings import Settings
from engine.stores.hashes import STATIC_FILE, store_features
from engine.stores.static_features import StaticFeatures
from operators import field, lookup
from topics.codec import decode_prediction
from topics.messages import Record


class Payment(msgspec.Struct):
    event_id: str
    event_time: int
    merchant: int
    amount: float


def pipeline() -> Pipeline:
    return Pipeline(
        name="pay",
        events=Topic("pay.events", Payment, key="merchant"),
        labels=Labels("pay.labels", wait="1h"),
        features={
            "amount": field("amount"),
            "risk": lookup("merchant:{merchant}", "risk", default=0.5),
            "country": lookup("merchant:{merchant}", "country"),
        },
        models={"lr": linear_model.LogisticRegression()},
    )


async def served(settings: Settings) -> list[dict[str, object]]:
    run = LocalRun(pipeline())
    static = StaticFeatures(run.pipeline.plan.lookups, settings)
    body = b'{"event_id": "%d", "event_time": 1700000000000, "merchant": %d, "amount": 2.0}'
    run.scorer.intake.offer_events(
        [Record("pay.events", 0, n, None, None, body % (n, merchant)) for n, merchant in enumerate((7, 8, 7))]
        + [Record("pay.events", 0, 3, None, None, b"no event")]
    )
    taken = run.scorer.intake.next_run(events_unread=False, labels_unread=False)
    assert taken is not None
    out, _ = run.scorer.step(taken, 0, await static.of(taken))
    await static.close()
    return [decode_prediction(r.value or b"").features for r in out if r.target == "predictions"]  # type: ignore[misc]


def test_values_reach_the_events_that_name_their_keys(tmp_path: Path) -> None:
    rows = [("merchant:7", "risk", 0.9), ("merchant:7", "country", "FR"), ("merchant:9", "risk", 0.1)]
    store_features(tmp_path / STATIC_FILE, rows)
    found = asyncio.run(served(Settings(state_dir=tmp_path)))
    known = {"amount": 2.0, "risk": 0.9, "country": "FR"}
    assert found == [known, {"amount": 2.0, "risk": 0.5}, known]


def test_without_a_store_there_are_defaults(tmp_path: Path) -> None:
    found = asyncio.run(served(Settings(state_dir=tmp_path)))
    assert found == [{"amount": 2.0, "risk": 0.5}] * 3


def test_redis_answers_the_same(redis_url: str, tmp_path: Path) -> None:
    import redis

    with redis.Redis.from_url(redis_url) as client:
        client.hset("merchant:7", mapping={"risk": "0.9", "country": "FR"})
    found = asyncio.run(served(Settings(state_dir=tmp_path, redis_url=redis_url)))
    assert found[0] == {"amount": 2.0, "risk": 0.9, "country": "FR"}
    assert found[1] == {"amount": 2.0, "risk": 0.5}
