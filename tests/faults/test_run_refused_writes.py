"""No record can make a broker refuse what a worker writes: real Kafka, its limits, good records amid bad.

Each of these ended a worker at every start: what was made of the record was too far ahead, or too large,
for the topic it had to be written to.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.record._crc32c import crc
from reading import counting, read_topic
from running import Worker, fresh_name, until, write_pipeline

from engine.definition.file import load_pipeline
from engine.definition.pipeline import Pipeline
from engine.settings import KafkaSettings

SOURCE = """
    from msgspec import Struct
    from river import linear_model

    from engine import Labels, Pipeline, Topic
    from operators import by, field


    class Reading(Struct):
        event_id: str
        event_time: int | str
        sensor: str
        value: float


    pipeline = Pipeline(
        name="NAME",
        events=Topic("NAME.readings", Reading, key="sensor", max_ahead="MAX_AHEAD"),
        labels=Labels("NAME.truths", wait="36h"),
        features={"value": field("value"), "seen": by("sensor").count("1h")},
        models={"linear": linear_model.LogisticRegression()},
    )
"""
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
MESSAGE_BYTES = 1_048_588
"""What Kafka takes by default, a batch's header included."""


class World:
    """One pipeline on real Kafka: a worker, two producers, and what was sent."""

    def __init__(self, kafka: KafkaSettings, folder: Path, *, max_ahead: str = "1m") -> None:
        self.kafka = kafka
        name = fresh_name("refused")
        self.file = write_pipeline(folder, SOURCE.replace("MAX_AHEAD", max_ahead), name=name)
        self.pipeline: Pipeline = load_pipeline(self.file)
        self.events, self.labels = self.pipeline.events.name, self.pipeline.labels.topic or ""
        self.worker = Worker(self.file, kafka, folder)
        self.sent = 0
        self.good: list[str] = []
        self.bad = 0

    async def make_topics(self, **configs: dict[str, str]) -> None:
        """Create topics with these settings, by role; the user's own take whatever time comes."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka.bootstrap_servers)
        await admin.start()
        free = {"message.timestamp.after.max.ms": str(365 * DAY_MS)}
        own = {"events": free, "labels": free}
        for role, given in (own | configs).items():
            topic = self.pipeline.catalog[role.replace("_", "-")]  # type: ignore[index]
            await admin.create_topics([NewTopic(topic, 1, 1, topic_configs=given)])
        await admin.close()

    async def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes = b"s",
        ahead_ms: int = 0,
        compression: str | None = None,
        headers: tuple[tuple[str, bytes], ...] = (),
    ) -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=self.kafka.bootstrap_servers,
            compression_type=compression,
            max_request_size=1 << 30,
            max_batch_size=1 << 20,
        )
        async with producer:
            await producer.send_and_wait(
                topic, value, key, timestamp_ms=now_ms() + ahead_ms, headers=list(headers)
            )

    async def send_raw(self, topic: str, value: bytes, *, patch: tuple[bytes, bytes]) -> None:
        """Send a record with a header called `zz`, with bytes of the batch replaced."""
        async with AIOKafkaProducer(bootstrap_servers=self.kafka.bootstrap_servers) as producer:
            batch = producer.create_batch()
            batch.append(timestamp=now_ms(), key=b"s", value=value, headers=[("zz", b"v")])
            data = bytearray(bytes(batch._build()).replace(*patch))
            data[17:21] = crc(bytes(data[21:])).to_bytes(4, "big")
            batch._buffer = data
            await (await producer.send_batch(batch, topic, partition=0))

    async def send_good(self, **changes: Any) -> str:
        """Send an event that must be answered, and its label."""
        self.sent += 1
        event_id = f"good-{self.sent}"
        event_time = now_ms() + changes.pop("ahead_ms", 0)
        event = {"event_id": event_id, "event_time": event_time, "sensor": "s", "value": 1.0}
        await self.send(self.events, json.dumps(event | changes).encode())
        await self.send(self.labels, truth(event_id, event_time))
        self.good.append(event_id)
        return event_id

    async def settled(self) -> None:
        """Wait until all that was sent has been answered, refused or learned."""

        def there() -> bool:
            metrics = self.worker.metrics()
            letters = sum(n for name, n in metrics.items() if name.startswith("headrace_dead_letters_total"))
            return letters >= self.bad and metrics["headrace_labels_total{joined}"] >= len(self.good)

        await until(there, "all of it settled", worker=self.worker)

    async def check(self) -> list[Any]:
        """Every good event was answered and learned once; return the dead letters."""
        catalog = self.pipeline.catalog
        answers = [json.loads(one.value) for one in await read_topic(self.kafka, catalog["predictions"])]
        assert [one["event_id"] for one in answers if "event_id" in one] == self.good
        lessons = counting(await read_topic(self.kafka, catalog["examples"]), "example")
        assert list(lessons) == self.good
        return await read_topic(self.kafka, catalog["dead-letters"])


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def peak_memory_kb(worker: Worker) -> int:
    assert worker.process is not None
    status = Path(f"/proc/{worker.process.pid}/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0])


def truth(event_id: str, label_time: int) -> bytes:
    return json.dumps({"event_id": event_id, "label": True, "label_time": label_time}).encode()


def said_by(letter: Any) -> dict[str, bytes]:
    return dict(letter.headers)


@pytest.mark.kafka
def test_no_record_makes_the_broker_refuse_what_is_written(kafka: KafkaSettings, tmp_path: Path) -> None:
    asyncio.run(five_ways(World(kafka, tmp_path)))


async def five_ways(world: World) -> None:
    await world.make_topics()
    events, labels = world.events, world.labels
    large = b"x" * (MESSAGE_BYTES - 188)
    bomb = b"y" * 10_000_000
    with world.worker:
        await world.worker.ready()
        first = await world.send_good()
        # A label three hours ahead, far within its wait.
        await world.send(labels, truth(first, now_ms() + 3 * HOUR_MS))
        await world.send_good()
        # An event as large as its topic takes: with the reason in its headers, a letter was larger.
        await world.send(events, large, key=b"large")
        await world.send_good()
        # A limit counts compressed bytes.
        await world.send(events, bomb, key=b"bomb", compression="gzip")
        await world.send_good()
        # A bad record whose own timestamp is ahead, where the events topic takes that.
        await world.send(events, b"{", key=b"future", ahead_ms=2 * HOUR_MS)
        await world.send_good()
        # Key and headers can be as large as values.
        await world.send(events, b"{", key=b"k" * 900_000, headers=(("h", b"h" * 100_000),))
        await world.send(events, b"{", headers=tuple((f"h{n}", b"h" * 900) for n in range(1_000)))
        await world.send_good()
        world.bad = 6
        await world.settled()
        cut = "headrace_dead_letters_cut_total{size}"
        await until(lambda: world.worker.metrics()[cut] == 1, "the bomb cut", worker=world.worker)
        assert await world.worker.stop() == 0, world.worker.said()
    letters = await world.check()
    assert len(letters) == world.bad
    by_key = {letter.key: letter for letter in letters}
    assert all(abs(letter.timestamp - now_ms()) < HOUR_MS for letter in letters)
    assert said_by(by_key[b"s"])
    ahead = next(one for one in letters if said_by(one)["headrace.errors.stage"] == b"time")
    assert b"max_ahead is 60000 ms" in said_by(ahead)["__streams.errors.message"]
    assert by_key[b"large"].value == large  # the topic that was made for it takes that
    cut, said = by_key[b"bomb"].value, said_by(by_key[b"bomb"])
    assert 1_000_000 < len(cut) < len(bomb)
    assert bomb.startswith(cut)
    assert said["headrace.errors.value-bytes"] == b"10000000"
    assert said["headrace.errors.value-sha256"] == hashlib.sha256(bomb).hexdigest().encode()
    stamp = int(said_by(by_key[b"future"])["headrace.errors.timestamp"])
    assert stamp > now_ms() + HOUR_MS


@pytest.mark.kafka
def test_a_topic_that_takes_little_gets_shorter_letters_and_small_batches(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    asyncio.run(small_topics(World(kafka, tmp_path)))


async def small_topics(world: World) -> None:
    """The limit of dead letters is lowered while the worker runs: below what it knows, and what it sends."""
    small = {"max.message.bytes": "60000"}
    await world.make_topics(predictions=small, examples=small)
    with world.worker:
        await world.worker.ready()
        await world.send_good()
        await world.send(world.events, b"x" * 300_000, key=b"whole")
        world.bad = 1
        await world.settled()
        await alter(world.kafka, world.pipeline.catalog["dead-letters"], {"max.message.bytes": "20000"})
        await world.send(world.events, b"z" * 300_000, key=b"cut")
        for number in range(40):
            await world.send(world.events, b"{" + b"n" * 1_000, key=b"%d" % number)
        for _ in range(3):
            await world.send_good()
        world.bad += 41
        await world.settled()
        assert await world.worker.stop() == 0, world.worker.said()
    # A refusal sends again what was not acknowledged by a checkpoint, the one before cut as well.
    letters: dict[bytes, Any] = {}
    for letter in sorted(await world.check(), key=lambda one: len(one.value)):
        letters[letter.key] = letter
    assert len(letters) == world.bad
    assert len(letters[b"whole"].value) == 300_000
    assert 1_000 < len(letters[b"cut"].value) < 20_000
    assert said_by(letters[b"cut"])["headrace.errors.value-bytes"] == b"300000"
    assert len(letters[b"7"].value) == 1_001


async def alter(kafka: KafkaSettings, topic: str, configs: dict[str, str]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    await admin.start()
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs)])
    await admin.close()


@pytest.mark.kafka
def test_answers_that_cannot_fit_are_refused_at_the_start_with_the_fix(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    asyncio.run(too_small(World(kafka, tmp_path)))


async def too_small(world: World) -> None:
    await world.make_topics(predictions={"max.message.bytes": "2000"})
    with world.worker:
        assert await world.worker.ended() == 1
    said = world.worker.log.read_text()
    assert f"{world.pipeline.catalog['predictions']} takes records of 2000 bytes" in said
    assert "--add-config max.message.bytes=" in said


@pytest.mark.kafka
def test_times_in_the_future_and_in_the_past_are_clamped_to_what_topics_take(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    asyncio.run(clamped(World(kafka, tmp_path, max_ahead="30d")))


async def clamped(world: World) -> None:
    """Events that lie ahead on purpose, by more than the hour that Kafka takes, and events of long ago."""
    day = {"message.timestamp.before.max.ms": str(DAY_MS)}
    await world.make_topics(predictions=day, examples=day)
    with world.worker:
        await world.worker.ready()
        for ahead_ms in (0, 2 * DAY_MS, -400 * DAY_MS, 5 * DAY_MS):
            await world.send_good(ahead_ms=ahead_ms)
            if ahead_ms < 0:
                world.good.pop()  # beyond the horizon: answered, not joined
                world.bad += 1
        await world.settled()
        assert await world.worker.stop() == 0, world.worker.said()
    answers = await read_topic(world.kafka, world.pipeline.catalog["predictions"])
    stamps = {json.loads(one.value)["event_id"]: one.timestamp for one in answers if b"event_id" in one.value}
    assert len(stamps) == 4
    assert all(now_ms() - DAY_MS < stamp <= now_ms() for stamp in stamps.values())


@pytest.mark.kafka
def test_a_record_that_a_person_skips_is_a_dead_letter_undecoded(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    asyncio.run(skipped(World(kafka, tmp_path)))


async def skipped(world: World) -> None:
    await world.make_topics()
    left_out = await world.send_good()
    await world.send_good()
    world.good.remove(left_out)
    world.bad = 2  # its label as well
    events, labels = f"{world.events}:0:0", f"{world.labels}:0:0"
    with world.worker.start("--skip", events, "--skip", labels):
        await world.settled()
        counts = world.worker.metrics()
        assert await world.worker.stop() == 0, world.worker.said()
    assert counts["headrace_dead_letters_total{skip}"] == 2
    letters = await world.check()
    assert [said_by(one)["headrace.errors.stage"] for one in letters] == [b"skip", b"skip"]
    assert [json.loads(letter.value)["event_id"] for letter in letters] == [left_out, left_out]
    said = [line for line in world.worker.complaints() if line["event"].startswith("record skipped")]
    assert {(line["topic"], line["offset"]) for line in said} == {(world.events, 0), (world.labels, 0)}


@pytest.mark.kafka
def test_no_batch_ends_the_reading(kafka: KafkaSettings, tmp_path: Path) -> None:
    asyncio.run(unreadable(World(kafka, tmp_path)))


async def unreadable(world: World) -> None:
    """A bomb of 200 MB in every codec, and a header whose name is no text: good records amid all of them."""
    await world.make_topics()
    bomb = b"y" * 200_000_000
    with world.worker:
        await world.worker.ready()
        for codec in ("gzip", "snappy", "lz4", "zstd"):
            await world.send_good()
            if codec != "snappy":  # packs 20 to 1 at most
                await world.send(world.events, bomb, compression=codec)
                world.bad += 1
            await world.send(world.events, b"{", compression=codec)
            world.bad += 1
        await world.send_raw(world.events, b"{", patch=(b"zz", b"\xff\xfe"))
        world.bad += 1
        await world.send_good()
        await world.settled()
        peak_kb = peak_memory_kb(world.worker)
        assert await world.worker.stop() == 0, world.worker.said()
    assert peak_kb < 550_000  # without a bound, one of them took it to 758 MB
    letters = await world.check()
    assert len(letters) == world.bad
    bombs = [one for one in letters if b"unpacks to more than" in said_by(one)["__streams.errors.message"]]
    assert len(bombs) == 3
