"""The page that a worker shows at `/metrics`, as figures.

Lives here: reading the page.  Never here: asking for it (`worker_process.py`), judging or showing it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

__all__ = ["ModelFigures", "WorkerPage", "read_page"]


class ModelFigures(NamedTuple):
    """One model as the worker's metrics describe it."""

    name: str
    version: int
    kind: str
    alias: str
    labels: int
    scores: Mapping[str, float]
    """River metric -> value over everything learned."""
    evidence: float | None
    """Share of what a swap needs; None where the page has none."""


class WorkerPage(NamedTuple):
    """One reading of `/metrics`."""

    joined: int = 0
    learned: int = 0
    dead_letters: int = 0
    lag: int = 0
    answered: int = 0
    busy_s: float = 0.0
    """Seconds spent in steps other than sending."""
    latency_ms: tuple[float, float] | None = None
    """Median and 99th percentile from a record's poll to its prediction's send; None before the first."""
    candidates: tuple[ModelFigures, ...] = ()

    @property
    def champion(self) -> ModelFigures | None:
        """The candidate that serves, once the worker has named one."""
        return next((candidate for candidate in self.candidates if candidate.alias == "champion"), None)

    def candidate(self, name: str) -> ModelFigures | None:
        """Return the candidate of this name, None if the page has none."""
        return next((candidate for candidate in self.candidates if candidate.name == name), None)


def read_page(text: str) -> WorkerPage:
    """Return what a Prometheus text page says about a worker; what is missing counts as zero."""
    totals: Counter[str] = Counter()
    info: dict[str, dict[str, str]] = {}
    scores: defaultdict[str, dict[str, float]] = defaultdict(dict)
    updates: dict[str, int] = {}
    evidence: dict[str, float] = {}
    durations: list[tuple[float, float]] = []
    busy_s = 0.0
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sample.labels
            match sample.name:
                case "headrace_labels_total":
                    totals[labels.get("outcome", "")] += int(sample.value)
                case (
                    "headrace_examples_total"
                    | "headrace_dead_letters_total"
                    | "headrace_consumer_lag_records"
                ):
                    totals[sample.name] += int(sample.value)
                case "headrace_step_seconds_total" if labels["step"] != "send":
                    busy_s += sample.value
                case "headrace_prediction_duration_seconds_bucket":
                    durations.append((float(labels["le"]), sample.value))
                case "headrace_model_info" if sample.value:
                    info[labels["model"]] = labels
                case "headrace_model_score" if labels["window"] == "all" and math.isfinite(sample.value):
                    scores[labels["model"]][labels["metric"]] = sample.value
                case "headrace_model_updates":
                    updates[labels["model"]] = int(sample.value)
                case "headrace_model_evidence":
                    evidence[labels["model"]] = sample.value
    candidates = tuple(
        ModelFigures(
            name=name,
            version=int(labels.get("version", "0")),
            kind=labels.get("kind", ""),
            alias=labels.get("alias", ""),
            labels=updates.get(name, 0),
            scores=scores[name],
            evidence=evidence.get(name),
        )
        for name, labels in info.items()
    )
    return WorkerPage(
        joined=totals["joined"],
        learned=totals["headrace_examples_total"],
        dead_letters=totals["headrace_dead_letters_total"],
        lag=totals["headrace_consumer_lag_records"],
        answered=int(durations[-1][1]) if durations else 0,
        busy_s=busy_s,
        latency_ms=_percentiles_ms(durations),
        candidates=tuple(sorted(candidates, key=lambda one: (one.alias != "champion", one.name))),
    )


def _percentiles_ms(buckets: list[tuple[float, float]]) -> tuple[float, float] | None:
    """Return median and 99th percentile of a cumulative histogram in seconds, linear within a bucket.

    As Prometheus's `histogram_quantile`: beyond the last finite bound it is that bound.

    >>> _percentiles_ms([(0.01, 50.0), (0.02, 98.0), (0.1, 100.0), (float("inf"), 100.0)])
    (10.0, 60.0)
    """
    if not buckets or not buckets[-1][1]:
        return None
    return _quantile_ms(buckets, 0.5), _quantile_ms(buckets, 0.99)


def _quantile_ms(buckets: list[tuple[float, float]], share: float) -> float:
    wanted, low, below = share * buckets[-1][1], 0.0, 0.0
    for high, count in buckets:
        if count >= wanted:
            inside = (wanted - below) / (count - below) if count > below else 1.0
            return 1e3 * (low if math.isinf(high) else low + (high - low) * inside)
        low, below = high, count
    return 1e3 * low
