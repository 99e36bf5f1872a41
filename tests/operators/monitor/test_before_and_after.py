"""Calibration and the estimate before labels, against what brute force says of the same rows."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from test_monitors import CONTEXT, watched

from operators.models.recalibration import BELIEF_ROWS, BINS, Isotonic
from operators.models.scoring import Roster
from operators.monitor.before_labels.answered import AnsweredScores
from operators.monitor.before_labels.estimate import ANSWERED_MAX, BLOCKS_MAX, LINE_ROWS, Estimated
from operators.monitor.calibration import Calibration
from operators.monitor.monitors import MonitorContext, Monitors
from operators.race.losses import Losses, brier
from topics.messages import Block, Example, ScoreBin

DAY = 86_400_000


def rows_of(
    count: int, *, seed: int = 1, sure: float = 1.0, delay_ms: int = DAY // 2, every_ms: int = DAY // 50
) -> list[tuple[Example, Losses]]:
    """Rows whose labels come true as often as the logit of their scores divided by `sure` says."""
    rng, rows = random.Random(seed), list[tuple[Example, Losses]]()
    for number in range(count):
        logit = rng.gauss(0, 1.5)
        label = rng.random() < 1 / (1 + math.exp(-logit))
        score = 1 / (1 + math.exp(-sure * logit))
        time = number * every_ms
        example = Example(
            f"e{number}", "k", time, time + delay_ms, label, {}, {"a": score}, score, "champion", "a", 0,
            number, number, 1, number,
        )  # fmt: skip
        lost = brier(label, score)
        rows.append((example, (lost, {"a": lost})))
    return rows


def report(rows: list[tuple[Example, Losses]], name: str, monitor: Any) -> dict[str, Any]:
    told: dict[str, Any] = watched(Monitors([(name, monitor)], CONTEXT), rows).report()[name]
    return told


def pairs_of(rows: list[tuple[Example, Losses]]) -> list[tuple[float, float]]:
    return [(example.served_score, float(example.label)) for example, _ in rows]  # type: ignore[misc]


def test_the_curve_is_the_share_of_truth_in_each_bin_and_the_parts_add_up_to_the_brier_score() -> None:
    rows = rows_of(3_000, sure=2.0)
    told = report(rows, "calibration", Calibration())["served"]
    pairs = pairs_of(rows)
    for part in told["curve"]:
        mine = [(p, y) for p, y in pairs if part["from"] <= p < part["to"]]
        assert part["rows"] == len(mine)
        assert part["label_rate"] == pytest.approx(sum(y for _, y in mine) / len(mine))
        assert part["mean_score"] == pytest.approx(sum(p for p, _ in mine) / len(mine))
    error = sum(part["rows"] * abs(part["label_rate"] - part["mean_score"]) for part in told["curve"])
    assert told["calibration_error"] == pytest.approx(error / 3_000)
    score = told["reliability"] - told["resolution"] + told["uncertainty"] + told["within_bins"]
    assert told["Brier"] == pytest.approx(score, abs=1e-12)
    assert told["Brier"] == pytest.approx(sum((p - y) ** 2 for p, y in pairs) / 3_000)


def test_a_sure_model_is_told_from_an_honest_one() -> None:
    honest = report(rows_of(4_000), "calibration", Calibration())["served"]
    sure = report(rows_of(4_000, sure=4.0), "calibration", Calibration())["served"]
    assert honest["calibration_error"] < 0.03 < 0.1 < sure["calibration_error"]


def test_what_is_recent_counts_more() -> None:
    made = Monitors([("calibration", Calibration(halved=500))], CONTEXT)
    watched(watched(made, rows_of(4_000)), rows_of(2_000, sure=4.0))
    told = made.report()["calibration"]["served"]
    assert told["recent_calibration_error"] > 1.5 * told["calibration_error"]
    assert made.signals()["calibration.error"] == told["recent_calibration_error"]


def test_the_estimate_is_that_of_brute_force_and_knows_no_label_of_its_own_block() -> None:
    rows = rows_of(2_000, sure=3.0)
    told = report(rows, "estimate", Estimated("1d"))["served"]
    for block in told["last"]:
        start, end = block["start"], block["start"] + DAY
        known, newest, drawn = Isotonic(), -1, 0
        line: tuple[list[float], list[float]] | None = None
        for example, _ in rows:  # the line that held when the block began
            if example.label_time // DAY > newest:
                newest = example.label_time // DAY
                if newest > start // DAY:
                    break
                if drawn >= LINE_ROWS:
                    line, drawn = known.line(), 0
            known.learn(float(example.served_score), float(example.label))  # type: ignore[arg-type]
            drawn += 1
        assert line is not None
        mine = [(p, y) for e, _ in rows if start <= e.event_time < end for p, y in pairs_of([(e, (0, {}))])]
        chances = [float(np.interp(p, *line)) for p, _ in mine]
        right = [c if p > 0.5 else 1 - c for (p, _), c in zip(mine, chances, strict=True)]
        hits = sum(c for (p, _), c in zip(mine, chances, strict=True) if p > 0.5)
        answered = sum(p > 0.5 for p, _ in mine)
        assert block["rows"] == len(mine)
        assert block["estimated"]["Accuracy"] == pytest.approx(sum(right) / len(mine))
        assert block["estimated"]["F1"] == pytest.approx(2 * hits / (answered + sum(chances)))
        assert block["true"]["Accuracy"] == pytest.approx(sum((p > 0.5) == y for p, y in mine) / len(mine))
        assert block["true"]["Brier"] == pytest.approx(sum((p - y) ** 2 for p, y in mine) / len(mine))


def test_the_estimate_is_near_the_truth_and_a_sure_model_is_seen_through() -> None:
    rows = rows_of(20_000, sure=4.0, every_ms=DAY // 500)
    told = report(rows, "estimate", Estimated("1d"))["served"]
    sure = sum(max(p, 1 - p) for p, _ in pairs_of(rows)) / len(rows)
    true = sum((p > 0.5) == y for p, y in pairs_of(rows)) / len(rows)
    assert sure - true > 0.1, "what uncalibrated scores would say"
    assert told["error"] < 0.03, "with 500 rows a block, chance alone makes 0.015"


def lived(rows: list[tuple[Example, Losses]], monitors: Monitors, days: int) -> Monitors:
    """Let a monitor see the log of a run: labels as they come, and at the end of each day its answers."""
    scores, at = AnsweredScores(DAY), 0
    scores.take((e.event_time, e.served_score, e.served_score > 0.5) for e, _ in rows)  # type: ignore[operator]
    for number, bins in scores.close(days * DAY).items():
        while at < len(rows) and rows[at][0].label_time < (number + 1) * DAY:
            watched(monitors, [rows[at]])
            at += 1
        start = number * DAY
        monitors.answered(Block(number, start, start + DAY, 0, 0, {}, {}, [], {}, [], answered=bins))
    return monitors


@pytest.mark.parametrize("sure", [1.0, 4.0])
def test_the_estimate_stands_before_the_labels_and_is_that_of_the_rows(sure: float) -> None:
    rows = rows_of(6_000, sure=sure, every_ms=DAY // 300, delay_ms=2 * DAY)
    made = lived(rows, Monitors([("estimate", Estimated("1d", answered=True))], CONTEXT), 20)
    told = made.report()["estimate"]["served"]["answered"]
    assert [(one["start"] // DAY, one["rows"], one["labelled"]) for one in told["last"]] == [
        *((day, 300, 300) for day in range(10, 17)),
        (17, 300, 300),
        (18, 300, 0),
        (19, 300, 0),
    ]
    assert [one["true"] is None for one in told["last"]] == [False] * 8 + [True] * 2
    assert made.signals()["estimate.accuracy"] == told["last"][-1]["estimated"]["Accuracy"]
    later = watched(made, [row for row in rows if row[0].label_time >= 20 * DAY]).report()["estimate"][
        "served"
    ]
    by_rows = {one["start"]: one for one in later["last"]}
    assert len(by_rows) == 10
    for one in later["answered"]["last"]:
        of_rows = by_rows[one["start"]]
        assert one["true"] == pytest.approx({k: v for k, v in of_rows["true"].items() if k != "ROCAUC"})
        for figure, value in one["estimated"].items():
            assert value == pytest.approx(of_rows["estimated"][figure], abs=0.004), figure
    assert later["answered"]["blocks"] == 20
    assert later["answered"]["error"] == pytest.approx(later["error"], abs=0.004)
    assert later["answered"]["error"] < 0.05


def test_answers_of_several_partitions_are_added_up_and_go_through_checkpoints() -> None:
    made, halves = (Monitors([("estimate", Estimated("1d", answered=True))], CONTEXT) for _ in range(2))
    bins = [ScoreBin(10, False, 4, 0.42, 0.0445), ScoreBin(90, True, 3, 2.75, 2.53)]
    whole = Block(3, 3 * DAY, 4 * DAY, 7, 0, {}, {}, [], {}, [], answered=bins)
    made.answered(whole)
    for bin_ in bins:
        halves.answered(replace(whole, answered=[bin_]))
        restored = Monitors([("estimate", Estimated("1d", answered=True))], CONTEXT)
        restored.restore(halves.snapshot())
        halves = restored
    assert halves.report() == made.report()
    other = replace(whole, start_ms=0, end_ms=7)
    before = made.report()
    made.answered(other)
    assert made.report() == before, "of another length: counted by other settings"


def test_blocks_whose_labels_never_come_are_given_up_and_counted() -> None:
    made = Monitors([("estimate", Estimated("1d", answered=True))], CONTEXT)
    for day in range(ANSWERED_MAX + 7):
        bins = [ScoreBin(90, True, 3, 2.75, 2.53)]
        made.answered(Block(day, day * DAY, (day + 1) * DAY, 3, 0, {}, {}, [], {}, [], answered=bins))
    told = made.report()["estimate"]["served"]["answered"]
    assert (told["unproven"], told["blocks"], told["error"]) == (7, 0, None)
    watched(made, rows_of(1, every_ms=1, delay_ms=1))
    late = replace(rows_of(1)[0][0], event_time=(ANSWERED_MAX + 80) * DAY)
    watched(made, [(late, rows_of(1)[0][1])])
    assert made.report()["estimate"]["served"]["answered"]["unproven"] == ANSWERED_MAX + 7


def test_old_blocks_are_closed_and_later_rows_of_them_are_counted() -> None:
    rows = rows_of(400, every_ms=DAY)
    told = report([*rows, rows[0]], "estimate", Estimated("1d"))["served"]
    assert told["blocks"] <= BLOCKS_MAX
    assert told["late"] == 1


def test_a_regression_has_neither() -> None:
    context = MonitorContext("p", "regression", 0.5, "brier", Roster("regression", (), "a"))
    assert not Monitors([("calibration", Calibration()), ("estimate", Estimated())], context).parts


def test_a_bin_of_the_isotonic_line_begins_at_what_scores_say() -> None:
    line = Isotonic()
    assert line.corrected(0.525) == pytest.approx(0.525)
    for _ in range(100):
        line.learn(0.525, 1.0)
    share = (100 + BELIEF_ROWS * (10.5 / BINS)) / (100 + BELIEF_ROWS)
    assert 0.525 < line.corrected(0.525) <= share


def test_roc_auc_of_a_block_is_that_of_pairs_of_rows_and_is_expected_from_chances() -> None:
    rows = rows_of(3_000, every_ms=DAY // 3_000, delay_ms=1)
    (block,) = report(rows, "estimate", Estimated("2d"))["served"]["last"]
    pairs = pairs_of(rows)
    true = [p for p, y in pairs if y]
    false = [p for p, y in pairs if not y]
    ranks = np.searchsorted(np.sort(false), true)
    assert block["true"]["ROCAUC"] == pytest.approx(float(ranks.mean()) / len(false), abs=0.01)
    assert block["estimated"]["ROCAUC"] == pytest.approx(block["true"]["ROCAUC"], abs=0.03)
