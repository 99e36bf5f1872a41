"""Clients of several kinds read a log of takeovers and zombies as the ledger does, and publish for workers.

The log is that of the model check: owners that die, come back and send twice, written to a real broker.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from brokers.kafka import JARS, have_jars, java_is_new_enough
from brokers.ports import fresh, made, whole
from brokers.process import missing
from claims_world import SOURCES, World
from msgspec.structs import replace
from paths import CHECKOUT
from reading import folded, read_topic
from test_claims_model import counting as by_reigns
from test_claims_model import run
from test_readme import DOCUMENTS, blocks

from engine.kafka.sink import open_sink, partition_of
from engine.settings import KafkaSettings
from headrace.client import AnswerReader, follow_answers, read_answers
from topics import headers
from topics.codec import encode
from topics.messages import Claim, Content, Prediction

CLIENTS = CHECKOUT / "examples" / "clients"
READ_DEADLINE_S = 60.0
SEEDS = (7, 8, 12, 14, 18)
"""Worlds whose logs tell the rule from one with a step left out; a test below checks it."""
PARTITIONS = SOURCES * len(SEEDS)
LAST = Claim(0, 1_000_000, "last")
"""An owner after all others; its one answer says that a client has read a partition to its end."""

pytestmark = pytest.mark.kafka


class Doctored(NamedTuple):
    """A predictions topic with the logs of a world, and what counts in them."""

    kafka: KafkaSettings
    topic: str
    counting: dict[int, list[tuple[str, float]]]
    """By partition, in log order: event id and score."""


def log_of(partition: int, logged: Sequence[Any]) -> list[Content]:
    """Return the predictions log of a world with ids of its own, and the last owner's answer behind it."""
    values = [*logged]
    answer = next(value for value in values if isinstance(value, Prediction))
    values += [LAST, replace(answer, event_id="end", claim=LAST.claim, sequence=0)]
    found = []
    for value in values:
        if isinstance(value, Claim):
            sent = replace(value, source_partition=partition)
            found.append(Content(None, encode(sent), headers.CLAIM))
        else:
            own = replace(value, event_id=f"{partition}-{value.event_id}")
            found.append(Content(b"k", encode(own), (("ce_id", b"x"),)))
    return found


@pytest.fixture(scope="module")
def doctored(kafka: KafkaSettings) -> Doctored:
    async def write() -> Doctored:
        topic, happened = fresh("doctored"), Counter[str]()
        await made(kafka, topic, partitions=PARTITIONS)
        async with open_sink(kafka) as sink:
            for number, seed in enumerate(SEEDS):
                world = World(seed)
                run(world)
                for source in range(SOURCES):
                    partition, log = number * SOURCES + source, ("predictions", source)
                    await sink.send(topic, partition, log_of(partition, world.logs.values[log]))
                    by_reigns(world, log, source)
                happened += world.counts
            await sink.flush()
        assert min(happened[what] for what in ("superseded records", "repeats", "gaps")) > 1
        records = await read_topic(kafka, topic)
        counting: dict[int, list[tuple[str, float]]] = {}
        for partition in range(PARTITIONS):
            reads = folded(record for record in records if record.partition == partition)
            counting[partition] = [
                (read.value["event_id"], read.value["prediction_score"]) for read in reads if read.counts
            ]
            assert counting[partition][-1][0] == f"{partition}-end"
        return Doctored(kafka, topic, counting)

    return asyncio.run(write())


def by_partition(answers: Sequence[tuple[str, float]]) -> dict[int, list[tuple[str, float]]]:
    found: dict[int, list[tuple[str, float]]] = {partition: [] for partition in range(PARTITIONS)}
    for event_id, score in answers:
        found[int(event_id.partition("-")[0])].append((event_id, score))
    return found


def ends(answers: Sequence[tuple[str, Any]]) -> bool:
    """Return whether every partition was read to its end."""
    return sum(event_id.endswith("-end") for event_id, _ in answers) == PARTITIONS


# -- headrace.client ----------------------------------------------------------------------------------


def test_the_reader_yields_what_the_ledger_counts(doctored: Doctored) -> None:
    async def read() -> None:
        answers = AnswerReader()
        found = [
            (one.event_id, one.prediction_score)
            async for one in read_answers(doctored.kafka, doctored.topic, answers)
        ]
        assert by_partition(found) == doctored.counting  # type: ignore[arg-type]
        assert answers.counts["dropped"] > 0
        assert [one async for one in read_answers(doctored.kafka, doctored.topic, answers)] == []

    asyncio.run(read())


def test_the_follower_goes_on_where_another_reader_stood(doctored: Doctored) -> None:
    async def follow() -> None:
        found: list[tuple[str, Any]] = []
        answers = AnswerReader()
        async with asyncio.timeout(READ_DEADLINE_S):
            while len(found) < sum(map(len, doctored.counting.values())):
                stops_at = len(found) + 7
                async with aclosing(follow_answers(doctored.kafka, doctored.topic, answers)) as coming:
                    async for one in coming:
                        found.append((one.event_id, one.prediction_score))
                        if len(found) == stops_at:
                            break
                        if ends(found):
                            break
                answers = AnswerReader(answers.read)
        assert by_partition(found) == doctored.counting

    asyncio.run(follow())


# -- the examples -------------------------------------------------------------------------------------


def java() -> list[str]:
    if not (java_is_new_enough() and have_jars()):
        missing("Kafka's Java client (Maven and Java 17)")
    return ["java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", f"{JARS}/*", str(CLIENTS / "Answers.java")]


async def lines_of(command: list[str], given: bytes, log: Path) -> AsyncIterator[str]:
    """Yield what an example prints, which never ends by itself."""
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(given)
            process.stdin.close()
            while line := await process.stdout.readline():
                yield line.decode()
            raise AssertionError(f"it ended, and says why in {log}")
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


@pytest.mark.parametrize("client", ["with_aiokafka.py", "with_confluent_kafka.py", "Answers.java"])
def test_an_example_publishes_what_workers_read_and_prints_what_counts(
    doctored: Doctored, tmp_path: Path, client: str
) -> None:
    async def play() -> None:
        kafka, events = doctored.kafka, fresh("published")
        await made(kafka, events, partitions=3)
        sent = [{"event_id": f"e{number}", "card": f"card-{number % 17} ä"} for number in range(60)]
        given = b"".join(json.dumps(event).encode() + b"\n" for event in sent)
        command = java() if client.endswith(".java") else [sys.executable, str(CLIENTS / client)]
        command += [kafka.bootstrap_servers, events, "card", doctored.topic]
        printed: list[tuple[str, float]] = []
        async with (
            asyncio.timeout(READ_DEADLINE_S),
            aclosing(lines_of(command, given, tmp_path / "log")) as lines,
        ):  # type: ignore[type-var]
            async for line in lines:
                event_id, score = line.split()
                printed.append((event_id, float(score)))
                if ends(printed):
                    break
        assert by_partition(printed) == doctored.counting

        published = [one for number in range(3) for one in await whole(kafka, events, number)]
        assert Counter(one.value for one in published) == Counter(given.splitlines())
        for one in published:
            key = json.loads(one.value or b"")["card"].encode()
            assert (one.key, one.partition) == (key, partition_of(key, 3))

    asyncio.run(play())


def rule_counts(rule: str) -> list[bool]:
    """Return what a text of `claim_rule.py` says of every record of the worlds."""
    said = []
    for seed in SEEDS:
        world = World(seed)
        run(world)
        for source in range(SOURCES):
            names: dict[str, Any] = {}
            exec(rule, names)
            for value in world.logs.values["predictions", source]:
                plain = json.loads(encode(value))
                said.append(names["counts"](source, plain, isinstance(value, Claim)))
    return said


@pytest.mark.parametrize(
    ("step", "left_out"),
    [
        ('float("inf")', 'value["sequence"] + 1'),
        ('value["sequence"] == following', 'value["sequence"] <= following'),
        ('if value["claim"] > claim else', 'if value["claim"] > 0 else'),
        ('value["claim"] == claim > 0 and', "claim > 0 and"),
    ],
)
def test_no_step_of_the_rule_can_be_left_out(step: str, left_out: str) -> None:
    rule = (CLIENTS / "claim_rule.py").read_text()
    assert step in rule
    assert rule_counts(rule.replace(step, left_out)) != rule_counts(rule)


def test_the_page_shows_the_files() -> None:
    page = DOCUMENTS["docs/clients.md"]
    shown = set(blocks(page, "python", "java"))
    for name in ("claim_rule.py", "with_aiokafka.py", "with_confluent_kafka.py", "Answers.java"):
        assert (CLIENTS / name).read_text() in shown, name
