"""Members of a group that come, go and come back: what moves, what stays, and who waits for its turn."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from reading import Watch, claims_of, counting, read_topic, watching
from running import Message, fresh_name, in_process, make_topics, publish, until, write_pipeline
from structlog.testing import capture_logs

from engine.definition.file import load_pipeline
from engine.definition.pipeline import Pipeline
from engine.settings import KafkaSettings, Settings
from engine.worker.loop import Worker

pytestmark = pytest.mark.kafka

SOURCE = """
    from msgspec import Struct
    from river import linear_model

    from engine import Labels, Pipeline, Topic
    from operators import by, field


    class Reading(Struct):
        event_id: str
        event_time: int
        sensor: str
        value: float


    pipeline = Pipeline(
        name="NAME",
        events=Topic("NAME.readings", Reading, key="sensor", partitions=2),
        labels=Labels("NAME.hot", wait="1h"),
        features={"value": field("value"), "sum": by("sensor").sum("value", "1h")},
        models={"linear": linear_model.LogisticRegression()},
    )
"""
START = 1_700_000_000_000
SENSORS = [f"s{number}" for number in range(8)]
LONG_MS = 60_000
"""Longer than a restart takes anywhere, and than a busy machine lets a member wait for its processor."""
PATIENT = {"session_timeout_ms": LONG_MS, "request_timeout_ms": LONG_MS, "rebalance_timeout_ms": LONG_MS}
"""Who ends says goodbye: nobody waits for the end of a session, and none ends by itself."""


class Group:
    """A pipeline of two partitions, and the workers of this process that answer it."""

    def __init__(self, kafka: KafkaSettings, folder: Path) -> None:
        self.kafka, self.folder = kafka, folder
        file = write_pipeline(folder, SOURCE, name=fresh_name("members"))
        self.pipeline: Pipeline = load_pipeline(file)
        self.predictions = self.pipeline.catalog["predictions"]
        self.sums: Counter[str] = Counter()
        """The sum of each event's window, by event id."""
        self._sums: Counter[str] = Counter()

    @asynccontextmanager
    async def member(self, **kafka: object) -> AsyncIterator[Worker]:
        settings = Settings(
            kafka=self.kafka.model_copy(update=kafka), state_dir=self.folder, checkpoint_interval_ms=200
        )
        async with in_process(self.pipeline, settings) as (worker, _):
            yield worker

    async def ask(self, watch: Watch, count: int = 40) -> None:
        """Publish events of every sensor and wait for their answers."""
        first = len(self.sums)
        messages = []
        for number in range(first, first + count):
            sensor = SENSORS[number % len(SENSORS)]
            self._sums[sensor] += number
            self.sums[f"r{number}"] = self._sums[sensor]
            reading = {
                "event_id": f"r{number}",
                "event_time": START + number,
                "sensor": sensor,
                "value": number,
            }
            value = json.dumps(reading).encode()
            messages.append(Message(self.pipeline.events.name, START + number, sensor.encode(), value))
        await publish(self.kafka, messages)
        await until(lambda: watch.counted(self.predictions) >= len(self.sums), "answers")

    async def account(self) -> list[object]:
        """Check that every event was answered once, with all events of its sensor before it."""
        log = await read_topic(self.kafka, self.predictions)
        answers = counting(log)
        assert {name: one["features"]["sum"] for name, one in answers.items()} == self.sums
        return list(log)


def held(worker: Worker) -> list[int]:
    return [] if worker.not_ready() else sorted(worker.partitions.owned)


async def shared(*workers: Worker) -> None:
    """Wait until the workers have both partitions among them, at most one each where there are several."""

    def settled() -> bool:
        each = [held(worker) for worker in workers]
        return sorted(number for one in each for number in one) == [0, 1] and (
            len(each) == 1 or max(map(len, each)) == 1
        )

    await until(settled, f"two partitions among {len(workers)}")


def kept(worker: Worker) -> int:
    return worker.metrics.counts["takeovers", "kept"]


def test_partitions_that_come_back_are_kept_and_a_standby_takes_its_turn(
    kafka: KafkaSettings, tmp_path: Path
) -> None:
    async def scenario() -> None:
        group = Group(kafka, tmp_path)
        await make_topics(kafka, group.pipeline)
        async with watching(kafka, group.predictions) as watch, AsyncExitStack() as standing:
            async with group.member(**PATIENT) as first:
                await shared(first)
                await group.ask(watch)
                second = await standing.enter_async_context(group.member(**PATIENT))
                await shared(first, second)
                assert (kept(first), kept(second)) == (1, 0), "what stayed with the first was restored anew"
                (stayed,) = held(first)
                await group.ask(watch)
                third = await standing.enter_async_context(group.member(**PATIENT))
                workers = (first, second, third)
                await shared(*workers)
                (idle,) = (worker for worker in workers if not held(worker))
                assert not idle.not_ready()
                assert "standby" in idle.standing()
                assert [worker.standing() for worker in workers if worker is not idle] == ["ok", "ok"]
                await group.ask(watch)
            # The first is gone as in a crash: what it had saved last is what the others find.
            await shared(second, third)
            await group.ask(watch)
        log = await group.account()
        claims = [claims_of([one for one in log if one.partition == number], number) for number in (0, 1)]
        assert claims[stayed][0] == 1
        assert all(numbers == sorted(numbers) for numbers in claims)

    asyncio.run(scenario())


def test_a_rolling_restart_of_static_members_moves_nothing(kafka: KafkaSettings, tmp_path: Path) -> None:
    async def scenario() -> None:
        group = Group(kafka, tmp_path)
        await make_topics(kafka, group.pipeline)
        names = ("pod-0", "pod-1")
        members = [{"group_instance_id": name, **PATIENT} for name in names]
        async with watching(kafka, group.predictions) as watch:
            stacks = [AsyncExitStack() for _ in names]
            workers = [
                await stack.enter_async_context(group.member(**member))
                for stack, member in zip(stacks, members, strict=True)
            ]
            await shared(*workers)
            await group.ask(watch)
            before = [held(worker) for worker in workers]
            with capture_logs() as lines:
                for number, stack in enumerate(stacks):
                    workers[number].stop()
                    await until(lambda w=workers[number]: w.not_ready(), "stopped")  # type: ignore[misc]
                    await stack.aclose()
                    workers[number] = await stack.enter_async_context(group.member(**members[number]))
                    await until(lambda w=workers[number]: held(w), "its partition again")  # type: ignore[misc]
                    await group.ask(watch)
            assert [held(worker) for worker in workers] == before
            assert [
                line["partitions"] for line in lines if line["event"] == "partitions taken over"
            ] == before
            assert not [line for line in lines if line["event"] == "partitions revoked"]
            for stack in stacks:
                await stack.aclose()
        await group.account()

    asyncio.run(scenario())
