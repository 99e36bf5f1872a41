"""Serving policies on Kafka: a killed worker's successor picks, counts and decides as the log says."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest
from reading import claims_of, counting, folded_digests, read_topic, saved_digests, watching
from running import Message, Worker, fresh_name, make_topics, publish, until, write_pipeline

from engine.definition.file import load_pipeline
from engine.definition.pipeline import Pipeline
from engine.settings import KafkaSettings
from engine.worker.assembly import build_learner
from topics.codec import encode
from topics.messages import Record

pytestmark = pytest.mark.kafka

SOURCE = """
    from msgspec import Struct
    from river import bandit, linear_model, naive_bayes, proba

    from engine import Bandit, Canary, Labels, Pipeline, Promotion, Split, Switchback, Topic
    from operators import by, field


    class Visit(Struct):
        event_id: str
        event_time: int
        user: str
        amount: float


    pipeline = Pipeline(
        name="NAME",
        events=Topic("NAME.visits", Visit, key="user", partitions=2),
        labels=Labels("NAME.bought", wait="1m"),
        features={"amount": field("amount"), "seen": by("user").count("1h")},
        models={"lr": linear_model.LogisticRegression(), "nb": naive_bayes.GaussianNB()},
        champion="lr",
        promotion=Promotion(false_swap_every=100, evidence_block=8, min_examples=200, cooldown=100, APPROVE),
        serving=SERVING,
    )
"""
POLICIES = {
    "canary": "Canary(steps=(0.2, 0.5, 1.0), hold=400)",
    "split": 'Split({"lr": 0.5, "nb": 0.5}, min_examples=200)',
    "switchback": 'Switchback(("lr", "nb"), block="12s", washout="2s", min_pairs=10)',
    "manual": "Canary(steps=(0.2, 1.0), hold=400)",
    "bandit": "Bandit(bandit.ThompsonSampling(proba.Beta()), every=50, explore=0.1)",
}
DECIDED = {"canary": "canary.done", "split": "split.decided", "switchback": "switchback.decided",
           "manual": "proposal.accepted"}  # fmt: skip
VISITS = 4_000
KILLS = (800, 2_000, 2_900)
AHEAD_MAX = 300


def visits(events: str, labels: str) -> list[Message]:
    """A visit each second; what came of it five seconds later.  `nb` can tell, `lr` cannot."""
    rng = random.Random(9)
    start, rows = 1_700_000_000_000, []
    for n in range(VISITS):
        user, amount, time = f"u{rng.randrange(300)}", rng.uniform(-2.0, 2.0), start + 1_000 * n
        value = {"event_id": f"e{n}", "event_time": time, "user": user, "amount": amount}
        told = {"event_id": f"e{n}", "label": abs(amount) < 1.0, "label_time": time + 5_000}
        rows.append((time, Message(events, time, user.encode(), json.dumps(value).encode())))
        rows.append((time + 5_000, Message(labels, time + 5_000, user.encode(), json.dumps(told).encode())))
    return [message for _, message in sorted(rows, key=lambda row: row[0])]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_survives_kills_with_the_decisions_of_its_log(
    kafka: KafkaSettings, tmp_path: Path, policy: str
) -> None:
    asyncio.run(serve(kafka, tmp_path, policy))


async def serve(kafka: KafkaSettings, folder: Path, policy: str) -> None:
    name = fresh_name("serving")
    approve = 'approve="manual"' if policy == "manual" else 'approve="evidence"'
    source = SOURCE.replace("SERVING", POLICIES[policy]).replace("APPROVE", approve)
    file = write_pipeline(folder, source, name=name)
    pipeline = load_pipeline(file)
    await make_topics(kafka, pipeline)
    answering = asyncio.create_task(approved(kafka, pipeline)) if policy == "manual" else None
    predictions, examples, decided = (
        pipeline.catalog[role] for role in ("predictions", "examples", "decisions")
    )
    worker = Worker(file, kafka, folder)
    async with watching(kafka, predictions, examples) as watch:
        with worker:
            await worker.ready()
            sent = [0]
            messages = visits(pipeline.events.name, pipeline.labels.topic or "")
            for message in messages:
                sent.append(sent[-1] + (message.topic == pipeline.events.name))
            kills = list(KILLS)

            async def pace(published: int) -> None:
                await until(
                    lambda: watch.answered(predictions) >= sent[published] - AHEAD_MAX,
                    "answers",
                    worker=worker,
                )
                if kills and watch.answered(predictions) > kills[0]:
                    kills.pop(0)
                    worker.kill()
                    worker.start()

            await publish(kafka, messages, pace=pace)
            assert not kills
            if answering is not None:
                await answering
            await until(lambda: watch.counted(examples) >= VISITS, "every example", worker=worker)
            await until(
                lambda: worker.metrics()["headrace_examples_total"] >= VISITS, "learned", worker=worker
            )
            shown = worker.metrics()
            assert await worker.stop() == 0
    log = await read_topic(kafka, examples)
    check_answers(await read_topic(kafka, predictions), log, policy)
    check_decisions(file, log, await read_topic(kafka, decided), policy)
    assert (await saved_digests(file, worker.state_dir)) == folded_digests(file, log)
    assert shown["headrace_policy_revision"] >= (policy == "bandit") * 20
    answered = sum(shown[f"headrace_arm_predictions_total{{{arm}}}"] for arm in ("lr", "nb"))
    assert answered >= (policy == "bandit") * (VISITS - KILLS[-1]) / 2, "since the last start"


async def approved(kafka: KafkaSettings, pipeline: Pipeline) -> None:
    """Say yes to the first proposal, when it is there, twice."""
    topic = pipeline.catalog["decisions"]
    while True:
        told = [json.loads(one.value) for one in await read_topic(kafka, topic)]
        opened = [one["decision_id"] for one in told if one["type"] == "proposal.opened"]
        if opened:
            break
        await asyncio.sleep(0.2)
    command = {"command_id": "yes", "command": "approve", "time": 1, "proposal_id": opened[0], "actor": "kim"}
    message = Message(pipeline.catalog["commands"], 1, b"c", json.dumps(command).encode())
    await publish(kafka, [message, message])


def check_answers(answers_log: list[Any], examples_log: list[Any], policy: str) -> None:
    """Every answer has its example, and both say the same about who was picked."""
    answers, lessons = counting(answers_log), counting(examples_log, "example")
    assert answers.keys() == lessons.keys()
    assert len(answers) == VISITS
    assert len(claims_of(answers_log)) >= len(KILLS) + 1
    picked = set()
    for event_id, lesson in lessons.items():
        answer = answers[event_id]
        for told in (
            "policy",
            "policy_revision",
            "propensity",
            "model_name",
            "model_version",
            "model_updates",
        ):
            assert (lesson.get(told) or 0) == (answer.get(told) or 0), (event_id, told)
        assert lesson["scores"][answer["model_name"]] == answer["prediction_score"]
        if answer.get("policy"):
            assert answer["policy"] == ("canary" if policy == "manual" else policy)
            picked.add(answer["model_name"])
    assert picked == {"lr", "nb"}


def check_decisions(file: Path, examples_log: list[Any], decided: list[Any], policy: str) -> None:
    """What was decided, by whichever worker, is what a fold of the log decides; no more and no less."""
    learner = build_learner(load_pipeline(file))
    log = [
        Record(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers))
        for r in examples_log
    ]
    expected = [json.loads(encode(one)) for one in learner.fold(log)]
    written = {value["decision_id"]: value for value in (json.loads(r.value or b"") for r in decided)}
    assert [*written.values()] == expected
    if policy in DECIDED:
        assert DECIDED[policy] in {one["type"] for one in expected}


SLOW_SOURCE = """
    import time

    from msgspec import Struct
    from river import linear_model, naive_bayes

    from engine import Labels, Pipeline, Topic
    from operators import field
    from operators.race.candidates import Candidate


    class Visit(Struct):
        event_id: str
        event_time: int
        user: str
        amount: float


    class Thorough(naive_bayes.GaussianNB):
        def predict_proba_one(self, x):
            time.sleep(0.01)
            return super().predict_proba_one(x)


    pipeline = Pipeline(
        name="NAME",
        events=Topic("NAME.visits", Visit, key="user", partitions=1),
        labels=Labels("NAME.bought", wait="1m"),
        features={"amount": field("amount")},
        models={"lr": linear_model.LogisticRegression(), "nb": Candidate(Thorough(), budget_ms=4)},
        champion="lr",
    )
"""


def test_a_model_over_its_budget_leaves_by_a_record(kafka: KafkaSettings, tmp_path: Path) -> None:
    asyncio.run(too_slow(kafka, tmp_path))


async def too_slow(kafka: KafkaSettings, folder: Path) -> None:
    file = write_pipeline(folder, SLOW_SOURCE, name=fresh_name("slow"))
    pipeline = load_pipeline(file)
    await make_topics(kafka, pipeline)
    predictions, examples = pipeline.catalog["predictions"], pipeline.catalog["examples"]
    worker = Worker(file, kafka, folder)
    async with watching(kafka, predictions) as watch:
        with worker:
            await worker.ready()
            messages = visits(pipeline.events.name, pipeline.labels.topic or "")[:2_000]
            sent = [0]
            for message in messages:
                sent.append(sent[-1] + (message.topic == pipeline.events.name))

            async def pace(published: int) -> None:
                await until(
                    lambda: watch.answered(predictions) >= sent[published] - 20, "answers", worker=worker
                )

            await publish(kafka, messages, pace=pace)
            await until(lambda: worker.logged("model.over_budget"), "the budget", worker=worker)
            assert await worker.stop() == 0
    log = await read_topic(kafka, examples)
    check_decisions(file, log, await read_topic(kafka, pipeline.catalog["decisions"]), "slow")
    types = [json.loads(one.value)["type"] for one in await read_topic(kafka, pipeline.catalog["decisions"])]
    assert types == ["model.over_budget", "challenger.retired"]
    assert [header for one in log for header in one.headers if header[1] == b"slow"]
