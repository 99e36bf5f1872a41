"""A fault planted in a stream: a worker says of it what the backtest says, killed half-way or not."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from reading import decoded, folded, read_topic, watching
from running import Message, Worker, fresh_name, make_topics, publish, until, write_pipeline

from engine.definition.file import load_pipeline
from engine.machines.watching import verdicts_of
from engine.offline.backtest import backtest
from engine.settings import KafkaSettings
from engine.worker.assembly import build_learner
from topics.codec import encode
from topics.messages import REPORTED, Decision, Record

SOURCE = """
    from msgspec import Struct
    from river import linear_model, preprocessing, tree

    from engine import Estimated, Labels, Pipeline, Topic, Watch
    from operators import by, field, label


    class Payment(Struct):
        event_id: str
        event_time: int
        card: str
        amount: float | None
        fraud: bool


    pipeline = Pipeline(
        name="NAME",
        events=Topic("NAME.payments", Payment, key="card", grace="1m"),
        labels=Labels(field="fraud"),
        features={
            "amount": field("amount"),
            "card_10m": by("card").count("10m"),
            "frauds": by("card").mean(label, "10m").default(0.0),
        },
        models={
            "tree": tree.HoeffdingTreeClassifier(grace_period=50),
            "linear": preprocessing.StandardScaler() | linear_model.LogisticRegression(),
        },
        champion="tree",
        watch=Watch(block="10m", reference_span="140m", false_alarm_every="7d", rows_max=50),
        estimate=Estimated("10m", answered=True),
        slices=["card_10m"],
        report_every=500,
    )
"""
BLOCK_MS = 600_000
BLOCKS, FAULT_FROM = 44, 33
"""A week of blocks to fit, a reference of 14, some that are as usual, and then amounts that are missing."""
EVENTS_PER_BLOCK = 60
START_MS = 1_700_000_400_000
"""The begin of a block."""
SEED = 20
AHEAD_MAX = 300


def payments(topic: str) -> list[Message]:
    rng = random.Random(SEED)
    messages = []
    for number in range(BLOCKS * EVENTS_PER_BLOCK):
        time = START_MS + number * BLOCK_MS // EVENTS_PER_BLOCK
        amount = rng.lognormvariate(3, 1)
        broken = number >= FAULT_FROM * EVENTS_PER_BLOCK and rng.random() < 0.6
        payment = {
            "event_id": f"p{number}",
            "event_time": time - rng.choice((0, 0, 0, 30_000)),
            "card": f"c{rng.randrange(40)}",
            "amount": None if broken else amount,
            "fraud": amount > 40,
        }
        messages.append(Message(topic, time, payment["card"].encode(), json.dumps(payment).encode()))
    return messages


@pytest.mark.kafka
def test_a_planted_fault_is_told_as_by_the_backtest_by_a_worker_that_is_killed(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    asyncio.run(killed_half_way(kafka, tmp_path))


async def killed_half_way(kafka: KafkaSettings, folder: Path) -> None:
    file = write_pipeline(folder, SOURCE, name=fresh_name("watched"))
    pipeline = load_pipeline(file)
    catalog = pipeline.catalog
    await make_topics(kafka, pipeline)
    messages = payments(pipeline.events.name)
    events = folder / "events.jsonl"
    events.write_bytes(b"".join((message.value or b"") + b"\n" for message in messages))
    expected = backtest(pipeline, events, None)["verdicts"]
    assert [(one["verdict"], one["features"]) for one in expected] == [("pipeline_fault", ["amount"])]
    assert abs(expected[0]["since"] - (START_MS + FAULT_FROM * BLOCK_MS)) <= BLOCK_MS

    worker = Worker(file, kafka, folder, checkpoint_interval_ms=300)
    async with watching(kafka, catalog["predictions"], catalog["examples"]) as watch:
        with worker:
            await worker.ready()
            publishing = asyncio.create_task(publish(kafka, messages[: len(messages) * 2 // 3]))
            await until(
                lambda: watch.counted(catalog["predictions"]) > len(messages) // 2, "half of the answers"
            )
            worker.kill()
        await publishing
        await publish(kafka, messages[len(messages) * 2 // 3 :])
        with worker:
            await until(
                lambda: watch.counted(catalog["predictions"]) >= len(messages), "all answers", worker=worker
            )
            told = await shifts_told(worker, expected)
            assert await worker.stop() == 0, worker.said()
    assert told

    log = await read_topic(kafka, catalog["examples"])
    blocks = Counter(
        read.value["number"] for read in folded(log) if read.counts and read.record_type == "block"
    )
    numbers = sorted({json.loads(one.value or b"")["event_time"] // BLOCK_MS for one in messages})
    assert blocks == Counter(numbers[:-1]), "each once, and the last one is open"
    learner = build_learner(pipeline)
    again = learner.fold(
        [Record(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in log]
    )
    assert verdicts_of(again) == expected
    answers = learner.monitors.report()["estimate"]["served"]["answered"]
    assert all(one["rows"] == one["labelled"] for one in answers["last"]), "labels come with their events"
    written = {one["decision_id"]: one for one in decoded(await read_topic(kafka, catalog["decisions"]))}
    shifts = [one for one in written.values() if one["type"].startswith("shift.")]
    assert [(one["decision_id"], one["evidence"]) for one in shifts] == [
        (one.decision_id, one.evidence) for one in again if one.type.startswith("shift.")
    ]
    same_reports(written, again)


def same_reports(written: dict[str, Any], again: list[Decision]) -> None:
    """Every report of the log is written, and says the same.

    One of a worker that is killed before its last examples are logged has another offset and the same
    figures: the next owner answers these events again.
    """
    expected = {one.decision_id: json.loads(encode(one)) for one in again if one.type in REPORTED}
    assert {one["type"] for one in expected.values()} == {"slices.reported", "calibration.reported"}
    assert {name: written.get(name) for name in expected} == expected
    by_examples = {(one["type"], one["examples"]): one for one in expected.values()}
    for name, one in written.items():
        if one["type"] in REPORTED and name not in expected:
            logged = by_examples[one["type"], one["examples"]]
            assert one == logged | {"decision_id": name, "offset": one["offset"]}


async def shifts_told(worker: Worker, expected: list[dict[str, Any]]) -> bool:
    """Wait until a scrape says which shift lasts."""
    name = f"headrace_shift_open{{{expected[0]['verdict']}}}"
    await until(lambda: worker.metrics()[name] == 1, "the verdict in the metrics", worker=worker)
    return True
