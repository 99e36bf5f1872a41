"""A record that moves the watermark does what an event of its time would do to it, and answers nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from river import linear_model

from engine import Labels, Pipeline, Topic
from engine.machines.scorer import Scorer
from engine.offline.backtest import LocalRun, backtest
from engine.settings import KafkaSettings, Settings
from engine.worker import idle
from engine.worker.idle import IdlePartitions, Standing
from operators import by, label
from topics.codec import decode_example
from topics.errors import BrokerError
from topics.headers import refusal_of
from topics.messages import Example, Outgoing, Record
from topics.watermarks import Move, moving

START = 1_700_000_000_000
WAIT_MS = 40_000
GRACE_MS = 10_000
SIGNING = {"ada": b"sixteen bytes or more"}


class Payment(msgspec.Struct):
    event_id: str
    event_time: int
    card: str


def pipeline(on_timeout: Any = False) -> Pipeline:
    return Pipeline(
        name="quiet",
        events=Topic("quiet.events", Payment, key="card", grace="10s"),
        labels=Labels("quiet.labels", wait=WAIT_MS, on_timeout=on_timeout),
        features={"n": by("card").count("30s"), "frauds": by("card").mean(label, "1m").default(0.0)},
        models={"lr": linear_model.LogisticRegression()},
    )


def event(offset: int, time: int, card: str = "a") -> Record:
    value = {"event_id": f"e{offset}", "event_time": START + time, "card": card}
    return Record("quiet.events", 0, offset, START + time, card.encode(), json.dumps(value).encode())


def move(offset: int, time: int, *, signed: bool = False, stamp: int | None = None) -> Record:
    signer = ("ada", SIGNING["ada"]) if signed else None
    value, headers = moving(Move(START + time), signer, topic="quiet.events")
    return Record("quiet.events", 0, offset, START + (time if stamp is None else stamp), None, value, headers)


def saying(value: bytes) -> Record:
    return Record("quiet.events", 0, 1, START, None, value)


def truth(offset: int, of: int, time: int) -> Record:
    value = {"event_id": f"e{of}", "label": True, "label_time": START + time}
    return Record("quiet.labels", 0, offset, START + time, b"a", json.dumps(value).encode())


def played(
    events: Sequence[Record], labels: Sequence[Record], cuts: Sequence[int], on_timeout: Any = False
) -> tuple[Scorer, list[Outgoing]]:
    """Feed the records in pieces of these sizes, over and over; labels are all there from the start."""
    run, out, left, turn = LocalRun(pipeline(on_timeout)), [], list(events), 0
    run.scorer.intake.offer_labels(labels)
    while left:
        size = cuts[turn % len(cuts)]
        turn += 1
        run.scorer.intake.offer_events(left[:size])
        del left[:size]
        while (made := run.advance(events_unread=bool(left))) is not None:
            out += made
    return run.scorer, out


def examples(out: Sequence[Outgoing]) -> list[Example]:
    return [decode_example(one.value or b"") for one in out if one.target == "examples"]


STREAMS = st.lists(
    st.tuples(st.integers(0, 30_000), st.booleans(), st.booleans()), min_size=1, max_size=40
).map(lambda rows: [(sum(step for step, _, _ in rows[: n + 1]), *rows[n][1:]) for n in range(len(rows))])
"""(time, whether it is a move, whether an event has a label)."""


@settings(max_examples=25)
@given(STREAMS, st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_horizons_pass_as_if_an_event_of_the_time_had_come(
    rows: list[tuple[int, bool, bool]], cuts: list[int]
) -> None:
    moved = [(move if is_move else event)(n, time) for n, (time, is_move, _) in enumerate(rows)]
    instead = [event(n, time, "other" if is_move else "a") for n, (time, is_move, _) in enumerate(rows)]
    labels = [
        truth(n, n, time + 5_000) for n, (time, is_move, known) in enumerate(rows) if known and not is_move
    ]
    scorer, out = played(moved, labels, cuts)
    _, whole = played(moved, labels, [len(moved)])
    _, other = played(instead, labels, cuts)
    kept = [one for one in examples(other) if one.key == "a"]

    def told(made: Sequence[Example]) -> list[tuple[Any, ...]]:
        return [(x.event_id, x.label, x.label_time, x.features, x.expired_at_offset) for x in made]

    # Features of a label that joined later than a move differ in nothing, as the other card has its own.
    assert told(examples(out)) == told(examples(whole)) == told(kept)
    assert scorer.counts["watermarks", "moved"] == sum(is_move for _, is_move, _ in rows)
    assert sum(one.target == "predictions" for one in out) == sum(not is_move for _, is_move, _ in rows)


def test_a_move_never_goes_back_and_predictions_without_labels_are_counted() -> None:
    records = [event(0, 0), move(1, 60_000), move(2, 5_000), event(3, 55_000), event(4, 30_000)]
    scorer, out = played(records, [], [5], on_timeout="drop")
    assert scorer.position.time_max == START + 60_000
    assert scorer.counts["predictions_dropped", "expired"] == 1
    assert scorer.counts["events", "late"] == 1
    assert examples(out) == []
    assert scorer.next_deadline == START + 30_000 + WAIT_MS


@pytest.mark.parametrize(
    ("record", "stage", "says"),
    [
        (move(1, 60_000), "watermark", "not signed"),
        (move(1, 60_000, signed=True, stamp=0), None, ""),
        (move(1, 60_001, signed=True, stamp=0), "time", "ahead"),
        (saying(b'{"headrace-watermark":{"event_time":-1}}'), "watermark", "outside"),
        (saying(b'{"headrace-watermark":7}'), "watermark", "Expected"),
    ],
)  # fmt: skip
def test_what_must_not_move_time_is_a_dead_letter(record: Record, stage: str | None, says: str) -> None:
    run = LocalRun(pipeline())
    run.scorer.intake.command_keys = SIGNING
    run.scorer.intake.offer_events([event(0, 0), record], START)
    out = run.advance() or []
    letters = [refusal_of(one.headers) for one in out if one.target == "dead-letters"]
    assert [letter.stage for letter in letters] == ([] if stage is None else [stage])
    assert all(says in letter.message for letter in letters)
    assert len(examples(out)) == (stage is None)


def test_a_file_of_a_topic_gives_what_the_topic_gave(tmp_path: Path) -> None:
    """A line of a file holds the record's value, as `headrace tail EVENTS | jq .value` writes it."""
    records = [*(event(n, 1_000 * n) for n in range(20)), move(20, 70_000)]
    for name, kept in (("with", records), ("without", records[:-1])):
        (tmp_path / name).write_bytes(b"".join((one.value or b"") + b"\n" for one in kept))
    (tmp_path / "labels").write_bytes((truth(0, 3, 9_000).value or b"") + b"\n")
    found = {name: backtest(pipeline(), tmp_path / name, tmp_path / "labels") for name in ("with", "without")}
    assert [found[name]["examples"] for name in found] == [20, 1]
    assert found["with"]["outcomes"]["labels"] == {"joined": 1, "implicit": 19}
    assert found["with"]["dead_letters"] == 0


# -- the worker's part --------------------------------------------------------------------------------


class Partition:
    def __init__(self, **standing: Any) -> None:
        self.now = Standing(
            **{"read": 5, "time_max": START, "waits_until": START - GRACE_MS + 100, "drained": True}
            | standing
        )

    def standing(self) -> Standing:
        return self.now


class NoSink:
    """A topic that takes nothing of ours, for as long as it is told so."""

    refuses = True
    sent: ClassVar[list[tuple[int, Outgoing]]] = []

    def __init__(self, kafka: KafkaSettings) -> None:
        assert not kafka.enable_idempotence

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def flush(self) -> None:
        if NoSink.refuses:
            raise BrokerError("not allowed to write quiet.events", hint="")

    async def send(self, _: str, partition: int, records: Sequence[Outgoing]) -> None:
        NoSink.sent += [(partition, one) for one in records]


def test_a_topic_that_takes_no_move_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle, "Sink", NoSink)

    async def scenario() -> None:
        keys = {"ada": SecretStr(SIGNING["ada"].decode())}
        moved = IdlePartitions(pipeline(), Settings(idle_timeout_ms=1_000, command_keys=keys))
        quiet, busy = Partition(), Partition(drained=False)
        nothing_waits, empty = Partition(waits_until=None), Partition(time_max=-1)
        owned = {0: quiet, 1: busy, 2: nothing_waits, 3: empty}
        for now_ms, refused, written in ((0, 0, 0), (900, 0, 0), (1_000, 1, 0), (1_500, 1, 0), (2_000, 1, 1)):
            NoSink.refuses = now_ms < 2_000
            moved.turn(owned, now_ms=now_ms, wall_ms=START + 1_700)
            for _ in range(10):
                await asyncio.sleep(0)
            assert (moved.counts["watermarks", "refused"], moved.counts["watermarks", "written"]) == (
                refused,
                written,
            )
        # Never beyond the wall clock, and signed where commands are.
        number, record = NoSink.sent[-1]
        assert (number, record.value) == (
            0,
            moving(Move(START + 1_700, 2_000), None, topic="quiet.events")[0],
        )
        assert "headrace-signature" in dict(record.headers)
        quiet.now = quiet.now._replace(read=6)
        moved.turn(owned, now_ms=9_000, wall_ms=START + 90_000)
        moved.turn(owned, now_ms=9_900, wall_ms=START + 90_000)
        await moved.close()
        assert moved.counts["watermarks", "written"] == 1

    asyncio.run(scenario())
