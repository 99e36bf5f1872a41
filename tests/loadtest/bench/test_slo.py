"""The search for the highest rate finds it in few steps, and a promise is read as it is meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from engine.cli.main import app
from loadtest.bench.openloop import Load
from loadtest.bench.runs import found_rate
from loadtest.bench.slo import PRECISION, STEPS_MAX, RateStep, broken, next_rate, parsed_bounds
from topics.errors import DefinitionError, SettingsError

PLAN = Load(rate=100.0, duration_s=30.0, warmup_s=2.0, patience_s=15.0)


def report_at(rate: float, *, knee: float) -> dict[str, Any]:
    """A run of a worker whose p99 is 20 ms up to its knee and half a second beyond."""
    return {
        "verdict": {"sustained": True, "text": "sustained"},
        "latency_ms": {"p50": 5.0, "p99": 20.0 if rate <= knee else 500.0},
        "lost": 0,
        "rate": rate,
    }


@given(st.floats(3, 20_000))
def test_the_highest_rate_is_found_within_the_precision(knee: float) -> None:
    heard: list[RateStep] = []
    search = found_rate(
        lambda plan: report_at(plan.rate, knee=knee), PLAN, parsed_bounds(["p99<50ms"]), heard.append
    )
    assert search.rate is not None
    assert search.rate <= knee
    assert list(search.steps) == heard
    assert len(search.steps) <= STEPS_MAX
    # A rate is rounded to three digits, so one such digit is added to the precision.
    assert knee / search.rate <= (1 + PRECISION) * 1.01 or len(search.steps) == STEPS_MAX
    assert len({step.rate for step in search.steps}) == len(search.steps), "no rate is tried twice"
    assert all(step.held == (step.rate <= knee) for step in search.steps)


def test_where_no_rate_holds_none_is_told() -> None:
    search = found_rate(
        lambda plan: report_at(plan.rate, knee=0.0), PLAN, parsed_bounds(["p99<50ms"]), lambda _: None
    )
    assert search.rate is None
    assert min(step.rate for step in search.steps) < 2


@given(st.lists(st.tuples(st.floats(1, 1e5), st.booleans()), max_size=STEPS_MAX))
def test_a_noisy_search_goes_on_between_what_held_and_what_failed(tried: list[tuple[float, bool]]) -> None:
    steps = [RateStep(rate, held, "") for rate, held in tried]
    following = next_rate(steps, 100.0)
    if following is None or not steps:
        return
    failed = [step.rate for step in steps if not step.held]
    assert following < min(failed, default=float("inf"))
    assert not [step for step in steps if step.held and following < step.rate < min(failed, default=0.0)]


@pytest.mark.parametrize(
    ("text", "change", "told"),
    [
        ("p99<50ms", {}, ""),
        ("p99<20ms", {}, "p99<20ms: p99 was 20 ms"),
        ("p50<1s, p99<10ms", {}, "p99<10ms: p99 was 20 ms"),
        ("lost=0", {"lost": 2}, "lost=0: lost was 2"),
        ("lost<3", {"lost": 2}, ""),
        ("lost<2", {"lost": 2}, "lost<2: lost was 2"),
        ("p99<50ms", {"latency_ms": {}}, "p99<50ms: nothing was timed"),
        ("p99<50ms", {"verdict": {"sustained": False, "text": "NOT sustained"}}, "NOT sustained"),
    ],
)
def test_a_broken_promise_is_told_with_its_figure(text: str, change: dict[str, Any], told: str) -> None:
    assert broken(parsed_bounds([text]), {**report_at(100, knee=200), **change}) == told


@pytest.mark.parametrize(
    "text", ["", "p99", "p98<5ms", "p99=5ms", "p99<fast", "lost<1ms", "p99>5ms", "rate<5"]
)
def test_what_is_no_promise_is_refused_before_anything_starts(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*_: object) -> None:
        raise AssertionError("a load test without a goal must start nothing")

    monkeypatch.setattr("loadtest.bench.command.sandbox", started)
    file = Path(__file__).parents[3] / "examples/flights/pipeline.py"
    done = CliRunner().invoke(app, ["bench", "--pipeline", str(file), "--slo", text])
    assert isinstance(done.exception, SettingsError | DefinitionError), done.output
