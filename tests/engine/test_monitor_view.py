"""What a scrape tells of monitors: what they report, in a bounded number of series."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from engine.metrics import Metrics
from engine.monitor_view import SUBJECTS_MAX, told_of
from engine.offline.backtest import LocalRun
from engine.race_view import RaceView
from loadtest.learning.positions import WAYS, _lines, clicks_pipeline
from loadtest.learning.stream_run import records_of_lines
from operators.monitor.behaviour.importance import Importance


def slices(count: int) -> dict[str, Any]:
    return {
        "shop": {f"s{number}": {"served": {"rows": number, "loss": number / 100}} for number in range(count)}
    }


def test_the_largest_slices_have_a_series_and_the_others_are_counted() -> None:
    figures = told_of({"slices": slices(SUBJECTS_MAX + 7)}, {"worst.found": 2.0})
    losses = {subject: value for (_, figure, subject), value in figures.values.items() if figure == "loss"}
    assert len(losses) == SUBJECTS_MAX
    assert losses["shop: s56"] == 0.56
    assert "shop: s6" not in losses
    assert figures.left_out == {"slices": 7}
    assert figures.values["worst", "found", ""] == 2.0


def test_a_label_is_cut() -> None:
    told = {"importance": {"features": {"x" * 5_000: {"importance": 0.1}}}}
    ((_, _, subject),) = told_of(told, {}).values
    assert len(subject) == 100


def test_a_race_tells_its_monitors_to_prometheus() -> None:
    pipeline = replace(
        clicks_pipeline(WAYS["a feature as any other"]), slices=["rank"], importance=Importance(rows=5)
    )
    _, (events, labels) = _lines(1_500, seed=2)
    run = LocalRun(pipeline)
    run.scorer.intake.offer_events(records_of_lines(pipeline.events.name, events))
    run.scorer.intake.offer_labels(records_of_lines(pipeline.labels.topic or "", labels))
    while run.advance() is not None:
        pass
    figures = RaceView(Metrics(pipeline)).figures(run.learner)
    told = {(monitor, figure) for monitor, figure, _ in figures.values}
    assert {
        ("slices", "loss"),
        ("importance", "importance"),
        ("worst", "found"),
        ("estimate", "error"),
    } <= told
    report = run.learner.monitors.report()["slices"]["rank"]
    assert figures.values["slices", "loss", "rank: 9.0"] == report["9.0"]["served"]["loss"]
