"""What a scenario sends is a function of its numbers: as much as its rate says, when it says, in order."""

from __future__ import annotations

from bisect import bisect_left

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paths import CHECKOUT
from typer.testing import CliRunner

from engine.cli.main import app
from engine.definition.streams import Labels
from loadtest.bench.feed import LabelFeed
from loadtest.bench.openloop import Load
from loadtest.bench.report import knee_per_s
from loadtest.bench.schedule import HOT_SHARE, LOAD_SCENARIOS, STRAY_LABELS, LoadScenario, Schedule
from loadtest.bench.slices import Slice
from topics.errors import SettingsError

SCHEDULES = st.builds(
    Schedule,
    scenario=st.sampled_from(LOAD_SCENARIOS),
    rate=st.floats(1, 300),
    duration_s=st.floats(3, 20),
    seed=st.integers(0, 9),
)


@given(SCHEDULES)
def test_events_are_due_in_order_and_as_often_as_the_rate_says(schedule: Schedule) -> None:
    due = [schedule.due_s(number) for number in range(schedule.events)]
    assert due == sorted(due)
    assert due[0] == 0
    assert due[-1] < schedule.duration_s
    # Beside an integral of the rate in a thousand steps; one step may straddle a burst's edge.
    step_s, expected = schedule.duration_s / 1_000, 0.0
    for step in range(1_000):
        at_s = step * step_s
        assert abs(bisect_left(due, at_s) - expected) <= 1 + 0.01 * schedule.events
        expected += schedule.rate_at(at_s + step_s / 2) * step_s


@pytest.mark.parametrize("scenario", LOAD_SCENARIOS)
def test_each_trouble_comes_in_its_own_scenario_alone(scenario: LoadScenario) -> None:
    schedule = Schedule(scenario, rate=100.0, duration_s=30.0, seed=3)
    third = schedule.events // 3
    thirds = [range(third), range(third, 2 * third), range(2 * third, schedule.events)]
    hot, strays, drifted = (
        [sum(map(told, part)) for part in thirds]
        for told in (schedule.is_hot, schedule.stray_labels, schedule.is_drifted)
    )
    if scenario == "hot-key":
        assert hot[1] == pytest.approx(HOT_SHARE * third, rel=0.05)
        assert (hot[0], hot[2]) == (0, 0)
    else:
        assert hot == [0, 0, 0]
    assert strays == ([0, STRAY_LABELS * third, 0] if scenario == "label-flood" else [0, 0, 0])
    assert drifted == ([0, third // 2, third] if scenario == "drift" else [0, 0, 0])


def test_another_seed_has_another_order_of_hot_events() -> None:
    first, second = (Schedule("hot-key", 100.0, 30.0, seed) for seed in (1, 2))
    told = [[one.is_hot(number) for number in range(1_000, 2_000)] for one in (first, second)]
    assert told[0] != told[1]


def test_the_same_event_has_another_label_once_the_truth_has_changed() -> None:
    feed = LabelFeed(Labels("x", wait="1h"), "regression", rows=50, is_drifted=lambda number: number >= 100)
    before, again, after = (
        [orjson.loads(feed.label(number, "e", 5)) for number in range(start, start + 50)]
        for start in (0, 50, 100)
    )
    assert before == again
    assert all(one != other for one, other in zip(before, after, strict=True))


def test_the_knee_of_a_ramp_is_where_answers_began_to_queue() -> None:
    def slice_at(at_s: float, waiting: int) -> Slice:
        none = {"p50_ms": None, "p99_ms": None, "cpu_s": None, "rss_mb": None}
        return Slice(at_s=at_s, seconds=1.0, answered=1, waiting=waiting, histogram="", **none)

    plan = Load(rate=1_000.0, duration_s=10.0, warmup_s=1.0, patience_s=5.0, scenario="ramp")
    calm = [slice_at(float(second), 90) for second in range(6)]
    assert knee_per_s(plan, calm) is None
    assert knee_per_s(plan, [*calm, slice_at(6.0, 700), slice_at(7.0, 3_000)]) == 640.0


def test_an_unknown_scenario_is_refused_with_those_that_exist() -> None:
    file = CHECKOUT / "examples/flights/pipeline.py"
    done = CliRunner().invoke(app, ["bench", "--pipeline", str(file), "--scenario", "tsunami"])
    assert isinstance(done.exception, SettingsError)
    assert "label-flood" in str(done.exception)
