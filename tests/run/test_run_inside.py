"""Labels inside events: a worker answers as a backtest does, to the bit, killed half-way or not."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import pytest
from reading import claims_of, counting, folded_digests, read_topic, saved_digests, watching
from running import Message, Worker, backtested, fresh_name, make_topics, publish, until, write_pipeline

from engine.definition.file import load_pipeline
from engine.settings import KafkaSettings

SOURCE = """
    from msgspec import Struct
    from river import drift, linear_model, preprocessing, tree

    from engine import Drift, Labels, Pipeline, Promotion, Topic
    from operators import by, field, label


    class Payment(Struct):
        event_id: str
        event_time: int
        card: str
        shop: str
        amount: float
        fraud: bool


    pipeline = Pipeline(
        name="NAME",
        events=Topic("NAME.payments", Payment, key="card"),
        labels=Labels(field="fraud"),
        features={
            "amount": field("amount"),
            "share": field("amount") / by("card").max("amount", "1h"),
            "card_10m": by("card").count("10m"),
            "shop_mean": by("shop").mean("amount", "30m"),
            "shop_frauds": by("shop").sum(label, "1h"),
            "all_frauds": by().mean(label, "10m").default(0.0),
        },
        models={
            "tree": tree.HoeffdingTreeClassifier(grace_period=50),
            "linear": preprocessing.StandardScaler() | linear_model.LogisticRegression(),
        },
        champion="tree",
        drift=[Drift(drift.ADWIN(), on="loss")],
        promotion=Promotion(
            false_swap_every=1_000, evidence_block=16, min_examples=64, cooldown=64, fresh_challengers_max=0
        ),
    )
"""
CORRELATED = "losses are correlated from block to block: swaps come more often than promised"
"""Frauds of these payments change for good half-way, so blocks of losses are alike."""
EVENTS = 2_500
AHEAD_MAX = 300
"""Published and not answered: so that the kill comes amid work, and amid the stream."""
SEED = 20
SAME = (
    "event_time",
    "features",
    "late",
    "model_name",
    "model_updates",
    "model_version",
    "prediction_label",
    "prediction_score",
    "served_by",
)


def payments(topic: str) -> list[Message]:
    """Payments in time order with some out of it, whose frauds change their nature half-way."""
    random_ = random.Random(SEED)
    messages, time = [], 1_700_000_000_000
    for number in range(EVENTS):
        time += random_.randrange(20_000)
        amount = random_.lognormvariate(3, 1)
        shop = f"s{random_.randrange(8)}"
        fraud = (amount > 60) == (number < EVENTS / 2) if random_.random() < 0.9 else shop < "s2"
        payment = {
            "event_id": f"p{number}",
            "event_time": time - random_.choice((0, 0, 0, 0, 15_000, 90_000)),
            "card": f"c{random_.randrange(40)}",
            "shop": shop,
            "amount": amount,
            "fraud": fraud,
        }
        messages.append(Message(topic, time, payment["card"].encode(), json.dumps(payment).encode()))
    return messages


@pytest.mark.kafka
def test_a_worker_that_is_killed_half_way_answers_as_the_backtest(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    asyncio.run(killed_half_way(kafka, tmp_path))


async def killed_half_way(kafka: KafkaSettings, folder: Path) -> None:
    name = fresh_name("payments")
    file = write_pipeline(folder, SOURCE, name=name)
    pipeline = load_pipeline(file)
    predictions, examples = pipeline.catalog["predictions"], pipeline.catalog["examples"]
    await make_topics(kafka, pipeline)
    messages = payments(pipeline.events.name)
    half = EVENTS // 2
    worker = Worker(file, kafka, folder, checkpoint_interval_ms=300)
    async with watching(kafka, predictions, examples) as watch:

        async def pace(published: int) -> None:
            await until(lambda: watch.counted(predictions) >= published - AHEAD_MAX, "answers")

        with worker:
            await worker.ready()
            publishing = asyncio.create_task(publish(kafka, messages[: EVENTS * 2 // 3]))
            await until(lambda: watch.counted(predictions) > half, "half of the answers", worker=worker)
            worker.kill()
            logs = [worker.log]
        await publishing
        await publish(kafka, messages[EVENTS * 2 // 3 :])
        assert watch.counted(predictions) < EVENTS, "killed too late to prove anything"
        with worker:
            await until(lambda: watch.counted(examples) >= EVENTS, "all learned", worker=worker)
            assert await worker.stop() == 0, worker.said()
            logs.append(worker.log)

    answers = counting(await read_topic(kafka, predictions))
    expected = {row["event_id"]: row for row in backtested(folder, pipeline, messages)}
    assert answers.keys() == expected.keys()
    assert len(expected) == EVENTS
    served = [{name: answers[i].get(name) for name in SAME} for i in expected]
    assert served == [{name: row.get(name) for name in SAME} for row in expected.values()]
    assert {row["model_name"] for row in served} == {"tree", "linear"}, "no swap: too easy"
    assert any(row["late"] for row in served)
    log = await read_topic(kafka, examples)
    # Each start claims.  On a busy machine a worker may get no processor for longer than its session of two
    # seconds: the group takes its partition back and gives it again, and it claims again.  Nothing else makes
    # one claim.
    moved = sum(len(worker.logged("partitions revoked", log=one)) for one in logs)
    claims = claims_of(log)
    assert claims == sorted(set(claims))
    assert 2 <= len(claims) <= 2 + moved
    lessons = counting(log, "example")
    assert [(i, x["features"], x["served_score"]) for i, x in lessons.items()] == [
        (i, row["features"], row["prediction_score"]) for i, row in expected.items()
    ]
    digests, learned = await saved_digests(file, worker.state_dir)
    assert (digests, learned) == folded_digests(file, log)
    assert learned == EVENTS
    assert {line["event"] for line in worker.complaints()} <= {CORRELATED}
