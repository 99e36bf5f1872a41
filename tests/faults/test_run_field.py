"""A file that changes the field of a running race: nothing lost or learned twice, all of it on record."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from reading import Watch, counting, decoded, folded, folded_digests, read_topic, saved_digests, watching
from running import (
    DEADLINE_S,
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
from engine.settings import KafkaSettings, Settings
from engine.worker.assembly import signing_keys
from engine.worker.model_factory import ModelFactory
from operators.models.artefacts import dump
from operators.models.digest import digest

pytestmark = pytest.mark.kafka

SOURCE = """
    import os
    import time

    from msgspec import Struct
    from river import linear_model, naive_bayes, optim, preprocessing, tree

    from engine import Labels, Pipeline, Promotion, Topic
    from operators import by, field
    from operators.race.candidates import Artefact, Candidate


    class Departure(Struct):
        event_id: str
        event_time: int
        carrier: str
        origin: str
        dest: str
        distance: float


    class Patient(naive_bayes.GaussianNB):
        def learn_one(self, x, y):
            time.sleep(float(os.environ.get("LESSON_S", "0")))
            super().learn_one(x, y)


    class Brittle(naive_bayes.GaussianNB):
        def __init__(self):
            super().__init__()
            self.lessons = 0

        def learn_one(self, x, y):
            self.lessons += 1
            if self.lessons > LESSONS:
                raise ArithmeticError("enough")


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
        promotion=Promotion(fresh_challengers_max=0, PROMOTION),
    )
"""
TREE = '"tree": tree.HoeffdingTreeClassifier(grace_period=100)'
FIRST = SOURCE.replace("MODELS", f'{TREE}, "linear": linear(0.01)').replace("PROMOTION", "")
NEWCOMERS = (
    '"linear": linear(0.05)',
    '"bayes": Candidate(Patient(), start="log")',
    '"recent": Candidate(naive_bayes.GaussianNB(), start="12h")',
    '"copy": Candidate(start="champion")',
    '"brought": Candidate(linear(0.01), start=Artefact("PATH"))',
    '"brittle": Candidate(Brittle(), start="log")',
)
ENTERING = ("linear", "bayes", "recent", "copy", "brought")
LESSONS = 300
"""Lessons until one fails: more than a trial gives, fewer than the log has."""
SECOND = SOURCE.replace("MODELS", ", ".join([TREE, *NEWCOMERS])).replace("PROMOTION", "min_examples=500")
WITHOUT_CHAMPION = SOURCE.replace("MODELS", '"linear": linear(0.01)').replace("PROMOTION", "")
WITHOUT_CHAMPION = WITHOUT_CHAMPION.replace('champion="tree",', "")
DEPARTURES = 2_000
AHEAD_MAX = 300
SPAN_MS = 12 * 3_600_000
ELSEWHERE = 200
"""Departures from which a model was learned elsewhere."""


class Race:
    """One pipeline's topics, its two files, and the flights that pass through."""

    def __init__(self, kafka: KafkaSettings, folder: Path) -> None:
        self.kafka = kafka
        name = fresh_name("field")
        self.files = []
        self.artefact = folder / "brought.model"
        for number, source in enumerate((FIRST, SECOND, WITHOUT_CHAMPION)):
            place = folder / str(number)
            place.mkdir()
            text = source.replace("PATH", str(self.artefact)).replace("LESSONS", str(LESSONS))
            self.files.append(write_pipeline(place, text, name=name))
        key = signing_keys(Settings(state_dir=folder / "state"))
        self.artefact.write_bytes(dump(self.learned_elsewhere(), keys=key, meta={"updates": ELSEWHERE}))
        self.pipeline = load_pipeline(self.files[0])
        self.messages = flights(
            self.pipeline.events.name, self.pipeline.labels.topic or "", departures=DEPARTURES
        )
        catalog = self.pipeline.catalog
        self.predictions, self.examples = catalog["predictions"], catalog["examples"]
        self.decisions = catalog["decisions"]

    def learned_elsewhere(self) -> Any:
        """Return the model that the second file brings, as it enters."""
        second = load_pipeline(self.files[1])
        model = ModelFactory(second).fresh(second.field, "brought")
        rows = [json.loads(m.value or b"") for m in flights("events", "labels", departures=ELSEWHERE)]
        late = {row["event_id"]: row["label"] for row in rows if "label" in row}
        for row in rows:
            if "distance" in row:
                x = {"distance": row["distance"], "hour": row["event_time"] // 3_600_000 % 24, "origin_6h": 1}
                model.learn_one(x, late[row["event_id"]])
        return model

    def worker(self, file: int, folder: Path, name: str, **settings: object) -> Worker:
        settings |= {"checkpoint_interval_ms": 500}
        return Worker(self.files[file], self.kafka, folder, name=name, **settings)

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
        ends_s = time.monotonic() + DEADLINE_S
        while time.monotonic() < ends_s:
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
        assert ("field.changed", "tree") in on_record
        once = [("candidate.retired", "linear"), *(("candidate.entered", name) for name in ENTERING)]
        for what in (*once, ("candidate.refused", "brittle")):
            assert on_record.count(what) == 1, (what, on_record)
        refused = next(one for one in kept if one["type"] == "candidate.refused")
        assert refused["reason"].startswith("ArithmeticError: enough, at the lesson of offset")
        assert [one["refused"].keys() for _, one in field_records(log) if "refused" in one] == [{"brittle"}]
        changed = next(one for one in kept if one["type"] == "field.changed")
        assert "min_examples=500" in changed["evidence"]["promotion.after"]
        return log

    def check_newcomers(self, log: Sequence[Any], digests: dict[str, str]) -> None:
        """Learn what the records say that newcomers have learned, by River alone."""
        pipeline = load_pipeline(self.files[1])
        source = ModelFactory(pipeline)
        models = {name: source.fresh(pipeline.field, name) for name in ("tree", "linear", "bayes", "recent")}
        models["brought"] = self.learned_elsewhere()
        begun: dict[str, int] = {"tree": -1}
        spans: dict[str, tuple[int, int]] = {"tree": (-1, -1)}
        for offset, change in field_records(log):
            for one in change.get("entering", ()):
                if one["name"] not in begun:
                    begun[one["name"]] = offset
                    spans[one["name"]] = (one.get("learned_from", -1), one.get("learned_to", -1))
        assert begun.keys() == {"tree", *ENTERING}
        assert 0 <= spans["bayes"][0] < spans["recent"][0] < spans["recent"][1]
        assert begun.pop("copy") == begun["linear"]
        reads = iter(folded(log))
        label_times: dict[int, int] = {}
        for record in log:
            if dict(record.headers).get("headrace-kind") == b"claim":
                continue
            read = next(reads)
            if not read.counts or read.record_type != "example":
                continue
            label_times[record.offset] = read.value["label_time"]
            for name, at in begun.items():
                first, last = spans[name]
                if record.offset > at or first <= record.offset < last:
                    models[name].learn_one(read.value["features"], read.value["label"])
        models["copy"] = models["tree"]
        assert {name: digest(model) for name, model in models.items()} == digests
        first = spans["recent"][0]
        asked, entered = (
            max(time for offset, time in label_times.items() if offset < begun[name]) - SPAN_MS
            for name in ("linear", "recent")
        )
        assert asked <= label_times[first]
        assert all(time < entered for offset, time in label_times.items() if offset < first)


def field_records(log: Sequence[Any]) -> list[tuple[int, dict[str, Any]]]:
    """Return the changes of the field in a log, with their offsets."""
    return [
        (record.offset, json.loads(record.value))
        for record in log
        if dict(record.headers).get("headrace-kind") == b"field"
    ]


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
            refused_one = "headrace_candidates_refused_total{brittle}"
            await until(lambda: second.metrics()[refused_one] == 1, "brittle refused", worker=second)
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
    # The group gives partition 0, and with it the lead, to the first by name.
    one, two = (race.worker(0, folder, name, kafka__client_id=f"b-{name}") for name in ("one", "two"))
    slow = race.worker(1, folder, "slow", kafka__client_id="a-slow").given(LESSON_S="0.005")
    new_one, new_two = race.worker(1, folder, "new-one"), race.worker(1, folder, "new-two")
    async with watching(race.kafka, race.predictions, race.examples) as watch:
        with one, two:
            await one.ready()
            await two.ready()
            await race.publish(watch, before)
            one.kill()
            publishing = asyncio.create_task(race.publish(watch, after))
            with slow:  # beside an old one that is alive
                await until(lambda: 0 < learned_share(slow) < 1, "a part of the log", worker=slow)
                assert two.process is not None
                assert two.process.poll() is None, two.said()
                slow.kill()
            race.artefact.unlink()  # who comes later has it from the record
            at_the_kill = [change for _, change in field_records(await read_topic(race.kafka, race.examples))]
            assert at_the_kill[-1]["field_id"] == load_pipeline(race.files[1]).field.field_id
            assert "bayes" not in {e["name"] for change in at_the_kill for e in change.get("entering", ())}
            # The old one has none of these models in its file.
            await race.decided("candidate.entered", "bayes", two)
            shown = [name for name in two.metrics() if name.startswith("headrace_model_updates{")]
            assert sorted(shown) == sorted(
                f"headrace_model_updates{{{name}}}" for name in ("tree", *ENTERING)
            )
            two.kill()
            with new_one, new_two:
                await publishing
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
    fields = [change["field_id"] for _, change in field_records(log)]
    assert fields == sorted(fields, key=[load_pipeline(file).field.field_id for file in race.files[:2]].index)


def learned_share(worker: Worker) -> float:
    """Return how much of the log the newcomer has learned that waits; 0 where none does."""
    return worker.metrics()["headrace_candidate_log_share{bayes}"]
