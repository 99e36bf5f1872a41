"""A file that changes the field of a running race: nothing lost or learned twice, all of it on record."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from reading import Watch, counting, decoded, folded, folded_digests, read_topic, saved_digests, watching
from running import Message, Worker, flights, fresh_name, make_topics, publish, until, write_pipeline

from engine.definition.file import load_pipeline
from engine.settings import KafkaSettings
from engine.worker.model_factory import ModelFactory
from operators.models.digest import digest

pytestmark = pytest.mark.kafka

SOURCE = """
    from msgspec import Struct
    from river import linear_model, naive_bayes, optim, preprocessing, tree

    from engine import Labels, Pipeline, Promotion, Topic
    from operators import by, field
    from operators.race.candidates import Candidate


    class Departure(Struct):
        event_id: str
        event_time: int
        carrier: str
        origin: str
        dest: str
        distance: float


    def linear(rate):
        return preprocessing.StandardScaler() | linear_model.LogisticRegression(optimizer=optim.SGD(rate))


    pipeline = Pipeline(
        name="NAME",
        events=Topic("NAME.departures", Departure, key="origin", partitions=2),
        labels=Labels("NAME.arrivals", wait="36h"),
        features={
            "distance": field("distance"),
            "hour": field("event_time").hour(),
            "origin_6h": by("origin").count("6h"),
        },
        models={MODELS},
        champion="tree",
        promotion=Promotion(PROMOTION),
    )
"""
TREE = '"tree": tree.HoeffdingTreeClassifier(grace_period=100)'
FIRST = SOURCE.replace("MODELS", f'{TREE}, "linear": linear(0.01)').replace("PROMOTION", "")
SECOND = SOURCE.replace(
    "MODELS",
    f'{TREE}, "linear": linear(0.05), "bayes": Candidate(naive_bayes.GaussianNB(), start="log")',
).replace("PROMOTION", "min_examples=500")
WITHOUT_CHAMPION = SOURCE.replace("MODELS", '"linear": linear(0.01)').replace("PROMOTION", "")
WITHOUT_CHAMPION = WITHOUT_CHAMPION.replace('champion="tree",', "")
DEPARTURES = 2_000
AHEAD_MAX = 300


class Race:
    """One pipeline's topics, its two files, and the flights that pass through."""

    def __init__(self, kafka: KafkaSettings, folder: Path) -> None:
        self.kafka = kafka
        name = fresh_name("field")
        self.files = []
        for number, source in enumerate((FIRST, SECOND, WITHOUT_CHAMPION)):
            place = folder / str(number)
            place.mkdir()
            self.files.append(write_pipeline(place, source, name=name))
        self.pipeline = load_pipeline(self.files[0])
        self.messages = flights(
            self.pipeline.events.name, self.pipeline.labels.topic or "", departures=DEPARTURES
        )
        catalog = self.pipeline.catalog
        self.predictions, self.examples = catalog["predictions"], catalog["examples"]
        self.decisions = catalog["decisions"]

    def worker(self, file: int, folder: Path, name: str) -> Worker:
        return Worker(self.files[file], self.kafka, folder, name=name, checkpoint_interval_ms=500)

    async def publish(self, watch: Watch, messages: Sequence[Message]) -> None:
        """Publish while answers follow."""
        before, sent = watch.answered(self.predictions), [0]
        for message in messages:
            sent.append(sent[-1] + (message.topic == self.pipeline.events.name))

        async def pace(published: int) -> None:
            await until(
                lambda: watch.answered(self.predictions) - before >= sent[published] - AHEAD_MAX,
                f"answers to {sent[published]}",
            )

        await publish(self.kafka, messages, pace=pace)

    async def decided(self, kind: str, name: str, worker: Worker) -> None:
        """Wait until a decision of this kind about a candidate is on the topic."""
        for _ in range(300):
            told = decoded(await read_topic(self.kafka, self.decisions))
            if any((one["type"], one["model_name"]) == (kind, name) for one in told):
                return
            assert worker.process is not None
            assert worker.process.poll() is None, worker.said()
            await asyncio.sleep(0.2)
        raise AssertionError(f"no {kind} of {name}\n{worker.said()}")

    async def account(self, state_dir: Path) -> list[Any]:
        """Check that nothing was lost or learned twice, that all files fold the log alike; return the log."""
        log = await read_topic(self.kafka, self.examples)
        answers = counting(await read_topic(self.kafka, self.predictions))
        lessons = counting(log, "example")
        asked = {json.loads(m.value or b"")["event_id"] for m in self.messages}
        assert answers.keys() == lessons.keys() == asked
        saved = [await saved_digests(file, state_dir) for file in self.files[:2]]
        again = [folded_digests(file, log, state_dir=state_dir) for file in self.files[:2]]
        assert saved[0] == saved[1] == again[0] == again[1]
        assert saved[0][1] == DEPARTURES
        self.check_newcomers(log, saved[0][0])
        told = decoded(await read_topic(self.kafka, self.decisions))
        kept = {one["decision_id"]: one for one in told}.values()
        on_record = [(one["type"], one["model_name"]) for one in kept]
        for what in (
            ("field.changed", "tree"),
            ("candidate.retired", "linear"),
            ("candidate.entered", "linear"),
            ("candidate.entered", "bayes"),
        ):
            assert what in on_record, on_record
        assert on_record.count(("candidate.entered", "linear")) == 1
        assert on_record.count(("candidate.entered", "bayes")) == 1
        changed = next(one for one in kept if one["type"] == "field.changed")
        assert "min_examples=500" in changed["evidence"]["promotion.after"]
        return log

    def check_newcomers(self, log: Sequence[Any], digests: dict[str, str]) -> None:
        """Learn what the records say that newcomers have learned, by River alone."""
        pipeline = load_pipeline(self.files[1])
        source = ModelFactory(pipeline)
        models = {name: source.fresh(pipeline.field, name) for name in pipeline.models}
        begun: dict[str, int] = {}
        spans: dict[str, tuple[int, int]] = {}
        for record in log:
            if dict(record.headers).get("headrace-kind") == b"field":
                for one in json.loads(record.value).get("entering", ()):
                    if one["name"] not in begun:
                        begun[one["name"]] = record.offset
                        spans[one["name"]] = (one.get("learned_from", -1), one.get("learned_to", -1))
        assert spans["bayes"][0] >= 0
        reads = iter(folded(log))
        for record in log:
            if dict(record.headers).get("headrace-kind") == b"claim":
                continue
            read = next(reads)
            if not read.counts or read.record_type != "example":
                continue
            for name, at in begun.items():
                first, last = spans[name]
                if record.offset > at or first <= record.offset < last:
                    models[name].learn_one(read.value["features"], read.value["label"])
        assert {name: digest(models[name]) for name in begun} == {name: digests[name] for name in begun}


def halves(race: Race) -> tuple[Sequence[Message], Sequence[Message]]:
    cut = len(race.messages) // 2
    return race.messages[:cut], race.messages[cut:]


def test_a_restart_with_another_file(kafka: KafkaSettings, tmp_path: Path) -> None:
    asyncio.run(restarted(Race(kafka, tmp_path), tmp_path))


async def restarted(race: Race, folder: Path) -> None:
    await make_topics(race.kafka, race.pipeline)
    before, after = halves(race)
    async with watching(race.kafka, race.predictions, race.examples) as watch:
        with race.worker(0, folder, "first") as first:
            await first.ready()
            await race.publish(watch, before)
            await until(lambda: watch.counted(race.examples) > 100, "examples", worker=first)
            assert await first.stop() == 0, first.said()
        with race.worker(2, folder, "refused") as refused:
            assert await refused.ended() != 0
            assert "`tree` is the champion" in refused.said()
        with race.worker(1, folder, "second") as second:
            await second.ready()
            await race.publish(watch, after[: len(after) // 2])
            await race.decided("candidate.entered", "bayes", second)
            await race.publish(watch, after[len(after) // 2 :])
            await until(lambda: watch.counted(race.examples) >= DEPARTURES, "every example", worker=second)
            await until(
                lambda: second.metrics()["headrace_examples_total"] >= DEPARTURES, "learned", worker=second
            )
            assert await second.stop() == 0, second.said()
    await race.account(second.state_dir)


def test_two_workers_in_a_rolling_restart_and_kills_in_the_middle_of_each(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    asyncio.run(rolled(Race(kafka, tmp_path), tmp_path))


async def rolled(race: Race, folder: Path) -> None:
    await make_topics(race.kafka, race.pipeline)
    before, after = halves(race)
    one, two = race.worker(0, folder, "one"), race.worker(0, folder, "two")
    new_one, new_two = race.worker(1, folder, "new-one"), race.worker(1, folder, "new-two")
    async with watching(race.kafka, race.predictions, race.examples) as watch:
        with one, two:
            await one.ready()
            await two.ready()
            await race.publish(watch, before)
            one.kill()
            with new_one:  # beside an old one that is alive
                publishing = asyncio.create_task(race.publish(watch, after))
                await asyncio.sleep(3.0)
                two.kill()
                await new_one.ready()
                await asyncio.sleep(1.0)
                new_one.kill()  # in the middle of whatever it does
            with new_one, new_two:
                await publishing
                await race.decided("candidate.entered", "bayes", new_one)
                await until(
                    lambda: watch.counted(race.examples) >= DEPARTURES, "every example", worker=new_one
                )
                for worker in (new_one, new_two):
                    await until(
                        lambda w=worker: w.metrics()["headrace_examples_total"] >= DEPARTURES,  # type: ignore[misc]
                        "learned",
                        worker=worker,
                    )
                assert await new_two.stop() == 0, new_two.said()
                assert await new_one.stop() == 0, new_one.said()
    log = await race.account(new_one.state_dir)
    kinds = [dict(record.headers).get("headrace-kind") for record in log]
    fields = [
        json.loads(record.value)["field_id"]
        for record, kind in zip(log, kinds, strict=True)
        if kind == b"field"
    ]
    assert fields == sorted(fields, key=[load_pipeline(file).field.field_id for file in race.files[:2]].index)
