"""Percentiles against a sorted list."""

import random

import pytest

from loadtest.bench import latency as module
from loadtest.bench.latency import HIGHEST_US, Latency
from topics.errors import SettingsError


def test_percentiles_are_those_of_the_sorted_values_to_three_digits():
    rng = random.Random(7)
    values = sorted(int(rng.lognormvariate(15, 1.5)) for _ in range(5_000))
    latency = Latency()
    for value in values:
        latency.record(value)
    summary = latency.summary_ms()
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)):
        exact = values[int(share * len(values)) - 1] / 1e6
        assert summary[name] == pytest.approx(exact, rel=3e-3, abs=2e-3)
    assert summary["max"] == pytest.approx(values[-1] / 1e6, rel=2e-3)
    assert summary["mean"] == pytest.approx(sum(values) / len(values) / 1e6, rel=2e-3)
    assert len(latency) == 5_000


def test_values_outside_the_range_are_kept_at_its_ends():
    latency = Latency()
    latency.record(-5)
    latency.record(10**18)
    assert len(latency) == 2
    assert latency.summary_ms()["max"] == pytest.approx(HIGHEST_US / 1_000, rel=1e-3)


def test_nothing_recorded_is_an_empty_summary():
    assert Latency().summary_ms() == {}


def test_a_missing_package_is_said_with_its_fix(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(module, "import_module", missing)
    with pytest.raises(SettingsError, match=r"headrace\[bench\]"):
        Latency()
