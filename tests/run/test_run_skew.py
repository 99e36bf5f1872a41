"""`headrace skew` beside a real worker: silent about what it serves; a doctored answer is found and named."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from reading import counting, read_topic, watching
from running import CHECKOUT, Message, Worker, fresh_name, make_topics, publish, until, write_pipeline

from engine.definition.file import load_pipeline
from engine.kafka.sink import open_sink
from engine.local.worker import environment
from engine.offline.skew import SkewMetrics, check_once, follow
from engine.settings import KafkaSettings
from topics.messages import Outgoing

SOURCE = """
    from msgspec import Struct
    from river import linear_model

    from engine import Labels, Pipeline, Topic
    from operators import by, field, label


    class Payment(Struct):
        event_id: str
        event_time: int
        card: str
        amount: float
        shop: str = "s"


    pipeline = Pipeline(
        name="NAME",
        events=Topic("NAME.payments", Payment, key="card", partitions=2),
        labels=Labels("NAME.frauds", wait="1h"),
        features={
            "amount": field("amount"),
            "count": by("card").count("5m"),
            "mean": by("card").mean("amount", "5m"),
            "risk": by("card").mean(label, "30m").default(0.0),
            OTHER_KEYS
        },
        models={"linear": linear_model.LogisticRegression()},
    )
"""
START = 1_700_000_000_000
EVENTS, CARDS, STEP_MS = 300, 7, 2_000


OTHER_KEYS = '"shop": by("shop").count("5m"),'
"""With windows by another key, events travel between the partitions, and are held for it."""


def payment(catalog: Any, number: int) -> Message:
    # Every ninth is out of order within the grace, and before the event of its card that came last.
    time, card = START + STEP_MS * (number - 9 * (number % 9 == 0)), f"c{number % CARDS}"
    value = {"event_id": f"p{number}", "event_time": time, "card": card, "amount": 0.1 * number}
    return Message(catalog["events"], time, card.encode(), json.dumps(value).encode(), number % CARDS % 2)


def fraud(catalog: Any, number: int) -> Message:
    time = START + STEP_MS * number + 45_000
    value = {"event_id": f"p{number}", "label": number % 3 == 0, "label_time": time}
    card = f"c{number % CARDS}".encode()
    return Message(catalog["labels"], time, card, json.dumps(value).encode(), number % CARDS % 2)


@pytest.fixture(scope="module")
def served(tansu: KafkaSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a pipeline whose worker has answered everything, and was killed and replaced on the way."""
    return answered(tansu, tmp_path_factory.mktemp("own"), "")


@pytest.fixture(scope="module")
def travelled(tansu: KafkaSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with windows by another key."""
    return answered(tansu, tmp_path_factory.mktemp("travel"), OTHER_KEYS)


def answered(tansu: KafkaSettings, folder: Path, more: str) -> Path:
    file = write_pipeline(folder, SOURCE.replace("OTHER_KEYS", more), name=fresh_name("skew"))
    catalog = load_pipeline(file).catalog
    arrivals = [(START + STEP_MS * number, payment(catalog, number)) for number in range(EVENTS)]
    arrivals += [(label.time, label) for label in (fraud(catalog, number) for number in range(EVENTS))]
    messages = [message for _, message in sorted(arrivals, key=lambda arrival: arrival[0])]

    async def play() -> None:
        await make_topics(tansu, load_pipeline(file))
        async with watching(tansu, catalog["predictions"]) as watch:
            # Held events go when their partitions have been idle: after the last, not while a worker starts.
            with Worker(file, tansu, folder, rekey_idle_timeout_ms=3_000) as worker:
                await worker.ready()
                await publish(tansu, messages[: len(messages) // 2])
                await until(lambda: watch.answered(catalog["predictions"]) > 100, "a third", worker=worker)
                worker.kill()
                with worker:
                    await publish(tansu, messages[len(messages) // 2 :])
                    await until(
                        lambda: watch.answered(catalog["predictions"]) == EVENTS, "all", worker=worker
                    )
                    assert await worker.stop() == 0, worker.said()

    asyncio.run(play())
    return file


def command(file: Path, kafka: KafkaSettings, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "headrace", "skew", str(file), "--once", *arguments],
        env=environment(kafka, state_dir=file.parent / "none", web_port=0) | {"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(("which", "unchecked"), [("served", {}), ("travelled", {"shop": EVENTS})])
def test_a_worker_that_was_killed_on_the_way_has_no_skew(
    request: pytest.FixtureRequest, which: str, unchecked: dict[str, int], tansu: KafkaSettings
) -> None:
    done = command(request.getfixturevalue(which), tansu, "--one-in", "1", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["events"]["checked"] == EVENTS
    assert report["compared"] == 4 * EVENTS
    assert report["skewed"] == 0
    found = {name: counts["unchecked"] for name, counts in report["features"].items() if counts["unchecked"]}
    assert found == unchecked
    assert report["features"]["risk"] == dict.fromkeys(("mismatch", "missing", "extra", "unchecked"), 0) | {
        "match": EVENTS
    }


def test_a_sample_is_some_keys(served: Path, tansu: KafkaSettings) -> None:
    counts = asyncio.run(check_once(load_pipeline(served), tansu, one_in=3))
    assert 0 < counts.events["checked"] < EVENTS
    assert counts.events["checked"] + counts.events["passed"] == EVENTS
    families = {sample.labels["outcome"] for f in SkewMetrics(counts).collect() for sample in f.samples}
    assert families == {"match", "checked", "passed"}


def test_it_follows_the_logs_and_tells_prometheus(served: Path, tansu: KafkaSettings) -> None:
    registry = CollectorRegistry()

    def told() -> bool:
        text = generate_latest(registry).decode()
        return f'headrace_skew_features_total{{feature="risk",outcome="match"}} {EVENTS}.0' in text

    async def look() -> None:
        following = follow(load_pipeline(served), tansu, one_in=1, registry=registry, interval_s=0.1)
        async with asyncio.TaskGroup() as tasks:
            check = tasks.create_task(following)
            await until(told, "the counts")
            check.cancel()
        assert check.cancelled()

    asyncio.run(look())


def test_a_doctored_answer_is_found_and_named(served: Path, tansu: KafkaSettings) -> None:
    catalog = load_pipeline(served).catalog

    async def doctor() -> None:
        extra = payment(catalog, EVENTS + CARDS - EVENTS % CARDS)  # of card c0, in partition 0
        await publish(tansu, [extra])
        events = await read_topic(tansu, catalog["events"])
        (offset,) = (record.offset for record in events if record.value == extra.value)
        answers = counting(await read_topic(tansu, catalog["predictions"])).values()
        own = [answer for answer in answers if answer["features"] and answer["event_id"].startswith("p")]
        last = max(
            (a for a in own if int(a["event_id"][1:]) % CARDS % 2 == 0),
            key=lambda a: (a["claim"], a["sequence"]),
        )
        value = json.loads(extra.value or b"")
        doctored = last | {
            "event_id": value["event_id"],
            "event_time": value["event_time"],
            "event_offset": offset,
            "sequence": last["sequence"] + 1,
            "features": {"amount": value["amount"], "count": 77, "risk": 0.25, "invented": 1},
        }
        out = Outgoing("predictions", 0, extra.key, json.dumps(doctored).encode(), (), extra.time)
        async with open_sink(tansu) as sink:
            await sink.send(catalog["predictions"], 0, [out])
            await sink.flush()

    asyncio.run(doctor())
    done = command(served, tansu, "--one-in", "1")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "mismatch count" in done.stdout
    assert "missing mean" in done.stdout
    assert "extra (unknown)" in done.stdout
    assert "served 77" in done.stdout
    counts = asyncio.run(check_once(load_pipeline(served), tansu, one_in=1))
    assert counts.features["count", "mismatch"] == counts.features["mean", "missing"] == 1
    assert counts.features["amount", "match"] == EVENTS + 1
