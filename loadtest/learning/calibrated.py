"""Whether scores mean what they say, before and after a candidate's last step corrects them.

Lives here: models of real streams, each as it is and recalibrated in both ways, and their errors.  Never
here: the correction (`operators/models/recalibration.py`), the error (`operators/monitor/calibration.py`),
tables.

All candidates race on the same rows, so each figure is of what the candidate would have served.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from river import linear_model, naive_bayes, optim, preprocessing, tree

from engine import Calibration, Candidate, Promotion
from engine.offline.backtest import LocalRun
from loadtest.learning.stream_run import records_of_lines
from loadtest.learning.streams import LINEAR_RATE, Stream

__all__ = ["CORRECTIONS", "Honesty", "calibrated"]

CORRECTIONS = ("as it is", "platt", "isotonic")
ROWS_MAX = 10_000
"""Of a stream: nine candidates learn each of them."""
BINS = 20
"""Of the error: bins of five percent."""


class Honesty(NamedTuple):
    """How far a candidate's scores lie from what came of them, over a whole stream."""

    error: float
    """Expected calibration error."""
    brier: float


def _models() -> dict[str, Any]:
    linear = linear_model.LogisticRegression(optimizer=optim.SGD(LINEAR_RATE))
    return {
        "naive Bayes": naive_bayes.GaussianNB(),  # type: ignore[no-untyped-call]  # River has no types here
        "adaptive tree": tree.HoeffdingAdaptiveTreeClassifier(seed=42),
        "linear": preprocessing.StandardScaler() | linear,
    }


def calibrated(stream: Stream, data: Path) -> dict[str, dict[str, Honesty]]:
    """Return the errors of each model on a stream of two classes, by model and by what corrects it."""
    candidates: dict[str, Any] = {}
    for name, model in _models().items():
        candidates[f"{name}, as it is"] = model
        candidates[f"{name}, platt"] = Candidate(model.clone(), recalibrate="platt")
        candidates[f"{name}, isotonic"] = Candidate(model.clone(), recalibrate="isotonic")
    pipeline = replace(
        stream.pipeline(),
        models=candidates,
        champion=next(iter(candidates)),
        promotion=Promotion(fresh_challengers_max=0),
        drift=(),
        estimate=None,
        calibration=Calibration(bins=BINS),
    )
    run = LocalRun(pipeline)
    events, labels = stream.records(data)
    for offer, topic, lines in (
        (run.scorer.intake.offer_events, pipeline.events.name, events),
        (run.scorer.intake.offer_labels, pipeline.labels.topic or "", labels),
    ):
        offer(records_of_lines(topic, islice(lines, ROWS_MAX)))
    while run.advance() is not None:
        pass
    told: Mapping[str, Any] = run.learner.monitors.report()["calibration"]
    return {
        name: {
            way: Honesty(told[f"{name}, {way}"]["calibration_error"], told[f"{name}, {way}"]["Brier"])
            for way in CORRECTIONS
        }
        for name in _models()
    }
