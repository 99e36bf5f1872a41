"""A small version of the experiment, on streams that need no data; the page's parts."""

from __future__ import annotations

import re

import numpy as np
import pytest

from loadtest.shift import __main__ as shift
from loadtest.shift.cost import Cost
from loadtest.shift.plants import PRACTICAL, _drawn_again, plants_of
from loadtest.shift.power import LabelBound, _chance
from loadtest.shift.streams import Days, made_up
from loadtest.shift.tables import (
    Alarms,
    PlantHits,
    alarms_table,
    confusion_table,
    cost_table,
    hits_table,
    power_table,
)
from loadtest.shift.trial import play_days
from operators.drift.watch import Watch

RUNS = 2


@pytest.fixture(scope="module")
def stream() -> Days:
    draw, model = made_up(0.0, 0.15)
    rng = np.random.default_rng(0)
    return Days("made up", "made up", [draw(rng, n) for n in range(28)], model, 3_600_000, weekly=True)


def test_streams_that_stand_still_give_no_more_verdicts_than_promised() -> None:
    draw, model = made_up(0.0, 0.15)
    found = days = 0
    for seed in range(RUNS):
        run = play_days(draw, model, Watch(), seed=seed, length=118, delay_ms=3_600_000)
        found, days = found + len(run.found), days + run.days
    assert days == RUNS * 90
    assert found <= days / 30


def test_plants_cost_what_they_should_and_most_are_found_for_what_they_are(stream: Days) -> None:
    plants = plants_of(stream)
    assert {plant.verdict for plant in plants} == {
        "covariate_shift", "label_shift", "concept_drift", "pipeline_fault",
    }  # fmt: skip
    found = right = 0
    draw, model = made_up(0.0, 0.15)
    tried = plants[::2]
    for plant in tried:
        if plant.verdict != "pipeline_fault":
            assert plant.loss_rise == pytest.approx(PRACTICAL, abs=0.03)
        run = play_days(draw, model, Watch(), seed=5, length=68, delay_ms=3_600_000, plant=plant, at=40)
        hits = [one for one in run.shifts if one.decided_ms // 86_400_000 > run.first_day + 40]
        found += bool(hits)
        right += bool(hits) and hits[-1].verdict == plant.verdict
    assert found >= 0.8 * len(tried)
    assert right >= 0.7 * len(tried)


def test_rows_are_drawn_as_often_as_is_due_and_without_weights_not_at_all(stream: Days) -> None:
    """Drawn at random, rows would come twice or never: a block would differ by that alone."""
    day, rng = stream.days[0], np.random.default_rng(0)
    size = len(day.labels)
    same = _drawn_again(rng, day, np.zeros(size))
    assert (same.columns["x4"] == day.columns["x4"]).all()
    logs = rng.standard_normal(size)
    again = _drawn_again(rng, day, logs)
    assert len(again.labels) == size
    times = np.array([(again.columns["x4"] == value).sum() for value in day.columns["x4"]])
    assert np.abs(times - size * np.exp(logs) / np.exp(logs).sum()).max() < 1.0


def test_what_a_day_shows_of_a_plant_says_how_many_days_it_takes() -> None:
    bound = LabelBound("a", "b", 100.0, 28.0, 0.1, 0.5, _chance(0.5, 28, 30.0), 0.6)
    assert bound.days_for(bound.loss, 30.0) == pytest.approx(25 * bound.days_for(bound.best, 30.0))
    assert _chance(0.1, 28, 30.0) < bound.chance < _chance(1.0, 28, 30.0) == pytest.approx(1.0, abs=0.01)
    assert "| 50% |" in power_table([bound._replace(chance=0.5)])


def test_the_page_has_a_place_for_each_table() -> None:
    page = shift.PAGE.read_text()
    for name in ("alarms", "planted", "confusion", "power", "cost"):
        assert (
            len(re.findall(rf"<!-- made: {name} ", page)) == len(re.findall(rf"<!-- end: {name} ", page)) == 1
        )
    alarms = alarms_table([Alarms("a", "training", 2, 240, 4), Alarms("a", "sliding", 2, 240, 400)])
    assert "| **0.50** (met) |" in alarms
    hit = PlantHits("a", "x up", "covariate_shift", 0.1, 2, [3], ["label_shift"], ["covariate_shift"], 1, 56)
    assert "**1 of 2 (50%)**" in hits_table([hit])
    assert "| covariate shift | 1 | 0 | 0 | 0 | 1 |" in confusion_table([hit])
    costs = cost_table([Cost(20_000, 1.0, 1.0, 1.0, 1.0, 0.1), Cost(1_000, 4.0, 1.0, 1.0, 1.0, 0.1)])
    assert "| **1.10 us** (met) | **4.10 us** (missed) |" in costs
