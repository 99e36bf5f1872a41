"""Static features: one mapping per event of a run; one file fills both stores, and a backtest reads it."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from river import linear_model
from typer.testing import CliRunner, Result

from engine import Labels, Pipeline, Topic
from engine.cli.main import app
from engine.kafka.embedded import free_port
from engine.offline.backtest import LocalRun
from engine.offline.json_lines import read_static
from engine.settings import Settings
from engine.stores.hashes import STATIC_FILE, load_static, store_features
from engine.stores.lookups import StaticFeatures
from operators import field, lookup
from topics.codec import decode_prediction
from topics.errors import SettingsError
from topics.messages import Record
from topics.stored_features import StaticRow


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


# -- files ------------------------------------------------------------

DAY = 86_400_000
START = 1_735_689_600_000
ROWS: list[dict[str, Any]] = [
    {"key": "shop:7", "time": START + 2 * DAY, "fields": {"risk": 0.9}},
    {"key": "shop:7", "time": START, "fields": {"risk": 0.2, "country": "FR", "vip": True}},
    {"key": "shop:7", "time": START + DAY, "fields": {"vip": None, "code": "007"}},
]
PIPELINE = """
from msgspec import Struct
from river import linear_model

from engine import Labels, Pipeline, Topic
from operators import lookup


class Payment(Struct):
    event_id: str
    event_time: int
    merchant: int
    fraud: bool


pipeline = Pipeline(
    name="pay",
    events=Topic("pay.events", Payment, key="merchant"),
    labels=Labels(field="fraud"),
    features={
        "risk": lookup("shop:{merchant}", "risk", default=0.5),
        "country": lookup("shop:{merchant}", "country"),
        "vip": lookup("shop:{merchant}", "vip", default=0),
    },
    models={"lr": linear_model.LogisticRegression()},
)
"""


def headrace(*arguments: str, **env: str) -> Result:
    return CliRunner().invoke(app, arguments, env=env)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_lines_are_rows_packed_or_not_and_a_wrong_one_is_named(rows: Path, tmp_path: Path) -> None:
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(rows.read_bytes() + b"\n"))
    read = list(read_static(packed))
    assert read == list(read_static(rows))
    assert read[0] == StaticRow("shop:7", START + 2 * DAY, {"risk": 0.9})
    rows.write_text(rows.read_text() + "\n{}\n")
    with pytest.raises(SettingsError, match=r"rows\.jsonl, line 5: .*key") as caught:
        list(read_static(rows))
    assert '"fields"' in caught.value.hint


def test_load_and_get_use_the_embedded_store(rows: Path, tmp_path: Path) -> None:
    place = ("--state-dir", str(tmp_path / "state"))
    loaded = headrace("static", "load", str(rows), *place)
    assert loaded.stdout.startswith("3 rows read, 4 fields written"), loaded.stderr
    got = headrace("static", "get", "shop:7", *place)
    assert json.loads(got.stdout) == {"risk": 0.9, "country": "FR", "code": "007"}
    nobody = headrace("static", "get", "shop:8", *place)
    assert (nobody.exit_code, nobody.stdout) == (1, "{}\n")


def test_load_and_get_use_a_redis(rows: Path, redis_url: str, tmp_path: Path) -> None:
    env = {"HEADRACE_REDIS_URL": redis_url, "HEADRACE_STATE_DIR": str(tmp_path)}
    loaded = headrace("static", "load", str(rows), **env)
    assert loaded.exit_code == 0, loaded.stderr
    got = headrace("static", "get", "shop:7", "--redis-url", redis_url)
    assert json.loads(got.stdout) == {"risk": 0.9, "country": "FR", "code": "007"}
    assert not list(tmp_path.glob("*.sqlite*"))


def test_a_store_that_is_not_there_is_one_message(rows: Path) -> None:
    nowhere = Settings(redis_url=f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(SettingsError, match="RedisHashes of static features: ConnectionError") as caught:
        asyncio.run(load_static(read_static(rows), nowhere))
    assert "check redis_url" in caught.value.hint


def test_a_backtest_sees_what_held_at_each_event(rows: Path, tmp_path: Path) -> None:
    pipeline, events, out = tmp_path / "pay.py", tmp_path / "events.jsonl", tmp_path / "features.jsonl"
    pipeline.write_text(PIPELINE)
    times = [START - 1, START, START + DAY - 1, START + DAY, START + 2 * DAY - 1, START + 2 * DAY]
    events.write_text(
        "".join(
            json.dumps({"event_id": f"{n}", "event_time": time, "merchant": 7, "fraud": n % 2 == 0}) + "\n"
            for n, time in enumerate(times)
        )
    )
    arguments = ("backtest", str(pipeline), "--events", str(events), "--features-out", str(out), "--json")
    done = headrace(*arguments, "--static", str(rows))
    assert done.exit_code == 0, done.stderr
    shown = [json.loads(line)["features"] for line in out.read_text().splitlines()]
    before, first, second, third = (
        {"risk": 0.5, "vip": 0},
        {"risk": 0.2, "country": "FR", "vip": 1},
        {"risk": 0.2, "country": "FR", "vip": 0},
        {"risk": 0.9, "country": "FR", "vip": 0},
    )
    assert shown == [before, first, first, second, second, third]
    assert headrace(*arguments).exit_code == 0
    assert set(out.read_text().splitlines()) == {
        json.dumps({"event_id": str(n), "features": before}, separators=(",", ":")) for n in range(len(times))
    }
