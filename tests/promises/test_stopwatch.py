"""Seconds by step and by model: they add up, and the slow model shows."""

from __future__ import annotations

from typing import Any

import pytest
from river import base
from test_quarantine import EVENTS, Files, files, pipeline

from engine.machines.scorer import Scorer
from engine.metrics import Metrics
from engine.offline.backtest import LocalRun, backtest
from engine.offline.json_lines import read_lines
from engine.worker.assembly import build_learner
from operators.claims.rule import Suppression, Writer
from operators.stopwatch import Stopwatch

__all__ = ["files"]

STEPS = ("decode", "features", "score", "answer", "shadows", "join", "learn")


class Clock:
    """A clock that stands still but for what models take of it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


CLOCK = Clock()


class Slow(base.Classifier):
    """Takes seconds of `CLOCK` to score and to learn."""

    def __init__(self, score: float, learn: float) -> None:
        self.score = score
        self.learn = learn

    def learn_one(self, x: dict[str, Any], y: bool) -> None:  # noqa: ARG002
        CLOCK.now += self.learn

    def predict_proba_one(self, x: dict[str, Any]) -> dict[bool, float]:  # noqa: ARG002
        CLOCK.now += self.score
        return {True: 0.6, False: 0.4}


def measured(
    files: Files, monkeypatch: pytest.MonkeyPatch, *, inside: bool
) -> tuple[LocalRun, dict[tuple[str, str], float], dict[str, float]]:
    """Return a run of a fast champion and a slow challenger, and its seconds by model and by step."""
    monkeypatch.setattr("engine.offline.backtest.time.perf_counter", CLOCK)
    made = pipeline(inside=inside, quick=Slow(0.001, 0.01), slow=Slow(0.1, 1.0))
    events, labels = files[inside]
    run = LocalRun(made)
    run.stopwatch.steps.clear()
    started = CLOCK.now
    run.scorer.intake.offer_events(next(read_lines(events, "q.events")))
    if labels is not None:
        run.scorer.intake.offer_labels(next(read_lines(labels, "q.labels")))
    while run.advance() is not None:
        pass
    models, steps = dict(run.stopwatch.models), dict(run.stopwatch.steps)
    assert sum(steps.values()) == pytest.approx(CLOCK.now - started)
    return run, models, steps


def test_models_are_told_apart_where_labels_come_later(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    run, models, steps = measured(files, monkeypatch, inside=False)
    assert models == pytest.approx(
        {
            ("score", "quick"): EVENTS * 0.001,
            ("score", "slow"): EVENTS * 0.1,
            ("learn", "quick"): EVENTS * 0.01,
            ("learn", "slow"): EVENTS * 1.0,
        }
    )
    assert set(steps) == set(STEPS)
    assert steps["score"] == pytest.approx(models["score", "quick"])
    assert steps["shadows"] == pytest.approx(models["score", "slow"])
    assert steps["learn"] == pytest.approx(models["learn", "quick"] + models["learn", "slow"])
    metrics = Metrics(run.pipeline)
    metrics.absorb_seconds(run.stopwatch, run.learner.roster.racers.keys())
    assert not run.stopwatch.steps
    told = metrics.exposition().decode()
    assert 'headrace_model_seconds_total{model="slow",step="learn"} 40' in told
    assert 'headrace_model_seconds_total{model="slow",step="score_and_learn"} 0.0' in told
    assert 'headrace_step_seconds_total{step="send"} 0.0' in told


def test_models_are_told_apart_where_labels_come_inside(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, models, steps = measured(files, monkeypatch, inside=True)
    assert models == pytest.approx(
        {("score_and_learn", "quick"): EVENTS * 0.011, ("score_and_learn", "slow"): EVENTS * 1.1}
    )
    assert steps["learn"] == pytest.approx(EVENTS * 1.111)


@pytest.mark.parametrize("inside", [True, False])
def test_a_backtest_tells_the_seconds_of_each_model(
    files: Files, monkeypatch: pytest.MonkeyPatch, inside: bool
) -> None:
    monkeypatch.setattr("engine.offline.backtest.time.perf_counter", CLOCK)
    report = backtest(pipeline(inside=inside, quick=Slow(0.001, 0.01), slow=Slow(0.1, 1.0)), *files[inside])
    assert report["model_seconds"] == pytest.approx({"quick": EVENTS * 0.011, "slow": EVENTS * 1.1})


def test_without_a_clock_nothing_is_spent(files: Files) -> None:
    made, stopwatch = pipeline(inside=False, quick=Slow(0.001, 0.01)), Stopwatch()
    scorer = Scorer(
        made,
        partition=0,
        roster=build_learner(made).roster,
        writer=Writer(0, 1),
        suppression=Suppression(),
        stopwatch=stopwatch,
    )
    scorer.intake.offer_events(next(read_lines(files[False][0], "q.events")))
    while run := scorer.intake.next_run(events_unread=False, labels_unread=False):
        assert list(scorer.step(run, 0))
    assert stopwatch.steps.keys() == {"decode", "features", "score", "answer", "shadows"}
    assert not any(stopwatch.steps.values())
    assert not any(stopwatch.models.values())
