"""A worker that stood still for longer than its session tells nothing under an id of its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from msgspec import Struct
from river import linear_model

import engine.alerts.alerting
from engine import Alert, Labels, Pipeline, Topic, signal
from engine.alerts.alerting import Alerting
from engine.alerts.reading import newest
from engine.alerts.surroundings import Surroundings
from engine.settings import Settings
from operators import field
from operators.monitor.alerts import AlertBook
from topics.codec import decode_alert
from topics.messages import AlertRecord

LAGS = Alert(when=signal("lag_records") > 10)
SESSION_S = Settings().kafka.session_timeout_ms / 1000


class Reading(Struct):
    event_id: str
    event_time: int
    sensor: str
    value: float


PIPELINE = Pipeline(
    name="p",
    events=Topic("readings", Reading, key="sensor"),
    labels=Labels("truths", wait="1h"),
    features={"value": field("value")},
    models={"linear": linear_model.LogisticRegression()},
    alerts=[LAGS],
)


class World:
    """One worker with partition 0, the alerts topic, and a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s, self.lag, self.counts = 0.0, 0, Counter[tuple[str, str]]()
        self.topic: list[AlertRecord] = []
        monkeypatch.setattr(engine.alerts.alerting, "alert_tail", self.tail)
        self.worker = Alerting(PIPELINE, Settings(), self.counts, self.seen, lambda: self.now_s)

    async def tail(self, *_: Any) -> list[tuple[int, AlertRecord]]:
        return list(enumerate(self.topic))

    def seen(self) -> Surroundings:
        return Surroundings(frozenset({0}), self.lag, 0.0, 0.0)

    def look(self, lag: int) -> None:
        self.lag = lag
        asyncio.run(self.worker.look())

    def write(self) -> list[AlertRecord]:
        told = [decode_alert(one.value or b"") for one in self.worker.take()]
        self.topic += told
        return told


def successor(*lags: tuple[int, int]) -> list[AlertRecord]:
    """Return what another worker tells of the partition: (clock in ms, lag)."""
    book = AlertBook("p", [LAGS])
    return [one for ms, lag in lags for one in book.read(ms, {"lag_records": {"0": float(lag)}})]


def test_who_was_replaced_goes_on_under_the_id_of_who_came_after(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.look(0)
    assert world.write() == []
    world.now_s += SESSION_S + 1  # frozen
    (other,) = world.topic = successor((5, 99))
    world.look(99)
    assert world.write() == [], "it has not read yet what was told meanwhile"
    world.look(99)
    assert world.write() == [], "it fires already"
    world.look(0)
    (ended,) = world.write()
    assert (ended.state, ended.alert_id) == ("resolved", other.alert_id)


def test_what_could_not_be_written_for_a_session_is_dropped_and_looked_at_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch)
    world.look(0)
    world.write()
    world.now_s += 1
    world.look(99)
    world.now_s += SESSION_S + 1  # no broker answers
    world.topic = successor((5, 99), (6, 0))
    assert world.write() == []
    assert world.counts["alerts", "lag_records left_out"] == 1
    world.look(0)
    assert world.write() == [], "all is well, and was told so"


def test_a_short_stop_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.look(99)
    world.now_s += SESSION_S - 1
    assert [one.state for one in world.write()] == ["firing"]


def test_the_older_of_two_ids_of_one_subject_is_over() -> None:
    zombies, owners = successor((3, 99)), successor((5, 99))
    ended = successor((5, 99), (6, 0))
    assert list(newest([*zombies, *owners]).values()) == owners
    assert list(newest([*zombies, *ended]).values()) == ended[1:]
    assert list(newest([*ended, *zombies]).values()) == [ended[1], *zombies]
