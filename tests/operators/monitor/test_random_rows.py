"""Drawn rows: weighted, they say what holds whoever answers; and their interval covers the truth."""

from __future__ import annotations

import random
from statistics import fmean

from operators.monitor.random_rows import RandomRowsMonitor
from operators.monitor.rows import Rows
from operators.race.losses import Losses
from topics.messages import Example

CHANCES = {"a": 0.9, "b": 0.1}
LOSS = {"a": 0.2, "b": 0.6}
"""The loss of a candidate, by who answered: labels follow from the answer."""
TRUE = fmean(LOSS.values())
"""Where both answer as often."""


def monitor_of(seed: int, rows: int) -> RandomRowsMonitor:
    draw, examples, tested = random.Random(seed), list[Example](), list[Losses]()
    for number in range(rows):
        arm = "a" if draw.random() < CHANCES["a"] else "b"
        lost = float(draw.random() < LOSS[arm])
        examples.append(
            Example(
                f"e{number}", "k", 0, 9, True, {}, {"c": 0.5}, 0.5, "arm", arm, 0, 0, 0, 1, 0,
                propensity=CHANCES[arm],
            )
        )  # fmt: skip
        tested.append((lost, {"c": lost}))
    monitor = RandomRowsMonitor()
    monitor.observe(Rows(examples, tested, "binary"))
    return monitor


def test_weighted_rows_are_free_of_who_answers_most() -> None:
    told = monitor_of(1, 20_000).report()["c"]
    assert abs(told["all_loss"] - (0.9 * LOSS["a"] + 0.1 * LOSS["b"])) < 0.02
    assert abs(told["loss"] - TRUE) < 0.02
    assert told["rows"] == told["all_rows"] == 20_000
    assert 0.3 * 20_000 < told["effective_rows"] < 0.4 * 20_000, "of weights 1/.9 and 1/.1: 36 %"


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """95 % of 200 runs are 190; below 178 one time in 10,000 and fewer."""
    told = [monitor_of(seed, 400).report()["c"] for seed in range(200)]
    assert sum(one["low"] <= TRUE <= one["high"] for one in told) >= 178


def test_without_a_draw_there_are_the_rows_of_all_alone() -> None:
    monitor = RandomRowsMonitor()
    made = [
        Example("e", "k", 0, 9, True, {}, {}, 0.5, "champion", "a", 0, 0, 0, 1, 0, propensity=one)
        for one in (None, 1.0)
    ]
    monitor.observe(Rows(made, [(0.5, {}), (0.1, {})], "binary"))
    assert monitor.report()["served"] == {"all_rows": 2.0, "all_loss": 0.3, "rows": 0.0}
