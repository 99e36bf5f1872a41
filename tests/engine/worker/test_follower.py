"""A log in which the learner goes back is folded alike by a worker and by a replay, however it is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from fields import Source
from msgspec.structs import replace
from test_rerun import assert_same, race, raced, stream

import engine.worker.follower
from engine.kafka.log_reader import slices
from engine.machines.learner import Learner
from engine.metrics import Metrics
from engine.offline.replay import Replay
from engine.settings import Settings
from engine.worker.assembly import build_learner
from engine.worker.follower import Follower
from topics import headers
from topics.codec import encode
from topics.messages import Command, Decision, FieldChange, Record

FIRST = race(champion="linear")
"""The field with which the log begins, another than the file's."""


def log() -> list[Record]:
    """A log that begins with another field, is paused twice, and rolled back during a pause."""
    records = list(raced(FIRST, *stream(400)).run.examples or ())
    begins = encode(FieldChange(FIRST.field.field_id, 0))
    records.insert(1, Record("rows.examples", 0, 0, 0, None, begins, headers.FIELD))
    for at, name in ((90, "pause"), (120, "promote"), (150, "resume"), (200, "pause"), (201, "resume")):
        asked = Command(f"{name}{at}", name, 7, model_name="tree" if name == "promote" else None)
        records.insert(at, Record("rows.examples", 0, 0, 0, None, encode(asked), headers.COMMAND))
    # Offsets have gaps, as a compacted log's or a transaction's.
    return [replace(record, offset=at + (at > 300) * 7) for at, record in enumerate(records)]


LOG = log()
END = LOG[-1].offset + 1


class MemoryLog:
    """A log in batches of so many records; `starts` are the offsets from which it was read."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.starts: list[int] = []

    async def read(self, start: int | None = None, until: int | None = None) -> AsyncGenerator[list[Record]]:
        self.starts.append(start or 0)
        wanted = [r for r in LOG if r.offset >= (start or 0) and (until is None or r.offset < until)]
        for at in range(0, len(wanted), self.batch):
            yield wanted[at : at + self.batch]


def by_hand() -> tuple[Learner, list[Decision]]:
    """The oracle: record by record, each time the one that the learner asks for."""
    learner, decisions = build_learner(race(), source=source()), []
    while learner.reading < END:
        decisions += learner.fold([next(record for record in LOG if record.offset >= learner.reading)])
        if not learner.reading:
            decisions.clear()
    return learner, decisions


def source() -> Source:
    return Source(fields=[FIRST.field, race().field])


@pytest.mark.parametrize("batch", [1, 7, 64, 1_000])
def test_a_replay_and_a_worker_go_back_alike(
    batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, decisions = by_hand()
    assert {"learning.paused", "learning.resumed", "model.promoted"} <= {one.type for one in decisions}
    replayed = MemoryLog(batch)
    replay = Replay(race(), replayed, source=source())
    asyncio.run(replay.to(None))
    assert replay.decisions == decisions
    assert_same(replay.learner, expected)
    assert len(replayed.starts) >= 3

    followed = MemoryLog(batch)
    monkeypatch.setattr(
        engine.worker.follower, "read_log", lambda _, __, ___, *offsets, **_told: followed.read(*offsets)
    )
    told: list[Decision] = []

    async def follow() -> None:
        follower = Follower(race(), Settings(state_dir=tmp_path), Metrics(race()), Sent())
        follower.learner = build_learner(race(), source=source())
        follower._decided = lambda decided, *_: told.extend(decided)
        follower.read_back()
        following = asyncio.create_task(follower.follow())
        async with asyncio.timeout(60):
            while follower.learner.reading < END:
                follower._moved.clear()
                await follower._moved.wait()
        following.cancel()
        assert_same(follower.learner, expected)

    asyncio.run(follow())
    assert told == decisions
    assert followed.starts[: len(replayed.starts)] == replayed.starts


class Sent:
    """A sink that has written the whole log."""

    def last_offset(self, _: object) -> int:
        return END - 1


def test_slices_end_where_nobody_wants_more_or_the_learner_goes_back() -> None:
    class Reader:
        reading = 0

    reader, records = Reader(), LOG[:10]
    taken = []
    for part in slices(reader, records, lambda: min(4, 8 - len(taken) * 4)):
        taken.append([record.offset for record in part])
        reader.reading = part[-1].offset + 1
    assert taken == [[0, 1, 2, 3], [4, 5, 6, 7]]
    for part in slices(reader, records, lambda: 5):
        reader.reading = 2
        assert part == records[:5]
