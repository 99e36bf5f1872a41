"""A worker of one's own: what it is told, that its end is never missed, and its page read as figures."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from engine.local.worker import WorkerPage, WorkerProcess, environment, read_page
from engine.settings import KafkaSettings, load_settings
from topics.errors import BrokerError

KAFKA = KafkaSettings(bootstrap_servers="127.0.0.1:1", enable_idempotence=False, session_timeout_ms=2_000,
                      heartbeat_interval_ms=500)  # fmt: skip


def test_the_worker_is_told_the_password_and_not_its_mask(tmp_path: Path) -> None:
    secret = {"security_protocol": "SASL_SSL", "sasl_username": "me", "sasl_password": "s3cret"}
    told = environment(KafkaSettings.model_validate(secret), state_dir=tmp_path, web_port=7)
    assert {told[f"HEADRACE_KAFKA__{name.upper()}"] for name in secret} == set(secret.values())


def test_the_worker_reads_back_what_it_was_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEADRACE_REDIS_URL", "redis://of-the-user")
    told = environment(KAFKA, state_dir=tmp_path, web_port=7)
    for name in ("HEADRACE_REDIS_URL", *told):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    settings = load_settings()
    assert settings.kafka == KAFKA
    assert (settings.state_dir, settings.web.port, settings.web.host) == (tmp_path, 7, "127.0.0.1")
    assert settings.redis_url is None, "the demo shares no state with anything of the user's"


def test_a_death_is_reported_with_the_end_of_the_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('once upon a time'); raise SystemExit(4)"]
    with WorkerProcess(command, KAFKA, tmp_path) as worker:
        assert worker._process is not None
        worker._process.wait(30)
        assert worker.metrics() is None
        with pytest.raises(BrokerError, match=r"exit code 4(?s:.*)once upon a time"):
            worker.check()
        assert worker.stop() == 4
        assert worker.stop() is None


def test_leaving_the_block_ends_the_process(tmp_path: Path) -> None:
    with WorkerProcess([sys.executable, "-c", "import time; time.sleep(60)"], KAFKA, tmp_path) as worker:
        process = worker._process
        assert process is not None
        worker.check()
    assert process.poll() is not None


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
