"""What the page says, as JSON: parts that are made apart, as each is needed.

Lives here: what is read of a worker, in which words; what is about persons, and so in a part of its own.
Never here: when a part is made and for whom (`stream.py`), rates and quantiles: the browser has two moments
and takes the difference.

    about     once          which pipeline this is, and how its answers are explained
    facts     each second   counts, gauges, latency by bucket, lag, who races
    marks     as they come  decisions and alerts, each with its record
    group     as they come  the workers of the pipeline, and their sums
    race      seldom        curves, leads, calibration
    features  seldom        distributions and shift, where the pipeline watches
    persons   each second   the last answers, refused records: keys, ids and values of events
    slices    seldom        the same, of labelled events by their values
    cells     seldom        what lies in the cells of the features

All parts are read on the loop that answers events, between two of its turns, from what is there anyway.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from engine.definition.pipeline import Pipeline
from engine.group.members import totals
from engine.metrics import Metrics, Status
from engine.page.features import cell_names_of, features_told
from engine.page.race import race_of
from engine.page.rings import RaceMark
from engine.worker.loop import Worker
from operators.drift.watcher import Watcher
from operators.race.losses import judged_by, objective_name
from topics.messages import AlertRecord, Decision

__all__ = ["PageFacts", "shown_mark"]

LAGS_MAX: Final = 64
"""Partitions whose lag is told, the longest; the others are added up."""
SLICES_MAX: Final = 20
"""Slices told, the largest of each feature."""
TOLD_MS: Final = 5_000
"""How exactly it is told for how long a worker has been silent: what has not changed is not sent again."""
OPEN_ALERTS: Final = ("signal", "decision")
"""Alerts about the pipeline; the others name what an event held."""
COUNTED: Final = ("events", "predictions", "labels", "dead_letters", "aged", "aged_labelled", "page_refusals")
"""Counters that are told, each as it is counted (`engine/metrics.py`)."""


class PageFacts:
    """The parts of one worker's page."""

    def __init__(
        self, pipeline: Pipeline, worker: Worker, metrics: Metrics, file: Path | None = None
    ) -> None:
        """`file` is where the pipeline was read from: it stands in the command that explains an answer."""
        self._pipeline, self._worker, self._metrics = pipeline, worker, metrics
        self._file = "PIPELINE.py" if file is None else file.name
        self._started_ms = _now_ms()
        self._marks: tuple[int, bytes] = (-1, b"")
        """The marks as they were made last, and how many there had been."""

    def about(self) -> bytes:
        """Return what stays as it is."""
        pipeline = self._pipeline
        return _encoded(
            {
                "pipeline": pipeline.name,
                "version": version("headrace"),
                "river": version("river"),
                "task": pipeline.task,
                "loss": judged_by(pipeline.task, pipeline.promotion.loss, pipeline.threshold),
                "objective": objective_name(pipeline.promotion.loss),
                "per": pipeline.per,
                "wait_ms": pipeline.labels.wait_ms,
                "topics": dict(pipeline.catalog.roles),
                "started_ms": self._started_ms,
                "explain": f"headrace explain {self._file} PREDICTION_ID",
                "alerts": [{"policy": alert.name, "severity": alert.severity} for alert in pipeline.policies],
            }
        )

    def facts(self) -> bytes:
        """Return the numbers of this moment."""
        worker, metrics = self._worker, self._metrics
        status = worker.status()
        reason = worker.unhealthy() or worker.not_ready()
        return _encoded(
            {
                "now_ms": _now_ms(),
                "clock_ms": time.monotonic() * 1_000,  # rates go by it: the other one may jump
                "ready": not reason,
                "standing": reason or worker.standing(),
                "counts": _counts(metrics.counts),
                "scoring_s": _buckets(metrics.prediction_duration.read()),
                "end_to_end_s": _buckets(metrics.end_to_end.read()),
                "label_delay_s": _buckets(metrics.label_delay.read()),
                "page_s": metrics.seconds["step_seconds", "page"],
                **_lags(status),
                **_race(status),
                "pending": status.pending,
                "window_keys": status.window_keys,
                "unsaved": status.unsaved,
                "unlearned": status.unlearned,
                "partitions": status.partitions,
                "leading": status.leading,
                "paused": status.paused,
                "pinned": status.pinned,
                "checkpoint_ms": status.checkpoint_time_s * 1_000,
                "store_outage_s": status.store_outage_s,
                "firing": dict(status.firing),
                "shift": None if status.shift is None else status.shift._asdict(),
            }
        )

    def marks(self) -> bytes:
        """Return the decisions and alerts that the rings hold; those of keys without the key."""
        rings = self._worker.rings
        if rings.marked != self._marks[0]:
            self._marks = rings.marked, _encoded([shown_mark(mark) for mark in rings.marks()])
        return self._marks[1]

    def group(self) -> bytes:
        """Return what each worker of the pipeline says of itself, and the sums of those that are there."""
        group, now_ms = self._worker.group, _now_ms()
        members = group.members.told(now_ms)
        return _encoded(
            {
                "self": group.maker.worker,
                "trouble": group.trouble,
                "partitions": self._pipeline.events.partitions,
                "workers": [
                    {"gone": one.gone, "silent_ms": one.silent_ms // TOLD_MS * TOLD_MS, "status": one.status}
                    for one in members
                ],
                "totals": totals(members)._asdict(),
            }
        )

    def race(self) -> bytes:
        """Return curves, leads and calibration; nothing where this process has no race to show."""
        learner = self._worker.follower.shown
        if learner is None:
            return _encoded(None)
        return _encoded(
            {**race_of(learner), "calibration": learner.monitors.report_of("calibration") or None}
        )

    def features(self) -> bytes:
        """Return distributions of features and their shift; nothing where nobody here watches."""
        watcher = self._watcher
        told = None if watcher is None else features_told(watcher)
        return _encoded({"declared": self._pipeline.watch is not None, "told": told})

    def cells(self) -> bytes:
        """Return the bounds and categories by which features are compared: they are values of events."""
        watcher = self._watcher
        return _encoded({} if watcher is None else cell_names_of(watcher))

    @property
    def _watcher(self) -> Watcher | None:
        learner = self._worker.follower.shown
        watching = None if learner is None else learner.watching
        return None if watching is None else watching.watcher

    def persons(self) -> bytes:
        """Return what holds keys, ids or values of events."""
        rings = self._worker.rings
        return _encoded(
            {
                "answers": [
                    {"key": key, "scores": scores, "answer": answer}
                    for answer, key, scores in reversed(rings.answers)
                ],
                "letters": [
                    {**letter.refusal._asdict(), "sample": letter.sample.decode(errors="replace")}
                    for letter in rings.letters.values()
                ],
            }
        )

    def slices(self) -> bytes:
        """Return the largest slices of each feature: they are named by its values."""
        learner = self._worker.follower.shown
        slices = {} if learner is None else learner.monitors.report_of("slices")
        return _encoded({by: dict(list(values.items())[:SLICES_MAX]) for by, values in slices.items()})

    def timed(self, part: Callable[[], bytes]) -> bytes:
        """Return a part; the processor time that it takes is counted as a step of the worker's loop."""
        started_s = time.thread_time()
        try:
            return part()
        finally:
            self._metrics.seconds["step_seconds", "page"] += time.thread_time() - started_s


class _Bucketed(NamedTuple):
    bounds: list[float]
    counts: list[int]


def _buckets(read: tuple[list[float], list[int]]) -> dict[str, Any]:
    return _Bucketed(*read)._asdict()


def _counts(counts: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    told: dict[str, dict[str, int]] = {name: {} for name in COUNTED}
    for (name, value), count in counts.items():
        if name in told:
            told[name][value] = count
    return told


def _lags(status: Status) -> dict[str, Any]:
    """Return the longest lags, and the sums of all by topic."""
    longest = sorted(status.lag.items(), key=lambda item: (-item[1], item[0]))[:LAGS_MAX]
    sums: Counter[str] = Counter()
    for (topic, _), records in status.lag.items():
        sums[topic] += records
    return {
        "lag": [[topic, partition, records] for (topic, partition), records in longest],
        "lag_by_topic": dict(sums),
    }


def _race(status: Status) -> dict[str, Any]:
    """Return who races, and the scores by window, series and metric."""
    scores: dict[str, dict[str, dict[str, float]]] = {"all": {}, "recent": {}}
    for (series, metric, window), value in status.scores.items():
        scores[window].setdefault(series, {})[metric] = value
    return {
        "models": [model._asdict() for model in status.models],
        "champion_quarantined": status.champion_quarantined,
        "shares": dict(status.shares),
        "learning_log": dict(status.learning_log),
        "examples": status.examples,
        "races": status.races._asdict(),
        "scores": scores,
    }


def shown_mark(mark: RaceMark) -> dict[str, Any]:
    """Return a mark for everybody: without the key of a race, without what an event held."""
    record = mark.record
    told = {"number": mark.number, "kind": mark.kind, "time": record.time}
    if isinstance(record, Decision):
        if record.key:  # its id holds the key, too
            record = msgspec.structs.replace(record, key="", decision_id="")
        return {
            **told,
            "type": record.type,
            "name": record.model_name,
            "says": record.reason,
            "record": record,
        }
    return {**told, **_alert(record)}


def _alert(record: AlertRecord) -> dict[str, Any]:
    if record.kind not in OPEN_ALERTS:  # what is new in an event is in the alerts topic alone
        says = f"new in the events: {record.kind}"
        record = msgspec.structs.replace(
            record, alert_id="", says=says, subject="", category="", event_id="", look=""
        )
    return {"type": f"alert.{record.state}", "name": record.policy, "says": record.says, "record": record}


def _encoded(part: object) -> bytes:
    return msgspec.json.encode(part)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
