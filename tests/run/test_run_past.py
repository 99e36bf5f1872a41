"""What a worker wrote can be raced again: the same field gives the same scores and decisions, to the bit."""

from __future__ import annotations

import asyncio
from pathlib import Path

from reading import decoded, read_topic
from running import (
    FLIGHTS,
    Worker,
    flights,
    fresh_name,
    make_topics,
    publish,
    until,
    write_pipeline,
)

from engine.definition.file import load_pipeline
from engine.offline.rerun import logged_records, past_of, rerun
from engine.settings import KafkaSettings

SOURCE = f"""
    import runpy
    from dataclasses import replace

    from headrace import Promotion

    flights = runpy.run_path({str(FLIGHTS / "pipeline.py")!r})["pipeline"]
    pipeline = replace(
        flights,
        name="NAME",
        events=replace(flights.events, name="NAME.departures"),
        labels=replace(flights.labels, topic="NAME.arrivals"),
        promotion=Promotion(false_swap_every=500, evidence_block=8, min_examples=64, cooldown=64),
    )
"""
DEPARTURES = 1_500


def test_a_workers_log_is_raced_again_to_the_bit(tansu: KafkaSettings, tmp_path: Path) -> None:
    asyncio.run(raced_again(tansu, tmp_path))


async def raced_again(kafka: KafkaSettings, folder: Path) -> None:
    file = write_pipeline(folder, SOURCE, name=fresh_name("past"))
    pipeline = load_pipeline(file)
    await make_topics(kafka, pipeline)
    worker = Worker(file, kafka, folder)
    with worker:
        await worker.ready()
        await publish(
            kafka, flights(pipeline.events.name, pipeline.labels.topic or "", departures=DEPARTURES)
        )

        def learned() -> bool:
            return worker.metrics().get("headrace_examples_total", 0) >= DEPARTURES - 200

        await until(learned, "learned", worker=worker)
        assert await worker.stop() == 0, worker.said()

    decisions = decoded(await read_topic(kafka, pipeline.catalog["decisions"]))
    past = past_of(pipeline, await logged_records(pipeline, None, kafka))
    assert [one.decision_id for one in past.decisions] == [one["decision_id"] for one in decisions]
    assert len(set(past.places)) > 10, "all events were answered before a label came"
    again = rerun(pipeline, past, past.places, as_recorded=list(pipeline.models))
    assert again.compared == 3 * len(past.examples)
    assert again.same == again.compared
    assert again.decisions == past.decisions
    assert again.learner.digests() == past.learner.digests()
