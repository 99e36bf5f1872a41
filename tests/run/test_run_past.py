"""A worker's log is raced again to the bit; what a backtest learned starts a worker, and its log tells it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

from paths import CHECKOUT
from reading import counting, decoded, read_topic, saved_digests
from running import (
    FLIGHTS,
    Message,
    Worker,
    flights,
    fresh_name,
    make_topics,
    publish,
    until,
    write_pipeline,
)

from engine.definition.file import load_pipeline
from engine.offline.rerun import logged_records, model_factory_of, past_of, rerun
from engine.settings import KafkaSettings, Settings

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
PART = 100
"""Messages published at a time."""
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
        messages = list(flights(pipeline.events.name, pipeline.labels.topic or "", departures=DEPARTURES))
        labels = 0

        def learned() -> bool:
            return worker.metrics().get("headrace_examples_total", 0) >= labels - 200

        # In parts, so that a quick worker learns between its answers.
        for start in range(0, len(messages), PART):
            part = messages[start : start + PART]
            await publish(kafka, part)
            labels += sum(message.topic == pipeline.labels.topic for message in part)
            await until(learned, "learned", worker=worker)
        await until(
            lambda: worker.metrics()["headrace_examples_total"] >= labels, "all learned", worker=worker
        )
        assert await worker.stop() == 0, worker.said()

    decisions = decoded(await read_topic(kafka, pipeline.catalog["decisions"]))
    past = past_of(pipeline, await logged_records(pipeline, None, kafka))
    assert [one.decision_id for one in past.decisions] == [one["decision_id"] for one in decisions]
    assert len(set(past.places)) > 10, "all events were answered before a label came"
    again = rerun(pipeline, past, past.places, as_recorded=list(pipeline.models))
    assert again.compared == len(pipeline.models) * len(past.examples)
    assert again.same == again.compared
    assert again.decisions == past.decisions
    assert again.learner.digests() == past.learner.digests()


# -- a backtest starts a worker ----------------------------------------------------------------------

SAVED_SOURCE = f"""
    import runpy
    from dataclasses import replace

    flights = runpy.run_path({str(FLIGHTS / "pipeline.py")!r})["pipeline"]
    pipeline = replace(
        flights,
        name="NAME",
        events=replace(flights.events, name="NAME.departures"),
        labels=replace(flights.labels, topic="NAME.arrivals"),
    )
"""
LEARNED, LIVE, MORE = 1_200, 400, 200


def test_a_backtest_starts_a_pipeline(tansu: KafkaSettings, tmp_path: Path) -> None:
    asyncio.run(started(tansu, tmp_path))


async def started(kafka: KafkaSettings, folder: Path) -> None:
    file = write_pipeline(folder, SAVED_SOURCE, name=fresh_name("saved"))
    pipeline = load_pipeline(file)
    topics = pipeline.events.name, pipeline.labels.topic or ""
    worker = Worker(file, kafka, folder)
    saved = json.loads(backtested(folder, file, worker, flights(*topics, departures=LEARNED), topics))
    updates = {name: model["updates"] for name, model in saved["models"].items()}
    assert updates.keys() == pipeline.models.keys()
    assert min(updates.values()) == LEARNED

    await make_topics(kafka, pipeline)
    worker.start("--from-backtest", str(folder / "saved"))
    with worker:
        await worker.ready()
        await live(kafka, worker, flights(*topics, first=LEARNED, departures=LIVE), LIVE)
        assert await worker.stop() == 0, worker.said()
    answers = counting(await read_topic(kafka, pipeline.catalog["predictions"])).values()
    assert len(answers) == LIVE
    assert min(answer["model_updates"] for answer in answers) == LEARNED

    with worker:  # a later start needs the folder no more
        await worker.ready()
        await live(kafka, worker, flights(*topics, first=LEARNED + LIVE, departures=MORE), LIVE + MORE)
        assert await worker.stop() == 0, worker.said()
    answers = counting(await read_topic(kafka, pipeline.catalog["predictions"])).values()
    assert max(answer["model_updates"] for answer in answers) > LEARNED + LIVE

    factory = model_factory_of(pipeline, Settings(state_dir=worker.state_dir))
    past = past_of(pipeline, await logged_records(pipeline, None, kafka), factory)
    assert (past.learner.digests(), past.learner.examples) == await saved_digests(file, worker.state_dir)
    again = rerun(pipeline, past, past.places, as_recorded=list(pipeline.models), source=factory)
    assert again.same == again.compared == len(pipeline.models) * len(past.examples)


def backtested(
    folder: Path, file: Path, worker: Worker, messages: list[Message], topics: tuple[str, str]
) -> bytes:
    """Run `headrace backtest --save` with the worker's settings; return what the folder says of itself."""
    files = folder / "events.jsonl", folder / "labels.jsonl"
    for topic, path in zip(topics, files, strict=True):
        path.write_bytes(b"".join(m.value + b"\n" for m in messages if m.topic == topic and m.value))
    command = [sys.executable, "-m", "headrace", "backtest", str(file), "--save", str(folder / "saved")]
    command += ["--events", str(files[0]), "--labels", str(files[1])]
    done = subprocess.run(
        command,
        env=worker._environment | {"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"headrace run {file} --from-backtest {folder / 'saved'}" in done.stdout.replace("\n", " ")
    return (folder / "saved" / "saved.json").read_bytes()


async def live(kafka: KafkaSettings, worker: Worker, messages: list[Message], answered: int) -> None:
    """Publish in parts, so that a quick worker learns between its answers; wait until all are learned."""
    labels = answered - len(messages) // 2

    def learned() -> bool:
        return worker.metrics().get("headrace_examples_total", 0) >= labels

    for start in range(0, len(messages), PART):
        part = messages[start : start + PART]
        await publish(kafka, part)
        labels += sum(b'"label"' in (message.value or b"") for message in part)
        await until(learned, "learned", worker=worker)
    assert labels == answered
