"""A worker whose features have changed refuses its checkpoint, and goes on where it is told to."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from reading import counting, read_topic, watching
from running import (
    Message,
    Worker,
    backtested,
    fresh_name,
    in_process,
    make_topics,
    publish,
    until,
    write_pipeline,
)
from test_run_ends import refused

from engine.definition.file import load_pipeline
from engine.settings import KafkaSettings, Settings
from topics import headers

SOURCE = """
    from msgspec import Struct
    from river import linear_model

    from engine import Labels, Pipeline, Topic
    from operators import by, field, label, tiled


    class Payment(Struct):
        event_id: str
        event_time: int
        card: str
        amount: float
        shop: str = ""


    pipeline = Pipeline(
        name="NAME",
        events=Topic("NAME.payments", Payment, key="card"),
        labels=Labels("NAME.frauds", wait="1h"),
        features={
            FEATURES
            "n": by("card").count("1h"),
            "frauds": by("card").sum(label, "1h").default(0.0),
        },
        models={"linear": linear_model.LogisticRegression()},
    )
"""
BEFORE = """
            "gone": by("shop").count("1h"),
            "default": field("amount").default(0.0),
            "tiled": by("card").sum("amount", tiled("1h", step="10m")),
            "all": by().count("1h"),
"""
AFTER = """
            "tiled": by("card").sum("amount", tiled("1h", step="10m")),
            "most": by("shop").max("amount", tiled("1h", step="10m")),
            "longer": by("card").count("2h"),
            "all": by().count("1h"),
            "spent": by().sum("amount", "1h"),
            "shop_frauds": by("shop").count(label, "1h"),
            "default": field("amount").default(1.0),
"""
SHARED = ("n", "frauds", "tiled")
START = 1_700_000_000_000
EVENTS, CUT = 240, 120


def made(name: str) -> list[Message]:
    """A payment each second; its label comes half a minute later, so that many wait at any moment."""
    messages = []
    for number in range(EVENTS):
        time, card = START + 1_000 * number, f"c{number % 5}"
        value = {"event_id": f"p{number}", "event_time": time, "card": card, "amount": number / 4}
        value["shop"] = f"s{number % 3}"
        messages.append(Message(f"{name}.payments", time, card.encode(), json.dumps(value).encode()))
        label = {"event_id": f"p{number}", "label": number % 7 == 0, "label_time": time + 30_500}
        messages.append(Message(f"{name}.frauds", time + 30_500, card.encode(), json.dumps(label).encode()))
    return sorted(messages, key=lambda message: message.time)


def answered(worker: Worker) -> float:
    return sum(
        value for name, value in worker.metrics().items() if name.startswith("headrace_predictions_total")
    )


def test_a_changed_feature_is_refused_and_then_accepted(tansu: KafkaSettings, tmp_path: Path) -> None:
    name = fresh_name("changed")
    old, new = SOURCE.replace("FEATURES", BEFORE.strip()), SOURCE.replace("FEATURES", AFTER.strip())
    file = write_pipeline(tmp_path, old, name=name)
    first = load_pipeline(file)
    messages = made(name)
    cut = next(at for at, message in enumerate(messages) if message.time >= START + 1_000 * CUT)

    async def play() -> list[Any]:
        await make_topics(tansu, first)
        before = Settings(kafka=tansu, state_dir=tmp_path / "state")
        predictions = first.catalog["predictions"]
        # What waits on both topics is read in one order; a label that is on its way may miss its event.
        await publish(tansu, messages[:cut])
        async with (
            watching(tansu, predictions) as watch,
            in_process(first, before) as (started, running),
        ):
            await until(lambda: watch.counted(predictions) == CUT, "the first half is answered")
            started.stop()
            await running
        write_pipeline(tmp_path, new, name=name)
        refusal = str(await refused(tansu, before.state_dir, load_pipeline(file)))
        assert "feature most is new, feature longer is new, feature spent is new" in refusal
        assert "feature default changed (" in refusal
        assert "feature gone is gone" in refusal
        assert "--accept-changed-features" in refusal

        await publish(tansu, messages[cut:])
        with Worker(file, tansu, tmp_path).start("--accept-changed-features") as worker:
            await until(lambda: answered(worker) == EVENTS - CUT, "the other half", worker=worker)
            assert await worker.stop() == 0, worker.said()
            (told,) = worker.complaints()
            assert told["event"] == "features changed"
            # `all` is no other feature, but its group keeps amounts now.
            assert told["filling"] == ["most", "longer", "all", "spent", "shop_frauds"]
            assert (told["keys"], told["keys_dropped"]) == (5 + 5 + 5, 3 + 1)
        async with in_process(load_pipeline(file), before) as (again, running):
            again.stop()  # its checkpoints are of the new definition now
            await running
        return await read_topic(tansu, first.catalog["predictions"])

    records = asyncio.run(play())
    second = load_pipeline(file)
    oracle = {line["event_id"]: line["features"] for line in backtested(tmp_path, second, messages)}
    found = {answer["event_id"]: answer["features"] for answer in counting(records).values()}
    assert len(found) == EVENTS
    for event_id, features in found.items():
        assert [features[one] for one in SHARED] == [oracle[event_id][one] for one in SHARED], event_id
    # A longer window reads what was kept for the shorter one.  What is new fills, and what is kept otherwise.
    for number in range(CUT, EVENTS):
        assert found[f"p{number}"]["longer"] == oracle[f"p{number}"]["longer"]
    assert [found[f"p{CUT + number}"]["all"] for number in range(3)] == [1, 2, 3]
    assert [found[f"p{CUT + number}"]["spent"] for number in range(2)] == [CUT / 4, (2 * CUT + 1) / 4]
    assert found[f"p{EVENTS - 1}"]["shop_frauds"] < oracle[f"p{EVENTS - 1}"]["shop_frauds"]
    versions = [
        value.decode() for record in records for key, value in record.headers if key == headers.FEATURES
    ]
    assert versions == [first.features_version] * CUT + [second.features_version] * (EVENTS - CUT)
