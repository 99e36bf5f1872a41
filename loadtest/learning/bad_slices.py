"""The search for worse slices: how soon a planted one is found, how often one is said to be that is none.

Lives here: streams of losses whose slices are known, and what the monitor says of them.  Never here: the
search (`operators/monitor/worst.py`), tables.

Ten features, five categories of five values and five numbers: 2,030 candidates.  Scores are honest, 0.2 or
0.8, but in the planted slice, where the label is true so often that
the mean Brier score is what the table says.  Nothing is drawn but from `random.Random(seed)`: same figures
each time.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from statistics import median
from typing import Any, NamedTuple

from operators.models.scoring import Roster
from operators.monitor.monitors import MonitorContext
from operators.monitor.rows import Rows
from operators.monitor.worst import Worst, WorstMonitor
from operators.race.losses import Losses
from topics.messages import Example

__all__ = ["FALSE_SLICE_EVERY", "PLANTS", "Sighted", "Wrong", "planted_found", "stationary_found"]

ROWS_MAX = 12_000
"""Rows of a run with a planted slice."""
RUNS = 10
STATIONARY_RUNS, STATIONARY_ROWS = 20, 20_000
FALSE_SLICE_EVERY = (1_000_000, 100_000, 10_000)
CHUNK = 256
"""Rows between two looks: a block of the search, which finds nothing within one."""
CATEGORIES, NUMBERS, VALUES = 5, 5, "ABCDE"
HONEST = (0.2, 0.8)
MEAN = 0.16
"""Brier score of an honest 0.2 or 0.8."""


class Plant(NamedTuple):
    """A slice that is worse."""

    slice: Mapping[str, str]
    share: float
    """Of all rows."""
    worse: float
    """Its mean loss, in those of the others."""


PLANTS: Mapping[str, Plant] = {
    "one value": Plant({"c0": "B"}, 0.2, 1.5),
    "a pair of values": Plant({"c0": "B", "c3": "D"}, 0.04, 2.0),
    "a pair of values, three times the loss": Plant({"c0": "B", "c3": "D"}, 0.04, 3.0),
    "one value, a twentieth worse": Plant({"c0": "B"}, 0.2, 1.05),
}
"""By what they are called; the last one is below what is looked for."""


class Sighted(NamedTuple):
    """What runs with a planted slice came to."""

    found: int
    """Runs in which it was told, among as many as `RUNS`."""
    after: float | None
    """Median rows until then; None where no run told it."""
    besides: int
    """Other slices told at the end of a run, in all runs: none is worse by itself."""


class Wrong(NamedTuple):
    """What stationary runs came to."""

    rows: int
    promised: float
    """False slices at most, in the mean."""
    told: int


def _rows(draw: random.Random, count: int, plant: Plant | None) -> Rows:
    examples, losses = list[Example](), list[Losses]()
    for number in range(count):
        x: dict[str, Any] = {f"c{place}": draw.choice(VALUES) for place in range(CATEGORIES)}
        x |= {f"n{place}": draw.random() for place in range(NUMBERS)}
        score = draw.choice(HONEST)
        wrong = 0.2  # chance that the likelier label does not come
        if plant is not None and all(x[name] == value for name, value in plant.slice.items()):
            wrong = (plant.worse * MEAN - 0.04) / 0.6  # .04 where it comes, .64 where it does not
        likely = score > 0.5
        label = likely if draw.random() >= wrong else not likely
        examples.append(
            Example("e", "k", number, number, label, x, {}, score, "champion", "a", 0, 0, 0, 1, 0)
        )
        losses.append(((score - label) ** 2, {}))
    return Rows(examples, losses, "binary")


def _monitor(every: int) -> WorstMonitor:
    context = MonitorContext("slices", "binary", 0.5, "brier", Roster("binary", (), "a"))
    return Worst(false_slice_every=every, rows_max=0).monitor(context)


def _planted(plant: Plant, seed: int) -> tuple[int | None, int]:
    """Return after how many rows the slice was told, and how many others were at the end."""
    draw, monitor, after = random.Random(seed), _monitor(FALSE_SLICE_EVERY[0]), None  # noqa: S311 no secret
    for seen in range(CHUNK, ROWS_MAX + 1, CHUNK):
        monitor.observe(_rows(draw, CHUNK, plant))
        if after is None and any(one["slice"] == plant.slice for one in monitor.report()["slices"]):
            after = seen
    told = monitor.report()["slices"]
    return after, sum(not _holds(one["slice"], plant.slice) for one in told)


def _holds(told: Mapping[str, str], planted: Mapping[str, str]) -> bool:
    """Return whether a slice that was told has rows that are worse: it holds, or lies in, the planted one."""
    return told.items() <= planted.items() or told.items() >= planted.items()


def _stationary(seed: int) -> list[int]:
    """Return how many slices were said to be worse in a run in which none is, by what was promised."""
    draw = random.Random(seed)  # noqa: S311 a stream, no secret
    monitors = [_monitor(every) for every in FALSE_SLICE_EVERY]
    told = [set[tuple[str, int]]() for _ in monitors]
    for _ in range(0, STATIONARY_ROWS, CHUNK):
        rows = _rows(draw, CHUNK, None)
        for monitor, of_one in zip(monitors, told, strict=True):
            monitor.observe(rows)
            of_one |= {(str(one["slice"]), one["since"]) for one in monitor.report()["slices"]}
    return [len(of_one) for of_one in told]


def planted_found(jobs: int) -> dict[str, Sighted]:
    """Return how soon each planted slice is found, by its name."""
    found: dict[str, Sighted] = {}
    with ProcessPoolExecutor(jobs) as pool:
        for name, plant in PLANTS.items():
            runs = list(pool.map(partial(_planted, plant), range(RUNS)))
            after = [one for one, _ in runs if one is not None]
            besides = sum(others for _, others in runs)
            found[name] = Sighted(len(after), median(after) if after else None, besides)
    return found


def stationary_found(jobs: int) -> dict[int, Wrong]:
    """Return how many false slices there were in as many stationary rows, by what was promised."""
    rows = STATIONARY_RUNS * STATIONARY_ROWS
    with ProcessPoolExecutor(jobs) as pool:
        runs = list(pool.map(_stationary, range(STATIONARY_RUNS)))
    told = [sum(of_runs) for of_runs in zip(*runs, strict=True)]
    return {
        every: Wrong(rows, rows / every, count) for every, count in zip(FALSE_SLICE_EVERY, told, strict=True)
    }
