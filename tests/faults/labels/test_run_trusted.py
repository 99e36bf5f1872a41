"""Who labels, what is asked and what is kept, through `kill -9`: as a backtest of the same messages."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, NamedTuple

from reading import counting, read_topic, watching
from running import Message, Worker, fresh_name, make_topics, publish, until, write_pipeline
from typer.testing import CliRunner

from engine.cli.main import app
from engine.definition.file import load_pipeline
from engine.definition.pipeline import Pipeline
from engine.local.worker import environment
from engine.offline.backtest import LocalRun
from engine.settings import KafkaSettings
from operators.monitor.reservoir import ReservoirMonitor
from topics.codec import decode_example
from topics.messages import Record

SOURCE = '''
    import math

    from msgspec import Struct
    from river import base

    from engine import Labels, Pipeline, Queries, Reservoir, Topic, Trust
    from operators import field


    class Fixed(base.Classifier):
        """Learns nothing, so an answer is the same however far learning has come."""

        def learn_one(self, x, y):
            pass

        def predict_proba_one(self, x):
            p = 1 / (1 + math.exp(-x["price"]))
            return {True: p, False: 1 - p}


    class Visit(Struct):
        event_id: str
        event_time: int
        shop: str
        price: float


    pipeline = Pipeline(
        name="NAME",
        events=Topic("NAME.visits", Visit, key="shop", grace="1s"),
        labels=Labels(
            "NAME.feedback",
            wait="300s",
            combine="max",
            on_timeout=False,
            kinds={"click": 1.0, "buy": 3.0},
            source="by",
            trust=Trust(),
        ),
        features={"price": field("price")},
        models={"fixed": Fixed()},
        queries=Queries(by="uncertainty", per="20s", max=4),
        reservoir=Reservoir(per_class_max=15),
        drift=(),
    )
'''
VISITS = 900
HONEST = 9
HOSTILE = "bad"
AHEAD_MAX = 200
KILLS = 2
BEGIN_MS = 1_700_000_000_000
OVER_MS = BEGIN_MS + 1_000 * VISITS + 10_000_000
LATER = 40


class Written(NamedTuple):
    """What a run has come to."""

    answers: dict[str, float]
    examples: dict[str, tuple[Any, ...]]
    queries: dict[str, dict[str, Any]]
    quarantines: list[tuple[Any, ...]]


def visit(pipeline: Pipeline, number: int, time: int) -> Message:
    price = number % 13 / 2 - 3
    said = {"event_id": f"e{number}", "event_time": time, "shop": "a", "price": price}
    return Message(pipeline.events.name, time, b"a", json.dumps(said).encode())


def feedback(pipeline: Pipeline, number: int, time: int, by: str, **said: Any) -> Message:
    about = {"event_id": f"e{number}", "label_time": time, "by": by}
    return Message(pipeline.labels.topic or "", time, b"a", json.dumps(about | said).encode())


def end(pipeline: Pipeline, time: int) -> Message:
    """An event so late that all before it have waited for long enough."""
    return visit(pipeline, time, time)


def messages_of(pipeline: Pipeline) -> list[Message]:
    """A visit a second; 100 s later a click or none, for some a purchase; one source tells of clicks alone.

    Questions are asked within 21 s of the visit, so no answer comes before: what is asked for cannot depend
    on how far the two topics have run apart.
    """
    found = []
    for number in range(VISITS):
        time = BEGIN_MS + 1_000 * number
        by = HOSTILE if number % 6 == 0 else f"honest-{number % HONEST}"
        clicked = by == HOSTILE or number % 13 == 12
        found.append(visit(pipeline, number, time))
        found.append(feedback(pipeline, number, time + 100_000, by, kind="click", label=clicked))
        if clicked and number % 2:
            found.append(feedback(pipeline, number, time + 150_000, by, kind="buy"))
    return [*sorted(found, key=lambda one: one.time), end(pipeline, OVER_MS)]


def told(example: Any) -> tuple[Any, ...]:
    return example.label, example.label_weight, example.label_time, example.source


def of_decisions(decisions: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What was decided of sources, each once."""
    once = {one["decision_id"]: one for one in decisions if one["type"].startswith("source.")}
    return [(one["type"], one["examples"], one["evidence"]) for one in once.values()]


def backtested(pipeline: Pipeline, messages: list[Message]) -> tuple[Written, LocalRun]:
    """What the machines write of the same messages without a broker, and what they keep."""
    run = LocalRun(pipeline)
    records: dict[str, list[Record]] = {pipeline.events.name: [], pipeline.labels.topic or "": []}
    for one in messages:
        log = records[one.topic]
        log.append(Record(one.topic, 0, len(log), one.time, one.key, one.value))
    run.scorer.intake.offer_events(records[pipeline.events.name])
    run.scorer.intake.offer_labels(records[pipeline.labels.topic or ""])
    written = Written({}, {}, {}, [])
    while (out := run.advance()) is not None:
        written.answers.update((one.event_id, one.prediction_score) for one, _, _ in run.scorer.scored)
        for record in out:
            if record.target == "queries":
                query = json.loads(record.value or b"")
                written.queries[query["query_id"]] = query
            elif record.target == "examples":
                example = decode_example(record.value or b"")
                written.examples[example.event_id] = told(example)
    written.quarantines.extend(
        (one.type, one.examples, dict(one.evidence))
        for one in run.decisions
        if one.type.startswith("source.")
    )
    return written, run


async def read(kafka: KafkaSettings, pipeline: Pipeline) -> Written:
    """What a run has written to its topics, what counts of it; a question that came twice is the same one."""
    topics = pipeline.catalog
    queries: dict[str, dict[str, Any]] = {}
    for record in await read_topic(kafka, topics["queries"]):
        query = json.loads(record.value)
        assert queries.setdefault(query["query_id"], query) == query
    decisions = [json.loads(record.value) for record in await read_topic(kafka, topics["decisions"])]
    answers = counting(await read_topic(kafka, topics["predictions"]))
    examples = counting(await read_topic(kafka, topics["examples"]), "example")
    return Written(
        {event_id: answer["prediction_score"] for event_id, answer in answers.items()},
        {event_id: told(decode_example(json.dumps(one).encode())) for event_id, one in examples.items()},
        queries,
        of_decisions(decisions),
    )


def test_sources_questions_and_what_is_kept_are_as_in_the_backtest(
    tansu: KafkaSettings, tmp_path: Path
) -> None:
    asyncio.run(killed(tansu, tmp_path))


async def killed(kafka: KafkaSettings, folder: Path) -> None:
    file = write_pipeline(folder, SOURCE, name=fresh_name("trusted"))
    pipeline = load_pipeline(file)
    messages = messages_of(pipeline)
    expected, run = backtested(pipeline, messages)
    run.learner.monitors.look()
    kept = run.learner.monitors.parts["reservoir"]
    assert isinstance(kept, ReservoirMonitor)
    assert [(kind, evidence["source"]) for kind, _, evidence in expected.quarantines] == [
        ("source.quarantined", HOSTILE)
    ]
    assert len(expected.queries) == 4 * (VISITS // 20 - 1), "the last ones are over too late to ask"
    assert {weight for _, weight, _, _ in expected.examples.values()} == {1.0, 3.0}
    predictions, examples = pipeline.catalog["predictions"], pipeline.catalog["examples"]
    await make_topics(kafka, pipeline)
    worker = Worker(file, kafka, folder, checkpoint_interval_ms=500)

    async def ask(*words: str) -> Any:
        runner = CliRunner(env=environment(kafka, state_dir=folder, web_port=0))
        done = await asyncio.to_thread(runner.invoke, app, [*words, "--json"])
        assert done.exit_code == 0, (done.output, done.exception)
        return json.loads(done.stdout)

    async with watching(kafka, predictions, examples) as watch:
        sent = [0]
        for message in messages:
            sent.append(sent[-1] + (message.topic == pipeline.events.name))

        async def pace(published: int) -> None:
            await until(lambda: watch.answered(predictions) >= sent[published] - AHEAD_MAX, "answers")

        publishing = asyncio.create_task(publish(kafka, messages, pace=pace))
        for kill in range(1, KILLS + 1):
            with worker:
                least = kill * VISITS // (KILLS + 1)
                await until(lambda least=least: watch.answered(predictions) > least, "work", worker=worker)  # type: ignore[misc]
                worker.kill()
        with worker:
            await publishing
            await until(lambda: watch.counted(examples) == VISITS, "every example", worker=worker)
            learned = run.learner.examples
            assert learned < VISITS, "some of the hostile source are left out"
            await until(
                lambda: worker.metrics()["headrace_examples_total"] == learned, "learning", worker=worker
            )
            found = await read(kafka, pipeline)
            assert found == expected
            like = (await ask("explain", str(file), "e5", "--like", "5", "--no-fold"))["like"]
            assert like == json.loads(json.dumps(kept.near({"price": 5 % 13 / 2 - 3}, 5)))
            (released,) = (await ask("labels", "release", str(file), HOSTILE))["decisions"]
            assert (released["type"], released["evidence"]["source"]) == ("source.released", HOSTILE)
            worker.kill()
        with worker:
            await worker.ready()
            await publish(kafka, later(pipeline))
            await until(lambda: watch.counted(examples) == VISITS + LATER + 1, "more examples", worker=worker)
            more = learned + LATER + 1
            await until(lambda: worker.metrics()["headrace_examples_total"] == more, "trust", worker=worker)
            assert await worker.stop() == 0, worker.said()
    decisions = [
        json.loads(record.value) for record in await read_topic(kafka, pipeline.catalog["decisions"])
    ]
    assert [kind for kind, _, _ in of_decisions(decisions)] == ["source.quarantined", "source.released"]


def later(pipeline: Pipeline) -> list[Message]:
    """Visits after all was over, whose labels are of the source that was quarantined, and right now."""
    found = []
    for number in range(VISITS, VISITS + LATER):
        time = OVER_MS + 1_000 * number
        found += [
            visit(pipeline, number, time),
            feedback(pipeline, number, time + 500, HOSTILE, kind="click", label=False),
        ]
    return [*found, end(pipeline, 2 * OVER_MS - BEGIN_MS)]
