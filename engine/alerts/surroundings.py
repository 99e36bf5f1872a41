"""The alerts that a worker tells of its own surroundings: lag, checkpoints, its store, refused records.

Lives here: the signals of a worker, out of its counters; going on with what the last owner has told.  Never
here: when an alert begins and ends (`operators/monitor/alerts.py`), a clock (time is an argument), channels.

An alert of a worker is about the partitions that it owns, and its subject is the first of them.  Who takes
that partition over reads on the alerts topic what was told of it, and goes on under the same id, whatever
became of the last owner.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import NamedTuple

from engine.definition.pipeline import Pipeline
from engine.metrics import Counts
from operators.join.completeness import AGES
from operators.monitor.alerts import AlertBook, Readings
from topics.messages import AlertRecord

__all__ = ["Surroundings", "WorkerAlerts"]

SPAN_MS = 120_000
"""Over which shares of records are taken."""
SAMPLES_MAX = 600
WAITED = f"{AGES[-1]:g}"
"""The age at which the wait of an answer has ended, as its counters name it."""
RECORDS_MIN = 20
"""Of fewer records a share says nothing."""


class Surroundings(NamedTuple):
    """What a worker knows of itself at one moment."""

    owned: frozenset[int]
    """Partitions that it has restored; empty while it takes over."""
    lag_records: int
    checkpoint_age_ms: float
    store_away_ms: float


class _Sample(NamedTuple):
    """Counters at one moment."""

    time_ms: int
    records: int
    refused: int
    aged: int
    """Answers whose wait has ended ..."""
    labelled: int
    """... and of them those with a label."""


class WorkerAlerts:
    """The alerts of one worker about its surroundings."""

    def __init__(self, pipeline: Pipeline, counts: Counts) -> None:
        """`counts` are those of the worker's metrics."""
        self._counts = counts
        self._left_out: Counter[tuple[str, str]] = Counter()
        alerts = [one for one in pipeline.policies if one.scope == "worker"]
        self.book = AlertBook(pipeline.name, alerts, self._left_out)
        self._drops = pipeline.labels.topic is not None and pipeline.labels.on_timeout == "drop"
        self._samples: deque[_Sample] = deque(maxlen=SAMPLES_MAX)

    def adopt(self, owned: frozenset[int], told: Iterable[AlertRecord]) -> None:
        """Watch these partitions from here on, and go on with what others have told of them."""
        subjects = {str(number) for number in owned}
        self.book.forget(lambda subject: subject not in subjects)
        self.book.adopt(one for one in told if one.subject in subjects)

    def look(self, now_ms: int, seen: Surroundings) -> list[AlertRecord]:
        """Return what is to be told as of `now_ms`."""
        self._samples.append(self._sample(now_ms))
        while len(self._samples) > 2 and now_ms - self._samples[0].time_ms > SPAN_MS:
            self._samples.popleft()
        told = self.book.read(now_ms, self._readings(seen))
        self._counts.update(self._left_out)
        self._left_out.clear()
        return told

    def _readings(self, seen: Surroundings) -> Readings:
        values = {
            "lag_records": float(seen.lag_records),
            "checkpoint_age_ms": seen.checkpoint_age_ms,
            "store_away_ms": seen.store_away_ms,
        } | self._shares()
        first = str(min(seen.owned))
        subjects: dict[str, str] = {}
        """By signal, the subject under which an alert about it fires already."""
        for alert in self.book.alerts:
            for subject in self.book.subjects(alert.name):
                subjects.setdefault(alert.when.signal, subject)  # type: ignore[union-attr]
        return {name: {subjects.get(name, first): value} for name, value in values.items()}

    def _shares(self) -> dict[str, float]:
        first, last = self._samples[0], self._samples[-1]
        records, refused = last.records - first.records, last.refused - first.refused
        aged, labelled = last.aged - first.aged, last.labelled - first.labelled
        shares: dict[str, float] = {}
        if records >= RECORDS_MIN or not refused:
            shares["dead_letter_share"] = refused / max(records, 1)
        if self._drops and aged >= RECORDS_MIN:
            shares["label_completeness"] = labelled / aged
        return shares

    def _sample(self, now_ms: int) -> _Sample:
        sums: Counter[str] = Counter()
        for (metric, _), count in self._counts.items():
            if metric in {"events", "labels", "dead_letters"}:
                sums[metric] += count
        counts = self._counts
        return _Sample(
            now_ms,
            sums["events"] + sums["labels"] + sums["dead_letters"],
            sums["dead_letters"],
            counts["aged", WAITED],
            counts["aged_labelled", WAITED],
        )
