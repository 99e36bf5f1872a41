"""The course of a soak: which trouble comes when, and what the events of that time look like.

Lives here: phases, events by their number.  Never here: when they are sent (`loadtest/bench/openloop.py`),
what the worker takes (`readings.py`).

    steady       a thousand sensors, a label a second after each event
    hot key      nine of ten events are of one sensor
    new keys     every event is of a sensor that was never there and never comes again
    label flood  as steady, and beside it ten labels an event for events that never come
    no learning  as steady, and learning is paused: examples gather in their log
    steady       once more, as long as the first: what is more now than then has leaked
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import orjson

from loadtest.bench.feed import FeedEvent

__all__ = ["PHASES", "Phase", "SoakFeed", "phases"]

SENSORS = 1_000
HOT_SHARE = 0.9
ROWS = 10_000
"""Distinct values, round and round: the same event has the same label again."""


class Phase(NamedTuple):
    """A part of a soak."""

    name: str
    begins_s: float
    ends_s: float


PHASES: Sequence[tuple[str, float]] = (
    ("steady", 0.25),
    ("hot key", 0.125),
    ("new keys", 0.125),
    ("label flood", 0.125),
    ("no learning", 0.125),
    ("steady again", 0.25),
)
"""Name and share of the time."""


def phases(seconds: float) -> list[Phase]:
    """Return the phases of a soak of so many seconds.

    >>> [(one.name, one.begins_s) for one in phases(80)][:3]
    [('steady', 0.0), ('hot key', 20.0), ('new keys', 30.0)]
    """
    found, begins_s = [], 0.0
    for name, share in PHASES:
        found.append(Phase(name, begins_s, begins_s + seconds * share))
        begins_s += seconds * share
    return found


class SoakFeed:
    """The events of a soak by their number, `rate` a second: what `bench.feed.Feed` is for a bench."""

    def __init__(self, course: Sequence[Phase], *, rate: float, run: str, seed: int = 0) -> None:
        self._course, self._rate, self._run = course, rate, run
        self._rng = random.Random(seed)  # noqa: S311 - test data
        self._values = [round(self._rng.lognormvariate(3.0, 1.0), 2) for _ in range(ROWS)]

    @property
    def rows(self) -> int:
        """Return after how many events their values repeat."""
        return ROWS

    def event(self, number: int, event_time: int) -> FeedEvent:
        """Return the `number`-th event, due at `event_time` ms."""
        sensor, event_id = self._sensor(number), f"{self._run}-{number}"
        value = self._values[number % ROWS]
        row = {"event_id": event_id, "event_time": event_time, "sensor": sensor, "value": value}
        return FeedEvent(event_id, sensor.encode(), orjson.dumps(row))

    def _sensor(self, number: int) -> str:
        at_s = number / self._rate
        phase = next((one.name for one in self._course if at_s < one.ends_s), "")
        if phase == "new keys":
            return f"new-{number}"
        if phase == "hot key" and self._rng.random() < HOT_SHARE:
            return "hot"
        return f"sensor-{self._rng.randrange(SENSORS)}"
