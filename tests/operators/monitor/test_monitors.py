"""Monitors: the same figures however examples are cut, through checkpoints, and when settings change."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import metrics

from operators.models.scoring import Roster
from operators.monitor.calibration import Calibration
from operators.monitor.estimate import Estimated
from operators.monitor.monitors import MonitorContext, Monitors
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
            number, 1, number,
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
    made.follow([("slices", SLICES), ("more", Slices((("kind",),), values_max=9))], 0.5, "brier")
    changed = made.delta()
    assert {name for name, data in changed.items() if data is None or name not in entries} <= {
        name for name in entries if name.startswith("monitors/more/")
    }
    watched(made, stream(300, seed=1))
    assert sum(told["served"]["rows"] for told in made.report()["slices"]["shop"].values()) == 900
    assert sum(told["served"]["rows"] for told in made.report()["more"]["kind"].values()) == 300
    made.follow([("slices", SLICES)], 0.4, "brier")
    assert made.report() == {"slices": {"shop": {}, "amount": {}, "shop × kind": {}}}


def test_deltas_follow_changed_settings() -> None:
    made, stored = monitors(("slices", SLICES)), dict[str, bytes]()
    for step in range(3):
        watched(made, stream(300, seed=step))
        if step == 1:
            made.follow([("more", Slices((("kind",),)))], 0.5, "brier")
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
