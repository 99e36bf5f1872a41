"""The search for worse slices: finds what is planted, keeps its promise, lets go of what is well again."""

from __future__ import annotations

import random
from typing import Any

import pytest
from test_monitors import CONTEXT, watched

from operators.monitor.monitors import Monitors
from operators.monitor.worst import ROWS_BLOCK, Worst, WorstMonitor
from operators.race.losses import Losses, brier
from topics.errors import DefinitionError
from topics.messages import Example


def rows_of(count: int, seed: int, bad: tuple[str, ...] = ()) -> list[tuple[Example, Losses]]:
    """Honest scores of 0.2 and 0.8, but for a bad slice (origin, or origin and carrier): it is a coin."""
    rng, rows = random.Random(seed), list[tuple[Example, Losses]]()
    for number in range(count):
        x: dict[str, Any] = {"origin": rng.choice("ABCD"), "carrier": rng.choice("XYZ"), "n": rng.random()}
        score = rng.choice((0.2, 0.8))
        here = bool(bad) and (x["origin"], x["carrier"])[: len(bad)] == bad
        label = rng.random() < (0.5 if here else score)
        example = Example(
            f"e{number}", "k", number, number + 9, label, x, {"a": score}, score, "champion", "a", 0, number,
            number, 1, number,
        )  # fmt: skip
        rows.append((example, (brier(label, score), {"a": brier(label, score)})))
    return rows


def monitors() -> Monitors:
    return Monitors([("worst", Worst())], CONTEXT)


@pytest.mark.parametrize(
    ("bad", "slices"), [(("B",), {"origin": "B"}), (("B", "Y"), {"origin": "B", "carrier": "Y"})]
)
def test_a_planted_slice_is_found_first(bad: tuple[str, ...], slices: dict[str, str]) -> None:
    told = watched(monitors(), rows_of(8_000, 1, bad)).report()["worst"]
    found = told["slices"][0]
    assert found["slice"] == slices
    mine = [
        lost[0]
        for example, lost in rows_of(8_000, 1, bad)[256:]
        if slices.items() <= example.features.items()
    ]
    assert found["rows"] == len(mine)
    assert found["loss"] == pytest.approx(sum(filter(None, mine)) / len(mine))
    assert found["loss"] > 1.5 * told["mean_loss"]


def test_nothing_is_found_where_nothing_is_worse() -> None:
    """With 20,000 rows each and one false slice in a million rows promised, ten streams find 0.2."""
    found = [watched(monitors(), rows_of(20_000, seed)).report()["worst"]["found"] for seed in range(5)]
    assert sum(found) == 0


def test_a_slice_that_is_well_again_is_let_go() -> None:
    made = watched(monitors(), rows_of(8_000, 1, ("B",)))
    assert made.signals()["worst.found"] == 1.0
    watched(made, rows_of(16_000, 2))
    assert made.signals()["worst.found"] == 0.0


def test_the_worst_rows_are_those_of_the_largest_losses_of_late() -> None:
    rows = rows_of(2_000, 3)
    told = watched(monitors(), rows).report()["worst"]["rows"]
    losses = sorted((lost[0] or 0.0 for _, lost in rows), reverse=True)[:20]
    assert [row["loss"] for row in told] == losses
    many = rows_of(2 * ROWS_BLOCK + 10, 4)
    last = watched(monitors(), many).report()["worst"]["rows"]
    assert {row["event_id"] for row in last} <= {example.event_id for example, _ in many[ROWS_BLOCK:]}


def test_a_block_of_large_losses_beside_a_mean_near_zero_overflows_nothing() -> None:
    made = monitors()
    rows = rows_of(1_024, 5)
    quiet = [(example, (1e-12, {"a": 1e-12})) for example, _ in rows[:512]]
    watched(made, [*quiet, *((example, (1.0, {"a": 1.0})) for example, _ in rows[512:])])
    told = made.report()["worst"]
    assert told["found"] > 0
    again = monitors()
    again.restore(made.snapshot())
    assert again.report() == made.report()


@pytest.mark.parametrize("setting", [{"false_slice_every": 10}, {"rows_max": -1}])
def test_settings_that_cannot_work_are_refused(setting: dict[str, int]) -> None:
    with pytest.raises(DefinitionError) as refusal:
        Worst(**setting)
    assert refusal.value.hint


def test_candidates_are_compared_in_what_was_found_since_it_was() -> None:
    rows, plain = rows_of(8_000, 1, ("B",)), list[tuple[Example, Losses]]()
    for example, (served, _) in rows:
        lost = served or 0.0
        there = example.features["origin"] == "B"
        plain.append((example, (served, {"a": lost, "z": lost + 0.2 if there else lost / 2.0, "n": None})))
    made, cut = watched(monitors(), plain), watched(monitors(), plain, (100, 3_333))
    worst = made.parts["worst"]
    assert isinstance(worst, WorstMonitor)
    told = worst.worse_where_found("a", "z")
    assert told["origin is B"] == pytest.approx(0.2), "pairs within it may be told too"
    assert worst.worse_where_found("z", "a") == {where: -mean for where, mean in told.items()}
    assert worst.worse_where_found("a", "n") == {}
    assert made.snapshot() == cut.snapshot()
    again = monitors()
    again.restore(made.snapshot())
    assert again.snapshot() == made.snapshot()
    made.forget("z")
    assert worst.worse_where_found("a", "z") == {}
