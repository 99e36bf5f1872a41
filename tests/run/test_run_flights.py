"""A worker on a broker does what a backtest does: the flights through `headrace run`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from reading import counting, folded_digests, read_topic, record_type_of, saved_digests, watching
from running import (
    FLIGHTS,
    Message,
    Worker,
    backtested,
    flights,
    fresh_name,
    make_topics,
    publish,
    until,
    write_pipeline,
)

from engine.definition.file import load_pipeline
from engine.definition.pipeline import Pipeline
from engine.settings import KafkaSettings

SOURCE = f"""
    import runpy
    from dataclasses import replace

    from operators import by, field

    flights = runpy.run_path({str(FLIGHTS / "pipeline.py")!r})["pipeline"]
    windows = {{
        "origin_1h": by("origin").count("1h"),
        "origin_rate": by("origin").rate("3h"),
        "origin_mean": by("origin").mean("distance", "2h"),
        "carrier_sum": by("carrier").sum("distance", "6h", include_current=False),
        "carrier_var": by("carrier").var("distance", "12h"),
        "dest_last": by("dest").last("distance", "1d", include_current=False),
        "route_since": by("origin", "dest").since_last("2d"),
        "route_share": by("origin", "dest").count("1d") / by("origin").count("1d"),
        "all_max": by().max("distance", "30m"),
        "all_30m": by().count("30m"),
    }}
    pipeline = replace(
        flights,
        name="NAME",
        events=replace(flights.events, name="NAME.departures"),
        labels=replace(flights.labels, topic="NAME.arrivals"),
        features={{**flights.features, **windows}},
    )
"""
DEPARTURES, MORE, WAITING = 2_000, 300, 1_000
AHEAD_MAX = 400
"""Events published and not answered yet: less than a day of departures, far inside the labels' wait."""
MORE_AHEAD_MAX = 50
"""So that some of the later events are answered once labels of others have been learned."""


def label_windows(pipeline: Pipeline) -> set[str]:
    """Names of features that depend on when a label was read."""
    return {name for name, feature in pipeline.features.items() if "label" in repr(feature)}


@pytest.mark.kafka
def test_flights_on_a_broker_equal_their_backtest(kafka: KafkaSettings, tmp_path: Path) -> None:
    asyncio.run(flights_live(kafka, tmp_path))


async def flights_live(kafka: KafkaSettings, folder: Path) -> None:
    name = fresh_name("flights")
    file = write_pipeline(folder, SOURCE, name=name)
    pipeline = load_pipeline(file)
    predictions, examples = pipeline.catalog["predictions"], pipeline.catalog["examples"]
    await make_topics(kafka, pipeline)
    every = flights(pipeline.events.name, pipeline.labels.topic or "", departures=DEPARTURES + MORE)
    asked = [m for m in every if m.topic == pipeline.events.name][:DEPARTURES]
    ids = {json.loads(m.value or b"")["event_id"] for m in asked}
    first = [m for m in every if json.loads(m.value or b"")["event_id"] in ids]
    more = [m for m in every if json.loads(m.value or b"")["event_id"] not in ids]

    worker = Worker(file, kafka, folder)
    with worker:
        await worker.ready()
        await stream(kafka, worker, pipeline, first, already=0)
        assert worker.metrics()["headrace_examples_total"] == DEPARTURES
        assert await worker.stop() == 0, worker.said()
    answers = counting(await read_topic(kafka, predictions))
    assert answers.keys() == counting(await read_topic(kafka, examples), "example").keys() == ids
    check_features(folder, pipeline, first, answers)

    with worker:
        await worker.ready()
        assert worker.logged("partition claimed")[-1]["events_position"] == DEPARTURES
        await stream(kafka, worker, pipeline, more, already=DEPARTURES, ahead_max=MORE_AHEAD_MAX)
        assert await worker.stop() == 0, worker.said()
    raw = await read_topic(kafka, predictions)
    later = counting(raw)
    assert sum(record_type_of(record) == "" for record in raw) == len(later) == DEPARTURES + MORE
    assert {event_id: later[event_id] for event_id in ids} == answers
    log = await read_topic(kafka, examples)
    assert counting(log, "example").keys() == later.keys()
    digests, learned = await saved_digests(file, worker.state_dir)
    assert (digests, learned) == folded_digests(file, log)
    assert learned == DEPARTURES + MORE
    updates = [answer["model_updates"] for event_id, answer in later.items() if event_id not in ids]
    assert min(updates) > DEPARTURES / 2, "the models of the first run were not taken up"
    assert max(updates) > min(updates), "what is served after a restart does not learn"


def test_what_waits_on_two_topics_is_read_in_one_order(tansu: KafkaSettings, tmp_path: Path) -> None:
    """After an outage both topics hold a backlog: even label windows are then those of the backtest."""
    asyncio.run(flights_waiting(tansu, tmp_path))


async def flights_waiting(kafka: KafkaSettings, folder: Path) -> None:
    file = write_pipeline(folder, SOURCE, name=fresh_name("waiting"))
    pipeline = load_pipeline(file)
    await make_topics(kafka, pipeline)
    messages = flights(pipeline.events.name, pipeline.labels.topic or "", departures=WAITING)
    await publish(kafka, messages)
    predictions, examples = pipeline.catalog["predictions"], pipeline.catalog["examples"]
    async with watching(kafka, predictions, examples) as watch:
        with Worker(file, kafka, folder) as worker:
            await until(lambda: watch.counted(examples) == WAITING, "every label joined", worker=worker)
            assert await worker.stop() == 0, worker.said()
    answers = counting(await read_topic(kafka, predictions))
    expected = {row["event_id"]: row["features"] for row in backtested(folder, pipeline, messages)}
    assert {event_id: answer["features"] for event_id, answer in answers.items()} == expected
    late = [features["all_landed_24h"] for features in expected.values()]
    assert max(late) > 0, "no label was there in time"


async def stream(
    kafka: KafkaSettings,
    worker: Worker,
    pipeline: Pipeline,
    messages: list[Message],
    *,
    already: int,
    ahead_max: int = AHEAD_MAX,
) -> None:
    """Publish at the worker's pace, until all is answered and learned."""
    predictions, examples = pipeline.catalog["predictions"], pipeline.catalog["examples"]
    sent = [already]
    for message in messages:
        sent.append(sent[-1] + (message.topic == pipeline.events.name))
    async with watching(kafka, predictions, examples) as watch:

        async def pace(published: int) -> None:
            await until(
                lambda: (
                    watch.counted(predictions) >= sent[published] - ahead_max
                    and worker.metrics()["headrace_examples_total"] >= watch.counted(examples)
                ),
                f"answers to {sent[published]} events, and what is joined learned",
                worker=worker,
            )

        await publish(kafka, messages, pace=pace)
        await until(
            lambda: watch.counted(predictions) == watch.counted(examples) == sent[-1],
            "every event answered, every label joined",
            worker=worker,
        )
    learned = sent[-1]
    await until(lambda: worker.metrics()["headrace_examples_total"] >= learned, "learned", worker=worker)


def check_features(
    folder: Path, pipeline: Pipeline, messages: list[Message], answers: dict[str, dict[str, Any]]
) -> None:
    """Every feature that is a fold of the events alone is the backtest's, to the bit."""
    timing = label_windows(pipeline)
    assert 0 < len(timing) < len(pipeline.features)
    expected = {row["event_id"]: row["features"] for row in backtested(folder, pipeline, messages)}
    assert expected.keys() == answers.keys()
    for event_id, features in expected.items():
        found = answers[event_id]["features"]
        assert found.keys() == features.keys()
        assert {k: v for k, v in found.items() if k not in timing} == {
            k: v for k, v in features.items() if k not in timing
        }
