"""Monitors: the same figures however examples are cut, through checkpoints, and when settings change."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from river import metrics

from operators.models.scoring import Roster
from operators.monitor.before_labels.estimate import Estimated
from operators.monitor.calibration import Calibration
from operators.monitor.monitors import MonitorContext, Monitors
from operators.monitor.random_rows import RandomRows
from operators.monitor.reservoir import Reservoir
from operators.monitor.slices import SETTLED_AFTER, Slices
from operators.monitor.worst import Worst
from operators.race.losses import Losses, brier
from topics.messages import Example

CONTEXT = MonitorContext("p", "binary", 0.5, "brier", Roster("binary", (), "a"))
SLICES = Slices((("shop",), ("amount",), ("shop", "kind")), values_max=3)
ALL = [
    ("slices", SLICES),
    ("calibration", Calibration(halved=90)),
    ("estimate", Estimated("97ms")),
    ("worst", Worst()),
    ("random", RandomRows()),
]


def stream(count: int, seed: int = 0) -> list[tuple[Example, Losses]]:
    rng, rows = random.Random(seed), list[tuple[Example, Losses]]()
    for number in range(count):
        x: dict[str, Any] = {"amount": rng.lognormvariate(0, 1), "kind": rng.random() < 0.3}
        if rng.random() < 0.9:
            x["shop"] = rng.choice("abcde")
        label = rng.random() < 0.4
        scores: dict[str, Any] = {name: rng.random() for name in "ab" if rng.random() < 0.95}
        served = scores.get("a", 0.5)
        example = Example(
            f"e{number}", "k", number, number + 9, label, x, scores, served, "champion", "a", 0, number,
            number, 1, number, propensity=rng.choice((None, 1.0, 0.9, 0.1)),
        )  # fmt: skip
        rows.append((example, (brier(label, served), {n: brier(label, s) for n, s in scores.items()})))
    return rows


def watched(made: Monitors, rows: Sequence[tuple[Example, Losses]], cuts: Sequence[int] = ()) -> Monitors:
    places = [0, *sorted(cuts), len(rows)]
    for start, end in itertools.pairwise(places):
        made.gathered += rows[start:end]
        made.look()
    return made


def monitors(*named: tuple[str, Any]) -> Monitors:
    return Monitors(named or ALL, CONTEXT)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 700).flatmap(
        lambda count: st.tuples(st.just(count), st.lists(st.integers(0, count), max_size=8))
    )
)
def test_cuts_and_restarts_change_no_bit(case: tuple[int, list[int]]) -> None:
    count, cuts = case
    rows = stream(count)
    whole = watched(monitors(), rows)
    cut = watched(monitors(), rows, cuts)
    assert cut.snapshot() == whole.snapshot()
    half, restored = count // 2, monitors()
    restored.restore(watched(monitors(), rows[:half]).snapshot())
    assert watched(restored, rows[half:]).snapshot() == whole.snapshot()
    assert restored.report() == whole.report()


@pytest.mark.parametrize("count", [SETTLED_AFTER - 1, SETTLED_AFTER, 1_000])
def test_figures_of_a_slice_are_those_of_its_rows_alone(count: int) -> None:
    rows = stream(count)
    report = watched(monitors(), rows).report()["slices"]
    named = [name for name in report["shop"] if name not in {"(missing)", "(other)"}]
    assert len(named) == 3
    for shop in named:
        mine = [(e, lost) for e, lost in rows if e.features.get("shop") == shop]
        for name in ("served", "a", "b"):
            scored: list[tuple[Any, Any]] = [
                (e.label, e.served_score if name == "served" else e.scores[name])
                for e, _ in mine
                if name == "served" or name in e.scores
            ]
            told = report["shop"][shop][name]
            for kind in ("Accuracy", "Precision", "Recall", "F1"):
                metric = getattr(metrics, kind)()
                for label, score in scored:
                    metric.update(label, score > 0.5)
                assert told[kind] == pytest.approx(metric.get())
            losses: list[Any] = [brier(label, score) for label, score in scored]
            assert told["rows"] == len(losses)
            assert told["loss"] == pytest.approx(sum(losses) / len(losses))
            assert told["label_rate"] == pytest.approx(sum(label for label, _ in scored) / len(scored))
            in_bins: dict[int, list[tuple[bool, float]]] = {}
            for label, score in scored:
                in_bins.setdefault(min(9, int(score * 10)), []).append((label, score))
            error = sum(abs(sum(label - score for label, score in part)) for part in in_bins.values())
            assert told["calibration_error"] == pytest.approx(error / len(scored))


def test_every_row_is_in_one_slice_of_a_feature() -> None:
    report = watched(monitors(), stream(900)).report()["slices"]
    for feature, by_value in report.items():
        assert sum(told["served"]["rows"] for told in by_value.values()) == 900, feature
    assert len(report["amount"]) == 4
    rows = sorted(told["served"]["rows"] for told in report["amount"].values())
    assert rows[0] > 900 / 4 * 0.7, "quantile bins have about as many rows each"
    assert report["shop"]["(other)"]["served"]["rows"] > 100
    assert "a × true" in report["shop × kind"] or "b × true" in report["shop × kind"]


def test_a_monitor_goes_on_where_its_settings_stay_and_begins_anew_where_they_change() -> None:
    other = Slices((("kind",),))
    made = watched(monitors(("slices", SLICES), ("more", other)), stream(600))
    entries = made.snapshot()
    made.delta()
    made.follow([("slices", SLICES), ("more", Slices((("kind",),), values_max=9))], 0.5, "brier", 0)
    changed = made.delta()
    assert {name for name, data in changed.items() if data is None or name not in entries} <= {
        "monitors-begun",
        *(name for name in entries if name.startswith("monitors/more/")),
    }
    watched(made, stream(300, seed=1))
    assert sum(told["served"]["rows"] for told in made.report()["slices"]["shop"].values()) == 900
    assert sum(told["served"]["rows"] for told in made.report()["more"]["kind"].values()) == 300
    made.follow([("slices", SLICES)], 0.4, "brier", 0)
    assert made.report() == {"slices": {"shop": {}, "amount": {}, "shop × kind": {}}}


def flat(told: Any, path: str = "") -> dict[str, Any]:
    if isinstance(told, list):
        told = dict(enumerate(told))
    if not isinstance(told, dict):
        return {path: told}
    return {name: one for key, part in told.items() for name, one in flat(part, f"{path}/{key}").items()}


def of_last_labels(made: Monitors) -> dict[str, Any]:
    """What corrections change: not what is recent, nor what was expected before labels."""
    told = flat(made.report())
    kept = {name: one for name, one in told.items() if "/recent" not in name and "/worst" not in name}
    return {name: one for name, one in kept.items() if "/estimate/" not in name or name.count("/true/")}


def losses_of(example: Example, label: bool) -> Losses:
    return brier(label, example.served_score), {n: brier(label, s) for n, s in example.scores.items()}


def correct(made: Monitors, example: Example) -> None:
    """Give the label that is the opposite of the first."""
    said, first = not example.label, bool(example.label)
    corrected = replace(example, label=said, before=first, before_time=example.label_time)
    made.correct(corrected, losses_of(example, first), losses_of(example, said))


@settings(max_examples=8, deadline=None)
@given(st.sampled_from([40, SETTLED_AFTER + 60]), st.data())
def test_what_is_a_sum_is_of_the_last_labels(count: int, data: st.DataObject) -> None:
    """Oracle: monitors that have seen the last labels at once."""
    named = [*ALL[:3], ("reservoir", Reservoir(per_class_max=9_999, by=["shop"]))]
    made, expected, rows = monitors(*named), monitors(*named), stream(count)
    wrong = data.draw(st.sets(st.integers(0, count - 1), max_size=40))
    waits = data.draw(st.integers(1, 300))
    for number, (example, _) in enumerate(rows):
        label = bool(example.label)
        first = replace(example, label=label ^ (number in wrong))
        watched(made, [(first, losses_of(first, bool(first.label)))])
        watched(expected, [rows[number]])
        if number - waits in wrong:
            late = rows[number - waits][0]
            correct(made, replace(late, label=not late.label))
            if data.draw(st.booleans()):
                again = monitors(*named)
                again.restore(made.snapshot())
                made = again
    for number in sorted(wrong):
        if number + waits >= count:
            correct(made, replace(rows[number][0], label=not rows[number][0].label))
    told = of_last_labels(made)
    assert told == pytest.approx(of_last_labels(expected), abs=1e-9)
    assert any("/estimate/" in name for name in told)
    assert "/calibration/served/curve/0/label_rate" in told


def test_a_monitor_takes_nothing_back_that_it_has_not_seen() -> None:
    other = [("slices", Slices((("kind",),)))]
    rows = stream(600)
    made = watched(monitors(("slices", SLICES)), rows[:300])
    made.follow(other, 0.5, "brier", max(example.label_time for example, _ in rows[:300]))
    stored = made.snapshot()
    made = monitors(*other)
    made.restore(stored)
    watched(made, rows[300:])
    before = made.report()
    correct(made, rows[7][0])
    assert made.report() == before
    correct(made, rows[400][0])
    assert made.report() != before


def test_deltas_follow_changed_settings() -> None:
    made, stored = monitors(("slices", SLICES)), dict[str, bytes]()
    for step in range(3):
        watched(made, stream(300, seed=step))
        if step == 1:
            made.follow([("more", Slices((("kind",),)))], 0.5, "brier", 0)
        for name, data in made.delta().items():
            if data is None:
                stored.pop(name, None)
            else:
                stored[name] = data
        assert stored == made.snapshot()


def test_a_candidate_that_left_is_forgotten() -> None:
    made = watched(monitors(), stream(300))
    made.forget("b")
    assert all("b" not in told for told in made.report()["slices"]["shop"].values())
