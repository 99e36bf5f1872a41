"""How many labels it takes to see a shift that labels alone show: the bound that no test beats.

Lives here: how far a day with a plant lies from a day without, in deviations of days, by the loss and by the
best mean of everything that labels show; the chance that a test finds it that knows all this beforehand.
Never here: the watcher's own tests (`operators/drift`).
"""

from __future__ import annotations

import math
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from loadtest.shift.plants import Plant, plants_of
from loadtest.shift.streams import DAY_MS, SOURCES, Day, Days, Model, Values, load_days, still

__all__ = ["LabelBound", "label_bounds"]

DAYS: Final = 280
CELLS: Final = 12
CLIP: Final = 4.0
SHRINK: Final = 0.1
"""Of the correlation of statistics towards none: with fewer days than it needs, a mean fits its own noise."""
PATHS: Final = 4_000


class LabelBound(NamedTuple):
    """One plant that features do not show, or hardly."""

    stream: str
    plant: str
    rows: float
    """Labelled rows of a day."""
    days: float
    """Days whose labels come within the days in which it must be found."""
    loss: float
    """Deviations of days by which the loss rises."""
    best: float
    """The same of the best mean of all statistics of labels, found on the very days: no test has more."""
    chance: float
    """That a test which knows how far the best mean moves, and bets on nothing else, finds it in time."""
    by_chance: float
    """That a test whose false alarms are as frequent as promised says something where nothing is."""

    def days_for(self, deviations: float, promise: float) -> float:
        """Return the days until such a test finds what moves by so many deviations, in the mean."""
        return 2.0 * math.log(promise) / deviations**2


def label_bounds(folder: Path, after: int, promise: float, jobs: int) -> list[LabelBound]:
    """Return the bounds of all streams; a plant must be found in `after` days, at one alarm in `promise`."""
    with ProcessPoolExecutor(jobs) as pool:
        found = pool.map(_bounds, SOURCES, *([one] * len(SOURCES) for one in (folder, after, promise)))
        return [one for stream in found for one in stream]


def _bounds(name: str, folder: Path, after: int, promise: float) -> list[LabelBound]:
    stream = load_days(name, folder)
    plants = [one for one in plants_of(stream) if one.verdict in {"label_shift", "concept_drift"}]
    return [_bound(stream, plant, after, promise) for plant in plants]


def _bound(stream: Days, plant: Plant, after: int, promise: float) -> LabelBound:
    rng, draw = np.random.default_rng(11), still(stream)
    days = [draw(rng, number) for number in range(DAYS)]
    scores = np.concatenate([stream.model.scores(day.columns) for day in days])
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, CELLS)[1:-1]))
    cells = np.searchsorted(edges, scores)
    losses = np.concatenate(
        [stream.model.losses(day.labels, stream.model.scores(day.columns)) for day in days]
    )
    expected = np.bincount(cells, losses, CELLS) / np.maximum(np.bincount(cells, minlength=CELLS), 1)
    before = np.array([_statistics(stream.model, day, edges, expected) for day in days])
    planted = [_statistics(stream.model, plant.change(rng, day), edges, expected) for day in days]
    spread = before.std(0) + 1e-12
    apart = (np.array(planted) - before).mean(0) / spread
    alike = np.corrcoef((before / spread).T) + SHRINK * np.eye(len(spread))
    best = float(np.sqrt(apart @ np.linalg.solve(alike, apart)))
    seen = after - stream.delay_ms / DAY_MS
    rows = float(np.mean([len(day.labels) for day in days]))
    chance = _chance(round(best, 3), int(seen), promise)
    by_chance = 1.0 - float(np.exp(-after / promise))
    return LabelBound(stream.title, plant.name, rows, seen, float(apart[0]), best, chance, by_chance)


def _statistics(model: Model, day: Day, edges: Values, expected: Values) -> list[float]:
    """Return what labels show of a day: loss beyond that of its scores, residual, residual with scores and
    with each number."""
    scores = model.scores(day.columns)
    residuals = (day.labels - scores) / (model.label_deviation if model.task == "regression" else 1.0)
    cells = np.searchsorted(edges, scores)
    centred = residuals - residuals.mean()
    found = [
        float((model.losses(day.labels, scores) - expected[cells]).mean()),
        float(residuals.mean()),
        float((centred * cells).mean()),
    ]
    for name, (mean, deviation, _) in model.numbers.items():
        away = np.nan_to_num((day.columns[name].astype(float) - mean) / deviation)
        found.append(float((centred * np.clip(away, -CLIP, CLIP)).mean()))
    return found


@cache
def _chance(deviations: float, days: int, promise: float) -> float:
    """Return how often a Shiryaev-Roberts sum on a normal variable of known shift passes in so many days."""
    rng = np.random.default_rng(3)
    sums, passed = np.zeros(PATHS), np.zeros(PATHS, dtype=bool)
    for _ in range(days):
        z = rng.standard_normal(PATHS) + deviations
        sums = (1.0 + sums) * np.exp(deviations * z - deviations**2 / 2.0)
        passed |= sums >= promise
    return float(passed.mean())
