"""The monitors for operators: their figures as one gauge, of a bounded number of series.

Lives here: which figures of a report are told, under which subject, how many at most.  Never here: what a
monitor sees (`operators/monitor`), names of metrics (`engine/metrics.py`).

    monitor       figure        subject                       value
    worst         found         ""                            its signals, as alerts have them
    slices        loss          origin: HNL                   of what was served, the largest slices first
    tests         failing       invariant origin              share of the rows at the last stop
    importance    importance    origin                        the most important first
    fairness      difference    sex positive_rate             of the largest and the smallest group
    random        loss          a candidate, or served        of rows that chance let somebody answer
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from operators.monitor.monitors import Monitors
from operators.race.evaluation import SERVED

__all__ = ["SUBJECTS_MAX", "MonitorFigures", "figures_of", "told_of"]

SUBJECTS_MAX = 50
"""Of one monitor: each is a series of Prometheus'."""
SUBJECT_CHARS_MAX = 100
Figure = tuple[str, str, str]
"""(monitor, figure, subject)."""
NAMED = ("slices", "tests", "importance", "fairness", "random")
"""Monitors of which figures are told that no signal has."""


class MonitorFigures(NamedTuple):
    """What a scrape tells of monitors; nothing where another process leads."""

    values: Mapping[Figure, float] = {}
    left_out: Mapping[str, int] = {}
    """By monitor: figures for which there was no room."""


def figures_of(monitors: Monitors) -> MonitorFigures:
    """Return the figures of the monitors of a race."""
    report = {name: monitors.report_of(name) for name in NAMED if name in monitors.parts}
    return told_of(report, monitors.signals())


def told_of(report: Mapping[str, Any], signals: Mapping[str, float]) -> MonitorFigures:
    """Return the figures of monitors, by what each reports and its signals.

    >>> report = {"tests": {"tests": {"invariant origin": {"failing": 0.1}}}}
    >>> told_of(report, {"tests.failing": 1.0}).values
    {('tests', 'failing_tests', ''): 1.0, ('tests', 'failing', 'invariant origin'): 0.1}
    """
    values: dict[Figure, float] = {}
    for signal, value in signals.items():
        monitor, _, figure = signal.partition(".")
        values[monitor, "failing_tests" if signal == "tests.failing" else figure, ""] = value
    left_out: dict[str, int] = {}
    for monitor in NAMED:
        told = list(_subjects(monitor, report.get(monitor) or {}))
        for figure, subject, value in told[:SUBJECTS_MAX]:
            values[monitor, figure, subject[:SUBJECT_CHARS_MAX]] = value
        if told:
            left_out[monitor] = max(len(told) - SUBJECTS_MAX, 0)
    return MonitorFigures(values, left_out)


def _subjects(monitor: str, told: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    """Yield (figure, subject, value) of what a monitor reports, what matters most first."""
    match monitor:
        case "slices":
            slices = [
                (served["rows"], f"{feature}: {value}", served["loss"])
                for feature, by_value in told.items()
                for value, by_series in by_value.items()
                if "loss" in (served := by_series.get(SERVED, {}))
            ]
            for _, subject, loss in sorted(slices, key=lambda one: (-one[0], one[1])):
                yield "loss", subject, loss
        case "tests":
            yield from (("failing", name, test["failing"]) for name, test in told.get("tests", {}).items())
        case "importance":
            for name, feature in told.get("features", {}).items():
                yield "importance", name, feature["importance"]
        case "fairness":
            yield from (("difference", name, bound["difference"]) for name, bound in told.items())
        case "random":
            yield from (("loss", name, one["loss"]) for name, one in told.items() if "loss" in one)
