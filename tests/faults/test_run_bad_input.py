"""Whatever lies on the input topics: bad records become dead letters, the others go on."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

from reading import counting, read_topic, watching
from running import Message, Worker, fresh_name, make_topics, publish, until, write_pipeline

from engine.definition.file import load_pipeline
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
        note: str = ""


    pipeline = Pipeline(
        name="NAME",
        events=Topic("NAME.readings", Reading, key="sensor"),
        labels=Labels("NAME.truths", wait="1h"),
        features={"value": field("value"), "seen": by("sensor").count("1h")},
        models={"linear": linear_model.LogisticRegression()},
    )
"""
START = 1_700_000_000_000
HOUR_MS = 3_600_000
YEAR_9999 = 253_402_300_000_000


class Case(NamedTuple):
    """A record that is refused, and what its dead letter says."""

    value: bytes | None
    stage: str
    says: str
    after: int = 0
    """When it arrives, ms after START."""


def reading(event_id: str, **changes: Any) -> bytes:
    known = {"event_id": event_id, "event_time": START, "sensor": "s", "value": 1.0}
    return json.dumps(known | changes).encode()


def truth(event_id: str, **changes: Any) -> bytes:
    known = {"event_id": event_id, "label": True, "label_time": START + 60_000, "sensor": "s"}
    return json.dumps(known | changes).encode()


BAD_EVENTS = [
    Case(b"not json", "decode", "malformed"),
    Case(b"", "decode", "truncated"),
    Case(None, "decode", "tombstone"),
    Case(b'"\xff\xfe"', "decode", "Expected `object`"),
    Case(reading("b1", note="\ud800").replace(b"\\ud800", b"\xff"), "decode", "utf-8"),
    Case(reading("b2", note="x" * 70_000), "decode", "larger than 65536"),
    Case(reading("b3", extra=json.loads("[" * 9 + "]" * 9)), "decode", "deeper than 8"),
    Case(reading("b4", extra=dict.fromkeys(map(str, range(1_100)))), "decode", "more than 1000"),
    Case(reading("b5", value="1.0"), "decode", "$.value"),
    Case(b'["b6"]', "decode", "Expected `object`"),
    Case(json.dumps({"event_id": "b7", "event_time": START, "value": 1.0}).encode(), "decode", "sensor"),
    Case(reading("b8", value=float("nan")), "decode", "malformed"),
    Case(reading("b9", value=float("-inf")), "decode", "malformed"),
    Case(reading("b10").replace(b"1.0", b"1e400"), "decode", "$.value"),
    Case(reading("b11", value=1e16), "decode", "$.value"),
    Case(reading("b12", event_time=START // 1_000), "decode", "seconds"),
    Case(reading("b13", event_time=-1), "decode", "outside the years"),
    Case(reading("b14", event_time="yesterday"), "decode", "isoformat"),
    Case(reading("", value=2.0), "decode", "event_id"),
    Case(reading("b16", event_time=START + 2 * HOUR_MS), "time", "max_ahead"),
    Case(reading("b17", event_time=YEAR_9999), "time", "max_ahead"),
    Case(reading("good-0", value=9.0), "duplicate", "other content"),
]
BAD_LABELS = [
    Case(b"{", "label", "truncated"),
    Case(None, "label", "tombstone"),
    Case(truth("good-0", label=2), "label", "binary label"),
    Case(truth("good-0", label=[True]), "label", "$.label"),
    Case(truth("good-0", label_time=START // 1_000), "label", "seconds"),
    Case(truth("good-0", label=float("nan")), "label", "malformed"),
    Case(truth("x" * 300), "label", "1 to 256"),
    Case(truth("good-0"), "join", "duplicate"),
    Case(truth("good-0", label=False), "join", "conflicting"),
    Case(truth("good-1", label_time=START + 2 * HOUR_MS), "join", "late", 2 * HOUR_MS),
    Case(truth("good-1", label_time=START + 3 * HOUR_MS), "time", "max_ahead"),
    Case(truth("good-1", label_time=YEAR_9999), "time", "max_ahead"),
]
UNKNOWN = truth("nobody")
"""Refused only when its wait for an event is over: the last event of the stream ends it."""
GOOD = 6


def test_bad_records_become_dead_letters_and_the_stream_goes_on(tansu: KafkaSettings, tmp_path: Path) -> None:
    asyncio.run(bad_input(tansu, tmp_path))


async def bad_input(kafka: KafkaSettings, folder: Path) -> None:
    name = fresh_name("readings")
    file = write_pipeline(folder, SOURCE, name=name)
    pipeline = load_pipeline(file)
    catalog = pipeline.catalog
    events, labels = pipeline.events.name, pipeline.labels.topic or ""
    await make_topics(kafka, pipeline)
    good = [f"good-{number}" for number in range(GOOD)]
    batches = [
        [
            Message(events, START, b"s" if event_id < good[-1] else None, reading(event_id))
            for event_id in good
        ]
        + [Message(labels, START, b"s", truth("good-0")), Message(labels, START, b"s", UNKNOWN)],
        [Message(events, START + n + c.after, b"k%d" % n, c.value) for n, c in enumerate(BAD_EVENTS)],
        [Message(labels, START + n + c.after, b"l%d" % n, c.value) for n, c in enumerate(BAD_LABELS)],
        # An exact repeat is answered again; the labels and the event after all of that count as ever.
        [Message(events, START, b"s", reading("good-0"))],
        [Message(labels, START, b"s" if n else b"elsewhere", truth(of)) for n, of in enumerate(good[1:])],
        [Message(events, START + 3 * HOUR_MS, b"s", reading("last", event_time=START + 3 * HOUR_MS))],
    ]
    worker = Worker(file, kafka, folder)
    async with watching(kafka, catalog["predictions"], catalog["examples"]) as watch:
        with worker:
            await worker.ready()
            answered = watch.places
            for batch in batches[:4]:
                await publish(kafka, batch)
            await until(lambda: answered[catalog["predictions"], 0] == GOOD + 2, "answers", worker=worker)
            await publish(kafka, batches[4])
            await until(lambda: watch.counted(catalog["examples"]) == GOOD, "examples", worker=worker)
            await publish(kafka, batches[5])
            await until(lambda: worker.metrics()["headrace_dead_letters_total{join}"] == 4, "unmatched")
            metrics = worker.metrics()
            assert await worker.stop() == 0, worker.said()

    first = worker.logged("records were refused")[0]
    assert all(told["first"] and told["place"].startswith("topic ") for told in first["stages"].values())
    every = BAD_EVENTS + BAD_LABELS
    dead = await read_topic(kafka, catalog["dead-letters"])
    check_dead_letters(dead, batches, catalog["events"], catalog["labels"])
    assert len(dead) == len(every) + 1
    stages = [case.stage for case in every]
    for stage in set(stages):
        expected = stages.count(stage) + (stage == "join")
        assert metrics[f"headrace_dead_letters_total{{{stage}}}"] == expected
    assert metrics["headrace_events_total{accepted}"] == GOOD + 1
    assert metrics["headrace_events_total{duplicate}"] == 2
    assert metrics["headrace_events_total{conflicting}"] == 1
    assert metrics["headrace_predictions_total{again}"] == 2
    assert metrics["headrace_labels_total{joined}"] == GOOD
    for outcome in ("late", "duplicate", "conflicting", "unmatched"):
        assert metrics[f"headrace_labels_total{{{outcome}}}"] == 1, outcome
    assert metrics["headrace_labels_total{ahead}"] == 2
    # No key is as good as any on one partition; another key than the event's is taken, counted and told.
    assert metrics["headrace_key_mismatches_total{event}"] == 0
    assert metrics["headrace_key_mismatches_total{label}"] == 1
    assert "records lie under other keys than their own" in worker.said()
    answers = [json.loads(r.value) for r in await read_topic(kafka, catalog["predictions"])]
    ids = [a["event_id"] for a in answers if "event_id" in a]
    assert sorted(ids) == sorted([*good, "good-0", "good-0", "last"])
    first, *again = [a for a in answers if a.get("event_id") == "good-0"]
    assert all(a["features"] == first["features"] for a in again)
    assert {a["prediction_id"] for a in again} == {first["prediction_id"]}
    lessons = counting(await read_topic(kafka, catalog["examples"]), "example")
    assert sorted(lessons) == good
    assert all(lesson["label"] for lesson in lessons.values())


def check_dead_letters(dead: list[Any], batches: list[list[Message]], events: str, labels: str) -> None:
    """Each came with its bytes and key as they were, says why and when it was stamped, and is new itself.

    By its own time of years ago the topic's retention would delete it with its evidence.
    """
    letters: dict[tuple[bytes, bytes], Any] = {}
    for letter in dead:
        headers = dict(letter.headers)
        place = headers["__streams.errors.topic"], headers["__streams.errors.offset"]
        assert place not in letters
        letters[place] = letter
        assert headers["__streams.errors.partition"] == b"0"
    # Offsets: the good records of the first batch come before the bad ones.
    for topic, cases, before, batch in (
        (events, BAD_EVENTS, GOOD, batches[1]),
        (labels, BAD_LABELS, 2, batches[2]),
    ):
        for number, (case, sent) in enumerate(zip(cases, batch, strict=True)):
            letter = letters.pop((topic.encode(), str(before + number).encode()))
            headers = dict(letter.headers)
            assert (letter.value, letter.key) == (case.value, sent.key)
            assert headers["headrace.errors.timestamp"] == str(sent.time).encode()
            assert abs(letter.timestamp - time.time() * 1_000) < HOUR_MS
            assert headers["headrace.errors.stage"] == case.stage.encode()
            assert case.says in headers["__streams.errors.message"].decode(), case
            assert headers["__streams.errors.exception"]
    (unmatched,) = letters.values()
    assert unmatched.value == UNKNOWN
    assert dict(unmatched.headers)["headrace.errors.stage"] == b"join"
    assert dict(unmatched.headers)["__streams.errors.topic"] == labels.encode()
