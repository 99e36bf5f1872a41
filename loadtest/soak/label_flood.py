"""A flood of labels through one worker's machines: is what memory it leaves objects, or free?

Lives here: events and labels in event time, what the allocators hold at each step.  Never here: a broker.

    python -m loadtest.soak.label_flood

Python's small objects lie in arenas of its own, all else in the C library's.  What those hold is either in
use, or free and not given back to the system; `malloc_trim` asks for that.
"""

from __future__ import annotations

import ctypes
import gc
import os
import random
from collections.abc import Iterator
from typing import Annotated, NamedTuple

import typer
from rich.console import Console
from rich.table import Table

from engine.host.garbage import search_rarely
from engine.offline.backtest import LocalRun
from loadtest.soak.course import SENSORS
from loadtest.soak.new_keys import rss_mb
from loadtest.soak.pipeline import pipeline
from topics.codec import encode_json
from topics.messages import Record

START_MS = 1_700_000_000_000
SECOND_MS = 1_000
FLOOD_LABELS = 10
"""Labels of events that never come, for each event."""
SAVED_EVERY = 5
"""Seconds between two checkpoints, whose bytes are thrown away."""
STEPS = (("steady", 260, False), ("label flood", 140, True), ("steady again", 260, False))
"""Name, seconds of event time, whether the flood comes: windows and waits are full after two minutes."""


class Mallinfo2(ctypes.Structure):
    """What glibc says of its heap, in bytes (`man mallinfo`)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks"),
            *("uordblks", "fordblks", "keepcost"),
        )
    ]


class Memory(NamedTuple):
    """Megabytes of this process: resident, and of the C library's heap in use and free."""

    resident: float
    in_use: float
    free: float


def memory(libc: ctypes.CDLL) -> Memory:
    """Return what is held now, after a search for garbage."""
    gc.collect()
    told = libc.mallinfo2()
    return Memory(rss_mb(), (told.uordblks + told.hblkhd) / 1e6, told.fordblks / 1e6)


class Flood:
    """The soak's stream in event time, `rate` events a second."""

    def __init__(self, rate: int) -> None:
        self._run, self._rate = LocalRun(pipeline), rate
        self._rng = random.Random(0)  # noqa: S311 - test data
        self._offsets = [0, 0]
        self._unlabelled: list[dict[str, object]] = []

    def play(self, seconds: int, *, flood: bool) -> None:
        """Answer and learn so many seconds of events; each label comes a second later."""
        for second in range(seconds):
            events, due = list(self._events()), self._unlabelled
            now_ms = START_MS + self._offsets[0] * SECOND_MS // self._rate
            self._unlabelled = events
            labels = [(one["event_id"], bool(one["truth"]), one["sensor"]) for one in due]
            if flood:
                first = self._offsets[1]
                labels += [(f"never-{first + n}", True, "flood") for n in range(self._rate * FLOOD_LABELS)]
            intake = self._run.scorer.intake
            intake.offer_events([self._record(0, str(one["sensor"]), one) for one in events])
            intake.offer_labels(
                [
                    self._record(1, str(key), {"event_id": name, "label": label, "label_time": now_ms})
                    for name, label, key in labels
                ]
            )
            while self._run.advance(events_unread=True, labels_unread=True) is not None:
                pass
            if second % SAVED_EVERY == 0:
                self._run.scorer.delta()
                self._run.learner.delta()

    def _events(self) -> Iterator[dict[str, object]]:
        for number in range(self._offsets[0], self._offsets[0] + self._rate):
            value = self._rng.lognormvariate(3.0, 1.0)
            yield {
                "event_id": f"e{number}",
                "event_time": START_MS + number * SECOND_MS // self._rate,
                "sensor": f"sensor-{self._rng.randrange(SENSORS)}",
                "value": value,
                "truth": value > 20.0,
            }

    def _record(self, of_labels: int, key: str, value: dict[str, object]) -> Record:
        topic = pipeline.catalog["labels" if of_labels else "events"]
        offset = self._offsets[of_labels]
        self._offsets[of_labels] += 1
        return Record(topic, 0, offset, None, key.encode(), encode_json(value))


def main(rate: Annotated[int, typer.Option(help="Events a second of event time.")] = 100) -> None:
    """Tell what is held before a flood, at its end, and when all that it brought is forgotten."""
    libc, flood = ctypes.CDLL("libc.so.6"), Flood(rate)
    libc.mallinfo2.restype = Mallinfo2
    search_rarely()
    table = Table(title=f"{rate} events/s, {os.uname().machine}, glibc")
    for column in ("after", "resident, MB", "C heap in use, MB", "C heap free, MB"):
        table.add_column(column, justify="right")
    for name, seconds, floods in STEPS:
        flood.play(seconds, flood=floods)
        table.add_row(name, *(f"{held:.0f}" for held in memory(libc)))
    libc.malloc_trim(0)
    table.add_row("malloc_trim", *(f"{held:.0f}" for held in memory(libc)))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
