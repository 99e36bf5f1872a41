"""A worker's page of metrics, read as figures."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from loadtest.worker_page import WorkerPage, read_page


def page_text() -> str:
    registry = CollectorRegistry()
    labels = Counter("headrace_labels_total", "-", ["outcome"], registry=registry)
    labels.labels("joined").inc(41)
    labels.labels("late").inc(3)
    Counter("headrace_examples_total", "-", registry=registry).inc(40)
    letters = Counter("headrace_dead_letters_total", "-", ["stage"], registry=registry)
    letters.labels("decode").inc(1)
    letters.labels("features").inc(1)
    lag = Gauge("headrace_consumer_lag_records", "-", ["topic", "partition"], registry=registry)
    lag.labels("flights.departures", "0").set(5)
    lag.labels("flights.arrivals", "0").set(2)
    steps = Counter("headrace_step_seconds", "-", ["step"], registry=registry)
    for step, seconds in {"decode": 0.25, "score": 0.5, "send": 9.0}.items():
        steps.labels(step).inc(seconds)
    durations = Histogram("headrace_prediction_duration_seconds", "-", buckets=(0.01, 1.0), registry=registry)
    for seconds in (0.005, 0.5, 7.0):
        durations.observe(seconds)
    info = Gauge("headrace_model_info", "-", ["model", "version", "kind", "alias"], registry=registry)
    info.labels("linear", "2", "LogisticRegression", "champion").set(1)
    info.labels("adaptive", "1", "HoeffdingAdaptiveTreeClassifier", "champion").set(0)
    info.labels("adaptive", "1", "HoeffdingAdaptiveTreeClassifier", "challenger").set(1)
    score = Gauge("headrace_model_score", "-", ["model", "metric", "window"], registry=registry)
    score.labels("linear", "Brier", "all").set(0.19)
    score.labels("linear", "Brier", "recent").set(0.17)
    Gauge("headrace_model_updates", "-", ["model"], registry=registry).labels("linear").set(40)
    Gauge("headrace_model_evidence", "-", ["model"], registry=registry).labels("adaptive").set(1.5)
    return generate_latest(registry).decode()


def test_a_page_of_metrics_becomes_figures() -> None:
    page = read_page(page_text())
    assert (page.joined, page.learned, page.dead_letters, page.lag) == (41, 40, 2, 7)
    assert (page.answered, page.busy_s) == (3, 0.75), "waiting for the broker is no work"
    linear, adaptive = page.candidates
    assert page.champion is linear
    assert (linear.name, linear.version, linear.labels, linear.evidence) == ("linear", 2, 40, None)
    assert linear.scores == {"Brier": 0.19}, "over everything learned"
    assert (adaptive.alias, adaptive.evidence, adaptive.scores) == ("challenger", 1.5, {})
    assert page.candidate("adaptive") is adaptive


def test_an_empty_page_is_all_zero() -> None:
    assert read_page("") == WorkerPage()


@given(st.lists(st.floats(0.0, 0.9), min_size=1, max_size=50))
def test_latency_lies_in_the_bucket_of_the_values_it_stands_for(values: list[float]) -> None:
    registry = CollectorRegistry()
    bounds = (0.001, 0.01, 0.1, 1.0)
    histogram = Histogram("headrace_prediction_duration_seconds", "-", buckets=bounds, registry=registry)
    for value in values:
        histogram.observe(value)
    latency = read_page(generate_latest(registry).decode()).latency_ms
    assert latency is not None
    for found, share in zip(latency, (0.5, 0.99), strict=True):
        truth = sorted(values)[math.ceil(share * len(values)) - 1]
        high = next(bound for bound in bounds if truth <= bound)
        low = max((bound for bound in bounds if bound < high), default=0.0)
        assert 1e3 * low <= found <= 1e3 * high * (1 + 1e-12)
