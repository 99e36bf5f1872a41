"""What a source partition sends, in which order, and what it tells of itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from rekeying_world import Ride, make_pipeline

from engine.machines.admission import Intake
from engine.rekeying.router import PROGRESS_EVERY_MS, RekeyingOutbox, Router
from operators.claims.rule import LoggedMessages, Writer
from operators.rekeying.pending_values import PendingValues
from topics.messages import Record
from topics.rekeying import Progress, RekeyedEvent, RekeyedLabel, RekeyingMessage, decode_rekeying

IDLE_MS = 1_000
START = 1_600_000_000_000


class Source:
    """Router 1 of 3 with its surroundings."""

    def __init__(self, **changed: Any) -> None:
        pipeline = make_pipeline(partitions=3, **changed)
        assert pipeline.stages is not None
        self.pending = PendingValues(parts=pipeline.stages.parts)
        self.outbox = RekeyingOutbox(Writer(1, 5), LoggedMessages())
        self.intake = Intake(
            pipeline.event_decoder(), pipeline.label_decoder(), max_ahead_ms=pipeline.max_ahead_ms
        )
        self.router = Router(pipeline, pipeline.stages, partition=1, outbox=self.outbox, pending=self.pending)
        self.offset = 0

    def event(self, name: str, time: int, **record: Any) -> list[RekeyingMessage]:
        ride = Ride(name, START + time, "d1", "a", 1, 2.0)
        given = {"timestamp_ms": None} | record
        self.intake.offer_events(
            [Record("e", 1, self.offset, key=b"d1", value=msgspec.json.encode(ride), **given)], START
        )
        self.offset += 1
        run = self.intake.next_run(events_unread=False, labels_unread=False)
        assert run is not None
        self.router.take(run)
        return self.sent()

    def turn(self, now_ms: int, *, quiet: bool) -> list[RekeyingMessage]:
        self.router.turn(now_ms, quiet=quiet, idle_after_ms=IDLE_MS)
        return self.sent()

    def sent(self) -> list[RekeyingMessage]:
        messages = []
        for out in self.outbox.drain():
            message = decode_rekeying(Record("p.rekey", out.partition or 0, 0, None, out.key, out.value, ()))
            assert isinstance(message, RekeyedEvent | RekeyedLabel | Progress)
            messages.append(message)
        return messages


def offsets(messages: Sequence[RekeyingMessage]) -> list[int]:
    return [
        message.event_offset
        for message in messages
        if isinstance(message, RekeyedEvent) and message.order.stage == 1
    ]


def said(messages: Sequence[RekeyingMessage]) -> list[tuple[int, bool]]:
    return [(message.time - START, message.idle) for message in messages if isinstance(message, Progress)]


def test_events_leave_in_the_order_of_time_once_the_watermark_has_passed() -> None:
    source = Source()
    assert source.event("a", 4_000) == source.event("b", 1_000) == []
    assert offsets(source.event("c", 6_001)) == [1]
    assert offsets(source.event("d", 9_001)) == [0]
    assert source.pending.outstanding == 2


def test_an_event_goes_once_to_each_stage_under_that_stages_key() -> None:
    source = Source(grace=0)
    source.event("a", 0)
    messages = source.event("b", 1)
    assert sorted(message.order.stage for message in messages if isinstance(message, RekeyedEvent)) == [
        1,
        2,
        3,
    ]
    assert {message.claim for message in messages} == {5}


def test_repeats_bad_records_and_wrong_clocks_stay_at_home() -> None:
    source = Source(grace=0)
    source.event("a", 0)
    source.event("a", 0)
    source.event("b", 3 * 3_600_000, timestamp_ms=START)
    source.intake.offer_events([Record("e", 1, source.offset, None, None, b"{}")])
    run = source.intake.next_run(events_unread=False, labels_unread=False)
    assert run is not None
    source.router.take(run)
    assert len(source.pending) == 1
    assert [source.pending.complete(offset) for offset in range(4)] == [False, True, True, True]


def test_progress_goes_to_every_partition_not_too_often() -> None:
    source = Source()
    assert len(said(source.turn(0, quiet=False))) == 3
    source.event("a", 0)
    assert said(source.turn(1, quiet=False)) == []
    assert said(source.turn(PROGRESS_EVERY_MS, quiet=False)) == 3 * [(-5_001, False)]
    assert said(source.turn(2 * PROGRESS_EVERY_MS, quiet=False)) == []


def test_a_quiet_source_sends_what_it_holds_and_wakes_before_it_sends_again() -> None:
    source = Source()
    source.event("a", 0)
    source.turn(0, quiet=True)
    assert offsets(source.turn(IDLE_MS - 1, quiet=True)) == []
    messages = source.turn(IDLE_MS, quiet=True)
    assert offsets(messages) == [0]
    assert said(messages) == 3 * [(0, True)]
    assert said(source.event("b", 1)) == 3 * [(0, False)]
    late = source.event("c", -1)
    assert [message.late for message in late if isinstance(message, RekeyedEvent)] == 3 * [True]


def test_what_was_taken_before_a_restart_is_not_taken_again() -> None:
    source, after = Source(grace=0), Source(grace=0)
    source.event("a", 0)
    after.router.restore(source.router.snapshot())
    after.event("a", 0)
    assert len(after.pending) == 0
    assert offsets(after.event("b", 1)) == [0]
