"""Serving policies on Kafka: a killed worker's successor picks, counts and decides as the log says."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from reading import (
    claims_of,
    coming,
    counting,
    folded_digests,
    read_topic,
    saved_digests,
    source_of,
    watching,
)
from running import Message, Worker, fresh_name, make_topics, publish, until, write_pipeline

from engine.definition.file import load_pipeline
from engine.definition.pipeline import Pipeline
from engine.settings import KafkaSettings, Settings
from engine.worker.assembly import build_learner
from topics.codec import encode
from topics.messages import Record

pytestmark = pytest.mark.kafka

SOURCE = """
    from msgspec import Struct
    from river import bandit, linear_model, naive_bayes, proba

    from engine import Bandit, Canary, Labels, LatencyGuard, Pipeline, Promotion, Split, Switchback, Topic
    from operators import by, field


    class Visit(Struct):
        event_id: str
        event_time: int
        user: str
        amount: float


    pipeline = Pipeline(
        name="NAME",
        events=Topic("NAME.visits", Visit, key="user", partitions=2),
        labels=Labels("NAME.bought", wait="WAIT"),
        features={"amount": field("amount"), "seen": by("user").count("1h")},
        models={"lr": linear_model.LogisticRegression(), "nb": naive_bayes.GaussianNB()},
        champion="lr",
        promotion=Promotion(false_swap_every=100, evidence_block=8, min_examples=200, cooldown=100, APPROVE),
        serving=SERVING,
    )
"""
POLICIES = {
    "canary": "Canary(steps=(0.2, 0.5, 1.0), hold=400)",
    "split": 'Split({"lr": 0.5, "nb": 0.5}, outcome="served", min_examples=200)',
    "switchback": 'Switchback(("lr", "nb"), block="6s", washout="1s", min_pairs=10)',
    "manual": 'Canary(steps=(0.2, 1.0), hold=2_000, guards=[LatencyGuard(1e-6, window=200, name="slow")])',
    "bandit": "Bandit(bandit.ThompsonSampling(proba.Beta()), every=50, explore=0.1)",
}
DECIDED = {"canary": "canary.done", "split": "split.decided", "switchback": "switchback.decided",
           "manual": "canary.aborted"}  # fmt: skip
CLICKS = {"lr": 0.25, "nb": 0.65}
"""Under the split a label is a click, and follows from who answered: how often a user likes it."""
RUNS = {
    "canary, then switchback": {"canary": 1_500, "switchback": 2_000},
    "manual, then bandit, then split": {"manual": 1_700, "bandit": 1_300, "split": 1_200},
}
"""Visits under each policy.  The first of a run needs a champion that is the worse one."""
KILLED_AFTER = {"canary": 700, "switchback": 700, "manual": 800, "bandit": 600, "split": 400}
"""Visits of each policy until the worker is killed; a second kill, at the end, brings the next file."""
APPROVED_AFTER = 500
AHEAD_MAX = 300


def visits(events: str, labels: str, count: int, labelled: int | None = None) -> list[Message]:
    """A visit each second; what came of it five seconds later.  `nb` can tell, `lr` cannot.

    Of visits from `labelled` on, someone else says what came.
    """
    rng = random.Random(9)
    start, rows = 1_700_000_000_000, []
    for n in range(count):
        user, amount, time = f"u{rng.randrange(300)}", rng.uniform(-2.0, 2.0), start + 1_000 * n
        value = {"event_id": f"e{n}", "event_time": time, "user": user, "amount": amount}
        told = {"event_id": f"e{n}", "label": abs(amount) < 1.0, "label_time": time + 5_000}
        rows.append((time, Message(events, time, user.encode(), json.dumps(value).encode())))
        if labelled is None or n < labelled:
            rows.append(
                (time + 5_000, Message(labels, time + 5_000, user.encode(), json.dumps(told).encode()))
            )
    return [message for _, message in sorted(rows, key=lambda row: row[0])]


class Run:
    """One pipeline, and a file for each policy under which it serves, one after the other."""

    def __init__(self, kafka: KafkaSettings, folder: Path, phases: Mapping[str, int]) -> None:
        self.kafka, self.phases = kafka, phases
        name = fresh_name("serving")
        self.workers: list[Worker] = []
        self.files: list[Path] = []
        for policy in phases:
            approve = 'approve="manual"' if policy == "manual" else 'approve="evidence"'
            source = SOURCE.replace("SERVING", POLICIES[policy]).replace("APPROVE", approve)
            # Clicks come when they come; pairs of blocks are closed when labels cannot come any more.
            source = source.replace("WAIT", "1h" if "split" in phases else "1m")
            (folder / policy).mkdir()
            self.files.append(write_pipeline(folder / policy, source, name=name))
            self.workers.append(Worker(self.files[-1], kafka, folder, name=policy))
        self.pipeline = load_pipeline(self.files[0])
        catalog = self.pipeline.catalog
        self.predictions, self.examples = catalog["predictions"], catalog["examples"]
        self.visits = sum(phases.values())
        self.labelled = self.visits - phases.get("split", 0)
        """Visits from here on have the label that a user makes of the answer."""
        self.kills: list[tuple[int, Worker, Worker]] = []
        """Answers after which a worker is killed, and who comes next."""
        before = 0
        for policy, worker, successor in zip(phases, self.workers, [*self.workers[1:], None], strict=True):
            self.kills.append((before + KILLED_AFTER[policy], worker, worker))
            before += phases[policy]
            if successor is not None:
                self.kills.append((before, worker, successor))
        self.shown: dict[str, Counter[str]] = {}
        """The metrics of each policy's worker at its end."""

    async def serve(self) -> None:
        await make_topics(self.kafka, self.pipeline)
        approving = (
            asyncio.create_task(approved(self.kafka, self.pipeline)) if "manual" in self.phases else None
        )
        kills = iter(self.kills)
        due, worker, successor = next(kills)
        events, labels = self.pipeline.events.name, self.pipeline.labels.topic or ""
        messages = visits(events, labels, self.visits, self.labelled)
        clicking = asyncio.create_task(self.click(labels))
        sent = [0]
        for message in messages:
            sent.append(sent[-1] + (message.topic == self.pipeline.events.name))

        async def pace(published: int) -> None:
            nonlocal due, worker, successor
            if clicking.done():
                await clicking  # why it has ended
            await until(
                lambda: watch.answered(self.predictions) >= sent[published] - AHEAD_MAX,
                "answers",
                worker=worker,
            )
            if approving is not None and sent[published] > APPROVED_AFTER:
                await until(approving.done, "a proposal", worker=worker)
                await approving
            if watch.answered(self.predictions) > due:
                # A busy machine learns later than it answers: revisions follow what is learned.
                learned = due - AHEAD_MAX
                await until(lambda: examples_of(worker) >= learned, "learned", worker=worker)
                self.shown[worker.name] = worker.metrics()
                worker.kill()
                worker = successor.start()
                due, _, successor = next(kills, (self.visits, worker, worker))

        with ExitStack() as ends:
            for each in self.workers:
                ends.push(each)
            async with watching(self.kafka, self.predictions, self.examples) as watch:
                await worker.start().ready()
                await publish(self.kafka, messages, pace=pace)
                assert next(kills, None) is None
                await until(
                    lambda: watch.counted(self.examples) >= self.visits, "every example", worker=worker
                )
                await until(
                    lambda: worker.metrics()["headrace_examples_total"] >= self.visits,
                    "learned",
                    worker=worker,
                )
                clicking.cancel()
                assert await worker.stop() == 0

    async def click(self, labels: str) -> None:
        """Answer every prediction that a user sees, once, as the user does."""
        seen: set[str] = set()
        async for records in coming(self.kafka, self.predictions):
            clicks = []
            for record in records:
                value = json.loads(record.value)
                event_id = value.get("event_id", "")  # a claim has none
                if event_id and int(event_id[1:]) >= self.labelled and event_id not in seen:
                    seen.add(event_id)
                    time = value["event_time"] + 5_000
                    clicked = clicks_on(event_id, value["model_name"])
                    told = {"event_id": event_id, "label": clicked, "label_time": time}
                    clicks.append(Message(labels, time, record.key, json.dumps(told).encode()))
            if clicks:
                await publish(self.kafka, clicks)


def examples_of(worker: Worker) -> float:
    return worker.metrics()["headrace_examples_total"]


def clicks_on(event_id: str, model_name: str) -> bool:
    return random.Random(event_id).random() < CLICKS[model_name]


@pytest.mark.parametrize("phases", RUNS.values(), ids=RUNS)
def test_policies_survive_kills_with_the_decisions_of_their_log(
    kafka: KafkaSettings, tmp_path: Path, phases: Mapping[str, int]
) -> None:
    run = Run(kafka, tmp_path, phases)
    asyncio.run(run.serve())
    asyncio.run(check(run))


async def check(run: Run) -> None:
    log, state_dir = await read_topic(run.kafka, run.examples), run.workers[0].state_dir
    check_answers(await read_topic(run.kafka, run.predictions), log, run)
    types = check_decisions(run.files[-1], log, await decided(run.kafka, run.pipeline), state_dir)
    assert {DECIDED[policy] for policy in run.phases if policy in DECIDED} <= types
    saved = await saved_digests(run.files[-1], state_dir)
    assert saved == folded_digests(run.files[-1], log, state_dir=state_dir)
    if "split" in run.phases:
        for event_id, lesson in counting(log, "example").items():
            if int(event_id[1:]) >= run.labelled:
                assert lesson["label"] == clicks_on(event_id, lesson["model_name"]), "of the answer seen"
    if "manual" in run.phases:
        check_measured([json.loads(one.value) for one in await decided(run.kafka, run.pipeline)])
    if "bandit" in run.phases:
        shown = run.shown["bandit"]
        assert shown["headrace_policy_revision"] >= (run.phases["bandit"] - AHEAD_MAX) // 50
        answered = sum(shown[f"headrace_arm_predictions_total{{{arm}}}"] for arm in ("lr", "nb"))
        assert answered >= (run.phases["bandit"] - KILLED_AFTER["bandit"]) / 2, "since the last start"


def check_measured(decisions: list[dict[str, Any]]) -> None:
    """What was approved takes some time to score, more than its guard allows: measured, not made up."""
    types = [one["type"] for one in decisions]
    assert types.index("proposal.accepted") < types.index("canary.started") < types.index("canary.aborted")
    aborted = decisions[types.index("canary.aborted")]
    assert (aborted["reason"], aborted["model_name"]) == ("guard: slow", "nb")
    evidence = aborted["evidence"]
    assert (evidence["window"], evidence["allowed"], evidence["share"]) == (200, 1e-6, 0.2)
    assert 1e-6 < evidence["latency_ms"] < 1_000.0


async def decided(kafka: KafkaSettings, pipeline: Pipeline) -> list[Any]:
    return await read_topic(kafka, pipeline.catalog["decisions"])


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


def check_answers(answers_log: list[Any], examples_log: list[Any], run: Run) -> None:
    """Every answer has its example, and both say the same about who was picked."""
    answers, lessons = counting(answers_log), counting(examples_log, "example")
    assert answers.keys() == lessons.keys()
    assert len(answers) == run.visits
    assert len(claims_of(answers_log)) >= len(run.kills) + 1
    picked: dict[str, set[str]] = {}
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
        if policy := answer.get("policy"):
            picked.setdefault(policy, set()).add(answer["model_name"])
    assert picked == {"canary" if policy == "manual" else policy: {"lr", "nb"} for policy in run.phases}


def check_decisions(file: Path, examples_log: list[Any], decided: list[Any], state_dir: Path) -> set[str]:
    """What was decided, by whichever worker, is what a fold of the log decides; return the types."""
    pipeline = load_pipeline(file)
    learner = build_learner(pipeline, source=source_of(pipeline, Settings(state_dir=state_dir)))
    log = [
        Record(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers))
        for r in examples_log
    ]
    expected: list[Any] = []
    while learner.reading <= log[-1].offset:  # the log may begin with the field of another file
        expected += [json.loads(encode(one)) for one in learner.fold(log)]
    written = {value["decision_id"]: value for value in (json.loads(r.value or b"") for r in decided)}
    assert [*written.values()] == expected
    return {one["type"] for one in expected}


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
            messages = visits(pipeline.events.name, pipeline.labels.topic or "", 1_000)
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
    told = await decided(kafka, pipeline)
    check_decisions(file, log, told, worker.state_dir)
    assert [json.loads(one.value)["type"] for one in told] == ["model.over_budget", "challenger.retired"]
    assert [header for one in log for header in one.headers if header[1] == b"slow"]
