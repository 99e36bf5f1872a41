"""Checkpoints written beside the loop: a crash, a fence, a stop and a failure while one is on its way.

A worker runs in this process, and its checkpoint waits at a gate between capture and disk.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from reading import Watch, claims_of, counting, folded_digests, read_topic, saved_digests, watching
from running import fresh_name, in_process, make_topics, publish, until, write_pipeline
from test_run_ends import SOURCE, readings

from engine.definition.file import load_pipeline
from engine.definition.pipeline import Pipeline
from engine.metrics import Metrics
from engine.settings import KafkaSettings, Settings
from engine.stores.sqlite_checkpoints import SqliteCheckpoints
from engine.worker import checkpointing
from engine.worker.header import ScorerMeta, header_of
from engine.worker.loop import Worker
from topics.errors import CheckpointError, StoreUnavailableError

Save = Callable[[int, bytes, Mapping[str, bytes | None]], Awaitable[None]]
FIRST, SECOND = 300, 700


class Gate:
    """Stands before every write of a checkpoint store."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self._events = 0
        self.reached = asyncio.Event()
        """A save waits, or has."""
        self.failure: Exception | None = None

    def shut(self, *, events: int = 0) -> None:
        """Hold up what comes, from the first scorer's checkpoint on that has seen so many events."""
        self._events = events
        self._open.clear()
        self.reached.clear()

    def open(self) -> None:
        self._open.set()

    def let_one_pass(self) -> None:
        self._open.set()
        self._open.clear()

    async def before(self, save: Save, claim: int, meta: bytes, delta: Mapping[str, bytes | None]) -> None:
        position = delta.get("position")
        if position is not None and json.loads(position)["events"] >= self._events:
            self._events = 0
        if not self._events:
            self.reached.set()
            await self._open.wait()
        if self.failure is not None:
            raise self.failure
        await save(claim, meta, delta)


class Scene:
    """One pipeline, its topics, and workers over one state directory."""

    def __init__(self, kafka: KafkaSettings, folder: Path, gate: Gate) -> None:
        self.file = write_pipeline(folder, SOURCE, name=fresh_name("beside"))
        self.pipeline: Pipeline = load_pipeline(self.file)
        self.settings = Settings(kafka=kafka, state_dir=folder / "state", checkpoint_interval_ms=100)
        self.kafka, self.gate = kafka, gate
        self.predictions = self.pipeline.catalog["predictions"]
        self.messages = readings(self.pipeline, FIRST + SECOND)

    def worker(self) -> AbstractAsyncContextManager[tuple[Worker, asyncio.Task[None]]]:
        return in_process(self.pipeline, self.settings)

    async def answered(self, watch: Watch, count: int) -> None:
        await until(lambda: watch.counted(self.predictions) >= count, f"{count} answers")

    async def publish(self, start: int, stop: int) -> None:
        await publish(self.kafka, self.messages[start:stop])

    async def saved(self) -> int:
        """Return how many events the stored checkpoint has seen."""
        store = SqliteCheckpoints(self.settings.state_dir, self.pipeline.name, "scorer", 0)
        found = await store.load()
        await store.close()
        if found is None:
            return 0
        assert msgspec.json.decode(found.meta, type=ScorerMeta).logs
        events: int = json.loads(found.entries["position"])["events"]
        return events

    async def account(self, *, claims: list[int]) -> None:
        """Check that every event was answered and learned exactly once."""
        answers_log = await read_topic(self.kafka, self.predictions)
        examples_log = await read_topic(self.kafka, self.pipeline.catalog["examples"])
        asked = {json.loads(message.value or b"")["event_id"] for message in self.messages}
        assert counting(answers_log).keys() == counting(examples_log, "example").keys() == asked
        assert claims_of(answers_log) == claims_of(examples_log) == claims
        digests, learned = await saved_digests(self.file, self.settings.state_dir)
        assert (digests, learned) == folded_digests(self.file, examples_log)
        assert learned == len(self.messages)


@pytest.fixture
def play(
    tansu: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[Scene, Watch], Awaitable[None]]], None]:
    """Return what runs a scenario: with the gate in every store's way, and some events saved already."""

    def play(scenario: Callable[[Scene, Watch], Awaitable[None]]) -> None:
        async def run() -> None:
            gate = Gate()
            save = SqliteCheckpoints.save

            async def gated(store: SqliteCheckpoints, *what: Any) -> None:
                await gate.before(lambda *given: save(store, *given), *what)

            monkeypatch.setattr(SqliteCheckpoints, "save", gated)
            scene = Scene(tansu, tmp_path, gate)
            await make_topics(tansu, scene.pipeline)
            async with watching(tansu, scene.predictions) as watch:
                await scenario(scene, watch)

        asyncio.run(run())

    return play


Play = Callable[[Callable[[Scene, Watch], Awaitable[None]]], None]


async def held_up(scene: Scene, watch: Watch) -> None:
    """Publish all; when this returns, a checkpoint of the first events waits, and all are answered."""
    await scene.publish(0, FIRST)
    await until_saved(scene, FIRST)
    scene.gate.shut()
    await scene.gate.reached.wait()
    await scene.publish(FIRST, FIRST + SECOND)
    await scene.answered(watch, FIRST + SECOND)
    assert await scene.saved() == FIRST


async def until_saved(scene: Scene, events: int) -> None:
    """Wait until the stored checkpoint has seen so many events."""
    await until(lambda: asyncio.run(scene.saved()) >= events, f"{events} events saved")


async def finished(scene: Scene) -> None:
    """Let a worker leave in peace."""
    async with scene.worker() as (worker, running):
        worker.stop()
        await running


def test_a_worker_is_not_ready_and_can_be_scraped_while_it_takes_over_and_after_it_has_left(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(scene: Scene, watch: Watch) -> None:
        async with scene.worker() as (worker, running):
            await scene.publish(0, FIRST)
            await scene.answered(watch, FIRST)
            opened, reasons = worker._opened, []

            async def scraped(positions: Any) -> bool:
                worker.status()
                reasons.append(worker.not_ready())
                return await opened(positions)

            monkeypatch.setattr(worker, "_opened", scraped)
            async with worker._turn:
                # A member that holds nothing has nothing revoked before it is assigned.
                worker.partitions.owned.clear()
                await worker._source._assigned(worker._source._consumer.assignment())
            await until(lambda: running.done() or (reasons and not worker.not_ready()), "taken over")
            worker.stop()
            await running
            worker.status()
            assert all([*reasons, worker.not_ready()])

    play(scenario)


def test_the_loop_answers_while_a_checkpoint_is_written(play: Play) -> None:
    async def scenario(scene: Scene, watch: Watch) -> None:
        async with scene.worker() as (worker, running):
            await held_up(scene, watch)
            scene.gate.open()
            await until_saved(scene, FIRST + SECOND)
            worker.stop()
            await running
        await scene.account(claims=[1])

    play(scenario)


def test_a_crash_between_capture_and_write_loses_nothing(play: Play) -> None:
    async def scenario(scene: Scene, watch: Watch) -> None:
        async with scene.worker():
            await held_up(scene, watch)
        scene.gate.open()
        assert await scene.saved() == FIRST
        await finished(scene)
        await scene.account(claims=[1, 2])

    play(scenario)


def test_a_crash_after_the_write_finds_what_was_answered_since_the_capture(play: Play) -> None:
    """The checkpoint holds less than the log: the rest is used again, not sent again."""

    async def scenario(scene: Scene, watch: Watch) -> None:
        async with scene.worker():
            scene.gate.shut(events=FIRST)
            await scene.publish(0, FIRST)
            await scene.gate.reached.wait()
            await scene.publish(FIRST, FIRST + SECOND)
            await scene.answered(watch, FIRST + SECOND)
            scene.gate.let_one_pass()  # the scorer's; the learner's is not written
            await until_saved(scene, FIRST)
        scene.gate.open()
        assert await scene.saved() == FIRST
        await finished(scene)
        await scene.account(claims=[1, 2])

    play(scenario)


def test_a_fence_found_beside_the_loop_ends_the_owner_and_it_claims_again(play: Play) -> None:
    async def scenario(scene: Scene, watch: Watch) -> None:
        async with scene.worker() as (worker, running):
            await held_up(scene, watch)
            rival = SqliteCheckpoints(scene.settings.state_dir, scene.pipeline.name, "scorer", 0)
            assert await rival.fence() == 2
            await rival.close()
            scene.gate.open()
            await until_saved(scene, FIRST + SECOND)
            worker.stop()
            await running
        await scene.account(claims=[1, 3])

    play(scenario)


def test_a_stop_waits_for_the_checkpoint_in_flight_and_saves_the_rest(play: Play) -> None:
    async def scenario(scene: Scene, watch: Watch) -> None:
        async with scene.worker() as (worker, running):
            await held_up(scene, watch)
            worker.stop()
            done, _ = await asyncio.wait({running}, timeout=0.2)
            assert not done
            scene.gate.open()
            await running
            assert await scene.saved() == FIRST + SECOND
        await scene.account(claims=[1])

    play(scenario)


def test_what_cannot_be_written_ends_the_worker(play: Play) -> None:
    """A captured delta is in no later one: going on would leave a hole."""

    async def scenario(scene: Scene, watch: Watch) -> None:
        async with scene.worker() as (_, running):
            await held_up(scene, watch)
            scene.gate.failure = CheckpointError("the disk is full", hint="make room")
            scene.gate.open()
            with pytest.raises(CheckpointError, match="the disk is full"):
                await running
        scene.gate.failure = None
        assert await scene.saved() == FIRST
        await finished(scene)
        await scene.account(claims=[1, 2])

    play(scenario)


UNAVAILABLE = StoreUnavailableError("the store is away", hint="bring it back")


def test_a_store_that_is_away_holds_no_answer_up_and_gets_its_checkpoint_later(play: Play) -> None:
    async def scenario(scene: Scene, watch: Watch) -> None:
        async with scene.worker() as (worker, running):
            await scene.publish(0, FIRST)
            await until_saved(scene, FIRST)
            scene.gate.failure = UNAVAILABLE
            await scene.publish(FIRST, FIRST + SECOND)
            await scene.answered(watch, FIRST + SECOND)
            await until(lambda: running.done() or worker.status().store_outage_s, "an outage")
            assert worker.status().unsaved >= SECOND // 2
            scene.gate.failure = None
            await until_saved(scene, FIRST + SECOND)
            await until(lambda: running.done() or not worker.status().store_outage_s, "its end")
            worker.stop()
            await running
            assert worker.status().unsaved == 0
        await scene.account(claims=[1])

    play(scenario)


def test_a_stop_gives_a_store_that_stays_away_up_and_loses_nothing(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpointing, "PATIENCE_S", 0.5)

    async def scenario(scene: Scene, watch: Watch) -> None:
        async with scene.worker() as (worker, running):
            await scene.publish(0, FIRST)
            await until_saved(scene, FIRST)
            scene.gate.failure = UNAVAILABLE
            await scene.publish(FIRST, FIRST + SECOND)
            await scene.answered(watch, FIRST + SECOND)
            worker.stop()
            with pytest.raises(StoreUnavailableError, match="could not be used for"):
                await running
        scene.gate.failure = None
        assert await scene.saved() == FIRST
        await finished(scene)
        await scene.account(claims=[1, 2])

    play(scenario)


def test_partitions_are_given_up_unsaved_where_the_store_stays_away_in_a_rebalance(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpointing, "PATIENCE_S", 0.5)

    async def scenario(scene: Scene, watch: Watch) -> None:
        async with scene.worker() as (worker, running):
            await scene.publish(0, FIRST)
            await until_saved(scene, FIRST)
            scene.gate.failure = UNAVAILABLE
            await scene.publish(FIRST, FIRST + SECOND)
            await scene.answered(watch, FIRST + SECOND)
            assigned = worker._source.assignment
            await worker.on_revoked(assigned)
            assert not worker.partitions.owned
            scene.gate.failure = None
            await worker.on_assigned(assigned)
            await until_saved(scene, FIRST + SECOND)
            worker.stop()
            await running
        await scene.account(claims=[1, 2])

    play(scenario)


def test_a_worker_whose_last_checkpoints_are_damaged_goes_on_from_those_before(play: Play) -> None:
    async def scenario(scene: Scene, watch: Watch) -> None:
        async with scene.worker() as (worker, running):
            await scene.publish(0, FIRST)
            await until_saved(scene, FIRST)
            worker.stop()
            await running
        for role in ("scorer", "learner"):
            path = scene.settings.state_dir / scene.pipeline.name / f"{role}-0.sqlite"
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        await scene.publish(FIRST, FIRST + SECOND)
        async with scene.worker() as (worker, running):
            await scene.answered(watch, FIRST + SECOND)
            counts = worker.metrics.counts
            await until(
                lambda: all(counts["checkpoints_damaged", role] == 1 for role in ("scorer", "learner")),
                "damage counted",
            )
            worker.stop()
            await running
        await scene.account(claims=[1, 2])

    play(scenario)


def test_another_number_of_partitions_is_refused_before_anything_is_claimed(play: Play) -> None:
    async def scenario(scene: Scene, _: Watch) -> None:
        store = SqliteCheckpoints(scene.settings.state_dir, scene.pipeline.name, "scorer", 0)
        meta = ScorerMeta({}, (), header=header_of(scene.pipeline, 4))
        await store.save(await store.fence(), msgspec.json.encode(meta), {})
        with pytest.raises(CheckpointError, match="had 4 partitions, it has 1"):
            await Worker(scene.pipeline, scene.settings, Metrics(scene.pipeline)).run()
        assert (await store.look()).claim == 1
        await store.close()
        assert not await read_topic(scene.kafka, scene.predictions)

    play(scenario)
