"""Who was asked, who answered and how late: every prediction matched to the event it belongs to.

Lives here: the account of one load run (lost, duplicated, mismatched) and its latencies, from the outside: it
trusts nothing the engine says about itself.  Never here: Kafka, clocks (times are arguments).

Strategy: an event is entered before it is sent, so that no answer can come first.  The first
answer to an event counts for the latency; each further one is a duplicate (a reader that
ignores claims sees answers at least once).  An answer must carry what its event carried:
prediction id, event time, key and partition.

Latencies are taken from the *scheduled* send time, so a stalled system is charged for every
event that should have been sent meanwhile (the coordinated-omission rule of wrk2, G. Tene,
"How NOT to Measure Latency"); no correction afterwards is needed.
"""

from __future__ import annotations

import heapq
from importlib import import_module
from typing import Any, NamedTuple

from topics.errors import SettingsError

__all__ = [
    "EVENTS_MAX",
    "NOTES_MAX",
    "PERCENTILES",
    "Account",
    "Answer",
    "AskedEvent",
    "Latency",
    "Ledger",
    "histogram_class",
]

EVENTS_MAX = 20_000_000
"""Events of one run: about 200 bytes each are kept until the end."""
NOTES_MAX = 5
"""Mismatches told in words, and ids named of each trouble; the rest is only counted."""
PERCENTILES = (50.0, 90.0, 99.0, 99.9)
LOWEST_US = 1
HIGHEST_US = 3_600_000_000
"""One hour: an answer that takes longer is counted as one hour."""
DIGITS = 3


class AskedEvent(NamedTuple):
    """An event as it was sent."""

    key: bytes
    event_time: int
    partition: int
    scheduled_ns: int
    """When it was due, whatever the sender did: latency starts here."""


class Answer(NamedTuple):
    """A prediction's event, answer and position in the log."""

    prediction_id: str
    event_id: str
    event_time: int
    key: bytes | None
    partition: int


class Account(NamedTuple):
    """The result of a run, in events."""

    sent: int
    answered: int
    """Events with at least one prediction."""
    lost: int
    duplicated: int
    """Predictions beyond the first of their event."""
    mismatched: int
    """Predictions whose id, time, key or partition is not that of their event."""
    foreign: int
    """Predictions of events that this run did not send."""
    notes: tuple[str, ...]
    """The first mismatches in words."""

    @property
    def sound(self) -> bool:
        """Return whether every event was answered and every answer fits."""
        return not self.lost and not self.mismatched


class Ledger:
    """The events of one run and their answers.

    >>> ledger = Ledger("fraud")
    >>> ledger.asked("e1", AskedEvent(b"card-1", 5, 0, scheduled_ns=1_000))
    >>> ledger.answered(Answer("fraud:e1", "e1", 5, b"card-1", 0), at_ns=4_000)
    3000
    >>> ledger.answered(Answer("fraud:e1", "e1", 5, b"card-1", 0), at_ns=9_000) is None
    True
    >>> ledger.account()[:5]
    (1, 1, 0, 1, 0)
    """

    def __init__(self, pipeline_name: str) -> None:
        self._prefix = f"{pipeline_name}:"
        self._asked: dict[str, AskedEvent] = {}
        self._open: set[str] = set()
        self._duplicated = self._mismatched = self._foreign = 0
        self._notes: list[str] = []
        self._repeats: list[str] = []
        self._strangers: list[str] = []
        """Ids of the first duplicates, and of the first answers to no event."""

    @property
    def sent(self) -> int:
        """Return how many events were entered."""
        return len(self._asked)

    @property
    def waiting(self) -> int:
        """Return how many events have no answer yet."""
        return len(self._open)

    def asked(self, event_id: str, event: AskedEvent) -> None:
        """Enter an event before it is sent.  Raises ValueError for an id entered before."""
        if event_id in self._asked:
            raise ValueError(f"event id {event_id} was sent before")
        self._asked[event_id] = event
        self._open.add(event_id)

    def answered(self, answer: Answer, *, at_ns: int) -> int | None:
        """Enter a prediction; return its latency in ns if it is the first of its event, else None."""
        event = self._asked.get(answer.event_id)
        if event is None:
            self._foreign += 1
            _keep(self._strangers, answer.event_id)
            return None
        self._compare(event, answer)
        if answer.event_id not in self._open:
            self._duplicated += 1
            _keep(self._repeats, answer.event_id)
            return None
        self._open.remove(answer.event_id)
        return at_ns - event.scheduled_ns

    def _compare(self, event: AskedEvent, answer: Answer) -> None:
        wanted = (self._prefix + answer.event_id, event.event_time, event.key, event.partition)
        found = (answer.prediction_id, answer.event_time, answer.key, answer.partition)
        if wanted == found:
            return
        self._mismatched += 1
        names = ("prediction_id", "event_time", "key", "partition")
        wrong = [
            f"{name} {has!r} for {must!r}"
            for name, has, must in zip(names, found, wanted, strict=True)
            if has != must
        ]
        _keep(self._notes, f"event {answer.event_id}: {', '.join(wrong)}")

    def account(self) -> Account:
        """Return the account as it stands."""
        sent, lost = len(self._asked), len(self._open)
        return Account(
            sent,
            sent - lost,
            lost,
            self._duplicated,
            self._mismatched,
            self._foreign,
            tuple(self._notes),
        )

    def complaint(self) -> str | None:
        """Return what is wrong so far, in words; None where each event has exactly one answer, its own."""
        troubles = (
            (len(self._open), "events without a prediction", heapq.nsmallest(NOTES_MAX, self._open)),
            (self._duplicated, "predictions repeated", self._repeats),
            (self._foreign, "predictions for no event", self._strangers),
            (self._mismatched, "predictions that do not fit their events", self._notes),
        )
        parts = [
            f"{count:,} {what} ({', '.join(few)}{', ...' if count > len(few) else ''})"
            for count, what, few in troubles
            if count
        ]
        return "; ".join(parts) or None


def _keep(few: list[str], one: str) -> None:
    if len(few) < NOTES_MAX:
        few.append(one)


class Latency:
    """Durations as an HDR histogram: constant memory, exact to three digits at every percentile.

    Raises SettingsError where `hdrhistogram` is not installed.

    >>> latency = Latency()
    >>> for nanoseconds in (1_000_000, 2_000_000, 3_000_000):
    ...     latency.record(nanoseconds)
    >>> summary = latency.summary_ms()
    >>> round(summary["p50"]), round(summary["max"])
    (2, 3)
    """

    def __init__(self) -> None:
        self._histogram = histogram_class()(LOWEST_US, HIGHEST_US, DIGITS)

    def __len__(self) -> int:
        return int(self._histogram.get_total_count())

    def record(self, duration_ns: int) -> None:
        """Add one duration; what is shorter than 1 us counts as 1 us."""
        self._histogram.record_value(min(max(duration_ns // 1_000, LOWEST_US), HIGHEST_US))

    def encoded(self) -> str:
        """Return the histogram, in us, in HDR's own encoding."""
        text: bytes = self._histogram.encode()
        return text.decode("ascii")

    def merge(self, encoded: str) -> None:
        """Add the durations of another histogram in HDR's own encoding."""
        self._histogram.decode_and_add(encoded)

    def at_ms(self, level: float) -> float:
        """Return the duration in ms below which `level` per cent lie."""
        return float(self._histogram.get_value_at_percentile(level)) / 1_000

    def summary_ms(self) -> dict[str, float]:
        """Return mean, percentiles and maximum in milliseconds; empty without a value."""
        if not len(self):
            return {}
        histogram = self._histogram
        values = {f"p{level:g}": histogram.get_value_at_percentile(level) for level in PERCENTILES}
        values = {"mean": histogram.get_mean_value(), **values, "max": histogram.get_max_value()}
        return {name: round(value / 1_000, 3) for name, value in values.items()}


def histogram_class() -> Any:
    """Return the histogram of `hdrhistogram`.  Raises SettingsError where it is not installed."""
    try:
        return import_module("hdrh.histogram").HdrHistogram
    except ModuleNotFoundError:
        raise SettingsError(
            "the load test needs the package hdrhistogram", hint="pip install 'headrace[bench]'"
        ) from None
