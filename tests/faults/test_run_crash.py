"""Workers that are killed, frozen and replaced: nothing lost, nothing learned twice."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fault_runs.account import account
from reading import Watch, claims_of, folded, folded_digests, read_topic, saved_digests, watching
from running import Message, Worker, flights, fresh_name, make_topics, publish, until, write_pipeline

from engine.definition.file import load_pipeline
from engine.definition.pipeline import Pipeline
from engine.settings import KafkaSettings

pytestmark = pytest.mark.kafka

SOURCE = """
    import time

    from msgspec import Struct
    from river import linear_model, naive_bayes, preprocessing, tree

    from engine import Labels, Pipeline, Topic
    from operators import by, field, label


    class Departure(Struct):
        event_id: str
        event_time: int
        carrier: str
        origin: str
        dest: str
        distance: float


    class Slow(naive_bayes.GaussianNB):
        def predict_proba_one(self, x):
            time.sleep(0.004)
            return super().predict_proba_one(x)


    pipeline = Pipeline(
        name="NAME",
        events=Topic("NAME.departures", Departure, key="origin", partitions=PARTITIONS),
        labels=Labels("NAME.arrivals", wait="36h"),
        features={
            "distance": field("distance"),
            "hour": field("event_time").hour(),
            "origin_6h": by("origin").count("6h"),
            "route_mean": by("origin", "dest").mean("distance", "2d"),
            "origin_late_3h": by("origin").mean(label, "3h").default(0.0),
            "carrier_landed_12h": by("origin", "carrier").count(label, "12h"),
        },
        models={
            "tree": tree.HoeffdingTreeClassifier(grace_period=100),
            "linear": preprocessing.StandardScaler() | linear_model.LogisticRegression(),
            SLOW
        },
        champion="tree",
        OPTIONS
    )
"""
DEPARTURES, FEWER = 2_000, 1_500
BUSIEST = 1
"""Of two partitions, the one with two of the three origins."""
FREEZES_MAX = 4
AHEAD_MAX = 400
"""Published and not answered: enough for a kill to hit work, too little for a label to miss its wait."""


class Stream:
    """One pipeline's topics, and the flights that pass through them."""

    def __init__(
        self,
        kafka: KafkaSettings,
        folder: Path,
        *,
        partitions: int,
        departures: int,
        slow: bool = False,
        options: str = "",
    ) -> None:
        self.kafka = kafka
        name = fresh_name("crash")
        source = SOURCE.replace("PARTITIONS", str(partitions)).replace("OPTIONS", options)
        source = source.replace("SLOW", '"slow": Slow(),' if slow else "")
        self.file = write_pipeline(folder, source, name=name)
        self.pipeline: Pipeline = load_pipeline(self.file)
        self.predictions = self.pipeline.catalog["predictions"]
        self.examples = self.pipeline.catalog["examples"]
        self.messages: Sequence[Message] = flights(
            self.pipeline.events.name, self.pipeline.labels.topic or "", departures=departures
        )
        self.departures = departures
        self.shared: dict[str, str] = {}
        """Settings of a store that all workers share; empty: they share a directory."""
        self._sent = 0
        """Events that were published in parts, or are."""

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings of its workers."""
        return {"checkpoint_interval_ms": 700, **self.shared}

    def parts(self) -> tuple[Sequence[Message], Sequence[Message]]:
        """Return all messages but the last, and these: kept back until the harm is done, at any speed."""
        cut = len(self.messages) * 9 // 10
        return self.messages[:cut], self.messages[cut:]

    async def publish(self, watch: Watch, messages: Sequence[Message] | None = None) -> None:
        """Publish while answers follow; parts are published in their order."""
        messages = self.messages if messages is None else messages
        sent = [self._sent]
        for message in messages:
            sent.append(sent[-1] + (message.topic == self.pipeline.events.name))

        async def pace(published: int) -> None:
            await until(
                lambda: self.answered(watch) >= sent[published] - AHEAD_MAX, f"answers to {sent[published]}"
            )

        self._sent = sent[-1]
        await publish(self.kafka, messages, pace=pace)

    def answered(self, watch: Watch) -> int:
        """Return how many events were answered, however often."""
        return watch.answered(self.predictions)

    async def reached(self, watch: Watch, answers: int, worker: Worker) -> None:
        """Wait until so many events were answered."""
        await until(lambda: self.answered(watch) > answers, f"{answers} answers", worker=worker)

    async def finished(self, watch: Watch, worker: Worker) -> None:
        """Wait until every label has become an example, and all of them are learned."""
        count = self.departures
        await until(lambda: watch.counted(self.examples) >= count, "every example", worker=worker)
        await until(lambda: worker.metrics()["headrace_examples_total"] >= count, "learned", worker=worker)

    async def account(self, state_dir: Path) -> tuple[list[Any], list[Any]]:
        """Check what must hold after any failures, the saved models too; return both logs."""
        answers_log, examples_log = await self.exactly_once()
        digests, learned = await saved_digests(self.file, state_dir, **self.shared)
        assert (digests, learned) == folded_digests(self.file, examples_log)
        assert learned == self.departures
        return answers_log, examples_log

    async def exactly_once(self) -> tuple[list[Any], list[Any]]:
        """Check that every event was answered and learned once, as served; return both logs.

        A killed Kafka forgets producers by the times of their records (`producer.id.expiration.ms`), and
        flights are of 2013: what a publisher sends again can lie in the events topic twice.
        """
        events = await read_topic(self.kafka, self.pipeline.events.name)
        answers_log = await read_topic(self.kafka, self.predictions)
        examples_log = await read_topic(self.kafka, self.examples)
        counted = account(events, answers_log, examples_log)
        asked = {json.loads(m.value or b"")["event_id"] for m in self.messages}
        assert counted.answers.keys() == counted.lessons.keys() == asked
        return answers_log, examples_log


def test_three_kills_in_one_run(kafka: KafkaSettings, tmp_path: Path) -> None:
    asyncio.run(three_kills(Stream(kafka, tmp_path, partitions=1, departures=DEPARTURES), tmp_path))


async def three_kills(stream: Stream, folder: Path) -> None:
    await make_topics(stream.kafka, stream.pipeline)
    worker = Worker(stream.file, stream.kafka, folder, checkpoint_interval_ms=700)
    suppressed: list[int] = []
    most, rest = stream.parts()
    logs = []
    async with watching(stream.kafka, stream.predictions, stream.examples) as watch:
        publishing = asyncio.create_task(stream.publish(watch, most))
        for kill in range(1, 4):
            with worker:
                await stream.reached(watch, kill * stream.departures // 5, worker)
                suppressed += [line["logged_since"] for line in worker.logged("partition claimed")]
                worker.kill()
                logs.append(worker.log)
        with worker:
            await worker.ready()
            suppressed += [line["logged_since"] for line in worker.logged("partition claimed")]
            await publishing
            await stream.publish(watch, rest)
            await stream.finished(watch, worker)
            assert await worker.stop() == 0, worker.said()
            logs.append(worker.log)
    answers_log, examples_log = await stream.account(worker.state_dir)
    claims = claims_of(answers_log)
    assert claims == claims_of(examples_log) == sorted(set(claims))
    # Each start claims, and a worker that got no processor for longer than its session, once more.
    moved = sum(len(worker.logged("partitions revoked", log=one)) for one in logs)
    assert 4 <= len(claims) <= 4 + moved
    assert suppressed[0] == 0
    assert max(suppressed) > 0, "no restart found anything to leave out"
    updates = [read.value["model_updates"] for read in folded(answers_log) if read.counts]
    assert updates == sorted(updates), "a restart went back to older models"


def test_the_other_worker_takes_over(kafka: KafkaSettings, tmp_path: Path) -> None:
    stream = Stream(kafka, tmp_path, partitions=2, departures=DEPARTURES)
    asyncio.run(one_of_two(stream, *pair(stream, tmp_path)))


async def one_of_two(stream: Stream, one: Worker, two: Worker) -> None:
    await make_topics(stream.kafka, stream.pipeline)
    workers = (one, two)
    async with watching(stream.kafka, stream.predictions, stream.examples) as watch:
        with one, two:
            await shared_out(one, two)
            leader, other = sorted(workers, key=leads, reverse=True)
            assert (leads(leader), leads(other)) == (True, False)
            most, rest = stream.parts()
            publishing = asyncio.create_task(stream.publish(watch, most))
            await stream.reached(watch, stream.departures // 3, other)
            leader.kill()
            await until(
                lambda: other.metrics()["headrace_partitions"] == 2,
                "both partitions taken over",
                worker=other,
            )
            await publishing
            await stream.publish(watch, rest)
            await stream.finished(watch, other)
            assert await other.stop() == 0, other.said()
    answers_log, examples_log = await stream.account(other.state_dir)
    for source in (0, 1):
        claims = claims_of(examples_log, source)
        assert claims == claims_of([r for r in answers_log if r.partition == source], source)
        # Partition 0 was the leader's; the other is kept by its owner, where the group moves quickly.
        assert len(claims) >= 2 - source
    partitions = {r.partition for r in answers_log}
    assert partitions == {0, 1}, "all keys on one partition: nothing is shared out"


def leads(worker: Worker) -> bool:
    return 0 in holds(worker)


def pair(stream: Stream, folder: Path) -> tuple[Worker, Worker]:
    """Return two workers of one machine, not started yet."""
    one, two = (
        Worker(stream.file, stream.kafka, folder, name=name, **stream.settings) for name in ("one", "two")
    )
    return one, two


async def takes_all(worker: Worker) -> None:
    await until(lambda: worker.metrics()["headrace_partitions"] == 2, "both partitions", worker=worker)


async def shared_out(one: Worker, two: Worker) -> None:
    """Wait until each holds one partition."""
    for worker in (one, two):
        await until(
            lambda w=worker: w.get("/readyz")[0] == 200 and w.metrics()["headrace_partitions"] == 1,  # type: ignore[misc]
            "one partition each",
            worker=worker,
        )


def test_a_zombie_does_not_count(kafka: KafkaSettings, tmp_path: Path) -> None:
    stream = Stream(kafka, tmp_path, partitions=2, departures=FEWER, slow=True)
    asyncio.run(zombie(stream, tmp_path))


async def zombie(stream: Stream, folder: Path) -> None:
    """A worker is stopped in mid-work until the other has its partitions, and wakes up again.

    One model is slow, so there is work left when its first answer is seen, at any speed.  Whether it has
    anything left to write then is a matter of moments all the same: so it may happen more than once.
    """
    await make_topics(stream.kafka, stream.pipeline)
    workers = pair(stream, folder)
    share = -(-len(stream.messages) // FREEZES_MAX)
    async with watching(stream.kafka, stream.predictions, stream.examples) as watch:
        with workers[0], workers[1]:
            await shared_out(*workers)
            for start in range(0, len(stream.messages), share):
                answered = watch.places[stream.predictions, BUSIEST]
                part = stream.messages[start : start + share]
                publishing = asyncio.create_task(publish(stream.kafka, part))
                if not watch.dropped:
                    awake, asleep = sorted(workers, key=lambda worker: BUSIEST in holds(worker))
                    await until(
                        lambda before=answered: watch.places[stream.predictions, BUSIEST] > before,  # type: ignore[misc]
                        "work",
                        worker=asleep,
                    )
                    await asleep.freeze()
                    await takes_all(awake)
                    asleep.send(signal.SIGCONT)
                    await shared_out(*workers)
                await publishing
            await stream.finished(watch, workers[0])
            codes = [await worker.stop() for worker in workers]
            assert codes == [0, 0], "".join(worker.said() for worker in workers)
    assert watch.dropped, "the zombie wrote nothing that had to be left out"
    await stream.account(workers[0].state_dir)


def holds(worker: Worker) -> list[int]:
    partitions: list[int] = worker.logged("partitions taken over")[-1]["partitions"]
    return partitions
