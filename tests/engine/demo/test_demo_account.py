"""The demo's counting: every event matched to one answer, nothing invented, the worker's page understood."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from engine.demo.account import Answer, Tally, WorkerPage, read_page


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
    linear, adaptive = page.candidates
    assert page.champion is linear
    assert (linear.name, linear.version, linear.labels, linear.evidence) == ("linear", 2, 40, None)
    assert (linear.scores, linear.recent) == ({"Brier": 0.19}, {"Brier": 0.17})
    assert (adaptive.alias, adaptive.evidence, adaptive.scores) == ("challenger", 1.5, {})
    assert page.candidate("adaptive") is adaptive


def test_an_empty_page_is_all_zero() -> None:
    assert read_page("") == WorkerPage()


def test_each_event_answered_once_is_no_complaint() -> None:
    tally = Tally({"a": True, "b": False})
    for event_id in "ab":
        tally.event_sent(event_id, 1_000)
    tally.answered(Answer("a", "tree", 0.5), now_s=2.0)
    assert tally.waiting == 1
    tally.answered(Answer("b", "linear", 0.1), now_s=2.0)
    assert tally.complaint() is None
    assert tally.served["tree"].mean == 0.25
    assert tally.served["linear"].mean == pytest.approx(0.01)


def test_missing_repeated_and_invented_answers_are_named() -> None:
    tally = Tally({"a": True, "b": False})
    tally.event_sent("a", 0)
    tally.event_sent("b", 0)
    for event_id in ("a", "a", "ghost"):
        tally.answered(Answer(event_id, "tree", None), now_s=1.0)
    complaint = tally.complaint()
    assert complaint is not None
    assert "1 events without a prediction (b)" in complaint
    assert "1 predictions repeated (a)" in complaint
    assert "1 predictions for no event (ghost)" in complaint
    assert tally.served == {}, "no opinion is no loss"


@given(st.lists(st.sampled_from("abcdef"), max_size=12), st.lists(st.sampled_from("abcdef"), max_size=12))
def test_silence_means_the_answers_are_the_events(sent: list[str], answered: list[str]) -> None:
    events = list(dict.fromkeys(sent))
    tally = Tally(dict.fromkeys("abcdef", True))
    for event_id in events:
        tally.event_sent(event_id, 0)
    for event_id in answered:
        tally.answered(Answer(event_id, "tree", 0.5), now_s=0.0)
    assert (tally.complaint() is None) == (sorted(events) == sorted(answered))


def test_label_delay_is_the_median_on_the_samples_clock() -> None:
    tally = Tally({})
    assert tally.label_delay_ms is None
    for delay in (1, 5, 100):
        tally.label_sent(1_000 + delay, 1_000)
    assert tally.label_delay_ms == 5
    assert tally.simulated_ms == 1_100


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
