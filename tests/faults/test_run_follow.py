"""Two machines of which one learns: the other serves its models, and learns in its place when it is gone."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from reading import Watch, claims_of, counting, watching
from running import Message, Worker, make_topics, until
from test_run_crash import FEWER, Stream, leads, shared_out, takes_all

from engine.machines.learner import Learner
from engine.settings import KafkaSettings
from engine.worker.assembly import build_learner
from operators.models.scoring import score_function

pytestmark = pytest.mark.kafka


def test_the_other_machine_serves_what_the_leader_learns_and_then_leads(
    kafka: KafkaSettings, redis_url: str, tmp_path: Path
) -> None:
    """They have nothing in common but Kafka and a Redis."""
    stream = Stream(kafka, tmp_path, partitions=2, departures=FEWER, options='follow="200ms",')
    stream.shared = {"store_url": redis_url, "signing_key": "the same on both"}
    one, two = (Worker(stream.file, kafka, tmp_path / name, name=name, **stream.settings) for name in "12")
    asyncio.run(one_of_two_learns(stream, one, two))
    assert not list(tmp_path.rglob("*.sqlite*")), "a checkpoint was left on one machine"


async def one_of_two_learns(stream: Stream, one: Worker, two: Worker) -> None:
    await make_topics(stream.kafka, stream.pipeline)
    half, most = len(stream.messages) // 2, len(stream.messages) * 3 // 4
    async with watching(stream.kafka, stream.predictions, stream.examples) as watch:
        with one, two:
            await shared_out(one, two)
            leader, other = sorted((one, two), key=leads, reverse=True)
            await stream.publish(watch, stream.messages[:half])
            learned = await all_labels(stream, watch, stream.messages[:half])
            for worker in (leader, other):  # what is served is the newest there is, on both
                await until(lambda w=worker: examples(w) == learned, "all is served", worker=worker)  # type: ignore[misc]
            told = other.metrics()
            assert told["headrace_leader"] == 0
            assert told["headrace_snapshots_total{served}"] > 0
            assert told["headrace_model_updates{tree}"] == learned
            before = stream.answered(watch)
            publishing = asyncio.create_task(stream.publish(watch, stream.messages[half:most]))
            await stream.reached(watch, before + 100, other)
            leader.kill()
            await takes_all(other)
            await publishing
            await stream.publish(watch, stream.messages[most:])
            await stream.finished(watch, other)
            assert other.metrics()["headrace_leader"] == 1
            assert await other.stop() == 0, other.said()
    answers_log, examples_log = await stream.account(other.state_dir)
    for source in (0, 1):
        claims = claims_of(examples_log, source)
        assert claims == claims_of([r for r in answers_log if r.partition == source], source)
        assert len(claims) >= 2 - source  # the leader's partition has had another owner
    first_half = sum(message.topic == stream.pipeline.events.name for message in stream.messages[:half])
    answers = sorted(counting(answers_log).values(), key=lambda one: one["prediction_time"])
    assert all(one["model_updates"] >= learned for one in answers[first_half:]), "older models came back"
    assert_made_again(stream, answers, examples_log)


def examples(worker: Worker) -> float:
    return worker.metrics()["headrace_examples_total"]


async def all_labels(stream: Stream, watch: Watch, messages: Sequence[Message]) -> int:
    """Wait until every label of these messages is an example; return how many."""
    labels = sum(message.topic == stream.pipeline.labels.topic for message in messages)
    await until(lambda: watch.counted(stream.examples) >= labels, "every example")
    return labels


def assert_made_again(stream: Stream, answers: Sequence[dict[str, Any]], log: Sequence[Any]) -> None:
    """The examples log gives every answer's score again, from the version and the updates that it names."""
    named: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    for answer in answers:
        named[answer["model_version"], answer["model_updates"]].append(answer)
    learner = build_learner(stream.pipeline)
    again(learner, named)
    for record in log:
        learner.fold([record])
        again(learner, named)
    assert not named, f"no such states: {list(named)[:5]}"


def again(learner: Learner, named: dict[tuple[int, int], list[dict[str, Any]]]) -> None:
    """Compare the answers of the states that the learner is in, and cross them out."""
    for racer in learner.roster.racers.values():
        score_of = score_function("binary", racer.model)
        for answer in named.pop((racer.version, racer.updates), ()):
            assert score_of(answer["features"]) == answer["prediction_score"]
