"""A lane keeps its order, tries again, gives up, is bounded, each with a count; by a clock of the test."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from engine.alerts import delivery
from engine.alerts.channels import AwayError, RefusedError
from engine.alerts.delivery import BACKOFF_MAX_S, BACKOFF_S, Lane
from engine.settings import AlertSettings
from topics.messages import AlertChannel, AlertRecord

LOOKS_MAX = 10_000


class Clock:
    """Seconds that pass when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    def time_ns(self) -> int:
        return int(self.now_s * 1e9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made, yielding = Clock(), asyncio.sleep

    async def sleep(seconds: float) -> None:
        made.slept.append(seconds)
        made.now_s += seconds
        await yielding(0)

    monkeypatch.setattr(delivery, "time", made)
    monkeypatch.setattr(delivery, "asyncio", SimpleNamespace(**vars(asyncio) | {"sleep": sleep}))
    return made


class Answers:
    """A channel that answers as it is told to, and well when it is told nothing."""

    name: AlertChannel = "webhook"

    def __init__(self, *answers: Exception | None, during: Callable[[], None] = lambda: None) -> None:
        self.answers = list(answers)
        self.during = during
        self.took: list[str] = []
        self.tried = 0
        self.repeated: list[int] = []

    async def send(self, alert: AlertRecord, _now_ms: int) -> None:
        self.tried += 1
        self.during()
        answer = self.answers.pop(0) if self.answers else None
        if answer is not None:
            raise answer
        self.took.append(alert.alert_id)

    async def repeat(self, now_ms: int) -> None:
        self.repeated.append(now_ms)


def alert(number: int, *channels: AlertChannel) -> AlertRecord:
    return AlertRecord(f"p:a::{number}", "a", "told", "signal", "info", 5, 1, "so it is", channels=channels)


def lane_of(channel: Any, **given: Any) -> tuple[Lane, Counter[tuple[str, str]]]:
    counts: Counter[tuple[str, str]] = Counter()
    return Lane(channel, AlertSettings(**given), counts), counts


def run_until(lane: Lane, done: Callable[[], bool]) -> None:
    """Run a lane until something holds."""

    async def ran() -> None:
        task = asyncio.create_task(lane.run())
        for _ in range(LOOKS_MAX):
            await asyncio.sleep(0)
            if done() or task.done():
                break
        assert done()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(ran())


def run(lane: Lane) -> None:
    run_until(lane, lambda: lane.waits_from is None)


def test_what_a_channel_that_is_away_missed_comes_in_order_when_it_is_back(clock: Clock) -> None:
    channel = Answers(AwayError("status 503"), AwayError("status 429"), AwayError("TimeoutError"))
    lane, counts = lane_of(channel)
    for number in range(3):
        lane.offer(10 + number, alert(number))
    assert lane.waits_from == 10
    run(lane)
    assert channel.took == ["p:a::0", "p:a::1", "p:a::2"]
    assert clock.slept == [BACKOFF_S, 2 * BACKOFF_S, 4 * BACKOFF_S]
    assert counts == {
        ("alert_deliveries", "webhook retried"): 3,
        ("alert_deliveries", "webhook delivered"): 3,
    }


def test_one_that_stays_away_is_given_up_in_time_and_the_next_one_has_its_own(clock: Clock) -> None:
    channel = Answers(*[AwayError("status 503")] * 16)
    lane, counts = lane_of(channel, give_up_ms=600_000)
    lane.offer(0, alert(0))
    lane.offer(1, alert(1))
    with capture_logs() as lines:
        run(lane)
    assert clock.slept == [0.5, 1, 2, 4, 8, 16, 32, *[BACKOFF_MAX_S] * 8], "63.5 s, and minutes up to 600 s"
    assert channel.took == ["p:a::1"]
    assert counts == {
        ("alert_deliveries", "webhook retried"): 15,
        ("alert_deliveries", "webhook dropped"): 1,
        ("alert_deliveries", "webhook delivered"): 1,
    }
    assert [(line["outcome"], line["alert_id"], line["reason"]) for line in lines] == [
        ("dropped", "p:a::0", "status 503")
    ]


def test_what_is_refused_is_not_sent_again(clock: Clock) -> None:
    channel = Answers(RefusedError("status 400"))
    lane, counts = lane_of(channel)
    lane.offer(0, alert(0))
    lane.offer(1, alert(1))
    with capture_logs() as lines:
        run(lane)
    assert (channel.tried, channel.took, clock.slept) == (2, ["p:a::1"], [])
    assert counts["alert_deliveries", "webhook refused"] == 1
    assert [line["outcome"] for line in lines] == ["refused"]


def test_beyond_its_bound_a_lane_drops_what_comes_and_says_so() -> None:
    lane, counts = lane_of(Answers(), queue_max=2)
    with capture_logs() as lines:
        for number in range(5):
            lane.offer(number, alert(number))
    assert lane.waits_from == 0
    assert counts == {("alert_deliveries", "webhook dropped"): 3}
    assert [line["alert_id"] for line in lines] == ["p:a::2", "p:a::3", "p:a::4"]


def test_a_lane_takes_what_goes_its_way() -> None:
    lane, counts = lane_of(Answers())
    lane.offer(0, alert(0, "log", "alertmanager"))
    assert lane.waits_from is None
    lane.offer(1, alert(1, "log", "webhook"))
    assert lane.waits_from == 1
    assert not counts


def test_what_holds_is_said_again_each_time_it_is_due(clock: Clock) -> None:
    def passes() -> None:
        clock.now_s += 60.0

    channel = Answers(during=passes)
    lane, _ = lane_of(channel, repeat_ms=60_000)
    lane.offer(0, alert(0))
    run_until(lane, lambda: channel.repeated == [60_000])
