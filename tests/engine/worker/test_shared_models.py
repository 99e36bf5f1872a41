"""A leader publishes, the others serve: who may, how often, and what a store that fails or lies changes."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs
from test_rerun import race, raced, stream

import engine.worker.follower
from engine.definition.pipeline import Pipeline
from engine.metrics import Metrics
from engine.settings import Settings
from engine.stores.sqlite_checkpoints import SqliteCheckpoints
from engine.worker import snapshots
from engine.worker.follower import Follower
from operators.models.scoring import Scoring
from topics.errors import ClaimError, DefinitionError, StoreUnavailableError
from topics.messages import Record

PIPELINE = race(follow="1s")
LOG = [replace(record, offset=at) for at, record in enumerate(raced(race(), *stream(400)).run.examples or ())]
KEY = "the same on all machines"


class Sent:
    """A sink of a process that has written no example."""

    last = -1

    def last_offset(self, _: object) -> int:
        return self.last


class Log:
    """The examples log as it has grown so far."""

    def __init__(self, end: int) -> None:
        self.end = end

    async def read(
        self, _kafka: object, _topic: str, _partition: int, start: int, until: int | None, **_: Any
    ) -> AsyncGenerator[list[Record]]:
        while until is None or start < until:
            if start < self.end:
                yield LOG[start : self.end if until is None else min(self.end, until)]
                start = self.end
            await asyncio.sleep(0.001)

    async def bounds(self, _kafka: object, _topic: str) -> dict[int, tuple[int, int]]:
        return {0: (0, self.end)}


@pytest.fixture(autouse=True)
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    made = Log(50)
    monkeypatch.setattr(engine.worker.follower, "read_log", made.read)
    monkeypatch.setattr(engine.worker.follower, "log_bounds", made.bounds)
    return made


def follower_at(place: Path, pipeline: Pipeline = PIPELINE) -> Follower:
    settings = Settings(state_dir=place, signing_key=KEY)
    return Follower(pipeline, settings, Metrics(pipeline), Sent())  # type: ignore[arg-type]


async def leads(follower: Follower) -> Follower:
    """Take the lead as the loop does."""
    await follower.lead([0])
    await follower.catch_up()
    follower.read_back()
    return follower


async def serves(follower: Follower) -> Follower:
    """Take partitions over without the lead."""
    await follower.lead([])
    await follower.catch_up()
    follower.read_back()
    return follower


def updates(follower: Follower) -> dict[str, int]:
    return {name: racer.updates for name, racer in follower.learner.roster.racers.items()}


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def test_only_the_leader_folds_and_the_others_serve_what_it_has_learned(tmp_path: Path) -> None:
    async def work() -> None:
        leader, other = await leads(follower_at(tmp_path)), await serves(follower_at(tmp_path))
        roster = other.learner.roster
        scoring = Scoring("binary", roster)  # of a scorer, which keeps the roster that it has
        assert updates(other) == {"tree": 0, "linear": 0}, "nothing is published yet: fresh models serve"
        assert scoring.serve({"a": 1.0, "b": 1.0}).cold_start
        await leader.snapshots.publish()
        await other.snapshots.look()
        assert updates(other) == updates(leader) == {"tree": 49, "linear": 49}
        assert other.learner.examples == 0, "the follower has folded"
        assert other.learner.roster is roster
        answer = scoring.serve({"a": 1.0, "b": 1.0})
        assert answer == Scoring("binary", leader.learner.roster).serve({"a": 1.0, "b": 1.0})
        assert (answer.model_version, answer.model_updates) == (1, 49)
        status = other.status(lag={}, pending=0, partitions=1)
        assert (status.examples, status.leading, status.unlearned) == (49, False, 0)
        assert {one.name: (one.alias, one.updates) for one in status.models} == {
            "tree": ("champion", 49),
            "linear": ("challenger", 49),
        }
        assert status.snapshot.bytes > 0
        # What waits in the log is told, and holds nobody up.
        other._sink.last = 10_000  # type: ignore[attr-defined]
        async with asyncio.timeout(5):
            await other.wait_until_near(1)
        assert other.status(lag={}, pending=0, partitions=1).unlearned == 10_001 - 50

    run(work())


def test_a_follower_that_takes_the_lead_folds_on_and_publishes_more(tmp_path: Path, log: Log) -> None:
    async def work() -> None:
        first, second = await leads(follower_at(tmp_path)), await serves(follower_at(tmp_path))
        await first.snapshots.publish()
        await second.snapshots.look()
        roster = second.learner.roster
        log.end = 90
        await leads(second)  # the first is dead, or thinks that it is not
        assert second.learner.roster is roster, "scorers that are kept would ask another line-up"
        assert updates(second) == {"tree": 89, "linear": 89}
        await second.snapshots.publish()
        await first.catch_up()
        await first.snapshots.publish()
        with pytest.raises(ClaimError):
            first.snapshots.check()
        first.snapshots.check()  # told once
        first.release()
        await serves(first)
        assert updates(first) == updates(second)
        assert first.snapshots.counts["snapshots", "older"] == 0

    run(work())


def test_a_leader_that_gives_up_before_it_has_caught_up_serves_what_is_newer_again(
    tmp_path: Path, log: Log
) -> None:
    """A rebalance comes while it stands at its checkpoint, behind the snapshot that it has served."""

    async def work() -> None:
        first, other = await leads(follower_at(tmp_path)), await serves(follower_at(tmp_path))
        await first.save(first.capture())
        log.end = 120
        await first.catch_up()
        await first.snapshots.publish()
        await other.snapshots.look()
        assert updates(other) == {"tree": 119, "linear": 119}
        await other.lead([0])
        assert updates(other) == {"tree": 49, "linear": 49}
        other.release()
        await serves(other)
        assert updates(other) == updates(first) == {"tree": 119, "linear": 119}
        assert other.snapshots.counts["snapshots", "older"] == 0

    run(work())


def test_who_has_let_go_of_the_lead_meets_no_other_leader(tmp_path: Path) -> None:
    """A snapshot is on its way while partitions move: that another one leads by then is no error."""

    async def work() -> None:
        first, second = await leads(follower_at(tmp_path)), follower_at(tmp_path)
        store: Any = first.snapshots._store
        save, begun, moved = store.save, asyncio.Event(), asyncio.Event()

        async def late(*saved: Any) -> None:
            begun.set()
            await moved.wait()
            await save(*saved)

        store.save = late
        publishing = asyncio.create_task(first.snapshots.publish())
        await begun.wait()
        first.release()
        await leads(second)
        moved.set()
        await publishing
        first.snapshots.check()
        await second.snapshots.publish()
        await serves(first)
        assert updates(first) == updates(second) == {"tree": 49, "linear": 49}

    run(work())


def test_nothing_is_published_before_a_leader_has_caught_up(tmp_path: Path, log: Log) -> None:
    """Its checkpoint lies behind what the leader before it has published."""

    async def work() -> None:
        first, other = await leads(follower_at(tmp_path)), await serves(follower_at(tmp_path))
        await first.save(first.capture())
        log.end = 120
        await first.catch_up()
        await first.snapshots.publish()
        await other.snapshots.look()
        for again in (follower_at(tmp_path), first):  # another process, and one that claims again
            await again.lead([0])
            assert again.learner.position == 50
            await again.snapshots.publish()
            assert again.snapshots.counts["snapshots", "published"] == (again is first)
            await again.catch_up()
            again.read_back()
            log.end += 10
            await again.catch_up()
            await again.snapshots.publish()
            await other.snapshots.look()
            assert updates(other)["tree"] == log.end - 1
        assert other.snapshots.counts["snapshots", "older"] == 0

    run(work())


def test_without_a_snapshot_the_last_checkpoint_serves(tmp_path: Path) -> None:
    async def work() -> None:
        everybody_folds = follower_at(tmp_path, race())
        await leads(everybody_folds)
        await everybody_folds.save(everybody_folds.capture())
        other = await serves(follower_at(tmp_path))
        assert updates(other) == {"tree": 49, "linear": 49}

    run(work())


def test_large_models_are_published_less_often_and_that_is_told(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        leader = await leads(follower_at(tmp_path))
        with capture_logs() as lines:
            await leader.snapshots.publish()
        assert not lines
        assert leader.status(lag={}, pending=0, partitions=1).snapshot.interval_s == 1.0
        monkeypatch.setattr(snapshots, "SHARE_MAX", 1e-9)
        told = []
        for end in (60, 70):
            log.end = end
            await leader.catch_up()
            with capture_logs() as lines:
                await leader.snapshots.publish()
            told += [line for line in lines if line["log_level"] == "warning"]
        shown = leader.status(lag={}, pending=0, partitions=1).snapshot
        assert shown.interval_s > 100
        assert leader.snapshots._due_s > 100
        assert {line["largest"] for line in told} <= {"model/tree", "model/linear"}
        assert told[0]["asked_s"] == 1.0

    run(work())


def test_a_store_that_cannot_be_used_costs_no_snapshot(tmp_path: Path) -> None:
    async def work() -> None:
        leader, other = await leads(follower_at(tmp_path)), await serves(follower_at(tmp_path))
        store: Any = leader.snapshots._store
        save = store.save

        async def refused(*_: Any) -> None:
            store._unsaved.update(_[2])
            raise StoreUnavailableError("no answer")

        store.save = refused
        with capture_logs() as lines:
            await leader.snapshots.publish()
            await leader.snapshots.publish()
        assert [line["event"] for line in lines] == ["snapshots are not published"]
        assert leader.snapshots.counts["snapshots", "unavailable"] == 2
        store.save = save
        await leader.snapshots.publish()
        await other.snapshots.look()
        assert updates(other) == updates(leader) != {"tree": 0, "linear": 0}

    run(work())


def test_what_is_refused_is_counted_once_and_the_one_before_goes_on_serving(tmp_path: Path, log: Log) -> None:
    async def work() -> None:
        leader, other = await leads(follower_at(tmp_path)), await serves(follower_at(tmp_path))
        await leader.snapshots.publish()
        old = await leader.snapshots._store.load()
        log.end = 60
        await leader.catch_up()
        await leader.snapshots.publish()
        await other.snapshots.look()
        forger = SqliteCheckpoints(tmp_path, PIPELINE.name, "snapshot", 0)
        claim = await forger.fence()
        stored = await forger.load()
        assert stored is not None
        await forger.save(claim, b"[900,900]", {"head": stored.entries["head"][:-1] + b"?"})
        with capture_logs() as lines:
            for _ in range(3):
                await other.snapshots.look()
        assert [(line["why"], line["log_level"]) for line in lines] == [("signature", "error")]
        await forger.save(claim, old.meta, old.entries)  # as a store that went back
        await other.snapshots.look()
        await other.snapshots.look()
        counts = other.snapshots.counts
        assert counts == {
            ("snapshots", "served"): 1,
            ("snapshots", "signature"): 1,
            ("snapshots", "older"): 1,
        }
        assert updates(other) == updates(leader)
        log.end = 80
        await leads(leader)
        await leader.snapshots.publish()
        await other.snapshots.look()
        assert updates(other) == updates(leader) == {"tree": 79, "linear": 79}
        await forger.close()

    run(work())


@pytest.mark.parametrize("damage", ["a file that is none", "a model that changed"])
def test_a_leader_whose_store_of_snapshots_is_damaged_leads_and_says_so(
    tmp_path: Path, log: Log, damage: str
) -> None:
    """What it has learned lies elsewhere.  The others serve on, and what is removed is made anew."""

    async def work() -> None:
        first, other = await leads(follower_at(tmp_path)), await serves(follower_at(tmp_path))
        await first.snapshots.publish()
        await other.snapshots.look()
        await first.close()
        file = tmp_path / PIPELINE.name / "snapshot-0.sqlite"
        if damage == "a file that is none":
            file.write_bytes(b"no database" * 1_000)
        else:
            with closing(sqlite3.connect(file)) as database, database:
                database.execute("UPDATE entry SET value = x'00' WHERE name LIKE 'model/%'")
        log.end = 80
        with capture_logs() as lines:
            leader = await leads(follower_at(tmp_path))
            for _ in range(3):
                await leader.snapshots.publish()
        assert (leader.leading, updates(leader)) == (True, {"tree": 79, "linear": 79})
        assert [line["event"] for line in lines] == [
            "no snapshots are published: the store of the last ones is damaged",
            "snapshots are not published",
        ]
        assert str(file) in lines[0]["place"]
        assert leader.snapshots.counts == {("snapshots", "unavailable"): 3}
        await other.snapshots.look()
        assert updates(other) == {"tree": 49, "linear": 49}
        await leader.close()
        for left in file.parent.glob("snapshot-0*"):
            left.unlink()
        again = await leads(follower_at(tmp_path))
        await again.snapshots.publish()
        anew = await serves(follower_at(tmp_path))
        assert updates(anew) == updates(again) == {"tree": 79, "linear": 79}

    run(work())


def test_follow_is_a_span() -> None:
    assert PIPELINE.follow_ms == 1_000
    with pytest.raises(DefinitionError, match="less than 100 ms"):
        race(follow="10ms")


def test_it_changes_no_state() -> None:
    """A running pipeline may begin to follow, and cease to: no checkpoint is of another definition."""
    assert PIPELINE.learner_definition() == race().learner_definition()
    assert PIPELINE.scorer_definition() == race().scorer_definition()
    assert PIPELINE.field.field_id == race().field.field_id
